//! A ZooKeeper server in memory: one tree, and of the protocol what a reader needs (sessions, exists, getData, getChildren, their
//! watches, ping). Sessions do not outlive their connection. Also used by the integration tests, so it knows nothing of ours.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes, BytesMut};
use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::broadcast;
use tokio::task::{JoinHandle, JoinSet};

/// Kinds of events and of answers, as the protocol numbers them.
const CREATED: i32 = 1;
const DELETED: i32 = 2;
const DATA_CHANGED: i32 = 3;
const CHILDREN_CHANGED: i32 = 4;
const NO_NODE: i32 = -101;

const EXISTS: i32 = 3;
const GET_DATA: i32 = 4;
const GET_CHILDREN: i32 = 8;
const PING: i32 = 11;
const REMOVE_WATCHES: i32 = 18;
const CLOSE: i32 = -11;

#[derive(Clone)]
pub struct Tree {
    nodes: Arc<Mutex<BTreeMap<String, String>>>,
    events: broadcast::Sender<(i32, String)>,
}

impl Tree {
    pub fn new(nodes: &[(&str, &str)]) -> Tree {
        let tree = Tree { nodes: Arc::default(), events: broadcast::Sender::new(1024) };
        nodes.iter().for_each(|(path, data)| tree.set(path, data));
        tree
    }

    /// Writes a node, and those above it that are not there yet.
    pub fn set(&self, path: &str, data: &str) {
        let parent = parent(path);
        if !parent.is_empty() && !self.nodes.lock().contains_key(parent) {
            self.set(parent, "");
        }
        let before = self.nodes.lock().insert(path.to_owned(), data.to_owned());
        if before.is_some() {
            self.tell(DATA_CHANGED, path);
        } else {
            self.tell(CREATED, path);
            self.tell(CHILDREN_CHANGED, parent);
        }
    }

    /// Takes a node away with all below it.
    pub fn remove(&self, path: &str) {
        let below = format!("{path}/");
        self.nodes.lock().retain(|node, _| node != path && !node.starts_with(&below));
        self.tell(DELETED, path);
        self.tell(CHILDREN_CHANGED, parent(path));
    }

    fn tell(&self, kind: i32, path: &str) {
        // Nobody may be listening.
        let _ = self.events.send((kind, path.to_owned()));
    }

    fn children(&self, path: &str) -> Option<Vec<String>> {
        let nodes = self.nodes.lock();
        nodes.get(path)?;
        let below = format!("{path}/");
        let names = nodes.keys().filter_map(|node| node.strip_prefix(&below)).filter(|name| !name.contains('/'));
        Some(names.map(str::to_owned).collect())
    }

    fn data(&self, path: &str) -> Option<String> {
        self.nodes.lock().get(path).cloned()
    }

    /// Serves it until the task is aborted, which also breaks all connections.
    #[expect(clippy::disallowed_methods, reason = "a test waits for its own tasks")]
    pub async fn serve(&self, at: &str) -> (SocketAddr, JoinHandle<()>) {
        let listener = TcpListener::bind(at).await.unwrap();
        let address = listener.local_addr().unwrap();
        let own = self.clone();
        let serving = tokio::spawn(async move {
            let mut connections = JoinSet::new();
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                let own = own.clone();
                connections.spawn(async move { own.talk(stream).await });
            }
        });
        (address, serving)
    }

    async fn talk(&self, mut stream: TcpStream) -> io::Result<()> {
        let mut events = self.events.subscribe();
        let (mut reader, mut writer) = stream.split();
        let mut hello = frame(&mut reader).await?;
        hello.advance(4 + 8);
        let timeout = hello.get_i32();
        // A session that is not known here has expired, which the number zero says.
        let session = if hello.get_i64() == 0 { 1 } else { 0 };
        let mut answer = BytesMut::new();
        answer.put_i32(0);
        answer.put_i32(timeout);
        answer.put_i64(session);
        put_bytes(&mut answer, &[0; 16]);
        answer.put_u8(0);
        send(&mut writer, &answer).await?;
        // One frame is waited for across events, because half a frame must not be lost to one.
        let mut watched: Vec<(bool, String)> = Vec::new();
        let mut reading = Box::pin(next_frame(reader));
        loop {
            tokio::select! {
                (reader, frame) = &mut reading => {
                    let (answer, is_end) = self.answer(frame?, &mut watched);
                    send(&mut writer, &answer).await?;
                    if is_end {
                        return Ok(());
                    }
                    reading.set(next_frame(reader));
                }
                event = events.recv() => {
                    let Ok((kind, path)) = event else { return Ok(()) };
                    let fires = |(of_children, at): &(bool, String)| {
                        *at == path && (kind == DELETED || *of_children == (kind == CHILDREN_CHANGED))
                    };
                    if watched.iter().any(fires) {
                        watched.retain(|watch| !fires(watch));
                        let mut event = reply(-1, 0);
                        event.put_i32(kind);
                        event.put_i32(3);
                        put_bytes(&mut event, path.as_bytes());
                        send(&mut writer, &event).await?;
                    }
                }
            }
        }
    }

    /// The answer, and whether it is the last.
    fn answer(&self, mut asked: Bytes, watched: &mut Vec<(bool, String)>) -> (BytesMut, bool) {
        let (xid, operation) = (asked.get_i32(), asked.get_i32());
        if [PING, REMOVE_WATCHES, CLOSE].contains(&operation) {
            return (reply(xid, 0), operation == CLOSE);
        }
        let n = asked.get_i32() as usize;
        let path = String::from_utf8(asked.split_to(n).to_vec()).unwrap();
        let is_watched = asked.get_u8() == 1;
        let data = self.data(&path);
        if is_watched && (data.is_some() || operation == EXISTS) {
            watched.push((operation == GET_CHILDREN, path.clone()));
        }
        let Some(data) = data else { return (reply(xid, NO_NODE), false) };
        let mut answer = reply(xid, 0);
        match operation {
            EXISTS => answer.put_bytes(0, 68),
            GET_DATA => {
                put_bytes(&mut answer, data.as_bytes());
                answer.put_bytes(0, 68);
            }
            GET_CHILDREN => {
                let children = self.children(&path).unwrap_or_default();
                answer.put_i32(children.len() as i32);
                children.iter().for_each(|child| put_bytes(&mut answer, child.as_bytes()));
            }
            other => panic!("operation {other} is not known here"),
        }
        (answer, false)
    }
}

fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}

fn reply(xid: i32, error: i32) -> BytesMut {
    let mut reply = BytesMut::new();
    reply.put_i32(xid);
    reply.put_i64(1);
    reply.put_i32(error);
    reply
}

fn put_bytes(to: &mut BytesMut, bytes: &[u8]) {
    to.put_i32(bytes.len() as i32);
    to.put_slice(bytes);
}

async fn frame(reader: &mut (impl AsyncReadExt + Unpin)) -> io::Result<Bytes> {
    let mut bytes = vec![0; reader.read_i32().await? as usize];
    reader.read_exact(&mut bytes).await?;
    Ok(Bytes::from(bytes))
}

/// Gives the reader back, so that a new one can be waited for.
async fn next_frame<R: AsyncReadExt + Unpin>(mut reader: R) -> (R, io::Result<Bytes>) {
    let frame = frame(&mut reader).await;
    (reader, frame)
}

async fn send(writer: &mut (impl AsyncWriteExt + Unpin), body: &[u8]) -> io::Result<()> {
    let mut bytes = BytesMut::new();
    put_bytes(&mut bytes, body);
    writer.write_all(&bytes).await
}

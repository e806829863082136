//! Requests to HTTP/2 upstreams that are answered while they come.

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::{Request, Response};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use crate::harness::*;

/// Serves HTTP/2 without TLS; each request in a task of its own.
async fn http2<F, W>(serve: F) -> SocketAddr
where
    F: Fn(Request<RecvStream>, SendResponse<Bytes>) -> W + Clone + Send + 'static,
    W: Future<Output = ()> + Send + 'static,
{
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let serve = serve.clone();
            tokio::spawn(async move {
                let Ok(mut connection) = h2::server::handshake(stream).await else { return };
                while let Some(Ok((request, respond))) = connection.accept().await {
                    tokio::spawn(serve(request, respond));
                }
            });
        }
    });
    address
}

fn gateway(address: SocketAddr) -> Gateway {
    let folder = Folder::new();
    let registry =
        json!({"name": "up", "type": "static", "domain": address.to_string(), "port": 80, "protocol": "http2"});
    crate::control_plane::bridge(&folder, &json!([registry]));
    folder.route("up", "/", "up.static");
    Gateway::start(folder)
}

/// Sends a piece when there is room for it. `false` if nobody wants it.
async fn send(stream: &mut SendStream<Bytes>, mut piece: Bytes) -> bool {
    while !piece.is_empty() {
        stream.reserve_capacity(piece.len());
        let Some(Ok(room)) = poll_fn(|context| stream.poll_capacity(context)).await else { return false };
        if stream.send_data(piece.split_to(room.min(piece.len())), false).is_err() {
            return false;
        }
    }
    true
}

/// More than the gateway takes of an answer that nobody reads.
const N_BYTES: usize = 12 << 20;

/// Gives its answer, and reads the request when that is out.
async fn answer_first(request: Request<RecvStream>, mut respond: SendResponse<Bytes>) {
    let mut answer = respond.send_response(Response::new(()), false).unwrap();
    let piece = Bytes::from(vec![b'y'; 64 << 10]);
    for _ in 0..N_BYTES / piece.len() {
        if !send(&mut answer, piece.clone()).await {
            return;
        }
    }
    let mut body = request.into_body();
    let mut n_read = 0;
    while let Some(Ok(piece)) = body.data().await {
        n_read += piece.len();
        body.flow_control().release_capacity(piece.len()).unwrap();
    }
    answer.send_data(Bytes::from(n_read.to_string()), true).unwrap();
}

async fn open(gateway: &Gateway) -> (h2::client::ResponseFuture, SendStream<Bytes>) {
    let stream = TcpStream::connect(gateway.http).await.unwrap();
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let request = Request::post("http://x/").body(()).unwrap();
    client.ready().await.unwrap().send_request(request, false).unwrap()
}

/// Regression: the gateway waited for room at the upstream, and the upstream for the gateway to take its answer.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_goes_both_ways_does_not_wait_for_itself() {
    // More than the upstream takes of a request that it does not read.
    const N_SENT: usize = 1 << 20;
    let gateway = gateway(http2(answer_first).await);
    let (response, mut upload) = open(&gateway).await;
    let sending = tokio::spawn(async move {
        assert!(send(&mut upload, Bytes::from(vec![b'x'; N_SENT])).await);
        upload.send_data(Bytes::new(), true).unwrap();
    });
    let receiving = async {
        let mut body = response.await.unwrap().into_body();
        let mut answer = Vec::new();
        while let Some(piece) = body.data().await {
            let piece = piece.unwrap();
            body.flow_control().release_capacity(piece.len()).unwrap();
            answer.extend_from_slice(&piece);
        }
        answer
    };
    let answer = tokio::time::timeout(PATIENCE, receiving).await.expect("it goes on");
    assert_eq!(String::from_utf8_lossy(&answer[N_BYTES..]), N_SENT.to_string());
    sending.await.unwrap();
}

/// Regression: the answer was lost behind a body that the upstream does not want.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_may_come_before_the_request_is_read() {
    let refuse = |request: Request<RecvStream>, mut respond: SendResponse<Bytes>| async move {
        let head = Response::builder().status(413).header("content-length", "0").body(()).unwrap();
        respond.send_response(head, true).unwrap();
        // It reads nothing, and ends nothing either.
        let _unread = request;
        std::future::pending::<()>().await;
    };
    let gateway = gateway(http2(refuse).await);
    let mut client = TcpStream::connect(gateway.http).await.unwrap();
    client.write_all(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 4000000\r\n\r\n").await.unwrap();
    client.write_all(&vec![b'x'; 200_000]).await.unwrap();
    let mut head = [0; 12];
    let read = tokio::time::timeout(PATIENCE, client.read_exact(&mut head)).await.expect("an answer");
    read.unwrap();
    assert_eq!(&head, b"HTTP/1.1 413");
}

/// Regression: the stream of a client that had left held the window of all others for minutes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_leaves_ends_its_upload() {
    let (ended, mut ends) = mpsc::unbounded_channel();
    let wait = move |request: Request<RecvStream>, mut respond: SendResponse<Bytes>| {
        let ended = ended.clone();
        async move {
            let _unread = request;
            let reason = poll_fn(|context| respond.poll_reset(context)).await;
            ended.send(reason.is_ok()).unwrap();
        }
    };
    let gateway = gateway(http2(wait).await);
    let mut client = TcpStream::connect(gateway.http).await.unwrap();
    client.write_all(b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 500000\r\n\r\n").await.unwrap();
    client.write_all(&vec![b'x'; 500_000]).await.unwrap();
    drop(client);
    let reset = tokio::time::timeout(PATIENCE, ends.recv()).await.expect("the upstream is told");
    assert_eq!(reset, Some(true));
}

/// As Istio's default has it, which a route without retry annotations gets from Higress.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_grpc_server_that_is_not_available_is_asked_again() {
    let n_calls = Arc::new(AtomicUsize::new(0));
    let counted = n_calls.clone();
    let serve = move |request: Request<RecvStream>, mut respond: SendResponse<Bytes>| {
        let n = counted.fetch_add(1, Ordering::Relaxed);
        async move {
            let status = if n < 2 { "14" } else { "0" };
            let head = Response::builder().header("content-type", "application/grpc").header("grpc-status", status);
            respond.send_response(head.body(()).unwrap(), true).unwrap();
            drop(request);
        }
    };
    let gateway = gateway(http2(serve).await);
    let mut call = crate::conversations::call(gateway.http, "x", "/t.T/Ask").await;
    call.send.send_data(Bytes::from_static(b"\0\0\0\0\0"), true).unwrap();
    let response = tokio::time::timeout(PATIENCE, call.response).await.expect("an answer").unwrap();
    assert_eq!((response.headers()["grpc-status"].to_str().unwrap(), n_calls.load(Ordering::Relaxed)), ("0", 3));
}

/// Regression: streams of HTTP/2 clients ended when nothing was sent for as long as clients of HTTP/1 may take between two pieces of a body.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_of_http2_may_be_silent_and_leaves_at_once() {
    let (ended, mut ends) = mpsc::unbounded_channel();
    let wait = move |request: Request<RecvStream>, mut respond: SendResponse<Bytes>| {
        let ended = ended.clone();
        async move {
            // Of more than the gateway reads ahead it takes nothing.
            let mut body = request.into_body();
            let first = body.data().await.unwrap().unwrap();
            let mut answer = respond.send_response(Response::new(()), false).unwrap();
            answer.send_data(first, false).unwrap();
            let reason = poll_fn(|context| answer.poll_reset(context)).await;
            ended.send(reason.is_ok()).unwrap();
        }
    };
    let address = http2(wait).await;
    let folder = Folder::new();
    let registry =
        json!({"name": "up", "type": "static", "domain": address.to_string(), "port": 80, "protocol": "http2"});
    crate::control_plane::bridge(&folder, &json!([registry]));
    folder.route("up", "/", "up.static");
    let gateway = Gateway::start_with(folder, "[timeouts]\nrequest_read_secs = 1\n");
    let (response, mut upload) = open(&gateway).await;
    upload.send_data(Bytes::from_static(b"first"), false).unwrap();
    let mut body = response.await.unwrap().into_body();
    assert_eq!(body.data().await.unwrap().unwrap(), "first");
    // Twice as long as a client of HTTP/1 may be silent.
    let silence = tokio::time::timeout(Duration::from_secs(2), body.data()).await;
    assert!(silence.is_err(), "{silence:?}");
    let sending = tokio::spawn(async move {
        send(&mut upload, Bytes::from(vec![b'x'; 4 << 20])).await;
    });
    assert!(tokio::time::timeout(Duration::from_secs(1), ends.recv()).await.is_err(), "it has not left");
    sending.abort();
    drop(body);
    let reset = tokio::time::timeout(PATIENCE, ends.recv()).await.expect("the upstream is told");
    assert_eq!(reset, Some(true));
}

/// Regression: after the head of the answer no limit of the route counted any more.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_route_limits_an_answer_that_falls_silent() {
    let fall_silent = |request: Request<RecvStream>, mut respond: SendResponse<Bytes>| async move {
        let mut answer = respond.send_response(Response::new(()), false).unwrap();
        answer.send_data(Bytes::from_static(b"first"), false).unwrap();
        let _unread = request;
        std::future::pending::<()>().await;
    };
    let folder = Folder::new();
    let address = http2(fall_silent).await.to_string();
    let registry = json!({"name": "up", "type": "static", "domain": address, "port": 80, "protocol": "http2"});
    crate::control_plane::bridge(&folder, &json!([registry]));
    folder.route_with("up", "/", "up.static", &json!({"higress.io/timeout": "1"}));
    let gateway = Gateway::start(folder);
    let (response, mut upload) = open(&gateway).await;
    upload.send_data(Bytes::from_static(b"all"), true).unwrap();
    let mut body = response.await.unwrap().into_body();
    assert_eq!(body.data().await.unwrap().unwrap(), "first");
    let end = tokio::time::timeout(PATIENCE, body.data()).await.expect("it ends");
    assert!(end.is_none_or(|piece| piece.is_err()));
}

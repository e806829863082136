//! Connections that wait in the pool and are closed there: what may be sent again, and what may not.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::harness::*;

/// An upstream that answers the first request of each connection, takes the second whole, and closes without an answer.
struct Forgetful {
    address: SocketAddr,
    n_requests: Arc<AtomicUsize>,
}

impl Forgetful {
    /// `thinks`: between the second request and the end.
    async fn start(thinks: Duration) -> Forgetful {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let n_requests = Arc::new(AtomicUsize::new(0));
        let counter = n_requests.clone();
        tokio::task::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let counter = counter.clone();
                tokio::task::spawn(async move {
                    for is_first in [true, false] {
                        if !read_request(&mut stream).await {
                            return;
                        }
                        counter.fetch_add(1, Ordering::SeqCst);
                        if is_first {
                            let body = completion("m", "hello").to_string();
                            let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n\r\n", body.len());
                            stream.write_all((head + &body).as_bytes()).await.unwrap();
                        }
                    }
                    tokio::time::sleep(thinks).await;
                });
            }
        });
        Forgetful { address, n_requests }
    }

    fn n_requests(&self) -> usize {
        self.n_requests.load(Ordering::SeqCst)
    }
}

/// Reads a request with a length. False: there is none any more.
async fn read_request(stream: &mut TcpStream) -> bool {
    let mut bytes = Vec::new();
    loop {
        let text = String::from_utf8_lossy(&bytes).to_ascii_lowercase();
        if let Some(end) = text.find("\r\n\r\n") {
            let length = text.split("content-length: ").nth(1).and_then(|rest| rest.split("\r\n").next());
            if bytes.len() >= end + 4 + length.map_or(0, |length| length.parse().unwrap()) {
                return true;
            }
        }
        if stream.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
            return false;
        }
    }
}

/// A client connection: what comes over it is one thread's, with one pool.
async fn connect(gateway: &Gateway) -> SendRequest<Full<Bytes>> {
    let stream = TcpStream::connect(gateway.http).await.unwrap();
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::task::spawn(connection);
    sender
}

/// Status, and whether the answer says that its connection is closed.
async fn ask(gateway: &Gateway, sender: &mut SendRequest<Full<Bytes>>, method: &str, path: &str) -> (u16, bool) {
    let body = if method == "GET" { Bytes::new() } else { Bytes::from(question("m", "hi").to_string()) };
    let headers = [("content-type", "application/json")];
    sender.ready().await.unwrap();
    let response = sender.send_request(request(gateway.http, method, path, &headers, Full::new(body))).await.unwrap();
    let said = (response.status().as_u16(), response.headers().get("connection").is_some_and(|value| value == "close"));
    response.into_body().collect().await.unwrap();
    said
}

/// Asks twice on one connection to the gateway; the second time the upstream's connection ends. Status, requests upstream.
async fn twice(upstream: &Forgetful, gateway: &Gateway, method: &str, path: &str) -> (u16, usize) {
    let mut client = connect(gateway).await;
    assert_eq!(ask(gateway, &mut client, method, path).await.0, 200);
    assert_eq!(upstream.n_requests(), 1);
    let (status, is_last) = ask(gateway, &mut client, method, path).await;
    let n_requests = upstream.n_requests();
    if !is_last {
        // Who is not told otherwise may ask again on the same connection.
        ask(gateway, &mut client, method, path).await;
    }
    let n_answers = if is_last { 2 } else { 3 };
    assert_eq!(gateway.access_log(n_answers).len(), n_answers);
    (status, n_requests)
}

/// A gateway whose plugin reads bodies, so that every request goes by the exchange.
fn held(upstream: &Forgetful) -> Gateway {
    let folder = Folder::new();
    folder.services(&[("up", upstream.address)]).route("up", "/", "up.static");
    folder.plugin("request-block", &json!({"block_bodies": ["a-word-nobody-sends"]}), &json!([]));
    Gateway::start(folder)
}

#[tokio::test]
async fn a_post_that_was_sent_is_not_sent_again() {
    let upstream = Forgetful::start(Duration::ZERO).await;
    assert_eq!(twice(&upstream, &held(&upstream), "POST", "/pay").await, (503, 2));
}

#[tokio::test]
async fn what_may_be_repeated_is_when_its_connection_had_been_closed() {
    let upstream = Forgetful::start(Duration::ZERO).await;
    assert_eq!(twice(&upstream, &held(&upstream), "PUT", "/thing").await, (200, 3));
}

/// On a route that streams: the thread panicked, and the client got nothing at all.
#[tokio::test]
async fn a_streamed_request_meets_a_closed_connection() {
    for (method, expected) in [("GET", (200, 3)), ("POST", (503, 2))] {
        let upstream = Forgetful::start(Duration::ZERO).await;
        let folder = Folder::new();
        folder.services(&[("up", upstream.address)]).route("up", "/", "up.static");
        let gateway = Gateway::start(folder);
        assert_eq!(twice(&upstream, &gateway, method, "/").await, expected, "{method}");
    }
}

#[tokio::test]
async fn a_model_is_asked_again_only_if_it_cannot_have_begun() {
    for (thinks, expected) in [(Duration::ZERO, (200, 3)), (Duration::from_secs(1), (503, 2))] {
        let upstream = Forgetful::start(thinks).await;
        let folder = Folder::new();
        folder.services(&[("llm", upstream.address)]).route("chat", "/", "llm.static");
        folder.provider("llm.static", &json!({}));
        let gateway = Gateway::start(folder);
        assert_eq!(twice(&upstream, &gateway, "POST", "/v1/chat/completions").await, expected);
    }
}

/// Sessions stay where they are: it is the connection that had been closed.
#[tokio::test]
async fn a_closed_connection_is_no_reason_to_leave_its_endpoint() {
    let (one, other) = (Forgetful::start(Duration::ZERO).await, Forgetful::start(Duration::ZERO).await);
    let folder = Folder::new();
    let registry =
        json!({"name": "up", "type": "static", "domain": format!("{},{}", one.address, other.address), "port": 80});
    let object = json!({"apiVersion": "networking.higress.io/v1", "kind": "McpBridge", "metadata": {"name": "default"},
        "spec": {"registries": [registry]}});
    folder.write("mcpbridges/default.yaml", &object);
    folder.route_with("up", "/", "up.static", &json!({"higress.io/upstream-hash-by": "$host"}));
    let gateway = Gateway::start(folder);
    let mut client = connect(&gateway).await;
    for _ in 0..2 {
        assert_eq!(ask(&gateway, &mut client, "GET", "/").await.0, 200);
    }
    let mut seen = [one.n_requests(), other.n_requests()];
    seen.sort_unstable();
    assert_eq!(seen, [0, 3]);
}

//! Clients that are not waiting at the other end: one that reads late, one that leaves before anything came. The provider is a raw
//! socket, which sees how much it can send and when it is hung up on.

use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use futures_util::stream;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::oneshot;
use tokio::time::timeout;

use crate::flywheel::exported;
use crate::harness::*;
use crate::streams::{asked, gateway_at};

/// A chat request as it goes over the wire. The answer to HTTP/1.0 has no chunks.
fn wire(body: &Value) -> String {
    let body = body.to_string();
    format!(
        "POST /v1/chat/completions HTTP/1.0\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{body}",
        body.len()
    )
}

/// Reads a request to its end.
async fn take_request(stream: &mut TcpStream) {
    let mut got: Vec<u8> = Vec::new();
    while !is_whole(&got) {
        let n = timeout(PATIENCE, stream.read_buf(&mut got)).await.expect("the request came").unwrap();
        assert!(n > 0, "the request is whole");
    }
}

fn is_whole(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request);
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.strip_prefix("Content-Length: ")).expect("its length is told");
    body.len() >= length.parse().unwrap()
}

/// Nothing was taken for so long: what could be sent without a reader has been. Too short a time would make the test weaker, and
/// would not make it fail.
const HELD_BACK: Duration = Duration::from_secs(1);

/// Sends `answer` to the first who asks, as fast as it is taken; tells how much of it went before it was held back.
async fn send_at_full_speed(listener: TcpListener, answer: Bytes, held_back: oneshot::Sender<usize>) {
    let (mut stream, _) = listener.accept().await.unwrap();
    take_request(&mut stream).await;
    let head = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n";
    stream.write_all(head).await.unwrap();
    let mut n_sent = 0;
    while n_sent < answer.len() {
        let Ok(written) = timeout(HELD_BACK, stream.write(&answer[n_sent..])).await else { break };
        n_sent += written.unwrap();
    }
    held_back.send(n_sent).unwrap();
    stream.write_all(&answer[n_sent..]).await.unwrap();
}

#[tokio::test]
async fn a_client_that_reads_late_holds_the_provider_back_and_loses_nothing() {
    // Far more than the sockets on the way hold, which is some 10 MiB: 48 MiB.
    let piece = "x".repeat(900);
    let pieces: Vec<String> = (0..48 * 1024).map(|n| format!("<{n}>{piece}")).collect();
    let pieces: Vec<&str> = pieces.iter().map(String::as_str).collect();
    let expected = Bytes::from(events("m", &pieces).concat());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gateway = gateway_at(listener.local_addr().unwrap());
    let (held_back, n_held_back) = oneshot::channel();
    tokio::spawn(send_at_full_speed(listener, expected.clone(), held_back));

    let mut client = TcpStream::connect(gateway.http).await.unwrap();
    client.write_all(wire(&asked("x")).as_bytes()).await.unwrap();
    let n_sent = timeout(PATIENCE, n_held_back).await.expect("the provider is held back").unwrap();
    assert!(
        n_sent < expected.len() / 2,
        "{n_sent} of {} bytes were taken for a client that reads none",
        expected.len()
    );

    let mut got = Vec::new();
    timeout(PATIENCE, client.read_to_end(&mut got)).await.expect("the stream goes on").unwrap();
    let head = got.windows(4).position(|end| end == b"\r\n\r\n").unwrap() + 4;
    // Not `assert_eq`, which would print both.
    assert!(got[head..] == expected[..], "{} bytes are not the {} that were sent", got.len() - head, expected.len());
}

#[tokio::test]
async fn a_client_that_leaves_before_the_first_byte_cancels_the_upstream() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let gateway = gateway_at(listener.local_addr().unwrap());
    for body in [question("m", "x"), asked("x")] {
        let mut client = TcpStream::connect(gateway.http).await.unwrap();
        client.write_all(wire(&body).as_bytes()).await.unwrap();
        let (mut provider, _) = timeout(PATIENCE, listener.accept()).await.expect("the provider is asked").unwrap();
        take_request(&mut provider).await;
        drop(client);
        // That its connection ends is what a provider sees of a cancelled call.
        let end = timeout(PATIENCE, provider.read(&mut [0; 16])).await.expect("the provider's connection ends");
        assert!(matches!(end, Ok(0) | Err(_)), "{end:?}");
    }
    let rows = exported(&gateway, 2).await;
    for row in &rows {
        assert_eq!(row["answers"][0]["outcome"], "cancelled", "{row}");
    }
    for line in gateway.access_log(2) {
        assert_eq!(line["response_code"], 0, "nobody was answered: {line}");
        assert_eq!(line["response_code_details"], "downstream_remote_disconnect", "{line}");
    }
    let attempts = "weirgate_upstream_attempts_total{service=\"llm.static\",outcome=\"Cancelled\"} 2";
    assert!(gateway.metrics().await.contains(attempts), "{attempts} missing");
}

/// Regression: it was sent chunks, which HTTP/1.0 does not know.
#[tokio::test]
async fn a_client_of_http10_gets_an_answer_that_ends_with_the_connection() {
    let upstream = Upstream::start(|_, _| async {
        let pieces = stream::iter(["one ", "two"].map(|piece| Ok::<_, std::io::Error>(Bytes::from(piece))));
        answer(200, "text/plain", Body::from_stream(pieces))
    })
    .await;
    let folder = Folder::new();
    folder.services(&[("up", upstream.address)]).route("up", "/", "up.static");
    let gateway = Gateway::start(folder);
    let mut client = TcpStream::connect(gateway.http).await.unwrap();
    client.write_all(b"GET / HTTP/1.0\r\nHost: x\r\nConnection: keep-alive\r\n\r\n").await.unwrap();
    let mut got = String::new();
    timeout(PATIENCE, client.read_to_string(&mut got)).await.expect("it ends").unwrap();
    let (head, body) = got.split_once("\r\n\r\n").unwrap();
    let head = head.to_ascii_lowercase();
    assert!(!head.contains("transfer-encoding") && head.contains("connection: close") && body == "one two", "{got}");
}

/// Regression: the end of the body was written twice, and the upstream took the second for a request.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upload_over_http2_without_length_ends_once() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let folder = Folder::new();
    folder.services(&[("up", listener.local_addr().unwrap())]).route("up", "/", "up.static");
    let gateway = Gateway::start(folder);
    let mut curl = Command::new("curl");
    curl.args(["-s", "--http2-prior-knowledge", "-T", "-"]).arg(format!("http://{}/", gateway.http));
    let mut curl = curl.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    curl.stdin.take().unwrap().write_all(b"hello").unwrap();
    let (mut upstream, _) = timeout(PATIENCE, listener.accept()).await.expect("the upstream is asked").unwrap();
    let mut got = Vec::new();
    while !got.ends_with(b"0\r\n\r\n") {
        assert!(timeout(PATIENCE, upstream.read_buf(&mut got)).await.expect("the body comes").unwrap() > 0);
    }
    upstream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
    assert_eq!(curl.wait_with_output().unwrap().stdout, b"ok");
    drop(gateway);
    let mut more = Vec::new();
    timeout(PATIENCE, upstream.read_to_end(&mut more)).await.expect("the connection ends").unwrap();
    assert_eq!(String::from_utf8(more).unwrap(), "");
}

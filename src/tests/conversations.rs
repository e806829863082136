//! Conversations (WebSocket, gRPC) that pass through the gateway whole.

use std::net::SocketAddr;

use bytes::Bytes;
use futures_util::{SinkExt, StreamExt};
use h2::RecvStream;
use http::{HeaderMap, HeaderValue, Request, Response};
use serde_json::json;
use tokio::net::{TcpListener, TcpStream};
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::{Error as WsError, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, accept_hdr_async, connect_async};

use crate::harness::*;
use crate::ingress::{Authority, secret, site};

/// A WebSocket server that sends back what it gets, with the path it was asked for before it; `/no` is refused.
async fn echo_server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(echo(stream));
        }
    });
    address
}

async fn echo(stream: TcpStream) {
    let mut path = String::new();
    #[expect(clippy::result_large_err, reason = "the library's type")]
    let look = |request: &Request<()>, mut response: Response<()>| {
        path = request.uri().path().to_owned();
        if path == "/no" {
            return Err(Response::builder().status(403).body(Some("not here".to_owned())).unwrap());
        }
        if let Some(protocol) = request.headers().get("sec-websocket-protocol") {
            response.headers_mut().insert("sec-websocket-protocol", protocol.clone());
        }
        Ok(response)
    };
    let Ok(mut socket) = accept_hdr_async(stream, look).await else { return };
    while let Some(Ok(message)) = socket.next().await {
        let answer = match message {
            Message::Text(text) => Message::text(format!("{path} {text}")),
            Message::Binary(bytes) => Message::Binary(bytes),
            _ => continue,
        };
        if socket.send(answer).await.is_err() {
            return;
        }
    }
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

async fn open(gateway: &Gateway, path: &str) -> Result<(Socket, Response<Option<Vec<u8>>>), WsError> {
    let mut request = format!("ws://{}{path}", gateway.http).into_client_request().unwrap();
    request.headers_mut().insert("sec-websocket-protocol", HeaderValue::from_static("chat"));
    request.headers_mut().insert("x-key", HeaderValue::from_static("kept"));
    connect_async(request).await
}

async fn said(socket: &mut Socket, text: &str) -> String {
    socket.send(Message::text(text)).await.unwrap();
    socket.next().await.unwrap().unwrap().into_text().unwrap().to_string()
}

/// A conversation and the answer to its first word. The proxy library may end one whose server accepts before the library has seen that the
/// request has no body (pingora-proxy 0.9, `proxy_handle_upstream`); a client connects again then, and so does this one.
async fn talking(gateway: &Gateway, path: &str, text: &str) -> (Socket, Response<Option<Vec<u8>>>, String) {
    for _ in 0..10 {
        let (mut socket, response) = open(gateway, path).await.unwrap();
        if socket.send(Message::text(text)).await.is_err() {
            continue;
        }
        match socket.next().await.unwrap() {
            Ok(answer) => return (socket, response, answer.into_text().unwrap().to_string()),
            Err(WsError::Protocol(_) | WsError::Io(_)) => {}
            Err(error) => panic!("{error}"),
        }
    }
    panic!("ten conversations ended with their first word")
}

#[tokio::test]
async fn a_websocket_passes_the_chain_and_outlives_its_route() {
    let folder = Folder::new();
    let control = json!({"higress.io/response-header-control-add": "x-by gateway", "higress.io/timeout": "1"});
    folder.services(&[("talk", echo_server().await)]).route_with("talk", "/", "talk.static", &control);
    // They want bodies, one of them that of the answer.
    folder.plugin("request-block", &json!({"block_bodies": ["secret"]}), &json!([]));
    folder.plugin("response-cache", &json!({"cacheKeyFromHeader": "x-key"}), &json!([]));
    let gateway = Gateway::start(folder);
    let (mut socket, response, answer) = talking(&gateway, "/room", "hello").await;
    assert_eq!(answer, "/room hello");
    assert_eq!((response.status().as_u16(), &response.headers()["x-by"]), (101, &HeaderValue::from_static("gateway")));
    assert_eq!(response.headers()["sec-websocket-protocol"], "chat");
    let large = Bytes::from(vec![7; 1 << 20]);
    socket.send(Message::Binary(large.clone())).await.unwrap();
    assert_eq!(socket.next().await.unwrap().unwrap().into_data(), large);

    std::fs::remove_file(gateway.folder.config().join("ingresses/talk.yaml")).unwrap();
    gateway.folder.route("other", "/other", "talk.static");
    eventually_async("the route is gone", || async { open(&gateway, "/room").await.is_err().then_some(()) }).await;
    assert_eq!(said(&mut socket, "still here").await, "/room still here");
    assert_eq!(talking(&gateway, "/other", "hello").await.2, "/other hello");
    socket.close(None).await.unwrap();
    assert!(matches!(socket.next().await, Some(Ok(Message::Close(_)))));
    drop(socket);
    let log = eventually_async("the log line of the conversation", || async {
        let is_it =
            |line: &serde_json::Value| line["path"] == "/room" && line["bytes_received"].as_u64() > Some(1 << 20);
        gateway.access_log(1).into_iter().find(is_it)
    })
    .await;
    assert_eq!(log["response_code"], 101, "{log}");
}

#[tokio::test]
async fn a_refused_websocket_is_an_answer_and_no_way_around_plugins() {
    let plain = Upstream::start(|_, _| async { ok(&json!("an answer")) }).await;
    let folder = Folder::new();
    folder.services(&[("talk", echo_server().await), ("plain", plain.address)]);
    folder.route("talk", "/no", "talk.static").route("plain", "/plain", "plain.static");
    folder.plugin("response-cache", &json!({"cacheKeyFromHeader": "x-key"}), &json!([]));
    let gateway = Gateway::start(folder);
    let refused = async |path: &str| match open(&gateway, path).await {
        Err(WsError::Http(response)) => response.status().as_u16(),
        other => panic!("{other:?}"),
    };
    assert_eq!(refused("/no").await, 403);
    assert_eq!(refused("/plain").await, 502, "a plugin may hold answers back, and this one would have slipped through");
    assert_eq!(send(gateway.http, "GET", "/plain", &[("x-key", "kept")], Bytes::new()).await.status, 200);
}

/// A gRPC server without TLS: `/t.T/Echo` sends back each message as it comes, and its status behind them; `/t.T/Refuse`
/// answers with a head alone; `/t.T/Late` has its status behind no message at all.
pub async fn grpc_server() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(serve_grpc(stream));
        }
    });
    address
}

async fn serve_grpc(stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin) {
    let Ok(mut connection) = h2::server::handshake(stream).await else { return };
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        tokio::spawn(async move {
            let te = request.headers().get("te").cloned().unwrap_or_else(|| HeaderValue::from_static("none"));
            let path = request.uri().path().to_owned();
            let head = Response::builder().header("content-type", "application/grpc").header("x-te", te);
            if path == "/t.T/Refuse" {
                let head = head.header("grpc-status", "7").header("grpc-message", "no").body(()).unwrap();
                return drop(respond.send_response(head, true).unwrap());
            }
            let mut answer = respond.send_response(head.body(()).unwrap(), false).unwrap();
            if path == "/t.T/Echo" {
                let mut body = request.into_body();
                while let Some(Ok(message)) = body.data().await {
                    body.flow_control().release_capacity(message.len()).unwrap();
                    answer.send_data(message, false).unwrap();
                }
            }
            let status = HeaderMap::from_iter([
                ("grpc-status".parse().unwrap(), HeaderValue::from_static("0")),
                ("x-more".parse().unwrap(), HeaderValue::from_static("told at the end")),
            ]);
            answer.send_trailers(status).unwrap();
        });
    }
}

/// A call through the gateway whose messages are sent one after another, each after the echo of the one before.
pub struct Call {
    pub send: h2::SendStream<Bytes>,
    pub response: h2::client::ResponseFuture,
}

pub async fn call(to: SocketAddr, authority: &str, path: &str) -> Call {
    let stream = TcpStream::connect(to).await.unwrap();
    let (client, connection) = h2::client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    let request = Request::post(format!("http://{authority}{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("x-key", path)
        .body(())
        .unwrap();
    let (response, send) = client.ready().await.unwrap().send_request(request, false).unwrap();
    Call { send, response }
}

/// Bytes of messages and what came behind them.
async fn rest(mut body: RecvStream) -> (Vec<u8>, Option<HeaderMap>) {
    let mut all = Vec::new();
    while let Some(message) = body.data().await {
        let message = message.unwrap();
        body.flow_control().release_capacity(message.len()).unwrap();
        all.extend_from_slice(&message);
    }
    (all, body.trailers().await.unwrap())
}

pub fn status_of(headers: &HeaderMap) -> &str {
    headers.get("grpc-status").map(|value| value.to_str().unwrap()).unwrap_or_default()
}

/// What has to hold on every way to a gRPC server.
async fn check_calls(gateway: &Gateway, authority: &str) {
    let mut talk = call(gateway.http, authority, "/t.T/Echo").await;
    talk.send.send_data(Bytes::from_static(b"one"), false).unwrap();
    let response = talk.response.await.unwrap();
    assert_eq!((response.status().as_u16(), &response.headers()["x-te"]), (200, &HeaderValue::from_static("trailers")));
    let mut body = response.into_body();
    assert_eq!(body.data().await.unwrap().unwrap(), "one", "before the request has ended");
    talk.send.send_data(Bytes::from_static(b"two"), true).unwrap();
    let (messages, trailers) = rest(body).await;
    let trailers = trailers.unwrap();
    assert_eq!((messages.as_slice(), status_of(&trailers)), (b"two".as_slice(), "0"));
    assert_eq!(trailers["x-more"], "told at the end");
    check_ends(gateway, authority).await;
}

/// Calls without a message in the answer.
async fn check_ends(gateway: &Gateway, authority: &str) {
    for (path, in_head, behind) in [("/t.T/Refuse", "7", None), ("/t.T/Late", "", Some("0"))] {
        let mut ended = call(gateway.http, authority, path).await;
        ended.send.send_data(Bytes::new(), true).unwrap();
        let response = ended.response.await.unwrap();
        assert_eq!((response.status().as_u16(), status_of(response.headers())), (200, in_head), "{path}");
        // grpc's own clients take no other head for an answer without messages.
        assert_eq!(response.body().is_end_stream(), behind.is_none(), "{path}");
        let (messages, trailers) = rest(response.into_body()).await;
        assert_eq!((messages.len(), trailers.as_ref().map(status_of)), (0, behind), "{path}");
    }
}

#[tokio::test]
async fn grpc_passes_from_end_to_end() {
    let server = grpc_server().await;
    let folder = Folder::new();
    folder.services(&[("calls", server)]);
    folder.route_with(
        "calls",
        "/t.T",
        "calls.static",
        &json!({"nginx.ingress.kubernetes.io/backend-protocol": "GRPC"}),
    );
    let object = |kind: &str, name: &str, spec: serde_json::Value| json!({"apiVersion": "gateway.networking.k8s.io/v1", "kind": kind, "metadata": {"name": name}, "spec": spec});
    let class = json!({"controllerName": "higress.io/gateway-controller"});
    folder.write("gatewayclasses/own.yaml", &object("GatewayClass", "own", class));
    let listeners = json!([{"name": "http", "port": 80, "protocol": "HTTP"}]);
    folder.write(
        "gateways/web.yaml",
        &object("Gateway", "web", json!({"gatewayClassName": "own", "listeners": listeners})),
    );
    let backend = json!({"group": "networking.higress.io", "kind": "Service", "name": "calls.static", "port": 80});
    let rules = json!([{"matches": [{"method": {"service": "t.T"}}], "backendRefs": [backend]}]);
    let spec = json!({"parentRefs": [{"name": "web"}], "hostnames": ["grpc.example.com"], "rules": rules});
    folder.write("grpcroutes/calls.yaml", &object("GRPCRoute", "calls", spec));
    let gateway = Gateway::start(folder);
    check_calls(&gateway, "a.com").await;
    check_calls(&gateway, "grpc.example.com").await;

    // What the gateway says itself is said in the protocol's terms.
    let mut lost = call(gateway.http, "a.com", "/nowhere/Call").await;
    lost.send.send_data(Bytes::new(), true).unwrap();
    let response = lost.response.await.unwrap();
    assert_eq!((response.status().as_u16(), status_of(response.headers())), (200, "12"));
    assert_eq!(response.headers()["content-type"], "application/grpc");
    assert!(response.body().is_end_stream());
    assert!(response.headers()["grpc-message"].to_str().unwrap().contains("No route takes host"));
}

#[tokio::test]
async fn grpc_passes_plugins_that_read_bodies() {
    let folder = Folder::new();
    folder.services(&[("calls", grpc_server().await)]);
    folder.route_with(
        "calls",
        "/t.T",
        "calls.static",
        &json!({"nginx.ingress.kubernetes.io/backend-protocol": "GRPC"}),
    );
    folder.plugin("request-block", &json!({"block_bodies": ["secret"]}), &json!([]));
    folder.plugin("response-cache", &json!({"cacheKeyFromHeader": "x-key"}), &json!([]));
    let gateway = Gateway::start(folder);
    let mut unary = call(gateway.http, "a.com", "/t.T/Echo").await;
    unary.send.send_data(Bytes::from_static(b"a message"), true).unwrap();
    let response = unary.response.await.unwrap();
    assert_eq!(response.headers()["x-te"], "trailers");
    let (message, trailers) = rest(response.into_body()).await;
    assert_eq!((message.as_slice(), status_of(&trailers.unwrap())), (b"a message".as_slice(), "0"));
    check_ends(&gateway, "a.com").await;

    let mut blocked = call(gateway.http, "a.com", "/t.T/Echo").await;
    blocked.send.send_data(Bytes::from_static(b"a secret"), true).unwrap();
    assert_eq!(status_of(blocked.response.await.unwrap().headers()), "7");
}

#[tokio::test]
async fn conversations_pass_over_tls_to_those_whose_authority_is_known() {
    let authority = Authority::new();
    let folder = Folder::new();
    folder.services(&[("calls", grpc_server().await), ("talk", echo_server().await)]);
    authority.sign(&folder, "pair", &["inner.test"]);
    site(&folder, "talk", "inner.test", "talk.static", Some("pair"), &json!({}));
    // An Ingress for the calls, with a path of its own.
    let calls = json!({"nginx.ingress.kubernetes.io/backend-protocol": "GRPC"});
    folder.route_with("calls", "/t.T", "calls.static", &calls);
    let file = folder.config().join("ingresses/calls.yaml");
    let mut object: serde_json::Value = serde_json::from_str(&std::fs::read_to_string(file).unwrap()).unwrap();
    object["spec"]["rules"][0]["host"] = json!("inner.test");
    folder.write("ingresses/calls.yaml", &object);
    let inner = Gateway::start(folder);

    let folder = Folder::new();
    folder.services(&[("inner", inner.https)]);
    folder.write("secrets/known.yaml", &secret("known", json!({"ca.crt": authority.pem})));
    folder.write("secrets/other.yaml", &secret("other", json!({"ca.crt": Authority::new().pem})));
    for (name, prefix, protocol, secret) in [
        ("calls", "/t.T", "GRPCS", "known"),
        ("talk", "/", "HTTPS", "known"),
        ("distrusted", "/distrusted", "HTTPS", "other"),
    ] {
        let annotations = json!({"nginx.ingress.kubernetes.io/backend-protocol": protocol,
            "nginx.ingress.kubernetes.io/proxy-ssl-secret": secret,
            "nginx.ingress.kubernetes.io/proxy-ssl-verify": "on",
            "nginx.ingress.kubernetes.io/proxy-ssl-server-name": "on",
            "nginx.ingress.kubernetes.io/proxy-ssl-name": "inner.test",
            "nginx.ingress.kubernetes.io/upstream-vhost": "inner.test"});
        folder.route_with(name, prefix, "inner.static", &annotations);
    }
    let outer = Gateway::start(folder);
    check_calls(&outer, "a.com").await;
    // The inner gateway prefers HTTP/2, which has no such upgrade.
    assert_eq!(talking(&outer, "/room", "hello").await.2, "/room hello");
    assert_eq!(outer.get("/distrusted").await.status, 503);
}

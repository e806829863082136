//! What the ConfigMaps `higress-config` and `higress-https` do to connections, answers, traces and certificates.

use std::collections::HashMap;
use std::io::Read;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::response::Response;
use bytes::Bytes;
use http::HeaderValue;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::time::timeout;

use crate::harness::*;
use crate::ingress::{Authority, curl, site};
use crate::process_log::Logged;
use crate::upstreams::reloaded;

/// Writes the ConfigMap of a name with one key.
fn say(folder: &Folder, name: &str, key: &str, value: &Value) {
    let data = json!({key: value.to_string()});
    let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name}, "data": data});
    folder.write(&format!("configmaps/{name}.yaml"), &object);
}

fn settings(folder: &Folder, value: &Value) {
    say(folder, "higress-config", "higress", value);
}

/// An origin that counts the connections it gets, and those that ended.
struct Origin {
    address: SocketAddr,
    n_opened: Arc<AtomicUsize>,
    n_ended: Arc<AtomicUsize>,
}

impl Origin {
    async fn start() -> Origin {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let origin = Origin { address, n_opened: Arc::default(), n_ended: Arc::default() };
        let (opened, ended) = (origin.n_opened.clone(), origin.n_ended.clone());
        tokio::task::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                opened.fetch_add(1, Ordering::SeqCst);
                let ended = ended.clone();
                tokio::task::spawn(async move {
                    let mut bytes = Vec::new();
                    while stream.read_buf(&mut bytes).await.is_ok_and(|n| n > 0) {
                        if bytes.ends_with(b"\r\n\r\n") {
                            bytes.clear();
                            stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok").await.unwrap();
                        }
                    }
                    ended.fetch_add(1, Ordering::SeqCst);
                });
            }
        });
        origin
    }
}

/// One request on a connection that is kept.
async fn ask(client: &mut TcpStream) {
    client.write_all(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n").await.unwrap();
    let mut answer = Vec::new();
    while !answer.ends_with(b"ok") {
        assert!(client.read_buf(&mut answer).await.unwrap() > 0, "{}", answer.escape_ascii());
    }
}

const PATIENT: &str = "[timeouts]\nclient_idle_secs = 600\nupstream_idle_secs = 600\n";

#[tokio::test]
async fn connections_without_work_are_closed_on_both_sides() {
    let origin = Origin::start().await;
    let folder = Folder::new();
    folder.services(&[("up", origin.address)]).route("web", "/", "up.static");
    settings(&folder, &json!({"downstream": {"idleTimeout": 1}, "upstream": {"idleTimeout": 1}}));
    let gateway = Gateway::start_with(folder, PATIENT);
    let mut client = TcpStream::connect(gateway.http).await.unwrap();
    ask(&mut client).await;
    let mut http2 = TcpStream::connect(gateway.http).await.unwrap();
    http2.write_all(PREFACE).await.unwrap();
    for mut connection in [client, http2] {
        let mut rest = Vec::new();
        timeout(PATIENCE, connection.read_to_end(&mut rest)).await.expect("the gateway closes it").unwrap();
    }
    eventually_async("the end upstream", || async { (origin.n_ended.load(Ordering::SeqCst) == 1).then_some(()) }).await;
}

/// Zero sets no limit; it had let no connection be used twice.
#[tokio::test]
async fn connections_to_upstreams_without_a_limit_are_kept() {
    let origin = Origin::start().await;
    let folder = Folder::new();
    folder.services(&[("up", origin.address)]).route("web", "/", "up.static");
    settings(&folder, &json!({"upstream": {"idleTimeout": 0}}));
    let gateway = Gateway::start(folder);
    let mut client = TcpStream::connect(gateway.http).await.unwrap();
    for _ in 0..3 {
        ask(&mut client).await;
    }
    assert_eq!(origin.n_opened.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_route_without_a_timeout_of_its_own_has_that_of_all_routes() {
    let go_on = Arc::new(Notify::new());
    let waiting = go_on.clone();
    let upstream = Upstream::start(move |_, seen| {
        let waiting = waiting.clone();
        async move {
            if seen.path == "/plain" {
                std::future::pending::<()>().await;
            }
            waiting.notified().await;
            ok(&json!("late"))
        }
    })
    .await;
    let folder = Folder::new();
    folder.services(&[("up", upstream.address)]).route("plain", "/plain", "up.static");
    folder.route_with("own", "/own", "up.static", &json!({"higress.io/timeout": "600"}));
    settings(&folder, &json!({"downstream": {"routeTimeout": 1}}));
    let gateway = Gateway::start(folder);
    let http = gateway.http;
    let own = tokio::task::spawn(async move { send(http, "GET", "/own", &[], Bytes::new()).await });
    let plain = timeout(PATIENCE, gateway.get("/plain")).await.expect("the gateway gives up");
    assert_eq!(plain.status, 504, "{}", plain.text());
    go_on.notify_one();
    assert_eq!(own.await.unwrap().json(), "late");
}

#[tokio::test]
async fn heads_over_max_request_headers_kb_are_refused() {
    let upstream = Upstream::start(|_, _| async { ok(&json!("up")) }).await;
    let folder = Folder::new();
    folder.services(&[("up", upstream.address)]).route("web", "/", "up.static");
    settings(&folder, &json!({"downstream": {"maxRequestHeadersKb": 4}}));
    let gateway = Gateway::start(folder);
    for (n_bytes, expected) in [(3000, 200), (5000, 431)] {
        let value = "a".repeat(n_bytes);
        let headers = [("x-long", value.as_str())];
        let old = send(gateway.http, "GET", "/", &headers, Bytes::new()).await.status;
        let new = send_h2c(gateway.http, "GET", "/", &headers, Bytes::new()).await.status;
        assert_eq!((old, new), (expected, expected), "{n_bytes}");
    }
}

/// With an empty frame SETTINGS.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
const SETTINGS: u8 = 4;
const WINDOW_UPDATE: u8 = 8;
const MAX_CONCURRENT_STREAMS: u16 = 3;
const INITIAL_WINDOW_SIZE: u16 = 4;
const FIRST_WINDOW: u32 = 65_535;

/// What a server says when a connection begins: its settings, and the window of the whole connection.
async fn said_first(to: SocketAddr) -> (HashMap<u16, u32>, u32) {
    let mut stream = TcpStream::connect(to).await.unwrap();
    stream.write_all(PREFACE).await.unwrap();
    let (mut said, mut window) = (HashMap::new(), FIRST_WINDOW);
    while said.is_empty() || window == FIRST_WINDOW {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await.unwrap();
        let mut payload = vec![0; usize::from(u16::from_be_bytes([head[1], head[2]]))];
        stream.read_exact(&mut payload).await.unwrap();
        let number = |bytes: &[u8]| u32::from_be_bytes(bytes.try_into().unwrap());
        match head[3] {
            SETTINGS => {
                let read = |one: &[u8]| (u16::from_be_bytes([one[0], one[1]]), number(&one[2..]));
                said.extend(payload.chunks_exact(6).map(read));
            }
            WINDOW_UPDATE => window += number(&payload[..]),
            _ => {}
        }
    }
    (said, window)
}

#[tokio::test]
async fn clients_of_http2_are_told_its_limits_and_a_change_is_told_to_count_later() {
    let http2 =
        json!({"maxConcurrentStreams": 3, "initialStreamWindowSize": 70_000, "initialConnectionWindowSize": 200_000});
    let folder = Folder::new();
    settings(&folder, &json!({"downstream": {"http2": http2}}));
    let mut logged = Logged::start(folder, "");
    let said = timeout(PATIENCE, said_first(logged.gateway.http)).await.expect("both frames come");
    assert_eq!((said.0[&MAX_CONCURRENT_STREAMS], said.0[&INITIAL_WINDOW_SIZE], said.1), (3, 70_000, 200_000));
    for changed in [json!({"http2": {"maxConcurrentStreams": 7}}), json!({"http2": http2, "idleTimeout": 20})] {
        settings(&logged.gateway.folder, &json!({"downstream": changed}));
        logged.says(&["downstream.http2", "counts after a restart"]).await;
    }
}

/// Length of a compressed answer whose text is `expected`; `None` for one as it was.
async fn compressed(gateway: &Gateway, path: &str, expected: &str) -> Option<usize> {
    let answer = send(gateway.http, "GET", path, &[("accept-encoding", "gzip")], Bytes::new()).await;
    assert_eq!(answer.status, 200);
    answer.header("content-encoding")?;
    let mut text = String::new();
    flate2::read::GzDecoder::new(&answer.body[..]).read_to_string(&mut text).unwrap();
    assert!(text == expected, "{path}");
    Some(answer.body.len())
}

#[tokio::test]
async fn answers_are_compressed_as_the_section_gzip_says() {
    // Each line is like those before it, and more like some that are far before it.
    let text: String =
        (0..3000).map(|i| format!("line {} {} some words here\n", i * 7919 % 1000, i * 31 % 97)).collect();
    let body = text.clone();
    let upstream = Upstream::start(move |_, seen| {
        let mut answer = answer(200, "text/plain", body.clone());
        if seen.path == "/tagged" {
            answer.headers_mut().insert("etag", HeaderValue::from_static("W/\"1\""));
        }
        async move { answer }
    })
    .await;
    let folder = Folder::new();
    folder.services(&[("up", upstream.address)]).route("web", "/", "up.static");
    settings(&folder, &json!({}));
    let gateway = Gateway::start(folder);
    let small = compressed(&gateway, "/", &text).await.expect("it is on where the section is absent");
    assert_eq!(compressed(&gateway, "/tagged", &text).await, None);
    let mut lengths = Vec::new();
    for (number, section) in [
        (2, json!({"enable": true, "compressionLevel": "BEST_SPEED", "disableOnEtagHeader": false})),
        (3, json!({"enable": true, "windowBits": 9})),
        (4, json!({"enable": true, "windowBits": 15, "chunkSize": 65_536})),
    ] {
        settings(&gateway.folder, &json!({"gzip": section}));
        reloaded(&gateway, number).await;
        lengths.push(compressed(&gateway, "/", &text).await.unwrap());
        let is_tagged_compressed = compressed(&gateway, "/tagged", &text).await.is_some();
        assert_eq!(is_tagged_compressed, number == 2, "{section}");
    }
    assert!(lengths[0] > small + small / 4, "{small} {lengths:?}");
    assert!(lengths[1] > lengths[2] + lengths[2] / 10, "{lengths:?}");
    settings(&gateway.folder, &json!({"gzip": {"enable": false}}));
    reloaded(&gateway, 5).await;
    assert_eq!(compressed(&gateway, "/", &text).await, None);
}

/// A gateway whose traces go to `collector`, with a route `web`; `section` is what is said of them besides.
fn traced(collector: &Upstream, upstream: &Upstream, section: &Value) -> Folder {
    let folder = Folder::new();
    folder.services(&[("collector", collector.address), ("up", upstream.address)]).route("web", "/", "up.static");
    settings(&folder, &json!({"tracing": section}));
    folder
}

/// Ends the gateway, which sends what waits to the collector first.
fn end(mut gateway: Gateway) {
    gateway.terminate();
    assert!(gateway.child.wait().unwrap().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_kind_of_collector_gets_spans_in_its_own_form() {
    let place = json!({"service": "collector.static", "port": "80"});
    let with_token = json!({"service": "collector.static", "port": "80", "access_token": "secret-token"});
    for (kind, section, path, token, name, header) in [
        ("zipkin", &place, "/api/v2/spans", None, "/0/name", "x-b3-traceid"),
        ("skywalking", &place, "/v3/segments", None, "/0/spans/0/operationName", "sw8"),
        ("skywalking", &with_token, "/v3/segments", Some("secret-token"), "/0/spans/0/operationName", "sw8"),
        ("opentelemetry", &place, "/v1/traces", None, "/resourceSpans/0/scopeSpans/0/spans/0/name", "traceparent"),
    ] {
        let collector = Upstream::start(|_, _| async { ok(&json!({})) }).await;
        let upstream = Upstream::start(|_, _| async { ok(&json!("up")) }).await;
        let gateway = Gateway::start(traced(&collector, &upstream, &json!({"enable": true, kind: section})));
        assert_eq!(gateway.get("/").await.status, 200);
        end(gateway);
        assert_eq!(collector.n_calls(), 1, "{kind}");
        let posted = collector.last();
        let told = (posted.path.as_str(), posted.headers.get("authentication").map(String::as_str));
        assert_eq!(told, (path, token), "{kind}");
        assert_eq!(posted.json().pointer(name), Some(&json!("GET web")), "{}", posted.json());
        assert!(upstream.last().headers.contains_key(header), "{kind}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sampling_is_the_share_of_the_requests_that_are_traced() {
    const REQUESTS: usize = 100;
    for (section, expected) in [
        (json!({"enable": true, "sampling": 0}), 0..=0),
        (json!({"enable": true, "sampling": 30.5}), 8..=60),
        (json!({"enable": true, "sampling": 100}), REQUESTS..=REQUESTS),
        (json!({"enable": true}), REQUESTS..=REQUESTS),
        (json!({"enable": false, "sampling": 100}), 0..=0),
    ] {
        let n_spans = Arc::new(AtomicUsize::new(0));
        let counter = n_spans.clone();
        let collector = Upstream::start(move |_, seen| {
            counter.fetch_add(seen.json().as_array().unwrap().len(), Ordering::SeqCst);
            async { ok(&json!({})) }
        })
        .await;
        let upstream = Upstream::start(|_, _| async { ok(&json!("up")) }).await;
        let mut tracing = section.clone();
        tracing["zipkin"] = json!({"service": "collector.static", "port": 80});
        let gateway = Gateway::start(traced(&collector, &upstream, &tracing));
        for _ in 0..REQUESTS {
            assert_eq!(gateway.get("/").await.status, 200);
        }
        end(gateway);
        let n_spans = n_spans.load(Ordering::SeqCst);
        assert!(expected.contains(&n_spans), "{section}: {n_spans}");
    }
}

#[tokio::test]
async fn a_collector_has_the_time_that_is_said_and_no_more() {
    let collector = Upstream::start(|_, _| std::future::pending::<Response>()).await;
    let upstream = Upstream::start(|_, _| async { ok(&json!("up")) }).await;
    let zipkin = json!({"service": "collector.static", "port": 80});
    let folder = traced(&collector, &upstream, &json!({"enable": true, "timeout": 300, "zipkin": zipkin}));
    let mut logged = Logged::start(folder, "");
    assert_eq!(logged.gateway.get("/").await.status, 200);
    logged.says(&["The trace collector does not take traces", "no answer within 300 ms"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn secrets_that_are_missing_are_replaced_and_certificates_ordered_where_higress_https_says_so() {
    let authority = Upstream::start(|_, _| async { answer(500, "text/plain", "no") }).await;
    let upstream = Upstream::start(|_, _| async { ok(&json!("up")) }).await;
    let folder = Folder::new();
    folder.services(&[("up", upstream.address)]);
    Authority::new().sign(&folder, "spare", &["shop.test"]);
    site(&folder, "shop", "shop.test", "up.static", Some("gone"), &json!({}));
    let mut cert = json!({"automaticHttps": false, "fallbackForInvalidSecret": true,
        "acmeIssuer": [{"name": "letsencrypt", "email": "me@shop.test"}],
        "credentialConfig": [{"domains": ["shop.test"], "tlsSecret": "spare"},
            {"domains": ["new.test"], "tlsSecret": "new", "tlsIssuer": "letsencrypt"}]});
    say(&folder, "higress-https", "cert", &cert);
    let gateway = Gateway::start_with(folder, &format!("[acme]\ndirectory = \"http://{}/\"\n", authority.address));
    assert_eq!(curl(&gateway, "shop.test", &[]), "200");
    assert_eq!(authority.n_calls(), 0, "nothing is ordered");
    for field in ["automaticHttps", "fallbackForInvalidSecret"] {
        cert.as_object_mut().unwrap().remove(field);
    }
    say(&gateway.folder, "higress-https", "cert", &cert);
    reloaded(&gateway, 2).await;
    assert_eq!(curl(&gateway, "shop.test", &[]), "000");
    eventually_async("the order", || async { (authority.n_calls() > 0).then_some(()) }).await;
}

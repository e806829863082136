//! The edge with raw sockets on both sides: what a client must not send, what an origin must not see, and how long and how
//! large a request may be. The whole corpus is `eval/edge/smuggle.py`; here is one of each class.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use crate::harness::*;

/// An origin that keeps every byte it gets and gives one answer for each request, which must be strict HTTP/1.1.
pub struct RawOrigin {
    pub address: SocketAddr,
    requests: Arc<parking_lot::Mutex<Vec<String>>>,
}

impl RawOrigin {
    pub async fn start(answer: &'static str) -> RawOrigin {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let requests = Arc::new(parking_lot::Mutex::new(Vec::new()));
        let own = requests.clone();
        tokio::task::spawn(async move {
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                let own = own.clone();
                tokio::task::spawn(async move {
                    let mut bytes = Vec::new();
                    while stream.read_buf(&mut bytes).await.is_ok_and(|n| n > 0) {
                        while let Some(end) = strict_end(&bytes) {
                            own.lock().push(String::from_utf8(bytes.drain(..end).collect()).unwrap());
                            stream.write_all(answer.as_bytes()).await.unwrap();
                        }
                    }
                });
            }
        });
        RawOrigin { address, requests }
    }

    pub fn seen(&self) -> Vec<String> {
        std::mem::take(&mut self.requests.lock())
    }
}

/// Where the first request in the bytes ends, if it is whole.
fn strict_end(bytes: &[u8]) -> Option<usize> {
    let text = String::from_utf8_lossy(bytes);
    let head = text.find("\r\n\r\n")? + 4;
    let lines: Vec<String> = text[..head].lines().skip(1).map(str::to_ascii_lowercase).collect();
    let values = |name: &str| lines.iter().filter_map(|l| l.strip_prefix(name)).map(str::trim).collect::<Vec<_>>();
    let (lengths, codings) = (values("content-length:"), values("transfer-encoding:"));
    assert!(lengths.len() + codings.len() <= 1 && values("host:").len() == 1, "{text}");
    match lengths.first() {
        Some(length) => Some(head + length.parse::<usize>().unwrap()).filter(|end| *end <= bytes.len()),
        None if codings.is_empty() => Some(head),
        None => text[head..].find("0\r\n\r\n").map(|end| head + end + 5),
    }
}

const OK: &str = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok";

/// A gateway before `origin`. With `is_held` a plugin wants bodies whole, so that requests go by the exchange.
fn gateway(origin: &RawOrigin, is_held: bool, settings: &str) -> Gateway {
    let folder = Folder::new();
    folder.services(&[("web", origin.address)]).route("web", "/", "web.static");
    if is_held {
        folder.plugin("request-block", &json!({"block_bodies": ["a-word-nobody-sends"]}), &json!([]));
    }
    Gateway::start_with(folder, settings)
}

/// Everything the gateway answers to the bytes until it closes. What it will not read cannot be written, and need not be.
pub async fn raw(to: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(to).await.unwrap();
    let (mut read, mut write) = stream.split();
    let mut answer = Vec::new();
    let (_, ended) = tokio::join!(write.write_all(bytes), read.read_to_end(&mut answer));
    ended.unwrap();
    String::from_utf8_lossy(&answer).into_owned()
}

fn status(answer: &str) -> u16 {
    answer.get(9..12).and_then(|status| status.parse().ok()).unwrap_or(0)
}

const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nHost: h\r\n\r\n";

#[tokio::test]
async fn what_can_be_read_in_two_ways_is_refused_and_reaches_nobody() {
    let origin = RawOrigin::start(OK).await;
    let gateway = gateway(&origin, false, "");
    let with = |headers: &str| format!("POST / HTTP/1.1\r\nHost: h\r\n{headers}\r\n0\r\n\r\n{SMUGGLED}");
    let requests = [
        (with("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n"), 400),
        (with("Transfer-Encoding: chunked\r\nTransfer-Encoding: x\r\n"), 400),
        (with("Transfer-Encoding : chunked\r\n"), 400),
        (with("X: y\r\n Transfer-Encoding: chunked\r\n"), 400),
        (with("X: y\nTransfer-Encoding: chunked\r\n"), 400),
        (with("X: y\rTransfer-Encoding: chunked\r\n"), 400),
        (with("Transfer-Encoding: xchunked\r\n"), 501),
        (with("Content-Length: 5\r\nContent-Length: 6\r\n"), 400),
        (with("Content-Length: 5, 5\r\n"), 400),
        (with("Content-Length: +5\r\n"), 400),
        (with("Content-Length: 18446744073709551621\r\n"), 400),
        (with("Connection: close, content-length\r\nContent-Length: 5\r\n"), 400),
        (with("Host: other\r\nContent-Length: 5\r\n"), 400),
        (with("X\0: y\r\n"), 400),
        ("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/1.1\r\n\r\n".to_owned(), 400),
        ("GET http://other/ HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(), 400),
        ("GET  / HTTP/1.1\r\nHost: h\r\n\r\n".to_owned(), 400),
        ("GET / HTTP/1.1\nHost: h\n\n".to_owned(), 400),
        ("GET / HTTP/3.0\r\nHost: h\r\n\r\n".to_owned(), 505),
        ("CONNECT h:80 HTTP/1.1\r\nHost: h:80\r\n\r\n".to_owned(), 405),
    ];
    for (request, expected) in &requests {
        let answer = raw(gateway.http, request.as_bytes()).await;
        assert_eq!((status(&answer), answer.matches("HTTP/1.1 ").count()), (*expected, 1), "{request:?}: {answer}");
        assert_eq!(origin.seen(), Vec::<String>::new(), "{request:?}");
    }
    assert!(gateway.metrics().await.contains("weirgate_refused_heads_total{reason=\"length_and_coding\"} 1"));
    // Each has its line in the log, as far as it could be read, but for the two that pingora answers by itself: CONNECT, and the
    // absolute target for another host.
    let log = gateway.access_log(requests.len() - 2);
    assert_eq!(log.len(), requests.len() - 2);
    let line = log.iter().find(|line| line["response_code_details"] == "http1.length_and_coding").unwrap();
    let told = ["method", "path", "authority", "protocol", "downstream_remote_address"]
        .map(|field| line[field].as_str().unwrap());
    assert_eq!((told, line["response_code"].as_u64()), (["POST", "/", "h", "HTTP/1.1", "127.0.0.1"], Some(400)));
}

#[tokio::test]
async fn targets_are_sent_on_as_other_proxies_do() {
    let origin = RawOrigin::start(OK).await;
    let gateway = gateway(&origin, false, "");
    let close = "Host: h\r\nConnection: close\r\n\r\n";
    for (target, expected) in [
        ("/a?filter={\"a\":\"<b>\"}", "GET /a?filter={%22a%22:%22%3Cb%3E%22} HTTP/1.1"),
        ("/public/../secret?x=..", "GET /secret?x=.. HTTP/1.1"),
        ("/public/%2e%2E/secret/.", "GET /secret/ HTTP/1.1"),
    ] {
        let answer = raw(gateway.http, format!("GET {target} HTTP/1.1\r\n{close}").as_bytes()).await;
        assert_eq!(status(&answer), 200, "{target}: {answer}");
        let seen = origin.seen().pop().unwrap();
        assert!(seen.starts_with(expected), "{target}: {seen}");
    }
    let answer = raw(gateway.http, format!("GET /a#b HTTP/1.1\r\n{close}").as_bytes()).await;
    assert!(status(&answer) == 400 && answer.contains("fragment"), "{answer}");
}

#[tokio::test]
async fn what_is_sent_on_is_one_request_with_the_same_body() {
    let origin = RawOrigin::start(OK).await;
    for is_held in [false, true] {
        let gateway = gateway(&origin, is_held, "");
        let close = "Host: h\r\nConnection: close\r\n";
        for (request, body) in [
            (
                format!("POST / HTTP/1.1\r\n{close}Transfer-Encoding: chunked\r\n\r\n5;a=b\r\nhello\r\n0\r\n\r\n"),
                "hello",
            ),
            (format!("POST / HTTP/1.1\r\n{close}Content-Length: 5\r\n\r\nhello{SMUGGLED}"), "hello"),
            (format!("POST / HTTP/1.1\r\n{close}Content-Length: {}\r\n\r\n{SMUGGLED}", SMUGGLED.len()), SMUGGLED),
            (format!("\r\nPOST http://h/ HTTP/1.1\r\n{close}Content-Length: 2\r\n\r\nhi"), "hi"),
            (format!("GET / HTTP/1.1\r\nHost: h\r\nConnection: upgrade, close\r\nUpgrade: h2c\r\n\r\n{SMUGGLED}"), ""),
        ] {
            let answer = raw(gateway.http, request.as_bytes()).await;
            assert_eq!((status(&answer), answer.matches("HTTP/1.1 ").count()), (200, 1), "{request:?}: {answer}");
            let seen = origin.seen();
            assert_eq!(seen.len(), 1, "{request:?}: {seen:?}");
            let (head, sent) = seen[0].split_once("\r\n\r\n").unwrap();
            assert_eq!(head.lines().next().and_then(|line| line.split(' ').nth(1)), Some("/"), "{head}");
            let sent = if head.to_ascii_lowercase().contains("transfer-encoding") {
                sent.strip_suffix("\r\n0\r\n\r\n").and_then(|chunk| chunk.split_once("\r\n")).unwrap().1
            } else {
                sent
            };
            assert_eq!(sent, body, "{request:?}");
        }
    }
}

#[tokio::test]
async fn headers_of_one_connection_do_not_pass_and_cannot_take_others_with_them() {
    let origin = RawOrigin::start(
        "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: x-b\r\nX-B: 1\r\nKeep-Alive: timeout=5\r\nX-C: 1\r\n\r\nok",
    )
    .await;
    for is_held in [false, true] {
        let gateway = gateway(&origin, is_held, "");
        let request = "GET / HTTP/1.1\r\nHost: h\r\nConnection: close, x-a, x-forwarded-for\r\nX-A: 1\r\nTE: trailers\r\n\
            Proxy-Connection: close\r\nKeep-Alive: 1\r\nX-D: 1\r\n\r\n";
        let answer = raw(gateway.http, request.as_bytes()).await.to_ascii_lowercase();
        assert!(answer.contains("x-c: 1") && !answer.contains("x-b:") && !answer.contains("keep-alive:"), "{answer}");
        let seen = origin.seen().concat().to_ascii_lowercase();
        assert!(seen.contains("x-d: 1") && seen.contains("x-forwarded-for: 127.0.0.1"), "{seen}");
        for name in ["x-a:", "te:", "proxy-connection:", "keep-alive:"] {
            assert!(!seen.contains(&format!("\r\n{name}")), "{name} in {seen}");
        }
    }
}

#[tokio::test]
async fn clients_cannot_say_what_only_the_gateway_may() {
    let upstream = Upstream::start(|_, seen| async move { ok(&json!(seen.headers)) }).await;
    let folder = Folder::new();
    folder.services(&[("web", upstream.address)]).route("web", "/", "web.static");
    let gateway = Gateway::start(folder);
    let claimed = [
        "x-mse-consumer",
        "x-forwarded-client-cert",
        "x-hi-original-auth",
        "x-higress-fallback-from",
        "x-higress-llm-model-final",
        "x-envoy-original-path",
        "x-envoy-retry-on",
        "x-envoy-internal",
    ];
    let mut headers: Vec<(&str, &str)> = claimed.iter().map(|name| (*name, "forged")).collect();
    headers.extend([("x-request-id", "forged"), ("x-forwarded-proto", "forged"), ("x-envoy-allow-mcp-tools", "a")]);
    for answer in [
        send(gateway.http, "GET", "/", &headers, Bytes::new()).await.json(),
        send_h2c(gateway.http, "GET", "/", &headers, Bytes::new()).await.json(),
    ] {
        assert!(!answer.to_string().contains("forged"), "{answer}");
        assert_eq!(answer["x-envoy-allow-mcp-tools"], "a");
    }
}

#[tokio::test]
async fn heads_and_paths_over_the_limit_are_refused_while_they_come() {
    let origin = RawOrigin::start(OK).await;
    let gateway = gateway(&origin, false, "[limits]\nmax_header_bytes = 8000\n");
    let long = "x".repeat(12_000);
    let endless = format!("GET /{long}");
    let fields = format!("GET / HTTP/1.1\r\nHost: h\r\nX: {long}");
    // Neither is whole: the answer comes before the end would.
    for (request, expected) in [(endless, 414), (fields, 431)] {
        let answer = raw(gateway.http, request.as_bytes()).await;
        assert_eq!(status(&answer), expected, "{answer}");
    }
    let target = format!("/{long}");
    for (path, headers, expected) in [
        (target.as_str(), vec![], (414, "uri_too_long")),
        ("/", vec![("x-long", long.as_str())], (431, "headers_too_large")),
    ] {
        let answer = send_h2c(gateway.http, "GET", path, &headers, Bytes::new()).await;
        assert_eq!((answer.status, answer.error_code().as_str()), expected);
    }
    assert_eq!(origin.seen(), Vec::<String>::new());
    let mut details: Vec<String> =
        gateway.access_log(4).iter().map(|line| line["response_code_details"].as_str().unwrap().to_owned()).collect();
    details.sort_unstable();
    let expected = ["request_headers_too_large", "request_uri_too_long"];
    assert_eq!(details, [expected[0], expected[0], expected[1], expected[1]]);
}

#[tokio::test]
async fn slow_clients_are_given_up() {
    let origin = RawOrigin::start(OK).await;
    for is_held in [false, true] {
        let gateway = gateway(&origin, is_held, "[timeouts]\nrequest_read_secs = 1\nclient_idle_secs = 1\n");
        for started in
            ["GET / HTTP/1.1\r\nHost:", "PRI * HT", "POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 10\r\n\r\nhel"]
        {
            assert_eq!(status(&raw(gateway.http, started.as_bytes()).await), 408, "{started:?}");
        }
        assert_eq!(raw(gateway.http, b"").await, "", "a connection without a request is closed without a word");
        assert!(gateway.access_log(3).iter().all(|line| line["response_code_details"] == "request_timeout"));
    }
    let gateway = gateway(&origin, false, "[timeouts]\nrequest_read_secs = 1\n");
    // A byte now and then keeps nothing open: the whole head has a limit.
    let mut stream = TcpStream::connect(gateway.http).await.unwrap();
    let (mut read, mut write) = stream.split();
    let drip = async {
        let mut pace = tokio::time::interval(std::time::Duration::from_millis(50));
        write.write_all(b"GET / HTTP/1.1\r\nX: ").await.unwrap();
        while write.write_all(b"y").await.is_ok() {
            pace.tick().await;
        }
    };
    let mut answer = [0; 12];
    tokio::select! {
        () = drip => panic!("the connection was cut without an answer"),
        read = read.read_exact(&mut answer) => { read.unwrap(); }
    }
    assert_eq!(&answer, b"HTTP/1.1 408");
}

/// The folder's routes at a generation: it is said to the origin, to the client, and by the origin chosen.
fn generation(folder: &Folder, n: usize) {
    let said = json!({"higress.io/request-header-control-update": format!("x-gen {n}"),
        "higress.io/response-header-control-update": format!("x-gen {n}")});
    folder.route_with("web", "/", &format!("origin-{}.static", n % 2), &said);
}

/// Whether an answer is of one generation in all that it says; gives the generation.
fn of_one_generation(answer: &Answer) -> usize {
    let said = answer.json();
    let n: usize = said["generation"].as_str().unwrap().parse().unwrap();
    assert_eq!((answer.status, answer.header("x-gen"), &said["origin"]), (200, Some(&*n.to_string()), &json!(n % 2)));
    n
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn change_under_load_fails_nobody() {
    let release = Arc::new(tokio::sync::Notify::new());
    let mut origins = Vec::new();
    for number in 0..2 {
        let release = release.clone();
        let answer = move |_, seen: Seen| {
            let release = release.clone();
            async move {
                if seen.path == "/slow" {
                    release.notified().await;
                }
                ok(&json!({"origin": number, "generation": seen.headers["x-gen"]}))
            }
        };
        origins.push(Upstream::start(answer).await);
    }
    let folder = Folder::new();
    folder.services(&[("origin-0", origins[0].address), ("origin-1", origins[1].address)]);
    generation(&folder, 1);
    let gateway = Gateway::start(folder);
    let to = gateway.http;
    let slow = tokio::task::spawn(async move { send(to, "GET", "/slow", &[], Bytes::new()).await });
    eventually("the slow request", || (origins[1].n_calls() == 1).then_some(()));
    let is_over = Arc::new(std::sync::atomic::AtomicBool::new(false));
    let clients: Vec<_> = (0..4)
        .map(|n| {
            let is_over = is_over.clone();
            tokio::task::spawn(async move {
                let mut n_asked = 0;
                while !is_over.load(std::sync::atomic::Ordering::Relaxed) {
                    of_one_generation(&if n % 2 == 0 {
                        send(to, "GET", "/", &[], Bytes::new()).await
                    } else {
                        send_h2c(to, "GET", "/", &[], Bytes::new()).await
                    });
                    n_asked += 1;
                }
                n_asked
            })
        })
        .collect();
    for n in 2..12 {
        gateway.folder.write_text("ingresses/broken.yaml", "spec: [");
        generation(&gateway.folder, n);
        std::fs::remove_file(gateway.folder.config().join("ingresses/broken.yaml")).unwrap();
        eventually_async("the next generation", || async {
            (of_one_generation(&gateway.get("/").await) == n).then_some(())
        })
        .await;
    }
    is_over.store(true, std::sync::atomic::Ordering::Relaxed);
    for client in clients {
        assert!(client.await.unwrap() > 0, "asked without a failure");
    }
    release.notify_one();
    assert_eq!(of_one_generation(&slow.await.unwrap()), 1, "what began on the old routes ends on them");
}

/// Behind a load balancer that ends TLS: rules about addresses mean its client, and a redirect to https does not go in circles.
#[tokio::test]
async fn a_trusted_proxy_in_front_says_who_asks_and_how() {
    let upstream = Upstream::start(|_, seen| async move { ok(&json!({"ip": seen.headers.get("x-real-ip")})) }).await;
    let folder = Folder::new();
    folder.services(&[("up", upstream.address)]);
    let only = json!({"higress.io/whitelist-source-range": "203.0.113.7", "higress.io/ssl-redirect": "true"});
    folder.route_with("guarded", "/", "up.static", &only);
    let mesh = json!({"defaultConfig": {"discoveryAddress": "x:1", "gatewayTopology": {"numTrustedProxies": 1}}});
    let data = json!({"higress": "addXRealIpHeader: true", "mesh": mesh.to_string()});
    let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "higress-config"}, "data": data});
    folder.write("configmaps/higress-config.yaml", &object);
    let gateway = Gateway::start(folder);
    let ask = |chain: &'static str, proto: &'static str| {
        let headers = [("x-forwarded-for", chain), ("x-forwarded-proto", proto)];
        let http = gateway.http;
        async move { send(http, "GET", "/", &headers, Bytes::new()).await }
    };
    let answer = ask("198.51.100.1, 203.0.113.7", "https").await;
    assert_eq!((answer.status, &answer.json()["ip"]), (200, &json!("203.0.113.7")), "{}", answer.text());
    assert_eq!(ask("203.0.113.7", "http").await.status, 308);
    assert_eq!(
        ask("203.0.113.7, 198.51.100.1", "https").await.status,
        403,
        "what the client itself claims is no proof"
    );
    let line = &gateway.access_log(1)[0];
    assert!(line["downstream_remote_address"].as_str().is_some_and(|told| told.starts_with("203.0.113.7")), "{line}");
}

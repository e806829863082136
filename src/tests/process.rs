//! The process: ports, exit codes, health, TLS, drain.

use std::process::{Command, Stdio};

use bytes::Bytes;
use serde_json::json;

use crate::harness::*;
use crate::process_log::Logged;

#[tokio::test]
async fn health_readiness_and_metrics_are_open_and_the_api_is_not() {
    let gateway = Gateway::start(Folder::new());
    for path in ["/healthz", "/readyz", "/metrics"] {
        assert_eq!(send(gateway.admin, "GET", path, &[], Bytes::new()).await.status, 200, "{path}");
    }
    let closed = send(gateway.admin, "GET", "/api/v1/config", &[], Bytes::new()).await;
    assert_eq!((closed.status, closed.error_code().as_str()), (401, "unauthorized"));
    assert_eq!(gateway.admin("GET", "/api/v1/config").await.status, 200);
}

#[tokio::test]
async fn what_the_data_folder_refuses_costs_no_traffic() {
    let upstream = Upstream::chat().await;
    let folder = Folder::new();
    folder.services(&[("llm", upstream.address)]).route("chat", "/", "llm.static").provider("llm.static", &json!({}));
    for file in ["admin.token", "weirgate.db"] {
        std::fs::create_dir_all(folder.data().join(file)).unwrap();
    }
    let gateway = Gateway::start(folder);
    assert_eq!(gateway.chat(&question("m", "hi")).await.status, 200);
    let metrics = gateway.metrics().await;
    assert!(metrics.lines().any(|line| line == "weirgate_flywheel_suspended 1"), "{metrics}");
    let bearer = [("authorization", "Bearer ")];
    let closed = send(gateway.admin, "GET", "/api/v1/config", &bearer, Bytes::new()).await;
    assert_eq!((closed.status, closed.error_code().as_str()), (503, "unavailable"), "{}", closed.text());
}

/// Lists of addresses are written for version 4.
#[tokio::test]
async fn a_socket_for_both_versions_shows_clients_of_version_4_as_such() {
    if std::net::TcpListener::bind("[::]:0").is_err() {
        // A machine without version 6 has no such socket.
        return;
    }
    let upstream = Upstream::start(|_, seen| async move { ok(&json!(seen.headers["x-forwarded-for"])) }).await;
    let folder = Folder::new();
    folder.services(&[("web", upstream.address)]).route("open", "/", "web.static");
    let denied = json!({"higress.io/blacklist-source-range": "127.0.0.0/8"});
    folder.route_with("closed", "/closed", "web.static", &denied);
    let mut command = Command::new(binary());
    command.args(["serve", "--http-port", "0", "--https-port", "0", "--admin-port", "0", "--bind", "::"]);
    command.arg("--config-dir").arg(folder.config()).arg("--data-dir").arg(folder.data());
    let gateway = Gateway::of(command.stdout(Stdio::piped()).spawn().unwrap(), folder);
    let to = std::net::SocketAddr::from(([127, 0, 0, 1], gateway.http.port()));
    assert_eq!(send(to, "GET", "/", &[], Bytes::new()).await.json(), "127.0.0.1");
    assert_eq!(send(to, "GET", "/closed", &[], Bytes::new()).await.status, 403);
}

/// It would have nothing to show for itself otherwise.
#[tokio::test]
async fn a_changed_file_without_effect_is_told_of() {
    let mut logged = Logged::start(Folder::new(), "");
    logged.says(&["Ready"]).await;
    let typo = json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress", "metadata": {"name": "a"},
        "spec": {"rules": [{"http": {"path": []}}]}});
    logged.gateway.folder.write("ingresses/a.yaml", &typo);
    logged.says(&["WARN", "ingresses/a.yaml", "did you mean `paths`"]).await;
}

#[test]
fn a_taken_port_exits_69_and_bad_usage_64() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let folder = Folder::new();
    let serve = ["serve", "--bind", "127.0.0.1", "--https-port", "0", "--admin-port", "0", "--http-port", &port];
    let (code, _, err) = run_cli(&serve, &folder);
    assert_eq!(code, 69, "{err}");
    assert!(err.contains(&port) && err.contains("--http-port"), "{err}");
    let (code, _, err) = run_cli(&["serve", "--no-such-flag"], &folder);
    assert_eq!(code, 64, "{err}");
}

/// The threads of a gateway share its port; another gateway must not get a part of its connections.
#[tokio::test]
async fn a_second_gateway_gets_no_share_of_the_port() {
    let first = Gateway::start(Folder::new());
    let (port, folder) = (first.http.port().to_string(), Folder::new());
    let serve = ["serve", "--bind", "127.0.0.1", "--https-port", "0", "--admin-port", "0", "--http-port", &port];
    let (code, _, err) = run_cli(&serve, &folder);
    assert!(code == 69 && err.contains(&port), "{code} {err}");
    assert_eq!(send(first.http, "GET", "/", &[], Bytes::new()).await.status, 404);
}

#[test]
fn a_wrong_config_toml_names_file_and_key() {
    let folder = Folder::new();
    let toml = folder.dir.path().join("config.toml");
    std::fs::write(&toml, "[limits]\nmax_body_byte = 5\n").unwrap();
    let output = Command::new(binary()).args(["config", "effective", "--config"]).arg(&toml).output().unwrap();
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(64), "{err}");
    assert!(err.contains("config.toml") && err.contains("max_body_byte") && err.contains("max_body_bytes"), "{err}");
}

#[test]
fn a_missing_configuration_folder_that_was_asked_for_is_named() {
    let folder = Folder::new();
    std::fs::remove_dir(folder.config()).unwrap();
    let free = ["--http-port", "0", "--https-port", "0", "--admin-port", "0", "--bind", "127.0.0.1"];
    let (code, _, err) = run_cli(&[&["serve"][..], &free].concat(), &folder);
    assert_eq!(code, 64, "{err}");
    assert!(err.contains(folder.config().to_str().unwrap()) && err.contains("--config-dir"), "{err}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tls_certificates_are_chosen_by_server_name_and_http2_is_offered() {
    let upstream =
        Upstream::start(|_, seen| async move { ok(&json!({"proto": seen.headers["x-forwarded-proto"]})) }).await;
    let folder = Folder::new();
    folder.services(&[("web", upstream.address)]);
    for (secret, host) in [("one", "one.example.com"), ("wild", "*.wild.example.com")] {
        let made = rcgen::generate_simple_self_signed(vec![host.to_owned()]).unwrap();
        folder.write(
            &format!("secrets/{secret}.yaml"),
            &json!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls", "metadata": {"name": secret},
                "stringData": {"tls.crt": made.cert.pem(), "tls.key": made.signing_key.serialize_pem()}}),
        );
        let backend =
            json!({"resource": {"apiGroup": "networking.higress.io", "kind": "McpBridge", "name": "default"}});
        folder.write(
            &format!("ingresses/{secret}.yaml"),
            &json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
                "metadata": {"name": secret, "annotations": {"higress.io/destination": "web.static"}},
                "spec": {"tls": [{"hosts": [host], "secretName": secret}],
                    "rules": [{"host": host, "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]}}]}}),
        );
    }
    let gateway = Gateway::start(folder);
    for (name, version) in [("one.example.com", "--http1.1"), ("a.wild.example.com", "--http2")] {
        let output = Command::new("curl")
            .args(["-sk", version, "--resolve"])
            .arg(format!("{name}:{}:127.0.0.1", gateway.https.port()))
            .args(["-w", "%{http_version} %{http_code}"])
            .arg(format!("https://{name}:{}/", gateway.https.port()))
            .output()
            .unwrap();
        let expected = if version == "--http2" { "{\"proto\":\"https\"}2 200" } else { "{\"proto\":\"https\"}1.1 200" };
        assert_eq!(String::from_utf8_lossy(&output.stdout), expected, "{}", String::from_utf8_lossy(&output.stderr));
    }
    let unknown = Command::new("curl")
        .args(["-sk", "--resolve", &format!("other.example.com:{}:127.0.0.1", gateway.https.port())])
        .arg(format!("https://other.example.com:{}/", gateway.https.port()))
        .status()
        .unwrap();
    assert!(!unknown.success(), "no certificate, no handshake");
}

#[tokio::test]
async fn sigterm_lets_requests_in_flight_finish() {
    let (upstream, reached, go_on) = Upstream::held_back(json!("finished")).await;
    let folder = Folder::new();
    folder.services(&[("web", upstream.address)]).route("web", "/", "web.static");
    let mut gateway = Gateway::start(folder);
    let (http, admin) = (gateway.http, gateway.admin);
    let request = tokio::task::spawn(async move { send(http, "GET", "/", &[], Bytes::new()).await });
    reached.notified().await;
    gateway.terminate();
    eventually_async("readiness to end", || async {
        (send(admin, "GET", "/readyz", &[], Bytes::new()).await.status == 503).then_some(())
    })
    .await;
    go_on.notify_one();
    let answer = request.await.unwrap();
    assert_eq!((answer.json(), answer.header("connection")), (json!("finished"), Some("close")));
    let status = gateway.child.wait().unwrap();
    assert_eq!(status.code(), Some(0));
}

/// Requests are counted from their whole head on; until then nobody had waited for them. The end of a kept connection may cross with
/// the head: that is tried again, and with a drain that does not wait it is always so.
#[tokio::test]
async fn sigterm_waits_for_a_request_that_is_just_arriving() {
    for _ in 0..5 {
        if let Ok(answer) = answer_to_a_head_that_sigterm_finds_half_sent().await {
            assert!(answer.starts_with("HTTP/1.1 200") && answer.contains("hello"), "{answer}");
            return;
        }
    }
    panic!("the connection is always closed");
}

async fn answer_to_a_head_that_sigterm_finds_half_sent() -> std::io::Result<String> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let upstream = Upstream::chat().await;
    let folder = Folder::new();
    folder.services(&[("llm", upstream.address)]).route("chat", "/", "llm.static").provider("llm.static", &json!({}));
    let mut gateway = Gateway::start(folder);
    let body = question("m", "hi").to_string();
    let head = format!("POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", body.len());
    let mut stream = tokio::net::TcpStream::connect(gateway.http).await?;
    // A first request shows that the connection is accepted.
    stream.write_all((head.clone() + &body).as_bytes()).await?;
    let mut answer = vec![0; 4096];
    let mut n = 0;
    while !String::from_utf8_lossy(&answer[..n]).contains("hello") {
        n += stream.read(&mut answer[n..]).await?;
    }
    let (begin, rest) = head.split_at(20);
    stream.write_all(begin.as_bytes()).await?;
    gateway.terminate();
    let admin = gateway.admin;
    eventually_async("readiness to end", || async {
        (send(admin, "GET", "/readyz", &[], Bytes::new()).await.status == 503).then_some(())
    })
    .await;
    // More than the moment in which a drain listens for what is on its way.
    tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    stream.write_all((rest.to_owned() + &body).as_bytes()).await?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await?;
    assert_eq!(gateway.child.wait()?.code(), Some(0));
    Ok(answer)
}

#[test]
fn the_gateway_runs_without_any_configuration() {
    let dir = tempfile::tempdir().unwrap();
    let mut child = Command::new(binary())
        .args([
            "serve",
            "--http-port",
            "0",
            "--https-port",
            "0",
            "--admin-port",
            "0",
            "--bind",
            "127.0.0.1",
            "--data-dir",
            "d",
        ])
        .current_dir(dir.path())
        .stdout(Stdio::piped())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let mut line = String::new();
    std::io::BufRead::read_line(&mut std::io::BufReader::new(child.stdout.as_mut().unwrap()), &mut line).unwrap();
    let _ = child.kill();
    let _ = child.wait();
    assert!(line.starts_with("listening {"), "{line}");
}

#[tokio::test]
async fn spans_go_to_the_collector() {
    let collector = Upstream::start(|_, _| async { ok(&json!({})) }).await;
    let upstream = Upstream::chat().await;
    let folder = Folder::new();
    folder.services(&[("llm", upstream.address)]).route("chat", "/", "llm.static").provider("llm.static", &json!({}));
    folder.plugin("ai-statistics", &json!({}), &json!([]));
    let settings = format!("otlp_endpoint = \"http://{}\"\n", collector.address);
    let gateway = Gateway::start_with(folder, &settings);
    let trace = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01";
    let body = question("m", "hi").to_string();
    assert_eq!(gateway.post("/v1/chat/completions", &[("traceparent", trace)], body).await.status, 200);
    eventually_async("the export", || async { (collector.n_calls() > 0).then_some(()) }).await;
    let seen = collector.last();
    assert_eq!(seen.path, "/v1/traces");
    let span = &seen.json()["resourceSpans"][0]["scopeSpans"][0]["spans"][0];
    assert_eq!(
        (&span["traceId"], &span["parentSpanId"]),
        (&json!("4bf92f3577b34da6a3ce929d0e0e4736"), &json!("00f067aa0ba902b7"))
    );
    let text = span["attributes"].to_string();
    assert!(text.contains("gen_ai.usage.output_tokens") && text.contains("weirgate.service"), "{text}");
}

/// Without a handler the signal ends a process at once.
#[tokio::test]
async fn a_hangup_reads_the_configuration_anew() {
    let upstream = Upstream::chat().await;
    let folder = Folder::new();
    folder.services(&[("llm", upstream.address)]).route("chat", "/", "llm.static").provider("llm.static", &json!({}));
    let mut logged = Logged::start(folder, "");
    logged.gateway.signal("-HUP");
    logged.says(&["Told to reload (SIGHUP)"]).await;
    assert_eq!(logged.gateway.chat(&question("m", "hi")).await.status, 200);
}

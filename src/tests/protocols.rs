//! How upstreams are spoken to, as registries, annotations and destinations say.

use bytes::Bytes;
use serde_json::{Value, json};

use crate::control_plane::bridge;
use crate::harness::*;
use crate::ingress::{Authority, named, site};
use crate::upstreams::rule;

const VERIFY: &str = "nginx.ingress.kubernetes.io/proxy-ssl-verify";

/// The upstream is a gateway: it speaks everything, and its log says in which protocol it was asked.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upstreams_are_spoken_to_as_registry_annotation_and_destination_say() {
    let upstream = named("up").await;
    let authority = Authority::new();
    let folder = Folder::new();
    folder.services(&[("up", upstream.address)]).route("all", "/", "up.static");
    authority.sign(&folder, "pair", &["a.test", "localhost"]);
    for host in ["a.test", "localhost"] {
        site(&folder, host, host, "up.static", Some("pair"), &json!({}));
    }
    let inner = Gateway::start(folder);

    let folder = Folder::new();
    let (plain, tls) = (inner.http, inner.https);
    let at = |name: &str, protocol: &str, address: std::net::SocketAddr, sni: &str| json!({"type": "static", "name": name, "domain": address.to_string(), "port": 80, "protocol": protocol, "sni": sni});
    let by_name = |name: &str, protocol: &str, address: std::net::SocketAddr| json!({"type": "dns", "name": name, "domain": "localhost", "port": address.port(), "protocol": protocol});
    bridge(
        &folder,
        &json!([
            at("plain", "http", plain, ""),
            at("tcp", "tcp", plain, ""),
            at("http2", "http2", plain, ""),
            at("grpc", "grpc", plain, ""),
            at("https", "https", tls, "a.test"),
            at("nameless", "https", tls, ""),
            at("grpcs", "grpcs", tls, "a.test"),
            at("ruled", "https", tls, "a.test"),
            at("unsaid", "http", tls, ""),
            at("claimed", "https", plain, "a.test"),
            by_name("plain", "http", plain),
            by_name("https", "https", tls),
        ]),
    );
    rule(&folder, "ruled.static", json!({"tls": {"mode": "SIMPLE", "insecureSkipVerify": true}}));
    let trusting = json!({VERIFY: "off"});
    let named = json!({VERIFY: "off", "higress.io/proxy-ssl-server-name": "on", "higress.io/proxy-ssl-name": "a.test"});
    let kept = json!({VERIFY: "off", "higress.io/backend-protocol": "HTTP"});
    let routes: [(&str, &str, &Value, Option<&str>); 17] = [
        ("plain", "plain.static", &json!({}), Some("HTTP/1.1")),
        ("tcp", "tcp.static", &json!({}), Some("HTTP/1.1")),
        ("http2", "http2.static", &json!({}), Some("HTTP/2")),
        ("grpc", "grpc.static", &json!({}), Some("HTTP/2")),
        ("asked", "plain.static", &json!({"higress.io/backend-protocol": "HTTP2"}), Some("HTTP/2")),
        ("https", "https.static", &trusting, Some("HTTP/2")),
        ("verified", "https.static", &json!({}), None),
        // A client's Host is no name that the upstream has a certificate for.
        ("nameless", "nameless.static", &trusting, None),
        ("grpcs", "grpcs.static", &trusting, Some("HTTP/2")),
        ("ruled", "ruled.static", &json!({}), Some("HTTP/2")),
        ("doubted", "ruled.static", &json!({VERIFY: "on"}), None),
        ("unsaid", "unsaid.static", &named, None),
        ("opened", "https://unsaid.static", &named, Some("HTTP/2")),
        ("closed", "http://claimed.static", &json!({}), Some("HTTP/1.1")),
        // As in Higress, the registry's TLS stays.
        ("kept", "claimed.static", &kept, None),
        ("dns", "plain.dns", &json!({}), Some("HTTP/1.1")),
        ("dns-https", "https.dns", &trusting, Some("HTTP/2")),
    ];
    for (name, destination, annotations, _) in &routes {
        folder.route_with(name, &format!("/{name}"), destination, annotations);
    }
    let outer = Gateway::start(folder);
    for (name, _, _, protocol) in routes {
        let path = format!("/{name}");
        let answer = send(outer.http, "GET", &path, &[("host", "elsewhere.test")], Bytes::new()).await;
        assert_eq!(answer.status == 200, protocol.is_some(), "{name}: {} {}", answer.status, answer.text());
        if let Some(protocol) = protocol {
            let line = eventually("its line", || inner.access_log(1).into_iter().find(|line| line["path"] == path));
            assert_eq!(line["protocol"], protocol, "{name}");
        }
    }
}

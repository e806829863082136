//! Annotations that Higress reads under nginx' prefix, too.

use serde_json::{Value, json};

use super::*;

type Annotation = (&'static str, &'static str);

/// Each with a value that changes something, and what it needs beside it.
const BOTH: &[(&str, &str, &[Annotation])] = &[
    ("affinity", "cookie", &[]),
    ("app-root", "/app", &[]),
    ("auth-tls-secret", "higress-system/pair", &[]),
    ("backend-protocol", "HTTPS", &[]),
    ("canary", "true", &[("canary-weight", "10")]),
    ("canary-by-cookie", "c", &[("canary", "true")]),
    ("canary-by-header", "x-c", &[("canary", "true")]),
    ("canary-by-header-pattern", "v.*", &[("canary", "true"), ("canary-by-header", "x-c")]),
    ("canary-by-header-value", "v", &[("canary", "true"), ("canary-by-header", "x-c")]),
    ("canary-weight", "10", &[("canary", "true")]),
    ("canary-weight-total", "50", &[("canary", "true"), ("canary-weight", "10")]),
    ("cors-allow-credentials", "false", &[("enable-cors", "true")]),
    ("cors-allow-headers", "x-a", &[("enable-cors", "true")]),
    ("cors-allow-methods", "GET", &[("enable-cors", "true")]),
    ("cors-allow-origin", "http://o.com", &[("enable-cors", "true")]),
    ("cors-expose-headers", "x-b", &[("enable-cors", "true")]),
    ("cors-max-age", "5", &[("enable-cors", "true")]),
    ("custom-http-errors", "503", &[("default-backend", "other")]),
    ("default-backend", "other", &[("custom-http-errors", "503")]),
    ("enable-cors", "true", &[]),
    ("force-ssl-redirect", "true", &[]),
    ("ignore-path-case", "true", &[]),
    ("load-balance", "least_conn", &[]),
    ("mirror-percentage", "30", &[("mirror-target-fqdn", "up.static")]),
    ("mirror-target-fqdn", "up.static", &[]),
    ("mirror-target-service", "other", &[]),
    ("permanent-redirect", "http://x.com", &[]),
    ("permanent-redirect-code", "308", &[("permanent-redirect", "http://x.com")]),
    ("proxy-next-upstream", "http_429", &[]),
    ("proxy-next-upstream-timeout", "9", &[]),
    ("proxy-next-upstream-tries", "7", &[]),
    ("proxy-ssl-name", "n.com", &[("backend-protocol", "HTTPS"), ("proxy-ssl-server-name", "on")]),
    ("proxy-ssl-secret", "pair", &[]),
    ("proxy-ssl-server-name", "on", &[("backend-protocol", "HTTPS"), ("proxy-ssl-name", "n.com")]),
    ("proxy-ssl-verify", "off", &[("backend-protocol", "HTTPS")]),
    ("rewrite-target", "/x", &[]),
    ("session-cookie-expires", "9", &[("affinity", "cookie")]),
    ("session-cookie-max-age", "9", &[("affinity", "cookie")]),
    ("session-cookie-name", "own", &[("affinity", "cookie")]),
    ("session-cookie-path", "/p", &[("affinity", "cookie")]),
    ("ssl-cipher", "ECDHE-RSA-AES128-GCM-SHA256", &[]),
    ("ssl-passthrough", "true", &[]),
    ("ssl-redirect", "true", &[]),
    ("temporal-redirect", "http://x.com", &[]),
    ("tls-max-protocol-version", "TLSv1.2", &[]),
    ("tls-min-protocol-version", "TLSv1.3", &[]),
    ("upstream-hash-by", "$host", &[]),
    ("upstream-vhost", "b.com", &[]),
    ("use-regex", "true", &[]),
    ("whitelist-source-range", "10.0.0.0/8", &[]),
];

fn ingress(name: &str, created: &str, annotations: &Value) -> Value {
    let backend = json!({"resource": {"apiGroup": "networking.higress.io", "kind": "McpBridge", "name": "default"}});
    json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
        "metadata": {"name": name, "creationTimestamp": created, "annotations": annotations},
        "spec": {"tls": [{"hosts": ["a.com"], "secretName": "pair"}],
            "rules": [{"host": "a.com", "http": {"paths": [{"path": "/", "pathType": "Prefix", "backend": backend}]}}]}})
}

/// What the gateway makes of one Ingress with these annotations, whatever is said about it.
fn meaning(annotations: &[(String, &str)]) -> Value {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, object: &Value| {
        let path = folder.path().join(name);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, object.to_string()).unwrap();
    };
    let registry = json!({"name": "up", "type": "static", "domain": "127.0.0.1:80", "port": 80});
    write(
        "mcpbridges/default.yaml",
        &json!({"kind": "McpBridge", "metadata": {"name": "default"}, "spec": {"registries": [registry]}}),
    );
    write(
        "services/other.yaml",
        &json!({"kind": "Service", "metadata": {"name": "other"}, "spec": {"ports": [{"port": 80}]}}),
    );
    let pair = json!({"tls.crt": "chain", "tls.key": "key", "ca.crt": "authority"});
    write("secrets/pair.yaml", &json!({"kind": "Secret", "metadata": {"name": "pair"}, "stringData": pair}));
    let mut all: serde_json::Map<String, Value> =
        annotations.iter().map(|(key, value)| (key.clone(), json!(value))).collect();
    all.insert("higress.io/destination".into(), json!("up.static"));
    write("ingresses/own.yaml", &ingress("own", "2026-01-02T00:00:00Z", &all.into()));
    if annotations.iter().any(|(key, _)| key.ends_with("/canary")) {
        let plain = json!({"higress.io/destination": "up.static"});
        write("ingresses/base.yaml", &ingress("base", "2026-01-01T00:00:00Z", &plain));
    }
    let gateway = compile_folder(folder.path()).gateway;
    json!([gateway.routes, gateway.certificates, format!("{:?}", gateway.passthrough)])
}

#[test]
fn annotations_mean_the_same_under_both_prefixes() {
    let mut wrong = Vec::new();
    for (key, value, beside) in BOTH {
        let with = |prefix: &str, own: bool| {
            let beside = beside.iter().map(|(key, value)| (format!("higress.io/{key}"), *value));
            let own = own.then(|| (format!("{prefix}/{key}"), *value));
            meaning(&beside.chain(own).collect::<Vec<_>>())
        };
        let [higress, nginx] = ["higress.io", "nginx.ingress.kubernetes.io"].map(|prefix| with(prefix, true));
        if higress != nginx {
            wrong.push(format!("{key} means two things"));
        }
        if higress == with("", false) {
            wrong.push(format!("{key} has no effect"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

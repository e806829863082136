//! Any values under any annotation of an Ingress.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::json;
use weirgate_fuzz::compile_files;

/// The names the compiler knows, from its own source.
fn names() -> &'static [&'static str] {
    static NAMES: std::sync::LazyLock<Vec<&str>> = std::sync::LazyLock::new(|| {
        let sources = [
            include_str!("../../src/config/annotations/backend.rs"),
            include_str!("../../src/config/annotations/canary.rs"),
            include_str!("../../src/config/annotations/cors.rs"),
            include_str!("../../src/config/annotations/destination.rs"),
            include_str!("../../src/config/annotations/downstream.rs"),
            include_str!("../../src/config/annotations/fallback.rs"),
            include_str!("../../src/config/annotations/headers.rs"),
            include_str!("../../src/config/annotations/load_balance.rs"),
            include_str!("../../src/config/annotations/matching.rs"),
            include_str!("../../src/config/annotations/mirror.rs"),
            include_str!("../../src/config/annotations/rate_limit.rs"),
            include_str!("../../src/config/annotations/redirect.rs"),
            include_str!("../../src/config/annotations/retry.rs"),
            include_str!("../../src/config/annotations/rewrite.rs"),
            include_str!("../../src/config/annotations/sources.rs"),
            include_str!("../../src/config/annotations/timeout.rs"),
        ];
        let quoted = sources.iter().flat_map(|source| source.split('"').skip(1).step_by(2));
        let mut names: Vec<&str> = quoted
            .filter(|text| text.contains('-') && text.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'))
            .chain(["destination", "timeout", "auth"])
            .collect();
        names.sort_unstable();
        names.dedup();
        names
    });
    &NAMES
}

fuzz_target!(|input: Vec<(u8, String)>| {
    let names = names();
    let annotations: serde_json::Map<String, serde_json::Value> = input
        .into_iter()
        .map(|(name, value)| (format!("higress.io/{}", names[usize::from(name) % names.len()]), json!(value)))
        .collect();
    let object = json!({"apiVersion": "networking.k8s.io/v1", "kind": "Ingress",
        "metadata": {"name": "a", "annotations": annotations},
        "spec": {"rules": [{"host": "a.example.com", "http": {"paths": [{"path": "/a", "pathType": "Prefix",
            "backend": {"service": {"name": "s", "port": {"number": 80}}}}]}}]}});
    compile_files(&[("ingresses/a.yaml", object.to_string().as_bytes())]);
});

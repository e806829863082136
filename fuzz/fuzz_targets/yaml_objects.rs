//! A file of any kind of object: read, compiled, and equal to itself when compiled again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weirgate_fuzz::compile_files;
use weirgate_fuzz::config::diff;

const KINDS: [&str; 8] = [
    "ingresses", "mcpbridges", "wasmplugins", "configmaps", "secrets", "services", "http2rpcs", "httproutes",
];

fuzz_target!(|input: (u8, &[u8])| {
    let (kind, bytes) = input;
    let path = format!("{}/default.yaml", KINDS[usize::from(kind) % KINDS.len()]);
    let compiled = compile_files(&[(&path, bytes)]);
    assert!(diff(&compiled.gateway, &compiled.gateway.clone()).is_empty());
});

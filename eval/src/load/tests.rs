//! Load runs in one process: the static mock as upstream, all workload kinds, and targets that fail.

use std::path::Path;

use axum::Router;
use axum::routing::post;
use serde_json::Value;

use super::*;
use crate::test_support::{serve_fixed, serve_router};

fn args(targets: &[String], workload: &Path, out: &Path, more: &[&str]) -> LoadArgs {
    #[derive(clap::Parser)]
    struct Wrapper {
        #[command(flatten)]
        args: LoadArgs,
    }
    let (workload, out) = (workload.display().to_string(), out.display().to_string());
    let mut words = vec!["load", "--workload", &workload, "--out", &out, "--name", "test", "--rounds", "2"];
    words.extend(["--seconds", "0.1", "--warm-seconds", "0.02", "--connections", "3"]);
    for target in targets {
        words.extend(["--target", target]);
    }
    words.extend(more);
    <Wrapper as clap::Parser>::parse_from(words).args
}

fn write_workload(out: &Path, more: &str) -> PathBuf {
    let path = out.join("w.toml");
    std::fs::write(&path, format!("prompt_bytes = 300\nmodel = \"m\"\n{more}")).unwrap();
    path
}

#[tokio::test]
async fn every_kind_of_workload_is_measured_without_errors() {
    let upstream = serve_fixed().await;
    let out = tempfile::tempdir().unwrap();
    let pid = std::process::id();
    let targets = [format!("direct={}", upstream.url("")), format!("again={},pid={pid}", upstream.url(""))];
    for more in ["", "stream = true", "http = \"2\"", "http = \"2\"\nstream = true", "rate = 50.0", "variants = 7"] {
        let workload = write_workload(out.path(), more);
        let samples = measure(&args(&targets, &workload, out.path(), &[])).await.unwrap();
        assert_eq!(samples.len(), 2 * 2, "rounds, targets");
        let order: Vec<&str> = samples.iter().map(|sample| sample.target.as_str()).collect();
        assert_eq!(order, ["direct", "again"].repeat(2), "targets take turns");
        for sample in &samples {
            assert!(sample.requests > 0 && sample.errors.is_empty(), "{more}: {sample:?}");
            assert!(sample.p50 <= sample.p99 && sample.first_byte_p50 <= sample.p50, "{sample:?}");
            assert_eq!(sample.rss_mib.is_some(), sample.target == "again");
        }
        if more.starts_with("rate") {
            // 50 a second for 0.1 s; a closed loop makes hundreds.
            assert!(samples.iter().all(|sample| sample.requests <= 9), "{samples:?}");
        }
    }
}

#[tokio::test]
async fn a_run_writes_its_folder() {
    let upstream = serve_fixed().await;
    let out = tempfile::tempdir().unwrap();
    let targets = [format!("direct={}", upstream.url("")), format!("gw={}", upstream.url(""))];
    let workload = write_workload(out.path(), "");
    run(args(&targets, &workload, out.path(), &[])).await.unwrap();
    let folder =
        std::fs::read_dir(out.path()).unwrap().map(|entry| entry.unwrap().path()).find(|path| path.is_dir()).unwrap();
    let summary: Value = serde_json::from_str(&std::fs::read_to_string(folder.join("summary.json")).unwrap()).unwrap();
    assert!(summary["w_gw_c3_rps"].as_f64().unwrap() > 0.0 && summary["w_gw_c3_added_p50_us"].is_number());
    assert!(std::fs::read_to_string(folder.join("report.md")).unwrap().contains("## w\n"));
    assert!(folder.join("added-p99.svg").exists() && folder.join("raw.jsonl.gz").exists());
}

#[tokio::test]
async fn targets_that_fail_the_check_are_named() {
    let server = serve_router(Router::new().route("/v1/chat/completions", post(async || "{}"))).await;
    let out = tempfile::tempdir().unwrap();
    let error = async |url: String, workload: &str| {
        let workload = write_workload(out.path(), workload);
        format!("{:#}", measure(&args(&[format!("gw={url}")], &workload, out.path(), &[])).await.unwrap_err())
    };
    let wrong = error(server.url(""), "").await;
    assert!(wrong.contains("target gw at http://") && wrong.contains("the answer lacks"), "{wrong}");
    assert!(error(server.url(""), "stream = true").await.contains("stream without [DONE]"));
    assert!(error(server.url("/elsewhere"), "").await.contains("status 404"));
    assert!(error("http://127.0.0.1:1".into(), "").await.contains("connecting"));
}

//! Load runs in one process: the static mock as upstream, all workload kinds, and targets that fail, hang or stall.

use std::collections::BTreeMap;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use axum::Router;
use axum::http::StatusCode;
use axum::routing::post;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use super::*;
use crate::test_support::{Server, serve_fixed, serve_router};

#[derive(clap::Parser)]
struct Wrapper {
    #[command(flatten)]
    args: LoadArgs,
}

fn args(targets: &[String], workload: &Path, out: &Path, more: &[&str]) -> LoadArgs {
    let (workload, out) = (workload.display().to_string(), out.display().to_string());
    let mut words = vec!["load", "--workload", &workload, "--out", &out, "--name", "test", "--rounds", "2"];
    words.extend(["--seconds", "0.1", "--connections", "3", "--grace-seconds", "0.1"]);
    if !more.contains(&"--warm-seconds") {
        words.extend(["--warm-seconds", "0.02"]);
    }
    for target in targets {
        words.extend(["--target", target]);
    }
    words.extend(more);
    <Wrapper as clap::Parser>::parse_from(words).args
}

/// What becomes of the requests that are not answered as they should be.
#[derive(Clone, Copy)]
enum Fault {
    Hang,
    Fail,
    Stall(Duration),
}

/// Answers like the static mock, but for the requests numbered `faulty`, counted from 0.
async fn serve_faulty(faulty: Range<usize>, fault: Fault) -> Server {
    let n_requests = Arc::new(AtomicUsize::new(0));
    let answer = async move || {
        if faulty.contains(&n_requests.fetch_add(1, Ordering::SeqCst)) {
            match fault {
                Fault::Hang => std::future::pending().await,
                Fault::Fail => return (StatusCode::SERVICE_UNAVAILABLE, "no upstream"),
                Fault::Stall(time) => tokio::time::sleep(time).await,
            }
        }
        (StatusCode::OK, mock::FIXED_MARK)
    };
    serve_router(Router::new().route("/v1/chat/completions", post(answer))).await
}

/// One connection at 100 requests a second for 0.3 s: 30 of them are due.
async fn drive_thirty(server: &Server, grace: Duration) -> driver::Tally {
    drive_thirty_at(&server.url(""), grace).await
}

async fn drive_thirty_at(url: &str, grace: Duration) -> driver::Tally {
    let folder = tempfile::tempdir().unwrap();
    let workload = Workload::load(&write_workload(folder.path(), "")).unwrap();
    let target: Target = format!("gw={url}").parse().unwrap();
    let prepared = target.prepare(&workload).await.unwrap();
    let start = Instant::now();
    let end = start + Duration::from_millis(300);
    let schedule = Schedule { n_connections: 1, rate: Some(100.0), start, measure_from: start, end, grace };
    drive(&prepared, schedule).await.unwrap()
}

/// The folder of the only run below `out`, and its summary.
fn run_folder(out: &Path) -> (PathBuf, Value) {
    let mut folders = std::fs::read_dir(out).unwrap().map(|entry| entry.unwrap().path()).filter(|path| path.is_dir());
    let folder = folders.next().unwrap();
    let summary = std::fs::read_to_string(folder.join("summary.json")).unwrap();
    (folder, serde_json::from_str(&summary).unwrap())
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
            let latency = sample.latency.unwrap();
            assert!(latency.p50 <= latency.p99 && latency.first_byte_p50 <= latency.p50, "{sample:?}");
            assert_eq!(sample.requested_rate, more.starts_with("rate").then_some(50.0));
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
    let (folder, summary) = run_folder(out.path());
    assert!(summary["w_gw_c3_rps"].as_f64().unwrap() > 0.0 && summary["w_gw_c3_added_p50_us"].is_number());
    let report = std::fs::read_to_string(folder.join("report.md")).unwrap();
    assert!(report.contains("## w\n") && report.contains("**Every request was answered"), "{report}");
    assert!(report.contains("count as foreign in the machine's CPU time: direct, gw."), "{report}");
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

#[tokio::test]
async fn a_target_that_hangs_or_fails_after_the_check_has_errors_and_no_figures() {
    for (fault, reason) in [(Fault::Hang, "unanswered"), (Fault::Fail, "status 503")] {
        let server = serve_faulty(1..usize::MAX, fault).await;
        let upstream = serve_fixed().await;
        let out = tempfile::tempdir().unwrap();
        let targets = [format!("direct={}", upstream.url("")), format!("gw={}", server.url(""))];
        let workload = write_workload(out.path(), "");
        let error = run(args(&targets, &workload, out.path(), &[])).await.unwrap_err().to_string();
        assert!(
            error.contains("requests failed or stayed unanswered; first target gw, round 1, workload w"),
            "{error}"
        );
        assert!(error.contains(reason), "{error}");
        let (folder, summary) = run_folder(out.path());
        assert!(summary["w_gw_c3_errors"].as_f64().unwrap() >= 6.0, "three users, two rounds: {summary}");
        for name in ["p50_us", "p99_us", "first_byte_p50_us", "added_p50_us", "added_p99_us"] {
            assert!(summary.get(format!("w_gw_c3_{name}")).is_none(), "{name}: {summary}");
        }
        assert!(summary["w_direct_c3_p50_us"].is_number(), "{summary}");
        let report = std::fs::read_to_string(folder.join("report.md")).unwrap();
        assert!(
            report.contains("requests failed or stayed unanswered") && report.contains("| gw | - | 0 | - |"),
            "{report}"
        );
    }
}

#[tokio::test]
async fn a_stall_that_ends_late_counts_for_every_request_that_was_due() {
    let server = serve_faulty(5..6, Fault::Stall(Duration::from_millis(400))).await;
    let tally = drive_thirty(&server, Duration::from_secs(60)).await;
    assert_eq!((tally.latencies.len(), tally.first_bytes.len(), tally.errors.len()), (30, 30, 0));
    assert!(tally.n_in_time <= 5, "{}", tally.n_in_time);
    let over = |ms: f64| tally.latencies.iter().filter(|latency| **latency >= ms * 1e3).count();
    // The sixth was due at 50 ms and answered at 450 ms, the last was due at 290 ms.
    assert!(over(400.0) >= 1 && over(160.0) >= 25, "{:?}", tally.latencies);
}

#[tokio::test]
async fn what_is_due_and_never_answered_counts_with_its_age() {
    let server = serve_faulty(5..usize::MAX, Fault::Hang).await;
    let tally = drive_thirty(&server, Duration::from_millis(50)).await;
    assert_eq!((tally.latencies.len(), tally.first_bytes.len()), (30, 5));
    assert_eq!(tally.errors.into_iter().collect::<Vec<_>>(), [("unanswered".to_string(), 25)]);
    assert!(tally.latencies.iter().filter(|latency| **latency >= 60e3).count() >= 25, "{:?}", tally.latencies);
}

#[tokio::test]
async fn a_connection_that_the_target_closes_is_opened_anew() {
    let answer = async || ([("connection", "close")], mock::FIXED_MARK);
    let closing = serve_router(Router::new().route("/v1/chat/completions", post(answer))).await;
    let tally = drive_thirty(&closing, Duration::from_secs(60)).await;
    assert_eq!((tally.first_bytes.len(), tally.errors), (30, BTreeMap::new()));
}

#[tokio::test]
async fn a_connection_that_breaks_off_is_an_error_at_once() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let server = format!("http://{}", listener.local_addr().unwrap());
    let break_off = async {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            // Says nothing of closing, and does so before or after the next request.
            let _ = stream.read(&mut [0; 4096]).await.unwrap();
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}").await.unwrap();
        }
    };
    tokio::select! {
        tally = drive_thirty_at(&server, Duration::from_secs(60)) => {
            assert!(!tally.first_bytes.is_empty() && !tally.errors.contains_key("unanswered"), "{:?}", tally.errors);
        }
        () = break_off => {}
    }
}

#[tokio::test]
async fn of_the_warm_up_neither_answers_nor_errors_count() {
    // The check, then some failures of the warm-up.
    let server = serve_faulty(1..7, Fault::Fail).await;
    let out = tempfile::tempdir().unwrap();
    let workload = write_workload(out.path(), "");
    let more = ["--warm-seconds", "0.3"];
    let samples = measure(&args(&[format!("gw={}", server.url(""))], &workload, out.path(), &more)).await.unwrap();
    assert!(samples[0].requests > 0 && samples[0].errors.is_empty(), "{:?}", samples[0]);
}

#[tokio::test]
async fn a_process_that_ends_does_not_cost_the_run() {
    let upstream = serve_fixed().await;
    let out = tempfile::tempdir().unwrap();
    let workload = write_workload(out.path(), "");
    let targets = [format!("direct={}", upstream.url("")), format!("gw={},pid={}", upstream.url(""), u32::MAX)];
    let error = run(args(&targets, &workload, out.path(), &[])).await.unwrap_err().to_string();
    assert!(error.contains("in 2 measurements a process of the target could not be read"), "{error}");
    assert!(error.contains("target gw, round 1, workload w") && error.contains("still running?"), "{error}");
    let (folder, summary) = run_folder(out.path());
    assert!(summary["w_gw_c3_rps"].as_f64().unwrap() > 0.0 && summary.get("w_gw_c3_foreign_cpu_share").is_none());
    assert!(std::fs::read_to_string(folder.join("report.md")).unwrap().contains("## Errors"));
}

#[test]
fn targets_that_are_missing_or_alike_are_told() {
    let given = |targets: &[&str]| {
        let targets: Vec<String> = targets.iter().map(|target| (*target).to_string()).collect();
        args(&targets, Path::new("w.toml"), Path::new("out"), &[])
    };
    let url = "http://127.0.0.1:1";
    let alike = given(&[&format!("gw-1={url}"), &format!("gw_1={url}")]);
    assert!(check(&alike).unwrap_err().to_string().contains("two are called \"gw_1\""));
    let lone = given(&[&format!("gw={url},pid=1")]);
    check(&lone).unwrap();
    let told = notes(&lone);
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(told[0].contains("\"direct\" (--direct)") && told[1].contains("\"pingora-min\" (--reference)"), "{told:?}");
    let whole = given(&[&format!("direct={url}"), &format!("pingora-min={url},pid=1"), &format!("gw={url},pid=1")]);
    assert_eq!(notes(&whole), ["Targets without pid count as foreign in the machine's CPU time: direct."]);
}

#[test]
fn numbers_that_no_run_can_use_are_bad_flags() {
    for flag in [
        "--rate=0",
        "--rate=-1",
        "--rate=nan",
        "--rate=inf",
        "--rate=1e12",
        "--rate=1e-9",
        "--seconds=nan",
        "--seconds=inf",
        "--seconds=1e30",
        "--warm-seconds=nan",
        "--grace-seconds=-1",
    ] {
        let words = ["load", "--target", "gw=http://127.0.0.1:1", "--name", "n", flag];
        let error = <Wrapper as clap::Parser>::try_parse_from(words).err().unwrap().to_string();
        assert!(
            error.contains(flag.split('=').next().unwrap()) && error.contains("must be between"),
            "{flag}: {error}"
        );
    }
}

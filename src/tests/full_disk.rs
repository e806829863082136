//! A disk that takes no more: the record stops and says so, traffic goes on.

use std::process::Command;

use serde_json::json;

use crate::harness::*;
use crate::process_log::Logged;

/// Runs what follows with a limit for the size of any file it writes: 2 MiB, or 4 where the shell counts in larger blocks. Without
/// its signal the limit is an error of the write, as is a full disk.
fn with_full_disk() -> Command {
    let mut command = Command::new("sh");
    command.args(["-c", "trap '' XFSZ; ulimit -f 4096; exec \"$0\" \"$@\"", binary()]);
    command
}

fn n_shed(metrics: &str) -> u64 {
    let line = metrics.lines().find_map(|line| line.strip_prefix("weirgate_flywheel_shed_total "));
    line.expect("the metric is there").parse().unwrap()
}

#[tokio::test]
async fn a_full_disk_stops_the_record_and_no_traffic() {
    let upstream = Upstream::chat().await;
    let folder = Folder::new();
    folder.services(&[("llm", upstream.address)]).route("chat", "/", "llm.static");
    folder.plugin("semantic-router", &json!({"candidates": [{"model": "a"}], "baseline": "a"}), &json!([]));
    let mut logged = Logged::start_by(with_full_disk(), folder, "[flywheel]\nqueue_rows = 50\n");
    let gateway = &logged.gateway;
    let long = question("auto", &"x".repeat(64 << 10));
    let metrics_after_a_chat = || async {
        let answer = gateway.chat(&long).await;
        assert_eq!(answer.status, 200, "{}", answer.text());
        gateway.metrics().await
    };
    let n_before = eventually_async("the flywheel to stop", || async {
        let metrics = metrics_after_a_chat().await;
        metrics.lines().any(|line| line == "weirgate_flywheel_suspended 1").then(|| n_shed(&metrics))
    })
    .await;
    eventually_async("records to be shed", || async {
        (n_shed(&metrics_after_a_chat().await) > n_before).then_some(())
    })
    .await;
    assert_eq!(gateway.admin("GET", "/readyz").await.status, 200);
    logged.says(&["ERROR", "The flywheel stops storing; traffic goes on."]).await;
}

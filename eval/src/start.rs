//! `weirgate-eval start`: how long a gateway takes from exec to its first 200 on a readiness URL, and what memory it then holds.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use clap::Args;
use tokio::net::TcpStream;

use crate::http::{Client, http_uri, parse_url};
use crate::numbers;
use crate::print_line;
use crate::process::rss_mib;
use crate::run_folder::RunFolder;
use crate::stats::{median, percentile, sorted};

#[derive(Args)]
pub struct StartArgs {
    /// Answers 200 once the gateway is ready; nothing may listen there before
    #[arg(long, value_parser = parse_url)]
    ready: String,
    #[arg(long, default_value_t = 7, value_parser = clap::value_parser!(u32).range(1..=1000))]
    starts: u32,
    /// Seconds from ready to the look at the memory
    #[arg(long, default_value_t = 1.0, value_parser = numbers::waited_seconds)]
    settle_seconds: f64,
    /// Last part of the run folder's name
    #[arg(long)]
    name: String,
    #[arg(long, default_value = "eval/runs")]
    out: PathBuf,
    /// The gateway with its arguments; `{fresh}` is a new empty folder at each start
    #[arg(last = true, required = true)]
    command: Vec<String>,
}

/// Longest wait for the gateway to be ready.
const LIMIT: Duration = Duration::from_secs(60);
/// Between two looks whether it is: what a start may be off by.
const POLL: Duration = Duration::from_millis(1);

/// One start.
struct Started {
    ready_ms: f64,
    rss_mib: f64,
}

/// Measures, writes the run folder and prints its path.
pub async fn run(args: StartArgs) -> Result<()> {
    let folder = RunFolder::create(&args.out, &args.name)?;
    let mut starts = Vec::new();
    for _ in 0..args.starts {
        starts.push(start(&args).await?);
    }
    let ready = sorted(starts.iter().map(|start| start.ready_ms));
    let metrics = BTreeMap::from([
        ("start_ms_median".to_string(), median(ready.clone())),
        ("start_ms_max".to_string(), percentile(&ready, 100.0)),
        ("idle_rss_mib".to_string(), median(starts.iter().map(|start| start.rss_mib).collect())),
    ]);
    folder.write_summary(&metrics)?;
    let line = format!(
        "start to ready: median {:.0} ms, slowest {:.0} ms of {} starts; {:.1} MiB resident {} s later",
        metrics["start_ms_median"], metrics["start_ms_max"], args.starts, metrics["idle_rss_mib"], args.settle_seconds
    );
    folder.write("report.md", format!("# Start and idle memory\n\n{}\n{line}.\n", folder.provenance_line()))?;
    print_line(&line)?;
    print_line(&folder.path.display().to_string())
}

async fn start(args: &StartArgs) -> Result<Started> {
    refuse_another(&args.ready).await?;
    let fresh = tempfile::tempdir()?;
    let place = fresh.path().display().to_string();
    let words: Vec<String> = args.command.iter().map(|word| word.replace("{fresh}", &place)).collect();
    let mut command = Command::new(&words[0]);
    command.args(&words[1..]).stdout(Stdio::null()).stderr(Stdio::null());
    let began = Instant::now();
    let mut gateway = Gateway(command.spawn().with_context(|| format!("{}: cannot be started", words[0]))?);
    wait_for_ready(&mut gateway, &args.ready, began).await?;
    let ready_ms = began.elapsed().as_secs_f64() * 1e3;
    tokio::time::sleep(Duration::from_secs_f64(args.settle_seconds)).await;
    Ok(Started { ready_ms, rss_mib: rss_mib(gateway.0.id())? })
}

/// Whatever listens at `url` before the start would be measured in place of the gateway.
async fn refuse_another(url: &str) -> Result<()> {
    let uri = http_uri(url)?;
    let host = uri.host().unwrap_or_default().trim_matches(['[', ']']);
    if TcpStream::connect((host, uri.port_u16().unwrap_or(80))).await.is_ok() {
        bail!(
            "{url} (--ready): something listens there already and would be measured in place of the gateway; end it first"
        );
    }
    Ok(())
}

/// Killed when dropped: the next start needs its ports.
struct Gateway(Child);

impl Drop for Gateway {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

async fn wait_for_ready(gateway: &mut Gateway, url: &str, began: Instant) -> Result<()> {
    // A client of its own: the connections of the process before are gone.
    let client = Client::new();
    while began.elapsed() < LIMIT {
        if let Some(status) = gateway.0.try_wait()? {
            bail!("the gateway ended with {status} before {url} answered; start it by hand to see why");
        }
        if client.send(Client::request("GET", url, &[], Bytes::new())?).await.is_ok_and(|answer| answer.status == 200) {
            return Ok(());
        }
        tokio::time::sleep(POLL).await;
    }
    bail!("{url} did not answer with 200 within {} s", LIMIT.as_secs())
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::Value;

    use super::*;
    use crate::test_support::serve_fixed;

    #[derive(clap::Parser)]
    struct Wrapper {
        #[command(flatten)]
        args: StartArgs,
    }

    fn parse(more: &[&str]) -> Result<StartArgs, clap::Error> {
        let own = ["x", "--name", "s", "--starts", "2"];
        <Wrapper as clap::Parser>::try_parse_from(own.iter().chain(more)).map(|wrapper| wrapper.args)
    }

    fn args(ready: &str, out: &Path, command: &[&str]) -> StartArgs {
        let own = ["--ready", ready, "--settle-seconds", "0", "--out", out.to_str().unwrap(), "--"];
        parse(&[&own, command].concat()).unwrap()
    }

    async fn free_port() -> u16 {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        listener.local_addr().unwrap().port()
    }

    #[tokio::test]
    async fn a_start_is_measured_and_written() {
        let port = free_port().await.to_string();
        let out = tempfile::tempdir().unwrap();
        // Stands for a gateway; {fresh} has to be a folder.
        let server = ["python3", "-m", "http.server", &port, "--bind", "127.0.0.1", "--directory", "{fresh}"];
        run(args(&format!("http://127.0.0.1:{port}/"), out.path(), &server)).await.unwrap();
        let folder = std::fs::read_dir(out.path()).unwrap().next().unwrap().unwrap().path();
        let summary: Value =
            serde_json::from_str(&std::fs::read_to_string(folder.join("summary.json")).unwrap()).unwrap();
        assert!(summary["start_ms_median"].as_f64() <= summary["start_ms_max"].as_f64(), "{summary}");
        assert!(summary["idle_rss_mib"].as_f64().unwrap() > 0.0, "{summary}");
    }

    #[tokio::test]
    async fn another_process_is_not_measured() {
        let other = serve_fixed().await;
        let out = tempfile::tempdir().unwrap();
        let error = run(args(&other.url("/"), out.path(), &["sleep", "60"])).await.unwrap_err().to_string();
        assert!(error.contains("(--ready): something listens there already"), "{error}");
    }

    #[tokio::test]
    async fn a_gateway_that_ends_is_an_error_that_says_so() {
        let out = tempfile::tempdir().unwrap();
        let url = format!("http://127.0.0.1:{}/", free_port().await);
        let error = run(args(&url, out.path(), &["false"])).await.unwrap_err().to_string();
        assert!(error.contains("ended with exit status: 1"), "{error}");
        let error = run(args(&url, out.path(), &["no-such-program"])).await.unwrap_err().to_string();
        assert!(error.contains("no-such-program"), "{error}");
    }

    #[test]
    fn bad_flags_are_named() {
        for (flag, value) in
            [("--settle-seconds", "-1"), ("--settle-seconds", "nan"), ("--ready", "https://127.0.0.1/")]
        {
            let good = if flag == "--ready" { vec![] } else { vec!["--ready", "http://127.0.0.1/"] };
            let given = format!("{flag}={value}");
            let error = parse(&[&good[..], &[&given, "--", "true"]].concat()).err().unwrap().to_string();
            assert!(error.contains(flag) && error.contains(value), "{error}");
        }
    }
}

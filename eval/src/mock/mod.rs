//! `weirgate-eval mock` and `weirgate-eval world`: the model provider of the routing challenge, drawn from a world file.
//!
//! `world` is the file, `draw` what a model answers, `service` the state of one service, `api` its HTTP face, `sse` streams,
//! `fixed` the answer-at-once upstream for load tests, `permute` makes other worlds.

pub mod api;
pub mod draw;
pub mod fixed;
mod paced;
pub mod permute;
pub mod questions;
pub mod service;
mod sse;
pub mod world;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use clap::Args;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

use crate::print_line;
pub use fixed::MARK as FIXED_MARK;
use service::Service;
use world::World;

/// Ports of the two services unless told otherwise; `challenge` looks there too.
pub const TRAIN_PORT: u16 = 18081;
pub const VERIFY_PORT: u16 = 18082;

#[derive(Args)]
pub struct MockArgs {
    /// Question file of the train service (JSON lines with id, question, domain)
    #[arg(long)]
    train: Option<PathBuf>,
    /// Question file of the verify service
    #[arg(long)]
    verify: Option<PathBuf>,
    /// Serve one question file only, at --port
    #[arg(long, conflicts_with_all = ["train", "verify"])]
    questions: Option<PathBuf>,
    /// Serve fixed answers at once, at --port: the upstream of `weirgate-eval load`
    #[arg(long = "static", conflicts_with_all = ["train", "verify", "questions", "world"])]
    fixed: bool,
    /// World file; the built-in default world if not given
    #[arg(long)]
    world: Option<PathBuf>,
    #[arg(long, default_value_t = IpAddr::V4(Ipv4Addr::LOCALHOST))]
    host: IpAddr,
    /// Port with --questions or --static; 0 picks a free one
    #[arg(long, default_value_t = 0)]
    port: u16,
    #[arg(long, default_value_t = TRAIN_PORT)]
    train_port: u16,
    #[arg(long, default_value_t = VERIFY_PORT)]
    verify_port: u16,
    /// Multiplies every latency; 0 answers at once
    #[arg(long, default_value_t = 1.0)]
    time_scale: f64,
    /// With --static: milliseconds between the events of a stream; 0 sends all at once
    #[arg(long, default_value_t = 0)]
    event_interval_ms: u64,
}

/// Serves until SIGINT or SIGTERM. Prints one JSON line `{"train":"http://…","verify":"http://…"}` when ready; the names are
/// `questions` with --questions and `static` with --static.
pub async fn run(args: MockArgs) -> Result<()> {
    if !(0.0..=1000.0).contains(&args.time_scale) {
        bail!("--time-scale {}: must be between 0 and 1000", args.time_scale);
    }
    let mut urls = serde_json::Map::new();
    let mut servers = JoinSet::new();
    if args.fixed {
        let listener = bind(args.host, args.port, "--port", &mut urls, "static").await?;
        servers.spawn(fixed::serve(listener, std::time::Duration::from_millis(args.event_interval_ms)));
    } else {
        let files = match (args.questions, args.train, args.verify) {
            (Some(file), None, None) => vec![("questions", file, args.port, "--port")],
            (None, Some(train), Some(verify)) => {
                vec![
                    ("train", train, args.train_port, "--train-port"),
                    ("verify", verify, args.verify_port, "--verify-port"),
                ]
            }
            _ => bail!("name the questions: both --train FILE and --verify FILE, or --questions FILE, or --static"),
        };
        let world = Arc::new(World::load(args.world.as_deref())?);
        for (name, file, port, flag) in files {
            let service = Service::new(world.clone(), questions::load(&file)?, args.time_scale)
                .with_context(|| format!("question file {}", file.display()))?;
            let listener = bind(args.host, port, flag, &mut urls, name).await?;
            servers.spawn(async move { Ok(axum::serve(listener, api::router(Arc::new(service))).await?) });
        }
    }
    print_line(&serde_json::Value::Object(urls).to_string())?;
    tokio::select! {
        ended = servers.join_next() => ended.unwrap_or(Ok(Ok(()))).context("the server task failed")?,
        stopped = stop_signal() => stopped,
    }
}

async fn bind(
    host: IpAddr,
    port: u16,
    flag: &str,
    urls: &mut serde_json::Map<String, serde_json::Value>,
    name: &str,
) -> Result<TcpListener> {
    let address = SocketAddr::new(host, port);
    let listener = TcpListener::bind(address).await.with_context(|| {
        format!("cannot listen at {address}; is a mock still running there? choose another port with {flag}")
    })?;
    urls.insert(name.to_string(), format!("http://{}", listener.local_addr()?).into());
    Ok(listener)
}

async fn stop_signal() -> Result<()> {
    let mut terminate = tokio::signal::unix::signal(tokio::signal::unix::SignalKind::terminate())?;
    tokio::select! {
        _ = terminate.recv() => Ok(()),
        interrupted = tokio::signal::ctrl_c() => Ok(interrupted?),
    }
}

#[derive(Args)]
pub struct WorldArgs {
    #[command(subcommand)]
    command: WorldCommand,
}

#[derive(clap::Subcommand)]
enum WorldCommand {
    /// Write a world whose specialists are swapped and whose sizes are reshuffled at random
    Permute {
        #[arg(long)]
        seed: u64,
        /// File to write
        #[arg(long)]
        out: PathBuf,
        /// World to start from; the built-in default world if not given
        #[arg(long)]
        world: Option<PathBuf>,
    },
}

pub fn run_world(args: WorldArgs) -> Result<()> {
    let WorldCommand::Permute { seed, out, world } = args.command;
    let permuted = permute::permute(&World::load(world.as_deref())?, seed);
    let base = world.map_or("the default world".to_string(), |path| path.display().to_string());
    let text = format!(
        "# Written by `weirgate-eval world permute --seed {seed}` from {base}.\n\n{}",
        toml::to_string(&permuted)?
    );
    std::fs::write(&out, text).with_context(|| format!("world file {}: cannot be written", out.display()))
}

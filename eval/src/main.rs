//! `weirgate-eval`: the black-box harness. It speaks HTTP only and knows nothing of the gateway's insides, so it measures any.
//!
//! `mock` is the challenge's model provider (and the fixed upstream of load tests), `challenge` runs the routing protocol
//! against a gateway, `load` measures speed, `start` the time to ready, `rag` retrieval and answers. Each run of these writes one folder (see `run_folder`).

mod challenge;
mod chart;
mod http;
mod load;
mod mock;
mod numbers;
mod process;
mod rag;
mod run_folder;
mod shell;
mod start;
mod stats;
#[cfg(test)]
mod test_support;

use std::io::Write;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

#[derive(Parser)]
#[command(name = "weirgate-eval", version, about = "Measures an AI gateway from outside, over HTTP")]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Serve the challenge's models, questions and scores
    Mock(mock::MockArgs),
    /// Run the routing challenge against a gateway
    Challenge(Box<challenge::ChallengeArgs>),
    /// Measure latency, throughput and CPU time beside other targets
    Load(Box<load::LoadArgs>),
    /// Measure the time a gateway takes to be ready, and its memory before the first request
    Start(start::StartArgs),
    /// Measure retrieval-augmented generation step by step
    Rag(Box<rag::RagArgs>),
    /// Compare a judge's factuality grades with labels
    RagJudge(Box<rag::JudgeArgs>),
    /// Make other worlds for the mock
    World(mock::WorldArgs),
}

#[tokio::main]
async fn main() -> ExitCode {
    let done = match Cli::parse().command {
        Command::Mock(args) => mock::run(args).await,
        Command::Challenge(args) => challenge::run(*args).await,
        Command::Load(args) => load::run(*args).await,
        Command::Start(args) => start::run(args).await,
        Command::Rag(args) => rag::run(*args).await,
        Command::RagJudge(args) => rag::run_judge(*args).await,
        Command::World(args) => mock::run_world(args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // Nothing is left to do if standard error is closed.
            let _ = writeln!(std::io::stderr(), "weirgate-eval: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// A line on standard output.
fn print_line(line: &str) -> anyhow::Result<()> {
    Ok(writeln!(std::io::stdout(), "{line}")?)
}

/// A warning on standard error, for what the report says too.
fn warn_line(line: &str) {
    // The report still has it if standard error is closed.
    let _ = writeln!(std::io::stderr(), "weirgate-eval: {line}");
}

//! The command line. Each subcommand is a file; this one parses, dispatches and turns errors into exit codes.

mod config;
mod config_history;
mod flywheel;
mod import;
mod models;
mod output;
mod rag;
mod rag_calibrate;
mod rag_ingest;
mod router;
mod router_eval;
mod router_families;
mod serve;
mod validate;

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

use self::output::complain;
use crate::config::{Problem, Settings};
use crate::server::StartError;

/// AI gateway in one binary: Higress-compatible configuration, model providers, learned routing.
#[derive(Parser)]
#[command(name = "weirgate", version, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Run the gateway.
    Serve(serve::ServeArgs),
    /// Check config.toml and a configuration folder; lists every problem.
    Validate(validate::ValidateArgs),
    /// Report what becomes of a Higress configuration folder, object by object.
    Import(import::ImportArgs),
    /// Settings (effective, default, schema), and the history of the configuration folder.
    Config(config::ConfigArgs),
    /// Train, judge, promote and roll back routers.
    Router(router::RouterArgs),
    /// Look into the record of outcomes, export, import, prune.
    Flywheel(flywheel::FlywheelArgs),
    /// Knowledge bases: store documents, find passages, list, delete.
    Rag(rag::RagArgs),
    /// Model files that run inside the process: list, fetch, verify.
    Models(models::ModelsArgs),
}

/// Where settings, configuration and data are; the same flags on every command.
#[derive(Args, Clone, Debug, Default)]
pub struct Places {
    /// Process settings; without this flag config.toml of the working folder is used if it exists.
    #[arg(long, global = true, value_name = "FILE")]
    config: Option<PathBuf>,
    /// Folder of YAML objects (overrides config.toml).
    #[arg(long, global = true, value_name = "DIR")]
    config_dir: Option<PathBuf>,
    /// Folder for the database and what else the gateway writes (overrides config.toml).
    #[arg(long, global = true, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Folder of model files (overrides config.toml).
    #[arg(long, global = true, value_name = "DIR")]
    models_dir: Option<PathBuf>,
}

impl Places {
    /// Settings from the file, if there is one, under the flags.
    fn settings(&self) -> Result<Settings, CliError> {
        let (settings, problems) = self.read_settings();
        if problems.is_empty() { Ok(settings) } else { Err(CliError::Problems(problems)) }
    }

    /// As [`Self::settings`], with defaults in place of what is wrong with the file.
    fn read_settings(&self) -> (Settings, Vec<Problem>) {
        let default = PathBuf::from("config.toml");
        let file = self.config.clone().or_else(|| default.exists().then_some(default));
        let (mut settings, problems) = file.map(|path| Settings::read(&path)).unwrap_or_default();
        if let Some(dir) = &self.config_dir {
            settings.config_dir.clone_from(dir);
        }
        if let Some(dir) = &self.data_dir {
            settings.data_dir.clone_from(dir);
        }
        if let Some(dir) = &self.models_dir {
            settings.models_dir.clone_from(dir);
        }
        (settings, problems)
    }
}

/// Why a command ended badly; decides the exit code.
#[derive(Debug, thiserror::Error)]
pub enum CliError {
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Problems(Vec<Problem>),
    #[error("{0}")]
    Usage(String),
    #[error("{0}")]
    Failed(String),
    #[error(transparent)]
    Start(#[from] StartError),
}

impl CliError {
    #[expect(clippy::needless_pass_by_value, reason = "used as map_err(CliError::failed)")]
    fn failed(error: impl ToString) -> CliError {
        CliError::Failed(error.to_string())
    }

    /// 64 usage or configuration, 69 something not available, 1 anything else.
    fn exit_code(&self) -> u8 {
        match self {
            CliError::Problems(_) | CliError::Usage(_) => 64,
            CliError::Start(error) => error.exit_code(),
            CliError::Failed(_) => 1,
        }
    }
}

pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are no errors; anything else is bad usage.
            let code = if error.use_stderr() { 64 } else { 0 };
            let _ = error.print();
            return ExitCode::from(code);
        }
    };
    let result = match cli.command {
        Command::Serve(args) => serve::run(&args),
        Command::Validate(args) => validate::run(&args),
        Command::Import(args) => import::run(&args),
        Command::Config(args) => config::run(&args),
        Command::Router(args) => router::run(&args),
        Command::Flywheel(args) => flywheel::run(&args),
        Command::Rag(args) => rag::run(&args),
        Command::Models(args) => models::run(&args),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error.to_string());
            ExitCode::from(error.exit_code())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_well_formed() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }
}

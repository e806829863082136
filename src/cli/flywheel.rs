//! `weirgate flywheel stats|export|import|prune`: works on the database directly, also while the gateway runs.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Subcommand};

use super::output::{complain, say, say_json, table};
use super::{CliError, Places};
use crate::flywheel::{FILE_NAME, Features, Filter, FlywheelError, GroupStats, Store};
use crate::learning::learner::features_of_text;
use crate::routing::FEATURES_VERSION;

#[derive(Args)]
pub struct FlywheelArgs {
    #[command(flatten)]
    places: Places,
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// What is recorded, by model and by route.
    Stats {
        #[arg(long)]
        json: bool,
    },
    /// One JSON object per exchange and line; `-` is standard output.
    Export { file: PathBuf },
    /// Reads what export wrote; rows that exist are skipped. `-` is standard input.
    Import {
        file: PathBuf,
        /// Drop the text of prompts and answers.
        #[arg(long)]
        redact: bool,
    },
    /// Deletes the oldest exchanges and shrinks the file.
    Prune {
        /// Delete what is older than this many days.
        #[arg(long, value_name = "DAYS", value_parser = clap::value_parser!(u64).range(1..))]
        max_age_days: Option<u64>,
        /// Delete the oldest until the file is at most this large.
        #[arg(long, value_name = "MB", value_parser = clap::value_parser!(u64).range(1..))]
        max_mb: Option<u64>,
    },
}

pub fn run(args: &FlywheelArgs) -> Result<(), CliError> {
    // An import may be the first thing that happens to a data folder; what reads must not make an empty database.
    let store = if matches!(args.action, Action::Import { .. }) { create(&args.places)? } else { open(&args.places)? };
    match &args.action {
        Action::Stats { json } => stats(&store, *json),
        Action::Export { file } => {
            let mut writer: Box<dyn Write> = if file.as_os_str() == "-" {
                Box::new(std::io::stdout().lock())
            } else {
                // Prompts and answers are nobody else's business, as in the database.
                let created = File::options().write(true).create(true).truncate(true).mode(0o600).open(file);
                Box::new(BufWriter::new(created.map_err(|error| at(file, &error))?))
            };
            let n = match store.export(&mut writer, &Filter::default()) {
                // Who reads has read enough, `head` for one.
                Err(FlywheelError::Io { source, .. }) if source.kind() == ErrorKind::BrokenPipe => return Ok(()),
                exported => exported.map_err(CliError::failed)?,
            };
            writer.flush().map_err(|error| at(file, &error))?;
            complain(&format!("{n} exchanges written"));
            Ok(())
        }
        Action::Import { file, redact } => {
            let mut reader: Box<dyn BufRead> = if file.as_os_str() == "-" {
                Box::new(std::io::stdin().lock())
            } else {
                Box::new(BufReader::new(File::open(file).map_err(|error| at(file, &error))?))
            };
            let features: &Features<'_> = &|messages| Some((features_of_text(&messages.0)?, FEATURES_VERSION));
            let report = store.import(&mut reader, redact.then_some(features)).map_err(CliError::failed)?;
            for bad in &report.bad {
                complain(&format!("line {}: {}", bad.line, bad.reason));
            }
            say(&format!(
                "{} inserted, {} already there, {} bad lines",
                report.n_inserted, report.n_skipped, report.n_bad
            ));
            if report.n_bad == 0 {
                Ok(())
            } else {
                Err(CliError::Failed("some lines could not be read; the others are imported".into()))
            }
        }
        Action::Prune { max_age_days, max_mb } => {
            if max_age_days.is_none() && max_mb.is_none() {
                return Err(CliError::Usage("prune needs --max-age-days or --max-mb".into()));
            }
            let age = max_age_days.map(|days| Duration::from_secs(days * 86_400));
            let report = store.prune(age, max_mb.map(|mb| mb.saturating_mul(1024 * 1024))).map_err(CliError::failed)?;
            say_json(&report);
            Ok(())
        }
    }
}

/// The database of the data folder, made if it is not there.
fn create(places: &Places) -> Result<Store, CliError> {
    let folder = places.settings()?.data_dir;
    std::fs::create_dir_all(&folder).map_err(|error| at(&folder, &error))?;
    Store::open(&folder.join(FILE_NAME)).map_err(CliError::failed)
}

/// The database of the data folder, which must exist.
pub fn open(places: &Places) -> Result<Store, CliError> {
    let path = places.settings()?.data_dir.join(FILE_NAME);
    if !path.exists() {
        let message = format!("{} does not exist; name the gateway's data folder with --data-dir", path.display());
        return Err(CliError::Usage(message));
    }
    Store::open(&path).map_err(CliError::failed)
}

fn at(file: &std::path::Path, error: &std::io::Error) -> CliError {
    CliError::Failed(format!("{}: {error}", file.display()))
}

fn stats(store: &Store, json: bool) -> Result<(), CliError> {
    let stats = store.stats(&Filter::default()).map_err(CliError::failed)?;
    if json {
        say_json(&stats);
        return Ok(());
    }
    let share = stats.scored_share.map_or_else(|| "-".to_owned(), |share| format!("{:.1} %", share * 100.0));
    say(&format!(
        "{} exchanges, {} answers ({share} of exchanges scored), {} feedback, {:.4} USD, {:.1} MB",
        stats.n_exchanges,
        stats.n_answers,
        stats.n_feedback,
        stats.cost_usd,
        mb(stats.db_bytes)
    ));
    groups("model", &stats.by_model);
    groups("route (served answers)", &stats.by_route);
    Ok(())
}

fn groups(title: &str, groups: &[GroupStats]) {
    let number =
        |value: Option<f64>, digits: usize| value.map_or_else(|| "-".to_owned(), |value| format!("{value:.digits$}"));
    let head =
        [title, "n", "ok %", "scored", "score", "ms mean", "ms p50", "ms p95", "USD"].map(str::to_owned).to_vec();
    let rows = groups.iter().map(|group| {
        vec![
            group.name.clone(),
            group.n.to_string(),
            format!("{:.1}", group.ok_share * 100.0),
            group.n_scored.to_string(),
            number(group.score_mean, 3),
            number(group.latency_ms_mean, 1),
            number(group.latency_ms_p50, 1),
            number(group.latency_ms_p95, 1),
            format!("{:.4}", group.cost_usd),
        ]
    });
    table(&std::iter::once(head).chain(rows).collect::<Vec<_>>());
}

#[expect(clippy::cast_precision_loss, reason = "file sizes stay far below 2^52")]
fn mb(bytes: u64) -> f64 {
    bytes as f64 / (1024.0 * 1024.0)
}

//! `weirgate config effective|default|schema`, and the history of the folder in [`super::config_history`].

use clap::{Args, Subcommand};

use super::output::{say, say_json};
use super::{CliError, Places, config_history};
use crate::config::settings::{commented_default, json_schema};

#[derive(Args)]
pub struct ConfigArgs {
    #[command(flatten)]
    places: Places,
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// The settings in force with this config.toml and these flags.
    Effective,
    /// A commented config.toml with every default.
    Default,
    /// JSON schema of config.toml.
    Schema,
    /// The configurations that were in force, newest first.
    History(config_history::HistoryArgs),
    /// What a configuration changed, as a diff of its files.
    Diff(config_history::DiffArgs),
    /// Writes the files of an earlier configuration back into the folder.
    Rollback(config_history::RollbackArgs),
}

pub fn run(args: &ConfigArgs) -> Result<(), CliError> {
    match &args.what {
        What::Effective => say(toml::to_string(&args.places.settings()?).map_err(CliError::failed)?.trim_end()),
        What::Default => say(commented_default().trim_end()),
        What::Schema => say_json(&json_schema()),
        What::History(history) => return config_history::history(&args.places, history),
        What::Diff(diff) => return config_history::diff(&args.places, diff),
        What::Rollback(rollback) => return config_history::rollback(&args.places, rollback),
    }
    Ok(())
}

//! `weirgate config effective|default|schema`

use clap::{Args, Subcommand};

use super::output::{say, say_json};
use super::{CliError, Places};
use crate::config::settings::{commented_default, json_schema};

#[derive(Args)]
pub struct ConfigArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// The settings in force with this config.toml and these flags.
    Effective(Places),
    /// A commented config.toml with every default.
    Default,
    /// JSON schema of config.toml.
    Schema,
}

pub fn run(args: &ConfigArgs) -> Result<(), CliError> {
    match &args.what {
        What::Effective(places) => say(toml::to_string(&places.settings()?).map_err(CliError::failed)?.trim_end()),
        What::Default => say(commented_default().trim_end()),
        What::Schema => say_json(&json_schema()),
    }
    Ok(())
}

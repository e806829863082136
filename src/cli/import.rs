//! `weirgate import DIR`: what becomes of a Higress configuration folder here, object by object. Starts nothing, and changes
//! nothing in the folder.

mod parts;
mod render;
mod verdict;

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use clap::{Args, ValueEnum};

use self::verdict::{Report, Verdict};
use super::output::{say, say_json};
use super::validate::unusable_files;
use super::{CliError, Places};
use crate::config::{Folder, Problem, compile, flattened, replace};
use crate::plugins::registry::BuiltIns;
use crate::proxy::client_identity::unusable_identities;
use crate::proxy::snapshot::{at_admin, services_at_admin};
use crate::proxy::tls::Certificates;
use crate::server::certificate_faults;

#[derive(Args)]
pub struct ImportArgs {
    /// The data folder of a Higress standalone installation; default is the configuration folder of config.toml.
    dir: Option<PathBuf>,
    #[command(flatten)]
    places: Places,
    /// Write a copy of the folder to this place, in which every object is in the namespace higress-system, and report on that
    /// copy. Higress standalone ignores `metadata.namespace`; this gateway honours it.
    #[arg(long, value_name = "NEW_DIR")]
    flatten: Option<PathBuf>,
    /// Form of the report.
    #[arg(long, value_enum, default_value = "md")]
    report: Form,
}

#[derive(Clone, Copy, ValueEnum)]
enum Form {
    Html,
    Md,
    Json,
}

pub fn run(args: &ImportArgs) -> Result<(), CliError> {
    let settings = args.places.settings()?;
    let mut dir = args.dir.clone().unwrap_or_else(|| settings.config_dir.clone());
    let mut left_behind = Vec::new();
    if let Some(copy) = &args.flatten {
        left_behind = flatten(&dir, copy)?;
        dir.clone_from(copy);
    }
    let listing = Folder::new(&dir).read().map_err(|error| CliError::Usage(error.to_string()))?;
    if listing.objects.is_empty() && listing.problems.iter().all(|problem| !problem.is_fault()) {
        let told: Vec<String> = listing.problems.iter().map(ToString::to_string).collect();
        return Err(CliError::Usage(
            format!("{} has no object to import\n{}", dir.display(), told.join("\n")).trim_end().to_owned(),
        ));
    }
    let compiled = compile(&listing.objects, &BuiltIns);
    let mut problems = listing.problems;
    problems.extend(left_behind);
    problems.extend(compiled.problems);
    problems.extend(Certificates::load(&compiled.gateway.certificates).1);
    problems.extend(unusable_identities(&compiled.gateway));
    let ordered = compiled.gateway.https.as_ref();
    problems.extend(certificate_faults(&compiled.gateway.certificates, ordered, SystemTime::now()));
    problems.extend(services_at_admin(&settings, &compiled.gateway));
    problems.extend(unusable_files(&compiled.gateway, &settings.data_dir));
    let unsent: HashSet<&str> = at_admin(&settings, &compiled.gateway).map(|service| service.host.as_str()).collect();
    let report = Report::of(&dir, &listing.objects, &compiled.gateway, &unsent, &problems);
    match args.report {
        Form::Json => say_json(&report),
        Form::Md => say(report.markdown().trim_end()),
        Form::Html => say(report.html().trim_end()),
    }
    match report.count(Verdict::Refused) {
        0 => Ok(()),
        refused => Err(CliError::Usage(format!("{refused} objects have errors; this configuration would not go live"))),
    }
}

/// Writes the copy; what the folder has that is not in it, and that is not an error, is in the warnings.
fn flatten(dir: &Path, copy: &Path) -> Result<Vec<Problem>, CliError> {
    let is_empty = std::fs::read_dir(copy).map(|mut entries| entries.next().is_none()).unwrap_or(true);
    if !is_empty {
        return Err(CliError::Usage(format!("{} is not empty; name a new folder for the copy", copy.display())));
    }
    let mut folder = Folder::new(dir);
    let (files, problems) = flattened(&mut folder).map_err(|error| CliError::Usage(error.to_string()))?;
    let (unread, others): (Vec<Problem>, Vec<Problem>) =
        problems.into_iter().filter(|problem| folder.content(&problem.file).is_none()).partition(Problem::is_error);
    if !unread.is_empty() {
        return Err(CliError::Problems(unread));
    }
    if files.is_empty() {
        return Err(CliError::Usage(format!("{} has no object to copy", dir.display())));
    }
    replace(copy, &files, dir)
        .map_err(|(file, error)| CliError::Failed(format!("{} cannot be written: {error}", file.display())))?;
    Ok(others)
}

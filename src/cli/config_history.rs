//! `weirgate config history|diff|rollback`: what was in force, and the way back to it.
//!
//! A rollback writes files and nothing else. A running gateway notices them as it notices any change, checks them and
//! records the result as a new snapshot, so a rollback can itself be rolled back.

use std::borrow::Cow;
use std::collections::HashSet;
use std::path::{Path, PathBuf};

use clap::Args;
use sha2::{Digest as _, Sha256};
use similar::TextDiff;

use super::output::{complain, say, say_json, table};
use super::{CliError, Places};
use crate::config::{Folder, Problem, compile, replace};
use crate::flywheel::{FILE_NAME, Files, Store};
use crate::plugins::registry::BuiltIns;

#[derive(Args)]
pub struct HistoryArgs {
    /// Show this many.
    #[arg(long, value_name = "N", default_value_t = 20)]
    limit: u32,
    #[arg(long)]
    json: bool,
}

#[derive(Args)]
pub struct DiffArgs {
    /// Without any: from the newest snapshot to the folder as it is. One: what that snapshot changed. Two: from one to the other.
    #[arg(num_args = 0..=2, value_name = "SNAPSHOT")]
    snapshots: Vec<i64>,
}

#[derive(Args)]
pub struct RollbackArgs {
    /// The snapshot to go back to; default is the one before the newest.
    #[arg(value_name = "SNAPSHOT")]
    snapshot: Option<i64>,
    /// Overwrite files with changes that the history does not have.
    #[arg(long)]
    force: bool,
}

pub fn history(places: &Places, args: &HistoryArgs) -> Result<(), CliError> {
    let snapshots = open(places)?.list_configs(args.limit).map_err(CliError::failed)?;
    if args.json {
        say_json(&snapshots);
        return Ok(());
    }
    let mut rows = vec![["snapshot", "applied", "files", "changes"].map(str::to_owned).to_vec()];
    rows.extend(
        snapshots
            .into_iter()
            .map(|it| vec![it.id.to_string(), time(it.applied_at_ms), it.n_files.to_string(), it.summary]),
    );
    table(&rows);
    Ok(())
}

pub fn diff(places: &Places, args: &DiffArgs) -> Result<(), CliError> {
    let store = open(places)?;
    let files = |id| store.config_files(id).map_err(CliError::failed);
    let (old, new) = match args.snapshots[..] {
        [from, to] => (files(from)?, files(to)?),
        [id] => (before(&store, id)?.map_or(Ok(Files::new()), files)?, files(id)?),
        _ => {
            let (now, unread) = folder(places)?;
            unread.iter().for_each(|problem| complain(&problem.to_string()));
            (newest(&store)?.map_or(Ok(Files::new()), files)?, now)
        }
    };
    for (path, old, new) in differences(&old, &new) {
        show(path, old, new);
    }
    Ok(())
}

pub fn rollback(places: &Places, args: &RollbackArgs) -> Result<(), CliError> {
    let store = open(places)?;
    let nothing = || CliError::Usage("the history has no snapshot to go back to".to_owned());
    let issued = issued(places)?;
    let is_issued = |path: &str| issued.contains(Path::new(path));
    let id = match args.snapshot {
        Some(id) => id,
        None => before_last_change(&store, is_issued)?.ok_or_else(nothing)?,
    };
    let target = store.config_files(id).map_err(CliError::failed)?;
    let (now, unread) = folder(places)?;
    // What is in the folder and never was in force is nowhere else; of what cannot be read nobody knows.
    let mut unsaved: Vec<Cow<'_, str>> = unread.iter().map(|problem| problem.file.to_string_lossy()).collect();
    for (path, content, _) in differences(&now, &target) {
        let Some(content) = content else { continue };
        if !store.has_config_content(&Sha256::digest(content).into()).map_err(CliError::failed)? {
            unsaved.push(path.into());
        }
    }
    if !unsaved.is_empty() && !args.force {
        return Err(CliError::Usage(format!(
            "these files have changes that the history does not have and would be lost: {}. Move them away, or use --force; \
             `weirgate config diff` shows the changes",
            unsaved.join(", ")
        )));
    }
    // Their names need not be text.
    let is_kept = |path: &Path| path.to_str().is_some_and(|path| target.contains_key(path));
    let removed = unread.into_iter().map(|problem| problem.file).filter(|path| !is_kept(path)).map(|path| (path, None));
    let (left, changed): (Vec<_>, Vec<_>) = differences(&now, &target).partition(|(path, ..)| is_issued(path));
    let changed = changed.into_iter().map(|(path, _, new)| (PathBuf::from(path), new.cloned()));
    let changes: Vec<(PathBuf, Option<Vec<u8>>)> = changed.chain(removed).collect();
    let dir = places.settings()?.config_dir;
    replace(&dir, &changes, &dir)
        .map_err(|(file, error)| CliError::Failed(format!("{} cannot be written: {error}", file.display())))?;
    let listing = Folder::new(&dir).read().map_err(|error| CliError::Usage(error.to_string()))?;
    let compiled = compile(&listing.objects, &BuiltIns);
    let n_faults = listing.problems.iter().chain(&compiled.problems).filter(|problem| problem.is_fault()).count();
    if n_faults > 0 {
        complain(&format!(
            "{n_faults} parts of this configuration cannot be used; a running gateway refuses it if they end what is served now. `weirgate validate` names them"
        ));
    }
    let n_removed = changes.iter().filter(|(_, content)| content.is_none()).count();
    say(&format!(
        "{}: as in snapshot {id}; {} files written, {n_removed} removed",
        dir.display(),
        changes.len() - n_removed
    ));
    if !left.is_empty() {
        say(&format!("{} certificates that were issued since stay", left.len()));
    }
    Ok(())
}

fn open(places: &Places) -> Result<Store, CliError> {
    let path = places.settings()?.data_dir.join(FILE_NAME);
    if !path.exists() {
        return Err(CliError::Usage(format!(
            "{} does not exist; the gateway makes it on its first start, or name another folder with --data-dir",
            path.display()
        )));
    }
    Store::open(&path).map_err(CliError::failed)
}

/// The objects of the folder as they are now, broken files included: a rollback must not overwrite those in silence either.
/// And the files that cannot be read.
fn folder(places: &Places) -> Result<(Files<Vec<u8>>, Vec<Problem>), CliError> {
    let mut folder = Folder::new(places.settings()?.config_dir);
    let listing = folder.read().map_err(|error| CliError::Usage(error.to_string()))?;
    let unread: Vec<Problem> = listing
        .problems
        .into_iter()
        .filter(|problem| problem.is_error() && folder.content(&problem.file).is_none())
        .collect();
    let files = folder.contents().map(|(file, content)| (file.to_string_lossy().into_owned(), content.to_vec()));
    Ok((files.collect(), unread))
}

fn newest(store: &Store) -> Result<Option<i64>, CliError> {
    let newest = store.list_configs(1).map_err(CliError::failed)?;
    Ok(newest.first().map(|snapshot| snapshot.id))
}

/// The Secrets of certificates that are ordered. The gateway wrote them: they are nobody's change, and what they cost is not got back.
fn issued(places: &Places) -> Result<HashSet<PathBuf>, CliError> {
    let listing =
        Folder::new(places.settings()?.config_dir).read().map_err(|error| CliError::Usage(error.to_string()))?;
    let https = compile(&listing.objects, &BuiltIns).gateway.https;
    Ok(https.into_iter().flat_map(|https| https.orders).map(|order| order.secret.file).collect())
}

/// The newest snapshot that differs from the one in force in more than issued certificates.
fn before_last_change(store: &Store, is_issued: impl Fn(&str) -> bool) -> Result<Option<i64>, CliError> {
    let files = |id| store.config_files(id).map_err(CliError::failed);
    let Some(newest) = newest(store)? else { return Ok(None) };
    let (in_force, mut id) = (files(newest)?, newest);
    while let Some(earlier) = before(store, id)? {
        if differences(&files(earlier)?, &in_force).any(|(path, ..)| !is_issued(path)) {
            return Ok(Some(earlier));
        }
        id = earlier;
    }
    Ok(None)
}

/// The snapshot that was in force before this one.
fn before(store: &Store, id: i64) -> Result<Option<i64>, CliError> {
    let all = store.list_configs(u32::MAX).map_err(CliError::failed)?;
    Ok(all.iter().map(|snapshot| snapshot.id).find(|other| *other < id))
}

type Difference<'a> = (&'a str, Option<&'a Vec<u8>>, Option<&'a Vec<u8>>);

/// Files that are not the same, in order.
fn differences<'a>(old: &'a Files<Vec<u8>>, new: &'a Files<Vec<u8>>) -> impl Iterator<Item = Difference<'a>> {
    let paths: std::collections::BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    paths.into_iter().map(|path| (path.as_str(), old.get(path), new.get(path))).filter(|(_, old, new)| old != new)
}

/// Secrets are named, not shown.
fn show(path: &str, old: Option<&Vec<u8>>, new: Option<&Vec<u8>>) {
    let name = |content: Option<&Vec<u8>>| if content.is_some() { path } else { "/dev/null" };
    if path.starts_with("secrets/") {
        say(&format!("--- {}\n+++ {}\n(the content of secrets is not shown)", name(old), name(new)));
        return;
    }
    let text = |content: Option<&Vec<u8>>| {
        content.map(|content| String::from_utf8_lossy(content).into_owned()).unwrap_or_default()
    };
    let (before, after) = (text(old), text(new));
    let diff = TextDiff::from_lines(&before, &after);
    say(diff.unified_diff().context_radius(3).header(name(old), name(new)).to_string().trim_end());
}

fn time(ms: i64) -> String {
    let at = jiff::Timestamp::from_millisecond(ms).unwrap_or_default();
    at.strftime("%Y-%m-%d %H:%M:%SZ").to_string()
}

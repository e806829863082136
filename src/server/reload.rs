//! From the configuration folder to the serving snapshot, at start and after every change.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::StartError;
use super::history::History;
use super::outages::{Change, Outages, outages};
use crate::config::model::{AutomaticHttps, Certificate, Http2Settings};
use crate::config::{
    Changes, Folder, Gateway, Listing, Problem, RawObject, Settings, Severity, Watcher, compile_with, diff,
};
use crate::discovery::{Directory, RegistryStatus};
use crate::plugins::Host;
use crate::plugins::registry::BuiltIns;
use crate::proxy::cluster::checks::Checks;
use crate::proxy::snapshot::Snapshot;
use crate::proxy::tls::Certificates;
use crate::telemetry::log::whole_ms;
use crate::telemetry::metrics::{Metrics, ReloadResult};

/// How long files that went may be meant to come back, as those of a folder that is copied anew.
const RESTORING: Duration = Duration::from_secs(600);

pub struct Reloader {
    settings: Arc<Settings>,
    snapshot: Arc<ArcSwap<Snapshot>>,
    host: Arc<dyn Host>,
    checks: Arc<Checks>,
    directory: Arc<Directory>,
    metrics: Arc<Metrics>,
    /// Told after each configuration that was applied.
    pub applied: Arc<Notify>,
    state: Mutex<State>,
}

/// One reload at a time.
struct State {
    folder: Folder,
    applied: Applied,
    /// What is wrong with the folder as it was read last, if that was refused.
    refused: Option<Vec<Problem>>,
    /// What HTTP/2 connections of clients have had since the start, and how long they may be idle.
    http2: Option<(Http2Settings, Option<Duration>)>,
    /// What may be out without ending anything: what is, and what was when its object went.
    accepted: Outages,
    /// Files that were in force and are not there, by when they went.
    gone: HashMap<PathBuf, Instant>,
    history: History,
}

/// The configuration in force.
#[derive(Default)]
struct Applied {
    objects: Vec<RawObject>,
    gateway: Gateway,
    /// That of its snapshot; zero before the first.
    number: u64,
    /// All, and those of the folder itself.
    problems: Vec<Problem>,
    listing_problems: Vec<Problem>,
    out: Outages,
}

/// Why a configuration is compiled.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cause {
    Folder,
    /// Nobody wrote anything, so there is nothing to refuse.
    Registries,
}

/// What a reload did.
pub enum Reloaded {
    Applied(Box<Changes>),
    Unchanged,
    /// The snapshot before keeps serving.
    Refused(Vec<Problem>),
}

impl Reloader {
    pub fn new(
        settings: Arc<Settings>,
        snapshot: Arc<ArcSwap<Snapshot>>,
        host: Arc<dyn Host>,
        checks: Arc<Checks>,
        directory: Arc<Directory>,
        metrics: Arc<Metrics>,
        history: History,
    ) -> Reloader {
        let folder = Folder::new(&settings.config_dir);
        let state = State {
            folder,
            applied: Applied::default(),
            refused: None,
            http2: None,
            accepted: Outages::new(),
            gone: HashMap::new(),
            history,
        };
        let applied = Arc::new(Notify::new());
        Reloader { settings, snapshot, host, checks, directory, metrics, applied, state: Mutex::new(state) }
    }

    /// Loads the folder at start.
    ///
    /// # Errors
    /// Every problem that keeps it from being served. A missing default folder is no error: the gateway then has no routes.
    pub fn first_load(&self, folder_is_given: bool) -> Result<(), StartError> {
        if !folder_is_given && !self.settings.config_dir.exists() {
            tracing::warn!(
                config_dir = %self.settings.config_dir.display(),
                "The configuration folder does not exist; there are no routes until it does"
            );
            return Ok(());
        }
        match self.reload() {
            Ok(Reloaded::Refused(problems)) => Err(StartError::Config(problems)),
            Ok(_) => Ok(()),
            Err(message) => Err(StartError::Usage(message)),
        }
    }

    /// Follows changes of the folder from a thread of its own; waits for a folder that does not exist yet.
    pub fn watch(self: Arc<Self>) -> Option<Watcher> {
        let root = self.settings.config_dir.clone();
        let on_change = move || match self.reload() {
            Ok(Reloaded::Refused(problems)) => {
                tracing::error!(
                    problems = problems.len(),
                    "The changed configuration is refused; the one before keeps serving"
                );
            }
            Ok(_) => {}
            Err(error) => tracing::error!(
                error,
                "The configuration folder cannot be read; the configuration before keeps serving"
            ),
        };
        match Watcher::start(&root, on_change) {
            Ok(watcher) => Some(watcher),
            Err(error) => {
                tracing::error!(%error, "Changes of the configuration folder are not noticed; restart after changing it");
                None
            }
        }
    }

    /// Reads, compiles, builds and swaps.
    ///
    /// # Errors
    /// The folder itself cannot be read.
    pub fn reload(&self) -> Result<Reloaded, String> {
        let started = Instant::now();
        let mut state = self.state.lock();
        let listing = state.folder.read().map_err(|error| error.to_string())?;
        let reloaded = self.apply(&mut state, listing, Cause::Folder, started);
        state.refused = match &reloaded {
            Reloaded::Refused(problems) => Some(problems.clone()),
            Reloaded::Applied(_) | Reloaded::Unchanged => None,
        };
        Ok(reloaded)
    }

    /// Compiles what is applied again, with what the registries say now: a fault that somebody is about to write into the folder
    /// does not keep a service from moving.
    pub fn rediscover(&self) -> Reloaded {
        let started = Instant::now();
        let mut state = self.state.lock();
        let applied = &state.applied;
        let listing = Listing { objects: applied.objects.clone(), problems: applied.listing_problems.clone() };
        self.apply(&mut state, listing, Cause::Registries, started)
    }

    fn apply(&self, state: &mut State, listing: Listing, cause: Cause, started: Instant) -> Reloaded {
        let compiled = compile_with(&listing.objects, &self.directory.discovered(), &BuiltIns);
        let (certificates, unusable) = Certificates::load(&compiled.gateway.certificates);
        let mut problems = listing.problems.clone();
        problems.extend(compiled.problems);
        problems.extend(unusable);
        let changes = diff(&state.applied.gateway, &compiled.gateway);
        let is_first = state.applied.number == 0;
        let before = self.snapshot.load();
        let mut built = None;
        if changes.is_empty() && !is_first {
            problems.extend(before.problems.iter().cloned());
        } else if !problems.iter().any(Problem::is_error) {
            let snapshot = Snapshot::build(
                &compiled.gateway,
                certificates,
                &self.settings,
                &self.host,
                &self.checks.resolver,
                &self.checks.clusters,
                &before,
            );
            problems.extend(snapshot.problems.iter().cloned());
            built = Some(snapshot);
        }
        // A start does what it can; a change must not close what has been open.
        let faults = || problems.iter().filter(|problem| problem.is_fault());
        let out = outages(faults(), &listing.objects);
        let change = Change::new(&state.applied.gateway, &compiled.gateway);
        let taking = faults().filter(|problem| change.ends_something(problem));
        let may_close = is_first || cause == Cause::Registries;
        let closes = !may_close && !outages(taking, &listing.objects).is_subset(&state.accepted);
        let has_errors = problems.iter().any(Problem::is_error);
        let is_refused = closes || has_errors;
        // What stands is said once, and again to whoever waits for a change that does not come.
        let told = state.refused.as_ref().filter(|_| cause == Cause::Folder).unwrap_or(&state.applied.problems);
        let told: HashSet<&Problem> = told.iter().collect();
        log(problems.iter().filter(|problem| is_refused || !told.contains(problem)));
        if closes && !has_errors {
            tracing::error!("The change would close what is open and is refused; after a restart it would be applied");
        }
        if is_refused {
            self.count("refused");
            return Reloaded::Refused(problems);
        }
        let Some(snapshot) = built else {
            // Comments may have changed, and a rollback must not lose them.
            state.history.record(&listing.objects, &state.folder, &changes.to_string());
            let Listing { objects, problems: listing_problems } = listing;
            state.applied = Applied { objects, problems, listing_problems, ..std::mem::take(&mut state.applied) };
            return Reloaded::Unchanged;
        };
        snapshot.chain.entries.iter().flat_map(|entry| entry.plugins()).for_each(|plugin| plugin.activate());
        let (number, n_routes) = (snapshot.number, snapshot.routes.len());
        self.snapshot.store(Arc::new(snapshot));
        self.directory.follow(&compiled.gateway.registries);
        self.checks.follow();
        self.checks.resolver.forget_unused();
        if !out.is_empty() && out != state.applied.out {
            let files: BTreeSet<String> = out.iter().map(|(file, ..)| file.display().to_string()).collect();
            let files: Vec<String> = files.into_iter().collect();
            tracing::error!(
                files = files.join(", "),
                "Parts of these objects are not served; what is wrong with them is said above"
            );
        }
        let http2 = (compiled.gateway.settings.http2, compiled.gateway.settings.downstream_idle_timeout);
        if *state.http2.get_or_insert(http2) != http2 {
            tracing::warn!(
                "`downstream.http2`, or `downstream.idleTimeout` for HTTP/2, of higress-config differs from what the process started with; it counts after a restart"
            );
        }
        // What an object has been mended of it does not get back; one that went may come back as it was. While others are gone, it may seem
        // to be well only because nobody names it.
        let there: HashSet<&Path> = listing.objects.iter().map(|object| object.origin.file.as_path()).collect();
        let gone = state
            .applied
            .objects
            .iter()
            .map(|object| &object.origin.file)
            .filter(|file| !there.contains(file.as_path()));
        state.gone.extend(gone.map(|file| (file.clone(), started)));
        state.gone.retain(|file, at| !there.contains(file.as_path()) && at.elapsed() < RESTORING);
        if state.gone.is_empty() {
            state.accepted.retain(|(file, ..)| !there.contains(file.as_path()));
        }
        state.accepted.extend(out.iter().cloned());
        self.count("applied");
        self.metrics.config_snapshot.set(i64::try_from(number).unwrap_or(i64::MAX));
        tracing::info!(number, n_routes, ms = whole_ms(started.elapsed()), %changes, "Configuration applied");
        state.history.record(&listing.objects, &state.folder, &changes.to_string());
        let Listing { objects, problems: listing_problems } = listing;
        state.applied = Applied { objects, gateway: compiled.gateway, number, problems, listing_problems, out };
        self.applied.notify_one();
        Reloaded::Applied(Box::new(changes))
    }

    /// What is to be ordered, and the certificates that are served.
    pub fn certificates(&self) -> (Option<AutomaticHttps>, Vec<Certificate>) {
        let state = self.state.lock();
        let gateway = &state.applied.gateway;
        (gateway.https.clone(), gateway.certificates.clone())
    }

    /// Number of the serving snapshot, and what is wrong with the folder: as it was read last, or as the registries have it since.
    pub fn status(&self) -> (u64, Vec<Problem>) {
        let state = self.state.lock();
        let problems = state.refused.as_ref().unwrap_or(&state.applied.problems);
        (state.applied.number, problems.clone())
    }

    pub fn registries(&self) -> Vec<RegistryStatus> {
        self.directory.status()
    }

    fn count(&self, result: &'static str) {
        self.metrics.config_reloads.get_or_create(&ReloadResult { result }).inc();
    }
}

fn log<'a>(problems: impl Iterator<Item = &'a Problem>) {
    for problem in problems {
        match problem.severity {
            Severity::Warning => tracing::warn!(%problem, "Configuration"),
            Severity::Error | Severity::Outage => tracing::error!(%problem, "Configuration"),
        }
    }
}

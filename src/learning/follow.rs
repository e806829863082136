//! Keeps live routers equal to the database, and starts trainings when enough has been recorded.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use super::learner::{LearnError, learn, serving_router};
use super::live::{LiveRouter, Routers, Serving};
use crate::base::tasks::Tasks;
use crate::flywheel::Flywheel;
use crate::infer::Engine;

/// How often the database is asked whether another version serves now.
const POLL: Duration = Duration::from_secs(1);
/// How often recorded rows are counted.
const COUNT_EVERY: Duration = Duration::from_secs(10);

/// When the process trains by itself.
#[derive(Debug, Clone, Copy)]
pub struct Triggers {
    /// New scored exchanges; 0 never.
    pub rows: u64,
    /// Time since the last training, if there is anything new; zero never.
    pub interval: Duration,
}

/// Runs until the process drains.
pub async fn follow(routers: Arc<Routers>, flywheel: Flywheel, engine: Arc<Engine>, triggers: Triggers, tasks: Tasks) {
    let mut last_training: HashMap<String, (i64, Instant)> = HashMap::new();
    let mut running: HashMap<String, JoinHandle<()>> = HashMap::new();
    let mut has_sums: HashSet<String> = HashSet::new();
    let mut last_count = Instant::now();
    let trains = triggers.rows > 0 || !triggers.interval.is_zero();
    loop {
        let is_due = trains && last_count.elapsed() >= COUNT_EVERY;
        for router in routers.all() {
            refresh(&router, &flywheel).await;
            if has_sums.insert(router.name.clone()) {
                remember_spending(&router, &flywheel).await;
            }
            if running.get(&router.name).is_some_and(|training| !training.is_finished()) {
                continue;
            }
            if trains && router.has_lost_version() {
                let started = start_training(&router, &flywheel, &engine, &tasks);
                running.extend(started.map(|training| (router.name.clone(), training)));
                continue;
            }
            if !is_due {
                continue;
            }
            let (since, at) = match last_training.get(&router.name) {
                Some(last) => *last,
                // What an earlier process trained on is not new.
                None => (newest_version_ms(&router.name, &flywheel).await, Instant::now()),
            };
            last_training.insert(router.name.clone(), (since, at));
            let n_new = n_scored_since(since, &flywheel).await;
            let by_rows = triggers.rows > 0 && n_new >= triggers.rows;
            let by_time = !triggers.interval.is_zero() && n_new > 0 && at.elapsed() >= triggers.interval;
            if by_rows || by_time {
                last_training.insert(router.name.clone(), (now_ms(), Instant::now()));
                let started = start_training(&router, &flywheel, &engine, &tasks);
                running.extend(started.map(|training| (router.name.clone(), training)));
            }
        }
        if is_due {
            last_count = Instant::now();
        }
        tokio::time::sleep(POLL).await;
    }
}

/// What was spent today before this process began counts: a restart is no new budget.
async fn remember_spending(router: &LiveRouter, flywheel: &Flywheel) {
    const DAY_MS: i64 = 86_400_000;
    let (store, name) = (flywheel.store().clone(), router.name.clone());
    let spent = tokio::task::spawn_blocking(move || store.shadow_cost_since(&name, now_ms() / DAY_MS * DAY_MS)).await;
    if let Ok(Ok(usd)) = spent {
        router.spend_on_shadow(usd);
    }
}

async fn newest_version_ms(router: &str, flywheel: &Flywheel) -> i64 {
    let (store, name) = (flywheel.store().clone(), router.to_owned());
    let versions = tokio::task::spawn_blocking(move || store.list_versions(Some(&name))).await;
    let newest =
        versions.ok().and_then(Result::ok).and_then(|versions| versions.into_iter().map(|v| v.created_at_ms).max());
    newest.unwrap_or(0)
}

async fn n_scored_since(since: i64, flywheel: &Flywheel) -> u64 {
    let store = flywheel.store().clone();
    let counted = tokio::task::spawn_blocking(move || store.scored_rows_since(since)).await;
    counted.ok().and_then(Result::ok).unwrap_or(0)
}

/// Takes over the version the database says is serving, if it is another one. One that cannot be read (another program wrote it)
/// is told of once.
pub async fn refresh(router: &Arc<LiveRouter>, flywheel: &Flywheel) {
    let (store, name) = (flywheel.store().clone(), router.name.clone());
    let known = [router.serving_id(), router.lost_version()];
    let read = tokio::task::spawn_blocking(move || {
        let serving = store.serving_id(&name)?;
        if serving == known[0] || (serving.is_some() && serving == known[1]) {
            return Ok(None);
        }
        serving_router(&store, &name).map(Some)
    });
    match read.await {
        Ok(Ok(None)) => {}
        Ok(Ok(Some(serving))) => {
            let id = serving.as_ref().map(|(id, _)| *id);
            router.swap(serving.map(|(id, router)| Serving { id, router }));
            tracing::info!(router = router.name, version = id, "Router version swapped");
        }
        Ok(Err(error)) => {
            if let LearnError::Artifact { id, .. } = error {
                router.lose_version(id);
            }
            tracing::error!(
                router = router.name,
                %error,
                "The serving router version cannot be read; the one before or the shipped seed decides until another is trained"
            );
        }
        Err(error) => tracing::error!(router = router.name, %error, "Reading the serving router version failed"),
    }
}

fn start_training(
    router: &Arc<LiveRouter>,
    flywheel: &Flywheel,
    engine: &Arc<Engine>,
    tasks: &Tasks,
) -> Option<JoinHandle<()>> {
    let setup = router.setup()?;
    let (store, engine, name) = (flywheel.store().clone(), engine.clone(), router.name.clone());
    let (router, flywheel) = (router.clone(), flywheel.clone());
    Some(tasks.spawn(async move {
        let trained = router.clone();
        let training = tokio::task::spawn_blocking(move || {
            let _one = trained.one_training();
            (learn(&store, &name, &setup, Some(&engine), false, &mut |_| {}), name)
        });
        match training.await {
            Ok((Ok(learned), name)) => {
                tracing::info!(
                    router = name,
                    version = learned.version,
                    n_rows = learned.n_rows,
                    gain = learned.verdict.gain,
                    is_promoted = learned.is_promoted,
                    reason = learned.verdict.reason,
                    "Router trained"
                );
                refresh(&router, &flywheel).await;
            }
            Ok((Err(error), name)) => tracing::warn!(router = name, %error, "Router training gave no version"),
            Err(error) => tracing::error!(%error, "Router training broke off"),
        }
    }))
}

fn now_ms() -> i64 {
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}

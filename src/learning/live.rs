//! Routers as requests see them.

use std::collections::BTreeMap;
use std::collections::HashMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, LazyLock, Weak};
use std::time::{SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwapOption;
use parking_lot::{Mutex, MutexGuard};

use crate::routing::{Candidate, ColdStart, Domain, FeatureVector, Policy, Prediction, Router, Seed};
use crate::telemetry::metrics::{ByModel, Metrics};

/// The seed that ships with the program, parsed on first use. `None` only if the build embedded a broken file.
static SEED: LazyLock<Option<Arc<Seed>>> = LazyLock::new(|| match Seed::shipped() {
    Ok(seed) => Some(Arc::new(seed)),
    Err(error) => {
        tracing::error!(%error, "The shipped router seed cannot be read; untrained routers answer with their baseline");
        None
    }
});

pub fn shipped_seed() -> Option<Arc<Seed>> {
    SEED.clone()
}

/// What a router is trained and judged for; the configuration of its plugin.
#[derive(Debug, Clone, PartialEq)]
pub struct Setup {
    pub candidates: Vec<Candidate>,
    pub baseline: String,
    pub policy: Policy,
    /// Fewer distinct scored questions than this are not trained on.
    pub min_rows: u64,
    pub folds: usize,
    pub seed: u64,
    /// Whether prompts are embedded: then the family that reads embeddings is trained too.
    pub embeds: bool,
}

/// The router that decides now.
pub struct Serving {
    /// Version id in the database.
    pub id: i64,
    pub router: Router,
}

/// What is expected of the candidates for one prompt.
pub struct Outlook {
    /// Score, latency and cost of each candidate.
    pub predictions: Vec<Prediction>,
    /// The version that says so; `None` is the shipped seed.
    pub version: Option<i64>,
    /// What the prompt is taken for, by the shipped seed.
    pub domain: Option<Domain>,
}

/// One router by name: its serving version and the running scores of what it serves.
pub struct LiveRouter {
    pub name: String,
    serving: ArcSwapOption<Serving>,
    /// Belongs to the plugin: when no configuration names the router any more, there is nothing to train it for.
    setup: Mutex<Weak<Setup>>,
    one_training: Mutex<()>,
    scores: Mutex<BTreeMap<String, Mean>>,
    shadow_spent: Mutex<Spent>,
    n_shadow_calls: AtomicUsize,
    n_scorings: AtomicUsize,
    /// The version that ought to serve and cannot be read, and whether somebody has yet to do something about it.
    lost: Mutex<Option<(i64, bool)>>,
}

/// Money spent on one day (days since the epoch, UTC).
#[derive(Default, Clone, Copy)]
struct Spent {
    day: u64,
    usd: f64,
}

/// A place among calls that run beside requests; given back when dropped.
pub struct Slot {
    router: Arc<LiveRouter>,
    taken: fn(&LiveRouter) -> &AtomicUsize,
}

impl Drop for Slot {
    fn drop(&mut self) {
        (self.taken)(&self.router).fetch_sub(1, Ordering::AcqRel);
    }
}

#[derive(Default, Clone, Copy)]
struct Mean {
    n: u64,
    sum: f64,
}

impl LiveRouter {
    fn new(name: &str) -> LiveRouter {
        LiveRouter {
            name: name.to_owned(),
            serving: ArcSwapOption::empty(),
            setup: Mutex::default(),
            one_training: Mutex::default(),
            scores: Mutex::new(BTreeMap::new()),
            shadow_spent: Mutex::new(Spent::default()),
            n_shadow_calls: AtomicUsize::new(0),
            n_scorings: AtomicUsize::new(0),
            lost: Mutex::new(None),
        }
    }

    /// A place for a shadow call, if fewer than `max` run. Survives reloads, because it belongs to the router's name.
    pub fn shadow_slot(self: &Arc<Self>, max: usize) -> Option<Slot> {
        self.slot(max, |router| &router.n_shadow_calls)
    }

    /// A place for scoring a served answer.
    pub fn scoring_slot(self: &Arc<Self>, max: usize) -> Option<Slot> {
        self.slot(max, |router| &router.n_scorings)
    }

    fn slot(self: &Arc<Self>, max: usize, taken: fn(&LiveRouter) -> &AtomicUsize) -> Option<Slot> {
        let take = |n: usize| (n < max).then_some(n + 1);
        taken(self).fetch_update(Ordering::AcqRel, Ordering::Acquire, take).ok()?;
        Some(Slot { router: self.clone(), taken })
    }

    /// US dollars spent on shadow calls today (UTC), after adding `usd`.
    pub fn spend_on_shadow(&self, usd: f64) -> f64 {
        let day = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs() / 86_400;
        let mut spent = self.shadow_spent.lock();
        if spent.day != day {
            *spent = Spent { day, usd: 0.0 };
        }
        spent.usd += usd;
        spent.usd
    }

    /// What to expect of each candidate for this prompt.
    pub fn predict(&self, features: &FeatureVector, embedding: Option<&[f32]>, cold_start: &ColdStart) -> Outlook {
        let seed = SEED.as_deref();
        let serving = self.serving.load();
        let domains = seed.map(|seed| seed.classify(features));
        let router = serving.as_ref().map(|serving| &serving.router);
        let predictions = cold_start.predict(router, domains.as_ref(), features, embedding);
        Outlook {
            predictions,
            version: serving.as_ref().map(|serving| serving.id),
            domain: domains.map(|domains| Seed::likeliest(&domains).0),
        }
    }

    /// Whether the serving version would decide otherwise with an embedding of the prompt.
    pub fn reads_embedding(&self) -> bool {
        self.serving.load().as_ref().is_some_and(|serving| serving.router.reads_embedding())
    }

    pub fn configure(&self, setup: &Arc<Setup>) {
        *self.setup.lock() = Arc::downgrade(setup);
    }

    pub fn setup(&self) -> Option<Arc<Setup>> {
        self.setup.lock().upgrade()
    }

    /// To be held during a training: of two, the second is judged against what the first promoted.
    pub fn one_training(&self) -> MutexGuard<'_, ()> {
        self.one_training.lock()
    }

    pub fn serving_id(&self) -> Option<i64> {
        self.serving.load().as_ref().map(|serving| serving.id)
    }

    /// Requests that already chose keep their choice; the next one sees the new version.
    pub fn swap(&self, serving: Option<Serving>) {
        self.serving.store(serving.map(Arc::new));
    }

    pub fn lose_version(&self, id: i64) {
        *self.lost.lock() = Some((id, true));
    }

    pub fn lost_version(&self) -> Option<i64> {
        self.lost.lock().map(|(id, _)| id)
    }

    /// True once for each lost version, when the router has been told what it trains for.
    pub fn has_lost_version(&self) -> bool {
        let mut lost = self.lost.lock();
        match lost.as_mut() {
            Some((_, is_new)) if self.setup().is_some() => std::mem::take(is_new),
            _ => false,
        }
    }

    /// Counts a score given to an answer of `model`.
    pub fn observe_score(&self, metrics: &Metrics, model: &str, score: f64) {
        let mut scores = self.scores.lock();
        for name in [model, "all"] {
            let mean = scores.entry(name.to_owned()).or_default();
            mean.n += 1;
            mean.sum += score;
            #[expect(clippy::cast_precision_loss, reason = "counts stay far below 2^52")]
            metrics.accuracy.get_or_create(&ByModel { model: name.to_owned() }).set(mean.sum / mean.n as f64);
        }
    }
}

/// All live routers of the process, by name.
#[derive(Default)]
pub struct Routers {
    by_name: Mutex<HashMap<String, Arc<LiveRouter>>>,
}

impl Routers {
    /// The router of that name, made on first use.
    pub fn get(&self, name: &str) -> Arc<LiveRouter> {
        let mut by_name = self.by_name.lock();
        by_name.entry(name.to_owned()).or_insert_with(|| Arc::new(LiveRouter::new(name))).clone()
    }

    pub fn all(&self) -> Vec<Arc<LiveRouter>> {
        self.by_name.lock().values().cloned().collect()
    }
}

//! The engine of the process: one sentence model, loaded once and in the background, run by a bounded pool of its own.
//!
//! A request never waits for the load or for a place: [`Engine::submit`] says at once that there is none, and the caller goes
//! on without a vector. A model that cannot be loaded is told once, with the command that fetches it, and tried again later.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};
use rayon::{ThreadPool, ThreadPoolBuilder};
use rustix::process::{Pid, setpriority_process};

use super::manifest::Manifest;
use super::{Embedder, InferError, Library, SENTENCE_MODEL, SentenceEmbedder};

/// Takes what became of a submitted text.
pub type Reply = Box<dyn FnOnce(Result<Vec<f32>, InferError>) + Send>;

/// Texts that may wait. At some 15 ms each, more would only wait longer than a request does.
const QUEUE: usize = 16;

/// Texts of a large job that go through the pool together, so that a request's text waits for one such piece at most.
const PIECE: usize = 16;

/// Between two attempts to load a model that could not be loaded.
const RETRY: Duration = Duration::from_secs(60);

/// Most threads; otherwise as many as processors, which they leave to the proxy when it needs them.
const MAX_THREADS: usize = 4;

/// Niceness of the threads: with as much to do, the proxy's get nine tenths of a processor.
const NICENESS: i32 = 10;

type Load = Box<dyn Fn() -> Result<Box<dyn Embedder>, InferError> + Send + Sync>;

pub struct Engine {
    load: Load,
    state: Mutex<State>,
    /// Notified when a load came to its end, either way.
    load_ended: Condvar,
    n_waiting: Arc<AtomicUsize>,
}

enum State {
    Idle,
    Loading,
    Ready(Arc<Ready>),
    Failed { at: Instant, why: String },
}

struct Ready {
    pool: ThreadPool,
    embedder: Box<dyn Embedder>,
}

/// A waiting text; given back when dropped.
struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::AcqRel);
    }
}

impl Engine {
    /// For the sentence model of `library`. Starts nothing and reads nothing.
    pub fn new(library: Library) -> Arc<Self> {
        Self::with(Box::new(move || {
            let model = Manifest::shipped().model(SENTENCE_MODEL)?;
            library.verify(model)?;
            Ok(Box::new(SentenceEmbedder::load(&library.folder(model))?))
        }))
    }

    fn with(load: Load) -> Arc<Self> {
        Arc::new(Self { load, state: Mutex::new(State::Idle), load_ended: Condvar::new(), n_waiting: Arc::default() })
    }

    /// Begins to load the model unless it is loaded, being loaded, or failed a moment ago.
    pub fn prepare(self: &Arc<Self>) {
        let mut state = self.state.lock();
        let known = match &*state {
            State::Loading | State::Ready(_) => return,
            State::Failed { at, .. } if at.elapsed() < RETRY => return,
            State::Failed { why, .. } => Some(why.clone()),
            State::Idle => None,
        };
        let engine = self.clone();
        let loading =
            std::thread::Builder::new().name("infer-load".into()).spawn(move || engine.load(known.as_deref()));
        *state = match loading {
            Ok(_) => State::Loading,
            Err(error) => State::Failed { at: Instant::now(), why: error.to_string() },
        };
    }

    /// Has `text` embedded by the pool, which calls `reply`.
    ///
    /// # Errors
    /// The model is not loaded (it is being loaded from now on), or too many texts wait.
    pub fn submit(self: &Arc<Self>, text: String, reply: Reply) -> Result<(), InferError> {
        let Some(ready) = self.ready() else {
            self.prepare();
            return Err(InferError::NotLoaded);
        };
        let take = |n: usize| (n < QUEUE).then_some(n + 1);
        if self.n_waiting.fetch_update(Ordering::AcqRel, Ordering::Acquire, take).is_err() {
            return Err(InferError::Busy(QUEUE));
        }
        let (place, own) = (Place(self.n_waiting.clone()), ready.clone());
        ready.pool.spawn_fifo(move || {
            let _place = place;
            reply(own.embedder.embed(&[&text]).map(|mut vectors| vectors.pop().unwrap_or_default()));
        });
        Ok(())
    }

    /// Blocks until the model is loaded; loads it if nobody has yet.
    ///
    /// # Errors
    /// It cannot be loaded.
    pub fn wait_until_loaded(self: &Arc<Self>) -> Result<(), InferError> {
        self.prepare();
        let mut state = self.state.lock();
        self.load_ended.wait_while(&mut state, |state| matches!(state, State::Loading));
        match &*state {
            State::Failed { why, .. } => Err(InferError::Load(why.clone())),
            State::Idle | State::Loading | State::Ready(_) => Ok(()),
        }
    }

    /// Has other work with a model done by the pool, and blocks until it is. One piece at a time: texts of requests get their
    /// turn in between.
    ///
    /// # Errors
    /// The sentence model, with which the pool begins, is not loaded.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, InferError> {
        let ready = self.ready().ok_or(InferError::NotLoaded)?;
        Ok(ready.pool.install(work))
    }

    fn ready(&self) -> Option<Arc<Ready>> {
        match &*self.state.lock() {
            State::Ready(ready) => Some(ready.clone()),
            _ => None,
        }
    }

    fn load(&self, known: Option<&str>) {
        let started = Instant::now();
        let loaded = (self.load)().and_then(Ready::new);
        let mut state = self.state.lock();
        *state = match loaded {
            Ok(ready) => {
                tracing::info!(
                    model = SENTENCE_MODEL,
                    ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX),
                    "Model loaded"
                );
                State::Ready(Arc::new(ready))
            }
            Err(error) => {
                let why = error.to_string();
                if known != Some(&why) {
                    tracing::warn!(
                        model = SENTENCE_MODEL,
                        why,
                        "The model cannot be used; what needs it goes without it"
                    );
                }
                State::Failed { at: Instant::now(), why }
            }
        };
        drop(state);
        self.load_ended.notify_all();
    }
}

impl Ready {
    fn new(embedder: Box<dyn Embedder>) -> Result<Self, InferError> {
        let n_threads = std::thread::available_parallelism().map_or(1, |n| n.get().min(MAX_THREADS));
        let pool = ThreadPoolBuilder::new()
            .num_threads(n_threads)
            .thread_name(|n| format!("infer-{n}"))
            .start_handler(|_| stand_back())
            .panic_handler(|_| tracing::error!("Embedding a text broke off; its request goes without"))
            .build()
            .map_err(|error| InferError::Run(format!("its threads cannot be started: {error}")))?;
        Ok(Self { pool, embedder })
    }
}

/// Lets other threads go first where there are not processors for all. On Linux a thread has a niceness of its own; elsewhere, and
/// where it is not allowed, nothing happens.
fn stand_back() {
    let thread = std::fs::read_link("/proc/thread-self").ok();
    let id = thread.and_then(|path| path.file_name()?.to_str()?.parse().ok()).and_then(Pid::from_raw);
    if id.is_some() {
        let _ = setpriority_process(id, NICENESS);
    }
}

impl Embedder for Arc<Engine> {
    /// Blocks until the pool has embedded all of them, in pieces between which requests get their turn; never for the load.
    fn embed(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>, InferError> {
        let Some(ready) = self.ready() else {
            self.prepare();
            return Err(InferError::NotLoaded);
        };
        let mut vectors = Vec::with_capacity(texts.len());
        for piece in texts.chunks(PIECE) {
            vectors.extend(ready.pool.install(|| ready.embedder.embed(piece))?);
        }
        Ok(vectors)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;
    use crate::infer::testing::TinyBert;

    /// Waits for the load to end either way.
    fn loaded(engine: &Arc<Engine>) {
        let _ = engine.wait_until_loaded();
    }

    fn ask(engine: &Arc<Engine>, text: &str) -> Result<mpsc::Receiver<Result<Vec<f32>, InferError>>, InferError> {
        let (sender, receiver) = mpsc::channel();
        let reply: Reply = Box::new(move |vector| sender.send(vector).unwrap());
        engine.submit(text.to_owned(), reply).map(|()| receiver)
    }

    #[test]
    fn nobody_waits_for_the_load_and_later_texts_are_embedded() {
        let dir = TinyBert::default().write();
        let path = dir.path().to_owned();
        let (go, waits) = mpsc::channel();
        let waits = Mutex::new(waits);
        let engine = Engine::with(Box::new(move || {
            waits.lock().recv().map_err(|error| InferError::Run(error.to_string()))?;
            Ok(Box::new(SentenceEmbedder::load(&path)?))
        }));
        assert!(matches!(engine.embed(&["cat"]), Err(InferError::NotLoaded)));
        assert!(matches!(ask(&engine, "cat"), Err(InferError::NotLoaded)));
        assert!(matches!(engine.run(|| 6 * 7), Err(InferError::NotLoaded)));
        go.send(()).unwrap();
        loaded(&engine);
        let vector = ask(&engine, "cat").unwrap().recv().unwrap().unwrap();
        let many = ["dog", "cat"].repeat(PIECE);
        let vectors = engine.embed(&many).unwrap();
        assert_eq!(vectors.len(), many.len());
        assert_eq!(engine.run(|| 6 * 7).unwrap(), 42);
        let distance = vectors[1].iter().zip(&vector).map(|(a, b)| (a - b).abs()).fold(0.0, f32::max);
        assert!(distance < 1e-5, "{distance}");
    }

    #[test]
    fn a_model_that_cannot_be_loaded_is_an_answer_not_a_wait() {
        let dir = tempfile::tempdir().unwrap();
        let engine = Engine::new(Library::new(dir.path()));
        loaded(&engine);
        let why = match &*engine.state.lock() {
            State::Failed { why, .. } => why.clone(),
            _ => String::new(),
        };
        assert!(why.contains("all-minilm-l6-v2/config.json") && why.contains(" fetch`"), "{why}");
        assert!(matches!(ask(&engine, "cat"), Err(InferError::NotLoaded)));
    }

    /// Embeds when told to.
    struct Slow(Mutex<mpsc::Receiver<()>>);

    impl Embedder for Slow {
        fn embed(&self, texts: &[&str]) -> Result<Vec<Vec<f32>>, InferError> {
            self.0.lock().recv().map_err(|error| InferError::Run(error.to_string()))?;
            Ok(vec![Vec::new(); texts.len()])
        }
    }

    #[test]
    fn more_texts_than_the_queue_holds_are_refused_until_there_is_room() {
        let (go, waits) = mpsc::channel();
        let waits = Mutex::new(Some(waits));
        let engine = Engine::with(Box::new(move || {
            let waits = waits.lock().take().ok_or(InferError::NotLoaded)?;
            Ok(Box::new(Slow(Mutex::new(waits))))
        }));
        loaded(&engine);
        let answers: Vec<_> = (0..QUEUE).map(|_| ask(&engine, "cat").unwrap()).collect();
        assert!(matches!(ask(&engine, "cat"), Err(InferError::Busy(QUEUE))));
        (0..QUEUE).for_each(|_| go.send(()).unwrap());
        assert!(answers.into_iter().all(|answer| answer.recv().unwrap().is_ok()));
        // Places are given back after the reply; there is one as soon as one was.
        let again = std::iter::repeat_with(|| ask(&engine, "cat")).find_map(Result::ok).unwrap();
        go.send(()).unwrap();
        assert!(again.recv().unwrap().is_ok());
    }
}

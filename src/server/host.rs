//! What plugins reach of the process: [`Host`], implemented over the exchange, the flywheel, the live routers and the stores.

use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use futures_util::{StreamExt, stream};
use tokio::sync::{mpsc, oneshot};
use tokio::time::timeout;

use super::knowledge;

use crate::base::tasks::Tasks;
use crate::config::settings::Settings;
use crate::flywheel::Flywheel;
use crate::infer::{Engine, InferError};
use crate::learning::live::{LiveRouter, Routers};
use crate::plugins::{CompletedCall, Host, HttpAnswer, HttpCall, LlmCall};
use crate::proxy::exchange::Exchange;
use crate::proxy::snapshot::Snapshot;
use crate::rag::RagError;
use crate::rag::ask::{Ask, Event, Events};
use crate::rag::knowledge_base::{Caller, Rag};
use crate::rag::retrieve::{Candidate, Search};
use crate::stores::redis::{Locate, RedisConfig};
use crate::stores::{Store, Stores};
use crate::telemetry::metrics::{EmbeddingResult, Metrics};

pub struct ProcessHost {
    pub settings: Arc<Settings>,
    pub exchange: Arc<Exchange>,
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    pub flywheel: Option<Flywheel>,
    pub routers: Arc<Routers>,
    pub stores: Stores,
    pub metrics: Arc<Metrics>,
    pub tasks: Tasks,
    pub engine: Arc<Engine>,
    pub rag: Arc<Rag>,
}

/// Longest a request waits for its embedding; it is decided without one then.
const MAX_WAIT: Duration = Duration::from_millis(250);

impl ProcessHost {
    async fn embedding(&self, text: &str) -> Result<Vec<f32>, &'static str> {
        let (sender, receiver) = oneshot::channel();
        // The receiver may be gone: then nobody waits for the vector any more.
        let reply = Box::new(move |vector| drop(sender.send(vector)));
        self.engine.submit(text.to_owned(), reply).map_err(|error| match error {
            InferError::Busy(_) => "busy",
            _ => "not_loaded",
        })?;
        match timeout(MAX_WAIT, receiver).await {
            Ok(Ok(Ok(vector))) => Ok(vector),
            Ok(_) => Err("failed"),
            Err(_) => Err("late"),
        }
    }
}

#[async_trait]
impl Host for ProcessHost {
    async fn complete(&self, call: LlmCall) -> CompletedCall {
        let snapshot = self.snapshot.load_full();
        self.exchange.complete(&snapshot, call).await
    }

    async fn http(&self, call: HttpCall) -> Result<HttpAnswer, String> {
        let snapshot = self.snapshot.load_full();
        self.exchange.http(&snapshot, call).await
    }

    fn spawn(&self, work: Pin<Box<dyn Future<Output = ()> + Send>>) {
        self.tasks.spawn(work);
    }

    fn flywheel(&self) -> Option<&Flywheel> {
        self.flywheel.as_ref()
    }

    fn store(&self, redis: Option<&RedisConfig>) -> Arc<dyn Store> {
        self.stores.get(redis)
    }

    fn data_dir(&self) -> &Path {
        &self.settings.data_dir
    }

    fn router(&self, name: &str) -> Arc<LiveRouter> {
        self.routers.get(name)
    }

    fn prepare_embedding(&self) {
        self.engine.prepare();
    }

    async fn embed(&self, text: &str) -> Option<Vec<f32>> {
        let embedding = self.embedding(text).await;
        let result = embedding.as_ref().map_or_else(|why| *why, |_| "made");
        self.metrics.embeddings.get_or_create(&EmbeddingResult { result }).inc();
        embedding.ok()
    }

    async fn find_passages(&self, base: &str, search: Search, caller: Caller) -> Result<Vec<Candidate>, RagError> {
        let (sender, receiver) = oneshot::channel();
        let (rag, base) = (self.rag.clone(), base.to_owned());
        // The receiver may be gone: then the client is, too.
        self.tasks.spawn(async move { drop(sender.send(knowledge::search(&rag, &base, search, &caller).await)) });
        receiver.await.unwrap_or_else(|_| Err(stopping()))
    }

    async fn knowledge_bases(&self, caller: Caller) -> Result<Vec<String>, RagError> {
        let (sender, receiver) = oneshot::channel();
        let rag = self.rag.clone();
        self.tasks.spawn(async move { drop(sender.send(rag.names_for(&caller).await)) });
        receiver.await.unwrap_or_else(|_| Err(stopping()))
    }

    async fn ask_documents(&self, base: &str, ask: Ask, caller: Caller) -> Result<Events, RagError> {
        let (sender, receiver) = oneshot::channel();
        let (rag, base) = (self.rag.clone(), base.to_owned());
        self.tasks.spawn(async move {
            let events = match knowledge::ask(&rag, &base, ask, &caller).await {
                Ok(events) => events,
                Err(error) => return drop(sender.send(Err(error))),
            };
            let (teller, listener) = mpsc::channel(WAITING_EVENTS);
            if sender.send(Ok(listener)).is_ok() {
                tell(events, teller).await;
            }
        });
        let mut events: mpsc::Receiver<Event> = receiver.await.unwrap_or_else(|_| Err(stopping()))?;
        Ok(Box::pin(stream::poll_fn(move |context| events.poll_recv(context))))
    }

    fn metrics(&self) -> &Metrics {
        &self.metrics
    }
}

/// Events of an answer that may wait for a slow client; writing waits then.
const WAITING_EVENTS: usize = 8;

/// Passes events on while somebody listens.
async fn tell(mut events: Events, teller: mpsc::Sender<Event>) {
    loop {
        let event = tokio::select! {
            event = events.next() => event,
            () = teller.closed() => return,
        };
        let Some(event) = event else { return };
        if teller.send(event).await.is_err() {
            return;
        }
    }
}

fn stopping() -> RagError {
    RagError::Unavailable("the gateway is stopping".to_owned())
}

/// Services of whatever configuration is live, for the stores.
pub struct LiveServices {
    pub exchange: Arc<Exchange>,
    pub snapshot: Arc<ArcSwap<Snapshot>>,
}

#[async_trait]
impl Locate for LiveServices {
    async fn locate(&self, service: &str, port: u16) -> Result<SocketAddr, String> {
        let snapshot = self.snapshot.load_full();
        self.exchange.locate(&snapshot, service, port).await
    }
}

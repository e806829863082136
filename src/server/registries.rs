//! Registries in this process: they are asked over the exchange's connections, their addresses go to the resolver, and a
//! change of their services makes a new configuration.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytes::Bytes;
use pingora_http::RequestHeader;
use tokio::sync::Notify;

use super::reload::Reloader;
use crate::base::tasks::Tasks;
use crate::config::model::Registry;
use crate::discovery::{Ask, Directory, Fetch, Fetched, Sink};
use crate::plugins::{Destination, HttpCall};
use crate::proxy::exchange::Exchange;
use crate::proxy::resolve::Resolver;
use crate::proxy::snapshot::Snapshot;
use crate::telemetry::metrics::{ByRegistry, Metrics};

/// How long the start waits for registries, so that the first requests find their services.
const FIRST_ANSWERS: Duration = Duration::from_secs(3);

/// A registry's whole catalogue in one answer can be large.
const ANSWER_LIMIT: usize = 64 << 20;

/// The directory of this process, and the sign that its services have changed.
pub struct Registries {
    pub directory: Arc<Directory>,
    changed: Arc<Notify>,
}

impl Registries {
    pub fn new(
        exchange: Arc<Exchange>,
        snapshot: Arc<ArcSwap<Snapshot>>,
        resolver: Arc<Resolver>,
        metrics: Arc<Metrics>,
        tasks: Tasks,
    ) -> Registries {
        let changed = Arc::new(Notify::new());
        let news = News { resolver, metrics, changed: changed.clone() };
        let directory = Directory::new(Arc::new(Client { exchange, snapshot }), Arc::new(news), tasks);
        Registries { directory: Arc::new(directory), changed }
    }

    /// Waits a moment for the registries of the first configuration.
    pub async fn first_answers(&self, reloader: &Arc<Reloader>) {
        if self.directory.is_partial() {
            self.directory.first_answers(FIRST_ANSWERS).await;
            rediscover(reloader).await;
        }
    }

    /// Compiles again whenever the services have changed.
    pub async fn keep_up(self, reloader: Arc<Reloader>) {
        loop {
            self.changed.notified().await;
            rediscover(&reloader).await;
        }
    }
}

/// Away from the threads that carry calls: compiling takes its time.
async fn rediscover(reloader: &Arc<Reloader>) {
    let reloader = reloader.clone();
    if let Err(error) = tokio::task::spawn_blocking(move || reloader.rediscover()).await {
        tracing::error!(%error, "What the registries say could not be compiled");
    }
}

struct Client {
    exchange: Arc<Exchange>,
    snapshot: Arc<ArcSwap<Snapshot>>,
}

#[async_trait]
impl Fetch for Client {
    async fn fetch(&self, ask: Ask) -> Result<Fetched, String> {
        let uri: http::Uri = ask.url.parse().map_err(|error| format!("is not a usable address: {error}"))?;
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let mut head = RequestHeader::build(ask.method, path.as_bytes(), Some(ask.headers.len()))
            .map_err(|error| error.to_string())?;
        for (name, value) in &ask.headers {
            head.insert_header(*name, value.as_str()).map_err(|error| error.to_string())?;
        }
        let call = HttpCall {
            to: Destination::Url(ask.url),
            head,
            body: Bytes::from(ask.body),
            timeout: ask.timeout,
            is_question: true,
            may_cut: false,
        };
        let answer = self.exchange.http_up_to(&self.snapshot.load_full(), call, ANSWER_LIMIT).await?;
        Ok(Fetched { status: answer.status(), headers: answer.head.headers.clone(), body: answer.body })
    }
}

struct News {
    resolver: Arc<Resolver>,
    metrics: Arc<Metrics>,
    changed: Arc<Notify>,
}

impl Sink for News {
    fn addresses(&self, service: &str, port: u16, addresses: Vec<std::net::SocketAddr>) {
        self.resolver.report(service, port, addresses);
    }

    fn services_changed(&self) {
        self.changed.notify_one();
    }

    fn registry(&self, registry: &Registry, is_up: Option<bool>) {
        let labels = ByRegistry { registry: registry.name.clone(), kind: registry.kind.name() };
        match is_up {
            Some(is_up) => drop(self.metrics.registry_up.get_or_create(&labels).set(i64::from(is_up))),
            None => drop(self.metrics.registry_up.remove(&labels)),
        }
        if is_up == Some(false) {
            self.metrics.registry_failures.get_or_create(&labels).inc();
        }
    }
}

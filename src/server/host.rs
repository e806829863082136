//! What plugins reach of the process: [`Host`], implemented over the exchange, the store and the live routers.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use arc_swap::ArcSwap;
use async_trait::async_trait;

use crate::base::cache::Cache;
use crate::base::tasks::Tasks;
use crate::flywheel::Flywheel;
use crate::learning::live::{LiveRouter, Routers};
use crate::plugins::{CompletedCall, Host, HttpAnswer, HttpCall, LlmCall};
use crate::proxy::exchange::Exchange;
use crate::proxy::snapshot::Snapshot;
use crate::telemetry::metrics::Metrics;

pub struct ProcessHost {
    pub exchange: Arc<Exchange>,
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    pub flywheel: Option<Flywheel>,
    pub routers: Arc<Routers>,
    pub metrics: Arc<Metrics>,
    pub cache: Cache,
    pub tasks: Tasks,
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

    fn router(&self, name: &str) -> Arc<LiveRouter> {
        self.routers.get(name)
    }

    fn metrics(&self) -> &Metrics {
        &self.metrics
    }

    fn cache(&self) -> &Cache {
        &self.cache
    }
}

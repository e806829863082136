//! What plugins reach of the process: [`Host`], implemented over the exchange, the flywheel, the live routers and the stores.

use std::future::Future;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;

use arc_swap::ArcSwap;
use async_trait::async_trait;

use crate::base::tasks::Tasks;
use crate::config::settings::Settings;
use crate::flywheel::Flywheel;
use crate::learning::live::{LiveRouter, Routers};
use crate::plugins::{CompletedCall, Host, HttpAnswer, HttpCall, LlmCall};
use crate::proxy::exchange::Exchange;
use crate::proxy::snapshot::Snapshot;
use crate::stores::redis::{Locate, RedisConfig};
use crate::stores::{Store, Stores};
use crate::telemetry::metrics::Metrics;

pub struct ProcessHost {
    pub settings: Arc<Settings>,
    pub exchange: Arc<Exchange>,
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    pub flywheel: Option<Flywheel>,
    pub routers: Arc<Routers>,
    pub stores: Stores,
    pub metrics: Arc<Metrics>,
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

    fn store(&self, redis: Option<&RedisConfig>) -> Arc<dyn Store> {
        self.stores.get(redis)
    }

    fn data_dir(&self) -> &Path {
        &self.settings.data_dir
    }

    fn router(&self, name: &str) -> Arc<LiveRouter> {
        self.routers.get(name)
    }

    fn metrics(&self) -> &Metrics {
        &self.metrics
    }
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

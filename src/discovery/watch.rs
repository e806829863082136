//! One registry being watched: ask for ever, and after a failure again, with growing pauses.

use std::convert::Infallible;
use std::time::Duration;

use tokio::time::Instant;

use super::{Fetch, Listing, consul, eureka, nacos, zookeeper};
use crate::config::model::{Registry, RegistryKind};

const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// Publishes what the registry lists, now and after every change, and tells why it cannot be asked, until it is dropped.
pub(super) async fn watch(
    registry: &Registry,
    fetch: &dyn Fetch,
    publish: &(dyn Fn(Listing) + Send + Sync),
    failed: &(dyn Fn(String) + Send + Sync),
) {
    let mut pause = FIRST_PAUSE;
    loop {
        let started = Instant::now();
        let Err(error) = follow(registry, fetch, publish).await;
        if started.elapsed() > LONGEST_PAUSE {
            // It had worked for a while: this is a new failure.
            pause = FIRST_PAUSE;
        }
        tracing::warn!(
            registry = registry.name,
            kind = registry.kind.name(),
            error,
            retry_in_s = pause.as_secs(),
            "A registry cannot be asked; what it said last stays in use. Check its domain and port in the McpBridge"
        );
        failed(error);
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// Ends only with a failure.
async fn follow(
    registry: &Registry,
    fetch: &dyn Fetch,
    publish: &(dyn Fn(Listing) + Send + Sync),
) -> Result<Infallible, String> {
    match &registry.kind {
        RegistryKind::Consul { datacenter, tag, token } => {
            let query = consul::Query { registry, fetch, datacenter, tag: tag.as_deref(), token: token.as_ref() };
            query.follow(publish).await
        }
        RegistryKind::Nacos { api, namespace_id, namespace, groups, refresh, user, signer } => {
            let (user, signer) = (user.as_ref(), signer.as_ref());
            let client = nacos::Client { registry, fetch, api: *api, namespace_id, namespace, groups, user, signer };
            client.follow(*refresh, publish).await
        }
        RegistryKind::Eureka => eureka::follow(registry, fetch, publish).await,
        RegistryKind::ZooKeeper { paths } => zookeeper::follow(registry, paths, publish).await,
    }
}

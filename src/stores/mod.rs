//! Small shared values with a life time: counters of windows, marks that may be set once, and values kept for later.
//!
//! One trait, two places: this process ([`memory`]), or a Redis that several gateways share ([`redis`]). Plugins get theirs
//! from the `Host`; this module knows neither plugins nor the configuration's services, and is told where Redis is
//! ([`redis::Locate`]). The same tests run against both.

pub mod memory;
pub mod redis;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Weak};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;

use self::memory::MemoryStore;
use self::redis::{Locate, RedisConfig, RedisStore};

#[async_trait]
pub trait Store: Send + Sync {
    /// Counts one more use of every window, all at once, and tells how each stands. A window that is over its limit already
    /// is left as it is.
    ///
    /// # Errors
    /// The store cannot be used now.
    async fn count(&self, windows: &[Window]) -> Result<Vec<Counted>, StoreError>;

    /// Sets a mark for some time; false if it was set already.
    ///
    /// # Errors
    /// The store cannot be used now.
    async fn claim(&self, key: &str, life: Duration) -> Result<bool, StoreError>;

    /// What was kept under a key, if its time is not over.
    ///
    /// # Errors
    /// The store cannot be used now.
    async fn value(&self, key: &str) -> Result<Option<Bytes>, StoreError>;

    /// Keeps a value for some time, or until the room is needed.
    ///
    /// # Errors
    /// The store cannot be used now.
    async fn keep(&self, key: &str, value: &[u8], life: Option<Duration>) -> Result<(), StoreError>;
}

/// A counter that begins anew some time after its first use.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Window {
    pub key: String,
    pub limit: u64,
    pub seconds: u64,
}

/// How a window stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counted {
    /// Uses so far; at most one more than the limit.
    pub count: u64,
    /// Seconds until the window begins anew.
    pub reset_secs: u64,
}

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    #[error("{service} cannot be used: {reason}")]
    Redis { service: String, reason: String },
}

/// All stores of a process. A store lives as long as somebody holds it, so that a new configuration keeps its connection and
/// one that is no longer configured goes.
pub struct Stores {
    memory: Arc<MemoryStore>,
    redis: Mutex<Vec<(RedisConfig, Weak<RedisStore>)>>,
    locate: Arc<dyn Locate>,
}

impl Stores {
    pub fn new(locate: Arc<dyn Locate>) -> Stores {
        Stores { memory: Arc::default(), redis: Mutex::default(), locate }
    }

    /// The Redis of that configuration, or this process's own store. Connects on first use, not here.
    pub fn get(&self, redis: Option<&RedisConfig>) -> Arc<dyn Store> {
        let Some(config) = redis else { return self.memory.clone() };
        let mut known = self.redis.lock();
        known.retain(|(_, store)| store.strong_count() > 0);
        if let Some(store) = known.iter().find(|(own, _)| own == config).and_then(|(_, store)| store.upgrade()) {
            return store;
        }
        let store = Arc::new(RedisStore::new(config.clone(), self.locate.clone()));
        known.push((config.clone(), Arc::downgrade(&store)));
        store
    }
}

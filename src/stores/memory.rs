//! The store in this process: exact here, unknown to other gateways and lost at its end. Values kept for later have a bounded cache
//! of their own (`base::cache`).
//!
//! Keys come from clients, so there has to be an end, and a long one must cost no more than a short one: hashes are kept instead.
//! When all places are taken, those go whose time is over soonest.

use std::collections::HashMap;
use std::hash::{BuildHasher as _, RandomState};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{Counted, Store, StoreError, Window};
use crate::base::cache::Cache;

/// Entries that may be alive; with the table's own room one takes some 70 bytes.
const MOST: usize = 1 << 20;
/// The share of them that goes when all are alive, one in so many.
const EVICTED: usize = 8;

/// A life that is longer than clocks go is this.
const LONGEST: Duration = Duration::from_secs(10 * 365 * 24 * 60 * 60);

/// Entries below which nothing is thrown away.
const FEW: usize = 1024;

pub struct MemoryStore {
    entries: Mutex<Entries>,
    most: usize,
    values: Cache,
}

#[derive(Default)]
struct Entries {
    live: HashMap<u128, Entry>,
    /// Two hashes under secrets of this process: nobody can make two keys meet.
    hashers: [RandomState; 2],
    /// Size at which what has expired is thrown away; twice what was left the last time, so that the cost per entry is
    /// constant.
    sweep_at: usize,
}

struct Entry {
    count: u64,
    until: Instant,
}

impl Default for MemoryStore {
    fn default() -> Self {
        MemoryStore { entries: Mutex::default(), most: MOST, values: Cache::default() }
    }
}

#[async_trait]
impl Store for MemoryStore {
    async fn count(&self, windows: &[Window]) -> Result<Vec<Counted>, StoreError> {
        let mut entries = self.entries.lock();
        let now = Instant::now();
        let n_new = windows.iter().filter(|window| !entries.knows(&window.key)).count();
        entries.make_room(n_new, now, self.most);
        let counted = windows.iter().map(|window| {
            let entry = entries.at(&window.key, Duration::from_secs(window.seconds), now);
            if entry.count <= window.limit {
                entry.count += 1;
            }
            Counted { count: entry.count, reset_secs: entry.until.duration_since(now).as_secs_f64().ceil() as u64 }
        });
        Ok(counted.collect())
    }

    async fn claim(&self, key: &str, life: Duration) -> Result<bool, StoreError> {
        let mut entries = self.entries.lock();
        let now = Instant::now();
        let n_new = usize::from(!entries.knows(key));
        entries.make_room(n_new, now, self.most);
        let entry = entries.at(key, life, now);
        let is_first = entry.count == 0;
        entry.count = 1;
        Ok(is_first)
    }

    async fn value(&self, key: &str) -> Result<Option<Bytes>, StoreError> {
        Ok(self.values.get(key))
    }

    async fn keep(&self, key: &str, value: &[u8], life: Option<Duration>) -> Result<(), StoreError> {
        self.values.put(key.to_owned(), value, life);
        Ok(())
    }
}

impl Entries {
    fn id(&self, key: &str) -> u128 {
        let [high, low] = self.hashers.each_ref().map(|hasher| u128::from(hasher.hash_one(key)));
        high << 64 | low
    }

    fn knows(&self, key: &str) -> bool {
        self.live.contains_key(&self.id(key))
    }

    /// The entry of a key, begun anew if its time is over.
    fn at(&mut self, key: &str, life: Duration, now: Instant) -> &mut Entry {
        let entry = self.live.entry(self.id(key)).or_insert(Entry { count: 0, until: now });
        if entry.until <= now {
            let until = now.checked_add(life).or_else(|| now.checked_add(LONGEST)).unwrap_or(now);
            *entry = Entry { count: 0, until };
        }
        entry
    }

    fn make_room(&mut self, more: usize, now: Instant, most: usize) {
        if self.live.len() + more <= self.sweep_at.max(FEW.min(most)) {
            return;
        }
        self.live.retain(|_, entry| entry.until > now);
        if self.live.len() + more > most {
            let mut ends: Vec<Instant> = self.live.values().map(|entry| entry.until).collect();
            let n_evicted = (most / EVICTED).max(more).min(ends.len()).saturating_sub(1);
            if !ends.is_empty() {
                let last = *ends.select_nth_unstable(n_evicted).1;
                self.live.retain(|_, entry| entry.until > last);
            }
            tracing::warn!(
                most,
                "All counters of rate limits and used nonces that this process keeps are taken; the ones that would end soonest are \
                 forgotten. Configure a Redis for more"
            );
        }
        self.sweep_at = (self.live.len() * 2).clamp(self.live.len() + more, most.max(self.live.len() + more));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn windows_begin_anew_and_marks_expire() {
        let store = MemoryStore::default();
        let window = [Window { key: "k".into(), limit: 1, seconds: 60 }];
        assert_eq!(store.count(&window).await.unwrap(), [Counted { count: 1, reset_secs: 60 }]);
        tokio::time::advance(Duration::from_millis(20_500)).await;
        assert_eq!(store.count(&window).await.unwrap(), [Counted { count: 2, reset_secs: 40 }]);
        assert!(store.claim("m", Duration::from_secs(10)).await.unwrap());
        tokio::time::advance(Duration::from_millis(9_999)).await;
        assert!(!store.claim("m", Duration::from_secs(10)).await.unwrap());
        tokio::time::advance(Duration::from_secs(30)).await;
        assert!(store.claim("m", Duration::from_secs(10)).await.unwrap());
        assert_eq!(store.count(&window).await.unwrap(), [Counted { count: 1, reset_secs: 60 }]);
    }

    #[tokio::test(start_paused = true)]
    async fn what_has_expired_makes_room_and_then_what_ends_soonest() {
        let store = MemoryStore { most: 4, ..MemoryStore::default() };
        let life = Duration::from_secs(5);
        for key in ["a", "b", "c", "d"] {
            assert!(store.claim(key, life).await.unwrap());
        }
        tokio::time::advance(life).await;
        for (key, life) in [("e", 4), ("f", 3), ("g", 5), ("h", 6)] {
            assert!(store.claim(key, Duration::from_secs(life)).await.unwrap());
        }
        assert!(store.claim("i", life).await.unwrap());
        for (key, is_gone) in [("e", false), ("g", false), ("h", false), ("i", false), ("f", true)] {
            assert_eq!(store.claim(key, life).await.unwrap(), is_gone, "{key}");
        }
        assert!(store.claim("j", Duration::MAX).await.unwrap());
    }
}

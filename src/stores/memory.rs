//! The store in this process: exact here, unknown to other gateways and lost at its end. Values kept for later have a bounded cache
//! of their own (`base::cache`).

use std::collections::HashMap;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use tokio::time::Instant;

use super::{Counted, Store, StoreError, Window};
use crate::base::cache::Cache;

/// Entries that may be alive. Keys come from clients, so there has to be an end; one takes about 200 bytes.
const MOST: usize = 1 << 20;

/// Entries below which nothing is thrown away.
const FEW: usize = 1024;

pub struct MemoryStore {
    entries: Mutex<Entries>,
    most: usize,
    values: Cache,
}

#[derive(Default)]
struct Entries {
    live: HashMap<String, Entry>,
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
        entries.make_room(windows.len(), now, self.most)?;
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
        entries.make_room(1, now, self.most)?;
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
    /// The entry of a key, begun anew if its time is over.
    fn at(&mut self, key: &str, life: Duration, now: Instant) -> &mut Entry {
        let entry = self.live.entry(key.to_owned()).or_insert(Entry { count: 0, until: now });
        if entry.until <= now {
            *entry = Entry { count: 0, until: now + life };
        }
        entry
    }

    fn make_room(&mut self, more: usize, now: Instant, most: usize) -> Result<(), StoreError> {
        if self.live.len() + more <= self.sweep_at.max(FEW.min(most)) {
            return Ok(());
        }
        self.live.retain(|_, entry| entry.until > now);
        self.sweep_at = (self.live.len() * 2).min(most);
        if self.live.len() + more > most { Err(StoreError::Full { entries: self.live.len() }) } else { Ok(()) }
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
    async fn what_has_expired_makes_room_and_what_lives_does_not() {
        let store = MemoryStore { most: 4, ..MemoryStore::default() };
        let life = Duration::from_secs(5);
        for key in ["a", "b", "c", "d"] {
            assert!(store.claim(key, life).await.unwrap());
        }
        assert_eq!(store.claim("e", life).await, Err(StoreError::Full { entries: 4 }));
        tokio::time::advance(life).await;
        assert!(store.claim("e", life).await.unwrap());
        assert_eq!(store.entries.lock().live.len(), 1);
    }
}

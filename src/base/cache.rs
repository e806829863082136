//! A bounded cache of byte strings, shared by everything in the process that caches answers.
//!
//! It outlives configurations, so a reload does not empty it. The entries used least recently make room; how much an entry
//! weighs is the length of its key and value.

use std::time::{Duration, Instant};

use bytes::Bytes;
use lru::LruCache;
use parking_lot::Mutex;

/// Room that a process gives its cached answers.
pub const DEFAULT_BYTES: usize = 64 << 20;

pub struct Cache {
    entries: Mutex<Entries>,
    limit: usize,
}

struct Entries {
    by_key: LruCache<String, Entry>,
    bytes: usize,
}

struct Entry {
    value: Bytes,
    until: Option<Instant>,
}

impl Cache {
    pub fn new(limit: usize) -> Cache {
        Cache { entries: Mutex::new(Entries { by_key: LruCache::unbounded(), bytes: 0 }), limit }
    }

    /// What was kept under `key`, if its time is not over.
    pub fn get(&self, key: &str) -> Option<Bytes> {
        let mut entries = self.entries.lock();
        let entry = entries.by_key.get(key)?;
        if entry.until.is_some_and(|until| until <= Instant::now()) {
            entries.remove(key);
            return None;
        }
        Some(entry.value.clone())
    }

    /// Keeps `value` for `time`, or until it has to make room. A value that is larger than an eighth of the cache is not kept,
    /// because it would push out everything else.
    pub fn put(&self, key: String, value: &[u8], time: Option<Duration>) {
        let weight = key.len() + value.len();
        if weight > self.limit / 8 {
            return;
        }
        let mut entries = self.entries.lock();
        entries.remove(&key);
        while entries.bytes + weight > self.limit {
            let Some((old, entry)) = entries.by_key.pop_lru() else { break };
            entries.bytes -= old.len() + entry.value.len();
        }
        entries.bytes += weight;
        // A copy, because a value cut from a larger buffer would keep all of that.
        let value = Bytes::copy_from_slice(value);
        entries.by_key.put(key, Entry { value, until: time.map(|time| Instant::now() + time) });
    }
}

impl Default for Cache {
    fn default() -> Self {
        Cache::new(DEFAULT_BYTES)
    }
}

impl Entries {
    fn remove(&mut self, key: &str) {
        if let Some(entry) = self.by_key.pop(key) {
            self.bytes -= key.len() + entry.value.len();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_least_recently_used_make_room() {
        let cache = Cache::new(80);
        for key in ["a", "b", "c", "d", "e", "f", "g", "h"] {
            cache.put(key.to_owned(), b"123456789", None);
        }
        assert!(cache.get("a").is_some(), "eight entries of ten bytes fit");
        cache.put("i".into(), b"1", None);
        assert_eq!((cache.get("b"), cache.get("a").is_some()), (None, true));
        cache.put("x".into(), &[0; 11], None);
        assert_eq!(cache.get("x"), None, "too large");
        cache.put("a".into(), b"new", None);
        assert_eq!(cache.get("a").as_deref(), Some(&b"new"[..]));
        let entries = cache.entries.lock();
        let weighed: usize = entries.by_key.iter().map(|(key, entry)| key.len() + entry.value.len()).sum();
        assert_eq!(entries.bytes, weighed);
    }

    #[test]
    fn entries_end_with_their_time() {
        let cache = Cache::default();
        cache.put("gone".into(), b"1", Some(Duration::ZERO));
        cache.put("here".into(), b"1", Some(Duration::from_secs(3600)));
        assert_eq!((cache.get("gone"), cache.get("here").is_some()), (None, true));
        assert_eq!(cache.entries.lock().by_key.len(), 1);
    }
}

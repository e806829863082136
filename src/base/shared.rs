//! Values that belong to what they are of, whoever uses them: what is known of a provider outlives the configuration that asked for it, and
//! two changes of one thing wait for each other.

use std::collections::HashMap;
use std::sync::{Arc, Weak};

use parking_lot::Mutex;

/// Values by what they are of, for as long as somebody uses them.
pub struct Shared<T> {
    known: Mutex<HashMap<String, Weak<T>>>,
}

impl<T> Default for Shared<T> {
    fn default() -> Self {
        Self::new()
    }
}

impl<T> Shared<T> {
    pub fn new() -> Shared<T> {
        Shared { known: Mutex::default() }
    }

    pub fn get(&self, of: String, make: impl FnOnce() -> T) -> Arc<T> {
        let mut known = self.known.lock();
        if let Some(shared) = known.get(&of).and_then(Weak::upgrade) {
            return shared;
        }
        known.retain(|_, value| value.strong_count() > 0);
        let made = Arc::new(make());
        known.insert(of, Arc::downgrade(&made));
        made
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_in_use_is_shared_and_the_rest_forgotten() {
        let shared = Shared::new();
        let first = shared.get("a".into(), || 1);
        assert_eq!(*shared.get("a".into(), || 2), 1);
        drop(first);
        assert_eq!(*shared.get("a".into(), || 3), 3);
        assert_eq!(shared.known.lock().len(), 1);
    }
}

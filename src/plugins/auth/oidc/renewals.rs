//! One renewal for all requests that come with the same session: a page asks for many things at once, and a provider that gives a new
//! refresh token each time takes the second use of the old one for theft.

use std::future::Future;
use std::num::NonZeroUsize;
use std::sync::{Arc, LazyLock};
use std::time::{Duration, Instant};

use lru::LruCache;
use parking_lot::Mutex;
use ring::digest;

use super::session::Session;

/// How long requests may still come with the session before: until the browser has the new cookie everywhere.
const KEPT: Duration = Duration::from_secs(30);
/// A provider that does not answer is not asked by each of them.
const KEPT_FAILURE: Duration = Duration::from_secs(1);
const MAX_SESSIONS: usize = 4096;

type Outcome = Result<Session, String>;
/// Held while the provider is asked.
type Slot = Arc<tokio::sync::Mutex<Option<(Instant, Outcome)>>>;

/// By the digest of client and refresh token. One for the process: rules of a plugin, and the configuration after this one, are others to the
/// program and the same to the provider.
pub static RENEWALS: LazyLock<Renewals> = LazyLock::new(Renewals::new);

pub struct Renewals {
    slots: Mutex<LruCache<Vec<u8>, Slot>>,
}

impl Renewals {
    pub fn new() -> Renewals {
        Renewals { slots: Mutex::new(LruCache::new(NonZeroUsize::new(MAX_SESSIONS).unwrap_or(NonZeroUsize::MIN))) }
    }

    /// What `renew` gives for this token of a client, or gave a moment ago.
    ///
    /// # Errors
    /// Those of `renew`.
    pub async fn once<F: Future<Output = Outcome>>(
        &self,
        client: &str,
        refresh_token: &str,
        renew: impl FnOnce() -> F,
    ) -> Outcome {
        let key = digest::digest(&digest::SHA256, format!("{client}\n{refresh_token}").as_bytes()).as_ref().to_vec();
        let slot = self.slots.lock().get_or_insert(key, Slot::default).clone();
        let mut latest = slot.lock().await;
        if let Some((at, outcome)) = latest.as_ref()
            && at.elapsed() < if outcome.is_ok() { KEPT } else { KEPT_FAILURE }
        {
            return outcome.clone();
        }
        let outcome = renew().await;
        *latest = Some((Instant::now(), outcome.clone()));
        outcome
    }
}

//! A key set that lives at an issuer: fetched when it is needed first, again when it is old or lacks a token's key.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use parking_lot::Mutex;

use super::jwt::{Fault, Jwks, Jwt};
use crate::plugins::HttpAnswer;

/// Tokens with unknown keys must not make an issuer be asked for each of them.
const PAUSE: Duration = Duration::from_secs(10);
/// Nor one that does not answer.
const PAUSE_AFTER_FAILURE: Duration = Duration::from_secs(1);
/// Where the configuration says that a set is not to be kept at all.
const LEAST_KEPT: Duration = Duration::from_secs(1);

pub struct RemoteKeys {
    /// How long a fetched set is believed.
    keep: Duration,
    current: Mutex<Option<(Instant, Arc<Jwks>)>>,
    /// When the issuer was asked last; held while it is asked, so that one request asks for all.
    asked: tokio::sync::Mutex<Option<Instant>>,
}

impl RemoteKeys {
    pub fn new(keep: Duration) -> RemoteKeys {
        RemoteKeys { keep: keep.max(LEAST_KEPT), current: Mutex::default(), asked: tokio::sync::Mutex::default() }
    }

    /// Verifies a token with the current keys, after `fetch` where they do not suffice.
    ///
    /// # Errors
    /// As [`Jwks::verify`]; [`Fault::NoKeys`] while there are none.
    pub async fn verify<F>(&self, jwt: &Jwt, fetch: impl FnOnce() -> F) -> Result<(), Fault>
    where
        F: Future<Output = Result<HttpAnswer, String>>,
    {
        let seen = self.fresh();
        match seen.as_ref().map(|(_, keys)| keys.verify(jwt)) {
            Some(Err(Fault::NoKey)) | None => {}
            Some(result) => return result,
        }
        let mut asked = self.asked.lock().await;
        let is_newer = self.fresh().map(|(at, _)| at) != seen.as_ref().map(|(at, _)| *at);
        let pause = if seen.is_some() { PAUSE } else { PAUSE_AFTER_FAILURE };
        // A set that was asked for and came is believed for its time, however short.
        let has_expired = seen.is_none() && self.current.lock().is_some();
        if !is_newer && (has_expired || asked.is_none_or(|at| at.elapsed() >= pause)) {
            *asked = Some(Instant::now());
            let fetched = fetch().await;
            // Who waited meanwhile has waited for this: the pause begins with the answer, or what came instead of one.
            *asked = Some(Instant::now());
            match fetched.and_then(|answer| read(&answer)) {
                Ok(keys) => *self.current.lock() = Some((Instant::now(), Arc::new(keys))),
                Err(reason) => {
                    tracing::warn!(%reason, "A key set could not be fetched");
                    // A token with an unknown key must not cost others the keys that still hold.
                    self.current.lock().take_if(|(at, _)| at.elapsed() >= self.keep);
                }
            }
        }
        drop(asked);
        self.fresh().ok_or(Fault::NoKeys)?.1.verify(jwt)
    }

    fn fresh(&self) -> Option<(Instant, Arc<Jwks>)> {
        self.current.lock().clone().filter(|(at, _)| at.elapsed() < self.keep)
    }
}

fn read(answer: &HttpAnswer) -> Result<Jwks, String> {
    if answer.status() != 200 {
        return Err(format!("the answer has status {}", answer.status()));
    }
    Jwks::parse(&answer.body).map(Jwks::public_only).map_err(|why| format!("the answer {why}"))
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;

    use serde_json::json;

    use super::super::jwt::tests::ecdsa;
    use super::*;
    use crate::plugins::testing::answer;

    #[tokio::test]
    async fn keys_are_fetched_once_and_again_for_an_unknown_one_after_a_pause() {
        let (set, sign) = ecdsa("a");
        let n_fetched = Cell::new(0);
        let keys = RemoteKeys::new(Duration::from_secs(600));
        let fetch = || {
            n_fetched.set(n_fetched.get() + 1);
            let answered = Ok(answer(200, &[], &set.to_string()));
            async { answered }
        };
        let jwt = Jwt::parse(&sign(&json!({}))).unwrap();
        for _ in 0..2 {
            assert_eq!(keys.verify(&jwt, fetch).await, Ok(()));
        }
        let unknown = Jwt::parse(&ecdsa("b").1(&json!({}))).unwrap();
        assert_eq!(keys.verify(&unknown, fetch).await, Err(Fault::NoKey));
        assert_eq!(n_fetched.get(), 1);
    }

    #[tokio::test]
    async fn keys_are_believed_for_their_time() {
        let (set, sign) = ecdsa("a");
        let n_fetched = Cell::new(0);
        let keys = RemoteKeys::new(Duration::from_secs(5));
        let jwt = Jwt::parse(&sign(&json!({}))).unwrap();
        for (seconds_later, expected) in [(0, 1), (3, 1), (2, 2), (0, 2)] {
            if let Some((at, _)) = keys.current.lock().as_mut() {
                *at = at.checked_sub(Duration::from_secs(seconds_later)).unwrap();
            }
            let fetch = || {
                n_fetched.set(n_fetched.get() + 1);
                let answered = Ok(answer(200, &[], &set.to_string()));
                async { answered }
            };
            assert_eq!(keys.verify(&jwt, fetch).await, Ok(()));
            assert_eq!(n_fetched.get(), expected);
        }
    }

    #[tokio::test]
    async fn keys_that_hold_outlast_an_issuer_that_does_not_answer() {
        let (set, sign) = ecdsa("a");
        let keys = RemoteKeys::new(Duration::from_secs(600));
        let good = Jwt::parse(&sign(&json!({}))).unwrap();
        let unknown = Jwt::parse(&ecdsa("b").1(&json!({}))).unwrap();
        assert_eq!(keys.verify(&good, || async { Ok(answer(200, &[], &set.to_string())) }).await, Ok(()));
        *keys.asked.lock().await = None;
        assert_eq!(keys.verify(&unknown, || async { Err("down".into()) }).await, Err(Fault::NoKey));
        assert_eq!(keys.verify(&good, || async { Err("down".into()) }).await, Ok(()));
    }

    #[tokio::test]
    async fn a_published_secret_is_no_key() {
        let keys = RemoteKeys::new(Duration::from_secs(600));
        let jwt = Jwt::parse(&super::super::jwt::sign("JWT", &json!({}), b"secret")).unwrap();
        let set = r#"{"keys": [{"kty": "oct", "k": "c2VjcmV0"}]}"#;
        assert_eq!(keys.verify(&jwt, || async { Ok(answer(200, &[], set)) }).await, Err(Fault::NoKey));
    }

    #[tokio::test]
    async fn without_an_answer_nothing_is_verified() {
        let keys = RemoteKeys::new(Duration::from_secs(600));
        let jwt = Jwt::parse(&ecdsa("a").1(&json!({}))).unwrap();
        for body in ["no set", "{}"] {
            let fetched = keys.verify(&jwt, || async { Ok(answer(200, &[], body)) }).await;
            assert_eq!(fetched, Err(Fault::NoKeys));
        }
    }
}

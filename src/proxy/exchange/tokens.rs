//! Which API token each attempt uses, and how tokens that fell out of the pool come back.
//!
//! Pools outlive snapshots, so that a reload does not forget which token is exhausted; a provider whose tokens or failover
//! policy change gets a new one, and the old one is forgotten.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use bytes::Bytes;
use futures_util::future::join_all;
use parking_lot::Mutex;
use pingora_http::RequestHeader;
use serde_json::json;

use super::Exchange;
use super::call::Call;
use crate::llm::failover::{Choice, TokenPool};
use crate::llm::provider::{Api, Provider};
use crate::proxy::cluster::Visited;
use crate::proxy::snapshot::Snapshot;

/// How often pools are looked at for tokens that a probe may bring back.
const PROBE_ROUND: Duration = Duration::from_secs(1);

/// All pools, by the provider's fingerprint.
#[derive(Default)]
pub struct Tokens {
    pools: Mutex<HashMap<u64, Arc<Pool>>>,
}

struct Pool {
    tokens: Mutex<TokenPool>,
    /// How a token that fell out is tried: on the way of the last call through this provider.
    probe: Mutex<Option<Call>>,
    probed: Mutex<Instant>,
}

impl Tokens {
    /// The token for the next attempt, by position; `Ok(None)` if the provider has none configured.
    ///
    /// # Errors
    /// Every token is out of the pool and none may be tried.
    pub fn choose(&self, call: &Call, consumer: Option<&str>, tried: &[usize]) -> Result<Option<usize>, NoToken> {
        let Some(pool) = self.pool(call) else { return Ok(None) };
        let mut tokens = pool.tokens.lock();
        let consumer = consumer.filter(|_| call.api.is_some_and(Api::is_stateful));
        let choice = Choice { now: Instant::now(), random: rand::random(), consumer, exclude: tried };
        // Once every token has been tried, a retry that the route asks for may use one again.
        let token = tokens.choose(choice).or_else(|| tokens.choose(Choice { exclude: &[], ..choice }));
        token.map(Some).ok_or(NoToken)
    }

    /// Whether a retry that the provider is configured with has a token that has not failed yet, or needs none.
    pub fn has_another(&self, call: &Call, tried: &[usize]) -> bool {
        let Some(pool) = self.pool(call) else { return true };
        let choice = Choice { now: Instant::now(), random: 0, consumer: None, exclude: tried };
        pool.tokens.lock().choose(choice).is_some()
    }

    /// Tells the pool how the provider answered.
    pub fn report(&self, call: &Call, token: Option<usize>, status: u16) {
        let (Some(pool), Some(token)) = (self.pool(call), token) else { return };
        let is_any_out = {
            let mut tokens = pool.tokens.lock();
            tokens.report(token, status, Instant::now());
            tokens.is_any_out()
        };
        if is_any_out {
            *pool.probe.lock() = probe_call(call);
        }
    }

    /// Forgets the pools of providers that are not configured any more.
    fn keep_those_of(&self, snapshot: &Snapshot) {
        let configured: HashSet<u64> = snapshot.chain.providers().map(Provider::fingerprint).collect();
        self.pools.lock().retain(|fingerprint, _| configured.contains(fingerprint));
    }

    fn pool(&self, call: &Call) -> Option<Arc<Pool>> {
        let provider = call.provider.as_ref().filter(|provider| !provider.config().tokens.is_empty())?;
        let config = provider.config();
        let fresh = || {
            let tokens = Mutex::new(TokenPool::new(config.tokens.len(), config.failover.clone()));
            Arc::new(Pool { tokens, probe: Mutex::new(None), probed: Mutex::new(Instant::now()) })
        };
        Some(self.pools.lock().entry(provider.fingerprint()).or_insert_with(fresh).clone())
    }
}

/// No token of the provider can be used now.
#[derive(Debug)]
pub struct NoToken;

impl Exchange {
    /// Asks providers again with tokens that fell out, as `failover.healthCheckModel` wants. Runs until the process drains.
    pub async fn probe_tokens(&self, current: &ArcSwap<Snapshot>) {
        loop {
            tokio::time::sleep(PROBE_ROUND).await;
            self.tokens.keep_those_of(&current.load_full());
            let pools: Vec<Arc<Pool>> = self.tokens.pools.lock().values().cloned().collect();
            join_all(pools.iter().map(|pool| self.probe(pool))).await;
        }
    }

    async fn probe(&self, pool: &Pool) {
        let Some(call) = pool.probe.lock().clone() else { return };
        let policy = call.provider.as_ref().and_then(|provider| provider.config().failover.clone());
        let Some(policy) = policy.filter(|policy| pool.probed.lock().elapsed() >= policy.health_check_interval) else {
            return;
        };
        let out = pool.tokens.lock().to_probe(Instant::now());
        if out.is_empty() {
            *pool.probe.lock() = None;
            return;
        }
        *pool.probed.lock() = Instant::now();
        for token in out {
            let status =
                match self.open(&call, Some(token), Some(policy.health_check_timeout), &mut Visited::default()).await {
                    Ok(opened) => {
                        let status = opened.status();
                        self.discard(opened).await;
                        status
                    }
                    Err(_) => 0,
                };
            pool.tokens.lock().report_probe(token, status);
            tracing::info!(
                provider = call.provider.as_ref().map_or("", |p| &p.config().id),
                token,
                status,
                "Probed an API token"
            );
        }
    }
}

/// A short chat on the way of another call, with the model that its provider names for this.
fn probe_call(way: &Call) -> Option<Call> {
    let model = way.provider.as_ref()?.config().failover.as_ref()?.health_check_model.as_deref()?;
    let mut head = RequestHeader::build("POST", b"/v1/chat/completions", Some(2)).ok()?;
    head.insert_header(http::header::CONTENT_TYPE, "application/json").ok()?;
    head.insert_header(http::header::HOST, way.service.as_ref()).ok()?;
    let body = json!({"model": model, "max_tokens": 1, "messages": [{"role": "user", "content": "who are you?"}]});
    Some(Call {
        head,
        body: Bytes::from(body.to_string()),
        api: Some(Api::ChatCompletions),
        model: Arc::from(model),
        service: way.service.clone(),
        upstream: way.upstream.clone(),
        balance_key: None,
        provider: way.provider.clone(),
        timeouts: way.timeouts,
        want: None,
        is_stream: false,
        is_model_chosen: true,
    })
}

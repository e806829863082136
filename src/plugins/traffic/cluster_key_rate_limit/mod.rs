//! `cluster-key-rate-limit`: limits requests by header, parameter, cookie, consumer or address, over all gateways that share
//! a Redis. Default phase, priority 20.
//!
//! Every matching counter (the global one, and of each rule item the first key that takes the request) counts the request in
//! one step; if one of them is over its limit the request is refused. If Redis cannot be used the request passes.
//!
//! Differences from Higress: without `redis` the counters are kept in this process. With several counters the quota headers
//! are those of the counter with the fewest requests left (there with the smallest share left).

mod config;

use std::sync::Arc;

use async_trait::async_trait;
use http::{HeaderName, HeaderValue};

use self::config::{Config, Item, Selector};
use super::rate::Rate;
use crate::config::model::Phase;
use crate::plugins::config::is_usable;
use crate::plugins::registry::{BuildResult, PluginSpec, Scope};
use crate::plugins::rules::Family;
use crate::plugins::{Flow, Host, Plugin, Reply, Request, parts};
use crate::stores::{Counted, Store, Window};

pub const SPEC: PluginSpec = PluginSpec {
    name: "cluster-key-rate-limit",
    phase: Phase::Unspecified,
    priority: 20,
    family: Family::Go,
    summary: "Limits requests by header, parameter, cookie, consumer or address, over all gateways of a Redis",
    build,
    check: |scope| Config::read(scope).1,
};

const LIMIT_HEADER: HeaderName = HeaderName::from_static("x-ratelimit-limit");
const REMAINING_HEADER: HeaderName = HeaderName::from_static("x-ratelimit-remaining");
const RESET_HEADER: HeaderName = HeaderName::from_static("x-ratelimit-reset");

struct ClusterKeyRateLimit {
    config: Config,
    store: Arc<dyn Store>,
}

fn build(scope: &Scope<'_>, host: &Arc<dyn Host>) -> BuildResult {
    let (config, problems) = Config::read(scope);
    if !is_usable(&problems) {
        return Err(problems);
    }
    let store = host.store(config.redis.as_ref());
    Ok(Some(Arc::new(ClusterKeyRateLimit { config, store })))
}

#[async_trait]
impl Plugin for ClusterKeyRateLimit {
    async fn on_request_headers(&self, request: &mut Request<'_>) -> Flow {
        let windows = self.config.windows(request);
        if windows.is_empty() {
            return Flow::Continue;
        }
        let counted = match self.store.count(&windows).await {
            Ok(counted) => counted,
            Err(error) => {
                tracing::debug!(%error, "cluster-key-rate-limit lets a request pass uncounted");
                return Flow::Continue;
            }
        };
        let standing = windows.iter().zip(counted);
        // The one with the least left; one that is over has nothing, and less than nothing is not left.
        let tightest = standing.min_by_key(|(window, counted)| {
            (counted.count <= window.limit, window.limit.saturating_sub(counted.count))
        });
        match tightest {
            Some((window, counted)) if counted.count > window.limit => {
                Flow::respond(self.config.refusal(window, counted))
            }
            Some((window, counted)) if self.config.show_quota => {
                let remaining = window.limit.saturating_sub(counted.count);
                let headers = [(LIMIT_HEADER, window.limit), (REMAINING_HEADER, remaining)];
                request.state.reply_headers.extend(headers.map(|(name, value)| (name, HeaderValue::from(value))));
                Flow::Continue
            }
            _ => Flow::Continue,
        }
    }
}

impl Config {
    /// The counters this request belongs to.
    fn windows(&self, request: &Request<'_>) -> Vec<Window> {
        let rule = &self.rule_name;
        let global = self.global.map(|Rate { limit, seconds }| Window {
            key: format!("higress-cluster-key-rate-limit:{{{rule}}}:global_threshold:{seconds}"),
            limit,
            seconds,
        });
        let items = self.items.iter().filter_map(|item| {
            let (value, Rate { limit, seconds }) = item.rate_of(request)?;
            let (kind, name) = (item.kind, &item.name);
            let key = format!("higress-cluster-key-rate-limit:{{{rule}}}:{kind}:{seconds}:{name}:{value}");
            Some(Window { key, limit, seconds })
        });
        global.into_iter().chain(items).collect()
    }

    fn refusal(&self, window: &Window, counted: Counted) -> Reply {
        let mut reply =
            Reply::new(self.rejected_code, "cluster-key-rate-limit.rejected").text(self.rejected_msg.clone());
        reply.headers.push((RESET_HEADER, HeaderValue::from(counted.reset_secs)));
        if self.show_quota {
            reply.headers.push((LIMIT_HEADER, HeaderValue::from(window.limit)));
            reply.headers.push((REMAINING_HEADER, HeaderValue::from(0)));
        }
        reply
    }
}

impl Item {
    /// The request's value and the rate that applies to it.
    fn rate_of(&self, request: &Request<'_>) -> Option<(String, Rate)> {
        let value = match &self.selector {
            Selector::Header(name) => parts::text(request, name)?.into_owned(),
            Selector::Parameter(name) => parts::parameter(request, name)?.into_owned(),
            Selector::Cookie(name) => parts::cookie(request, name).filter(|value| !value.is_empty())?.to_owned(),
            Selector::Address(source) => source.of(request).ok()?.to_string(),
        };
        let (_, rate) = self.limits.iter().find(|(matcher, _)| matcher.takes(&value))?;
        Some((value, *rate))
    }
}

#[cfg(test)]
mod tests;

//! The arms of a route: its own destinations, and those of canaries that take part of its requests.
//!
//! Which arm takes a request is decided once, when the route is matched: canaries that look at a header or cookie first,
//! then the shares, then the route itself. Within an arm destinations are drawn by weight.

use std::sync::Arc;

use pingora_http::RequestHeader;

use super::route::header_holds;
use super::upstream::Upstream;
use crate::config::model::{self, CanaryTakes, DubboService, HeaderControl, Route};
use crate::plugins::cookies;

/// The value by which a cookie chooses a canary.
const ALWAYS: &str = "always";

pub struct Arm {
    /// As plugin rules know it.
    pub name: Arc<str>,
    pub header_control: HeaderControl,
    /// Requests become calls of this Dubbo service.
    pub rpc: Option<Arc<DubboService>>,
    destinations: Vec<Destination>,
    total_weight: u32,
    /// `None`: the route itself.
    takes: Option<CanaryTakes>,
}

/// One weighted destination; `upstream` is absent when the service does not exist (503).
#[derive(Clone)]
pub struct Destination {
    pub service: Arc<str>,
    pub port: Option<u16>,
    pub weight: u32,
    pub upstream: Option<Arc<Upstream>>,
}

impl Destination {
    pub fn new(destination: &model::Destination, upstream: Option<Arc<Upstream>>) -> Destination {
        Destination {
            service: Arc::from(destination.service.as_str()),
            port: destination.port,
            weight: destination.weight,
            upstream,
        }
    }

    /// Whether there is somebody to send a request to.
    fn can_serve(&self) -> bool {
        self.upstream.as_ref().is_some_and(|upstream| upstream.has_endpoints())
    }
}

/// All arms of a route; the route itself comes last.
pub fn arms(route: &Route, live: impl Fn(&model::Destination) -> Destination) -> Vec<Arm> {
    let arm = |name: &str, takes, destinations: &[model::Destination], header_control: &HeaderControl, rpc| Arm {
        name: Arc::from(name),
        header_control: header_control.clone(),
        rpc,
        destinations: destinations.iter().map(&live).collect(),
        total_weight: destinations.iter().map(|destination| destination.weight).fold(0, u32::saturating_add),
        takes,
    };
    let canaries = route.canaries.iter().map(|canary| {
        let rpc = canary.rpc.clone().or_else(|| route.rpc.clone());
        arm(&canary.name, Some(canary.takes.clone()), &canary.destinations, &canary.header_control, rpc)
    });
    let own = arm(&route.name, None, &route.destinations, &route.header_control, route.rpc.clone());
    canaries.chain([own]).collect()
}

impl Arm {
    /// Position of the first arm that takes the request. `sample` is uniform in `0..1`.
    pub fn choose(arms: &[Arm], host: &str, head: &RequestHeader, mut sample: f64) -> usize {
        let taking = arms.iter().position(|arm| match &arm.takes {
            None => true,
            Some(CanaryTakes::Header(condition)) => header_holds(condition, host, head),
            Some(CanaryTakes::Cookie(name)) => cookies::unquoted(head, name).is_some_and(|value| value == ALWAYS),
            Some(CanaryTakes::Share { weight, total }) => {
                let share = f64::from(*weight) / f64::from(*total);
                sample -= share;
                sample < 0.0
            }
        });
        taking.unwrap_or(arms.len().saturating_sub(1))
    }

    /// Whether a header decides which requests it takes.
    pub fn looks_at_headers(&self) -> bool {
        matches!(self.takes, Some(CanaryTakes::Header(_) | CanaryTakes::Cookie(_)))
    }

    /// Draws a destination by weight. `sample` is uniform in `0..1`.
    pub fn destination(&self, sample: f64) -> Option<&Destination> {
        if self.total_weight == 0 {
            return None;
        }
        let mut left = sample * f64::from(self.total_weight);
        for destination in &self.destinations {
            left -= f64::from(destination.weight);
            if left < 0.0 && destination.weight > 0 {
                return Some(destination);
            }
        }
        self.destinations.iter().rev().find(|destination| destination.weight > 0)
    }

    /// `chosen` if it can serve, else the first that can of: the route's own destination where a canary has none, and the
    /// default backend. `chosen` again if nobody can.
    pub fn available<'a>(
        chosen: &'a Destination,
        arms: &'a [Arm],
        fallback: Option<&'a Destination>,
    ) -> &'a Destination {
        let own = arms.last().and_then(|arm| arm.destinations.first());
        [Some(chosen), own.filter(|_| fallback.is_some() || arms.len() > 1), fallback]
            .into_iter()
            .flatten()
            .find(|destination| destination.can_serve())
            .unwrap_or(chosen)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::model::{HeaderMatch, Pattern, StringMatch};

    fn arm(name: &str, takes: Option<CanaryTakes>, weights: &[u32]) -> Arm {
        let destinations = weights.iter().enumerate().map(|(i, weight)| Destination {
            service: Arc::from(format!("{name}{i}").as_str()),
            port: None,
            weight: *weight,
            upstream: None,
        });
        Arm {
            name: Arc::from(name),
            header_control: HeaderControl::default(),
            rpc: None,
            destinations: destinations.collect(),
            total_weight: weights.iter().sum(),
            takes,
        }
    }

    fn head(headers: &[(&'static str, &str)]) -> RequestHeader {
        let mut head = RequestHeader::build("GET", b"/", None).unwrap();
        for (name, value) in headers {
            head.append_header(*name, *value).unwrap();
        }
        head
    }

    #[test]
    fn weights_split_the_samples() {
        let arm = arm("x", None, &[0, 20, 80]);
        let n = (0..1000).filter(|i| &*arm.destination(f64::from(*i) / 1000.0).unwrap().service == "x1").count();
        assert_eq!(n, 200);
    }

    #[test]
    fn headers_and_cookies_come_before_shares() {
        let value = StringMatch::Regex(Pattern::full("always|v2").unwrap());
        let arms = [
            arm("header", Some(CanaryTakes::Header(HeaderMatch { name: "x-canary".into(), value })), &[1]),
            arm("cookie", Some(CanaryTakes::Cookie("beta".into())), &[1]),
            arm("tenth", Some(CanaryTakes::Share { weight: 10, total: 100 }), &[1]),
            arm("fifth", Some(CanaryTakes::Share { weight: 2, total: 10 }), &[1]),
            arm("route", None, &[1]),
        ];
        for (headers, sample, expected) in [
            (vec![("x-canary", "v2")], 0.5, "header"),
            (vec![("x-canary", "always")], 0.5, "header"),
            (vec![("x-canary", "v22")], 0.5, "route"),
            (vec![("cookie", "a=1; beta=always")], 0.5, "cookie"),
            (vec![("cookie", "n=\u{5f20}; beta=always")], 0.5, "cookie"),
            (vec![("cookie", "beta=never")], 0.5, "route"),
            (vec![], 0.05, "tenth"),
            (vec![], 0.1, "fifth"),
            (vec![], 0.29, "fifth"),
            (vec![], 0.31, "route"),
        ] {
            let found = Arm::choose(&arms, "h", &head(&headers), sample);
            assert_eq!(&*arms[found].name, expected, "{headers:?} {sample}");
        }
    }
}

//! Which endpoint of an upstream takes the next request.
//!
//! Hashing is by highest random weight: each address gets a number from the request's key and itself, the highest wins. So
//! no ring has to be kept, and an address that comes or goes moves only its own share of the keys.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use pingora_http::RequestHeader;

use super::cluster::Endpoint;
use super::mcp_session;
use crate::config::model::{HashKey, LoadBalance};
use crate::plugins::cookies;

/// How one upstream balances.
#[derive(Default)]
pub struct Balancer {
    method: LoadBalance,
    next: AtomicUsize,
}

/// The part of its share that an endpoint gets now, above 0 and up to 1.
pub type Share<'a> = &'a dyn Fn(&Endpoint) -> f64;

impl Balancer {
    pub fn new(method: LoadBalance) -> Balancer {
        Balancer { method, next: AtomicUsize::new(0) }
    }

    pub fn method(&self) -> &LoadBalance {
        &self.method
    }

    /// `key` is what [`key`] made of the request; without one a hashing balancer takes turns. `share` is there if some
    /// endpoints are to start slowly; a key counts for more.
    pub fn pick(
        &self,
        endpoints: &[Arc<Endpoint>],
        key: Option<u64>,
        now: u64,
        share: Option<Share<'_>>,
    ) -> Option<Arc<Endpoint>> {
        let picked = match (&self.method, key) {
            (LoadBalance::Hash(_), Some(key)) => {
                endpoints.iter().max_by_key(|endpoint| hash(&(key, endpoint.address)))?
            }
            (LoadBalance::McpSession(_), Some(key)) => match endpoints.iter().find(|it| number(it.address) == key) {
                Some(endpoint) => endpoint,
                // Gone, or out of order: the server in turn can say that it does not know the session.
                None => return self.pick(endpoints, None, now, share),
            },
            (LoadBalance::Random, _) => accepted(endpoints, share, || random(endpoints))?,
            (LoadBalance::LeastRequest, _) => {
                #[expect(clippy::cast_precision_loss, reason = "requests in flight are few")]
                let load = |endpoint: &Endpoint| endpoint.in_flight() as f64;
                better(endpoints, load, share)?
            }
            (LoadBalance::LeastLatency, _) => better(endpoints, |endpoint| endpoint.cost(now), share)?,
            (LoadBalance::RoundRobin | LoadBalance::Hash(_) | LoadBalance::McpSession(_), _) => {
                accepted(endpoints, share, || {
                    endpoints.get(self.next.fetch_add(1, Ordering::Relaxed) % endpoints.len().max(1))
                })?
            }
        };
        Some(picked.clone())
    }
}

/// The better of two drawn is nearly as good as the best of all, and cannot be stampeded. Those that start slowly are drawn less often.
fn better<'a>(
    endpoints: &'a [Arc<Endpoint>],
    cost: impl Fn(&Endpoint) -> f64,
    share: Option<Share<'_>>,
) -> Option<&'a Arc<Endpoint>> {
    if let ([first, second], None) = (endpoints, share) {
        // Two draws would be the same one every other time; a coin decides where nothing else does.
        let (first, second) = if rand::random() { (first, second) } else { (second, first) };
        return Some(if cost(first) <= cost(second) { first } else { second });
    }
    let draw = || accepted(endpoints, share, || random(endpoints));
    let (first, second) = (draw()?, draw()?);
    Some(if cost(first) <= cost(second) { first } else { second })
}

/// The first of the proposed that accepts, which each does as often as its share says.
fn accepted<'a>(
    endpoints: &'a [Arc<Endpoint>],
    share: Option<Share<'_>>,
    mut propose: impl FnMut() -> Option<&'a Arc<Endpoint>>,
) -> Option<&'a Arc<Endpoint>> {
    let Some(share) = share else { return propose() };
    // Compared with the one that has most, so that a service all of whose endpoints are new is not slower for it.
    let most = endpoints.iter().map(|endpoint| share(endpoint)).fold(0.0, f64::max);
    for _ in 0..endpoints.len() * 8 {
        let proposed = propose()?;
        if rand::random::<f64>() * most < share(proposed) {
            return Some(proposed);
        }
    }
    propose()
}

fn random(endpoints: &[Arc<Endpoint>]) -> Option<&Arc<Endpoint>> {
    let n = u64::try_from(endpoints.len()).ok().filter(|n| *n > 0)?;
    endpoints.get(usize::try_from(rand::random::<u64>() % n).ok()?)
}

/// What a request is hashed by (or the number of its endpoint), and for a new session the cookie that keeps it together.
#[derive(Default)]
pub struct Key {
    pub hash: Option<u64>,
    /// Value of a `Set-Cookie` header.
    pub cookie: Option<String>,
}

/// `None` for balancers that do not ask. `fresh` names a new session.
pub fn key(method: &LoadBalance, head: &RequestHeader, host: &str, ip: Option<IpAddr>, fresh: impl Hash) -> Key {
    let by = match method {
        LoadBalance::Hash(by) => by,
        LoadBalance::McpSession(parameter) => {
            let opened = mcp_session::opened(head.uri.query().unwrap_or_default(), parameter);
            return Key { hash: opened.map(|(_, endpoint)| endpoint), cookie: None };
        }
        _ => return Key::default(),
    };
    let of = |text: &str| Some(hash(&text));
    let hash = match by {
        HashKey::Uri => of(head.uri.path_and_query().map_or("/", |path| path.as_str())),
        HashKey::Host => of(host),
        HashKey::SourceAddress => ip.map(|ip| hash(&ip)),
        HashKey::Header(name) => head.headers.get(name.as_str()).map(|value| hash(&value.as_bytes())),
        HashKey::Query(name) => {
            let pairs = head.uri.query().unwrap_or_default().split('&');
            pairs.filter_map(|pair| pair.split_once('=')).find(|(key, _)| key == name).and_then(|(_, value)| of(value))
        }
        HashKey::Cookie { name, path, max_age_secs } => {
            if let Some(value) = cookies::unquoted(head, name) {
                of(value)
            } else {
                let value = format!("{:016x}", hash(&fresh));
                let age = max_age_secs.map(|seconds| format!("; Max-Age={seconds}")).unwrap_or_default();
                let cookie = Some(format!("{name}=\"{value}\"{age}; Path={path}; HttpOnly"));
                return Key { hash: of(&value), cookie };
            }
        }
    };
    Key { hash, cookie: None }
}

/// What an endpoint is called in sessions.
pub fn number(address: SocketAddr) -> u64 {
    hash(&address)
}

fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;
    use std::time::Duration;

    use super::*;

    fn endpoints(n: u16) -> Vec<Arc<Endpoint>> {
        let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
        (1..=n).map(|port| Arc::new(Endpoint::new(address(port), 0))).collect()
    }

    fn picks(method: LoadBalance, n: u16, keys: impl Iterator<Item = Option<u64>>) -> Vec<u16> {
        let (balancer, endpoints) = (Balancer::new(method), endpoints(n));
        keys.map(|key| balancer.pick(&endpoints, key, 0, None).unwrap().address.port()).collect()
    }

    #[test]
    fn turns_are_taken_in_order() {
        assert_eq!(picks(LoadBalance::RoundRobin, 3, [None; 5].into_iter()), [1, 2, 3, 1, 2]);
        assert!(Balancer::default().pick(&[], None, 0, None).is_none());
    }

    #[test]
    fn a_key_keeps_its_address_and_moves_only_with_it() {
        let method = || LoadBalance::Hash(HashKey::Host);
        let keys = || (0..1000).map(Some);
        let (few, many) = (picks(method(), 4, keys()), picks(method(), 5, keys()));
        assert_eq!(few, picks(method(), 4, keys()));
        let moved: Vec<_> = few.iter().zip(&many).filter(|(a, b)| a != b).collect();
        assert!(moved.iter().all(|(_, to)| **to == 5), "only to the new address");
        assert!((100..300).contains(&moved.len()), "{}", moved.len());
    }

    #[test]
    fn a_session_stays_where_it_is_and_moves_on_when_that_is_gone() {
        let at = |port: u16| Some(number(SocketAddr::from(([127, 0, 0, 1], port))));
        let session = || LoadBalance::McpSession("sessionId".into());
        assert_eq!(picks(session(), 3, [at(2), at(2), None, at(2)].into_iter()), [2, 2, 1, 2]);
        assert_eq!(picks(session(), 3, [at(9), at(9)].into_iter()), [1, 2]);
    }

    #[test]
    fn the_less_loaded_of_two_is_taken() {
        for n in [2, 3] {
            let (balancer, endpoints) = (Balancer::new(LoadBalance::LeastRequest), endpoints(n));
            for _ in 0..1200 {
                balancer.pick(&endpoints, None, 0, None).unwrap().enter();
            }
            let loads: Vec<usize> = endpoints.iter().map(|endpoint| endpoint.in_flight()).collect();
            let even = 1200 / usize::from(n);
            assert!(loads.iter().all(|n| n.abs_diff(even) < even / 4), "{loads:?}");
        }
    }

    #[test]
    fn the_faster_of_two_is_taken_until_it_is_busy() {
        let (balancer, endpoints) = (Balancer::new(LoadBalance::LeastLatency), endpoints(2));
        let port = || balancer.pick(&endpoints, None, 0, None).unwrap().address.port();
        endpoints[0].took(Duration::from_millis(10), 0);
        assert_eq!(port(), 2, "one that nobody knows is tried");
        endpoints[1].enter();
        assert_eq!(port(), 1, "but not by two at once");
        endpoints[1].leave();
        endpoints[1].took(Duration::from_millis(35), 0);
        for _ in 0..3 {
            assert_eq!(port(), 1);
            endpoints[0].enter();
        }
        assert_eq!(port(), 2, "four at 10 ms cost more than one at 35 ms");
    }

    #[test]
    fn a_slow_answer_counts_at_once_and_is_forgotten_by_and_by() {
        let endpoint = &endpoints(1)[0];
        endpoint.took(Duration::from_millis(10), 0);
        endpoint.took(Duration::from_millis(500), 0);
        assert!((endpoint.cost(0) - 500.0).abs() < 1e-6);
        endpoint.took(Duration::from_millis(10), 10_000);
        assert!((100.0..300.0).contains(&endpoint.cost(10_000)), "{}", endpoint.cost(10_000));
        assert!(endpoint.cost(100_000) < 0.1);
    }

    #[test]
    fn a_new_endpoint_gets_its_share_by_and_by() {
        // Idle ones, whose loads are equal.
        for method in
            [LoadBalance::RoundRobin, LoadBalance::Random, LoadBalance::LeastRequest, LoadBalance::LeastLatency]
        {
            let (balancer, endpoints) = (Balancer::new(method), endpoints(3));
            let share = |endpoint: &Endpoint| if endpoint.address.port() == 3 { 0.1 } else { 0.5 };
            let mut counts: HashMap<u16, u32> = HashMap::new();
            for _ in 0..11_000 {
                *counts.entry(balancer.pick(&endpoints, None, 0, Some(&share)).unwrap().address.port()).or_default() +=
                    1;
            }
            assert!((800..1200).contains(&counts[&3]), "a fifth of what the others get: {counts:?}");
            assert!((4500..5500).contains(&counts[&1]), "{counts:?}");
        }
    }

    #[test]
    fn keys_come_from_the_request() {
        let mut head = RequestHeader::build("GET", b"/x?id=7", None).unwrap();
        head.insert_header("x-user", "ann").unwrap();
        head.insert_header("cookie", "sid=\"abc\"").unwrap();
        let of = |by: HashKey| key(&LoadBalance::Hash(by), &head, "a.com", None, 1);
        let cookie = |name: &str| HashKey::Cookie { name: name.into(), path: "/".into(), max_age_secs: Some(60) };
        assert_eq!(of(HashKey::Query("id".into())).hash, Some(hash(&"7")));
        assert_eq!(of(HashKey::Header("x-user".into())).hash, Some(hash(&"ann".as_bytes())));
        assert_eq!(of(HashKey::Header("x-none".into())).hash, None);
        assert_eq!(of(HashKey::SourceAddress).hash, None);
        let known = of(cookie("sid"));
        assert_eq!((known.hash, known.cookie), (Some(hash(&"abc")), None));
        let fresh = of(cookie("new"));
        let value = fresh.cookie.unwrap();
        let sent = value.split('"').nth(1).unwrap();
        assert_eq!(fresh.hash, Some(hash(&sent)), "the next request of the session goes to the same place");
        assert_eq!(value, format!("new=\"{sent}\"; Max-Age=60; Path=/; HttpOnly"));
    }
}

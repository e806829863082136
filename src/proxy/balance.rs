//! Which endpoint of an upstream takes the next request.
//!
//! Hashing is by highest random weight: each address gets a number from the request's key and itself, the highest wins. So
//! no ring has to be kept, and an address that comes or goes moves only its own share of the keys.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use parking_lot::Mutex;
use pingora_http::RequestHeader;

use super::arm::cookie;
use crate::config::model::{HashKey, LoadBalance};

/// The state one upstream balances by.
#[derive(Default)]
pub struct Balancer {
    method: LoadBalance,
    next: AtomicUsize,
    /// Requests in flight by address; kept for `LeastRequest` only.
    in_flight: Mutex<HashMap<SocketAddr, Arc<AtomicUsize>>>,
}

/// Counts a request as in flight until it is dropped.
pub struct Lease(Arc<AtomicUsize>);

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Balancer {
    pub fn new(method: LoadBalance) -> Balancer {
        Balancer { method, ..Balancer::default() }
    }

    pub fn method(&self) -> &LoadBalance {
        &self.method
    }

    /// `key` is what [`key`] made of the request; without one a hashing balancer takes turns.
    pub fn pick(&self, addresses: &[SocketAddr], key: Option<u64>) -> Option<(SocketAddr, Option<Lease>)> {
        match (&self.method, key) {
            (LoadBalance::Hash(_), Some(key)) => {
                let best = addresses.iter().max_by_key(|address| hash(&(key, address)));
                best.map(|address| (*address, None))
            }
            (LoadBalance::Random, _) => self.random(addresses).map(|address| (address, None)),
            (LoadBalance::LeastRequest, _) => {
                // The better of two drawn is nearly as good as the best of all, and cannot be stampeded.
                let (first, second) = (self.random(addresses)?, self.random(addresses)?);
                let (first, second) = ((first, self.count(first)), (second, self.count(second)));
                let better =
                    if first.1.load(Ordering::Relaxed) <= second.1.load(Ordering::Relaxed) { first } else { second };
                better.1.fetch_add(1, Ordering::Relaxed);
                Some((better.0, Some(Lease(better.1))))
            }
            _ => {
                let turn = self.next.fetch_add(1, Ordering::Relaxed);
                addresses.get(turn % addresses.len().max(1)).map(|address| (*address, None))
            }
        }
    }

    fn random(&self, addresses: &[SocketAddr]) -> Option<SocketAddr> {
        let n = u64::try_from(addresses.len()).ok().filter(|n| *n > 0)?;
        let drawn = rand::random::<u64>() % n;
        addresses.get(usize::try_from(drawn).ok()?).copied()
    }

    fn count(&self, address: SocketAddr) -> Arc<AtomicUsize> {
        self.in_flight.lock().entry(address).or_default().clone()
    }
}

/// What a request is hashed by, and for a new session the cookie that keeps it together.
#[derive(Default)]
pub struct Key {
    pub hash: Option<u64>,
    /// Value of a `Set-Cookie` header.
    pub cookie: Option<String>,
}

/// `None` for balancers that do not hash. `fresh` names a new session.
pub fn key(method: &LoadBalance, head: &RequestHeader, host: &str, ip: Option<IpAddr>, fresh: impl Hash) -> Key {
    let LoadBalance::Hash(by) = method else { return Key::default() };
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
            if let Some(value) = cookie(head, name) {
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

fn hash(value: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    value.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn addresses(n: u16) -> Vec<SocketAddr> {
        (1..=n).map(|port| SocketAddr::from(([127, 0, 0, 1], port))).collect()
    }

    fn picks(method: LoadBalance, n: u16, keys: impl Iterator<Item = Option<u64>>) -> Vec<u16> {
        let (balancer, addresses) = (Balancer::new(method), addresses(n));
        keys.map(|key| balancer.pick(&addresses, key).unwrap().0.port()).collect()
    }

    #[test]
    fn turns_are_taken_in_order() {
        assert_eq!(picks(LoadBalance::RoundRobin, 3, [None; 5].into_iter()), [1, 2, 3, 1, 2]);
        assert!(Balancer::default().pick(&[], None).is_none());
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
    fn the_less_loaded_of_two_is_taken() {
        let balancer = Balancer::new(LoadBalance::LeastRequest);
        let addresses = addresses(2);
        let leases: Vec<_> = (0..1000).map(|_| balancer.pick(&addresses, None).unwrap()).collect();
        let load = |balancer: &Balancer| addresses.iter().map(|a| balancer.count(*a).load(Ordering::Relaxed)).collect();
        let loads: Vec<usize> = load(&balancer);
        assert!(loads.iter().all(|n| (400..600).contains(n)), "{loads:?}");
        drop(leases);
        assert_eq!(load(&balancer), [0, 0]);
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

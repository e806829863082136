//! The store in a Redis that several gateways share. The only file that knows the crate `redis`.
//!
//! One connection per configuration carries all calls at once. It is made when first needed and again after it broke; while
//! Redis cannot be reached, one call a second tries and the others fail at once, so that requests do not wait in turn for
//! the same refusal.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use bytes::Bytes;
use redis::aio::MultiplexedConnection;
use redis::{
    AsyncConnectionConfig, Client, Cmd, ConnectionAddr, FromRedisValue, IntoConnectionInfo, RedisConnectionInfo,
    RedisError,
};
use tokio::sync::Mutex;
use tokio::time::timeout;

use super::{Counted, Store, StoreError, Window};
use crate::base::secret::Secret;

/// How long after a failure nobody tries to connect.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// How often it is said that Redis refuses what it is asked.
const TOLD_EVERY: Duration = Duration::from_secs(10);

/// Counts each key up to one above its limit and answers count and seconds left, key by key. A window begins with its first
/// use; a counter without an end (from a hand-made key) gets one, because it would block for ever.
const COUNT: &str = "
local told = {}
for i, key in ipairs(KEYS) do
  local limit, seconds = tonumber(ARGV[2 * i - 1]), tonumber(ARGV[2 * i])
  local count = tonumber(redis.call('GET', key) or '0')
  if count <= limit then count = redis.call('INCR', key) end
  local left = redis.call('TTL', key)
  if left < 0 then
    redis.call('EXPIRE', key, seconds)
    left = seconds
  end
  told[2 * i - 1], told[2 * i] = count, left
end
return told
";

/// Where a Redis is and how to enter it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RedisConfig {
    pub service: String,
    pub port: u16,
    pub username: Option<String>,
    pub password: Option<Secret>,
    pub database: i64,
    /// For one whole call, a connection included.
    pub timeout: Duration,
}

/// Turns the name of a configured service into an address.
#[async_trait]
pub trait Locate: Send + Sync {
    /// # Errors
    /// There is no such service, or it has no address now.
    async fn locate(&self, service: &str, port: u16) -> Result<SocketAddr, String>;
}

pub struct RedisStore {
    config: RedisConfig,
    locate: Arc<dyn Locate>,
    state: Mutex<State>,
    /// When it was last said that Redis refuses something.
    told: parking_lot::Mutex<Option<Instant>>,
}

enum State {
    /// Nobody has asked yet, or the connection broke.
    Idle,
    Connected(MultiplexedConnection),
    Failed {
        at: Instant,
        reason: String,
    },
}

impl RedisStore {
    pub fn new(config: RedisConfig, locate: Arc<dyn Locate>) -> RedisStore {
        RedisStore { config, locate, state: Mutex::new(State::Idle), told: parking_lot::Mutex::default() }
    }

    /// Asks once. A call on a connection that broke is not repeated, because Redis may have carried it out.
    async fn ask<T: FromRedisValue>(&self, command: &Cmd) -> Result<T, StoreError> {
        let answered = timeout(self.config.timeout, async {
            let mut connection = self.connection().await?;
            let answered = command.query_async(&mut connection).await;
            answered.map_err(|error: RedisError| (error.to_string(), error.is_unrecoverable_error()))
        });
        let (reason, is_broken) = match answered.await {
            Ok(Ok(answer)) => return Ok(answer),
            Ok(Err(failed)) => failed,
            Err(_) => (format!("no answer within {} ms", self.config.timeout.as_millis()), true),
        };
        if is_broken {
            let mut state = self.state.lock().await;
            if matches!(*state, State::Connected(_)) {
                // One that hangs must not cost each request its time.
                self.warn(&reason);
                *state = State::Failed { at: Instant::now(), reason: reason.clone() };
            }
        } else if !reason.is_empty() {
            self.warn_now_and_then(&reason);
        }
        let service = format!("Redis at {}:{}", self.config.service, self.config.port);
        Err(StoreError::Redis { service, reason })
    }

    fn warn(&self, reason: &str) {
        let service = &self.config.service;
        tracing::warn!(service, reason, "Redis cannot be used; what needs it goes on without");
    }

    /// What Redis refuses, it refuses each time.
    fn warn_now_and_then(&self, reason: &str) {
        let mut told = self.told.lock();
        if told.is_none_or(|at| at.elapsed() >= TOLD_EVERY) {
            *told = Some(Instant::now());
            self.warn(reason);
        }
    }

    /// The live connection, or a new one; the flag of the error says that the connection broke.
    async fn connection(&self) -> Result<MultiplexedConnection, (String, bool)> {
        let mut state = self.state.lock().await;
        match &*state {
            State::Connected(connection) => return Ok(connection.clone()),
            State::Failed { at, reason } if at.elapsed() < RETRY_AFTER => return Err((reason.clone(), false)),
            State::Idle | State::Failed { .. } => {}
        }
        // What is left if this call runs out of time in the middle.
        *state = State::Failed { at: Instant::now(), reason: "the last attempt to connect took too long".into() };
        let connected = self.connect().await;
        *state = match &connected {
            Ok(connection) => State::Connected(connection.clone()),
            Err(reason) => {
                self.warn(reason);
                State::Failed { at: Instant::now(), reason: reason.clone() }
            }
        };
        connected.map_err(|reason| (reason, false))
    }

    async fn connect(&self) -> Result<MultiplexedConnection, String> {
        let address = self.locate.locate(&self.config.service, self.config.port).await?;
        let told = |error: RedisError| error.to_string();
        let mut redis = RedisConnectionInfo::default().set_db(self.config.database).set_skip_set_lib_name();
        if let Some(username) = &self.config.username {
            redis = redis.set_username(username);
        }
        if let Some(password) = &self.config.password {
            redis = redis.set_password(password.expose());
        }
        let info =
            ConnectionAddr::Tcp(address.ip().to_string(), address.port()).into_connection_info().map_err(told)?;
        let client = Client::open(info.set_redis_settings(redis)).map_err(told)?;
        // The limit for the whole call is above; the crate's own would be shorter than a configured one.
        let limits = AsyncConnectionConfig::new().set_response_timeout(None).set_connection_timeout(None);
        client.get_multiplexed_async_connection_with_config(&limits).await.map_err(told)
    }
}

#[async_trait]
impl Store for RedisStore {
    async fn count(&self, windows: &[Window]) -> Result<Vec<Counted>, StoreError> {
        let mut command = redis::cmd("EVAL");
        command.arg(COUNT).arg(windows.len());
        windows.iter().for_each(|window| {
            command.arg(&window.key);
        });
        windows.iter().for_each(|window| {
            command.arg(window.limit).arg(window.seconds);
        });
        let told: Vec<u64> = self.ask(&command).await?;
        Ok(told.chunks_exact(2).map(|pair| Counted { count: pair[0], reset_secs: pair[1] }).collect())
    }

    async fn claim(&self, key: &str, life: Duration) -> Result<bool, StoreError> {
        let mut command = redis::cmd("SET");
        command.arg(key).arg("1").arg("NX").arg("EX").arg(life.as_secs().max(1));
        let set: Option<String> = self.ask(&command).await?;
        Ok(set.is_some())
    }

    async fn value(&self, key: &str) -> Result<Option<Bytes>, StoreError> {
        let value: Option<Vec<u8>> = self.ask(redis::cmd("GET").arg(key)).await?;
        Ok(value.map(Bytes::from))
    }

    async fn keep(&self, key: &str, value: &[u8], life: Option<Duration>) -> Result<(), StoreError> {
        let mut command = redis::cmd("SET");
        command.arg(key).arg(value);
        if let Some(life) = life {
            command.arg("EX").arg(life.as_secs().max(1));
        }
        self.ask(&command).await
    }
}

//! Connections of one thread to Dubbo providers that wait for work.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::{Arc, Weak};
use std::time::Duration;

use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio::time::Instant;

use crate::base::tasks::Tasks;

/// For one address.
const MAX_IDLE: usize = 64;

/// How long one waits that nobody takes.
const LONGEST_IDLE: Duration = Duration::from_secs(60);

/// How often those that wait are looked through: a provider that closes them, or goes, is noticed by nobody else.
const LOOK_EVERY: Duration = Duration::from_secs(5);

pub struct Pool {
    idle: Arc<Mutex<Idle>>,
    tasks: Tasks,
}

#[derive(Default)]
struct Idle {
    /// The last one back is the next one out.
    by_address: HashMap<SocketAddr, Vec<(Instant, TcpStream)>>,
    is_looked_after: bool,
}

impl Pool {
    pub fn new(tasks: Tasks) -> Pool {
        Pool { idle: Arc::default(), tasks }
    }

    /// A connection that is silent and open.
    pub fn take(&self, address: SocketAddr) -> Option<TcpStream> {
        let mut idle = self.idle.lock();
        let waiting = idle.by_address.get_mut(&address)?;
        std::iter::from_fn(|| waiting.pop()).map(|(_, stream)| stream).find(is_open)
    }

    /// Takes a connection whose last answer was read whole.
    pub fn put(&self, stream: TcpStream) {
        let Ok(address) = stream.peer_addr() else { return };
        let mut idle = self.idle.lock();
        let waiting = idle.by_address.entry(address).or_default();
        if waiting.len() < MAX_IDLE {
            waiting.push((Instant::now(), stream));
        }
        if !std::mem::replace(&mut idle.is_looked_after, true) {
            self.tasks.spawn_until_stopped(look_after(Arc::downgrade(&self.idle)));
        }
    }
}

/// Closes what is closed at the other side or has waited too long, until nothing waits any more.
async fn look_after(pool: Weak<Mutex<Idle>>) {
    loop {
        tokio::time::sleep(LOOK_EVERY).await;
        let Some(pool) = pool.upgrade() else { return };
        let mut idle = pool.lock();
        idle.by_address.retain(|_, waiting| {
            waiting.retain(|(since, stream)| since.elapsed() < LONGEST_IDLE && is_open(stream));
            !waiting.is_empty()
        });
        if idle.by_address.is_empty() {
            idle.is_looked_after = false;
            return;
        }
    }
}

fn is_open(stream: &TcpStream) -> bool {
    stream.try_read(&mut [0]).is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;
    use tokio::runtime::Handle;

    use super::*;

    async fn connected(listener: &TcpListener) -> (TcpStream, TcpStream) {
        let stream = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        (stream, listener.accept().await.unwrap().0)
    }

    /// Regression: connections that a provider had closed stayed half open for as long as one of them was busy.
    #[tokio::test(start_paused = true)]
    async fn what_a_provider_closes_is_closed_here() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let pool = Pool::new(Tasks::new(Handle::current()));
        let (first, mut closing) = connected(&listener).await;
        let (second, _open) = connected(&listener).await;
        let local = second.local_addr().unwrap();
        pool.put(first);
        pool.put(second);
        tokio::io::AsyncWriteExt::shutdown(&mut closing).await.unwrap();
        let n_idle = || pool.idle.lock().by_address.get(&address).map_or(0, Vec::len);
        let began = Instant::now();
        while n_idle() == 2 {
            assert!(began.elapsed() < LONGEST_IDLE / 2, "it is looked for");
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        assert_eq!(pool.take(address).unwrap().local_addr().unwrap(), local);
        assert!(pool.take(address).is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn nothing_waits_for_ever() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let pool = Pool::new(Tasks::new(Handle::current()));
        for _ in 0..2 {
            let (stream, _open) = connected(&listener).await;
            pool.put(stream);
            tokio::time::sleep(LONGEST_IDLE + 2 * LOOK_EVERY).await;
            let idle = pool.idle.lock();
            assert!(idle.by_address.is_empty() && !idle.is_looked_after);
        }
    }
}

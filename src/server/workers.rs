//! The threads that carry traffic. Each accepts for itself and serves what it has accepted, over connections to upstreams of
//! its own: what one thread began no other touches, so that none wakes another and no cache line moves between them.

use std::io;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use tokio::runtime::Builder;
use tokio::sync::{oneshot, watch};

use crate::proxy::listener::{self, Listeners};
use crate::proxy::service::Gateway;

/// What the threads get to let go of their connections.
const LAST_MOMENT: Duration = Duration::from_millis(200);

pub struct Workers {
    accepting: Vec<oneshot::Receiver<()>>,
    over: watch::Sender<bool>,
    /// Closed when no thread is left.
    left: mpsc::Receiver<()>,
}

impl Workers {
    /// Starts a thread for each of the listeners. They stop to accept when `stopped` turns true, and end when this is dropped.
    ///
    /// # Errors
    /// The system has no thread or no descriptor left.
    pub fn start(gateway: &Gateway, listeners: Vec<Listeners>, stopped: &watch::Receiver<bool>) -> io::Result<Workers> {
        let (over, is_over) = watch::channel(false);
        let (here, left) = mpsc::channel();
        let mut accepting = Vec::with_capacity(listeners.len());
        for own in listeners {
            let runtime = Builder::new_current_thread().enable_all().build()?;
            let serving = listener::serve(gateway.for_thread(), own, stopped.clone());
            let (mut is_over, here) = (is_over.clone(), here.clone());
            let (ended, until_ended) = oneshot::channel();
            accepting.push(until_ended);
            thread::Builder::new().name("proxy".to_owned()).spawn(move || {
                // The runtime ends, and with it what it serves, before this thread says that it is gone.
                let (_here, runtime) = (here, runtime);
                runtime.block_on(async {
                    serving.await;
                    // Nobody may be waiting.
                    let _ = ended.send(());
                    let _ = is_over.wait_for(|is_over| *is_over).await;
                });
            })?;
        }
        Ok(Workers { accepting, over, left })
    }

    /// Returns when nobody accepts any more and idle connections are told to close.
    pub async fn end_of_accepting(&mut self) {
        for ended in &mut self.accepting {
            let _ = ended.await;
        }
    }
}

impl Drop for Workers {
    fn drop(&mut self) {
        self.over.send_replace(true);
        // An error: the last of them is gone, or it takes too long.
        let _ = self.left.recv_timeout(LAST_MOMENT);
    }
}

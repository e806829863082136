//! Listening sockets and the accept loops behind them.
//!
//! Sockets are bound before anything else starts, so that port 0 is known and a port in use is reported at once; pingora
//! takes them over. Accept loops end at shutdown, requests in flight go on.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::IntoRawFd;
use std::sync::Arc;
use std::time::Duration;

use pingora_core::apps::HttpServerOptions;
use pingora_core::listeners::{ListenerConfig, TcpSocketOptions};
use pingora_core::protocols::http::v2::server::{H2Options, default_h2_options};
use pingora_core::protocols::l4::stream::L4BufferSettings;
use pingora_core::server::configuration::ServerConf;
use pingora_core::server::{Fds, ListenFds, ShutdownWatch};
use pingora_core::services::Service as _;
use pingora_core::services::listening::Service;
use pingora_proxy::{HttpProxy, http_proxy};
use socket2::{Domain, Protocol, Socket, Type};

use super::front::{Front, TlsFront};
use super::service::Gateway;
use super::snapshot::Snapshot;
use super::tls;
use super::upstream::keepalive;

/// Read buffer of a client connection. Pingora's default of 64 KiB is most of an idle connection's memory; a request head
/// and a typical prompt fit into this, and longer bodies only cost more reads.
const READ_BUFFER: usize = 16 * 1024;
const WRITE_BUFFER: usize = 4 * 1024;

/// Connections that may wait to be accepted; the kernel lowers it to `net.core.somaxconn`.
const BACKLOG: i32 = 4096;

/// A port that is bound and does not accept yet: a socket for each thread, among which the system shares out new connections.
pub struct Bound {
    pub address: SocketAddr,
    sockets: Vec<TcpListener>,
}

impl Bound {
    /// Takes the port for `n` threads.
    ///
    /// # Errors
    /// The address is in use or not ours.
    pub fn bind(address: SocketAddr, n: usize) -> io::Result<Bound> {
        // The first takes the port as if it were alone, or another process of the same user that shares its own, a second gateway
        // for one, would not be noticed.
        let first = socket(address)?;
        first.bind(&address.into())?;
        first.listen(BACKLOG)?;
        first.set_reuse_port(true)?;
        let address = first.local_addr()?.as_socket().unwrap_or(address);
        let mut sockets = vec![first];
        for _ in 1..n {
            let further = socket(address)?;
            further.set_reuse_port(true)?;
            further.bind(&address.into())?;
            further.listen(BACKLOG)?;
            sockets.push(further);
        }
        Ok(Bound { address, sockets: sockets.into_iter().map(TcpListener::from).collect() })
    }

    /// One for each thread.
    pub fn into_sockets(self) -> Vec<TcpListener> {
        self.sockets
    }
}

fn socket(address: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    // Connections of a process before us may still be saying goodbye.
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    Ok(socket)
}

/// How clients may connect to one thread.
pub struct Listeners {
    pub http: TcpListener,
    pub https: TcpListener,
}

/// Serves `gateway` until `shutdown` turns true, then returns once all accept loops have ended and idle connections are
/// told to close. All of it runs on the thread it is called on.
pub async fn serve(gateway: Gateway, listeners: Listeners, shutdown: ShutdownWatch) {
    gateway.exchange.keep_connections_to_this_thread();
    let conf = ServerConf { threads: 1, max_retries: 16, upstream_keepalive_pool_size: 512, ..ServerConf::default() };
    let conf = Arc::new(conf);
    let snapshot = gateway.snapshot.clone();
    let h2 = h2_options(&snapshot.load());
    let mut options = HttpServerOptions::default();
    options.h2c = true;
    options.h2_idle_timeout = Some(snapshot.load().limits.client_idle).filter(|idle| !idle.is_zero());
    let (resolver, challenges) = (gateway.resolver.clone(), gateway.challenges.clone());
    let (metrics, access_log, at_work) = (gateway.metrics.clone(), gateway.access_log.clone(), gateway.at_work.clone());
    let mut proxy: HttpProxy<Gateway> = http_proxy(&conf, gateway);
    proxy.server_options = Some(options);
    proxy.h2_options = Some(h2);
    let proxy = Arc::new(proxy);
    let tls = tls::usual_acceptor(snapshot.clone(), challenges);
    let tls = tls.map(|usual| TlsFront { snapshot: snapshot.clone(), resolver, usual });
    let front = |tls| Front {
        proxy: proxy.clone(),
        snapshot: snapshot.clone(),
        metrics: metrics.clone(),
        access_log: access_log.clone(),
        at_work: at_work.clone(),
        tls,
    };
    let mut plain = service("http", listeners.http, front(None));
    let serve_plain = plain.0.start_service(Some(plain.1), shutdown.clone(), 1);
    let Some(tls) = tls else { return serve_plain.await };
    let mut encrypted = service("https", listeners.https, front(Some(tls)));
    let serve_encrypted = encrypted.0.start_service(Some(encrypted.1), shutdown, 1);
    futures_util::future::join(serve_plain, serve_encrypted).await;
}

/// pingora's accept loop on a socket that is bound already.
fn service(name: &str, socket: TcpListener, front: Front) -> (Service<Front>, ListenFds) {
    let mut service = Service::new(name.to_owned(), front);
    let mut fds = Fds::new();
    // Only has to be the same in both.
    let place = name.to_owned();
    fds.add(place.clone(), socket.into_raw_fd());
    let mut options = TcpSocketOptions::default();
    // Conversations may be silent for hours; a client that vanished must not stay for ever.
    options.tcp_keepalive = Some(keepalive(Duration::ZERO));
    let listener = ListenerConfig::tcp(place).tcp_socket_options(options);
    service.add_listener(listener.l4_buffer(L4BufferSettings::new(READ_BUFFER, WRITE_BUFFER)));
    (service, Arc::new(parking_lot::Mutex::new(fds)))
}

fn h2_options(snapshot: &Snapshot) -> H2Options {
    let http2 = &snapshot.settings.http2;
    let mut options = default_h2_options();
    options
        .max_concurrent_streams(http2.max_concurrent_streams)
        .initial_window_size(http2.initial_stream_window)
        .initial_connection_window_size(http2.initial_connection_window)
        // Counted with 32 bytes more for each field. Between the limit and twice the limit `hygiene` answers, as for HTTP/1; what
        // is longer is not even decoded.
        .max_header_list_size(u32::try_from(snapshot.limits.max_header_bytes * 2).unwrap_or(u32::MAX));
    options
}

#[cfg(test)]
mod tests {
    use std::io::ErrorKind;
    use std::net::TcpStream;

    use super::*;

    #[test]
    fn every_thread_gets_connections_to_the_one_port() {
        let bound = Bound::bind("127.0.0.1:0".parse().unwrap(), 3).unwrap();
        let address = bound.address;
        assert_eq!(Bound::bind(address, 1).err().unwrap().kind(), ErrorKind::AddrInUse);
        let _clients: Vec<_> = (0..200).map(|_| TcpStream::connect(address).unwrap()).collect();
        let n_waiting = |socket: &TcpListener| std::iter::from_fn(|| socket.accept().ok()).count();
        let shares: Vec<usize> = bound.into_sockets().iter().map(n_waiting).collect();
        assert!(shares.iter().sum::<usize>() == 200 && shares.iter().all(|share| *share > 20), "{shares:?}");
    }
}

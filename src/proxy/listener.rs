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

/// A bound socket that does not accept yet.
pub struct Bound {
    pub address: SocketAddr,
    socket: TcpListener,
}

impl Bound {
    /// # Errors
    /// The address is in use or not ours.
    pub fn bind(address: SocketAddr) -> io::Result<Bound> {
        let socket = TcpListener::bind(address)?;
        Bound::from_socket(socket)
    }

    /// Takes over a socket that is already listening (systemd socket activation).
    ///
    /// # Errors
    /// The socket has no address or cannot be made non-blocking.
    pub fn from_socket(socket: TcpListener) -> io::Result<Bound> {
        socket.set_nonblocking(true)?;
        // The standard library asks for 128; beyond it the kernel makes a burst of new clients wait a second or resets them.
        socket2::SockRef::from(&socket).listen(BACKLOG)?;
        Ok(Bound { address: socket.local_addr()?, socket })
    }
}

/// How clients may connect.
pub struct Listeners {
    pub http: Vec<Bound>,
    pub https: Vec<Bound>,
}

/// Serves `gateway` until `shutdown` turns true, then returns once all accept loops have ended and idle connections are
/// told to close.
pub async fn serve(gateway: Gateway, listeners: Listeners, shutdown: ShutdownWatch, threads: usize) {
    let conf =
        Arc::new(ServerConf { threads, max_retries: 16, upstream_keepalive_pool_size: 512, ..ServerConf::default() });
    let snapshot = gateway.snapshot.clone();
    let h2 = h2_options(&snapshot.load());
    let mut options = HttpServerOptions::default();
    options.h2c = true;
    options.h2_idle_timeout = Some(snapshot.load().limits.client_idle).filter(|idle| !idle.is_zero());
    let (resolver, challenges) = (gateway.resolver.clone(), gateway.challenges.clone());
    let (metrics, access_log) = (gateway.metrics.clone(), gateway.access_log.clone());
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
        tls,
    };
    let mut plain = service("http", listeners.http, front(None));
    let serve_plain = plain.0.start_service(Some(plain.1), shutdown.clone(), 1);
    let Some(tls) = tls else { return serve_plain.await };
    let mut encrypted = service("https", listeners.https, front(Some(tls)));
    let serve_encrypted = encrypted.0.start_service(Some(encrypted.1), shutdown, 1);
    futures_util::future::join(serve_plain, serve_encrypted).await;
}

/// pingora's accept loops on sockets that are bound already.
fn service(name: &str, sockets: Vec<Bound>, front: Front) -> (Service<Front>, ListenFds) {
    let mut service = Service::new(name.to_owned(), front);
    let mut fds = Fds::new();
    for bound in sockets {
        let address = bound.address.to_string();
        fds.add(address.clone(), bound.socket.into_raw_fd());
        let mut options = TcpSocketOptions::default();
        // Conversations may be silent for hours; a client that vanished must not stay for ever.
        options.tcp_keepalive = Some(keepalive(Duration::ZERO));
        let listener = ListenerConfig::tcp(address).tcp_socket_options(options);
        service.add_listener(listener.l4_buffer(L4BufferSettings::new(READ_BUFFER, WRITE_BUFFER)));
    }
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

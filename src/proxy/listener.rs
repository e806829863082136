//! Listening sockets and the accept loops behind them.
//!
//! Sockets are bound before anything else starts, so that port 0 is known and a port in use is reported at once; pingora
//! takes them over. Accept loops end at shutdown, requests in flight go on.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::IntoRawFd;
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use pingora_core::apps::HttpServerOptions;
use pingora_core::listeners::ListenerConfig;
use pingora_core::listeners::tls::TlsSettings;
use pingora_core::protocols::http::v2::server::{H2Options, default_h2_options};
use pingora_core::protocols::l4::stream::L4BufferSettings;
use pingora_core::server::configuration::ServerConf;
use pingora_core::server::{Fds, ListenFds, ShutdownWatch};
use pingora_core::services::Service as _;
use pingora_proxy::{HttpProxy, ProxyServiceBuilder};

use super::service::Gateway;
use super::snapshot::Snapshot;
use super::tls::SniResolver;

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
    options.h2_idle_timeout = Some(Duration::from_secs(180));
    let mut service = ProxyServiceBuilder::new(&conf, gateway).name("gateway").server_options(options).build();
    if let Some(proxy) = service.app_logic_mut() {
        let proxy: &mut HttpProxy<Gateway> = proxy;
        proxy.h2_options = Some(h2);
    }
    let mut fds = Fds::new();
    let buffers = L4BufferSettings::new(READ_BUFFER, WRITE_BUFFER);
    for bound in listeners.http {
        let name = bound.address.to_string();
        fds.add(name.clone(), bound.socket.into_raw_fd());
        service.add_listener(ListenerConfig::tcp(name).l4_buffer(buffers));
    }
    for bound in listeners.https {
        let name = bound.address.to_string();
        fds.add(name.clone(), bound.socket.into_raw_fd());
        if let Some(tls) = tls_settings(&snapshot) {
            service.add_listener(ListenerConfig::tcp(name).l4_buffer(buffers).tls(tls));
        }
    }
    let fds: ListenFds = Arc::new(parking_lot::Mutex::new(fds));
    service.start_service(Some(fds), shutdown, 1).await;
}

fn tls_settings(snapshot: &Arc<ArcSwap<Snapshot>>) -> Option<TlsSettings> {
    // The paths are ignored because a resolver is set; pingora has no other way to make the settings.
    let mut settings = TlsSettings::intermediate("", "").ok()?;
    settings.set_cert_resolver(Arc::new(SniResolver { snapshot: snapshot.clone() }));
    settings.enable_h2();
    Some(settings)
}

fn h2_options(snapshot: &Snapshot) -> H2Options {
    let http2 = &snapshot.settings.http2;
    let mut options = default_h2_options();
    options
        .max_concurrent_streams(http2.max_concurrent_streams)
        .initial_window_size(http2.initial_stream_window)
        .initial_connection_window_size(http2.initial_connection_window);
    options
}

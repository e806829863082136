//! What happens to a connection before it speaks HTTP.
//!
//! pingora accepts and buffers; here the name in the first TLS message decides: the connection goes to a service unopened
//! (`ssl-passthrough`), or is opened as its host wants it (client certificates, versions), or as all others are. Then its first
//! bytes decide between HTTP/2, which pingora serves from the preface on, and HTTP/1, of which it is given one checked head
//! after the other (`head`).

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use bytes::BytesMut;
use pingora_core::apps::{HttpPersistentSettings, HttpServerApp, ReusedHttpStream, ServerApp};
use pingora_core::listeners::tls::Acceptor;
use pingora_core::protocols::http::ServerSession;
use pingora_core::protocols::l4::ext::set_tcp_keepalive;
use pingora_core::protocols::l4::stream::Stream as Plain;
use pingora_core::protocols::{ALPN, Stream};
use pingora_core::server::ShutdownWatch;
use pingora_proxy::HttpProxy;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::task::TaskTracker;

use super::cluster::Visited;
use super::head::{self, Arrived, Patience};
use super::refused;
use super::resolve::Resolver;
use super::rewound::Rewound;
use super::service::Gateway;
use super::snapshot::Snapshot;
use super::tls;
use super::upstream::{Upstream, keepalive};
use crate::telemetry::access_log::AccessLog;
use crate::telemetry::metrics::{Metrics, Refused};

/// To the first byte, and from there to the end of the handshake.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(30);

/// What is left for one when the process begins to drain.
const LAST_HANDSHAKE: Duration = Duration::from_secs(2);

/// Any positive number tells pingora that a connection may be kept.
const KEEP_ALIVE_SECS: u64 = 60;

/// The application behind a listening socket.
pub struct Front {
    pub proxy: Arc<HttpProxy<Gateway>>,
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    pub metrics: Arc<Metrics>,
    pub access_log: AccessLog,
    /// What a drain waits for besides requests.
    pub at_work: TaskTracker,
    pub tls: Option<TlsFront>,
}

/// How TLS is opened.
pub struct TlsFront {
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    pub resolver: Arc<Resolver>,
    /// For hosts without wishes of their own.
    pub usual: Acceptor,
}

#[async_trait]
impl ServerApp for Front {
    async fn process_new(self: &Arc<Self>, stream: Stream, shutdown: &ShutdownWatch) -> Option<Stream> {
        let stream = match &self.tls {
            Some(tls) => {
                let plain = spoken(stream, shutdown.clone()).await?;
                let _at_work = self.at_work.token();
                tls.open(plain, shutdown.clone()).await?
            }
            None => stream,
        };
        self.serve(stream, shutdown).await;
        None
    }

    async fn cleanup(&self) {
        self.proxy.cleanup().await;
    }
}

impl Front {
    /// Speaks HTTP until the connection ends.
    async fn serve(&self, stream: Stream, shutdown: &ShutdownWatch) {
        let mut watch = shutdown.clone();
        let is_tls = self.tls.is_some();
        let mut is_http2 = matches!(stream.selected_alpn_proto(), Some(ALPN::H2));
        let mut next: Option<(Stream, Option<HttpPersistentSettings>)> = Some((stream, None));
        while let Some((mut stream, settings)) = next.take() {
            let arrived = head::read(&mut stream, self.patience(), &mut watch, &self.at_work).await;
            // Without TLS, what comes first decides.
            is_http2 |= !is_tls && settings.is_none() && matches!(arrived, Ok(Arrived::Http2(_)));
            match arrived {
                Ok(Arrived::Http2(first)) if is_http2 => {
                    let rewound: Stream = Box::new(Rewound { first, stream });
                    ServerApp::process_new(&self.proxy, rewound, shutdown).await;
                }
                Ok(Arrived::Request(head)) if !is_http2 => {
                    let session = self.session(stream, settings, head);
                    next = self.proxy.process_new_http(session, shutdown).await.map(ReusedHttpStream::consume);
                }
                // The preface where it cannot be meant, or something else where it must be.
                Ok(_) => {}
                Err(refused) => {
                    let reason = refused.why.reason;
                    tracing::debug!(reason, "A request was refused before it was parsed");
                    self.metrics.refused.get_or_create(&Refused { reason }).inc();
                    let way = refused::Way::of(&stream, is_tls);
                    let n_sent = head::refuse(stream, refused.why).await;
                    refused::log(&refused, &way, n_sent, &self.snapshot.load(), &self.metrics, &self.access_log);
                }
            }
        }
    }

    /// A session that finds `head` as if it had read it.
    fn session(&self, stream: Stream, settings: Option<HttpPersistentSettings>, head: BytesMut) -> ServerSession {
        let mut session = ServerSession::new_http1(stream);
        match settings {
            Some(settings) => settings.apply_to_session(&mut session),
            // How long it really is kept, `patience` says.
            None => session.set_keepalive(Some(KEEP_ALIVE_SECS)),
        }
        session.set_pipelined_prefix(head);
        // Otherwise what a client sends early is an error of the request that is being answered.
        session.set_pipelining_enabled(true);
        session
    }

    fn patience(&self) -> Patience {
        let limits = &self.snapshot.load().limits;
        Patience {
            idle: Some(limits.client_idle).filter(|idle| !idle.is_zero()),
            head: limits.client_read_timeout,
            max_bytes: limits.max_header_bytes,
        }
    }
}

impl TlsFront {
    /// `None` if the connection has come to its end.
    async fn open(&self, mut stream: Plain, mut shutdown: ShutdownWatch) -> Option<Stream> {
        let snapshot = self.snapshot.load_full();
        let needs_name = snapshot.certificates.has_wishes() || !snapshot.passthrough.is_empty();
        let opened = timeout(HANDSHAKE_LIMIT, async {
            let name = if needs_name { tls::peek_name(&mut stream).await? } else { None };
            if let Some(upstream) = snapshot.passthrough.find(name.as_deref()) {
                return Ok(Opened::Passed(Box::new(stream), upstream.clone()));
            }
            let wishes = snapshot.certificates.wishes(name.as_deref());
            let acceptor = wishes.map_or(&self.usual, |wishes| &wishes.acceptor);
            acceptor
                .tls_handshake(stream)
                .await
                .map(|stream| Opened::Http(Box::new(stream)))
                .map_err(std::io::Error::other)
        });
        let opened = tokio::select! {
            biased;
            opened = opened => opened,
            () = head::after(&mut shutdown, LAST_HANDSHAKE) => return None,
        };
        match opened {
            Ok(Ok(Opened::Http(stream))) => Some(stream),
            Ok(Ok(Opened::Passed(stream, upstream))) => {
                let patience = snapshot.limits.timeouts.connect;
                if let Err(reason) = pass(*stream, &upstream, &self.resolver, patience).await {
                    tracing::debug!(service = %upstream.service, reason, "A passed-through connection ended badly");
                }
                None
            }
            Ok(Err(error)) => {
                tracing::debug!(%error, "TLS handshake failed");
                None
            }
            Err(_) => {
                tracing::debug!("TLS handshake took too long");
                None
            }
        }
    }
}

/// The connection once its client has said something, which is left to be read again. `None`: it has come to its end.
async fn spoken(stream: Stream, mut shutdown: ShutdownWatch) -> Option<Plain> {
    let mut stream = *stream.into_any().downcast::<Plain>().ok()?;
    let mut first = [0];
    tokio::select! {
        biased;
        read = timeout(HANDSHAKE_LIMIT, stream.read_exact(&mut first)) => read.ok()?.ok()?,
        _ = shutdown.wait_for(|is_over| *is_over) => return None,
    };
    stream.rewind(&first);
    Some(stream)
}

enum Opened {
    Http(Stream),
    Passed(Box<Plain>, Arc<Upstream>),
}

/// Copies bytes both ways until both sides are done.
async fn pass(mut stream: Plain, upstream: &Upstream, resolver: &Resolver, patience: Duration) -> Result<(), String> {
    let mut lease =
        upstream.lease(resolver, None, &Visited::default(), patience).await.map_err(|error| error.to_string())?;
    let address = lease.address();
    let connected = timeout(patience, TcpStream::connect(address)).await;
    let mut other = match connected {
        Ok(Ok(other)) => other,
        Ok(Err(error)) => {
            lease.failed();
            return Err(format!("{address}: {error}"));
        }
        Err(_) => {
            lease.failed();
            return Err(format!("{address}: no connection within {} ms", patience.as_millis()));
        }
    };
    lease.answered(200);
    // Conversations may be silent for hours; a server that vanished must not hold its lease for ever.
    set_tcp_keepalive(&other, &keepalive(Duration::ZERO)).map_err(|error| error.to_string())?;
    tokio::io::copy_bidirectional(&mut stream, &mut other).await.map(|_| ()).map_err(|error| error.to_string())
}

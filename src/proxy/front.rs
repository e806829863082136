//! What happens to a connection before it speaks HTTP.
//!
//! pingora accepts and buffers; here the name in the first TLS message decides: the connection goes to a service unopened
//! (`ssl-passthrough`), or is opened as its host wants it (client certificates, versions), or as all others are.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use pingora_core::apps::ServerApp;
use pingora_core::listeners::tls::Acceptor;
use pingora_core::protocols::Stream;
use pingora_core::protocols::l4::stream::Stream as Plain;
use pingora_core::server::ShutdownWatch;
use pingora_proxy::HttpProxy;
use tokio::net::TcpStream;

use super::resolve::Resolver;
use super::service::Gateway;
use super::snapshot::Snapshot;
use super::tls;
use super::upstream::Upstream;

/// From the first byte to the end of the handshake.
const HANDSHAKE_LIMIT: Duration = Duration::from_secs(30);

/// The application behind a listening socket.
pub struct Front {
    pub proxy: Arc<HttpProxy<Gateway>>,
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
            Some(tls) => tls.open(stream).await?,
            None => stream,
        };
        ServerApp::process_new(&self.proxy, stream, shutdown).await
    }

    async fn cleanup(&self) {
        self.proxy.cleanup().await;
    }
}

impl TlsFront {
    /// `None` if the connection has come to its end.
    async fn open(&self, stream: Stream) -> Option<Stream> {
        let mut stream = *stream.into_any().downcast::<Plain>().ok()?;
        let snapshot = self.snapshot.load_full();
        let needs_name = snapshot.certificates.has_wishes() || !snapshot.passthrough.is_empty();
        let opened = tokio::time::timeout(HANDSHAKE_LIMIT, async {
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
        match opened.await {
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

enum Opened {
    Http(Stream),
    Passed(Box<Plain>, Arc<Upstream>),
}

/// Copies bytes both ways until both sides are done.
async fn pass(mut stream: Plain, upstream: &Upstream, resolver: &Resolver, patience: Duration) -> Result<(), String> {
    let mut lease = upstream.lease(resolver, None, patience).await.map_err(|error| error.to_string())?;
    let address = lease.address();
    let connected = tokio::time::timeout(patience, TcpStream::connect(address)).await;
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
    tokio::io::copy_bidirectional(&mut stream, &mut other).await.map(|_| ()).map_err(|error| error.to_string())
}

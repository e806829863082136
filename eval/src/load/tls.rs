//! TLS towards a target: one configuration for all connections of a workload.

use std::path::Path;
use std::sync::Arc;

use anyhow::{Context, Result, bail};
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::workload::HttpVersion;

#[derive(Clone)]
pub struct Tls {
    connector: TlsConnector,
    name: ServerName<'static>,
}

impl Tls {
    /// For `host`, whose certificate is `ca` (PEM) or was issued by it.
    pub fn trusting(ca: &Path, host: &str, http: HttpVersion) -> Result<Tls> {
        let what = || format!("certificate file {}", ca.display());
        let mut roots = RootCertStore::empty();
        for certificate in CertificateDer::pem_file_iter(ca).with_context(what)? {
            roots.add(certificate.with_context(what)?).with_context(what)?;
        }
        if roots.is_empty() {
            bail!("{}: no certificate in it", what());
        }
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let config = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions()?;
        let mut config = config.with_root_certificates(roots).with_no_client_auth();
        config.alpn_protocols = match http {
            HttpVersion::Http1 => vec![b"http/1.1".to_vec()],
            HttpVersion::Http2 => vec![b"h2".to_vec()],
        };
        let name = ServerName::try_from(host.to_string()).with_context(|| format!("host {host:?}"))?;
        Ok(Tls { connector: TlsConnector::from(Arc::new(config)), name })
    }

    pub async fn connect(&self, stream: TcpStream) -> Result<TlsStream<TcpStream>> {
        self.connector.connect(self.name.clone(), stream).await.context("the TLS handshake")
    }
}

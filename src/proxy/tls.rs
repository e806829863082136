//! Server certificates by SNI, swapped together with the snapshot.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use arc_swap::ArcSwap;
use rustls::server::{ClientHello, ResolvesServerCert};
use rustls::sign::CertifiedKey;
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};

use super::snapshot::Snapshot;
use crate::config::Problem;
use crate::config::model::Certificate;

/// Parsed certificates by host name.
#[derive(Default)]
pub struct Certificates {
    exact: HashMap<String, Arc<CertifiedKey>>,
    /// Without the `*`, with the dot.
    wildcard: HashMap<String, Arc<CertifiedKey>>,
    any: Option<Arc<CertifiedKey>>,
}

impl Certificates {
    /// # Errors
    /// Every Secret whose chain or key cannot be read or do not belong together.
    pub fn load(certificates: &[Certificate]) -> Result<Certificates, Vec<Problem>> {
        let mut loaded = Certificates::default();
        let mut problems = Vec::new();
        for certificate in certificates {
            match parse(certificate) {
                Ok(key) => {
                    let key = Arc::new(key);
                    for host in &certificate.hosts {
                        match host.strip_prefix('*') {
                            Some("") => loaded.any = Some(key.clone()),
                            Some(suffix) => drop(loaded.wildcard.insert(suffix.to_owned(), key.clone())),
                            None => drop(loaded.exact.insert(host.clone(), key.clone())),
                        }
                    }
                }
                Err((field, message)) => problems.push(Problem::error(&certificate.secret, field, &message)),
            }
        }
        if problems.is_empty() { Ok(loaded) } else { Err(problems) }
    }

    /// Exact name, then one wildcard level, then the certificate for any host.
    pub fn find(&self, server_name: Option<&str>) -> Option<Arc<CertifiedKey>> {
        let by_name = server_name.and_then(|name| {
            let wildcard = || name.find('.').and_then(|dot| self.wildcard.get(&name[dot..]));
            self.exact.get(name).or_else(wildcard)
        });
        by_name.or(self.any.as_ref()).cloned()
    }
}

fn parse(certificate: &Certificate) -> Result<CertifiedKey, (&'static str, String)> {
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(certificate.chain.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|error| ("data.tls.crt", format!("is not a PEM certificate chain: {error}")))?;
    if chain.is_empty() {
        return Err(("data.tls.crt", "holds no certificate; put the PEM chain there, leaf first".into()));
    }
    let key = PrivateKeyDer::from_pem_slice(certificate.key.expose().as_bytes())
        .map_err(|error| ("data.tls.key", format!("is not a PEM private key: {error}")))?;
    let provider = rustls::crypto::ring::default_provider();
    CertifiedKey::from_der(chain, key, &provider)
        .map_err(|error| ("data.tls.key", format!("does not belong to the certificate in tls.crt: {error}")))
}

/// Looks certificates up in the serving snapshot at each handshake.
pub struct SniResolver {
    pub snapshot: Arc<ArcSwap<Snapshot>>,
}

impl ResolvesServerCert for SniResolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().map(str::to_ascii_lowercase);
        self.snapshot.load().certificates.find(name.as_deref())
    }
}

impl fmt::Debug for SniResolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SniResolver")
    }
}

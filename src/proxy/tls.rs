//! TLS: server certificates by name, and what hosts demand of their clients. All of it is
//! built with the snapshot and swapped with it.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::sync::Arc;

use arc_swap::ArcSwap;
use async_trait::async_trait;
use parking_lot::RwLock;
use pingora_core::listeners::TlsAccept;
use pingora_core::listeners::tls::{Acceptor, TlsSettings};
use pingora_core::protocols::l4::stream::Stream as Plain;
use pingora_core::protocols::tls::TlsRef;
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::{cipher_suite, default_provider};
use rustls::server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::{CertifiedKey, SingleCertAndKey};
use rustls::{RootCertStore, ServerConfig, SupportedCipherSuite, version};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::AsyncReadExt;

use super::challenge::Challenges;
use super::snapshot::Snapshot;
use crate::config::model::{Certificate, CipherSuite, ClientCa, TlsOptions, TlsVersion};
use crate::config::{Problem, Severity};

/// Values by host: exact name, then the longest suffix, then the value for any host, which is how routes are found.
pub struct ByHost<T> {
    exact: HashMap<String, T>,
    /// Without the `*`, with the dot.
    wildcard: HashMap<String, T>,
    any: Option<T>,
}

impl<T> Default for ByHost<T> {
    fn default() -> Self {
        ByHost { exact: HashMap::new(), wildcard: HashMap::new(), any: None }
    }
}

impl<'a, T> FromIterator<(&'a str, T)> for ByHost<T> {
    fn from_iter<I: IntoIterator<Item = (&'a str, T)>>(values: I) -> Self {
        let mut by_host = ByHost::default();
        for (host, value) in values {
            match host.strip_prefix('*') {
                Some("") => by_host.any = Some(value),
                Some(suffix) => drop(by_host.wildcard.insert(suffix.to_owned(), value)),
                None => drop(by_host.exact.insert(host.to_owned(), value)),
            }
        }
        by_host
    }
}

impl<T> ByHost<T> {
    pub fn is_empty(&self) -> bool {
        self.exact.is_empty() && self.wildcard.is_empty() && self.any.is_none()
    }

    pub fn find(&self, name: Option<&str>) -> Option<&T> {
        let by_name = name.and_then(|name| {
            let wildcard = || name.match_indices('.').find_map(|(dot, _)| self.wildcard.get(&name[dot..]));
            self.exact.get(name).or_else(wildcard)
        });
        by_name.or(self.any.as_ref())
    }
}

/// Parsed certificates by host name. A host whose Secret is of no use has no handshake, rather than one without its demands.
#[derive(Default)]
pub struct Certificates {
    by_host: ByHost<Option<Arc<HostTls>>>,
    has_wishes: bool,
}

struct HostTls {
    key: Arc<CertifiedKey>,
    wishes: Option<Wishes>,
}

/// What a host asks for beyond a certificate.
pub struct Wishes {
    pub acceptor: Acceptor,
    /// PEM of the authorities whose clients are let in.
    client_ca: Option<Arc<str>>,
}

impl Certificates {
    /// The certificates, and an outage for every Secret whose chain, key or authorities cannot be read or do not belong
    /// together.
    pub fn load(certificates: &[Certificate]) -> (Certificates, Vec<Problem>) {
        let mut hosts = Vec::new();
        let mut problems = Vec::new();
        let mut has_wishes = false;
        for certificate in certificates {
            let loaded = HostTls::load(certificate).map(Arc::new).map_err(|problem| {
                let hint = Some(format!("until then there is no TLS for {}", certificate.hosts.join(", ")));
                problems.push(Problem { severity: Severity::Outage, hint, ..*problem });
            });
            let tls = loaded.ok().filter(|_| !certificate.options.is_closed);
            has_wishes = has_wishes || tls.as_ref().is_none_or(|tls| tls.wishes.is_some());
            hosts.extend(certificate.hosts.iter().map(|host| (host.as_str(), tls.clone())));
        }
        (Certificates { by_host: hosts.into_iter().collect(), has_wishes }, problems)
    }

    pub fn find(&self, server_name: Option<&str>) -> Option<Arc<CertifiedKey>> {
        self.by_host.find(server_name)?.as_ref().map(|tls| tls.key.clone())
    }

    /// Whether any host asks for more than a certificate, as far as is known.
    pub fn has_wishes(&self) -> bool {
        self.has_wishes
    }

    pub fn wishes(&self, server_name: Option<&str>) -> Option<&Wishes> {
        self.by_host.find(server_name)?.as_ref()?.wishes.as_ref()
    }

    /// Whether a connection may carry requests to this host: where clients have to show a certificate, this one's has.
    pub fn admits(&self, host: &str, handshake: Option<&Handshake>) -> bool {
        if !self.has_wishes {
            return true;
        }
        if self.by_host.find(Some(host)).is_some_and(Option::is_none) {
            // Nobody knows what it would have demanded.
            return false;
        }
        let demanded = self.wishes(Some(host)).and_then(|wishes| wishes.client_ca.as_ref());
        demanded.is_none_or(|ca| handshake.and_then(|handshake| handshake.client_ca.as_ref()) == Some(ca))
    }
}

impl HostTls {
    fn load(certificate: &Certificate) -> Result<HostTls, Box<Problem>> {
        let key = parse(&certificate.chain, certificate.key.expose())
            .map_err(|(field, message)| Box::new(Problem::error(&certificate.secret, field, &message)))?;
        let options = &certificate.options;
        let wishes = if *options == TlsOptions::default() { None } else { Some(Wishes::new(&key, certificate)?) };
        Ok(HostTls { key: Arc::new(key), wishes })
    }
}

impl Wishes {
    fn new(key: &CertifiedKey, certificate: &Certificate) -> Result<Wishes, Box<Problem>> {
        let options = &certificate.options;
        let fault = |message: String| Box::new(Problem::error(&certificate.secret, "", &message));
        let provider = Arc::new(provider(&options.ciphers));
        let versions: Vec<_> = [(TlsVersion::V1_3, &version::TLS13), (TlsVersion::V1_2, &version::TLS12)]
            .into_iter()
            .filter(|(version, _)| options.min_version.is_none_or(|min| *version >= min))
            .filter(|(version, _)| options.max_version.is_none_or(|max| *version <= max))
            .map(|(_, version)| version)
            .collect();
        let builder = ServerConfig::builder_with_provider(provider.clone())
            .with_protocol_versions(&versions)
            .map_err(|error| fault(format!("its TLS settings leave nothing to agree on: {error}")))?;
        let builder = match &options.client_ca {
            None => builder.with_no_client_auth(),
            Some(ca) => {
                let ca_fault =
                    |message: String| Box::new(Problem::error(&ca.secret, &format!("data.{}", ca.key), &message));
                let roots = Arc::new(authorities(ca).map_err(ca_fault)?);
                let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider)
                    .build()
                    .map_err(|error| ca_fault(format!("cannot check client certificates: {error}")))?;
                builder.with_client_cert_verifier(verifier)
            }
        };
        let resolver = Arc::new(SingleCertAndKey::from(key.clone()));
        let mut config = builder.with_cert_resolver(resolver.clone());
        config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        config.ignore_client_order = true;
        let client_ca = options.client_ca.as_ref().map(|ca| Arc::from(ca.pem.as_str()));
        let mut acceptor = acceptor(resolver, client_ca.clone()).ok_or_else(|| fault("cannot be served".into()))?;
        acceptor.acceptor = Acceptor::from_server_config(Arc::new(config)).acceptor;
        Ok(Wishes { acceptor, client_ca })
    }
}

/// An acceptor that leaves a [`Handshake`] with each connection.
pub fn acceptor(resolver: Arc<dyn ResolvesServerCert>, client_ca: Option<Arc<str>>) -> Option<Acceptor> {
    let mut settings = TlsSettings::with_callbacks(Box::new(Notes { client_ca })).ok()?;
    settings.set_cert_resolver(resolver);
    settings.enable_h2();
    Some(settings.build())
}

/// What is remembered of a TLS handshake.
pub struct Handshake {
    pub server_name: Option<Arc<str>>,
    /// The authorities the client's certificate was checked against.
    client_ca: Option<Arc<str>>,
}

struct Notes {
    client_ca: Option<Arc<str>>,
}

#[async_trait]
impl TlsAccept for Notes {
    async fn handshake_complete_callback(&self, tls: &TlsRef) -> Option<Arc<dyn std::any::Any + Send + Sync>> {
        let server_name = tls.server_name().map(|name| Arc::from(name.to_ascii_lowercase()));
        Some(Arc::new(Handshake { server_name, client_ca: self.client_ca.clone() }))
    }
}

/// Everything but the suites of TLS 1.2 that were not chosen.
fn provider(ciphers: &[CipherSuite]) -> CryptoProvider {
    let mut provider = default_provider();
    if !ciphers.is_empty() {
        let chosen: Vec<SupportedCipherSuite> = ciphers.iter().map(|suite| suite_of(*suite)).collect();
        provider.cipher_suites.retain(|suite| suite.tls13().is_some());
        provider.cipher_suites.extend(chosen);
    }
    provider
}

fn suite_of(suite: CipherSuite) -> SupportedCipherSuite {
    match suite {
        CipherSuite::EcdheEcdsaAes128Gcm => cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
        CipherSuite::EcdheEcdsaAes256Gcm => cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
        CipherSuite::EcdheEcdsaChacha20 => cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
        CipherSuite::EcdheRsaAes128Gcm => cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
        CipherSuite::EcdheRsaAes256Gcm => cipher_suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
        CipherSuite::EcdheRsaChacha20 => cipher_suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    }
}

fn authorities(ca: &ClientCa) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in chain(&ca.pem)? {
        roots.add(certificate).map_err(|error| format!("holds a certificate that cannot be trusted: {error}"))?;
    }
    Ok(roots)
}

pub(super) fn chain(pem: &str) -> Result<Vec<CertificateDer<'static>>, String> {
    let chain: Vec<CertificateDer<'static>> = CertificateDer::pem_slice_iter(pem.as_bytes())
        .collect::<Result<_, _>>()
        .map_err(|error| format!("is not a PEM certificate chain: {error}"))?;
    if chain.is_empty() {
        return Err("holds no certificate; put the PEM chain there, leaf first".into());
    }
    Ok(chain)
}

pub(super) fn parse(chain_pem: &str, key_pem: &str) -> Result<CertifiedKey, (&'static str, String)> {
    let chain = chain(chain_pem).map_err(|message| ("data.tls.crt", message))?;
    let key = PrivateKeyDer::from_pem_slice(key_pem.as_bytes())
        .map_err(|error| ("data.tls.key", format!("is not a PEM private key: {error}")))?;
    CertifiedKey::from_der(chain, key, &default_provider()).map_err(|error| match error {
        rustls::Error::InvalidCertificate(fault) => ("data.tls.crt", unusable_certificate(&fault)),
        rustls::Error::InconsistentKeys(_) => {
            ("data.tls.key", "does not belong to the certificate in tls.crt".to_owned())
        }
        other => ("data.tls.key", format!("cannot be used: {other}")),
    })
}

fn unusable_certificate(fault: &rustls::CertificateError) -> String {
    let text = format!("{fault:?}");
    if text.contains("UnsupportedCertVersion") {
        "is a certificate of X.509 version 1, which clients do not take; make it with extensions (`openssl x509 -req … -extfile`), which makes it version 3".to_owned()
    } else {
        format!("cannot be used: {text}")
    }
}

/// Longest first message that is read for the name in it.
const HELLO_LIMIT: usize = 64 * 1024;

/// The name in the connection's first message, which is left to be read again. What is not TLS has none.
///
/// # Errors
/// The client went away.
pub async fn peek_name(stream: &mut Plain) -> io::Result<Option<String>> {
    let mut acceptor = rustls::server::Acceptor::default();
    let mut seen = Vec::new();
    let mut piece = [0; 4096];
    let name = loop {
        let n = stream.read(&mut piece).await?;
        let mut unread = piece.get(..n).unwrap_or_default();
        seen.extend_from_slice(unread);
        if n == 0 || seen.len() > HELLO_LIMIT {
            break None;
        }
        while !unread.is_empty() && acceptor.read_tls(&mut unread).is_ok_and(|n| n > 0) {}
        match acceptor.accept() {
            Ok(None) => {}
            Ok(Some(accepted)) => break accepted.client_hello().server_name().map(str::to_ascii_lowercase),
            // The handshake proper will say what is wrong.
            Err(_) => break None,
        }
    };
    stream.rewind(&seen);
    Ok(name)
}

/// By which a certificate authority says that it wants the certificate of its challenge (RFC 8737).
const ACME_TLS: &[u8] = b"acme-tls/1";

/// Certificates that prove to an authority which domains are served here, by domain.
#[derive(Default)]
pub struct ChallengeKeys {
    keys: RwLock<HashMap<String, Arc<CertifiedKey>>>,
}

impl ChallengeKeys {
    /// # Errors
    /// The key is of no use. Both are in DER.
    pub fn show(&self, domain: &str, certificate: &[u8], key: &[u8]) -> Result<(), String> {
        let key = PrivateKeyDer::try_from(key.to_vec()).map_err(str::to_owned)?;
        let key = default_provider().key_provider.load_private_key(key).map_err(|error| error.to_string())?;
        // Not by `from_der`, which refuses the critical extension that the challenge is about.
        let shown = CertifiedKey::new(vec![CertificateDer::from(certificate.to_vec())], key);
        self.keys.write().insert(domain.to_owned(), Arc::new(shown));
        Ok(())
    }

    pub fn remove(&self, domain: &str) {
        self.keys.write().remove(domain);
    }
}

/// The acceptor for hosts without wishes of their own.
pub fn usual_acceptor(snapshot: Arc<ArcSwap<Snapshot>>, challenges: Arc<Challenges>) -> Option<Acceptor> {
    let resolver = Arc::new(SniResolver { snapshot, challenges });
    let builder = ServerConfig::builder_with_provider(Arc::new(default_provider()));
    let builder = builder.with_protocol_versions(&[&version::TLS13, &version::TLS12]).ok()?;
    let mut config = builder.with_no_client_auth().with_cert_resolver(resolver.clone());
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec(), ACME_TLS.to_vec()];
    config.ignore_client_order = true;
    let mut acceptor = acceptor(resolver, None)?;
    acceptor.acceptor = Acceptor::from_server_config(Arc::new(config)).acceptor;
    Some(acceptor)
}

/// Looks certificates up in the serving snapshot at each handshake.
struct SniResolver {
    snapshot: Arc<ArcSwap<Snapshot>>,
    challenges: Arc<Challenges>,
}

impl ResolvesServerCert for SniResolver {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let name = hello.server_name().map(str::to_ascii_lowercase);
        if hello.alpn().is_some_and(|mut offered| offered.any(|protocol| protocol == ACME_TLS)) {
            return self.challenges.keys.keys.read().get(name?.as_str()).cloned();
        }
        self.snapshot.load().certificates.find(name.as_deref())
    }
}

impl fmt::Debug for SniResolver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SniResolver")
    }
}

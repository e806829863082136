//! Certificates from an ACME authority (RFC 8555): ordered when they are wanted, ordered again before they expire.
//!
//! [`keep`] is the loop that `server` runs in the background. It asks a [`Shelf`] what is wanted and puts there what was
//! issued; [`Authority`] gets one certificate. The protocol is the business of the crate `instant-acme`.
//!
//! This module opens no connection and writes no configuration: it speaks over [`Transport`], has challenges answered by a
//! [`Stage`], and knows nothing of routes. Of files it has one, the account's key in the data folder.

mod account;
mod authority;
mod faults;
mod keeper;
mod leaf;

use async_trait::async_trait;
use bytes::Bytes;

use crate::base::secret::Secret;
use crate::config::model::{AutomaticHttps, CertificateOrder};

pub use authority::Authority;
pub use faults::certificate_faults;
pub use keeper::keep;
pub use leaf::Leaf;

/// How the authority is spoken to.
#[async_trait]
pub trait Transport: Send + Sync {
    /// # Errors
    /// Why there is no answer, in words.
    async fn send(&self, request: http::Request<Bytes>) -> Result<http::Response<Bytes>, String>;
}

/// Where challenges are answered while an authority looks.
pub trait Stage: Send + Sync {
    /// # Errors
    /// The answer cannot be shown.
    fn show(&self, answer: &Answer) -> Result<(), String>;

    fn remove(&self, answer: &Answer);
}

/// What proves that a domain is served here.
#[derive(Debug, Clone)]
pub enum Answer {
    /// A text at `/.well-known/acme-challenge/<token>` (HTTP-01).
    Http { token: String, text: String },
    /// A certificate for TLS clients that offer `acme-tls/1` (TLS-ALPN-01), both in DER.
    Tls { domain: String, certificate: Vec<u8>, key: DerKey },
}

/// A private key in DER, which is never printed.
#[derive(Clone)]
pub struct DerKey(pub Vec<u8>);

impl std::fmt::Debug for DerKey {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("***")
    }
}

/// Where wanted certificates are noted, and kept.
pub trait Shelf: Send + Sync {
    /// `None`: certificates are not ordered.
    fn wanted(&self) -> Option<AutomaticHttps>;

    /// Keeps a certificate where everybody who wants it finds it.
    ///
    /// # Errors
    /// It cannot be kept.
    fn put(&self, order: &CertificateOrder, issued: &Issued) -> Result<(), String>;

    /// Whether it could be kept, before it is ordered.
    ///
    /// # Errors
    /// Why not.
    fn check(&self, order: &CertificateOrder) -> Result<(), String>;

    /// The order of a domain has ended, with a certificate or with an error.
    fn ended(&self, domain: &str, error: Option<&str>);

    /// No others are wanted.
    fn forget_all_but(&self, domains: &[String]);
}

/// A certificate as it came.
pub struct Issued {
    /// PEM, leaf first.
    pub chain: String,
    /// PEM.
    pub key: Secret,
}

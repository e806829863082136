//! `auth-tls-secret`, `ssl-cipher`, `tls-min-protocol-version`, `tls-max-protocol-version`, `ssl-passthrough`: TLS towards
//! clients (Higress `annotations/downstreamtls.go`, `ssl_passthrough.go`).
//!
//! The TLS stack speaks TLS 1.2 with AEAD suites and TLS 1.3, nothing older.

use super::Annotations;
use super::backend::{SecretRule, secret};
use crate::config::model::{CipherSuite, TlsVersion};

#[derive(Debug, Default)]
pub(in crate::config) struct DownstreamRule {
    /// Holds the authorities of client certificates.
    pub client_ca: Option<SecretRule>,
    pub min_version: Option<TlsVersion>,
    pub max_version: Option<TlsVersion>,
    /// Empty: all there are.
    pub ciphers: Vec<CipherSuite>,
    pub is_passthrough: bool,
}

pub(super) fn read(annotations: &Annotations<'_>) -> DownstreamRule {
    let version = |key: &str| {
        let expected = "TLSv1.0, TLSv1.1, TLSv1.2 or TLSv1.3";
        annotations.parse(annotations.either(key), expected, |text| match text {
            "TLSv1.0" | "TLSv1.1" => Some(None),
            "TLSv1.2" => Some(Some(TlsVersion::V1_2)),
            "TLSv1.3" => Some(Some(TlsVersion::V1_3)),
            _ => None,
        })
    };
    let (min, max) = (version("tls-min-protocol-version"), version("tls-max-protocol-version"));
    if max == Some(None)
        && let Some((key, text)) = annotations.either("tls-max-protocol-version")
    {
        annotations.warn(&key, format!("{text} is not spoken by this gateway; TLSv1.2 is the highest version instead"));
    }
    let max_version = max.map(|version| version.unwrap_or(TlsVersion::V1_2));
    DownstreamRule {
        client_ca: client_ca(annotations),
        min_version: min.flatten(),
        max_version,
        ciphers: annotations
            .either("ssl-cipher")
            .map(|(key, text)| ciphers(annotations, &key, text))
            .unwrap_or_default(),
        is_passthrough: annotations.flag(annotations.either("ssl-passthrough")),
    }
}

/// Ignoring a wrong one would let everybody in.
fn client_ca(annotations: &Annotations<'_>) -> Option<SecretRule> {
    secret(annotations, "auth-tls-secret")?.map_err(|(key, message)| annotations.error(&key, message)).ok()
}

/// Suites of TLS 1.2; those of 1.3 are not chosen, in Higress either.
fn ciphers(annotations: &Annotations<'_>, key: &str, text: &str) -> Vec<CipherSuite> {
    let mut ciphers = Vec::new();
    for name in text.split(':').map(str::trim).filter(|name| !name.is_empty()) {
        match CipherSuite::by_name(name) {
            Some(suite) => ciphers.push(suite),
            None => annotations.warn(key, format!("the cipher suite `{name}` is not spoken by this gateway")),
        }
    }
    if ciphers.is_empty() {
        annotations.warn(key, "names no cipher suite of this gateway, so all of them stay allowed");
    }
    ciphers
}

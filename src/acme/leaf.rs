//! What a certificate says about itself.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use x509_parser::extensions::GeneralName;

/// The first certificate of a chain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leaf {
    pub not_after: SystemTime,
    /// From its first moment to its last.
    pub lifetime: Duration,
    /// Lower case.
    pub names: Vec<String>,
}

impl Leaf {
    /// `None` if the text holds no certificate that can be read.
    pub fn of(chain_pem: &str) -> Option<Leaf> {
        let der = CertificateDer::from_pem_slice(chain_pem.as_bytes()).ok()?;
        let (_, certificate) = x509_parser::parse_x509_certificate(&der).ok()?;
        let names = certificate.subject_alternative_name().ok().flatten();
        let names = names.iter().flat_map(|extension| &extension.value.general_names);
        let names = names.filter_map(|name| match name {
            GeneralName::DNSName(name) => Some(name.to_ascii_lowercase()),
            _ => None,
        });
        let seconds = |timestamp: i64| Duration::from_secs(u64::try_from(timestamp).unwrap_or(0));
        let validity = certificate.validity();
        let (begin, end) = (seconds(validity.not_before.timestamp()), seconds(validity.not_after.timestamp()));
        Some(Leaf { not_after: UNIX_EPOCH + end, lifetime: end.saturating_sub(begin), names: names.collect() })
    }

    /// Whether clients take it for a host, or for all hosts of a wildcard.
    pub fn is_for(&self, host: &str) -> bool {
        let of_parent = host.split_once('.').map(|(_, parent)| format!("*.{parent}"));
        self.names.iter().any(|name| name == host || Some(name) == of_parent.as_ref())
    }

    /// Zero when it has expired.
    pub fn time_left(&self, now: SystemTime) -> Duration {
        self.not_after.duration_since(now).unwrap_or_default()
    }
}

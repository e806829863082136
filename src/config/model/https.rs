//! Certificates that the gateway gets itself. Plain data like the rest of the model.

use std::time::Duration;

use serde::Serialize;

use super::ObjectRef;

/// What the ConfigMap `higress-https` wants ordered.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct AutomaticHttps {
    /// Told to the authority.
    pub email: Option<String>,
    /// Certificates are ordered again when less than this is left.
    pub renew_before: Duration,
    pub orders: Vec<CertificateOrder>,
}

/// A domain and the Secret that its certificate is kept in.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct CertificateOrder {
    /// Lower case.
    pub domain: String,
    /// The file need not be there yet.
    pub secret: ObjectRef,
    /// PEM chain in the Secret at present.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chain: Option<String>,
}

//! `backend-protocol` and `proxy-ssl-…`: how the upstream is spoken to (Higress `annotations/upstreamtls.go`).
//!
//! Unlike in Higress, `proxy-ssl-verify` decides whether the upstream's certificate is checked, and `proxy-ssl-server-name`
//! whether `proxy-ssl-name` is sent; Higress writes the latter into the former's place.

use super::Annotations;
use crate::config::model::Protocol;

#[derive(Debug, Default)]
pub(in crate::config) struct BackendRule {
    pub protocol: Option<Protocol>,
    pub is_tls: bool,
    pub sni: Option<String>,
    pub verify: Option<bool>,
    pub secret: Option<SecretRule>,
}

/// A Secret an annotation names.
#[derive(Debug)]
pub(in crate::config) struct SecretRule {
    /// Key of the annotation, for messages.
    pub key: String,
    /// `None`: that of the Ingress.
    pub namespace: Option<String>,
    pub name: String,
}

pub(super) fn read(annotations: &Annotations<'_>) -> BackendRule {
    let expected = "HTTP, HTTP2, HTTPS, GRPC or GRPCS";
    let protocol = annotations.parse(annotations.either("backend-protocol"), expected, |text| {
        match text.to_ascii_uppercase().as_str() {
            "HTTP" => Some((None, Some(false))),
            "HTTPS" => Some((None, Some(true))),
            "HTTP2" | "GRPC" => Some((Some(Protocol::Http2), None)),
            "GRPCS" => Some((Some(Protocol::Http2), Some(true))),
            _ => None,
        }
    });
    let switch = |key: &str| {
        annotations.parse(annotations.either(key), "on or off", |text| match text {
            "on" => Some(true),
            "off" => Some(false),
            _ => None,
        })
    };
    let verify = switch("proxy-ssl-verify");
    let sends_name = switch("proxy-ssl-server-name");
    let name = annotations.either("proxy-ssl-name").filter(|(_, name)| !name.trim().is_empty());
    let ignored = |(key, message): (String, String)| annotations.warn(&key, format!("{message}; it has no effect"));
    let secret = secret(annotations, "proxy-ssl-secret").and_then(|found| found.map_err(ignored).ok());
    let (protocol, is_tls) = protocol.unwrap_or((None, None));
    // A certificate to show makes it TLS, whatever the protocol is called, as in Higress.
    let is_tls = is_tls == Some(true) || secret.is_some();
    if let Some((key, _)) = name.as_ref().filter(|_| sends_name != Some(true)) {
        annotations.warn(key, "has no effect without proxy-ssl-server-name `on`");
    }
    let sni = name.filter(|_| sends_name == Some(true)).map(|(_, name)| name.trim().to_owned());
    BackendRule { protocol, is_tls, sni, verify, secret }
}

/// The Secret `[namespace/]name` of an annotation; `Err` is the annotation and what is wrong with it.
pub(super) fn secret(annotations: &Annotations<'_>, key: &str) -> Option<Result<SecretRule, (String, String)>> {
    let (key, text) = annotations.either(key)?;
    if text.trim().is_empty() {
        annotations.warn(&key, "is empty and has no effect");
        return None;
    }
    Some(match super::fallback::service_name(text) {
        Some((namespace, name, None)) => Ok(SecretRule { key, namespace, name }),
        _ => Err((key, format!("must be `secret` or `namespace/secret`, not \"{text}\""))),
    })
}

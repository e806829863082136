//! TLS of a listener: the certificates of its host, and what clients have to show.

use super::GROUP;
use super::gateway::Reader;
use super::grants::End;
use crate::base::secret::Secret;
use crate::config::fields::Fields;
use crate::config::higress::secret::{CA_KEYS, CA_SUFFIX};
use crate::config::model::{Certificate, ClientCa, HostMatch, TlsOptions};

/// Istio's option for what clients have to show.
const TERMINATE_MODE: &str = "gateway.higress.io/tls-terminate-mode";

impl Reader<'_> {
    /// The listener's certificates, each for its hosts.
    pub(super) fn certificates(&self, mut tls: Fields<'_>, hostname: &HostMatch, certificates: &mut Vec<Certificate>) {
        let mode_field = tls.path_of("mode");
        if let Some(mode) = tls.text("mode").filter(|mode| *mode != "Terminate") {
            self.report.warn(&mode_field, format!("{mode} is not supported; the listener terminates TLS"));
        }
        let clients = self.clients(&mut tls);
        let own = &self.object.origin;
        for mut reference in tls.objects("certificateRefs") {
            let path = reference.path().to_owned();
            let (group, kind) =
                (reference.text("group").unwrap_or_default(), reference.text("kind").unwrap_or("Secret"));
            let namespace = reference.text("namespace").unwrap_or(&own.namespace).to_owned();
            let name = reference.required_text("name").map(str::to_owned);
            let is_secret = group.is_empty() && kind == "Secret";
            reference.finish();
            let Some(name) = name else { continue };
            if !is_secret {
                self.report.warn(&path, format!("{kind} is no kind of certificate; only Secrets are"));
                continue;
            }
            let from = End { group: GROUP, kind: "Gateway", namespace: &own.namespace };
            let to = End { group: "", kind: "Secret", namespace: &namespace };
            if !self.grants.allow(from, to, &name) {
                self.report
                    .warn(&path, format!("no ReferenceGrant in {namespace} allows the use of its Secret {name}"));
                continue;
            }
            let Some(secret) = self.secrets.get(&namespace, &name) else {
                self.report.warn(&path, format!("there is no Secret {namespace}/{name}"));
                continue;
            };
            let (Some(chain), Some(key)) = (secret.text("tls.crt"), secret.text("tls.key")) else {
                self.report.warn(&path, format!("the Secret {namespace}/{name} lacks tls.crt or tls.key"));
                continue;
            };
            let host = match hostname {
                HostMatch::Any => "*".to_owned(),
                HostMatch::Exact(host) => host.clone(),
                HostMatch::Suffix(suffix) => format!("*{suffix}"),
            };
            certificates.push(Certificate {
                hosts: vec![host],
                secret: secret.origin().clone(),
                chain: chain.to_owned(),
                key: Secret::new(key),
                options: clients.options(&namespace, &name, self, &path),
            });
        }
        tls.finish();
    }

    /// What a listener asks of its clients: in Istio's option, or in the field of the Gateway API.
    fn clients(&self, tls: &mut Fields<'_>) -> Clients {
        let options_path = tls.path_of("options");
        let mut clients = Clients::Anybody;
        for (name, value) in tls.text_map("options") {
            match (name, value.as_ref()) {
                (TERMINATE_MODE, "SIMPLE") => {}
                (TERMINATE_MODE, "MUTUAL") => clients = Clients::OfCertificate,
                (TERMINATE_MODE, other) => {
                    let message = format!("{other} is not supported; there is no TLS for the listener's host");
                    self.report.warn(&format!("{options_path}[{name}]"), message);
                    clients = Clients::Unknown;
                }
                _ => self
                    .report
                    .warn(&format!("{options_path}[{name}]"), "is not an option known here and has no effect"),
            }
        }
        let path = tls.path_of("frontendValidation");
        let Some(mut validation) = tls.object("frontendValidation") else { return clients };
        let mut references = validation.objects("caCertificateRefs");
        if let Some(mode) = validation.text("mode").filter(|mode| *mode != "AllowValidOnly") {
            self.report.warn(
                &format!("{path}.mode"),
                format!("{mode} is not supported; clients have to show a valid certificate"),
            );
        }
        validation.finish();
        clients = Clients::Unknown;
        if references.len() > 1 {
            self.report.warn(&path, "names several certificate authorities, of which there can be one; there is no TLS for the listener's host");
        } else if let Some(mut reference) = references.pop() {
            let kind = reference.text("kind").unwrap_or_default().to_owned();
            let group = reference.text("group").unwrap_or_default().to_owned();
            let namespace = reference.text("namespace").unwrap_or(&self.object.origin.namespace).to_owned();
            let name = reference.required_text("name").unwrap_or_default().to_owned();
            reference.finish();
            if group.is_empty() && kind == "Secret" {
                clients = Clients::Of { namespace, name };
            } else {
                let message = format!(
                    "{kind} is not supported, a Secret with ca.crt is; there is no TLS for the listener's host"
                );
                self.report.warn(&path, message);
            }
        }
        clients
    }

    /// The authorities in a Secret that this Gateway may use.
    fn authorities(&self, namespace: &str, name: &str) -> Option<ClientCa> {
        let own = &self.object.origin;
        let from = End { group: GROUP, kind: "Gateway", namespace: &own.namespace };
        let to = End { group: "", kind: "Secret", namespace };
        let secret = self.secrets.get(namespace, name).filter(|_| self.grants.allow(from, to, name))?;
        let (key, pem) = CA_KEYS.iter().find_map(|key| Some((*key, secret.text(key)?)))?;
        Some(ClientCa { secret: secret.origin().clone(), key, pem: pem.to_owned() })
    }
}

/// Whose certificates a listener lets in.
enum Clients {
    Anybody,
    /// Of the authorities in the Secret of the listener's certificate, or in the one beside it.
    OfCertificate,
    Of {
        namespace: String,
        name: String,
    },
    /// It has been reported why.
    Unknown,
}

impl Clients {
    /// Closed where what is asked for cannot be had: no TLS is better than TLS for everybody.
    fn options(&self, namespace: &str, certificate: &str, reader: &Reader<'_>, path: &str) -> TlsOptions {
        let found = match self {
            Clients::Anybody => return TlsOptions::default(),
            Clients::Unknown => return TlsOptions { is_closed: true, ..TlsOptions::default() },
            Clients::OfCertificate => {
                let beside = format!("{certificate}{CA_SUFFIX}");
                reader.authorities(namespace, certificate).or_else(|| reader.authorities(namespace, &beside))
            }
            Clients::Of { namespace, name } => reader.authorities(namespace, name),
        };
        if found.is_none() {
            let message = "there is no Secret with ca.crt to check clients by, or no ReferenceGrant for it; there is no TLS for the listener's host";
            reader.report.warn(path, message);
        }
        TlsOptions { is_closed: found.is_none(), client_ca: found, ..TlsOptions::default() }
    }
}

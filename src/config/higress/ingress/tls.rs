//! What an Ingress takes from Secrets: certificates of its hosts, the authorities of their clients, and the certificate the
//! gateway shows to upstreams.

use super::Reader;
use crate::base::secret::Secret as Hidden;
use crate::config::annotations::SecretRule;
use crate::config::fields::Fields;
use crate::config::higress::draft::Ingress;
use crate::config::higress::secret::{CA_KEYS, CA_SUFFIX};
use crate::config::model::{Certificate, ClientCa, HostMatch, Identity, TlsOptions, TlsPolicy, UpstreamPolicy};

/// An entry of `tls`.
pub(super) struct Tls {
    pub path: String,
    /// Without any it is for rules without a host.
    hosts: Vec<String>,
    secret: Option<String>,
    pub is_used: bool,
}

pub(super) fn entries(spec: &mut Fields<'_>) -> Vec<Tls> {
    let read = |mut entry: Fields<'_>| {
        let tls = Tls {
            path: entry.path().to_owned(),
            hosts: Some(entry.texts("hosts")).filter(|hosts| !hosts.is_empty()).unwrap_or_else(|| vec!["*".to_owned()]),
            secret: entry.text("secretName").filter(|name| !name.is_empty()).map(str::to_owned),
            is_used: false,
        };
        entry.finish();
        tls
    };
    spec.objects("tls").into_iter().map(read).collect()
}

impl Reader<'_> {
    /// The certificate of a rule's host: that of the first entry that names exactly this host, or of `higress-https`.
    pub(super) fn certificate(&self, written: &str, host_match: &HostMatch, tls: &mut [Tls], ingress: &mut Ingress) {
        let host = if written.is_empty() { "*" } else { written };
        let is_there = |certificate: &Certificate| certificate.hosts.iter().any(|it| it.eq_ignore_ascii_case(host));
        let entry = tls.iter().position(|entry| entry.hosts.iter().any(|other| other == written || other == host));
        if let Some(entry) = entry.and_then(|at| tls.get_mut(at)) {
            entry.is_used = true;
        }
        if ingress.certificates.iter().any(is_there) {
            return;
        }
        let named =
            if tls.is_empty() { None } else { self.secret_of(host, host_match, entry.and_then(|at| tls.get(at))) };
        let Some((namespace, name, path)) = named else {
            return ingress.demands.extend(self.demand(host));
        };
        let Some(secret) = self.secrets.get(namespace, name) else {
            let message = format!("there is no Secret {namespace}/{name}, so `{host}` has no certificate");
            self.report.warn_hint(&path, message, format!("write secrets/{name}.yaml with tls.crt and tls.key"));
            return;
        };
        let (Some(chain), Some(key)) = (secret.text("tls.crt"), secret.text("tls.key")) else {
            let message =
                format!("the Secret {namespace}/{name} lacks tls.crt or tls.key, so `{host}` has no certificate");
            self.report.warn(&path, message);
            return;
        };
        let options = self.tls_options(name, host);
        ingress.certificates.push(Certificate {
            hosts: vec![host.to_ascii_lowercase()],
            secret: secret.origin().clone(),
            chain: chain.to_owned(),
            key: Hidden::new(key),
            options,
        });
    }

    /// What the annotations ask of the clients of a host whose certificate is not this Ingress' own.
    fn demand(&self, host: &str) -> Option<(String, TlsOptions)> {
        let named = self.options.downstream.client_ca.as_ref().map(|rule| rule.name.as_str()).unwrap_or_default();
        // The Secret named may be that of the certificate, wherever that comes from.
        let options = self.tls_options(named.strip_suffix(CA_SUFFIX).unwrap_or(named), host);
        (options != TlsOptions::default()).then(|| (host.to_ascii_lowercase(), options))
    }

    /// Namespace and name of the Secret with a host's certificate, and the field that says so. `None` if there is none, or
    /// none yet.
    fn secret_of<'b>(
        &'b self,
        host: &str,
        host_match: &HostMatch,
        entry: Option<&'b Tls>,
    ) -> Option<(&'b str, &'b str, String)> {
        let path = entry.map(|entry| format!("{}.secretName", entry.path));
        let named = entry.and_then(|entry| entry.secret.as_deref()).map(|name| (self.origin.namespace.as_str(), name));
        let is_missing = named.is_none_or(|(namespace, name)| self.secrets.get(namespace, name).is_none());
        let may_replace = named.is_none() || (is_missing && self.https.fallback_for_invalid_secret);
        if let Some(credential) = self.https.secret_for(host_match).filter(|_| may_replace) {
            let (namespace, name) = (credential.namespace.as_str(), credential.name.as_str());
            let is_awaited = credential.is_issued && self.secrets.get(namespace, name).is_none();
            return (!is_awaited).then(|| (namespace, name, "spec.tls".to_owned()));
        }
        match (named, path) {
            (Some((namespace, name)), Some(path)) => Some((namespace, name, path)),
            (None, Some(path)) => {
                self.report.warn(&path, format!("is missing, so `{host}` has no certificate"));
                None
            }
            (_, None) => None,
        }
    }

    /// Closed if clients cannot be checked as the Ingress asks for: no TLS is better than TLS for everybody.
    fn tls_options(&self, certificate: &str, host: &str) -> TlsOptions {
        let closed = TlsOptions { is_closed: true, ..TlsOptions::default() };
        let rule = &self.options.downstream;
        let client_ca = match &rule.client_ca {
            None => None,
            Some(secret) => match self.client_ca(secret, certificate, host) {
                None => return closed,
                found => found,
            },
        };
        let (min, max) = (rule.min_version, rule.max_version);
        if min.zip(max).is_some_and(|(min, max)| min > max) {
            let field = self.annotation("tls-min-protocol-version");
            self.report.error(&field, "is above tls-max-protocol-version, so nobody could connect");
            return closed;
        }
        TlsOptions { client_ca, min_version: min, max_version: max, ciphers: rule.ciphers.clone(), is_closed: false }
    }

    fn client_ca(&self, rule: &SecretRule, certificate: &str, host: &str) -> Option<ClientCa> {
        let field = self.annotation(&rule.key);
        let namespace = rule.namespace.as_ref().unwrap_or(&self.origin.namespace);
        let belongs = rule.name == certificate || rule.name.strip_suffix(CA_SUFFIX) == Some(certificate);
        if *namespace != self.origin.namespace || !belongs {
            let message = format!(
                "must name the Secret of the certificate or `{certificate}{CA_SUFFIX}`, not {namespace}/{}",
                rule.name
            );
            self.report.error(&field, message);
            return None;
        }
        let secret = self.secrets.get(namespace, &rule.name);
        let found = secret.and_then(|secret| CA_KEYS.iter().find_map(|key| Some((secret, *key, secret.text(key)?))));
        let Some((secret, key, pem)) = found else {
            let fault = if secret.is_some() { "has neither ca.crt nor cacert" } else { "does not exist" };
            let message = format!("the Secret {namespace}/{} {fault}, so `{host}` has no TLS", rule.name);
            self.report.warn(&field, message);
            return None;
        };
        Some(ClientCa { secret: secret.origin().clone(), key, pem: pem.to_owned() })
    }

    /// How the services of this Ingress are spoken to.
    pub(super) fn upstream_policy(&self) -> UpstreamPolicy {
        let backend = &self.options.backend;
        let how = TlsPolicy {
            sni: backend.sni.clone(),
            verify: backend.verify,
            identity: backend.secret.as_ref().and_then(|rule| self.identity(rule)),
        };
        let (tls, tls_of_service) = if backend.is_tls { (Some(how), None) } else { (None, Some(how)) };
        UpstreamPolicy {
            protocol: backend.protocol,
            tls,
            tls_of_service: tls_of_service.filter(|how| *how != TlsPolicy::default()),
            load_balance: self.options.load_balance.clone(),
        }
    }

    fn identity(&self, rule: &SecretRule) -> Option<Identity> {
        let namespace = rule.namespace.as_ref().unwrap_or(&self.origin.namespace);
        let secret = self.secrets.get(namespace, &rule.name);
        let usable = secret.and_then(|secret| secret.identity());
        if usable.is_none() {
            let fault = if secret.is_some() { "lacks tls.crt or tls.key" } else { "does not exist" };
            let message =
                format!("the Secret {namespace}/{} {fault}, so no certificate is shown to the upstream", rule.name);
            self.report.warn(&self.annotation(&rule.key), message);
        }
        usable
    }
}

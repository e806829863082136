//! ConfigMap `higress-https`, key `cert` (Higress `pkg/cert/config.go`): certificates by domain for hosts whose Ingress names
//! no Secret, and which of them are ordered from an authority. The authority is a setting of the process.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use super::config_map::{is_of_system, parsed};
use super::secret::Secrets;
use super::skip_common;
use crate::config::SYSTEM_NAMESPACE;
use crate::config::fields::Fields;
use crate::config::model::{AutomaticHttps, CertificateOrder, HostMatch, ObjectRef};
use crate::config::problem::{ObjectReport, Report};
use crate::config::source::RawObject;

const NAME: &str = "higress-https";
/// The only issuer there is in Higress.
const ISSUER: &str = "letsencrypt";
const RENEW_BEFORE_DAYS: u64 = 30;
/// Certificates are good for 90 days.
const MAX_RENEW_BEFORE_DAYS: u64 = 89;
const DAY_SECS: u64 = 24 * 60 * 60;

/// What the ConfigMap says; nothing where there is none.
#[derive(Debug, Default)]
pub(in crate::config) struct Https {
    credentials: Vec<Credential>,
    /// A Secret that an Ingress names and that is missing is replaced, too.
    pub fallback_for_invalid_secret: bool,
    /// `None`: nothing is ordered.
    order: Option<(Option<String>, Duration)>,
}

/// A Secret and the domains it is for.
#[derive(Debug)]
pub(in crate::config) struct Credential {
    domains: Vec<HostMatch>,
    pub namespace: String,
    pub name: String,
    /// It will come.
    pub is_issued: bool,
}

impl Https {
    pub fn read(object: &RawObject, secrets: &Secrets, report: &Report) -> Option<Https> {
        if object.origin.name != NAME || !is_of_system(object, report) {
            return None;
        }
        let report = report.on_parts_of(&object.origin);
        let mut fields = Fields::new(&object.value, "", report);
        skip_common(&mut fields);
        fields.inert(&["binaryData", "immutable"]);
        let data: BTreeMap<_, _> = fields.text_map("data").into_iter().collect();
        fields.finish();
        for key in data.keys().filter(|key| **key != "cert") {
            report.warn(&format!("data.{key}"), "is not a key of this ConfigMap and has no effect");
        }
        let value = parsed(data.get("cert")?, "data.cert", secrets, report)?;
        Some(read(Fields::new(&value, "data.cert", report), report))
    }

    /// The Secret for a host: the first that names it or has a wildcard over it, of any depth (Higress `MatchSecretNameByDomain`).
    pub fn secret_for(&self, host: &HostMatch) -> Option<&Credential> {
        let covers = |domain: &HostMatch| match (domain, host) {
            (HostMatch::Suffix(suffix), HostMatch::Exact(name) | HostMatch::Suffix(name)) => {
                name.ends_with(suffix.as_str()) && name != suffix
            }
            _ => false,
        };
        self.credentials.iter().find(|one| one.domains.iter().any(|domain| domain == host || covers(domain)))
    }

    /// What is to be ordered, with what is there.
    pub fn automatic(self, secrets: &Secrets) -> Option<AutomaticHttps> {
        let (email, renew_before) = self.order?;
        let order = |credential: Credential| {
            let Some(HostMatch::Exact(domain)) = credential.domains.into_iter().next() else { return None };
            let (namespace, name) = (credential.namespace, credential.name);
            let found = secrets.get(&namespace, &name);
            // The name alone could be another namespace's.
            let file = match namespace == SYSTEM_NAMESPACE {
                true => PathBuf::from(format!("secrets/{name}.yaml")),
                false => PathBuf::from(format!("secrets/{namespace}/{name}.yaml")),
            };
            let secret = match found {
                Some(secret) => secret.origin().clone(),
                None => ObjectRef { kind: "Secret".to_owned(), namespace, name, file },
            };
            let chain = found.and_then(|secret| secret.text("tls.crt")).map(str::to_owned);
            Some(CertificateOrder { domain, secret, chain })
        };
        let orders = self.credentials.into_iter().filter(|credential| credential.is_issued).filter_map(order).collect();
        Some(AutomaticHttps { email, renew_before, orders })
    }
}

fn read(mut fields: Fields<'_>, report: ObjectReport<'_>) -> Https {
    let part = report.part();
    let is_automatic = fields.boolean("automaticHttps").unwrap_or(true);
    let fallback_for_invalid_secret = fields.boolean("fallbackForInvalidSecret").unwrap_or(false);
    let days = fields.integer::<u64>("renewBeforeDays").unwrap_or(RENEW_BEFORE_DAYS);
    if !(1..=MAX_RENEW_BEFORE_DAYS).contains(&days) {
        let message = format!("must be between 1 and {MAX_RENEW_BEFORE_DAYS}, not {days}");
        report.error(&fields.path_of("renewBeforeDays"), message);
    }
    fields.inert(&["version"]);
    let mut email = None;
    for mut issuer in fields.objects("acmeIssuer") {
        let name = issuer.required_text("name").unwrap_or(ISSUER);
        if name != ISSUER {
            let message = format!("`{name}` is no issuer");
            report.error_hint(&issuer.path_of("name"), message, "write letsencrypt");
        }
        let address = issuer.required_text("email");
        if address.is_some_and(|address| !address.contains('@')) {
            report.error(&issuer.path_of("email"), "must be an e-mail address");
        }
        if email.is_some() {
            report.error(issuer.path(), "is a second issuer; there is only one, letsencrypt");
        }
        email = email.or(address.map(str::to_owned));
        // Higress writes them, empty, and reads them nowhere.
        issuer.inert(&["ak", "sk"]);
        issuer.finish();
    }
    // Nobody is asked for certificates in a way that was not meant.
    let is_automatic = is_automatic && part.is_whole();
    let mut credentials: Vec<Credential> = Vec::new();
    for entry in fields.objects("credentialConfig") {
        let part = report.part();
        let path = entry.path().to_owned();
        let Some(credential) = credential(entry, report) else { continue };
        if let Some(domain) = credential
            .domains
            .iter()
            .find(|domain| credentials.iter().any(|other: &Credential| other.domains.contains(domain)))
        {
            report.error(&path, format!("names `{}`, which an entry above names already", written(domain)));
        }
        let is_same =
            |other: &&Credential| (&other.namespace, &other.name) == (&credential.namespace, &credential.name);
        if credentials.iter().filter(is_same).any(|other| other.is_issued || credential.is_issued) {
            report.error_hint(
                &format!("{path}.tlsSecret"),
                "is the Secret of an entry above, but an issued certificate is for one domain",
                "name a Secret of its own; each would be overwritten by the other, and ordered again and again",
            );
        }
        if credential.is_issued && email.is_none() {
            report.error_hint(
                &format!("{path}.tlsIssuer"),
                "names the issuer letsencrypt, but there is none",
                "add `acmeIssuer: [{name: letsencrypt, email: you@example.com}]`",
            );
        }
        if part.is_whole() {
            credentials.push(credential);
        }
    }
    fields.finish();
    if !is_automatic {
        credentials.iter_mut().for_each(|credential| credential.is_issued = false);
    }
    let order = is_automatic.then_some((email, Duration::from_secs(days * DAY_SECS)));
    Https { credentials, fallback_for_invalid_secret, order }
}

fn credential(mut fields: Fields<'_>, report: ObjectReport<'_>) -> Option<Credential> {
    let (path, secret_path) = (fields.path_of("domains"), fields.path_of("tlsSecret"));
    let mut domains = Vec::new();
    for domain in fields.texts("domains") {
        match super::ingress::host_match(&domain) {
            Ok(domain) => domains.push(domain),
            Err(message) => report.error(&path, message),
        }
    }
    if domains.is_empty() {
        report.error(&path, "names no domain");
    }
    let secret = fields.required_text("tlsSecret").map(|text| {
        let (namespace, name) = text.split_once('/').unwrap_or((SYSTEM_NAMESPACE, text));
        (namespace.to_owned(), name.to_owned())
    });
    let issuer = fields.text("tlsIssuer").filter(|issuer| !issuer.is_empty());
    if let Some(issuer) = issuer.filter(|issuer| *issuer != ISSUER) {
        let message = format!("`{issuer}` is no issuer");
        report.error_hint(
            &fields.path_of("tlsIssuer"),
            message,
            "write letsencrypt, or nothing for a Secret of your own",
        );
    }
    if issuer.is_some() && domains.len() > 1 {
        report.error_hint(
            &path,
            "names several domains, but an issued certificate is for one",
            "write one entry per domain",
        );
    }
    if issuer.is_some() && domains.iter().any(|domain| !matches!(domain, HostMatch::Exact(_))) {
        report.error(&path, "has a wildcard, which only a challenge in the DNS could prove; name the hosts");
    }
    fields.unsupported(&["cacertSecret"]);
    fields.finish();
    let (namespace, name) = secret?;
    if name.is_empty() || namespace.is_empty() || name.contains('/') {
        report.error(&secret_path, "must be `name` or `namespace/name`");
        return None;
    }
    Some(Credential { domains, namespace, name, is_issued: issuer == Some(ISSUER) })
}

fn written(domain: &HostMatch) -> String {
    match domain {
        HostMatch::Any => "*".to_owned(),
        HostMatch::Exact(name) => name.clone(),
        HostMatch::Suffix(suffix) => format!("*{suffix}"),
    }
}

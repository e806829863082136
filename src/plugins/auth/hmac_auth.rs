//! `hmac-auth`: requests signed with a shared secret, in the form of Alibaba's API gateway. AUTHN phase, priority 330.
//!
//! The string to sign is, line by line: method, Accept, Content-MD5, Content-Type, Date, the signed headers (sorted,
//! `name:value`), then the path with all parameters of query and form body, decoded and sorted
//! (Higress `plugins/wasm-cpp/extensions/hmac_auth`).
//!
//! Difference from Higress: a Content-MD5 is compared for an empty body, too, so that cutting a body off is noticed.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderName, HeaderValue};
use md5::{Digest as _, Md5};
use percent_encoding::percent_decode;
use ring::hmac;
use subtle::ConstantTimeEq as _;

use super::clock;
use super::consumers::{self, Gate};
use crate::base::secret::Secret;
use crate::config::model::Phase;
use crate::plugins::config::{FieldProblem, Fields, is_usable};
use crate::plugins::registry::{BuildResult, PluginSpec, Scope};
use crate::plugins::rules::Family;
use crate::plugins::{Flow, Host, Plugin, Reply, Request, parts};

pub const SPEC: PluginSpec = PluginSpec {
    name: "hmac-auth",
    phase: Phase::Authn,
    priority: 330,
    family: Family::Cpp,
    summary: "requests signed with a shared secret (x-ca-signature), with consumers and per-route allow lists",
    build,
    check: |scope| Config::read(scope).1,
};

const ERROR_HEADER: HeaderName = HeaderName::from_static("x-ca-error-message");
/// The fixed lines of the string to sign, after the method.
const FIXED: [&str; 4] = ["accept", "content-md5", "content-type", "date"];
/// Never among the signed headers.
const OWN: [&str; 3] = ["x-ca-signature", "x-ca-signature-headers", ":method"];
const MAX_BODY_BYTES: usize = 32 * 1024 * 1024;
/// A timestamp with so many digits is in milliseconds.
const MILLISECOND_DIGITS: usize = 13;

/// What one scope asks for.
struct Config {
    gate: Gate,
    credentials: Vec<Credential>,
    /// Seconds a request's date may be off; zero does not look.
    date_offset: i64,
}

struct Credential {
    key: String,
    secret: Secret,
    consumer: Option<String>,
}

impl Config {
    fn read(scope: &Scope<'_>) -> (Config, Vec<FieldProblem>) {
        let value = consumers::config_of(scope, Family::Cpp);
        let mut fields = Fields::of(&value, "");
        let gate = Gate::read(scope, Family::Cpp, &mut fields);
        let date_offset = fields.count("date_offset").and_then(|offset| i64::try_from(offset).ok()).unwrap_or(0);
        let mut known = HashSet::new();
        let mut credentials = consumers::each(&mut fields, "consumers", |fields| {
            let consumer = consumers::required(fields, "name");
            let credential = read_credential(fields)?;
            if !known.insert(credential.key.clone()) {
                fields.problem("key", "is that of a consumer before it, too");
            }
            Some(Credential { consumer, ..credential })
        });
        let unnamed = consumers::each(&mut fields, "credentials", read_credential);
        if !unnamed.is_empty() && !credentials.is_empty() {
            fields.problem("credentials", "cannot be combined with consumers; name a consumer for each credential");
        }
        credentials.extend(unnamed);
        gate.require(&mut fields, credentials.iter().map(|credential| credential.consumer.as_deref()));
        (Config { gate, credentials, date_offset }, fields.finish())
    }
}

fn read_credential(fields: &mut Fields<'_>) -> Option<Credential> {
    let key = consumers::required(fields, "key");
    let n_problems = fields.problems.len();
    let secret = fields.secret("secret").filter(|secret| !secret.is_empty());
    if secret.is_none() && fields.problems.len() == n_problems {
        fields.problem("secret", "must be given");
    }
    Some(Credential { key: key?, secret: secret?, consumer: None })
}

struct HmacAuth {
    config: Config,
}

fn build(scope: &Scope<'_>, _host: &Arc<dyn Host>) -> BuildResult {
    let (config, problems) = Config::read(scope);
    if !is_usable(&problems) {
        return Err(problems);
    }
    Ok(config.gate.is_active.then(|| Arc::new(HmacAuth { config }) as Arc<dyn Plugin>))
}

#[async_trait]
impl Plugin for HmacAuth {
    async fn on_request_headers(&self, request: &mut Request<'_>) -> Flow {
        match self.check_head(request) {
            Ok(consumer) => {
                // Who signed a form is known when the form is.
                if !is_form(request) {
                    consumers::let_pass(request, consumer);
                }
                Flow::Continue
            }
            Err(reply) => Flow::respond(reply),
        }
    }

    fn wants_body(&self, request: &Request<'_>) -> bool {
        is_form(request) || md5_header(request).is_some()
    }

    async fn on_request_body(&self, request: &mut Request<'_>) -> Flow {
        if let Err(reply) = self.check_body(request) {
            return Flow::respond(reply);
        }
        if is_form(request) {
            let consumer = self.credential(request).ok().and_then(|credential| credential.consumer.as_deref());
            consumers::let_pass(request, consumer);
        }
        Flow::Continue
    }
}

impl HmacAuth {
    /// Everything but what needs the body; who it is.
    fn check_head(&self, request: &Request<'_>) -> Result<Option<&str>, Reply> {
        let credential = self.credential(request)?;
        if !self.config.gate.admits(credential.consumer.as_deref()) {
            return Err(refuse(403, "Unauthorized Consumer"));
        }
        if !is_form(request) {
            self.check_signature(request, credential, &[])?;
        }
        Ok(credential.consumer.as_deref())
    }

    fn check_body(&self, request: &Request<'_>) -> Result<(), Reply> {
        let body = request.state.body.as_deref().unwrap_or_default();
        if body.len() > MAX_BODY_BYTES {
            return Err(refuse(413, "Request Body Too Large"));
        }
        if let Some(md5) = md5_header(request)
            && STANDARD.encode(Md5::digest(body)) != md5
        {
            return Err(refuse(400, "Invalid Content-MD5"));
        }
        if is_form(request) {
            self.check_signature(request, self.credential(request)?, body)?;
        }
        Ok(())
    }

    fn credential(&self, request: &Request<'_>) -> Result<&Credential, Reply> {
        let key = request.header("x-ca-key").unwrap_or_default();
        self.config.credentials.iter().find(|known| known.key == key).ok_or_else(|| refuse(401, "Invalid Key"))
    }

    fn check_signature(&self, request: &Request<'_>, credential: &Credential, form: &[u8]) -> Result<(), Reply> {
        let signature = request.header("x-ca-signature").unwrap_or_default();
        if signature.is_empty() {
            return Err(refuse(401, "Empty Signature"));
        }
        self.check_date(request)?;
        let algorithm = match request.header("x-ca-signature-method") {
            Some("HmacSHA1") => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
            _ => hmac::HMAC_SHA256,
        };
        let text = string_to_sign(request, form);
        let code = hmac::sign(&hmac::Key::new(algorithm, credential.secret.expose().as_bytes()), &text);
        if STANDARD.encode(code).as_bytes().ct_eq(signature.as_bytes()).into() {
            return Ok(());
        }
        let mut reply = refuse(400, "Invalid Signature");
        let mut told = b"Server StringToSign:`".to_vec();
        told.extend(text.iter().map(|byte| if *byte == b'\n' { b'#' } else { *byte }));
        told.push(b'`');
        reply.headers.extend(HeaderValue::from_bytes(&told).map(|value| (ERROR_HEADER, value)));
        Err(reply)
    }

    fn check_date(&self, request: &Request<'_>) -> Result<(), Reply> {
        if self.config.date_offset == 0 {
            return Ok(());
        }
        let stamp = request.header("x-ca-timestamp").unwrap_or_default();
        let seconds = match request.header("date").filter(|date| !date.is_empty()) {
            Some(date) => clock::http_date(date),
            None if stamp.len() < MILLISECOND_DIGITS => stamp.parse().ok(),
            None => stamp.parse().ok().map(|milliseconds: i64| milliseconds / 1000),
        };
        match seconds {
            Some(seconds) if clock::now().abs_diff(seconds) <= self.config.date_offset.unsigned_abs() => Ok(()),
            _ => Err(refuse(400, "Invalid Date")),
        }
    }
}

fn refuse(status: u16, text: &str) -> Reply {
    consumers::told(status, text, text)
}

fn is_form(request: &Request<'_>) -> bool {
    let content_type = request.header("content-type").unwrap_or_default();
    content_type.to_ascii_lowercase().contains("application/x-www-form-urlencoded")
}

fn md5_header<'r>(request: &'r Request<'_>) -> Option<&'r str> {
    request.header("content-md5").filter(|md5| !md5.is_empty())
}

fn string_to_sign(request: &Request<'_>, form: &[u8]) -> Vec<u8> {
    // What is no text counts, too: as nothing it could be added to a signed request.
    let header = |name: &str| parts::text(request, name).unwrap_or_default();
    let mut text = format!("{}\n", request.head.method);
    for name in FIXED {
        text += &header(name);
        text.push('\n');
    }
    let mut signed: Vec<String> =
        header("x-ca-signature-headers").split(',').map(|name| name.trim().to_ascii_lowercase()).collect();
    signed.retain(|name| !name.is_empty() && !FIXED.contains(&name.as_str()) && !OWN.contains(&name.as_str()));
    signed.sort();
    for name in signed {
        text += &format!("{name}:{}\n", header(&name));
    }
    text += request.path();
    let mut text = text.into_bytes();
    // The first value of a parameter counts, the query before the form.
    let mut parameters = BTreeMap::new();
    for part in [request.head.uri.query().unwrap_or_default().as_bytes(), form] {
        collect_parameters(part, &mut parameters);
    }
    for (index, (name, value)) in parameters.iter().enumerate() {
        text.push(if index == 0 { b'?' } else { b'&' });
        text.extend_from_slice(name);
        text.push(b'=');
        text.extend_from_slice(value);
    }
    text
}

/// Percent-decoded parameters; unlike in forms, `+` is a plus.
fn collect_parameters(text: &[u8], found: &mut BTreeMap<Vec<u8>, Vec<u8>>) {
    let text = text.strip_suffix(b"&").unwrap_or(text);
    if text.is_empty() {
        return;
    }
    for pair in text.split(|byte| *byte == b'&') {
        let (name, value) = match pair.iter().position(|byte| *byte == b'=') {
            Some(at) => (percent_decode(&pair[..at]).collect(), percent_decode(&pair[at + 1..]).collect()),
            None => (pair.to_vec(), Vec::new()),
        };
        found.entry(name).or_insert(value);
    }
}

#[cfg(test)]
mod tests;

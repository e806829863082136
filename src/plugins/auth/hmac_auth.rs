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
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::plugins::testing::{Exchange, FakeHost, built, built_with, problem_fields};

    fn config(date_offset: u64) -> Value {
        json!({"date_offset": date_offset, "consumers": [
            {"key": "appKey", "secret": "appSecret", "name": "one"}, {"key": "k2", "secret": "s2", "name": "two"}]})
    }

    fn signed(text: &str) -> String {
        STANDARD.encode(hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, b"appSecret"), text.as_bytes()))
    }

    /// The refusal, or the consumer.
    fn seen(plugin: &Arc<dyn Plugin>, exchange: &mut Exchange) -> Result<String, (u16, String)> {
        match exchange.run(plugin) {
            None => Ok(exchange.state.consumer.clone().unwrap_or_default()),
            Some(reply) => {
                assert_eq!(reply.body, reply.details.as_bytes());
                Err((reply.status, reply.details))
            }
        }
    }

    #[test]
    fn a_signed_request_passes() {
        let text = "GET\napplication/json\n\n\nFri, 01 Jan 2021 00:00:00 GMT\nfoo:bar\nx-ca-key:appKey\n/http2test/test?a=1 2&param1=test+&q=";
        let signature = signed(text);
        let headers = [
            ("accept", "application/json"),
            ("date", "Fri, 01 Jan 2021 00:00:00 GMT"),
            ("foo", "bar"),
            ("x-ca-key", "appKey"),
            ("x-ca-signature-headers", "X-Ca-Key,Foo,Date,X-Ca-Signature"),
            ("x-ca-signature", signature.as_str()),
        ];
        let plugin = built(&SPEC, &config(0));
        let path = "/http2test/test?param1=test+&q&a=1%202&a=3";
        assert_eq!(seen(&plugin, &mut Exchange::new("GET", path, &headers)), Ok("one".into()));
        let late = built(&SPEC, &config(60));
        let refused = seen(&late, &mut Exchange::new("GET", path, &headers));
        assert_eq!(refused, Err((400, "Invalid Date".into())));
        let reply = Exchange::new("GET", "/other", &headers).run(&plugin).unwrap();
        assert_eq!((reply.status, reply.details.as_str()), (400, "Invalid Signature"));
        let (_, told) = reply.headers.iter().find(|(name, _)| name == ERROR_HEADER).unwrap();
        let expected =
            "Server StringToSign:`GET#application/json###Fri, 01 Jan 2021 00:00:00 GMT#foo:bar#x-ca-key:appKey#/other`";
        assert_eq!(told, expected);
    }

    #[test]
    fn timestamps_count_in_their_own_unit() {
        let plugin = built(&SPEC, &config(60));
        for (stamp, is_right) in [
            (clock::now().to_string(), true),
            ((clock::now() * 1000).to_string(), true),
            ((clock::now() - 120).to_string(), false),
            ("soon".to_owned(), false),
        ] {
            let signature = signed(&format!("GET\n\n\n\n\nx-ca-timestamp:{stamp}\n/"));
            let headers = [
                ("x-ca-key", "appKey"),
                ("x-ca-timestamp", stamp.as_str()),
                ("x-ca-signature-headers", "x-ca-timestamp"),
                ("x-ca-signature", signature.as_str()),
            ];
            let seen = seen(&plugin, &mut Exchange::new("GET", "/", &headers));
            assert_eq!(seen.is_ok(), is_right, "{stamp}: {seen:?}");
        }
    }

    #[test]
    fn form_and_digest_are_checked_with_the_body() {
        let plugin = built(&SPEC, &config(0));
        let body = "b=2&a=1";
        let md5 = STANDARD.encode(Md5::digest(body));
        let signature = signed(&format!("POST\n\n{md5}\napplication/x-www-form-urlencoded\n\n/?a=1&b=2"));
        let headers = [
            ("x-ca-key", "appKey"),
            ("content-type", "application/x-www-form-urlencoded"),
            ("content-md5", md5.as_str()),
            ("x-ca-signature", signature.as_str()),
        ];
        let exchange = || Exchange::new("POST", "/", &headers);
        assert_eq!(seen(&plugin, &mut exchange().with_body(body)), Ok("one".into()));
        let invalid_md5 = Err((400, "Invalid Content-MD5".to_owned()));
        assert_eq!(seen(&plugin, &mut exchange().with_body("b=2&a=2")), invalid_md5);
        assert_eq!(seen(&plugin, &mut exchange()), invalid_md5, "the body was cut off");
        let unsigned = [headers[0], headers[1], headers[3]];
        let refused = seen(&plugin, &mut Exchange::new("POST", "/", &unsigned).with_body(body));
        assert_eq!(refused, Err((400, "Invalid Signature".into())));
    }

    #[test]
    fn keys_and_consumers_are_refused() {
        let rule = json!({"allow": ["two"]});
        let plugin = built_with(&SPEC, &config(0), Some(&rule), FakeHost::silent());
        for (headers, status, text) in [
            (&[][..], 401, "Invalid Key"),
            (&[("x-ca-key", "nope")], 401, "Invalid Key"),
            (&[("x-ca-key", "appKey")], 403, "Unauthorized Consumer"),
            (&[("x-ca-key", "k2")], 401, "Empty Signature"),
        ] {
            assert_eq!(seen(&plugin, &mut Exchange::new("GET", "/", headers)), Err((status, text.to_owned())));
        }
        let wrong = json!({"consumers": [{"key": "a", "secret": true}], "date_offset": "x"});
        assert_eq!(problem_fields(&SPEC, &wrong), ["date_offset", "consumers[0].name", "consumers[0].secret"]);
        let twice =
            json!({"consumers": [{"name": "a", "key": "k", "secret": "s"}, {"name": "b", "key": "k", "secret": "t"}]});
        assert_eq!(problem_fields(&SPEC, &twice), ["consumers[1].key"]);
    }
}

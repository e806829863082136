//! `http-call`: asks a service before each request and shows its answer to the upstream in headers. Default phase, priority 0.
//!
//! A sample of Higress' that people build on; a failed call lets the request pass, as there. Difference from Higress: so does a
//! call that cannot be sent (there the request waits).

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use http::{HeaderName, HeaderValue};
use pingora_http::RequestHeader;

use crate::config::model::Phase;
use crate::plugins::config::{FieldProblem, Fields, is_usable};
use crate::plugins::registry::{BuildResult, PluginSpec, Scope};
use crate::plugins::rules::Family;
use crate::plugins::{Destination, Flow, Host, HttpCall, Plugin, Request};

pub const SPEC: PluginSpec = PluginSpec {
    name: "http-call",
    phase: Phase::Unspecified,
    priority: 0,
    family: Family::Go,
    summary: "Asks a service before each request and passes its answer on in headers",
    build,
    check: |scope| Config::read(scope).1,
};

/// As Higress' plugin library waits.
const TIMEOUT: Duration = Duration::from_millis(500);

struct Config {
    head: RequestHeader,
    service: String,
    port: u16,
    body_header: Option<HeaderName>,
    token_header: Option<HeaderName>,
}

impl Config {
    fn read(scope: &Scope<'_>) -> (Option<Config>, Vec<FieldProblem>) {
        let value = scope.alone();
        let mut fields = Fields::of(&value, "");
        let body_header = header_name(&mut fields, "bodyHeader");
        let token_header = header_name(&mut fields, "tokenHeader");
        let path = fields.string("requestPath").unwrap_or_default();
        let head = RequestHeader::build("GET", path.as_bytes(), Some(2)).ok().filter(|_| path.starts_with('/'));
        if head.is_none() {
            fields.problem("requestPath", "must be a path that begins with /");
        }
        let name = fields.name("serviceName").unwrap_or_default();
        if name.is_empty() {
            fields.problem("serviceName", "must be given");
        }
        let port = fields.count("servicePort").and_then(|port| u16::try_from(port).ok()).filter(|port| *port > 0);
        if port.is_none() {
            fields.problem("servicePort", "must be a port between 1 and 65535");
        }
        let namespace = fields.string("namespace").unwrap_or_default();
        let of_k8s = if namespace.is_empty() { "default" } else { namespace };
        let domain = fields.string("domain").unwrap_or_default();
        let service = match fields.string("serviceSource").unwrap_or_default() {
            "k8s" => format!("{name}.{of_k8s}.svc.cluster.local"),
            "nacos" => format!("{name}.DEFAULT-GROUP.{namespace}.nacos"),
            "ip" => format!("{name}.static"),
            "dns" => format!("{name}.dns"),
            _ => {
                fields.problem("serviceSource", "must be k8s, nacos, ip or dns");
                String::new()
            }
        };
        let config = head.zip(port).map(|(mut head, port)| {
            if !domain.is_empty() && head.insert_header(http::header::HOST, domain).is_err() {
                fields.problem("domain", "is no host name");
            }
            Config { head, service, port, body_header, token_header }
        });
        (config, fields.finish())
    }
}

fn header_name(fields: &mut Fields<'_>, key: &'static str) -> Option<HeaderName> {
    let name = fields.string(key).and_then(|name| name.parse().ok());
    if name.is_none() {
        fields.problem(key, "must be the name of a header");
    }
    name
}

struct Caller {
    config: Config,
    host: Arc<dyn Host>,
}

fn build(scope: &Scope<'_>, host: &Arc<dyn Host>) -> BuildResult {
    match Config::read(scope) {
        (Some(config), problems) if is_usable(&problems) => Ok(Some(Arc::new(Caller { config, host: host.clone() }))),
        (_, problems) => Err(problems),
    }
}

#[async_trait]
impl Plugin for Caller {
    async fn on_request_headers(&self, request: &mut Request<'_>) -> Flow {
        let to = Destination::Service { host: self.config.service.clone(), port: Some(self.config.port) };
        let call = HttpCall {
            to,
            head: self.config.head.clone(),
            body: Bytes::new(),
            timeout: TIMEOUT,
            is_question: false,
            may_cut: false,
        };
        match self.host.http(call).await {
            Ok(answer) if answer.status() == 200 => {
                // A header has one line.
                let body: Vec<u8> = answer.body.iter().map(|byte| if *byte == b'\n' { b'#' } else { *byte }).collect();
                add(request, self.config.body_header.as_ref(), HeaderValue::from_bytes(&body).ok());
                let token = self.config.token_header.as_ref();
                add(request, token, token.and_then(|name| answer.head.headers.get(name).cloned()));
            }
            Ok(answer) => {
                tracing::warn!(service = self.config.service, status = answer.status(), "http-call is refused");
            }
            Err(error) => tracing::warn!(service = self.config.service, error, "http-call has no answer"),
        }
        Flow::Continue
    }
}

fn add(request: &mut Request<'_>, name: Option<&HeaderName>, value: Option<HeaderValue>) {
    if let (Some(name), Some(value)) = (name, value) {
        // Appending fails only on names that are not header names.
        let _ = request.head.append_header(name.clone(), value);
        request.state.told_upstream = true;
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::plugins::testing::{Exchange, FakeHost, answer, built_with, problem_fields};

    fn config() -> Value {
        json!({"bodyHeader": "X-Body", "tokenHeader": "X-Token", "requestPath": "/token?a=1", "serviceSource": "dns",
            "serviceName": "auth", "servicePort": 80, "domain": "auth.example.com"})
    }

    #[test]
    fn the_answer_travels_in_headers() {
        let host = FakeHost::answering(|_| Ok(answer(200, &[("x-token", "t1")], "two\nlines")));
        let plugin = built_with(&SPEC, &config(), None, host.clone());
        let mut exchange = Exchange::new("GET", "/", &[]);
        assert!(exchange.run(&plugin).is_none());
        assert_eq!((exchange.header("x-body"), exchange.header("x-token")), (Some("two#lines"), Some("t1")));
        let calls = host.calls.lock();
        assert_eq!(calls[0].to, Destination::Service { host: "auth.dns".into(), port: Some(80) });
        assert_eq!(
            (calls[0].head.uri.to_string().as_str(), &calls[0].head.headers["host"]),
            ("/token?a=1", &"auth.example.com".parse().unwrap())
        );
    }

    #[test]
    fn sources_name_services() {
        for (source, namespace, expected) in [
            ("k8s", json!("apps"), "auth.apps.svc.cluster.local"),
            ("k8s", json!(null), "auth.default.svc.cluster.local"),
            ("nacos", json!("public"), "auth.DEFAULT-GROUP.public.nacos"),
            ("ip", json!("apps"), "auth.static"),
        ] {
            let mut config = config();
            config["serviceSource"] = json!(source);
            config["namespace"] = namespace;
            let host = FakeHost::answering(|_| Ok(answer(200, &[], "")));
            assert!(Exchange::new("GET", "/", &[]).run(&built_with(&SPEC, &config, None, host.clone())).is_none());
            let to = Destination::Service { host: expected.into(), port: Some(80) };
            assert_eq!(host.calls.lock()[0].to, to);
        }
    }

    #[test]
    fn a_failed_call_lets_the_request_pass() {
        for host in [FakeHost::silent(), FakeHost::answering(|_| Ok(answer(500, &[("x-token", "t")], "b")))] {
            let plugin = built_with(&SPEC, &config(), None, host);
            let mut exchange = Exchange::new("GET", "/", &[]);
            assert!(exchange.run(&plugin).is_none());
            assert_eq!((exchange.header("x-body"), exchange.header("x-token")), (None, None));
        }
    }

    #[test]
    fn problems_name_their_field() {
        let expected =
            ["bodyHeader", "tokenHeader", "requestPath", "serviceName", "servicePort", "serviceSource", "typo"];
        assert_eq!(problem_fields(&SPEC, &json!({"bodyHeader": "no name", "typo": 1})), expected);
    }
}

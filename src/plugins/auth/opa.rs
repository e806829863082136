//! `opa`: a policy of an Open Policy Agent decides on each request. AUTHN phase, priority 225.
//!
//! Differences from Higress: the agent is asked once, with the body where there is one (the original asks without it first, and
//! again with it, so that a policy over the body never says yes); no answer is 502 (the original leaves the request hanging
//! where the call cannot be sent).

use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use http::header::{CONTENT_TYPE, HOST};
use pingora_http::RequestHeader;
use serde_json::{Map, Value, json};

use super::clock::go_duration;
use super::consumers::{self, told};
use crate::config::model::Phase;
use crate::plugins::config::{FieldProblem, Fields, is_usable};
use crate::plugins::registry::{BuildResult, PluginSpec, Scope};
use crate::plugins::rules::Family;
use crate::plugins::{Destination, Flow, Host, HttpCall, Plugin, Request, parts};

pub const SPEC: PluginSpec = PluginSpec {
    name: "opa",
    phase: Phase::Authn,
    priority: 225,
    family: Family::Go,
    summary: "a policy of an Open Policy Agent decides which requests pass",
    build,
    check: |scope| Config::read(scope).1,
};

/// What one scope asks for.
struct Config {
    policy: String,
    timeout: Duration,
    /// `None`: the service the request is for.
    service: Option<(String, u16)>,
    host: Option<String>,
}

impl Config {
    fn read(scope: &Scope<'_>) -> (Option<Config>, Vec<FieldProblem>) {
        let value = scope.alone();
        let mut fields = Fields::of(&value, "");
        let policy = consumers::required(&mut fields, "policy").map(|policy| policy.trim().to_owned());
        let timeout = consumers::required(&mut fields, "timeout").and_then(|text| {
            let parsed = go_duration(&text);
            if parsed.is_none() {
                fields.problem("timeout", format!("\"{text}\" is no duration such as 5s or 1m30s"));
            }
            parsed
        });
        let mut text = |key| fields.string(key).map(str::trim).filter(|text| !text.is_empty()).map(str::to_owned);
        let (source, name, namespace) = (text("serviceSource"), text("serviceName"), text("namespace"));
        let (host, domain) = (text("host"), text("domain"));
        let port = fields.count("servicePort").and_then(|port| u16::try_from(port).ok()).filter(|port| *port != 0);
        let source = source.unwrap_or_default();
        let suffix = match source.as_str() {
            "k8s" => namespace.as_ref().map(|namespace| format!("{namespace}.svc.cluster.local")),
            "nacos" => namespace.as_ref().map(|namespace| format!("DEFAULT-GROUP.{namespace}.nacos")),
            "ip" => Some("static".to_owned()),
            "dns" => Some("dns".to_owned()),
            "route" => None,
            other => {
                let message = format!("\"{other}\" is not one of k8s, nacos, ip, dns, route");
                fields.problem("serviceSource", message);
                None
            }
        };
        if suffix.is_none() && ["k8s", "nacos"].contains(&source.as_str()) {
            fields.problem("namespace", format!("must be given for serviceSource {source}"));
        }
        let mut service = None;
        if let Some(suffix) = suffix {
            match (name, port) {
                (Some(name), Some(port)) => service = Some((format!("{name}.{suffix}"), port)),
                (None, _) => fields.problem("serviceName", "must be given"),
                (_, None) => fields.problem("servicePort", "must be a port number"),
            }
        }
        let config =
            policy.zip(timeout).map(|(policy, timeout)| Config { policy, timeout, service, host: host.or(domain) });
        (config, fields.finish())
    }
}

struct Opa {
    config: Config,
    host: Arc<dyn Host>,
}

fn build(scope: &Scope<'_>, host: &Arc<dyn Host>) -> BuildResult {
    match Config::read(scope) {
        (Some(config), problems) if is_usable(&problems) => {
            Ok(Some(Arc::new(Opa { config, host: host.clone() }) as Arc<dyn Plugin>))
        }
        (_, problems) => Err(problems),
    }
}

#[async_trait]
impl Plugin for Opa {
    async fn on_request_headers(&self, request: &mut Request<'_>) -> Flow {
        if self.wants_body(request) { Flow::Continue } else { self.decide(request).await }
    }

    fn wants_body(&self, request: &Request<'_>) -> bool {
        parts::may_have_body(request)
    }

    async fn on_request_body(&self, request: &mut Request<'_>) -> Flow {
        self.decide(request).await
    }
}

impl Opa {
    async fn decide(&self, request: &Request<'_>) -> Flow {
        let answered = match self.call(request) {
            Ok(call) => self.host.http(call).await,
            Err(error) => Err(error),
        };
        let answer = match answered {
            Ok(answer) => answer,
            Err(reason) => {
                tracing::warn!(%reason, route = %request.state.route, "The policy agent did not answer");
                return Flow::respond(told(502, "opa.status_ne_200", "opa state not is 200"));
            }
        };
        if answer.status() != 200 {
            return Flow::respond(told(answer.status(), "opa.status_ne_200", "opa state not is 200"));
        }
        let body: Map<String, Value> = match serde_json::from_slice(&answer.body) {
            Ok(body) => body,
            Err(error) => {
                return Flow::respond(told(500, "opa.bad_response_body", format!("opa parse rsp fail {error}")));
            }
        };
        match body.get("result").and_then(Value::as_bool) {
            Some(true) => Flow::Continue,
            Some(false) => Flow::respond(told(401, "opa.server_not_allowed", "opa server not allowed")),
            None => Flow::respond(told(500, "opa.conversion_fail", "rsp type conversion fail")),
        }
    }

    fn call(&self, request: &Request<'_>) -> Result<HttpCall, String> {
        let failed = |error: Box<dyn std::error::Error>| format!("the question cannot be sent: {error}");
        let path = format!("/v1/data/{}/allow", self.config.policy);
        let mut head = RequestHeader::build("POST", path.as_bytes(), None).map_err(|error| failed(error.into()))?;
        head.insert_header(CONTENT_TYPE, "application/json").map_err(|error| failed(error.into()))?;
        if let Some(host) = &self.config.host {
            head.insert_header(HOST, host.as_str()).map_err(|error| failed(error.into()))?;
        }
        let to = match &self.config.service {
            Some((host, port)) => Destination::Service { host: host.clone(), port: Some(*port) },
            None => Destination::Service { host: request.state.service.to_string(), port: request.state.service_port },
        };
        let body = json!({"input": {"request": described(request)}}).to_string().into();
        Ok(HttpCall { to, head, body, timeout: self.config.timeout, is_question: true, may_cut: false })
    }
}

/// The request as policies know it.
fn described(request: &Request<'_>) -> Value {
    let path = request.head.uri.path_and_query().map_or("/", |path| path.as_str());
    let scheme = if request.state.is_tls { "https" } else { "http" };
    let method = request.head.method.as_str();
    let authority = request.header("host").unwrap_or(&request.state.host);
    let mut headers = vec![
        json!([":authority", authority]),
        json!([":path", path]),
        json!([":method", method]),
        json!([":scheme", scheme]),
    ];
    for (name, value) in request.head.headers.iter().filter(|(name, _)| **name != HOST) {
        headers.push(json!([name.as_str(), String::from_utf8_lossy(value.as_bytes())]));
    }
    let mut query: Map<String, Value> = Map::new();
    for (name, value) in form_urlencoded::parse(request.head.uri.query().unwrap_or_default().as_bytes()) {
        let values = query.entry(name).or_insert_with(|| json!([]));
        if let Some(values) = values.as_array_mut() {
            values.push(json!(value));
        }
    }
    let mut described = json!({"method": method, "scheme": scheme, "path": path, "headers": headers, "query": query});
    if let Some(body) = request.state.body.as_ref().filter(|body| !body.is_empty()) {
        described["body"] = json!(STANDARD.encode(body));
    }
    described
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plugins::testing::{Exchange, FakeHost, answer, built_with, problem_fields};

    fn config() -> Value {
        json!({"serviceSource": "k8s", "namespace": "apps", "serviceName": "opa", "servicePort": 8181, "policy": "example1", "timeout": "1.5s"})
    }

    #[test]
    fn the_agent_is_asked_once_with_all_there_is() {
        let host = FakeHost::answering(|_| Ok(answer(200, &[], "{\"result\": true}")));
        let plugin = built_with(&SPEC, &config(), None, host.clone());
        let headers = [("host", "a.com"), ("content-length", "2"), ("x-a", "1")];
        assert!(Exchange::new("POST", "/p?a=1&a=2", &headers).with_body("hi").run(&plugin).is_none());
        let calls = host.calls.lock();
        assert_eq!(calls.len(), 1);
        assert_eq!(calls[0].to, Destination::Service { host: "opa.apps.svc.cluster.local".into(), port: Some(8181) });
        assert_eq!(
            (calls[0].head.uri.path(), calls[0].timeout),
            ("/v1/data/example1/allow", Duration::from_millis(1500))
        );
        let body: Value = serde_json::from_slice(&calls[0].body).unwrap();
        let expected = json!({"method": "POST", "scheme": "http", "path": "/p?a=1&a=2", "query": {"a": ["1", "2"]}, "body": "aGk=",
            "headers": [[":authority", "a.com"], [":path", "/p?a=1&a=2"], [":method", "POST"], [":scheme", "http"],
                ["content-length", "2"], ["x-a", "1"]]});
        assert_eq!(body, json!({"input": {"request": expected}}));
    }

    #[test]
    fn everything_but_a_plain_yes_refuses() {
        for (status, body, expected) in [
            (200, "{\"result\": true}", None),
            (200, "{\"result\": false}", Some((401, "opa.server_not_allowed", "opa server not allowed"))),
            (200, "{\"result\": \"yes\"}", Some((500, "opa.conversion_fail", "rsp type conversion fail"))),
            (200, "{}", Some((500, "opa.conversion_fail", "rsp type conversion fail"))),
            (200, "[]", Some((500, "opa.bad_response_body", "opa parse rsp fail"))),
            (404, "{}", Some((404, "opa.status_ne_200", "opa state not is 200"))),
            (0, "", Some((502, "opa.status_ne_200", "opa state not is 200"))),
        ] {
            let host =
                FakeHost::answering(
                    move |_| if status == 0 { Err("down".into()) } else { Ok(answer(status, &[], body)) },
                );
            let plugin = built_with(&SPEC, &config(), None, host);
            let reply = Exchange::new("GET", "/", &[]).run(&plugin);
            match (&reply, expected) {
                (None, None) => {}
                (Some(reply), Some((status, details, text))) => {
                    assert_eq!((reply.status, reply.details.as_str()), (status, details));
                    assert!(reply.body.starts_with(text.as_bytes()), "{reply:?}");
                }
                _ => panic!("{status} {body}: {reply:?}"),
            }
        }
    }

    #[test]
    fn sources_name_services() {
        for (more, expected) in [
            (json!({"serviceSource": "ip", "host": "1.2.3.4"}), Some("opa.static")),
            (json!({"serviceSource": "dns", "domain": "opa.com"}), Some("opa.dns")),
            (json!({"serviceSource": "nacos"}), Some("opa.DEFAULT-GROUP.apps.nacos")),
            (json!({"serviceSource": "route", "serviceName": null}), None),
        ] {
            let mut config = config();
            config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
            let scope = Scope { global: Some(&config), rule: None, n_rules: 0 };
            let (read, problems) = Config::read(&scope);
            assert_eq!(problems, []);
            assert_eq!(read.unwrap().service.map(|(host, _)| host).as_deref(), expected);
        }
    }

    #[test]
    fn problems_name_their_field() {
        let wrong = json!({"serviceSource": "k8s", "timeout": "5 parsecs", "x": 1});
        assert_eq!(problem_fields(&SPEC, &wrong), ["policy", "timeout", "namespace", "x"]);
        let wrong = json!({"serviceSource": "ip", "timeout": "5s", "policy": "a", "serviceName": "b"});
        assert_eq!(problem_fields(&SPEC, &wrong), ["servicePort"]);
    }
}

//! `sni-misdirect`: refuses an HTTP/2 request over TLS whose host is not the one the handshake asked for. AUTHN phase,
//! priority 1000.
//!
//! Browsers reuse a connection for every host its certificate covers; 421 makes them open one with the right server name.
//! HTTP/1, plain text, gRPC and handshakes without a server name pass. A wildcard server name (`*.example.com`) takes every
//! host that contains the rest.
//!
//! Differences from Higress: names are compared without regard to case.

use std::sync::Arc;

use async_trait::async_trait;
use http::Version;

use crate::config::model::Phase;
use crate::plugins::config::{FieldProblem, Fields, is_usable};
use crate::plugins::registry::{BuildResult, PluginSpec, Scope};
use crate::plugins::rules::Family;
use crate::plugins::{Flow, Host, Plugin, Reply, Request};

pub const SPEC: PluginSpec = PluginSpec {
    name: "sni-misdirect",
    phase: Phase::Authn,
    priority: 1000,
    family: Family::Cpp,
    summary: "Refuses HTTP/2 requests for another host than the TLS handshake named",
    build,
    check,
};

struct SniMisdirect;

/// There is nothing to configure.
fn check(scope: &Scope<'_>) -> Vec<FieldProblem> {
    Fields::of(&scope.alone(), "").finish()
}

fn build(scope: &Scope<'_>, _host: &Arc<dyn Host>) -> BuildResult {
    let problems = check(scope);
    if is_usable(&problems) { Ok(Some(Arc::new(SniMisdirect))) } else { Err(problems) }
}

#[async_trait]
impl Plugin for SniMisdirect {
    async fn on_request_headers(&self, request: &mut Request<'_>) -> Flow {
        let is_checked = request.state.is_tls && request.head.version == Version::HTTP_2 && !is_grpc(request);
        match request.state.server_name.as_deref() {
            Some(name) if is_checked && is_misdirected(name, &request.state.host) => {
                Flow::respond(Reply::new(421, "Misdirected Request"))
            }
            _ => Flow::Continue,
        }
    }
}

fn is_grpc(request: &Request<'_>) -> bool {
    request.content_type().is_some_and(|kind| kind == "application/grpc" || kind.starts_with("application/grpc+"))
}

fn is_misdirected(server_name: &str, host: &str) -> bool {
    if server_name.is_empty() || host.is_empty() || server_name.eq_ignore_ascii_case(host) {
        return false;
    }
    match server_name.strip_prefix('*').filter(|rest| rest.starts_with('.')) {
        Some(suffix) => !host.to_ascii_lowercase().contains(&suffix.to_ascii_lowercase()),
        None => true,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::plugins::testing::{Exchange, built, problem_fields};

    #[test]
    fn only_http2_over_tls_for_another_host_is_refused() {
        let plugin = built(&SPEC, &json!({}));
        for (version, is_tls, content_type, server_name, host, expected) in [
            (Version::HTTP_2, true, "text/plain", Some("a.com"), "b.com", 421),
            (Version::HTTP_2, true, "text/plain", Some("a.com"), "a.com", 200),
            (Version::HTTP_2, true, "text/plain", Some("A.com"), "a.com", 200),
            (Version::HTTP_2, true, "text/plain", Some("*.a.com"), "b.a.com", 200),
            (Version::HTTP_2, true, "text/plain", Some("*.a.com"), "b.com", 421),
            (Version::HTTP_2, true, "text/plain", None, "b.com", 200),
            (Version::HTTP_11, true, "text/plain", Some("a.com"), "b.com", 200),
            (Version::HTTP_2, false, "text/plain", Some("a.com"), "b.com", 200),
            (Version::HTTP_2, true, "application/grpc", Some("a.com"), "b.com", 200),
            (Version::HTTP_2, true, "application/grpc+proto", Some("a.com"), "b.com", 200),
            (Version::HTTP_2, true, "application/grpc-web", Some("a.com"), "b.com", 421),
        ] {
            let mut exchange = Exchange::new("GET", "/", &[("content-type", content_type)]);
            exchange.head.set_version(version);
            exchange.state.is_tls = is_tls;
            exchange.state.server_name = server_name.map(Arc::from);
            exchange.state.host = host.to_owned();
            let reply = exchange.run(&plugin);
            let case = format!("{version:?} {is_tls} {content_type} {server_name:?} {host}");
            assert_eq!(reply.as_ref().map_or(200, |reply| reply.status), expected, "{case}");
            assert!(reply.is_none_or(|reply| reply.body.is_empty() && reply.details == "Misdirected Request"));
        }
    }

    #[test]
    fn problems_name_their_field() {
        assert_eq!(problem_fields(&SPEC, &json!({"hosts": []})), ["hosts"]);
    }
}

//! `ip-restriction`: lets addresses in, or keeps them out. AUTHN phase, priority 210.
//!
//! The details begin with `key-auth.`, as they do in Higress.
//!
//! Differences from Higress: an address that cannot be read has the details `empty_ip`, not `get_ip_failed`; without `allow` and
//! `deny` nothing is restricted (there that is a configuration error).

use std::net::IpAddr;
use std::sync::Arc;

use async_trait::async_trait;
use ipnet::IpNet;
use serde_json::json;

use crate::config::model::Phase;
use crate::plugins::address::{self, AddressSource, NoAddress};
use crate::plugins::config::{FieldProblem, Fields, is_usable};
use crate::plugins::registry::{BuildResult, PluginSpec, Scope};
use crate::plugins::rules::Family;
use crate::plugins::values;
use crate::plugins::{Flow, Host, Plugin, Reply, Request};

pub const SPEC: PluginSpec = PluginSpec {
    name: "ip-restriction",
    phase: Phase::Authn,
    priority: 210,
    family: Family::Go,
    summary: "Allow or deny lists of client addresses",
    build,
    check: |scope| Config::read(scope).1,
};

struct Config {
    source: AddressSource,
    lists: Lists,
    status: u16,
    message: String,
}

enum Lists {
    Allow(Vec<IpNet>),
    Deny(Vec<IpNet>),
    /// Nothing is restricted.
    None,
}

impl Config {
    fn read(scope: &Scope<'_>) -> (Config, Vec<FieldProblem>) {
        let value = scope.alone();
        let mut fields = Fields::of(&value, "");
        let source = AddressSource::read(&mut fields);
        let allow = address::networks(&mut fields, "allow").filter(|list| !list.is_empty());
        let deny = address::networks(&mut fields, "deny").filter(|list| !list.is_empty());
        if allow.is_none() && deny.is_none() && (fields.is_null("allow") || fields.is_empty("allow")) {
            let message = "has no element, and without one nothing is restricted; leave it out, or write who may pass";
            fields.problem("allow", message);
        }
        if allow.is_some() && deny.is_some() {
            fields.problem("deny", "cannot be combined with allow; an allow list already denies all others");
        }
        let lists = match (allow, deny) {
            (Some(allow), _) => Lists::Allow(allow),
            (None, Some(deny)) => Lists::Deny(deny),
            (None, None) => Lists::None,
        };
        let status = values::status(&mut fields, "status", 403);
        let message = fields.string("message").filter(|text| !text.is_empty()).unwrap_or("Your IP address is blocked.");
        (Config { source, lists, status, message: message.to_owned() }, fields.finish())
    }
}

struct IpRestriction {
    config: Config,
}

fn build(scope: &Scope<'_>, _host: &Arc<dyn Host>) -> BuildResult {
    let (config, problems) = Config::read(scope);
    if !is_usable(&problems) {
        return Err(problems);
    }
    let is_active = !matches!(config.lists, Lists::None);
    Ok(is_active.then(|| Arc::new(IpRestriction { config }) as Arc<dyn Plugin>))
}

#[async_trait]
impl Plugin for IpRestriction {
    async fn on_request_headers(&self, request: &mut Request<'_>) -> Flow {
        match self.config.refusal(self.config.source.of(request)) {
            None => Flow::Continue,
            Some(details) => {
                let body = json!({"message": self.config.message}).to_string();
                Flow::respond(Reply::new(self.config.status, details).text(body))
            }
        }
    }
}

impl Config {
    /// Why this address may not pass.
    fn refusal(&self, address: Result<IpAddr, NoAddress>) -> Option<&'static str> {
        let address = match address {
            Ok(address) => address,
            Err(NoAddress::Missing) => return Some("key-auth.get_ip_failed"),
            Err(NoAddress::Invalid) => return Some("key-auth.empty_ip"),
        };
        let is_in = |list: &[IpNet]| list.iter().any(|network| network.contains(&address));
        match &self.lists {
            Lists::Allow(allow) if !is_in(allow) => Some("key-auth.ip_not_allowed"),
            Lists::Deny(deny) if is_in(deny) => Some("key-auth.ip_denied"),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::plugins::testing::{Exchange, built, problem_fields};

    /// Details of the refusal, if any.
    fn refused(config: &Value, connection: &str, headers: &[(&'static str, &str)]) -> Option<String> {
        let mut exchange = Exchange::new("GET", "/", headers);
        exchange.state.client_ip = Some(connection.parse().unwrap());
        exchange.run(&built(&SPEC, config)).map(|reply| reply.details)
    }

    #[test]
    fn lists_decide_by_the_chosen_address() {
        let by_header =
            json!({"ip_source_type": "header", "ip_header_name": "x-real-ip", "allow": ["192.168.0.1/16", "10.0.0.1"]});
        let denied = json!({"deny": ["127.0.0.0/8", "2001:db8::/32"]});
        let not_allowed = Some("key-auth.ip_not_allowed");
        for (config, connection, headers, expected) in [
            (&by_header, "127.0.0.1", &[("x-real-ip", "10.0.0.1")][..], None),
            (&by_header, "127.0.0.1", &[("x-real-ip", "10.0.0.2")], not_allowed),
            (&by_header, "127.0.0.1", &[("x-real-ip", "192.168.5.0, 1.1.1.1")], None),
            (&by_header, "127.0.0.1", &[("x-real-ip", "192.169.5.0")], not_allowed),
            (&by_header, "127.0.0.1", &[("x-real-ip", "me")], Some("key-auth.empty_ip")),
            (&by_header, "10.0.0.1", &[], Some("key-auth.get_ip_failed")),
            (&denied, "127.0.0.1", &[], Some("key-auth.ip_denied")),
            (&denied, "2001:db8::7", &[], Some("key-auth.ip_denied")),
            (&denied, "::ffff:127.0.0.1", &[], Some("key-auth.ip_denied")),
            (&denied, "10.0.0.1", &[("x-forwarded-for", "127.0.0.1")], None),
        ] {
            assert_eq!(refused(config, connection, headers).as_deref(), expected, "{config} {connection} {headers:?}");
        }
    }

    #[test]
    fn the_refusal_is_told_as_configured() {
        let plugin = built(&SPEC, &json!({"deny": ["127.0.0.1"], "status": 451, "message": "not here"}));
        let mut exchange = Exchange::new("GET", "/", &[]);
        exchange.state.client_ip = Some("127.0.0.1".parse().unwrap());
        let reply = exchange.run(&plugin).unwrap();
        assert_eq!((reply.status, reply.body.as_ref()), (451, br#"{"message":"not here"}"#.as_ref()));
    }

    #[test]
    fn problems_name_their_field() {
        let config =
            json!({"allow": ["10.0.0.1", "x"], "deny": ["1.1.1.1"], "ip_source_type": "guess", "status": 1, "more": 1});
        assert_eq!(problem_fields(&SPEC, &config), ["ip_source_type", "allow[1]", "deny", "status", "more"]);
    }
}

//! One whole configuration, running: routes, upstreams, plugin chain, certificates.
//!
//! Built from the checked model without touching the network or spawning anything, then swapped in at once. A request
//! holds the snapshot it started with.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use nix::ifaddrs::getifaddrs;
use nix::sys::socket::SockaddrStorage;

use super::chain::{BuiltRule, Chain, ChainEntry};
use super::client_identity::ClientIdentity;
use super::cluster::Clusters;
use super::resolve::Resolver;
use super::route::RouteTable;
use super::span::Tracer;
use super::tls::{ByHost, Certificates};
use super::upstream::{Upstream, UpstreamTimeouts, Variant, tls_policies};
use crate::config::model::{
    self, Endpoints, Gateway, GatewaySettings, Gzip, OutlierDetection, PluginUse, Service, ServicePort, UpstreamPolicy,
};
use crate::config::{Problem, Settings, Severity};
use crate::plugins::config::is_usable;
use crate::plugins::registry::{self, Scope};
use crate::plugins::rules::Family;
use crate::plugins::unavailable::{Unavailable, closes};
use crate::plugins::{Host, Plugin};

/// Request limits that apply to every route.
#[derive(Debug, Clone)]
pub struct Limits {
    pub max_body_bytes: usize,
    pub max_header_bytes: usize,
    pub timeouts: UpstreamTimeouts,
    /// For a whole head, and between two reads of a request's body.
    pub client_read_timeout: Duration,
    /// Client connection without a request.
    pub client_idle: Duration,
    pub verify_tls: bool,
    /// For services whose policy does not say.
    pub outlier: OutlierDetection,
    /// This gateway's own admin port, which no route leads to.
    pub admin: Option<SocketAddr>,
}

impl Limits {
    /// `config.toml`, overridden by what the ConfigMap `higress-config` says.
    fn merge(settings: &Settings, gateway: &GatewaySettings) -> Limits {
        let own = &settings.timeouts;
        let idle = || Duration::from_secs(own.upstream_idle_secs);
        Limits {
            max_body_bytes: settings.limits.max_body_bytes,
            max_header_bytes: gateway.max_request_header_bytes.unwrap_or(settings.limits.max_header_bytes),
            timeouts: UpstreamTimeouts {
                connect: Duration::from_millis(own.connect_ms),
                first_byte: Duration::from_secs(own.first_byte_secs),
                between_reads: Duration::from_secs(own.stream_idle_secs),
                // As in Higress, zero switches the limit off.
                idle: Some(gateway.upstream_idle_timeout.unwrap_or_else(idle)).filter(|idle| !idle.is_zero()),
            },
            client_read_timeout: Duration::from_secs(own.request_read_secs),
            client_idle: gateway.downstream_idle_timeout.unwrap_or_else(|| Duration::from_secs(own.client_idle_secs)),
            verify_tls: settings.limits.verify_upstream_tls,
            outlier: outlier_detection(settings),
            admin: Some(SocketAddr::new(settings.listen.admin_bind, settings.listen.admin_port))
                .filter(|at| at.port() != 0),
        }
    }

    /// Whether an address is the admin port's.
    pub fn is_admin(&self, address: SocketAddr) -> bool {
        self.admin.is_some_and(|admin| leads_to(admin, address))
    }
}

/// The services that lead to this process' own admin port.
pub fn at_admin<'g>(settings: &Settings, gateway: &'g Gateway) -> impl Iterator<Item = &'g Service> {
    let limits = Limits::merge(settings, &gateway.settings);
    gateway.services.values().filter(move |service| {
        let mut ports = service.ports.iter();
        ports.any(|port| matches!(&port.endpoints, Endpoints::Static(at) if at.iter().any(|at| limits.is_admin(*at))))
    })
}

/// A warning for each of them.
pub fn services_at_admin(settings: &Settings, gateway: &Gateway) -> Vec<Problem> {
    let told = |service: &Service| {
        let message = format!(
            "the service `{}` leads to this gateway's own admin port, where nothing is sent; routes to it answer 503",
            service.host
        );
        Problem { severity: Severity::Warning, ..Problem::error(&service.origin, "spec", message) }
    };
    at_admin(settings, gateway).map(told).collect()
}

/// Whether who connects to `address` comes to what listens at `own`.
pub fn leads_to(own: SocketAddr, address: SocketAddr) -> bool {
    if own.port() != address.port() {
        return false;
    }
    let (own_ip, ip) = (own.ip(), address.ip().to_canonical());
    let is_same = own_ip == ip || ip.is_unspecified();
    is_same || (ip.is_loopback() && own_ip.is_loopback()) || (own_ip.is_unspecified() && is_of_this_machine(ip))
}

fn is_of_this_machine(ip: IpAddr) -> bool {
    let has = |address: &SockaddrStorage| match ip {
        IpAddr::V4(ip) => address.as_sockaddr_in().is_some_and(|own| own.ip() == ip),
        IpAddr::V6(ip) => address.as_sockaddr_in6().is_some_and(|own| own.ip() == ip),
    };
    let mut interfaces = getifaddrs().into_iter().flatten();
    ip.is_loopback() || interfaces.any(|interface| interface.address.as_ref().is_some_and(has))
}

/// The interval of Envoy and Istio: after so long without a failure the next ejection is shorter again.
const OUTLIER_INTERVAL: Duration = Duration::from_secs(10);

fn outlier_detection(settings: &Settings) -> OutlierDetection {
    let own = &settings.outlier_detection;
    let base_ejection = Duration::from_secs(own.base_ejection_secs);
    OutlierDetection {
        consecutive_gateway_errors: own.consecutive_gateway_errors,
        consecutive_5xx_errors: own.consecutive_5xx_errors,
        interval: OUTLIER_INTERVAL,
        base_ejection,
        max_ejection: base_ejection.max(Duration::from_secs(own.max_ejection_secs)),
        max_ejection_percent: own.max_ejection_percent,
    }
}

pub struct Snapshot {
    /// Counts applied snapshots of this process, from 1.
    pub number: u64,
    pub routes: RouteTable,
    pub chain: Chain,
    pub certificates: Certificates,
    /// Where TLS connections go as they are.
    pub passthrough: ByHost<Arc<Upstream>>,
    pub settings: GatewaySettings,
    /// That of `settings`, shared with every answer that may be compressed.
    pub gzip: Option<Arc<Gzip>>,
    pub limits: Limits,
    /// `None`: nobody collects traces.
    pub tracer: Option<Tracer>,
    /// Whether errors of any route lead to another, see [`Reentry`](model::Reentry).
    pub has_reentries: bool,
    /// Faults that only building showed; what the compiler found is not among them.
    pub problems: Vec<Problem>,
    /// By service host; the ports of one service in ascending order.
    upstreams: HashMap<String, Vec<Arc<Upstream>>>,
}

impl Snapshot {
    /// Serves nothing; what runs before the first configuration.
    pub fn empty(settings: &Settings) -> Snapshot {
        let gateway = GatewaySettings::default();
        Snapshot {
            number: 0,
            routes: RouteTable::default(),
            chain: Chain::default(),
            certificates: Certificates::default(),
            passthrough: ByHost::default(),
            limits: Limits::merge(settings, &gateway),
            tracer: Tracer::new(settings, &gateway),
            has_reentries: false,
            gzip: None,
            settings: gateway,
            upstreams: HashMap::new(),
            problems: Vec::new(),
        }
    }

    /// Builds the running form of `gateway`. Counters that must survive a reload are taken over from `before`. With an error
    /// among its problems it must not go live.
    pub fn build(
        gateway: &Gateway,
        certificates: Certificates,
        settings: &Settings,
        host: &Arc<dyn Host>,
        resolver: &Resolver,
        clusters: &Clusters,
        before: &Snapshot,
    ) -> Snapshot {
        let limits = Limits::merge(settings, &gateway.settings);
        let mut problems = Vec::new();
        let entries = gateway.plugins.iter().map(|plugin| build_entry(plugin, host, &mut problems)).collect();
        problems.extend(services_at_admin(settings, gateway));
        let problems = RefCell::new(problems);
        let live = |service: &Service, port: &ServicePort, tls: Option<bool>, policy: Option<&UpstreamPolicy>| {
            let identity = tls_policies(policy, service, port).find_map(|tls| tls.identity.as_ref());
            let identity = identity.map(ClientIdentity::load).transpose();
            // Without its certificate or its authorities the service would be spoken to in another way than was asked for.
            let identity = identity.map_err(|problem| problems.borrow_mut().push(*problem)).ok()?;
            let variant = Variant { tls, policy, identity };
            Some(Arc::new(Upstream::new(service, port, variant, &limits, resolver, clusters)))
        };
        let mut upstreams: HashMap<String, Vec<Arc<Upstream>>> = HashMap::new();
        for service in gateway.services.values() {
            for port in &service.ports {
                upstreams.entry(service.host.clone()).or_default().extend(live(service, port, None, None));
            }
        }
        // Routes that speak to a service in the same way share its connections, counts and turns.
        let variants: RefCell<HashMap<String, Arc<Upstream>>> = RefCell::default();
        let find = |destination: &model::Destination| {
            let service = gateway.services.get(&destination.service)?;
            let port = service.port(destination.port)?;
            let model::Destination { tls, policy, .. } = destination;
            if tls.is_none() && *policy == UpstreamPolicy::default() {
                return upstreams.get(&service.host)?.iter().find(|upstream| upstream.port == port.number).cloned();
            }
            let key = format!("{} {} {tls:?} {policy:?}", service.host, port.number);
            if let Some(known) = variants.borrow().get(&key) {
                return Some(known.clone());
            }
            let upstream = live(service, port, *tls, Some(policy))?;
            variants.borrow_mut().insert(key, upstream.clone());
            Some(upstream)
        };
        let routes = RouteTable::build(gateway, &before.routes, find);
        let passthrough =
            gateway.passthrough.iter().filter_map(|(host, to)| Some((host.as_str(), find(to)?))).collect();
        Snapshot {
            number: before.number + 1,
            routes,
            chain: Chain::new(entries),
            certificates,
            passthrough,
            settings: gateway.settings.clone(),
            gzip: gateway.settings.gzip.clone().map(Arc::new),
            tracer: Tracer::new(settings, &gateway.settings),
            has_reentries: gateway.routes.iter().any(|route| route.reentry.is_some()),
            limits,
            upstreams,
            problems: problems.take(),
        }
    }

    /// Each port of each service, as it is spoken to where no route says otherwise.
    pub fn upstreams(&self) -> impl Iterator<Item = &Arc<Upstream>> {
        self.upstreams.values().flatten()
    }

    /// The upstream of a model provider, named by its service host or, as the Higress console names providers, by an id `P`
    /// whose service is `llm-P.internal.dns` or `llm-P.internal.static`.
    pub fn provider_service(&self, name: &str) -> Option<&Arc<Upstream>> {
        self.upstream(name, None)
            .or_else(|| self.upstream(&format!("llm-{name}.internal.dns"), None))
            .or_else(|| self.upstream(&format!("llm-{name}.internal.static"), None))
    }

    /// The upstream of a service by name, on its only port or the given one.
    pub fn upstream(&self, service: &str, port: Option<u16>) -> Option<&Arc<Upstream>> {
        let ports = self.upstreams.get(service)?;
        match port {
            Some(port) => ports.iter().find(|upstream| upstream.port == port),
            None => ports.first(),
        }
    }
}

/// One object of the chain. Where it does not work, requests get a 503 or pass without it, as the object says.
///
/// `problems` are faults that only building shows, such as a file that is missing; the compiler has reported the others.
fn build_entry(plugin: &PluginUse, host: &Arc<dyn Host>, problems: &mut Vec<Problem>) -> ChainEntry {
    let spec = registry::find(&plugin.plugin);
    let global = plugin.global.as_ref();
    let mut build = |rule: Option<&serde_json::Value>, at: &str| {
        let scope = Scope { global, rule, n_rules: plugin.rules.len() };
        let unavailable = |is_wrong: bool| {
            closes(plugin, rule, is_wrong).then(|| {
                let unavailable = Unavailable::new(plugin.object.to_string(), &scope.overlaid());
                Arc::new(unavailable) as Arc<dyn Plugin>
            })
        };
        let Some(spec) = spec else { return unavailable(true) };
        if spec.is_switched_off(&scope) {
            return None;
        }
        let found = match (spec.build)(&scope, host) {
            Ok(built) => {
                built.iter().for_each(|built| built.placed(&format!("{}.{at}", plugin.object)));
                return built;
            }
            Err(found) => found,
        };
        let is_wrong = found.iter().any(|problem| problem.severity == Severity::Error);
        if is_usable(&(spec.check)(&scope)) {
            let faults = found.into_iter().filter(|problem| problem.severity < Severity::Warning);
            problems.extend(faults.map(|problem| Problem {
                severity: Severity::Outage,
                ..Problem::error(&plugin.object, &format!("{at}.{}", problem.field), problem.message)
            }));
        }
        unavailable(is_wrong)
    };
    let built_global = if global.is_some() { build(None, &plugin.global_path) } else { None };
    let mut rules = Vec::with_capacity(plugin.rules.len());
    for rule in &plugin.rules {
        let built = build(Some(&rule.config), &rule.path);
        rules.push(BuiltRule { rule: rule.clone(), plugin: built });
    }
    let family = spec.map_or(Family::Go, |spec| spec.family);
    ChainEntry { family, object: plugin.object.clone(), global: built_global, rules }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Regression: a gateway whose admin port is open to all was reached at it through a route to the machine's own address.
    #[test]
    fn every_address_of_the_machine_leads_to_what_listens_at_all_of_them() {
        let everywhere: SocketAddr = "0.0.0.0:8081".parse().unwrap();
        let own = getifaddrs().unwrap().filter_map(|interface| {
            let address = interface.address?;
            let v4 = address.as_sockaddr_in().map(|address| IpAddr::from(address.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|address| IpAddr::from(address.ip())))
        });
        let own: Vec<IpAddr> = own.collect();
        assert!(!own.is_empty());
        for ip in own {
            assert!(leads_to(everywhere, SocketAddr::new(ip, 8081)), "{ip}");
            assert!(!leads_to(everywhere, SocketAddr::new(ip, 8082)), "another port");
        }
        let other = "192.0.2.1:8081".parse().unwrap();
        assert!(!leads_to(everywhere, other) && leads_to(other, other));
    }
}

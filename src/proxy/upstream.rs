//! Upstream services as live objects: which address serves the next request, and how to talk to it.
//!
//! Addresses that change while a snapshot serves (DNS, registries) are read from the [`Resolver`]. Connections are pooled
//! by the connector, per peer.

use std::borrow::Cow;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::slice;
use std::sync::Arc;
use std::time::{Duration, Instant};

use pingora_core::protocols::{ALPN, TcpKeepalive};
use pingora_core::upstreams::peer::HttpPeer;
use rustls_pki_types::ServerName;

use super::balance::Balancer;
use super::client_identity::ClientIdentity;
use super::cluster::{Cluster, Clusters, Endpoint, Lease, Limit, Retrying, Visited};
use super::resolve::{DnsName, Reported, Resolver};
use super::snapshot::{Limits, leads_to};
use super::tunnel::Tunnel;
use crate::config::model::{
    ConnectProxy, Endpoints, LoadBalance, Protocol, Service, ServicePort, TlsMode, TlsPolicy, TrafficPolicy,
    UpstreamPolicy,
};

/// Requests that share a connection in HTTP/2, and what of each answer may wait in it to be read, bytes.
const MAX_H2_STREAMS: usize = 100;
const H2_STREAM_WINDOW: u32 = 256 << 10;

/// Time limits towards upstreams.
#[derive(Debug, Clone, Copy)]
pub struct UpstreamTimeouts {
    pub connect: Duration,
    /// From the request's last byte to the response's first.
    pub first_byte: Duration,
    /// Between two reads of a response.
    pub between_reads: Duration,
    /// How long a connection may wait in the pool; `None` sets no limit.
    pub idle: Option<Duration>,
}

/// One port of a service.
pub struct Upstream {
    pub service: Arc<str>,
    pub port: u16,
    endpoints: EndpointSet,
    protocol: Protocol,
    tls: Option<Tls>,
    proxy: Option<(ConnectProxy, Arc<DnsName>)>,
    balancer: Balancer,
    policy: Arc<TrafficPolicy>,
    cluster: Arc<Cluster>,
    /// Of this process: no request is sent there.
    admin: Option<SocketAddr>,
}

/// Why an attempt has nowhere to go.
#[derive(Debug, thiserror::Error)]
pub enum NoPeer {
    #[error("{0}")]
    Missing(String),
    #[error("service {service} is at its limit of {limit}")]
    Full { service: Arc<str>, limit: Limit },
}

/// TLS towards the upstream.
struct Tls {
    sni: Option<String>,
    verify: bool,
    identity: Option<ClientIdentity>,
}

/// How a route wants a service spoken to.
#[derive(Default)]
pub struct Variant<'a> {
    /// Overrides whether the service speaks TLS.
    pub tls: Option<bool>,
    pub policy: Option<&'a UpstreamPolicy>,
    /// That of [`tls_policies`], parsed.
    pub identity: Option<ClientIdentity>,
}

/// What is said of TLS to a service besides whether its registry has it: by the route, and by the service's rule. The first that
/// says something counts.
pub fn tls_policies<'a>(
    policy: Option<&'a UpstreamPolicy>,
    service: &'a Service,
    port: &'a ServicePort,
) -> impl Iterator<Item = &'a TlsPolicy> + Clone {
    let of_rule = match &traffic(service, port).tls {
        Some(TlsMode::On(tls)) => Some(tls),
        Some(TlsMode::Off) | None => None,
    };
    let of_route = policy.and_then(|policy| policy.tls.as_ref().or(policy.tls_of_service.as_ref()));
    of_route.into_iter().chain(of_rule)
}

fn traffic<'a>(service: &'a Service, port: &'a ServicePort) -> &'a TrafficPolicy {
    port.traffic.as_ref().unwrap_or(&service.traffic)
}

enum EndpointSet {
    Static(Vec<SocketAddr>),
    Dns(Vec<Arc<DnsName>>),
    Reported(Reported),
}

impl Upstream {
    pub fn new(
        service: &Service,
        port: &ServicePort,
        variant: Variant<'_>,
        limits: &Limits,
        resolver: &Resolver,
        clusters: &Clusters,
    ) -> Upstream {
        let endpoints = match &port.endpoints {
            Endpoints::Static(addresses) => {
                EndpointSet::Static(addresses.iter().copied().filter(|address| !limits.is_admin(*address)).collect())
            }
            Endpoints::Dns { names, port } => {
                EndpointSet::Dns(names.iter().map(|name| resolver.name(name, *port)).collect())
            }
            Endpoints::Discovered => EndpointSet::Reported(resolver.reported(&service.host, port.number)),
        };
        let proxy = service.proxy.clone().map(|proxy| {
            let name = resolver.name(&proxy.host, proxy.port);
            (proxy, name)
        });
        let Variant { tls, policy, identity } = variant;
        let traffic = traffic(service, port);
        let is_usual = traffic.tls.as_ref().map_or(service.tls.is_some(), |mode| *mode != TlsMode::Off);
        let is_tls = policy.is_some_and(|policy| policy.tls.is_some()) || tls.unwrap_or(is_usual);
        let mut said = tls_policies(policy, service, port);
        let tls = is_tls.then(|| Tls {
            sni: said.clone().find_map(|tls| tls.sni.clone()).or_else(|| service.tls.as_ref()?.sni.clone()),
            verify: said.find_map(|tls| tls.verify).unwrap_or(limits.verify_tls),
            identity,
        });
        let own = policy.and_then(|policy| policy.load_balance.as_ref());
        let load_balance = own.or(traffic.load_balance.as_ref()).cloned().unwrap_or_default();
        let outlier = traffic.outlier.clone().unwrap_or_else(|| limits.outlier.clone());
        Upstream {
            service: Arc::from(service.host.as_str()),
            port: port.number,
            endpoints,
            protocol: policy.and_then(|policy| policy.protocol).unwrap_or(port.protocol),
            tls,
            proxy,
            balancer: Balancer::new(load_balance),
            policy: Arc::new(TrafficPolicy { outlier: Some(outlier), ..traffic.clone() }),
            cluster: clusters.get(&service.host, port.number),
            admin: limits.admin,
        }
    }

    /// Whether an address is known, or may be found by its name.
    pub fn has_endpoints(&self) -> bool {
        match &self.endpoints {
            EndpointSet::Static(addresses) => !addresses.is_empty(),
            EndpointSet::Dns(names) => !names.is_empty(),
            EndpointSet::Reported(addresses) => !addresses.load().is_empty(),
        }
    }

    pub fn load_balance(&self) -> &LoadBalance {
        self.balancer.method()
    }

    /// Spoken to in HTTP/2 and nothing else.
    pub fn is_http2(&self) -> bool {
        self.protocol == Protocol::Http2
    }

    pub fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// The name in TLS, unless it is left to the request.
    fn configured_name(&self, address: SocketAddr) -> Option<String> {
        let tls = self.tls.as_ref()?;
        tls.sni.clone().or_else(|| self.name_of(address))
    }

    /// Where a proxy is to lead to: the name, which it resolves, or an address of the service. Never what a client says.
    fn behind_proxy(&self, name: Option<&str>) -> String {
        match (name, &self.endpoints) {
            (Some(name), _) => format!("{name}:{}", self.port),
            (None, EndpointSet::Static(addresses)) => addresses.first().map(ToString::to_string).unwrap_or_default(),
            (None, EndpointSet::Reported(addresses)) => {
                addresses.load().first().map(ToString::to_string).unwrap_or_default()
            }
            (None, EndpointSet::Dns(_)) => String::new(),
        }
    }

    /// The name whose address this is: each has a certificate of its own.
    fn name_of(&self, address: SocketAddr) -> Option<String> {
        match &self.endpoints {
            EndpointSet::Dns(names) if names.len() > 1 && self.proxy.is_none() => {
                names.iter().find(|name| name.has(address)).map(|name| name.host.clone())
            }
            _ => None,
        }
        .or_else(|| self.dns_authority())
    }

    /// The authority an upstream reached by name expects when nobody sets one: its own name.
    pub fn dns_authority(&self) -> Option<String> {
        match &self.endpoints {
            EndpointSet::Dns(names) => names.first().map(|name| name.host.clone()),
            EndpointSet::Static(_) | EndpointSet::Reported(_) => None,
        }
    }

    pub fn policy(&self) -> &Arc<TrafficPolicy> {
        &self.policy
    }

    pub fn cluster(&self) -> &Arc<Cluster> {
        &self.cluster
    }

    /// A place for a repetition; `None` if the service has enough of them.
    pub fn retry(&self) -> Option<Retrying> {
        self.cluster.retry(&self.policy.limits)
    }

    /// Where connections are made to: the endpoints, or the proxy that leads to them.
    ///
    /// # Errors
    /// A name has no address.
    pub async fn addresses(&self, resolver: &Resolver) -> Result<Cow<'_, [SocketAddr]>, String> {
        match &self.proxy {
            None => self.own_addresses(resolver).await,
            Some((_, name)) => resolver.addresses(slice::from_ref(name)).await.map(Cow::Owned),
        }
    }

    async fn own_addresses(&self, resolver: &Resolver) -> Result<Cow<'_, [SocketAddr]>, String> {
        Ok(match &self.endpoints {
            EndpointSet::Static(addresses) => Cow::Borrowed(addresses),
            EndpointSet::Reported(addresses) => Cow::Owned(addresses.load().to_vec()),
            EndpointSet::Dns(names) => Cow::Owned(resolver.addresses(names).await?),
        })
    }

    fn pick(&self, addresses: &[SocketAddr], key: Option<u64>, visited: &Visited) -> Result<Arc<Endpoint>, NoPeer> {
        let picked = self.cluster.pick(addresses, &self.balancer, key, &self.policy, visited, Instant::now());
        picked.ok_or_else(|| NoPeer::Missing(format!("service {} has no ready endpoint", self.service)))
    }

    /// An address, for what is no attempt at a request.
    ///
    /// # Errors
    /// No endpoint, or no address for the name.
    pub async fn address(&self, resolver: &Resolver) -> Result<SocketAddr, String> {
        let addresses = self.own_addresses(resolver).await?;
        self.pick(&addresses, None, &Visited::default())
            .map(|endpoint| endpoint.address)
            .map_err(|error| error.to_string())
    }

    /// An endpoint for the next attempt, directly and not through a proxy. `key` is what the request is hashed by, see
    /// [`balance::key`](super::balance::key); `visited` are the endpoints that it has been to.
    ///
    /// # Errors
    /// No endpoint, no address for the name, or no room for another request within `patience`.
    pub async fn lease(
        &self,
        resolver: &Resolver,
        key: Option<u64>,
        visited: &Visited,
        patience: Duration,
    ) -> Result<Lease, NoPeer> {
        let addresses = self.own_addresses(resolver).await.map_err(NoPeer::Missing)?;
        self.lease_of(&addresses, key, visited, patience).await
    }

    async fn lease_of(
        &self,
        addresses: &[SocketAddr],
        key: Option<u64>,
        visited: &Visited,
        patience: Duration,
    ) -> Result<Lease, NoPeer> {
        let needs_connection = self.protocol != Protocol::Http2;
        let admitted = self.cluster.admit(&self.policy.limits, needs_connection, patience).await;
        let admitted = admitted.map_err(|limit| NoPeer::Full { service: self.service.clone(), limit })?;
        // Picked only now: the wait may have been long.
        let endpoint = self.pick(addresses, key, visited)?;
        if self.admin.is_some_and(|admin| leads_to(admin, endpoint.address)) {
            return Err(NoPeer::Missing(format!("{} is this gateway's own admin port", endpoint.address)));
        }
        Ok(Lease::new(admitted, endpoint, self.policy.clone()))
    }

    /// The peer for the next attempt. `authority` names the server in TLS when the service does not. The lease is held as
    /// long as the attempt lasts, and told how it went.
    ///
    /// # Errors
    /// As for [`Upstream::lease`].
    pub async fn peer(
        &self,
        authority: &str,
        timeouts: &UpstreamTimeouts,
        resolver: &Resolver,
        key: Option<u64>,
        visited: &Visited,
    ) -> Result<(HttpPeer, Lease), NoPeer> {
        if self.protocol == Protocol::Dubbo {
            let message = format!("service {} speaks dubbo; bind its route to an Http2Rpc", self.service);
            return Err(NoPeer::Missing(message));
        }
        let addresses = self.addresses(resolver).await.map_err(NoPeer::Missing)?;
        let mut lease = self.lease_of(&addresses, key, visited, timeouts.connect).await?;
        lease.is_named_by_client = self.configured_name(lease.address()).is_none();
        Ok((self.peer_at(lease.address(), authority, timeouts), lease))
    }

    /// The peer at one of [`Upstream::addresses`].
    pub fn peer_at(&self, address: SocketAddr, authority: &str, timeouts: &UpstreamTimeouts) -> HttpPeer {
        let configured = self.configured_name(address);
        let tunnel = self.proxy.as_ref().map(|(proxy, _)| Tunnel {
            proxy: address,
            target: self.behind_proxy(configured.as_deref()),
            timeout: proxy.connect_timeout,
        });
        let sni = match &self.tls {
            Some(_) => configured.unwrap_or_else(|| server_name(authority, address)),
            None => String::new(),
        };
        let mut peer = HttpPeer::new(address, self.tls.is_some(), sni);
        if let Some(identity) = self.tls.as_ref().and_then(|tls| tls.identity.as_ref()) {
            peer.client_cert_key = identity.certificate.clone();
            peer.options.ca = identity.authorities.clone();
            // The pool does not tell connections apart by the authorities they were checked against.
            peer.group_key = identity.group;
        }
        if let Some(tunnel) = tunnel {
            // Nor by where a proxy leads them.
            let mut hasher = DefaultHasher::new();
            (peer.group_key, &tunnel.target).hash(&mut hasher);
            peer.group_key = hasher.finish();
            peer.options.custom_l4 = Some(Arc::new(tunnel));
        }
        let options = &mut peer.options;
        options.connection_timeout = Some(timeouts.connect);
        options.total_connection_timeout = Some(timeouts.connect);
        // One limit is all there is for head and body of a plain answer; the exchange path sets each by itself.
        options.read_timeout = Some(timeouts.first_byte.max(timeouts.between_reads));
        options.write_timeout = Some(timeouts.between_reads);
        options.idle_timeout = timeouts.idle;
        let verify = self.tls.as_ref().is_some_and(|tls| tls.verify);
        options.verify_cert = verify;
        options.verify_hostname = verify;
        options.max_h2_streams = MAX_H2_STREAMS;
        // An answer that its client does not read must not take the window of all others.
        options.h2_stream_window_size = Some(H2_STREAM_WINDOW);
        options.h2_connection_window_size = Some(H2_STREAM_WINDOW * u32::try_from(MAX_H2_STREAMS).unwrap_or(1));
        // No HTTP/2 pings: gRPC servers end connections that ping while their streams are silent. A connection that died is found out below.
        options.tcp_keepalive = Some(keepalive(timeouts.between_reads));
        options.alpn = match (self.protocol, self.tls.is_some()) {
            (Protocol::Http2, _) => ALPN::H2,
            (Protocol::Http1 | Protocol::Dubbo, true) => ALPN::H2H1,
            (Protocol::Http1 | Protocol::Dubbo, false) => ALPN::H1,
        };
        peer
    }
}

/// How it is found out that the other end of a silent connection is gone, on either side of the gateway. `unread` is how long
/// the other end may leave what was sent to it; zero sets no limit.
pub fn keepalive(unread: Duration) -> TcpKeepalive {
    #[cfg(not(target_os = "linux"))]
    let _ = unread;
    TcpKeepalive {
        idle: Duration::from_secs(60),
        interval: Duration::from_secs(10),
        count: 6,
        #[cfg(target_os = "linux")]
        user_timeout: unread,
    }
}

/// The host of an authority, or the address where that is no name of a server: then none is sent.
fn server_name(authority: &str, address: SocketAddr) -> String {
    let host = host_only(authority).trim_matches(['[', ']']);
    let is_name = ServerName::try_from(host).is_ok();
    if is_name { host.to_owned() } else { address.ip().to_string() }
}

/// An authority without its port.
pub fn host_only(authority: &str) -> &str {
    if let Some(end) = authority.strip_prefix('[').and_then(|rest| rest.find(']')) {
        return &authority[..end + 2];
    }
    authority.rsplit_once(':').map_or(authority, |(host, _)| host)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_are_cut_from_authorities_of_every_form() {
        for (authority, host) in [
            ("a.com", "a.com"),
            ("a.com:80", "a.com"),
            ("[::1]:8080", "[::1]"),
            ("[::1]", "[::1]"),
            ("10.0.0.1:1", "10.0.0.1"),
        ] {
            assert_eq!(host_only(authority), host);
        }
    }
}

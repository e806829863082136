//! Upstream services as live objects: which address serves the next request, and how to talk to it.
//!
//! Addresses that change while a snapshot serves (DNS, registries) are read from the [`Resolver`]. Connections are pooled
//! by the connector, per peer.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use pingora_core::protocols::{ALPN, TcpKeepalive};
use pingora_core::upstreams::peer::HttpPeer;

use super::resolve::{DnsName, Reported, Resolver};
use super::tunnel::Tunnel;
use crate::config::model::{ConnectProxy, Endpoints, Protocol, Service, ServicePort, UpstreamTls};

/// Time limits towards upstreams.
#[derive(Debug, Clone, Copy)]
pub struct UpstreamTimeouts {
    pub connect: Duration,
    /// From the request's last byte to the response's first.
    pub first_byte: Duration,
    /// Between two reads of a response.
    pub between_reads: Duration,
    /// Pooled connection without use.
    pub idle: Duration,
}

/// One port of a service.
pub struct Upstream {
    pub service: Arc<str>,
    pub port: u16,
    endpoints: EndpointSet,
    protocol: Protocol,
    tls: Option<UpstreamTls>,
    proxy: Option<(ConnectProxy, Arc<DnsName>)>,
    verify_tls: bool,
    next: AtomicUsize,
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
        tls_override: Option<bool>,
        verify_tls: bool,
        resolver: &Resolver,
    ) -> Upstream {
        let endpoints = match &port.endpoints {
            Endpoints::Static(addresses) => EndpointSet::Static(addresses.clone()),
            Endpoints::Dns { names, port } => {
                EndpointSet::Dns(names.iter().map(|name| resolver.name(name, *port)).collect())
            }
            Endpoints::Discovered => EndpointSet::Reported(resolver.reported(&service.host, port.number)),
        };
        let proxy = service.proxy.clone().map(|proxy| {
            let name = resolver.name(&proxy.host, proxy.port);
            (proxy, name)
        });
        let tls = match tls_override {
            Some(false) => None,
            Some(true) => Some(service.tls.clone().unwrap_or(UpstreamTls { sni: None })),
            None => service.tls.clone(),
        };
        Upstream {
            service: Arc::from(service.host.as_str()),
            port: port.number,
            endpoints,
            protocol: port.protocol,
            tls,
            proxy,
            verify_tls,
            next: AtomicUsize::new(0),
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

    pub fn is_tls(&self) -> bool {
        self.tls.is_some()
    }

    /// The authority an upstream reached by name expects when nobody sets one: its own name.
    pub fn dns_authority(&self) -> Option<String> {
        match &self.endpoints {
            EndpointSet::Dns(names) => names.first().map(|name| name.host.clone()),
            EndpointSet::Static(_) | EndpointSet::Reported(_) => None,
        }
    }

    /// The peer for the next attempt, round robin. `authority` names the server in TLS when the service does not.
    ///
    /// # Errors
    /// No endpoint, or no address for the name.
    pub async fn peer(
        &self,
        authority: &str,
        timeouts: &UpstreamTimeouts,
        resolver: &Resolver,
    ) -> Result<HttpPeer, String> {
        if self.protocol == Protocol::Dubbo {
            return Err(format!("service {} speaks dubbo; bind its route to an Http2Rpc", self.service));
        }
        let sni = match &self.tls {
            Some(tls) => {
                tls.sni.clone().or_else(|| self.dns_authority()).unwrap_or_else(|| host_only(authority).to_owned())
            }
            None => String::new(),
        };
        let mut peer = match &self.proxy {
            None => HttpPeer::new(self.address(resolver).await?, self.tls.is_some(), sni),
            Some((proxy, name)) => {
                let address = self.pick(&resolver.addresses(name).await?).ok_or("the proxy has no address")?;
                // The proxy resolves the name; what it is asked for tells its connections apart.
                let target = format!("{sni}:{}", self.port);
                let mut hasher = DefaultHasher::new();
                target.hash(&mut hasher);
                let mut peer = HttpPeer::new(address, self.tls.is_some(), sni);
                peer.group_key = hasher.finish();
                let tunnel = Tunnel { proxy: address, target, timeout: proxy.connect_timeout };
                peer.options.custom_l4 = Some(Arc::new(tunnel));
                peer
            }
        };
        let options = &mut peer.options;
        options.connection_timeout = Some(timeouts.connect);
        options.total_connection_timeout = Some(timeouts.connect);
        options.read_timeout = Some(timeouts.between_reads);
        options.write_timeout = Some(timeouts.between_reads);
        options.idle_timeout = Some(timeouts.idle);
        options.verify_cert = self.verify_tls;
        options.verify_hostname = self.verify_tls;
        options.max_h2_streams = 100;
        // A connection that died silently would swallow every new stream; a ping finds out.
        options.h2_ping_interval = Some(Duration::from_secs(20));
        options.tcp_keepalive = Some(TcpKeepalive {
            idle: Duration::from_secs(60),
            interval: Duration::from_secs(10),
            count: 6,
            #[cfg(target_os = "linux")]
            user_timeout: Duration::from_secs(30),
        });
        options.alpn = match (self.protocol, self.tls.is_some()) {
            (Protocol::Http2, _) => ALPN::H2,
            (Protocol::Http1 | Protocol::Dubbo, true) => ALPN::H2H1,
            (Protocol::Http1 | Protocol::Dubbo, false) => ALPN::H1,
        };
        Ok(peer)
    }

    /// The address for the next attempt, round robin.
    ///
    /// # Errors
    /// No endpoint, or no address for the name.
    pub async fn address(&self, resolver: &Resolver) -> Result<SocketAddr, String> {
        match &self.endpoints {
            EndpointSet::Static(addresses) => self.pick(addresses),
            EndpointSet::Reported(addresses) => self.pick(&addresses.load()),
            EndpointSet::Dns(names) => {
                let turn = self.next.fetch_add(1, Ordering::Relaxed);
                let name = names
                    .get(turn % names.len().max(1))
                    .ok_or_else(|| format!("service {} names no host", self.service))?;
                let addresses = resolver.addresses(name).await?;
                let address = addresses.get(turn / names.len().max(1) % addresses.len().max(1));
                return address.copied().ok_or_else(|| format!("{} has no address", name.host));
            }
        }
        .ok_or_else(|| format!("service {} has no ready endpoint", self.service))
    }

    fn pick(&self, addresses: &[SocketAddr]) -> Option<SocketAddr> {
        let turn = self.next.fetch_add(1, Ordering::Relaxed);
        addresses.get(turn % addresses.len().max(1)).copied()
    }
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

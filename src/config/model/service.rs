//! Services: names that routes and plugins use, and where they listen. Plain data like the rest of the model.

use std::net::SocketAddr;
use std::time::Duration;

use serde::Serialize;

use super::{ObjectRef, TrafficPolicy, is_default};

/// An upstream: a name that routes and plugins use, and where it listens.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Service {
    /// For example `llm-x.internal.dns` or `svc.ns.svc.cluster.local`.
    pub host: String,
    pub origin: ObjectRef,
    /// Not empty, numbers unique.
    pub ports: Vec<ServicePort>,
    pub tls: Option<UpstreamTls>,
    /// Connections are made through this HTTP proxy.
    pub proxy: Option<ConnectProxy>,
    #[serde(skip_serializing_if = "is_default")]
    pub traffic: TrafficPolicy,
}

/// A proxy that is asked for a tunnel with CONNECT.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct ConnectProxy {
    /// Host name or address.
    pub host: String,
    pub port: u16,
    /// For the connection to the proxy and its answer.
    pub connect_timeout: Duration,
}

impl Service {
    /// The port of that number, or the only one if no number is given.
    pub fn port(&self, number: Option<u16>) -> Option<&ServicePort> {
        match number {
            Some(number) => self.ports.iter().find(|port| port.number == number),
            None if self.ports.len() == 1 => self.ports.first(),
            None => None,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ServicePort {
    /// The service's port, as destinations name it; endpoints may listen elsewhere.
    pub number: u16,
    pub name: Option<String>,
    pub protocol: Protocol,
    pub endpoints: Endpoints,
    /// Instead of the service's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub traffic: Option<TrafficPolicy>,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Endpoints {
    /// May be empty: a service without ready endpoints answers 503.
    Static(Vec<SocketAddr>),
    /// All addresses of all names.
    Dns { names: Vec<String>, port: u16 },
    /// What a registry said last. The addresses change without a new compilation, so they are not part of the model.
    Discovered,
}

/// The application protocol spoken to the upstream; TLS is separate.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    Http1,
    /// Also gRPC.
    Http2,
    /// Reached only through an Http2Rpc.
    Dubbo,
}

impl Protocol {
    /// The names registries and instances use, with whether TLS is meant. An empty name is HTTP.
    pub fn parse(name: &str) -> Option<(Protocol, bool)> {
        match name.to_ascii_lowercase().as_str() {
            "" | "http" | "tcp" => Some((Self::Http1, false)),
            "https" => Some((Self::Http1, true)),
            "http2" | "grpc" | "triple" | "tri" => Some((Self::Http2, false)),
            "grpcs" => Some((Self::Http2, true)),
            "dubbo" => Some((Self::Dubbo, false)),
            _ => None,
        }
    }
}

/// TLS towards the upstream. Whether its certificate is verified is a setting of the process.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct UpstreamTls {
    /// `None`: the authority of the request.
    pub sni: Option<String>,
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn a_service_with_one_port_needs_no_number() {
        let port = |number| ServicePort {
            number,
            name: None,
            protocol: Protocol::Http1,
            endpoints: Endpoints::Static(Vec::new()),
            traffic: None,
        };
        let origin = ObjectRef {
            kind: "Service".into(),
            namespace: "a".into(),
            name: "b".into(),
            file: PathBuf::from("b.yaml"),
        };
        let traffic = TrafficPolicy::default();
        let mut service = Service { host: "b".into(), origin, ports: vec![port(80)], tls: None, proxy: None, traffic };
        assert_eq!(service.port(None), Some(&port(80)));
        service.ports.push(port(81));
        assert_eq!(service.port(None), None);
        assert_eq!(service.port(Some(81)), Some(&port(81)));
        assert_eq!(service.port(Some(82)), None);
    }
}

//! Registries that are asked for services while the gateway runs. Plain data like the rest of the model.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::ObjectRef;
use crate::base::secret::Secret;

/// A registry that has to be asked. Its services are known as the type says (`<service>.<datacenter>.consul`).
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Registry {
    /// Unique together with the kind's name.
    pub name: String,
    pub origin: ObjectRef,
    /// Host name or address of the registry.
    pub domain: String,
    pub port: u16,
    pub kind: RegistryKind,
    pub virtual_ports: VirtualPorts,
}

impl Registry {
    /// Type and name, by which a registry is known from one configuration to the next.
    pub fn key(&self) -> String {
        format!("{}/{}", self.kind.name(), self.name)
    }
}

#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum RegistryKind {
    Consul {
        /// As written; part of the services' names even if empty.
        datacenter: String,
        /// Lower case. Services without it are left out.
        tag: Option<String>,
        token: Option<Secret>,
    },
    Nacos {
        api: NacosApi,
        /// What the server knows the namespace by.
        namespace_id: String,
        /// What the services' names have.
        namespace: String,
        groups: Vec<String>,
        refresh: Duration,
        user: Option<(String, Secret)>,
        /// Access key and secret key with which questions are signed (Alibaba's hosted Nacos).
        signer: Option<(String, Secret)>,
    },
    Eureka,
    #[serde(rename = "zookeeper")]
    ZooKeeper {
        /// Where Spring Cloud services are, besides `/services`. Without a slash at the end.
        paths: Vec<String>,
    },
}

impl RegistryKind {
    pub fn name(&self) -> &'static str {
        match self {
            Self::Consul { .. } => "consul",
            Self::Nacos { api: NacosApi::V1, .. } => "nacos",
            Self::Nacos { api: NacosApi::V2, .. } => "nacos2",
            Self::Nacos { api: NacosApi::V3, .. } => "nacos3",
            Self::Eureka => "eureka",
            Self::ZooKeeper { .. } => "zookeeper",
        }
    }
}

/// Version of a Nacos server. Those of version 2 are asked over the open API of version 1, which they still have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum NacosApi {
    V1,
    V2,
    V3,
}

/// Port numbers under which services are known, instead of those their instances listen on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct VirtualPorts {
    pub default: Option<u16>,
    /// By name in the registry.
    pub services: BTreeMap<String, u16>,
}

impl VirtualPorts {
    pub fn of(&self, service: &str) -> Option<u16> {
        self.services.get(service).copied().or(self.default)
    }
}

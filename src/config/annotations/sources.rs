//! `whitelist-source-range` and `blacklist-source-range`: comma lists of addresses and networks (Higress
//! `annotations/ip_access_control.go`). What cannot be read is an error, because leaving it out would open the route.

use std::net::IpAddr;

use ipnet::IpNet;

use super::Annotations;

#[derive(Debug, Default)]
pub(in crate::config) struct Sources {
    pub allowed: Option<Vec<IpNet>>,
    pub denied: Vec<IpNet>,
}

pub(super) fn read(annotations: &Annotations<'_>) -> Sources {
    let list = |key: &str| {
        let (key, text) = annotations.either(key)?;
        if text.trim().is_empty() {
            annotations.warn(&key, "is empty and has no effect");
            return None;
        }
        Some(networks(annotations, &key, text))
    };
    Sources { allowed: list("whitelist-source-range"), denied: list("blacklist-source-range").unwrap_or_default() }
}

fn networks(annotations: &Annotations<'_>, key: &str, text: &str) -> Vec<IpNet> {
    let mut networks = Vec::new();
    for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
        let network = word.parse::<IpNet>().or_else(|_| word.parse::<IpAddr>().map(IpNet::from));
        match network {
            Ok(network) => networks.push(network.trunc()),
            Err(_) if word == "*" => networks.extend([IpNet::V4(Default::default()), IpNet::V6(Default::default())]),
            Err(_) => annotations.error(key, format!("`{word}` is not an IP address or network such as 10.0.0.0/8")),
        }
    }
    networks
}

//! Whose address a rule about addresses means, and the networks it is compared with.
//!
//! Used by plugins that restrict, count or locate by address. A header can be written by anyone the last trusted proxy lets
//! through; that is the configuration's decision, as in Higress.

use std::net::IpAddr;

use ipnet::{IpNet, Ipv4Net};

use super::Request;
use super::config::Fields;

/// Where the client's address is read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AddressSource {
    /// The connection itself.
    Connection,
    /// First element of a header.
    Header(String),
}

/// Why there is no address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NoAddress {
    /// The header is not there.
    Missing,
    /// What is there is not an address.
    Invalid,
}

impl AddressSource {
    /// Reads `ip_source_type` and `ip_header_name`.
    pub fn read(fields: &mut Fields<'_>) -> AddressSource {
        let header = fields.string("ip_header_name").filter(|name| !name.is_empty()).unwrap_or("x-forwarded-for");
        match fields.string("ip_source_type") {
            None | Some("" | "origin-source") => AddressSource::Connection,
            Some("header") => AddressSource::Header(header.to_owned()),
            Some(other) => {
                fields.problem("ip_source_type", format!("must be origin-source or header, found \"{other}\""));
                AddressSource::Connection
            }
        }
    }

    /// The client's address, IPv4 never in its IPv6 form.
    ///
    /// # Errors
    /// There is none.
    pub fn of(&self, request: &Request<'_>) -> Result<IpAddr, NoAddress> {
        match self {
            AddressSource::Connection => request.state.client_ip.map(|ip| ip.to_canonical()).ok_or(NoAddress::Missing),
            AddressSource::Header(name) => {
                let value = request.header(name).ok_or(NoAddress::Missing)?;
                parse(value.split(',').next().unwrap_or(value)).ok_or(NoAddress::Invalid)
            }
        }
    }
}

/// An address that may have a port or brackets.
fn parse(text: &str) -> Option<IpAddr> {
    let text = text.trim();
    let bare = match text.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(rest),
        None if text.contains('.') && text.matches(':').count() == 1 => text.split(':').next().unwrap_or(text),
        None => text,
    };
    bare.parse().ok().map(|ip: IpAddr| ip.to_canonical())
}

/// One address or network as written in a configuration; host bits of a network are ignored.
pub fn network(text: &str) -> Option<IpNet> {
    let text = text.trim();
    let written = text.parse().ok().or_else(|| text.parse().ok().map(|ip: IpAddr| IpNet::from(ip.to_canonical())))?;
    let IpNet::V6(network) = written else { return Some(written) };
    // Clients of version 4 are never seen in the form of version 6.
    let of_v4 = network.prefix_len().checked_sub(MAPPED_BITS).zip(network.addr().to_ipv4_mapped());
    let of_v4 = of_v4.and_then(|(bits, address)| Ipv4Net::new(address, bits).ok());
    Some(of_v4.map_or(written, IpNet::V4))
}

/// Of `::ffff:0:0/96`.
const MAPPED_BITS: u8 = 96;

/// A list of addresses and networks; elements that are neither are named as problems.
pub fn networks(fields: &mut Fields<'_>, key: &'static str) -> Option<Vec<IpNet>> {
    let written = fields.strings(key)?;
    let mut found = Vec::with_capacity(written.len());
    for (index, text) in written.iter().enumerate() {
        match network(text) {
            Some(network) => found.push(network),
            None => {
                let message = format!("must be an IP address or network such as 10.0.0.0/8, found \"{text}\"");
                fields.problem(&format!("{key}[{index}]"), message);
            }
        }
    }
    Some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_are_read_with_ports_brackets_and_mapped_forms() {
        for (text, expected) in [
            ("10.0.0.1", Some("10.0.0.1")),
            (" 10.0.0.1:8080 ", Some("10.0.0.1")),
            ("[2001:db8::1]:443", Some("2001:db8::1")),
            ("2001:db8::1", Some("2001:db8::1")),
            ("::ffff:10.0.0.1", Some("10.0.0.1")),
            ("unknown", None),
            ("", None),
        ] {
            assert_eq!(parse(text).map(|ip| ip.to_string()).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn networks_ignore_host_bits() {
        let net = network("192.168.0.1/16").unwrap();
        assert!(net.contains(&"192.168.5.0".parse::<IpAddr>().unwrap()));
        assert!(!net.contains(&"192.169.5.0".parse::<IpAddr>().unwrap()));
        assert_eq!(network("10.0.0.1").unwrap().to_string(), "10.0.0.1/32");
        assert_eq!(network("10.0.0.300"), None);
    }
}

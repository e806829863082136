//! `geo-ip`: tells the upstream where the client is. AUTHN phase, priority 440.
//!
//! The client's IPv4 address is looked up in a table (`table`) and country, province, city and provider go upstream, percent
//! encoded, in `X-Higress-Geo-*` headers. Addresses of private and reserved networks get the value that Higress' table has for
//! them; an address that is not in the table, or not IPv4, passes without headers.
//!
//! Differences from Higress: the table does not ship with the gateway, because its data has an owner; it is read from
//! `database`, or from `geo-ip.xdb` or `geo-ip.txt` in the data folder if one is there. Headers of these names that the client sent are
//! removed. The Wasm properties `geo-*` do not exist; their readers use the headers.

mod table;

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use async_trait::async_trait;
use http::{HeaderName, HeaderValue};

use self::table::Table;
use crate::config::Severity;
use crate::config::model::Phase;
use crate::plugins::address::AddressSource;
use crate::plugins::config::{FieldProblem, Fields, is_usable};
use crate::plugins::registry::{BuildResult, PluginSpec, Scope};
use crate::plugins::rules::Family;
use crate::plugins::{Flow, Host, Plugin, Request};

pub const SPEC: PluginSpec = PluginSpec {
    name: "geo-ip",
    phase: Phase::Authn,
    priority: 440,
    family: Family::Go,
    summary: "Tells the upstream where the client is",
    build,
    check: |scope| Config::read(scope).1,
};

/// Tables used when the configuration names none, in the data folder; the first there is.
const DEFAULT_TABLES: [&str; 2] = ["geo-ip.xdb", "geo-ip.txt"];

/// In the order of the table's columns.
const HEADERS: [HeaderName; 4] = [
    HeaderName::from_static("x-higress-geo-country"),
    HeaderName::from_static("x-higress-geo-province"),
    HeaderName::from_static("x-higress-geo-city"),
    HeaderName::from_static("x-higress-geo-isp"),
];

/// What all four say of an address that is not on the Internet ("internal address").
const INTERNAL: &str = "内网IP";

struct Config {
    is_ipv4: bool,
    source: AddressSource,
    database: Option<PathBuf>,
}

impl Config {
    fn read(scope: &Scope<'_>) -> (Config, Vec<FieldProblem>) {
        let value = scope.alone();
        let mut fields = Fields::of(&value, "");
        let is_ipv4 = match fields.string("ip_protocol") {
            None | Some("" | "ipv4") => true,
            Some("ipv6") => false,
            Some(other) => {
                fields.problem("ip_protocol", format!("must be ipv4 or ipv6, found \"{other}\""));
                true
            }
        };
        let source = AddressSource::read(&mut fields);
        let database = fields.string("database").filter(|path| !path.is_empty()).map(PathBuf::from);
        (Config { is_ipv4, source, database }, fields.finish())
    }
}

struct GeoIp {
    /// `None`: no address is looked up.
    source: Option<AddressSource>,
    /// `None`: only internal addresses are known.
    table: Option<Table>,
}

fn build(scope: &Scope<'_>, host: &Arc<dyn Host>) -> BuildResult {
    let (config, problems) = Config::read(scope);
    if !is_usable(&problems) {
        return Err(problems);
    }
    // As in Higress, IPv6 is accepted and looked up nowhere.
    if !config.is_ipv4 {
        return Ok(Some(Arc::new(GeoIp { source: None, table: None })));
    }
    let table = load(config.database.as_deref(), host.data_dir())
        .map_err(|message| vec![FieldProblem::error("database", message)])?;
    Ok(Some(Arc::new(GeoIp { source: Some(config.source), table })))
}

/// What building says of the table.
pub fn check_files(scope: &Scope<'_>, data_dir: &Path) -> Vec<FieldProblem> {
    let (config, problems) = Config::read(scope);
    if !is_usable(&problems) || !config.is_ipv4 {
        return Vec::new();
    }
    match load(config.database.as_deref(), data_dir) {
        Ok(Some(_)) => Vec::new(),
        Ok(None) => {
            let message = format!(
                "is not given, and {} is not in the data folder; only internal addresses are known",
                DEFAULT_TABLES.join(" or ")
            );
            vec![FieldProblem { field: "database".to_owned(), message, severity: Severity::Warning }]
        }
        Err(message) => vec![FieldProblem::error("database", message)],
    }
}

fn load(database: Option<&Path>, data_dir: &Path) -> Result<Option<Table>, String> {
    let mut places = DEFAULT_TABLES.iter().map(|name| data_dir.join(name));
    let Some(path) = database.map(Path::to_owned).or_else(|| places.find(|path| path.exists())) else {
        let [xdb, text] = DEFAULT_TABLES;
        tracing::warn!(folder = %data_dir.display(), "geo-ip has no table and knows internal addresses only; put {xdb} or {text} there, or name a table in the field database");
        return Ok(None);
    };
    let bytes = std::fs::read(&path).map_err(|error| format!("{} cannot be read: {error}", path.display()))?;
    if path.extension().is_some_and(|extension| extension == "xdb") {
        return Table::parse_xdb(&bytes).map(Some).map_err(|message| format!("{} {message}", path.display()));
    }
    let (table, n_skipped) = Table::parse(&String::from_utf8_lossy(&bytes));
    if table.is_empty() {
        return Err(format!("{} has no line of the form network|country|province|city|provider", path.display()));
    }
    if n_skipped > 0 {
        tracing::warn!(path = %path.display(), lines = n_skipped, "geo-ip skipped lines it cannot read");
    }
    Ok(Some(table))
}

#[async_trait]
impl Plugin for GeoIp {
    async fn on_request_headers(&self, request: &mut Request<'_>) -> Flow {
        let address = self.source.as_ref().map(|source| source.of(request));
        for name in &HEADERS {
            request.head.remove_header(name);
        }
        let Some(Ok(IpAddr::V4(address))) = address else { return Flow::Continue };
        let place = if is_internal(address) {
            Some([INTERNAL; 4])
        } else {
            self.table.as_ref().and_then(|table| table.find(address))
        };
        for (name, value) in HEADERS.iter().zip(place.into_iter().flatten()) {
            let encoded: String = form_urlencoded::byte_serialize(value.as_bytes()).collect();
            if let Ok(value) = HeaderValue::from_str(&encoded) {
                // The name is a header name already; insertion cannot fail for it.
                let _ = request.head.insert_header(name, value);
            }
        }
        Flow::Continue
    }
}

/// Private and reserved networks.
fn is_internal(address: Ipv4Addr) -> bool {
    let [first, second, third, _] = address.octets();
    matches!(
        (first, second, third),
        (0 | 10 | 127 | 224..=255, _, _)
            | (100, 64..=127, _)
            | (169, 254, _)
            | (172, 16..=31, _)
            | (192, 0, 0 | 2)
            | (192, 88, 99)
            | (192, 168, _)
            | (198, 18 | 19, _)
            | (198, 51, 100)
            | (203, 0, 113)
    )
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::plugins::testing::{Exchange, built, problem_fields};

    fn located(config: &Value, forwarded: &str) -> Vec<(String, String)> {
        let headers = [("x-forwarded-for", forwarded), ("x-higress-geo-city", "claimed")];
        let mut exchange = Exchange::new("GET", "/", &headers);
        assert!(exchange.run(&built(&SPEC, config)).is_none());
        let geo = exchange.head.headers.iter().filter_map(|(name, value)| {
            let name = name.as_str().strip_prefix("x-higress-geo-")?;
            Some((name.to_owned(), value.to_str().unwrap().to_owned()))
        });
        geo.collect()
    }

    #[test]
    fn the_table_is_told_upstream_percent_encoded() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "2.2.0.0/16|法国|Var||橘子电信\n# not a line\n").unwrap();
        let config = json!({"ip_source_type": "header", "database": file.path()});
        let pairs = |values: [&str; 4]| -> Vec<(String, String)> {
            ["country", "province", "city", "isp"].into_iter().zip(values).map(|(k, v)| (k.into(), v.into())).collect()
        };
        assert_eq!(
            located(&config, "2.2.128.100,10.1.1.2"),
            pairs(["%E6%B3%95%E5%9B%BD", "Var", "", "%E6%A9%98%E5%AD%90%E7%94%B5%E4%BF%A1"])
        );
        assert_eq!(located(&config, "10.1.1.2"), pairs(["%E5%86%85%E7%BD%91IP"; 4]));
        for unknown in ["9.9.9.9", "2001:db8::1", "nonsense"] {
            assert_eq!(located(&config, unknown), pairs([""; 4])[..0], "{unknown}");
        }
    }

    #[test]
    fn without_a_table_internal_addresses_are_known() {
        let config = json!({"ip_source_type": "header"});
        assert_eq!(located(&config, "192.168.1.1").len(), 4);
        assert_eq!(located(&config, "8.8.8.8").len(), 0);
    }

    #[test]
    fn with_ipv6_no_address_is_looked_up() {
        for (protocol, n_headers) in [("ipv4", 4), ("ipv6", 0)] {
            let config = json!({"ip_source_type": "header", "ip_protocol": protocol});
            assert_eq!(located(&config, "192.168.1.1").len(), n_headers, "{protocol}");
        }
    }

    #[test]
    fn internal_networks_are_those_of_the_table() {
        for (address, expected) in [
            ("0.1.2.3", true),
            ("100.64.0.1", true),
            ("100.128.0.1", false),
            ("172.31.255.255", true),
            ("172.32.0.0", false),
            ("192.0.2.1", true),
            ("192.0.1.1", false),
            ("198.20.0.1", false),
            ("224.0.0.1", true),
            ("70.155.208.224", false),
        ] {
            assert_eq!(is_internal(address.parse().unwrap()), expected, "{address}");
        }
    }

    #[test]
    fn problems_name_their_field() {
        assert_eq!(problem_fields(&SPEC, &json!({"ip_protocol": "ipx", "file": ""})), ["ip_protocol", "file"]);
        let refused = load(Some(Path::new("/nowhere/table.txt")), Path::new("")).err().unwrap();
        assert!(refused.starts_with("/nowhere/table.txt cannot be read: "), "{refused}");
    }
}

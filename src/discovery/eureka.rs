//! Eureka: all applications in one answer, asked every 30 seconds as its own clients do. `<application>.eureka`.
//!
//! Unlike Higress, instances that are not `UP` get nothing: `OUT_OF_SERVICE` is how Eureka takes one out of traffic.

use std::convert::Infallible;
use std::time::Duration;

use serde_json::Value;

use super::fetch::{self, Ask};
use super::{Fetch, Instance, Listed, Listing};
use crate::config::model::Registry;

const EVERY: Duration = Duration::from_secs(30);

pub(super) async fn follow(
    registry: &Registry,
    fetch: &dyn Fetch,
    publish: &(dyn Fn(Listing) + Send + Sync),
) -> Result<Infallible, String> {
    loop {
        let (_, answer) = fetch::json(fetch, Ask::get(registry, "/eureka/apps")).await?;
        publish(read(&answer));
        tokio::time::sleep(EVERY).await;
    }
}

fn read(answer: &Value) -> Listing {
    let mut listing = Listing::new();
    for application in one_or_many(&answer["applications"]["application"]) {
        let Some(name) = application["name"].as_str().filter(|name| !name.is_empty()) else { continue };
        let instances = one_or_many(&application["instance"]).iter().filter_map(instance).collect();
        listing.insert(format!("{name}.eureka"), Listed { name: name.to_owned(), instances, is_stale: false });
    }
    listing
}

fn instance(instance: &Value) -> Option<Instance> {
    if instance["status"] != "UP" {
        return None;
    }
    let port = match &instance["port"]["$"] {
        Value::String(port) => port.parse().ok()?,
        port => u16::try_from(port.as_u64()?).ok()?,
    };
    let protocol = instance["metadata"]["protocol"].as_str().unwrap_or_default();
    Instance::new(instance["ipAddr"].as_str()?, port, protocol)
}

/// Eureka makes its JSON from XML, where a list of one is the element itself.
fn one_or_many(value: &Value) -> &[Value] {
    match value {
        Value::Array(elements) => elements,
        Value::Null => &[],
        single => std::slice::from_ref(single),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn answers_in_all_their_forms() {
        let up = |ip: &str, port: Value, status: &str| {
            json!({"ipAddr": ip, "status": status, "port": {"$": port, "@enabled": "true"},
            "metadata": {"protocol": "grpc"}})
        };
        let listing = read(&json!({"applications": {"application": [
            {"name": "ORDERS", "instance": [up("10.0.0.1", json!(80), "UP"), up("10.0.0.2", json!("81"), "UP"),
                up("10.0.0.3", json!(80), "OUT_OF_SERVICE"), up("no-address", json!(80), "UP")]},
            {"name": "STOCK", "instance": up("10.0.0.4", json!(80), "DOWN")},
        ]}}));
        let of = |host: &str| listing[host].instances.iter().map(|it| it.address.to_string()).collect::<Vec<_>>();
        assert_eq!(of("ORDERS.eureka"), ["10.0.0.1:80", "10.0.0.2:81"]);
        assert_eq!(of("STOCK.eureka"), Vec::<String>::new());
        assert_eq!(listing["ORDERS.eureka"].instances[0].protocol, "grpc");
        assert_eq!(read(&json!({"applications": {}})), Listing::new());
        let single = read(&json!({"applications": {"application": {"name": "A", "instance": []}}}));
        assert_eq!(single.keys().collect::<Vec<_>>(), ["A.eureka"]);
    }
}

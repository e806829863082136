//! DestinationRule (`networking.istio.io`): how the endpoints of services are treated. Higress writes such objects itself and
//! reads none; here they are read, because their terms are the ones people know. `trafficPolicy.healthCheck` is ours, in the
//! shape that Envoy Gateway gives it: Istio leaves active checks to Kubernetes.

mod tls;

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::time::Duration;

use super::secret::Secrets;
use super::service::host as kubernetes_host;
use super::skip_common;
use crate::config::fields::Fields;
use crate::config::model::{
    CircuitBreakers, HashKey, HealthCheck, LoadBalance, OutlierDetection, Probe, RetryBudget, Service, SlowStart,
    StatusRange, TrafficPolicy,
};
use crate::config::problem::Report;
use crate::config::source::RawObject;

/// What an object says of the services it names.
#[derive(Default)]
struct Rule {
    policy: TrafficPolicy,
    /// By number, instead of that.
    ports: BTreeMap<u16, TrafficPolicy>,
}

/// Gives every service the policy of the rule that names it best: exactly, or with the longest `*.suffix`.
pub(in crate::config) fn apply<'a>(
    objects: impl Iterator<Item = &'a RawObject>,
    secrets: &Secrets,
    services: &mut BTreeMap<String, Service>,
    may_come: bool,
    report: &Report,
) {
    let mut rules: BTreeMap<String, Rule> = BTreeMap::new();
    for object in objects {
        let Some((host, rule)) = read(object, secrets, report) else { continue };
        let report = report.on(&object.origin);
        for number in rule.ports.keys() {
            if services.get(&host).is_some_and(|service| service.port(Some(*number)).is_none()) {
                let field = "spec.trafficPolicy.portLevelSettings";
                report.warn(field, format!("`{host}` has no port {number}, so what is said of it has no effect"));
            }
        }
        let is_known = match host.strip_prefix('*') {
            Some(suffix) => services.keys().any(|service| service.ends_with(suffix)),
            None => services.contains_key(&host),
        };
        if !is_known && !may_come {
            report.warn("spec.host", format!("there is no service `{host}`, so this has no effect"));
        }
        match rules.entry(host) {
            Entry::Vacant(entry) => {
                entry.insert(rule);
            }
            Entry::Occupied(entry) => {
                report.warn("spec.host", format!("`{}` has a rule already, which is used", entry.key()));
            }
        }
    }
    for service in services.values_mut() {
        let by_suffix = || {
            let fits = |host: &str| host.strip_prefix('*').is_some_and(|suffix| service.host.ends_with(suffix));
            let found = rules.iter().filter(|(host, _)| fits(host));
            found.max_by_key(|(host, _)| host.len()).map(|(_, rule)| rule)
        };
        if let Some(rule) = rules.get(&service.host).or_else(by_suffix) {
            service.traffic = rule.policy.clone();
            for port in &mut service.ports {
                port.traffic = rule.ports.get(&port.number).cloned();
            }
        }
    }
}

fn read(object: &RawObject, secrets: &Secrets, report: &Report) -> Option<(String, Rule)> {
    let report = report.on(&object.origin);
    let mut fields = Fields::new(&object.value, "", report);
    skip_common(&mut fields);
    let Some(mut spec) = fields.object("spec") else {
        report.error("spec", "is missing");
        return None;
    };
    let host = spec.required_text("host").map(|host| {
        // As in Istio, a short name is a service of the same namespace.
        let is_short = !host.contains('.') && !host.starts_with('*');
        if is_short { kubernetes_host(host, &object.origin.namespace) } else { host.to_owned() }
    });
    let mut rule = Rule::default();
    if let Some(mut whole) = spec.object("trafficPolicy") {
        for mut entry in whole.objects("portLevelSettings") {
            let number = entry.object("port").and_then(|mut port| {
                let number = port.port("number");
                port.finish();
                number
            });
            if number.is_none() {
                report.error(&entry.path_of("port"), "must have the number of a port");
            }
            let policy = traffic_policy(&mut entry, secrets, &object.origin.namespace);
            entry.finish();
            rule.ports.extend(number.map(|number| (number, policy)));
        }
        rule.policy = traffic_policy(&mut whole, secrets, &object.origin.namespace);
        whole.finish();
    }
    spec.inert(&["exportTo"]);
    if spec.value("subsets").is_some() {
        let hint = "give each version a registry or Service of its own, and weigh those in the destination";
        let message = "have no effect: endpoints have no labels here, so all of them are used";
        report.warn_hint("spec.subsets", message, hint);
    }
    spec.unsupported(&["workloadSelector"]);
    spec.finish();
    fields.finish();
    Some((host?, rule))
}

/// Of a service, or of one of its ports.
fn traffic_policy(fields: &mut Fields<'_>, secrets: &Secrets, namespace: &str) -> TrafficPolicy {
    let mut policy = TrafficPolicy::default();
    if let Some(pool) = fields.object("connectionPool") {
        policy.limits = connection_pool(pool);
    }
    policy.limits.retry_budget = fields.object("retryBudget").map(retry_budget);
    if let Some(outlier) = fields.object("outlierDetection") {
        let (detection, min_health_percent) = outlier_detection(outlier);
        policy.outlier = Some(detection);
        policy.min_health_percent = min_health_percent;
    }
    if let Some(balancer) = fields.object("loadBalancer") {
        (policy.load_balance, policy.slow_start) = load_balancer(balancer);
    }
    policy.health_check = fields.object("healthCheck").and_then(health_check);
    policy.tls = fields.object("tls").and_then(|fields| tls::read(fields, secrets, namespace));
    fields.unsupported(&["tunnel", "proxyProtocol"]);
    policy
}

fn connection_pool(mut pool: Fields<'_>) -> CircuitBreakers {
    let mut limits = CircuitBreakers::default();
    if let Some(mut tcp) = pool.object("tcp") {
        limits.max_connections = limit(&mut tcp, "maxConnections");
        tcp.unsupported(&["connectTimeout", "tcpKeepalive", "maxConnectionDuration", "idleTimeout"]);
        tcp.finish();
    }
    if let Some(mut http) = pool.object("http") {
        limits.max_pending = limit(&mut http, "http1MaxPendingRequests");
        limits.max_requests = limit(&mut http, "http2MaxRequests");
        limits.max_retries = http.integer("maxRetries").filter(|n: &u32| *n < i32::MAX as u32);
        http.unsupported(&[
            "maxRequestsPerConnection",
            "idleTimeout",
            "h2UpgradePolicy",
            "useClientProtocol",
            "maxConcurrentStreams",
        ]);
        http.finish();
    }
    pool.finish();
    limits
}

/// Istio's way to say that there is no limit is a zero or the largest number.
fn limit(fields: &mut Fields<'_>, key: &'static str) -> Option<u32> {
    fields.integer(key).filter(|n: &u32| (1..i32::MAX as u32).contains(n))
}

/// Of whole numbers, as Istio has it there.
fn percent(fields: &mut Fields<'_>, key: &'static str, default: u32) -> u32 {
    let number = fields.integer::<u32>(key).unwrap_or(default);
    if number > 100 {
        fields.report().error(&fields.path_of(key), "must be a percentage between 0 and 100");
    }
    number.min(100)
}

fn fractional_percent(fields: &mut Fields<'_>, key: &'static str, default: f64) -> f64 {
    let Some(value) = fields.value(key) else { return default };
    value.as_f64().filter(|number| (0.0..=100.0).contains(number)).unwrap_or_else(|| {
        fields.report().error(&fields.path_of(key), "must be a percentage between 0 and 100");
        default
    })
}

/// A duration above zero.
fn span(fields: &mut Fields<'_>, key: &'static str, default: Duration) -> Duration {
    let Some(span) = fields.duration(key) else { return default };
    if span.is_zero() {
        fields.report().error(&fields.path_of(key), "must be longer than nothing");
    }
    span
}

fn retry_budget(mut fields: Fields<'_>) -> RetryBudget {
    let budget = RetryBudget {
        percent: fractional_percent(&mut fields, "percent", 20.0),
        min_concurrency: fields.integer("minRetryConcurrency").unwrap_or(3),
    };
    fields.finish();
    budget
}

/// Defaults are those of Istio for an object that is there.
fn outlier_detection(mut fields: Fields<'_>) -> (OutlierDetection, u32) {
    let base_ejection = span(&mut fields, "baseEjectionTime", Duration::from_secs(30));
    let old = fields.integer("consecutiveErrors");
    let detection = OutlierDetection {
        consecutive_gateway_errors: fields.integer("consecutiveGatewayErrors").unwrap_or(0),
        consecutive_5xx_errors: fields.integer("consecutive5xxErrors").or(old).unwrap_or(5),
        interval: span(&mut fields, "interval", Duration::from_secs(10)),
        base_ejection,
        max_ejection: base_ejection.max(Duration::from_secs(300)),
        max_ejection_percent: percent(&mut fields, "maxEjectionPercent", 10),
    };
    let min_health_percent = percent(&mut fields, "minHealthPercent", 0);
    fields.unsupported(&["splitExternalLocalOriginErrors", "consecutiveLocalOriginFailures"]);
    fields.finish();
    (detection, min_health_percent)
}

fn load_balancer(mut fields: Fields<'_>) -> (Option<LoadBalance>, Option<SlowStart>) {
    let written = fields.text("simple");
    let simple = written.and_then(|name| match name {
        "UNSPECIFIED" => None,
        "ROUND_ROBIN" => Some(LoadBalance::RoundRobin),
        "LEAST_REQUEST" | "LEAST_CONN" => Some(LoadBalance::LeastRequest),
        "RANDOM" => Some(LoadBalance::Random),
        other => {
            let message = format!("`{other}` is not a way to balance here; the routes' own is used");
            fields.report().warn_hint(&fields.path_of("simple"), message, "one of ROUND_ROBIN, LEAST_REQUEST, RANDOM");
            None
        }
    });
    let hash = fields.object("consistentHash").and_then(consistent_hash);
    let warmup = fields.object("warmup").map(|mut warmup| {
        let slow_start = SlowStart {
            window: span(&mut warmup, "duration", Duration::from_secs(30)),
            aggression: aggression(&mut warmup),
            min_percent: fractional_percent(&mut warmup, "minimumPercent", 10.0),
        };
        warmup.finish();
        slow_start
    });
    let old = fields.duration("warmupDurationSecs").filter(|window| !window.is_zero());
    let old = old.map(|window| SlowStart { window, aggression: 1.0, min_percent: 10.0 });
    fields.unsupported(&["localityLbSetting"]);
    fields.finish();
    (hash.map(LoadBalance::Hash).or(simple), warmup.or(old))
}

fn aggression(fields: &mut Fields<'_>) -> f64 {
    match fields.value("aggression").map(|value| value.as_f64().filter(|number| *number >= 1.0)) {
        None => 1.0,
        Some(Some(number)) => number,
        Some(None) => {
            fields.report().error(&fields.path_of("aggression"), "must be a number from 1 on");
            1.0
        }
    }
}

fn consistent_hash(mut fields: Fields<'_>) -> Option<HashKey> {
    let header = fields.text("httpHeaderName").map(|name| HashKey::Header(name.to_ascii_lowercase()));
    let query = fields.text("httpQueryParameterName").map(|name| HashKey::Query(name.to_owned()));
    let address = fields.boolean("useSourceIp").filter(|uses| *uses).map(|_| HashKey::SourceAddress);
    let cookie = fields.object("httpCookie").and_then(|mut cookie| {
        let name = cookie.required_text("name").map(str::to_owned);
        let path = cookie.text("path").filter(|path| !path.is_empty()).unwrap_or("/").to_owned();
        let max_age_secs = cookie.duration("ttl").map(|ttl| ttl.as_secs()).filter(|seconds| *seconds > 0);
        cookie.finish();
        Some(HashKey::Cookie { name: name?, path, max_age_secs })
    });
    // One way of hashing serves for all of these: it moves as few keys as the best of them.
    fields.inert(&["ringHash", "maglev", "minimumRingSize"]);
    fields.finish();
    header.or(cookie).or(address).or(query)
}

fn health_check(mut fields: Fields<'_>) -> Option<HealthCheck> {
    let kind = fields.required_text("type");
    let mut http = fields.object("http");
    let probe = match kind? {
        "TCP" => Probe::Tcp,
        "HTTP" => Probe::Http {
            path: http
                .as_mut()
                .and_then(|http| http.text("path"))
                .filter(|path| !path.is_empty())
                .unwrap_or("/")
                .to_owned(),
            host: http.as_mut().and_then(|http| http.text("hostname")).map(str::to_owned),
            expected: http.as_mut().map(expected_statuses).unwrap_or_else(only_ok),
        },
        other => {
            let message = format!("`{other}` is not a kind of check");
            fields.report().error_hint(&fields.path_of("type"), message, "HTTP or TCP");
            return None;
        }
    };
    if let Probe::Http { path, .. } = &probe
        && (!path.starts_with('/') || path.parse::<http::uri::PathAndQuery>().is_err())
    {
        fields.report().error(&format!("{}.http.path", fields.path()), "must be a path that begins with /");
    }
    if let Some(http) = http {
        http.finish();
    }
    let mut threshold = |key: &'static str, default: u32| {
        let number = fields.integer(key).unwrap_or(default);
        if number == 0 {
            fields.report().error(&fields.path_of(key), "must be greater than 0");
        }
        number
    };
    let (healthy_threshold, unhealthy_threshold) =
        (threshold("healthyThreshold", 1), threshold("unhealthyThreshold", 3));
    let check = HealthCheck {
        probe,
        interval: span(&mut fields, "interval", Duration::from_secs(3)),
        timeout: span(&mut fields, "timeout", Duration::from_secs(1)),
        healthy_threshold,
        unhealthy_threshold,
    };
    fields.finish();
    Some(check)
}

fn only_ok() -> Vec<StatusRange> {
    vec![StatusRange { start: 200, end: 200 }]
}

/// `[200, 204]`, or `[{start: 200, end: 399}]` with both ends included.
fn expected_statuses(http: &mut Fields<'_>) -> Vec<StatusRange> {
    let report = http.report();
    let mut ranges = Vec::new();
    for (path, value) in http.list("expectedStatuses") {
        let range = match value.as_u64() {
            Some(only) => u16::try_from(only).ok().map(|only| StatusRange { start: only, end: only }),
            None => {
                let mut range = Fields::new(value, path.as_str(), report);
                let (start, end) = (range.integer("start"), range.integer("end"));
                range.finish();
                start.zip(end).map(|(start, end)| StatusRange { start, end })
            }
        };
        match range.filter(|range| range.start >= 100 && range.start <= range.end && range.end < 600) {
            Some(range) => ranges.push(range),
            None => report.error(&path, "must be a status, or {start, end}, between 100 and 599"),
        }
    }
    if ranges.is_empty() { only_ok() } else { ranges }
}

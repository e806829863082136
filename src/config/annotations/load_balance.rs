//! `load-balance` with `mcp-sse-stateful-param-name`, `upstream-hash-by`, `affinity` with `session-cookie-…`: which endpoint of a service a request goes to
//! (Higress `annotations/loadbalance.go`; `ewma` is that of ingress-nginx). A session cookie counts before a hash, that before
//! a method.

use super::Annotations;
use crate::config::model::{HashKey, LoadBalance};

const COOKIE: &str = "INGRESSCOOKIE";
const COOKIE_PATH: &str = "/";
const SESSION_PARAMETER: &str = "sessionId";

pub(super) fn read(annotations: &Annotations<'_>) -> Option<LoadBalance> {
    let text = |key: &str| annotations.either(key).filter(|(_, text)| !text.trim().is_empty());
    let seconds = |key: &str| annotations.parse(text(key), "a number of seconds", |text| text.parse::<u64>().ok());
    let (affinity, name, path) = (text("affinity"), text("session-cookie-name"), text("session-cookie-path"));
    let (max_age, expires) = (seconds("session-cookie-max-age"), seconds("session-cookie-expires"));
    let hash_by = text("upstream-hash-by");
    let method = text("load-balance");
    let session_parameter = text("mcp-sse-stateful-param-name");
    if affinity.is_some() || name.is_some() || path.is_some() {
        if let Some((key, value)) = affinity.filter(|(_, value)| value.trim() != "cookie") {
            annotations.warn(&key, format!("\"{value}\" is taken as `cookie`, the only affinity there is"));
        }
        let own = |found: Option<(String, &str)>, default: &str| {
            found.map_or_else(|| default.to_owned(), |(_, text)| text.trim().to_owned())
        };
        let name = name.filter(|(key, name)| {
            let is_name = http::HeaderName::from_bytes(name.trim().as_bytes()).is_ok();
            if !is_name {
                annotations.warn(key, format!("\"{name}\" is not the name of a cookie; it is {COOKIE}"));
            }
            is_name
        });
        return Some(LoadBalance::Hash(HashKey::Cookie {
            name: own(name, COOKIE),
            path: own(path, COOKIE_PATH),
            max_age_secs: max_age.or(expires).filter(|seconds| *seconds > 0),
        }));
    }
    let expected = "$request_uri, $host, $remote_addr, $http_<header> or $arg_<parameter>";
    if let Some(key) = annotations.parse(hash_by, expected, hash_key) {
        return Some(LoadBalance::Hash(key));
    }
    if method.as_ref().is_some_and(|(_, text)| text.trim().eq_ignore_ascii_case("mcp-sse")) {
        let parameter = session_parameter.map_or(SESSION_PARAMETER, |(_, name)| name.trim());
        return Some(LoadBalance::McpSession(parameter.to_owned()));
    }
    if let Some((key, _)) = session_parameter {
        annotations.warn(&key, "has no effect without load-balance: mcp-sse");
    }
    let expected = "round_robin, least_conn, least_request, ewma, random or mcp-sse";
    annotations.parse(method, expected, by_name)
}

fn hash_key(text: &str) -> Option<HashKey> {
    match text {
        "$request_uri" => Some(HashKey::Uri),
        "$host" => Some(HashKey::Host),
        "$remote_addr" => Some(HashKey::SourceAddress),
        _ => {
            let header = text.strip_prefix("$http_").filter(|name| !name.is_empty());
            let parameter = text.strip_prefix("$arg_").filter(|name| !name.is_empty());
            // nginx writes a header's dashes as underscores.
            let header = header.map(|name| HashKey::Header(name.to_ascii_lowercase().replace('_', "-")));
            header.or_else(|| parameter.map(|name| HashKey::Query(name.to_owned())))
        }
    }
}

fn by_name(text: &str) -> Option<LoadBalance> {
    match text.to_ascii_lowercase().as_str() {
        "round_robin" => Some(LoadBalance::RoundRobin),
        "least_conn" | "least_request" => Some(LoadBalance::LeastRequest),
        "ewma" => Some(LoadBalance::LeastLatency),
        "random" => Some(LoadBalance::Random),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hash_keys() {
        for (text, expected) in [
            ("$request_uri", Some(HashKey::Uri)),
            ("$http_x_user", Some(HashKey::Header("x-user".into()))),
            ("$http_x-user", Some(HashKey::Header("x-user".into()))),
            ("$arg_Id", Some(HashKey::Query("Id".into()))),
            ("$arg_", None),
            ("$else", None),
            ("x", None),
        ] {
            assert_eq!(hash_key(text), expected, "{text}");
        }
        assert_eq!(by_name("LEAST_CONN"), Some(LoadBalance::LeastRequest));
        assert_eq!(by_name("ewma"), Some(LoadBalance::LeastLatency));
    }
}

//! A line of the access log in the form that the configuration gives (`accessLogFormat`), value by value.

use std::fmt::Write as _;
use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderValue};
use serde_json::Value;

use crate::config::model::{LogFormat, LogPiece, LogValue};
use crate::telemetry::access_log::{AccessLog, Entry};
use crate::telemetry::metrics::Metrics;

/// What stands where there is nothing, as in Envoy.
const NOTHING: &str = "-";

/// What a line can tell beyond the usual fields.
pub struct Facts<'a> {
    pub entry: &'a Entry<'a>,
    pub started: jiff::Timestamp,
    pub request: &'a HeaderMap,
    pub scheme: &'static str,
    pub response: Option<&'a HeaderMap>,
    pub service_port: Option<u16>,
    pub client: Option<IpAddr>,
    pub peer: Option<SocketAddr>,
    pub local: Option<SocketAddr>,
    pub server_name: Option<&'a str>,
}

/// An address of version 4 in its own form, whatever the socket says.
pub fn canonical(address: &SocketAddr) -> SocketAddr {
    SocketAddr::new(address.ip().to_canonical(), address.port())
}

/// Queues the line of a request, in the usual form or the configured one.
pub fn write(log: &AccessLog, format: Option<&LogFormat>, facts: &Facts<'_>, metrics: &Metrics) {
    let is_kept = match format {
        None => log.write(facts.entry),
        Some(format) => log.write_line(line(format, facts)),
    };
    if !is_kept {
        metrics.access_log_shed.inc();
    }
}

/// One line with its end.
fn line(format: &LogFormat, facts: &Facts<'_>) -> Vec<u8> {
    let mut line = String::with_capacity(512);
    for piece in &format.pieces {
        match piece {
            LogPiece::Text(text) => line.push_str(text),
            LogPiece::Value { of, longest } => {
                let value = value(of, facts);
                let value = value.as_deref().filter(|value| !value.is_empty()).unwrap_or(NOTHING);
                let end = longest.and_then(|n| value.char_indices().nth(n)).map_or(value.len(), |(at, _)| at);
                put(&mut line, &value[..end], format.is_json);
            }
        }
    }
    line.push('\n');
    line.into_bytes()
}

/// A value must end neither the line nor, in JSON, the text it stands in.
fn put(line: &mut String, value: &str, is_json: bool) {
    for c in value.chars() {
        match c {
            '"' | '\\' if is_json => line.extend(['\\', c]),
            c if c.is_control() && is_json => drop(write!(line, "\\u{:04x}", u32::from(c))),
            c if c.is_control() => line.push(' '),
            c => line.push(c),
        }
    }
}

fn value(of: &LogValue, facts: &Facts<'_>) -> Option<String> {
    let entry = facts.entry;
    Some(match of {
        LogValue::RequestHeader(name, instead) => {
            return request(name, facts).or_else(|| request(instead.as_ref()?, facts));
        }
        LogValue::ResponseHeader(name, instead) => {
            return response(name, facts).or_else(|| response(instead.as_ref()?, facts));
        }
        LogValue::StartTime(None) => entry.start_time.clone(),
        LogValue::StartTime(Some(format)) => {
            let zoned = facts.started.to_zoned(jiff::tz::TimeZone::UTC);
            jiff::fmt::strtime::format(format, &zoned).unwrap_or_else(|_| entry.start_time.clone())
        }
        LogValue::BytesReceived => entry.bytes_received.to_string(),
        LogValue::BytesSent => entry.bytes_sent.to_string(),
        LogValue::Protocol => entry.protocol.to_owned(),
        LogValue::ResponseCode => entry.response_code.to_string(),
        LogValue::ResponseCodeDetails => entry.response_code_details.to_owned(),
        LogValue::ResponseFlags => entry.response_flags.to_owned(),
        LogValue::Duration => entry.duration.to_string(),
        LogValue::RouteName => entry.route_name.to_owned(),
        LogValue::UpstreamCluster => match facts.service_port {
            _ if entry.upstream_cluster.is_empty() => return None,
            Some(port) => format!("outbound|{port}||{}", entry.upstream_cluster),
            None => format!("outbound|||{}", entry.upstream_cluster),
        },
        LogValue::UpstreamHost => entry.upstream_host.to_owned(),
        LogValue::ClientAddress { with_port } => {
            // Nobody says what port it had behind a proxy; Envoy writes 0.
            let direct = facts.peer.filter(|peer| facts.client.is_none_or(|client| client == peer.ip()));
            address(direct.or_else(|| Some(SocketAddr::new(facts.client?, 0)))?, *with_port)
        }
        LogValue::PeerAddress { with_port } => address(facts.peer?, *with_port),
        LogValue::LocalAddress { with_port } => address(facts.local?, *with_port),
        LogValue::ServerName => facts.server_name?.to_owned(),
        LogValue::TraceId => entry.trace_id.to_owned(),
        LogValue::PluginValue(key) if key == "ai_log" => serde_json::to_string(entry.ai_log?).ok()?,
        LogValue::PluginValue(key) => match entry.further?.get(key)? {
            Value::String(text) => text.clone(),
            other => other.to_string(),
        },
        LogValue::Unknown => return None,
    })
}

fn request(name: &str, facts: &Facts<'_>) -> Option<String> {
    let header = |name: &str| facts.request.get(name).map(text);
    match name {
        ":method" => Some(facts.entry.method.to_owned()),
        ":path" => Some(facts.entry.path.to_owned()),
        ":authority" => header("host"),
        ":scheme" => Some(facts.scheme.to_owned()),
        name => header(name),
    }
}

fn response(name: &str, facts: &Facts<'_>) -> Option<String> {
    match name {
        ":status" => Some(facts.entry.response_code.to_string()),
        name => facts.response?.get(name).map(text),
    }
}

/// What is no Unicode is shown as that.
fn text(value: &HeaderValue) -> String {
    String::from_utf8_lossy(value.as_bytes()).into_owned()
}

fn address(address: SocketAddr, with_port: bool) -> String {
    if with_port { address.to_string() } else { address.ip().to_string() }
}

/// Envoy's short form of what `response_code_details` says; `-` where nothing went wrong.
pub fn flags(details: &str) -> &'static str {
    match details {
        "route_not_found" => "NR",
        "no_healthy_upstream" => "UH",
        "upstream_response_timeout" => "UT",
        "upstream_reset_before_response_started" => "UF",
        "upstream_reset_after_response_started" => "UC",
        "local_rate_limited" => "RL",
        "downstream_remote_disconnect" => "DC",
        details if details.starts_with("http1.") => "DPE",
        _ => NOTHING,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn lines_have_the_form_that_is_asked_for() {
        let log = json!({"question": "say \"hi\""});
        let entry = Entry {
            start_time: "2026-01-02T03:04:05.678Z".into(),
            request_id: "id",
            trace_id: "trace",
            method: "GET",
            authority: "a.com",
            path: "/x?y=1",
            protocol: "HTTP/1.1",
            response_code: 503,
            response_code_details: "no_healthy_upstream",
            response_flags: flags("no_healthy_upstream"),
            duration: 7,
            bytes_received: 1,
            bytes_sent: 2,
            downstream_remote_address: "10.0.0.1",
            route_name: "web",
            upstream_cluster: "a.static",
            upstream_host: "",
            upstream_service_time: None,
            user_agent: "",
            x_forwarded_for: "",
            consumer: None,
            ai_log: log.as_object(),
            further: None,
        };
        let mut request = HeaderMap::new();
        request.insert("host", "a.com:80".parse().unwrap());
        request.insert("x-odd", http::HeaderValue::from_bytes(b"a\tb\"c").unwrap());
        let facts = Facts {
            entry: &entry,
            started: "2026-01-02T03:04:05.678Z".parse().unwrap(),
            request: &request,
            scheme: "http",
            response: None,
            service_port: Some(80),
            client: Some("203.0.113.9".parse().unwrap()),
            peer: Some("10.0.0.1:5".parse().unwrap()),
            local: None,
            server_name: None,
        };
        let text = |text: &str| LogPiece::Text(text.into());
        let value = |of| LogPiece::Value { of, longest: None };
        let pieces = vec![
            text("{\"a\":\""),
            value(LogValue::PluginValue("ai_log".into())),
            text("\",\"b\":\""),
            value(LogValue::RequestHeader("x-none".into(), Some(":authority".into()))),
            text("\",\"c\":\""),
            value(LogValue::RequestHeader("x-odd".into(), None)),
            text("\"}"),
        ];
        let made = String::from_utf8(line(&LogFormat { pieces, is_json: true }, &facts)).unwrap();
        let made: Value = serde_json::from_str(&made).unwrap();
        assert_eq!(made, json!({"a": log.to_string(), "b": "a.com:80", "c": "a\tb\"c"}));
        let pieces = vec![
            value(LogValue::StartTime(Some("%Y/%m/%d %H:%M:%S.%3f".into()))),
            text(" "),
            value(LogValue::UpstreamCluster),
            text(" "),
            LogPiece::Value { of: LogValue::RouteName, longest: Some(2) },
            text(" "),
            value(LogValue::ResponseFlags),
            text(" "),
            value(LogValue::ResponseHeader("x".into(), None)),
            text(" "),
            value(LogValue::PeerAddress { with_port: false }),
            text(" "),
            value(LogValue::ClientAddress { with_port: true }),
        ];
        let made = String::from_utf8(line(&LogFormat { pieces, is_json: false }, &facts)).unwrap();
        assert_eq!(made, "2026/01/02 03:04:05.678 outbound|80||a.static we UH - 10.0.0.1 203.0.113.9:0\n");
    }
}

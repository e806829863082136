//! The access log's line of a request that was refused before it was parsed.
//!
//! `front` calls it after `head` has refused. What the request says is read leniently here, for whoever looks at the log; nothing
//! is ever decided by it. The query is left out: nobody has looked whether it holds a credential.

use std::net::SocketAddr;

use http::{HeaderMap, HeaderName, HeaderValue};
use pingora_core::protocols::Stream;

use super::head::Refused;
use super::snapshot::Snapshot;
use super::{finish, log_line};
use crate::llm::error::{ApiError, ErrorKind};
use crate::telemetry::access_log::{AccessLog, Entry};
use crate::telemetry::metrics::Metrics;

/// More of a target or a method tells nothing.
const LONGEST: usize = 1024;

/// As many headers as are looked at.
const MOST_FIELDS: usize = 256;

/// The way a request came.
pub struct Way {
    client: Option<SocketAddr>,
    local: Option<SocketAddr>,
    is_tls: bool,
}

impl Way {
    pub fn of(stream: &Stream, is_tls: bool) -> Way {
        let digest = stream.get_socket_digest();
        let digest = digest.as_deref();
        let inet =
            |address: &pingora_core::protocols::l4::socket::SocketAddr| address.as_inet().map(log_line::canonical);
        Way {
            client: digest.and_then(|digest| digest.peer_addr()).and_then(inet),
            local: digest.and_then(|digest| digest.local_addr()).and_then(inet),
            is_tls,
        }
    }
}

/// `n_sent`: bytes of the answer's body.
pub fn log(
    refused: &Refused,
    way: &Way,
    n_sent: usize,
    snapshot: &Snapshot,
    metrics: &Metrics,
    access_log: &AccessLog,
) {
    if !access_log.is_on() {
        return;
    }
    let said = Said::read(&refused.bytes);
    let duration = u64::try_from(refused.after.as_millis()).unwrap_or(u64::MAX);
    let started = finish::started(duration);
    let details = details(refused);
    let entry = Entry {
        start_time: format!("{started:.3}"),
        request_id: "",
        trace_id: "",
        method: &said.method,
        authority: said.header("host"),
        path: &said.path,
        protocol: said.protocol,
        response_code: ApiError::new(refused.why.kind, "").status,
        response_code_details: &details,
        response_flags: log_line::flags(&details),
        duration,
        bytes_received: 0,
        bytes_sent: n_sent,
        downstream_remote_address: &way.client.map(|client| client.ip().to_string()).unwrap_or_default(),
        route_name: "",
        upstream_cluster: "",
        upstream_host: "",
        upstream_service_time: None,
        user_agent: said.header("user-agent"),
        x_forwarded_for: said.header("x-forwarded-for"),
        consumer: None,
        ai_log: None,
        further: None,
    };
    let facts = log_line::Facts {
        entry: &entry,
        started,
        request: &said.headers,
        scheme: if way.is_tls { "https" } else { "http" },
        response: None,
        service_port: None,
        client: way.client.map(|client| client.ip()),
        peer: way.client,
        local: way.local,
        server_name: None,
    };
    log_line::write(access_log, snapshot.settings.access_log.as_ref(), &facts, metrics);
}

/// The words that requests are refused with elsewhere, too; what only HTTP/1 can get wrong is named as Envoy does.
fn details(refused: &Refused) -> String {
    match refused.why.kind {
        ErrorKind::HeadersTooLarge => "request_headers_too_large".to_owned(),
        ErrorKind::UriTooLong => "request_uri_too_long".to_owned(),
        ErrorKind::RequestTimeout => "request_timeout".to_owned(),
        _ => format!("http1.{}", refused.why.reason),
    }
}

/// What can be made out of a head that is none; empty where there is nothing.
#[derive(Debug, Default, PartialEq)]
struct Said {
    method: String,
    path: String,
    protocol: &'static str,
    headers: HeaderMap,
}

impl Said {
    fn read(bytes: &[u8]) -> Said {
        let mut lines = bytes.split(|byte| *byte == b'\n').map(<[u8]>::trim_ascii_end);
        let mut words = lines.next().unwrap_or_default().split(|byte| *byte == b' ').filter(|word| !word.is_empty());
        let method = words.next().map(text).unwrap_or_default();
        let target = words.next().map(text).unwrap_or_default();
        let protocol = match words.next() {
            Some(b"HTTP/1.1") => "HTTP/1.1",
            Some(b"HTTP/1.0") => "HTTP/1.0",
            _ => "",
        };
        let fields = lines.take(MOST_FIELDS).take_while(|line| !line.is_empty()).filter_map(|line| {
            let colon = line.iter().position(|byte| *byte == b':')?;
            let name = HeaderName::from_bytes(&line[..colon]).ok()?;
            Some((name, HeaderValue::from_bytes(line[colon + 1..].trim_ascii()).ok()?))
        });
        let mut headers = HeaderMap::new();
        for (name, value) in fields {
            // The first of several counts: a line can show one.
            headers.entry(name).or_insert(value);
        }
        let path = target.split('?').next().unwrap_or_default().to_owned();
        Said { method, path, protocol, headers }
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default()
    }
}

fn text(word: &[u8]) -> String {
    String::from_utf8_lossy(&word[..word.len().min(LONGEST)]).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn broken_heads_still_tell_something() {
        let said = |head: &[u8]| {
            let said = Said::read(head);
            let agent = said.header("user-agent").to_owned();
            (said.method, said.path, said.protocol, agent)
        };
        let of = |method: &str, path: &str, protocol, agent: &str| {
            (method.to_owned(), path.to_owned(), protocol, agent.to_owned())
        };
        for (head, expected) in [
            (
                &b"GET /a?key=secret HTTP/1.1\nUser-Agent: x\nUser-Agent: y\n\nA: b"[..],
                of("GET", "/a", "HTTP/1.1", "x"),
            ),
            (b"GET  /a HTTP/1.1\r\nBad name: x\r\nno colon\r\nuser-agent:z\r\n", of("GET", "/a", "HTTP/1.1", "z")),
            (b"GET /a", of("GET", "/a", "", "")),
            (b"", of("", "", "", "")),
            (b"\x16\x03\x01\xff", of("\u{16}\u{3}\u{1}\u{fffd}", "", "", "")),
            (b"PUT http://a.com/b HTTP/1.0\r\n", of("PUT", "http://a.com/b", "HTTP/1.0", "")),
        ] {
            assert_eq!(said(head), expected, "{}", head.escape_ascii());
        }
        assert_eq!(Said::read(format!("GET /{}", "a".repeat(5000)).as_bytes()).path.len(), LONGEST);
    }
}

//! What happens to every request before anything looks at it.
//!
//! Headers by which the gateway's own parts talk to each other are removed, because a client could otherwise claim to be
//! an authenticated consumer or a fallback re-entry. The request gets its id, its trace context and the forwarding headers.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName, HeaderValue};
use pingora_http::RequestHeader;
use pingora_proxy::Session;

use super::context::Context;
use super::tls::Handshake;
use super::upstream::host_only;
use super::{conversation, framing, respond, span};
use crate::llm::error::ErrorKind;
use crate::plugins::Reply;

/// Only the gateway itself may set these, and everything of Envoy's.
const INTERNAL_HEADERS: &[&str] = &[
    "x-mse-consumer",
    "x-forwarded-client-cert",
    "x-higress-fallback-from",
    "x-hi-original-auth",
    "x-higress-llm-model-final",
    "x-higress-target-cluster",
    "x-higress-mcpserver-config",
];

/// The one of Envoy's names that is the client's to send: the tools of an MCP server it wants to see.
const OF_CLIENTS: &str = "x-envoy-allow-mcp-tools";

/// Prepares head and context.
///
/// # Errors
/// The 400 for a path with a NUL or, in HTTP/2, what is no host; the 414 or 431 for an HTTP/2 head over a limit (`head` has
/// measured those of HTTP/1); the 421 for a host whose TLS demands
/// more than this connection's.
pub fn admit(session: &mut Session, ctx: &mut Context) -> Result<(), Reply> {
    // A socket for both versions shows clients of version 4 in the form of version 6; lists of addresses mean the former.
    let peer = session.client_addr().and_then(|address| address.as_inet()).map(|address| address.ip().to_canonical());
    let tls = session.digest().and_then(|digest| digest.ssl_digest.clone());
    let handshake = tls.as_ref().and_then(|tls| tls.extension.get::<Handshake>());
    let is_tls = tls.is_some();
    // Until the proxies in front have been heard: an early refusal is logged, too.
    (ctx.state.client_ip, ctx.state.is_tls) = (peer, is_tls);
    ctx.state.server_name = handshake.and_then(|handshake| handshake.server_name.clone());
    let head = session.req_header_mut();
    if let Some(authority) = head.uri.authority().map(|authority| authority.to_string()) {
        set(head, "host", &authority);
    }
    ctx.method = head.method.clone();
    ctx.path = head.uri.path_and_query().map_or_else(|| "/".to_owned(), |path| path.as_str().to_owned());
    if head.version != http::Version::HTTP_2 && !matches!(head.raw_path().first(), Some(b'/' | b'*')) {
        // An origin is asked in origin form, whatever the client asked a proxy with: this is the path of what was read.
        let _ = head.set_raw_path(ctx.path.as_bytes());
    }
    match normalized(&ctx.path) {
        Ok(None) => {}
        Ok(Some(path)) => {
            ctx.path = path;
            // Of the characters that were there.
            let _ = head.set_raw_path(ctx.path.as_bytes());
        }
        Err(Nul) => {
            let message = "The path has an encoded NUL (`%00`), which no two programs read alike.";
            return Err(respond::error(ErrorKind::MalformedRequest, message, "nul_in_path"));
        }
    }
    if head.version == http::Version::HTTP_2 && !head.headers.get(http::header::HOST).is_some_and(is_host) {
        let message = "The request names no host, or what is none. Send `:authority` as a host and perhaps a port.";
        return Err(respond::error(ErrorKind::MalformedRequest, message, "http2.host"));
    }
    ctx.state.host = authority(head).map(|authority| host_only(authority).to_ascii_lowercase()).unwrap_or_default();
    let limit = ctx.snapshot.limits.max_header_bytes;
    if ctx.path.len() > limit {
        let message = format!("The path is longer than {limit} bytes, the limit of this gateway. Send a shorter URI.");
        return Err(respond::error(ErrorKind::UriTooLong, message, "request_uri_too_long"));
    }
    if size(head) > limit {
        let message = format!(
            "Request line and headers are longer than {limit} bytes, the limit of this gateway. Send fewer or shorter headers."
        );
        return Err(respond::error(ErrorKind::HeadersTooLarge, message, "request_headers_too_large"));
    }
    if is_tls && !ctx.snapshot.certificates.admits(&ctx.state.host, handshake) {
        // Another name was asked for in the handshake, so this host's clients were not checked.
        return Err(Reply::new(421, "misdirected_request"));
    }
    if head.version == http::Version::HTTP_2 {
        join_cookies(head);
        if head.headers.len() > framing::MAX_FIELDS {
            let framing::Refusal { kind, message, reason } = framing::TOO_MANY;
            return Err(respond::error(kind, message, reason));
        }
    }
    drop_nominated(head);
    if !conversation::is_websocket(head) {
        // Nobody is asked for another protocol on the strength of a word.
        head.remove_header(&http::header::UPGRADE);
    }
    for name in present(&head.headers, INTERNAL_HEADERS) {
        head.remove_header(&name);
    }
    for name in x_envoy(&head.headers).iter().filter(|name| *name != OF_CLIENTS) {
        head.remove_header(name);
    }
    ctx.trace = Some(span::begin(head, ctx.snapshot.tracer.as_ref(), &ctx.state.id));
    set(head, "x-request-id", &ctx.state.id.to_string());
    let origin = Origin::of(head, peer, is_tls, ctx.snapshot.settings.trusted_proxies);
    (ctx.state.client_ip, ctx.state.is_tls) = (origin.client, origin.is_tls);
    if let Some(peer) = peer {
        forward(head, peer, &origin, ctx.snapshot.settings.add_x_real_ip);
    }
    Ok(())
}

/// HTTP/2 may send each cookie in a field of its own; elsewhere there is one field (RFC 9113, section 8.2.3).
fn join_cookies(head: &mut RequestHeader) {
    let fields = head.headers.get_all(http::header::COOKIE);
    if fields.iter().nth(1).is_none() {
        return;
    }
    let joined = fields.iter().map(HeaderValue::as_bytes).collect::<Vec<_>>().join(&b"; "[..]);
    if let Ok(joined) = HeaderValue::from_bytes(&joined) {
        // Of header values.
        let _ = head.insert_header(http::header::COOKIE, joined);
    }
}

/// Who asks, and how: the other end of the connection, or what the proxies in front say of theirs.
#[derive(Debug, PartialEq, Eq)]
struct Origin {
    client: Option<IpAddr>,
    is_tls: bool,
}

impl Origin {
    /// As Envoy has it with so many trusted hops: the address at that place from the right, the connection's if there are fewer.
    fn of(head: &RequestHeader, peer: Option<IpAddr>, is_tls: bool, n_trusted: usize) -> Origin {
        let Some(place) = n_trusted.checked_sub(1) else { return Origin { client: peer, is_tls } };
        let addresses: Vec<&str> = forwarded_for(head).flat_map(|value| value.split(',')).collect();
        let told = addresses.iter().rev().nth(place).and_then(|address| address.trim().parse().ok());
        let is_tls = match head.headers.get("x-forwarded-proto").map(HeaderValue::as_bytes) {
            Some(b"https") => true,
            Some(b"http") => false,
            _ => is_tls,
        };
        Origin { client: told.or(peer), is_tls }
    }
}

/// `framing` has looked at the Host header of HTTP/1.
fn is_host(value: &HeaderValue) -> bool {
    framing::is_host(value.as_bytes())
}

/// The host a request is for. `admit` made `:authority` and absolute-form targets into a Host header.
pub fn authority(head: &RequestHeader) -> Option<&str> {
    head.headers.get(http::header::HOST).and_then(|value| value.to_str().ok())
}

/// Headers that `Connection` fields nominate as belonging to the connection.
pub fn nominated(headers: &HeaderMap) -> Vec<String> {
    let values = headers.get_all(http::header::CONNECTION).iter().filter_map(|value| value.to_str().ok());
    let names = values.flat_map(|value| value.split(',')).map(str::trim);
    names.filter(|name| !name.is_empty() && !name.eq_ignore_ascii_case("close")).map(str::to_owned).collect()
}

/// Removes what `Connection` nominates and leaves of itself what it says about an upgrade. Before anything is added: a client
/// could nominate what the gateway sets, and have it removed on the way.
fn drop_nominated(head: &mut RequestHeader) {
    let names = nominated(&head.headers);
    if names.is_empty() {
        return;
    }
    let is_upgrade = |name: &String| name.eq_ignore_ascii_case("upgrade");
    for name in names.iter().filter(|name| !is_upgrade(name)) {
        head.remove_header(name.as_str());
    }
    head.remove_header(&http::header::CONNECTION);
    if names.iter().any(is_upgrade) && conversation::is_websocket(head) {
        set(head, "connection", "upgrade");
    }
}

/// Removes what only Envoy would say, for `disableXEnvoyHeaders`.
pub fn strip_x_envoy(head: &mut RequestHeader) {
    for name in x_envoy(&head.headers) {
        head.remove_header(&name);
    }
}

/// Those of `names`, in lower case, that are there. Mostly none is: comparing them with the few headers of a message costs a
/// tenth of looking each up.
pub fn present(headers: &HeaderMap, names: &[&str]) -> Vec<HeaderName> {
    headers.keys().filter(|name| names.contains(&name.as_str())).cloned().collect()
}

/// Names of headers that begin with `x-envoy-`.
pub fn x_envoy(headers: &HeaderMap) -> Vec<HeaderName> {
    headers.keys().filter(|name| name.as_str().starts_with("x-envoy-")).cloned().collect()
}

/// Bytes of request line and headers as they stood on the wire, roughly: names, values and separators.
fn size(head: &RequestHeader) -> usize {
    let line = head.uri.path_and_query().map_or(0, |path| path.as_str().len()) + 16;
    line + head.headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum::<usize>()
}

fn forward(head: &mut RequestHeader, peer: IpAddr, origin: &Origin, real_ip: bool) {
    let peer = peer.to_string();
    let chain: Vec<&str> = forwarded_for(head).chain([peer.as_str()]).collect();
    let chain = chain.join(", ");
    set(head, "x-forwarded-for", &chain);
    set(head, "x-forwarded-proto", if origin.is_tls { "https" } else { "http" });
    if let Some(client) = origin.client.filter(|_| real_ip) {
        set(head, "x-real-ip", &client.to_string());
    }
}

fn forwarded_for(head: &RequestHeader) -> impl Iterator<Item = &str> {
    head.headers.get_all("x-forwarded-for").iter().filter_map(|value| value.to_str().ok())
}

fn set(head: &mut RequestHeader, name: &'static str, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        // A static lower-case name is always a header name.
        let _ = head.insert_header(name, value);
    }
}

/// The path has an encoded NUL.
#[derive(Debug, PartialEq, Eq)]
struct Nul;

/// The path as routes and rules are to see it, as Istio has Envoy do it by default (`BASE`): letters, digits, `-`, `.`, `_` and `~` are
/// not encoded, a backslash is a slash, `.` and `..` are resolved. A rule for `/admin` must not be walked around by
/// `/public/../admin` or `/%61dmin`. `%2F` and `//` stay. `None` if there is nothing to do.
fn normalized(path_and_query: &str) -> Result<Option<String>, Nul> {
    let (path, query) = match path_and_query.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (path_and_query, None),
    };
    if !path.contains(['.', '%', '\\']) {
        return Ok(None);
    }
    let decoded = decoded(path)?;
    let resolved = resolved(decoded.as_deref().unwrap_or(path));
    let Some(mut clean) = resolved.or(decoded) else { return Ok(None) };
    if let Some(query) = query {
        clean.push('?');
        clean.push_str(query);
    }
    Ok(Some(clean))
}

/// Without needless encoding and backslashes. `None` if there are none.
fn decoded(path: &str) -> Result<Option<String>, Nul> {
    let mut clean = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(at) = rest.find(['%', '\\']) {
        let (before, found) = rest.split_at(at);
        clean.push_str(before);
        let code = found.strip_prefix('%').and_then(|after| after.get(..2));
        let code = code.filter(|code| code.bytes().all(|digit| digit.is_ascii_hexdigit()));
        let (character, length) = match code.and_then(|code| u8::from_str_radix(code, 16).ok()) {
            Some(0) => return Err(Nul),
            Some(byte) if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) => (char::from(byte), 3),
            _ if found.starts_with('%') => ('%', 1),
            _ => ('/', 1),
        };
        clean.push(character);
        rest = found.get(length..).unwrap_or_default();
    }
    clean.push_str(rest);
    Ok((clean != path).then_some(clean))
}

/// Without `.` and `..`. `None` if there are none.
fn resolved(path: &str) -> Option<String> {
    if path.split('/').all(|segment| !matches!(segment, "." | "..")) {
        return None;
    }
    let mut kept: Vec<&str> = Vec::new();
    let mut ends_in_folder = false;
    for segment in path.split('/').skip(1) {
        ends_in_folder = matches!(segment, "." | "..");
        match segment {
            "." => {}
            ".." => drop(kept.pop()),
            _ => kept.push(segment),
        }
    }
    let mut clean = format!("/{}", kept.join("/"));
    if ends_in_folder && !clean.ends_with('/') {
        clean.push('/');
    }
    Some(clean)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_normalized_as_by_envoy() {
        for (path, clean) in [
            ("/%61dm%69n?x=%61", "/admin?x=%61"),
            ("/x\\..\\admin", "/admin"),
            ("/x/%2e%2E\\%41", "/A"),
            ("/%2561", "/%2561"),
            ("/a%2Fb/%7e%5f%2D", "/a%2Fb/~_-"),
            ("/%e4%c3%A4/%4", "/%e4%c3%A4/%4"),
            ("/a/../b", "/b"),
            ("/a/%2E%2e/b?x=/../y", "/b?x=/../y"),
            ("/a/./b/.", "/a/b/"),
            ("/../../a/..", "/"),
            ("/a/.%2e", "/"),
        ] {
            let expected = Some(clean).filter(|clean| *clean != path);
            assert_eq!(normalized(path).unwrap().as_deref(), expected, "{path}");
        }
        for path in ["/", "/a.b/..c/...", "/%2f/x?../y\\%00", "*", "//a//", "/%", "/%zz", "/%\u{e4}1"] {
            assert_eq!(normalized(path), Ok(None), "{path}");
        }
        assert_eq!(normalized("/a%00b"), Err(Nul));
    }

    fn head(headers: &[(&'static str, &str)]) -> RequestHeader {
        let mut head = RequestHeader::build("GET", b"/", None).unwrap();
        headers.iter().for_each(|(name, value)| _ = head.append_header(*name, *value).unwrap());
        head
    }

    /// The examples of Envoy's documentation of `x-forwarded-for`.
    #[test]
    fn proxies_in_front_are_believed_as_far_as_they_are_trusted() {
        let peer: IpAddr = "192.0.2.11".parse().unwrap();
        let chain = [("x-forwarded-for", "203.0.113.128, 203.0.113.10"), ("x-forwarded-for", "203.0.113.1")];
        let told = [chain[0], chain[1], ("x-forwarded-proto", "https")];
        for (headers, n_trusted, client, is_tls) in [
            (&told[..], 0, "192.0.2.11", false),
            (&told[..], 1, "203.0.113.1", true),
            (&told[..], 2, "203.0.113.10", true),
            (&told[..], 4, "192.0.2.11", true),
            (&chain[..], 2, "203.0.113.10", false),
            (&[("x-forwarded-for", "unknown")][..], 1, "192.0.2.11", false),
            (&[][..], 1, "192.0.2.11", false),
        ] {
            let origin = Origin::of(&head(headers), Some(peer), false, n_trusted);
            assert_eq!(origin, Origin { client: client.parse().ok(), is_tls }, "{headers:?} {n_trusted}");
        }
    }

    #[test]
    fn every_address_of_the_chain_stays_and_the_connections_is_added() {
        let mut head = head(&[("x-forwarded-for", "203.0.113.128"), ("x-forwarded-for", "203.0.113.1")]);
        let origin = Origin { client: "203.0.113.1".parse().ok(), is_tls: true };
        forward(&mut head, "192.0.2.5".parse().unwrap(), &origin, true);
        let value = |name: &str| head.headers.get(name).unwrap().to_str().unwrap().to_owned();
        assert_eq!(value("x-forwarded-for"), "203.0.113.128, 203.0.113.1, 192.0.2.5");
        assert_eq!((value("x-forwarded-proto").as_str(), value("x-real-ip").as_str()), ("https", "203.0.113.1"));
    }
}

//! What the head of an HTTP/1 request may look like, so that no two parsers can read it differently.
//!
//! `head` asks it about the bytes as they came, before pingora parses them: pingora is lenient where the standard lets a
//! recipient be (bare line feeds, repeated lengths, a length beside a transfer coding). What is ambiguous is refused here and
//! never repaired. Pure; knows no connection.

use crate::llm::error::ErrorKind;

/// Why a head is not accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Refusal {
    pub kind: ErrorKind,
    /// For metrics and logs.
    pub reason: &'static str,
    /// For the client: what is wrong.
    pub message: &'static str,
}

impl Refusal {
    const fn malformed(reason: &'static str, message: &'static str) -> Refusal {
        Refusal { kind: ErrorKind::MalformedRequest, reason, message }
    }
}

/// More than this pingora does not parse.
pub const MAX_FIELDS: usize = 256;

pub const TOO_MANY: Refusal = Refusal {
    kind: ErrorKind::HeadersTooLarge,
    reason: "too_many_headers",
    message: "There are more than 256 headers.",
};

/// Finds the end of a head whose bytes come in pieces.
#[derive(Debug, Default)]
pub struct Lines {
    /// Everything before this has been looked at.
    seen: usize,
    line_start: usize,
    is_past_request_line: bool,
}

impl Lines {
    /// The length of the head, with its empty line, once it is in `bytes`. Each call is given all bytes so far.
    ///
    /// # Errors
    /// A line ends with a bare line feed.
    pub fn end(&mut self, bytes: &[u8]) -> Result<Option<usize>, Refusal> {
        while let Some(found) = bytes.get(self.seen..).and_then(|rest| memchr::memchr(b'\n', rest)) {
            let feed = self.seen + found;
            let is_terminated = feed > self.line_start && bytes[feed - 1] == b'\r';
            if !is_terminated {
                return Err(Refusal::malformed("bare_line_feed", "A line of the head ends without a carriage return."));
            }
            let is_empty = feed - self.line_start == 1;
            self.seen = feed + 1;
            self.line_start = self.seen;
            if is_empty {
                return Ok(Some(self.seen));
            }
            self.is_past_request_line = true;
        }
        self.seen = bytes.len();
        Ok(None)
    }

    /// What a head is refused with that has no end within the limit: it is the target that is too long, or the fields.
    pub fn too_long(&self) -> Refusal {
        if self.is_past_request_line {
            Refusal {
                kind: ErrorKind::HeadersTooLarge,
                reason: "headers_too_large",
                message: "Request line and headers are longer than limits.max_header_bytes. Send fewer or shorter headers.",
            }
        } else {
            Refusal {
                kind: ErrorKind::UriTooLong,
                reason: "uri_too_long",
                message: "The request line alone is longer than limits.max_header_bytes. Send a shorter URI.",
            }
        }
    }
}

/// Checks a whole head, its empty line included.
///
/// # Errors
/// The first fault.
pub fn check(head: &[u8]) -> Result<(), Refusal> {
    let mut lines = head.split(|byte| *byte == b'\n').map(|line| line.strip_suffix(b"\r").unwrap_or(line));
    let version = request_line(lines.next().unwrap_or_default())?;
    let mut framing = Framing { version, ..Framing::default() };
    for (n, line) in lines.take_while(|line| !line.is_empty()).enumerate() {
        if n == MAX_FIELDS {
            return Err(TOO_MANY);
        }
        let (name, value) = field(line)?;
        framing.add(name, value)?;
    }
    framing.finish()
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Version {
    Http10,
    #[default]
    Http11,
}

fn request_line(line: &[u8]) -> Result<Version, Refusal> {
    let broken = Refusal::malformed("request_line", "The request line is not `method target version`.");
    let mut words = line.split(|byte| *byte == b' ');
    let (Some(method), Some(target), Some(version), None) = (words.next(), words.next(), words.next(), words.next())
    else {
        return Err(broken);
    };
    let is_method = !method.is_empty() && method.iter().all(|byte| is_token(*byte));
    let is_target = !target.is_empty() && target.iter().all(|byte| *byte > b' ' && *byte != 0x7f);
    let is_placed = matches!(target, [b'/', ..] | b"*") || method == b"CONNECT" || is_absolute(target);
    match version {
        _ if !is_method || !is_target => Err(broken),
        _ if !is_placed => {
            Err(Refusal::malformed("target", "The target of the request is no path that begins with a slash."))
        }
        _ if target.contains(&b'#') => Err(Refusal::malformed(
            "fragment",
            "The target of the request has a fragment, which is not sent to servers.",
        )),
        b"HTTP/1.1" => Ok(Version::Http11),
        b"HTTP/1.0" => Ok(Version::Http10),
        [b'H', b'T', b'T', b'P', b'/', b'0'..=b'9', rest @ ..] if rest.iter().all(|b| b".0123456789".contains(b)) => {
            Err(Refusal {
                kind: ErrorKind::UnsupportedVersion,
                reason: "version",
                message: "This version of HTTP is not spoken here. Use HTTP/2 or HTTP/1.1.",
            })
        }
        _ => Err(broken),
    }
}

/// A whole URL, as proxies are asked with.
fn is_absolute(target: &[u8]) -> bool {
    let scheme = memchr::memmem::find(target, b"://").and_then(|end| target.get(..end));
    scheme.is_some_and(|scheme| !scheme.is_empty() && scheme.iter().all(u8::is_ascii_alphabetic))
}

/// Name and value of a line.
fn field(line: &[u8]) -> Result<(&[u8], &[u8]), Refusal> {
    if line.first().is_some_and(|byte| b" \t".contains(byte)) {
        return Err(Refusal::malformed("folded_line", "A header line begins with a space: folded lines are obsolete."));
    }
    let colon = memchr::memchr(b':', line).unwrap_or(line.len());
    let (name, value) = (&line[..colon], line.get(colon + 1..));
    let (Some(value), true) = (value, !name.is_empty() && name.iter().all(|byte| is_token(*byte))) else {
        return Err(Refusal::malformed("header_name", "A header line does not begin with a name and a colon."));
    };
    if value.iter().any(|byte| (*byte < b' ' && *byte != b'\t') || *byte == 0x7f) {
        return Err(Refusal::malformed("header_value", "A header's value has a control character."));
    }
    Ok((name, value.trim_ascii()))
}

/// The fields that say where the request ends and whom it is for.
#[derive(Debug, Default)]
struct Framing {
    version: Version,
    n_hosts: usize,
    n_lengths: usize,
    n_codings: usize,
}

impl Framing {
    fn add(&mut self, name: &[u8], value: &[u8]) -> Result<(), Refusal> {
        // By length first: most names are none of these.
        match name.len() {
            4 if name.eq_ignore_ascii_case(b"host") => {
                self.n_hosts += 1;
                once(self.n_hosts, "host", "There is more than one Host header.")?;
                if is_host(value) {
                    return Ok(());
                }
                Err(Refusal::malformed("host", "The Host header is not a host and perhaps a port."))
            }
            10 if name.eq_ignore_ascii_case(b"connection") => nominations(value),
            14 if name.eq_ignore_ascii_case(b"content-length") => {
                self.n_lengths += 1;
                once(self.n_lengths, "content_length", "There is more than one Content-Length.")?;
                // 18 digits are more bytes than anything holds and less than overflows anywhere.
                let is_length = (1..=18).contains(&value.len()) && value.iter().all(u8::is_ascii_digit);
                if is_length {
                    return Ok(());
                }
                Err(Refusal::malformed("content_length", "The Content-Length is not one decimal number."))
            }
            17 if name.eq_ignore_ascii_case(b"transfer-encoding") => {
                self.n_codings += 1;
                once(self.n_codings, "transfer_encoding", "There is more than one Transfer-Encoding.")?;
                if value.eq_ignore_ascii_case(b"chunked") {
                    return Ok(());
                }
                Err(Refusal {
                    kind: ErrorKind::UnknownTransferCoding,
                    reason: "transfer_coding",
                    message: "The only transfer coding understood here is `chunked`.",
                })
            }
            _ => Ok(()),
        }
    }

    fn finish(&self) -> Result<(), Refusal> {
        if self.n_codings > 0 && self.n_lengths > 0 {
            return Err(Refusal::malformed(
                "length_and_coding",
                "Content-Length and Transfer-Encoding contradict each other. Send one of them.",
            ));
        }
        if self.n_codings > 0 && self.version == Version::Http10 {
            return Err(Refusal::malformed("coding_in_http10", "HTTP/1.0 has no Transfer-Encoding."));
        }
        // HTTP/1.0 could do without; what is sent on is HTTP/1.1, which cannot.
        if self.n_hosts == 0 {
            return Err(Refusal::malformed("host", "There is no Host header."));
        }
        Ok(())
    }
}

fn once(n: usize, reason: &'static str, message: &'static str) -> Result<(), Refusal> {
    if n == 1 { Ok(()) } else { Err(Refusal::malformed(reason, message)) }
}

/// Fields that `Connection` names are removed on the way; without these the message would mean something else.
fn nominations(value: &[u8]) -> Result<(), Refusal> {
    const NEVER: [&[u8]; 3] = [b"content-length", b"host", b"transfer-encoding"];
    let mut names = value.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    if names.clone().any(|name| !name.iter().all(|byte| is_token(*byte))) {
        return Err(Refusal::malformed("connection", "Connection names what is no header."));
    }
    if names.any(|name| NEVER.iter().any(|never| name.eq_ignore_ascii_case(never))) {
        return Err(Refusal::malformed("connection", "Connection names a header that belongs to the whole way."));
    }
    Ok(())
}

/// A name or an address, perhaps with a port; none of what would make a list, a path or a user of it.
pub fn is_host(value: &[u8]) -> bool {
    let is_of_name = |byte: &u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+;=".contains(byte);
    let is_of_address = |byte: &u8| byte.is_ascii_alphanumeric() || b".:".contains(byte);
    let (is_named, rest) = match value.strip_prefix(b"[") {
        Some(after) => {
            let end = memchr::memchr(b']', after).unwrap_or(0);
            (end > 0 && after[..end].iter().all(is_of_address), after.get(end + 1..).unwrap_or_default())
        }
        None => {
            let end = memchr::memchr(b':', value).unwrap_or(value.len());
            (end > 0 && value[..end].iter().all(is_of_name), &value[end..])
        }
    };
    let is_port = rest.is_empty() || rest.strip_prefix(b":").is_some_and(|port| port.iter().all(u8::is_ascii_digit));
    is_named && is_port
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The reason a head is refused with, or "".
    fn reason(head: &[u8]) -> &'static str {
        let mut lines = Lines::default();
        match lines.end(head) {
            Ok(Some(end)) => {
                assert_eq!(end, head.len(), "{}", head.escape_ascii());
                check(head).err().map_or("", |refusal| refusal.reason)
            }
            Ok(None) => "no end",
            Err(refusal) => refusal.reason,
        }
    }

    #[test]
    fn request_lines() {
        for (line, expected) in [
            ("GET / HTTP/1.1", ""),
            ("M-SEARCH * HTTP/1.1", ""),
            ("GET http://h/p?q HTTP/1.1", ""),
            ("CONNECT h:443 HTTP/1.1", ""),
            ("GET foo HTTP/1.1", "target"),
            ("GET ?x HTTP/1.1", "target"),
            ("GET \\admin HTTP/1.1", "target"),
            ("GET x/://h/p HTTP/1.1", "target"),
            ("GET /\u{e4} HTTP/1.1", ""),
            ("GET  / HTTP/1.1", "request_line"),
            ("GET / x HTTP/1.1", "request_line"),
            ("GET /", "request_line"),
            ("GET /\t HTTP/1.1", "request_line"),
            ("G\u{0}T / HTTP/1.1", "request_line"),
            ("GET / http/1.1", "request_line"),
            (" GET / HTTP/1.1", "request_line"),
            ("GET / HTTP/1.1 ", "request_line"),
            ("GET / HTTP/1.2", "version"),
            ("PRI * HTTP/2.0", "version"),
            ("GET / HTTP/11", "version"),
        ] {
            assert_eq!(reason(format!("{line}\r\nHost: h\r\n\r\n").as_bytes()), expected, "{line:?}");
        }
    }

    #[test]
    fn fields() {
        for (fields, expected) in [
            ("A: b\r\nC:\td \r\n", ""),
            ("A: \u{fc}\r\n", ""),
            ("Content-Length: 5\r\n", ""),
            ("Transfer-Encoding: Chunked\r\n", ""),
            ("Connection: close, x-a\r\n", ""),
            ("A : b\r\n", "header_name"),
            (": b\r\n", "header_name"),
            ("A\r\n", "header_name"),
            ("A: b\r\n c\r\n", "folded_line"),
            ("A: b\rc\r\n", "header_value"),
            ("A: b\u{0}\r\n", "header_value"),
            ("A: b\u{7f}\r\n", "header_value"),
            ("A: b\n", "bare_line_feed"),
            ("Host: i\r\n", "host"),
            ("Content-Length: 5\r\nContent-Length: 5\r\n", "content_length"),
            ("Content-Length: 5, 5\r\n", "content_length"),
            ("Content-Length: +5\r\n", "content_length"),
            ("Content-Length: 0x5\r\n", "content_length"),
            ("Content-Length: 1000000000000000000\r\n", "content_length"),
            ("Content-Length:\r\n", "content_length"),
            ("Content-Length: 5\r\nTransfer-Encoding: chunked\r\n", "length_and_coding"),
            ("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", "transfer_encoding"),
            ("Transfer-Encoding: gzip, chunked\r\n", "transfer_coding"),
            ("Transfer-Encoding: xchunked\r\n", "transfer_coding"),
            ("Transfer-Encoding: \u{b}chunked\r\n", "header_value"),
            ("Connection: close, Host\r\n", "connection"),
            ("Connection: close, \u{e9}\r\n", "connection"),
            ("Connection: close,, x\r\n", ""),
        ] {
            assert_eq!(reason(format!("GET / HTTP/1.1\r\nHost: h\r\n{fields}\r\n").as_bytes()), expected, "{fields:?}");
        }
    }

    #[test]
    fn hosts_numbers_and_versions() {
        for (host, expected) in [
            ("", "host"),
            ("a, b", "host"),
            ("a/b", "host"),
            ("u@a", "host"),
            ("a:80:80", "host"),
            ("a:b", "host"),
            ("%61", "host"),
            ("[a", "host"),
            ("[::1]x", "host"),
            ("[]", "host"),
            (":80", "host"),
            ("[::1]:80", ""),
            ("[::1]", ""),
            ("a_b:80", ""),
            ("a:", ""),
            ("a.", ""),
        ] {
            assert_eq!(reason(format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes()), expected, "{host:?}");
        }
        assert_eq!(reason(b"GET / HTTP/1.1\r\n\r\n"), "host");
        let many = format!("GET / HTTP/1.1\r\nHost: h\r\n{}\r\n", "X: y\r\n".repeat(256));
        assert_eq!(reason(many.as_bytes()), "too_many_headers");
        assert_eq!(reason(b"GET / HTTP/1.0\r\n\r\n"), "host");
        assert_eq!(reason(b"GET / HTTP/1.0\r\nHost: h\r\n\r\n"), "");
        assert_eq!(reason(b"GET / HTTP/1.0\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"), "coding_in_http10");
    }

    #[test]
    fn the_end_is_found_wherever_pieces_are_cut() {
        let all = b"GET / HTTP/1.1\r\nHost: h\r\n\r\nbody\n";
        let end = all.len() - 5;
        for cut in 0..all.len() {
            let mut lines = Lines::default();
            let first = lines.end(&all[..cut]).unwrap();
            assert_eq!(first.or_else(|| lines.end(all).unwrap()), Some(end), "{cut}");
        }
        let mut long = Lines::default();
        assert_eq!((long.end(b"GET /aaa"), long.too_long().reason), (Ok(None), "uri_too_long"));
        assert_eq!((long.end(b"GET /aaa HTTP/1.1\r\nA"), long.too_long().reason), (Ok(None), "headers_too_large"));
    }
}

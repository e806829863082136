//! `accessLogFormat`: text with commands such as `%REQ(:AUTHORITY)%`, as Envoy has them. A command that this gateway has nothing for is
//! shown as `-` and said; what is not written as one is an error, as there.

use crate::config::Severity;
use crate::config::model::{LogFormat, LogPiece, LogValue};
use crate::config::problem::ObjectReport;
use crate::config::suggest::did_you_mean;

/// Commands without an argument.
const PLAIN: &[(&str, LogValue)] = &[
    ("BYTES_RECEIVED", LogValue::BytesReceived),
    ("BYTES_SENT", LogValue::BytesSent),
    ("DOWNSTREAM_DIRECT_REMOTE_ADDRESS", LogValue::PeerAddress { with_port: true }),
    ("DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT", LogValue::PeerAddress { with_port: false }),
    ("DOWNSTREAM_LOCAL_ADDRESS", LogValue::LocalAddress { with_port: true }),
    ("DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT", LogValue::LocalAddress { with_port: false }),
    ("DOWNSTREAM_REMOTE_ADDRESS", LogValue::ClientAddress { with_port: true }),
    ("DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT", LogValue::ClientAddress { with_port: false }),
    ("DURATION", LogValue::Duration),
    ("PROTOCOL", LogValue::Protocol),
    ("REQUESTED_SERVER_NAME", LogValue::ServerName),
    ("RESPONSE_CODE", LogValue::ResponseCode),
    ("RESPONSE_CODE_DETAILS", LogValue::ResponseCodeDetails),
    ("RESPONSE_FLAGS", LogValue::ResponseFlags),
    ("ROUTE_NAME", LogValue::RouteName),
    ("TRACE_ID", LogValue::TraceId),
    ("UPSTREAM_CLUSTER", LogValue::UpstreamCluster),
    ("UPSTREAM_HOST", LogValue::UpstreamHost),
    ("UPSTREAM_REMOTE_ADDRESS", LogValue::UpstreamHost),
];

/// Keys of Higress' log-request-response.
const PARTS: &[&str] = &["log-request-body", "log-request-headers", "log-response-body", "log-response-headers"];

/// Commands without a counterpart here that stand in Higress' own format: to say in each installation that they stay empty helps nobody.
const USUAL: &[&str] =
    &["DYNAMIC_METADATA(istio.mixer:status)", "UPSTREAM_LOCAL_ADDRESS", "UPSTREAM_TRANSPORT_FAILURE_REASON"];

/// `None` if it is no format, which has been reported.
pub(super) fn parse(format: &str, path: &str, report: ObjectReport<'_>) -> Option<LogFormat> {
    let mut pieces = Vec::new();
    let mut text = String::new();
    let mut rest = format.trim_end();
    while let Some((before, after)) = rest.split_once('%') {
        text.push_str(before);
        if let Some(after) = after.strip_prefix('%') {
            text.push('%');
            rest = after;
            continue;
        }
        let Some((command, after)) = split_command(after) else {
            report.error(path, format!("has a `%` that nothing closes, before \"{}\"", shortened(after)));
            return None;
        };
        if !text.is_empty() {
            pieces.push(LogPiece::Text(std::mem::take(&mut text)));
        }
        match value(command) {
            Ok((of, longest)) => pieces.push(LogPiece::Value { of, longest }),
            Err(Fault::Unknown(name)) => {
                if !USUAL.contains(&command) {
                    let message = format!("names `%{command}%`, which this gateway has nothing for; it shows `-`");
                    report.add(Severity::Warning, path, message, hint(&name));
                }
                pieces.push(LogPiece::Value { of: LogValue::Unknown, longest: None });
            }
            Err(Fault::NoCommand(name)) => {
                let message = format!("`%{command}%` is no command of an access log");
                match hint(&name) {
                    Some(hint) => report.error_hint(path, message, hint),
                    None => report.error(path, message),
                }
                return None;
            }
        }
        rest = after;
    }
    text.push_str(rest);
    if !text.is_empty() {
        pieces.push(LogPiece::Text(text));
    }
    // A digit, because values stand in quotes or, where they are numbers, without.
    let filled: String = pieces.iter().map(|piece| if let LogPiece::Text(text) = piece { text } else { "0" }).collect();
    let is_json = serde_json::from_str::<serde::de::IgnoredAny>(&filled).is_ok();
    if is_json {
        pieces.iter_mut().for_each(in_one_line);
    }
    Some(LogFormat { pieces, is_json })
}

/// A line break in JSON stands between its parts, and what is written to be read over many lines is one line of a log.
fn in_one_line(piece: &mut LogPiece) {
    if let LogPiece::Text(text) = piece
        && text.contains('\n')
    {
        let mut lines = text.lines();
        let first = lines.next().unwrap_or_default().to_owned();
        *text = lines.fold(first, |joined, line| joined.trim_end().to_owned() + line.trim_start());
    }
}

fn hint(name: &str) -> Option<String> {
    let known = PLAIN.iter().map(|(name, _)| *name).chain(["FILTER_STATE", "REQ", "RESP", "START_TIME"]);
    did_you_mean(name, known)
}

/// The command up to its closing `%`; one in parentheses belongs to the argument, as in `%START_TIME(%Y)%`.
fn split_command(text: &str) -> Option<(&str, &str)> {
    let mut depth = 0_u32;
    for (at, c) in text.char_indices() {
        match c {
            '(' => depth += 1,
            ')' => depth = depth.saturating_sub(1),
            '%' if depth == 0 => return Some((&text[..at], &text[at + 1..])),
            _ => {}
        }
    }
    None
}

enum Fault {
    /// One of Envoy's, or a slip.
    Unknown(String),
    NoCommand(String),
}

fn value(command: &str) -> Result<(LogValue, Option<usize>), Fault> {
    let (name, argument, longest) = match command.split_once('(') {
        None => (command, None, None),
        Some((name, rest)) => {
            let no_command = || Fault::NoCommand(name.to_owned());
            let (argument, after) = rest.rsplit_once(')').ok_or_else(no_command)?;
            let longest = match after.strip_prefix(':') {
                Some(number) => Some(number.parse::<usize>().map_err(|_| no_command())?),
                None if after.is_empty() => None,
                None => return Err(no_command()),
            };
            (name, Some(argument), longest)
        }
    };
    let of = match (name, argument) {
        ("REQ", Some(names)) => {
            let (name, instead) = headers(names);
            LogValue::RequestHeader(name, instead)
        }
        ("RESP", Some(names)) => {
            let (name, instead) = headers(names);
            LogValue::ResponseHeader(name, instead)
        }
        ("START_TIME", format) => LogValue::StartTime(format.filter(|format| !format.is_empty()).map(str::to_owned)),
        ("FILTER_STATE", Some(key)) => {
            let key = key.split(':').next().unwrap_or_default();
            let key = key.strip_prefix("wasm.").unwrap_or(key);
            // What Higress' log-request-response writes under these, this one's puts beside what other plugins log.
            let own = key.strip_prefix("log-").filter(|_| PARTS.contains(&key)).map(|part| part.replace('-', "_"));
            LogValue::PluginValue(own.unwrap_or_else(|| key.to_owned()))
        }
        (name, argument) => match PLAIN.iter().find(|(plain, _)| *plain == name) {
            Some((_, of)) if argument.is_none() => of.clone(),
            _ if is_command(name) => return Err(Fault::Unknown(name.to_owned())),
            _ => return Err(Fault::NoCommand(name.to_owned())),
        },
    };
    Ok((of, longest))
}

fn is_command(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_')
}

/// `X-A?:PATH`: the second where the first is missing.
fn headers(names: &str) -> (String, Option<String>) {
    match names.split_once('?') {
        Some((name, instead)) => (name.to_ascii_lowercase(), Some(instead.to_ascii_lowercase())),
        None => (names.to_ascii_lowercase(), None),
    }
}

fn shortened(text: &str) -> String {
    text.chars().take(20).collect()
}

//! Dubbo's frame (protocol 2): sixteen bytes of head, then Hessian values.

use bytes::Bytes;
use serde_json::{Map, Value, json};

use super::hessian::{Number, Reader, Unreadable, Writer};
use super::mapping::Call;

pub const HEAD_BYTES: usize = 16;

const MAGIC: [u8; 2] = [0xda, 0xbb];

/// Flags of the third byte; the lower five bits are the serialization.
const REQUEST: u8 = 0x80;
const TWO_WAY: u8 = 0x40;
const EVENT: u8 = 0x20;
const HESSIAN: u8 = 2;

const OK: u8 = 20;

/// What the other end is told we speak, as Higress tells it.
const VERSION: &str = "2.7.1";

/// The one method of `GenericService`: method name, parameter types, arguments.
const GENERIC_METHOD: &str = "$invoke";
const GENERIC_TYPES: &str = "Ljava/lang/String;[Ljava/lang/String;[Ljava/lang/Object;";

/// The whole frame of a call.
pub fn request(id: u64, call: &Call<'_>) -> Vec<u8> {
    let version = if call.version.is_empty() { "0.0.0" } else { call.version };
    let mut writer = Writer::default();
    for text in [VERSION, call.interface, version, GENERIC_METHOD, GENERIC_TYPES, call.method] {
        writer.string(text);
    }
    writer.list(|writer| call.arguments.iter().for_each(|argument| writer.string(argument.java_type)));
    writer.list(|writer| {
        for argument in &call.arguments {
            let is_int = matches!(
                argument.java_type,
                "int" | "java.lang.Integer" | "short" | "java.lang.Short" | "byte" | "java.lang.Byte"
            );
            writer.value(&argument.value, if is_int { Number::Int } else { Number::Long });
        }
    });
    writer.map(|writer| {
        let own = [("path", call.interface), ("interface", call.interface), ("version", version), ("generic", "true")];
        let group = call.group.map(|group| ("group", group));
        // A client's header must not take the place of what Dubbo itself looks at.
        let is_free = |name: &str| name != "group" && own.iter().all(|(other, _)| *other != name);
        for (name, value) in call.attachments.iter().filter(|(name, _)| is_free(name)) {
            writer.string(name);
            writer.string(value);
        }
        for (name, value) in own.into_iter().chain(group) {
            writer.string(name);
            writer.string(value);
        }
    });
    let body = writer.into_bytes();
    let mut frame = Vec::with_capacity(HEAD_BYTES + body.len());
    frame.extend(MAGIC);
    frame.extend([REQUEST | TWO_WAY | HESSIAN, 0]);
    frame.extend(id.to_be_bytes());
    frame.extend(u32::try_from(body.len()).unwrap_or(u32::MAX).to_be_bytes());
    frame.extend(body);
    frame
}

/// The head of a frame that arrives.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    pub id: u64,
    pub body_bytes: usize,
    /// A heartbeat or the like.
    pub is_event: bool,
    is_response: bool,
    status: u8,
}

impl Head {
    /// `None` if this is no frame of Dubbo.
    pub fn read(bytes: [u8; HEAD_BYTES]) -> Option<Head> {
        let [m0, m1, flags, status, id @ .., l0, l1, l2, l3] = bytes;
        if [m0, m1] != MAGIC {
            return None;
        }
        Some(Head {
            id: u64::from_be_bytes(id),
            body_bytes: usize::try_from(u32::from_be_bytes([l0, l1, l2, l3])).ok()?,
            is_event: flags & EVENT != 0,
            is_response: flags & REQUEST == 0,
            status,
        })
    }

    /// Whether this is the answer to a call.
    pub fn answers(&self, id: u64) -> bool {
        self.is_response && !self.is_event && self.id == id
    }
}

/// Why a frame is no answer to pass on.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("the service answered with status {status}: {message}")]
    Status { status: u8, message: String },
    #[error("the service's answer cannot be read: {0}")]
    Unreadable(#[from] Unreadable),
    #[error("the service's answer is of no known sort ({0})")]
    Sort(Value),
}

/// The answer as JSON, in the form Higress gives it: `result` or `error`, and `attachment`; null for nothing.
///
/// # Errors
/// The service failed before or instead of the method, or said something unreadable.
pub fn response(head: Head, body: &[u8]) -> Result<Bytes, Refusal> {
    let mut reader = Reader::new(body);
    if head.status != OK {
        let message = reader.value()?;
        let message = message.as_str().map_or_else(|| message.to_string(), str::to_owned);
        // Java adds its stack; the first line says what it is.
        let message = message.lines().next().unwrap_or_default().to_owned();
        return Err(Refusal::Status { status: head.status, message });
    }
    let sort = reader.value()?;
    let (name, has_attachment) = match sort.as_u64() {
        Some(0) => (Some("error"), false),
        Some(1) => (Some("result"), false),
        Some(2) => (None, false),
        Some(3) => (Some("error"), true),
        Some(4) => (Some("result"), true),
        Some(5) => (None, true),
        _ => return Err(Refusal::Sort(sort)),
    };
    let mut answer = Map::new();
    if let Some(name) = name {
        answer.insert(name.to_owned(), reader.value()?);
    }
    if has_attachment {
        answer.insert("attachment".to_owned(), reader.value()?);
    }
    let answer = if answer.is_empty() { Value::Null } else { json!(answer) };
    Ok(Bytes::from(answer.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rpc::mapping::Argument;

    fn call<'a>(arguments: Vec<Argument<'a>>, attachments: Vec<(String, String)>) -> Call<'a> {
        Call { interface: "com.a.Demo", version: "", group: Some("dev"), method: "sayHello", arguments, attachments }
    }

    #[test]
    fn a_call_has_the_bytes_java_expects() {
        let arguments = vec![
            Argument { java_type: "java.lang.String", value: json!("hi") },
            Argument { java_type: "int", value: json!(5) },
            Argument { java_type: "long", value: json!(5) },
        ];
        let attachments = vec![("x-id".to_owned(), "7".to_owned()), ("group".to_owned(), "forged".to_owned())];
        let frame = request(0x0102, &call(arguments, attachments));
        let mut expected = b"\xda\xbb\xc2\x00\x00\x00\x00\x00\x00\x00\x01\x02\x00\x00\x00\xe4".to_vec();
        expected.extend(b"\x052.7.1\x0acom.a.Demo\x050.0.0\x07$invoke");
        expected.extend(b"\x30\x38Ljava/lang/String;[Ljava/lang/String;[Ljava/lang/Object;\x08sayHello");
        expected.extend(b"\x57\x10java.lang.String\x03int\x04longZ");
        expected.extend(b"\x57\x02hi\x95\xe5Z");
        expected.extend(b"H\x04x-id\x017\x04path\x0acom.a.Demo\x09interface\x0acom.a.Demo\x07version\x050.0.0");
        expected.extend(b"\x07generic\x04true\x05group\x03devZ");
        let length = u32::try_from(expected.len() - HEAD_BYTES).unwrap();
        expected[12..16].copy_from_slice(&length.to_be_bytes());
        assert_eq!(frame, expected, "{}", frame.escape_ascii());
    }

    fn head(status: u8, body: &[u8]) -> Head {
        let mut bytes = [0; HEAD_BYTES];
        bytes[..4].copy_from_slice(&[0xda, 0xbb, 0x02, status]);
        bytes[11] = 9;
        bytes[12..].copy_from_slice(&u32::try_from(body.len()).unwrap().to_be_bytes());
        Head::read(bytes).unwrap()
    }

    #[test]
    fn answers_of_every_sort() {
        for (body, expected) in [
            (&b"\x91\x02hi"[..], r#"{"result":"hi"}"#),
            (b"\x92", "null"),
            (b"\x90H\x07message\x03badZ", r#"{"error":{"message":"bad"}}"#),
            (b"\x94\x91H\x01a\x01bZ", r#"{"result":1,"attachment":{"a":"b"}}"#),
            (b"\x95H\x01a\x01bZ", r#"{"attachment":{"a":"b"}}"#),
            (b"\x93\x01xHZ", r#"{"error":"x","attachment":{}}"#),
        ] {
            let head = head(OK, body);
            assert!(head.answers(9) && !head.answers(8) && head.body_bytes == body.len());
            assert_eq!(response(head, body).unwrap(), expected);
        }
        let body = b"\x0fno such\nat java";
        let refusal = response(head(40, body), body).unwrap_err();
        assert_eq!(refusal, Refusal::Status { status: 40, message: "no such".to_owned() });
        assert!(response(head(OK, b"\x99"), b"\x99").is_err());
        assert_eq!(Head::read(*b"HTTP/1.1 400 Bad"), None);
    }
}

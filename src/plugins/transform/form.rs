//! Named values as queries and form bodies carry them: `application/x-www-form-urlencoded` and `multipart/form-data`.

use std::borrow::Cow;

use bytes::Bytes;
use memchr::memmem;
use percent_encoding::percent_decode;

use crate::llm::multipart::boundary;

/// Names with their values, in order of first appearance. Bytes that are no Unicode stand in the texts as `ODD` characters, so that rules reach
/// every pair and what they leave alone stays as it came.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Values {
    pairs: Vec<(String, Vec<String>)>,
}

impl Values {
    /// Reads `a=b&c=d`, decoding `%XX` and `+`.
    pub fn parse(encoded: &[u8]) -> Values {
        let mut values = Values::default();
        for pair in encoded.split(|byte| *byte == b'&').filter(|pair| !pair.is_empty()) {
            let spaced: Vec<u8> = pair.iter().map(|byte| if *byte == b'+' { b' ' } else { *byte }).collect();
            let mut halves = spaced.splitn(2, |byte| *byte == b'=');
            let mut decoded = || text_of(&Cow::from(percent_decode(halves.next().unwrap_or_default())));
            let (name, value) = (decoded(), decoded());
            values.push(&name, value);
        }
        values
    }

    pub fn get(&self, name: &str) -> &[String] {
        self.pairs.iter().find(|(own, _)| own == name).map_or(&[], |(_, values)| values)
    }

    /// Gives `name` these values and no others; none removes it.
    pub fn replace(&mut self, name: &str, values: &[String]) {
        match self.pairs.iter_mut().find(|(own, _)| own == name) {
            Some(_) if values.is_empty() => self.pairs.retain(|(own, _)| own != name),
            Some((_, own)) => *own = values.to_vec(),
            None if values.is_empty() => {}
            None => self.pairs.push((name.to_owned(), values.to_vec())),
        }
    }

    fn push(&mut self, name: &str, value: String) {
        match self.pairs.iter_mut().find(|(own, _)| own == name) {
            Some((_, values)) => values.push(value),
            None => self.pairs.push((name.to_owned(), vec![value])),
        }
    }

    /// Names in alphabetical order and escaped as Go's `url.Values` does it, so that signatures and caches over the query
    /// see what they see behind Higress.
    pub fn encode(&self) -> String {
        let mut sorted: Vec<&(String, Vec<String>)> = self.pairs.iter().collect();
        sorted.sort_by(|a, b| a.0.cmp(&b.0));
        let mut encoded = String::new();
        for (name, values) in sorted {
            for value in values {
                if !encoded.is_empty() {
                    encoded.push('&');
                }
                escape(name, &mut encoded);
                encoded.push('=');
                escape(value, &mut encoded);
            }
        }
        encoded
    }
}

/// The last 256 code points, which nobody uses: one for each byte that is no Unicode.
const ODD: u32 = 0x10_FF00;

/// `bytes` as text, without loss. A character that means an odd byte here counts as four of them.
pub fn text_of(bytes: &[u8]) -> String {
    let mut text = String::with_capacity(bytes.len());
    let odd = |byte: &u8| char::from_u32(ODD + u32::from(*byte)).unwrap_or(char::REPLACEMENT_CHARACTER);
    for chunk in bytes.utf8_chunks() {
        for c in chunk.valid().chars() {
            match c as u32 {
                ODD.. => text.extend(c.encode_utf8(&mut [0; 4]).as_bytes().iter().map(odd)),
                _ => text.push(c),
            }
        }
        text.extend(chunk.invalid().iter().map(odd));
    }
    text
}

/// What [`text_of`] was given.
pub fn bytes_of(text: &str) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(text.len());
    for c in text.chars() {
        match u8::try_from((c as u32).wrapping_sub(ODD)) {
            Ok(odd) => bytes.push(odd),
            Err(_) => bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
    }
    bytes
}

/// Such a text where only Unicode can stand.
pub fn shown(text: &str) -> String {
    String::from_utf8_lossy(&bytes_of(text)).into_owned()
}

fn escape(text: &str, encoded: &mut String) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for byte in bytes_of(text) {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => encoded.push(char::from(byte)),
            b' ' => encoded.push('+'),
            _ => {
                encoded.push('%');
                encoded.push(char::from(HEX[usize::from(byte >> 4)]));
                encoded.push(char::from(HEX[usize::from(byte & 15)]));
            }
        }
    }
}

/// A form body, taken apart.
pub enum Form {
    UrlEncoded(Values),
    /// Text fields, and the parts that are files exactly as they came, head included.
    Multipart {
        boundary: String,
        fields: Values,
        files: Vec<Bytes>,
    },
}

impl Form {
    /// `None` if the body is not of this type, or not a form at all.
    pub fn parse(content_type: &str, body: &Bytes) -> Option<Form> {
        if media_type(content_type) == "application/x-www-form-urlencoded" {
            return Some(Form::UrlEncoded(Values::parse(body)));
        }
        let boundary = boundary(content_type)?;
        let (mut fields, mut files) = (Values::default(), Vec::new());
        for part in parts(body, boundary)? {
            let (head, value) = head_and_value(&part)?;
            let head = std::str::from_utf8(head).ok()?;
            let is_file = ["filename", "filename*"].iter().any(|name| parameter(head, name).is_some());
            let name = parameter(head, "name").filter(|name| !name.is_empty() && !is_file);
            match name {
                Some(name) => fields.push(name, text_of(value)),
                None => files.push(part),
            }
        }
        Some(Form::Multipart { boundary: boundary.to_owned(), fields, files })
    }

    pub fn fields(&mut self) -> &mut Values {
        match self {
            Form::UrlEncoded(fields) | Form::Multipart { fields, .. } => fields,
        }
    }

    /// The body again. Files come after the text fields, where services that read a form as a stream want them.
    pub fn encode(&self) -> Bytes {
        match self {
            Form::UrlEncoded(fields) => fields.encode().into(),
            Form::Multipart { boundary, fields, files } => {
                let mut body = Vec::new();
                for (name, values) in &fields.pairs {
                    let name = name.replace('"', "%22");
                    for value in values {
                        let head = format!("--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n");
                        body.extend_from_slice(head.as_bytes());
                        body.extend_from_slice(&bytes_of(value));
                        body.extend_from_slice(b"\r\n");
                    }
                }
                for file in files {
                    body.extend_from_slice(format!("--{boundary}\r\n").as_bytes());
                    body.extend_from_slice(file);
                    body.extend_from_slice(b"\r\n");
                }
                body.extend_from_slice(format!("--{boundary}--\r\n").as_bytes());
                body.into()
            }
        }
    }
}

/// Media type without parameters, lower case.
pub fn media_type(content_type: &str) -> String {
    content_type.split(';').next().unwrap_or_default().trim().to_ascii_lowercase()
}

/// The parts between the delimiters, heads included, without the line breaks that belong to the delimiters. `None` if the body is broken
/// off: what came of it must not look whole. Line breaks may lack their CR, as in Go.
fn parts(body: &Bytes, boundary: &str) -> Option<Vec<Bytes>> {
    let delimiter = format!("--{boundary}");
    let (mut found, mut begin) = (Vec::new(), None);
    for at in memmem::find_iter(body, &delimiter).filter(|at| *at == 0 || body[at - 1] == b'\n') {
        let rest = &body[at + delimiter.len()..];
        let is_last = rest.starts_with(b"--");
        let next = line_break(rest).map(|length| at + delimiter.len() + length);
        // Anything else that begins like it is content.
        if !is_last && next.is_none() {
            continue;
        }
        if let Some(begin) = begin {
            let part = body.get(begin..at)?;
            let part = part.strip_suffix(b"\r\n").or_else(|| part.strip_suffix(b"\n"))?;
            found.push(body.slice_ref(part));
        }
        if is_last {
            return Some(found);
        }
        begin = next;
    }
    None
}

/// Length of the rest of a delimiter's line, which is space, if it is.
fn line_break(rest: &[u8]) -> Option<usize> {
    let end = memchr::memchr(b'\n', rest)?;
    rest[..end].iter().all(|byte| b" \t\r".contains(byte)).then_some(end + 1)
}

fn head_and_value(part: &[u8]) -> Option<(&[u8], &[u8])> {
    let with_cr = memmem::find(part, b"\r\n\r\n").map(|at| (at, 4));
    let without = memmem::find(part, b"\n\n").map(|at| (at, 2));
    let (at, length) = [with_cr, without].into_iter().flatten().min()?;
    Some((&part[..at], &part[at + length..]))
}

/// A parameter of `Content-Disposition`.
fn parameter<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    let line = head.lines().find_map(|line| {
        let (field, value) = line.split_once(':')?;
        field.trim().eq_ignore_ascii_case("content-disposition").then_some(value)
    })?;
    line.split(';').find_map(|parameter| {
        let (own, value) = parameter.split_once('=')?;
        own.trim().eq_ignore_ascii_case(name).then(|| value.trim().trim_matches('"'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queries_are_written_as_go_writes_them() {
        let mut values = Values::parse(b"b=2&a=1&b=x+y%2F&empty=&c");
        assert_eq!(values.get("b"), ["2", "x y/"]);
        assert_eq!(values.encode(), "a=1&b=2&b=x+y%2F&c=&empty=");
        values.replace("b", &[]);
        values.replace("~*", &["ü".into()]);
        assert_eq!(values.encode(), "a=1&c=&empty=&~%2A=%C3%BC");
    }

    #[test]
    fn files_of_a_form_survive_a_change_of_its_fields() {
        let body = "--B\r\nContent-Disposition: form-data; name=\"f\"; filename=\"a.bin\"\r\n\r\n\u{0}\u{1}--x\r\n--B\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n1\r\n--B--\r\n";
        let mut form = Form::parse("multipart/form-data; boundary=B", &Bytes::from(body)).unwrap();
        assert_eq!(form.fields().get("a"), ["1"]);
        form.fields().replace("a", &["2".into(), "3".into()]);
        let expected = "--B\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n2\r\n--B\r\nContent-Disposition: form-data; name=\"a\"\r\n\r\n3\r\n--B\r\nContent-Disposition: form-data; name=\"f\"; filename=\"a.bin\"\r\n\r\n\u{0}\u{1}--x\r\n--B--\r\n";
        assert_eq!(form.encode(), expected);
        assert!(Form::parse("text/plain", &Bytes::from("a=1")).is_none());
    }

    #[test]
    fn what_is_no_unicode_stays_as_it_came() {
        let mut values = Values::parse(b"kw=%C4%E3&b=1&\xff=2");
        values.replace("b", &["2".into()]);
        assert_eq!(values.encode(), "b=2&kw=%C4%E3&%FF=2");
        let body = b"--B\r\nContent-Disposition: form-data; name=\"k\"\r\n\r\n\xc4\xe3\r\n--B--\r\n";
        let form = Form::parse("multipart/form-data; boundary=B", &Bytes::from_static(body)).unwrap();
        assert_eq!(form.encode(), body[..]);
    }

    #[test]
    fn a_byte_that_is_no_unicode_keeps_no_pair_from_the_rules() {
        let odd = "\u{10FFC3}\u{10FF00}";
        let query = format!("debug=%FF&role=admin%FF%c3&odd={odd}");
        let mut values = Values::parse(query.as_bytes());
        assert_eq!(values.get("role").len(), 1);
        values.replace("debug", &[]);
        values.replace("role", &["user".into()]);
        assert_eq!(values.encode(), "odd=%F4%8F%BF%83%F4%8F%BC%80&role=user");
    }

    #[test]
    fn multipart_bodies_are_cut_at_their_delimiters_and_nowhere_else() {
        let parsed = |body: &str| {
            let mut form = Form::parse("multipart/form-data; boundary=B", &Bytes::from(body.to_owned()))?;
            let fields = form.fields().clone();
            let Form::Multipart { files, .. } = form else { return None };
            Some((fields.get("a").to_vec(), files.len()))
        };
        let field = "Content-Disposition: form-data; name=\"a\"";
        let file = "Content-Disposition: form-data; name=\"f\"; filename*=UTF-8''x";
        let one = || Some((vec!["1".to_owned()], 0));
        assert_eq!(parsed(&format!("--B\n{field}\n\n1\n--B--\n")), one(), "without CR");
        assert_eq!(parsed(&format!("--B  \r\n{field}\r\n\r\n1\r\n--B--")), one(), "space behind the delimiter");
        assert_eq!(parsed(&format!("--B\r\n{field}\r\n\r\n1\r\n")), None, "broken off");
        let content = format!("--B\r\n{file}\r\n\r\nx--B\r\n--Bx\r\n--B\r\n{field}\r\n\r\n1\r\n--B--\r\n");
        assert_eq!(parsed(&content), Some((vec!["1".to_owned()], 1)), "a file with what looks like delimiters");
    }
}

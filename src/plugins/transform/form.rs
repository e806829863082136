//! Named values as queries and form bodies carry them: `application/x-www-form-urlencoded` and `multipart/form-data`.

use bytes::Bytes;
use memchr::memmem;

use crate::llm::multipart::boundary;

/// Names with their values, in order of first appearance.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Values(Vec<(String, Vec<String>)>);

impl Values {
    /// Reads `a=b&c=d`, decoding `%XX` and `+`.
    pub fn parse(encoded: &[u8]) -> Values {
        let mut values = Values::default();
        for (name, value) in form_urlencoded::parse(encoded) {
            values.push(&name, value.into_owned());
        }
        values
    }

    pub fn get(&self, name: &str) -> &[String] {
        self.0.iter().find(|(own, _)| own == name).map_or(&[], |(_, values)| values)
    }

    /// Gives `name` these values and no others; none removes it.
    pub fn replace(&mut self, name: &str, values: &[String]) {
        match self.0.iter_mut().find(|(own, _)| own == name) {
            Some(_) if values.is_empty() => self.0.retain(|(own, _)| own != name),
            Some((_, own)) => *own = values.to_vec(),
            None if values.is_empty() => {}
            None => self.0.push((name.to_owned(), values.to_vec())),
        }
    }

    fn push(&mut self, name: &str, value: String) {
        match self.0.iter_mut().find(|(own, _)| own == name) {
            Some((_, values)) => values.push(value),
            None => self.0.push((name.to_owned(), vec![value])),
        }
    }

    /// Names in alphabetical order and escaped as Go's `url.Values` does it, so that signatures and caches over the query
    /// see what they see behind Higress.
    pub fn encode(&self) -> String {
        let mut sorted: Vec<&(String, Vec<String>)> = self.0.iter().collect();
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

fn escape(text: &str, encoded: &mut String) {
    const HEX: &[u8; 16] = b"0123456789ABCDEF";
    for byte in text.bytes() {
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
        for part in parts(body, boundary) {
            let split = memmem::find(&part, b"\r\n\r\n")?;
            let head = std::str::from_utf8(&part[..split]).ok()?;
            let is_file = parameter(head, "filename").is_some();
            match parameter(head, "name").filter(|name| !name.is_empty() && !is_file) {
                Some(name) => fields.push(name, String::from_utf8_lossy(&part[split + 4..]).into_owned()),
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
                for (name, values) in &fields.0 {
                    let name = name.replace('"', "%22");
                    for value in values {
                        let head = format!(
                            "--{boundary}\r\nContent-Disposition: form-data; name=\"{name}\"\r\n\r\n{value}\r\n"
                        );
                        body.extend_from_slice(head.as_bytes());
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

/// The parts between the delimiters, heads included, without the line breaks that belong to the delimiters.
fn parts(body: &Bytes, boundary: &str) -> Vec<Bytes> {
    let delimiter = format!("--{boundary}");
    let found: Vec<usize> = memmem::find_iter(body, &delimiter).collect();
    let bounds = found.windows(2).map(|pair| (pair[0] + delimiter.len(), pair[1]));
    let inner = bounds.filter_map(|(start, end)| {
        let part = body.slice(start..end);
        let part = part.strip_prefix(b"\r\n".as_slice())?.strip_suffix(b"\r\n".as_slice())?;
        Some(body.slice_ref(part))
    });
    inner.collect()
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
}

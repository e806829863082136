//! Reading and replacing one text field of a `multipart/form-data` body (audio and image requests name their model there).
//!
//! Works on byte ranges: every other part stays as it is, whatever it holds.

use std::ops::Range;

use bytes::{Bytes, BytesMut};
use memchr::memmem;

/// The boundary named by a `content-type` value, if it is multipart form data.
pub fn boundary(content_type: &str) -> Option<&str> {
    let (kind, parameters) = content_type.split_once(';')?;
    if !kind.trim().eq_ignore_ascii_case("multipart/form-data") {
        return None;
    }
    parameters.split(';').find_map(|parameter| {
        let (name, value) = parameter.split_once('=')?;
        let value = value.trim().trim_matches('"');
        (name.trim().eq_ignore_ascii_case("boundary") && !value.is_empty()).then_some(value)
    })
}

/// The value of the first field called `name`, if it is UTF-8 text.
pub fn field<'a>(body: &'a [u8], boundary: &str, name: &str) -> Option<&'a str> {
    let span = find(body, boundary, name)?;
    std::str::from_utf8(&body[span]).ok()
}

/// `body` with the value of the first field called `name` replaced; `None` if there is no such field.
pub fn with_field(body: &Bytes, boundary: &str, name: &str, value: &str) -> Option<Bytes> {
    let span = find(body, boundary, name)?;
    let mut changed = BytesMut::with_capacity(body.len() + value.len());
    changed.extend_from_slice(&body[..span.start]);
    changed.extend_from_slice(value.as_bytes());
    changed.extend_from_slice(&body[span.end..]);
    Some(changed.freeze())
}

fn find(body: &[u8], boundary: &str, name: &str) -> Option<Range<usize>> {
    let delimiter = format!("--{boundary}");
    let finder = memmem::Finder::new(&delimiter);
    let mut start = finder.find(body)? + delimiter.len();
    loop {
        let end = start + finder.find(&body[start..])?;
        let part = &body[start..end];
        if let Some(blank) = memmem::find(part, b"\r\n\r\n")
            && names(&part[..blank], name)
        {
            let value_end = if part.ends_with(b"\r\n") { end - 2 } else { end };
            let value_start = start + blank + 4;
            return (value_start <= value_end).then_some(value_start..value_end);
        }
        start = end + delimiter.len();
    }
}

/// Whether the part's head is `Content-Disposition: form-data; name="<name>"`.
fn names(head: &[u8], name: &str) -> bool {
    let Ok(head) = std::str::from_utf8(head) else { return false };
    head.lines().any(|line| {
        let Some((header, value)) = line.split_once(':') else { return false };
        header.trim().eq_ignore_ascii_case("content-disposition")
            && value.split(';').any(|parameter| {
                parameter.trim().strip_prefix("name=").is_some_and(|quoted| quoted.trim_matches('"') == name)
            })
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BODY: &[u8] = b"--b\r\nContent-Disposition: form-data; name=\"file\"; filename=\"model\"\r\n\r\n\xff\xfe\r\n--b\r\ncontent-disposition: form-data; name=model\r\n\r\nold\r\n--b--\r\n";

    #[test]
    fn one_field_is_found_and_replaced() {
        assert_eq!(field(BODY, "b", "model"), Some("old"));
        assert_eq!(field(BODY, "b", "filename"), None);
        assert_eq!(field(BODY, "b", "file"), None, "not text");
        let changed = with_field(&Bytes::from_static(BODY), "b", "model", "newer").unwrap();
        assert_eq!(field(&changed, "b", "model"), Some("newer"));
        assert_eq!(changed.len(), BODY.len() + 2);
    }

    #[test]
    fn boundaries_are_read_from_the_content_type() {
        assert_eq!(boundary("multipart/form-data; boundary=\"a b\""), Some("a b"));
        assert_eq!(boundary("Multipart/Form-Data; charset=x; Boundary=z"), Some("z"));
        assert_eq!(boundary("multipart/mixed; boundary=z"), None);
        assert_eq!(boundary("multipart/form-data"), None);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_without_panic(body in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = field(&body, "b", "model");
        }
    }
}

//! The cookies of a request. One may be no text at all; it hides no other.

use http::HeaderValue;
use http::header::COOKIE;
use pingora_http::RequestHeader;

/// The first cookie of that name that is text, as written.
pub fn cookie<'h>(head: &'h RequestHeader, name: &str) -> Option<&'h str> {
    let mut of_name = pairs(head).filter(|pair| name_of(pair) == name.as_bytes());
    of_name.find_map(|pair| std::str::from_utf8(pair).ok()?.split_once('=')).map(|(_, value)| value)
}

/// The first cookie of that name, without the quotes it may stand in.
pub fn unquoted<'h>(head: &'h RequestHeader, name: &str) -> Option<&'h str> {
    let value = cookie(head, name)?;
    Some(value.strip_prefix('"').and_then(|value| value.strip_suffix('"')).unwrap_or(value))
}

/// Takes the cookies of that name out of a head; the others stay as written.
pub fn remove(head: &mut RequestHeader, name: &str) {
    let others = pairs(head).filter(|pair| name_of(pair) != name.as_bytes()).collect::<Vec<_>>().join(&b"; "[..]);
    head.remove_header(&COOKIE);
    if let Ok(others) = HeaderValue::from_bytes(&others)
        && !others.is_empty()
    {
        // Of a name and a value.
        let _ = head.insert_header(COOKIE, others);
    }
}

/// In written order, of all headers.
fn pairs(head: &RequestHeader) -> impl Iterator<Item = &[u8]> {
    let headers = head.headers.get_all(COOKIE).into_iter().map(HeaderValue::as_bytes);
    headers
        .flat_map(|header| header.split(|byte| *byte == b';'))
        .map(<[u8]>::trim_ascii)
        .filter(|pair| !pair.is_empty())
}

fn name_of(pair: &[u8]) -> &[u8] {
    pair.split(|byte| *byte == b'=').next().unwrap_or_default().trim_ascii_end()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn head() -> RequestHeader {
        let mut head = RequestHeader::build("GET", b"/", None).unwrap();
        head.append_header(COOKIE, HeaderValue::from_bytes(b"n=\xff; a = \"1\";b").unwrap()).unwrap();
        head.append_header(COOKIE, " a=2; b=x=y;c=\"; aa=3; q=\"4\"").unwrap();
        head
    }

    #[test]
    fn the_first_of_a_name_counts_and_what_is_no_text_hides_nothing() {
        let head = head();
        let both = |name| (cookie(&head, name), unquoted(&head, name));
        assert_eq!(both("a"), (Some(" \"1\""), Some(" \"1\"")));
        assert_eq!(both("b"), (Some("x=y"), Some("x=y")));
        assert_eq!(both("c"), (Some("\""), Some("\"")));
        assert_eq!((both("n"), both("x")), ((None, None), (None, None)));
        assert_eq!(both("q"), (Some("\"4\""), Some("4")));
    }

    #[test]
    fn all_of_a_name_are_removed_and_nothing_else() {
        let mut head = head();
        remove(&mut head, "a");
        assert_eq!(head.headers[COOKIE].as_bytes(), b"n=\xff; b; b=x=y; c=\"; aa=3; q=\"4\"");
        for name in ["n", "b", "c", "aa", "q"] {
            remove(&mut head, name);
        }
        assert!(!head.headers.contains_key(COOKIE));
    }
}

//! A cursor over JSON text that yields byte ranges and builds nothing.
//!
//! Used by [`request`](super::request) and [`splice`](super::splice), which must know *where* a member stands, at the cost
//! of one pass over a prompt of any size. The grammar is checked throughout (RFC 8259); whether strings are UTF-8 is not,
//! which is a pass of its own where it matters. The cursor never recurses, so nesting costs one bit per level; deeper than
//! [`MAX_DEPTH`] is refused, which is also what `serde_json` accepts at most.

use std::borrow::Cow;
use std::ops::Range;

use memchr::memchr;

/// Arrays and objects inside one another. One less than the recursion limit of `serde_json`, so that whatever passes
/// here can be read there.
pub const MAX_DEPTH: u32 = 127;

/// Where and why a text is not JSON.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{reason} at byte {offset}")]
pub struct JsonError {
    pub offset: usize,
    pub reason: &'static str,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    Object,
    Array,
    String,
    Number,
    Bool,
    Null,
}

/// The name of an object member, as written.
#[derive(Debug, Clone, Copy)]
pub struct Key<'a> {
    /// Byte offset of its opening quote.
    pub start: usize,
    quoted: &'a [u8],
}

impl<'a> Key<'a> {
    /// The name without its quotes, escapes not decoded.
    pub fn raw(&self) -> &'a [u8] {
        &self.quoted[1..self.quoted.len() - 1]
    }

    pub fn text(&self) -> Cow<'a, str> {
        unquote(self.quoted)
    }
}

/// A position in a JSON text. Cheap to copy; copying is how to look ahead.
#[derive(Debug, Clone)]
pub struct Cursor<'a> {
    text: &'a [u8],
    pos: usize,
    depth: u32,
}

impl<'a> Cursor<'a> {
    pub fn new(text: &'a [u8]) -> Self {
        Cursor { text, pos: 0, depth: 0 }
    }

    /// What the next value is, judged by its first byte.
    pub fn kind(&mut self) -> Result<Kind, JsonError> {
        self.skip_whitespace();
        match self.peek() {
            Some(b'{') => Ok(Kind::Object),
            Some(b'[') => Ok(Kind::Array),
            Some(b'"') => Ok(Kind::String),
            Some(b'-' | b'0'..=b'9') => Ok(Kind::Number),
            Some(b't' | b'f') => Ok(Kind::Bool),
            Some(b'n') => Ok(Kind::Null),
            Some(_) => Err(self.error("expected a value")),
            None => Err(self.error("the text ends where a value is expected")),
        }
    }

    /// Steps over the next value, whatever it is, and returns its byte range.
    pub fn value(&mut self) -> Result<Range<usize>, JsonError> {
        self.skip_whitespace();
        let start = self.pos;
        let outer = self.depth;
        // One bit per open bracket, 1 for an object; the cursor's depth counts them.
        let mut open: u128 = 0;
        'value: loop {
            match self.kind()? {
                Kind::Object => {
                    self.enter()?;
                    if self.take(b'}') {
                        self.depth -= 1;
                    } else {
                        open = open << 1 | 1;
                        self.key()?;
                        continue 'value;
                    }
                }
                Kind::Array => {
                    self.enter()?;
                    if self.take(b']') {
                        self.depth -= 1;
                    } else {
                        open <<= 1;
                        continue 'value;
                    }
                }
                Kind::String => self.skip_string()?,
                Kind::Number => self.skip_number()?,
                Kind::Bool | Kind::Null => self.skip_word()?,
            }
            // A value is complete: close what ends here, or go on to the next element.
            while self.depth > outer {
                let in_object = open & 1 == 1;
                if self.take(b',') {
                    if in_object {
                        self.key()?;
                    }
                    continue 'value;
                }
                self.close(in_object)?;
                open >>= 1;
            }
            return Ok(start..self.pos);
        }
    }

    /// Steps over the next value and returns its text.
    pub fn raw(&mut self) -> Result<&'a [u8], JsonError> {
        let range = self.value()?;
        Ok(&self.text[range])
    }

    /// Walks the members of the object that starts here. `member` must step over exactly the value it is handed.
    pub fn object(
        &mut self,
        mut member: impl FnMut(&mut Self, Key<'a>) -> Result<(), JsonError>,
    ) -> Result<Range<usize>, JsonError> {
        if self.kind()? != Kind::Object {
            return Err(self.error("expected an object"));
        }
        let start = self.pos;
        self.enter()?;
        if self.take(b'}') {
            self.depth -= 1;
            return Ok(start..self.pos);
        }
        loop {
            let key = self.key()?;
            member(self, key)?;
            if !self.take(b',') {
                self.close(true)?;
                return Ok(start..self.pos);
            }
        }
    }

    /// Walks the elements of the array that starts here. `element` must step over exactly the value it is handed.
    pub fn array(
        &mut self,
        mut element: impl FnMut(&mut Self) -> Result<(), JsonError>,
    ) -> Result<Range<usize>, JsonError> {
        if self.kind()? != Kind::Array {
            return Err(self.error("expected an array"));
        }
        let start = self.pos;
        self.enter()?;
        if self.take(b']') {
            self.depth -= 1;
            return Ok(start..self.pos);
        }
        loop {
            element(self)?;
            if !self.take(b',') {
                self.close(false)?;
                return Ok(start..self.pos);
            }
        }
    }

    /// Checks that nothing but white space follows.
    pub fn end(&mut self) -> Result<(), JsonError> {
        self.skip_whitespace();
        if self.pos == self.text.len() { Ok(()) } else { Err(self.error("unexpected text after the value")) }
    }

    fn enter(&mut self) -> Result<(), JsonError> {
        if self.depth == MAX_DEPTH {
            return Err(self.error("nested more than 127 levels deep"));
        }
        self.depth += 1;
        self.pos += 1;
        Ok(())
    }

    fn close(&mut self, object: bool) -> Result<(), JsonError> {
        let (bracket, expected) = if object {
            (b'}', "expected ',' or '}' after a member")
        } else {
            (b']', "expected ',' or ']' after a value")
        };
        if !self.take(bracket) {
            return Err(self.error(if self.pos == self.text.len() {
                "the text ends inside a value"
            } else {
                expected
            }));
        }
        self.depth -= 1;
        Ok(())
    }

    fn key(&mut self) -> Result<Key<'a>, JsonError> {
        self.skip_whitespace();
        if self.peek() != Some(b'"') {
            return Err(self.error("expected a member name in double quotes"));
        }
        let start = self.pos;
        self.skip_string()?;
        let quoted = &self.text[start..self.pos];
        if !self.take(b':') {
            return Err(self.error("expected ':' after the member name"));
        }
        Ok(Key { start, quoted })
    }

    /// Steps over the string whose opening quote is here.
    fn skip_string(&mut self) -> Result<(), JsonError> {
        let start = self.pos;
        self.pos += 1;
        loop {
            self.pos += plain_prefix(&self.text[self.pos..]);
            match self.peek() {
                Some(b'"') => {
                    self.pos += 1;
                    return Ok(());
                }
                Some(b'\\') => self.skip_escape()?,
                Some(_) => return Err(self.error("an unescaped control character in a string")),
                None => return Err(JsonError { offset: start, reason: "a string that never ends, beginning" }),
            }
        }
    }

    fn skip_escape(&mut self) -> Result<(), JsonError> {
        let rest = &self.text[self.pos + 1..];
        match rest.first() {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => self.pos += 2,
            Some(b'u') if rest.len() > 4 && rest[1..5].iter().all(u8::is_ascii_hexdigit) => self.pos += 6,
            _ => return Err(self.error("an invalid escape in a string")),
        }
        Ok(())
    }

    fn skip_number(&mut self) -> Result<(), JsonError> {
        if self.peek() == Some(b'-') {
            self.pos += 1;
        }
        if self.peek() == Some(b'0') {
            self.pos += 1;
        } else {
            self.digits()?;
        }
        if self.peek() == Some(b'.') {
            self.pos += 1;
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.pos += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.pos += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    fn digits(&mut self) -> Result<(), JsonError> {
        let rest = &self.text[self.pos..];
        match rest.iter().take_while(|byte| byte.is_ascii_digit()).count() {
            0 => Err(self.error("expected a digit")),
            n => {
                self.pos += n;
                Ok(())
            }
        }
    }

    fn skip_word(&mut self) -> Result<(), JsonError> {
        let rest = &self.text[self.pos..];
        match [&b"true"[..], b"false", b"null"].iter().find(|word| rest.starts_with(word)) {
            Some(word) => {
                self.pos += word.len();
                Ok(())
            }
            None => Err(self.error("expected true, false or null")),
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.pos).copied()
    }

    /// Steps over white space, then over `byte` if it stands there.
    fn take(&mut self, byte: u8) -> bool {
        self.skip_whitespace();
        let found = self.peek() == Some(byte);
        if found {
            self.pos += 1;
        }
        found
    }

    fn skip_whitespace(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.pos += 1;
        }
    }

    fn error(&self, reason: &'static str) -> JsonError {
        JsonError { offset: self.pos, reason }
    }
}

/// The value of a string literal, quotes included in `quoted`. Half of a surrogate pair becomes U+FFFD: clients that
/// escape everything do send them, and they must not cost the request. So do bytes that are not UTF-8.
pub fn unquote(quoted: &[u8]) -> Cow<'_, str> {
    let raw = quoted.strip_prefix(b"\"").and_then(|rest| rest.strip_suffix(b"\"")).unwrap_or(quoted);
    let text = std::str::from_utf8(raw).map_or_else(|_| String::from_utf8_lossy(raw), Cow::Borrowed);
    if memchr(b'\\', raw).is_some() { Cow::Owned(unescape_all(&text)) } else { text }
}

fn unescape_all(raw: &str) -> String {
    let mut text = String::with_capacity(raw.len());
    let mut rest = raw;
    while let Some(at) = memchr(b'\\', rest.as_bytes()) {
        text.push_str(&rest[..at]);
        rest = unescape(&rest[at + 1..], &mut text);
    }
    text.push_str(rest);
    text
}

/// `text` as a JSON string literal.
pub fn quote(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

/// Decodes the escape whose backslash stands just before `rest`; returns what follows it.
fn unescape<'a>(rest: &'a str, text: &mut String) -> &'a str {
    let mut chars = rest.chars();
    let plain = match chars.next() {
        Some('u') => return unescape_unit(chars.as_str(), text),
        Some('b') => '\u{8}',
        Some('f') => '\u{c}',
        Some('n') => '\n',
        Some('r') => '\r',
        Some('t') => '\t',
        Some(itself) => itself,
        None => char::REPLACEMENT_CHARACTER,
    };
    text.push(plain);
    chars.as_str()
}

/// Decodes the UTF-16 unit (or pair) of which `rest` holds the hexadecimal digits.
fn unescape_unit<'a>(rest: &'a str, text: &mut String) -> &'a str {
    let unit = |s: &str| s.get(..4).and_then(|digits| u16::from_str_radix(digits, 16).ok());
    let Some(high) = unit(rest) else {
        text.push(char::REPLACEMENT_CHARACTER);
        return rest;
    };
    let after = &rest[4..];
    let low = after.strip_prefix("\\u").and_then(unit);
    match char::decode_utf16([high].into_iter().chain(low)).next() {
        Some(Ok(decoded)) => {
            text.push(decoded);
            if decoded.len_utf16() == 2 { &after[6..] } else { after }
        }
        _ => {
            text.push(char::REPLACEMENT_CHARACTER);
            after
        }
    }
}

/// How many bytes can be stepped over before a quote, a backslash or a control character. Prompts are mostly this loop, so
/// it takes eight bytes at a time: each test leaves the top bit of those bytes set that it is true for. A borrow may mark
/// bytes above a true one too, but the lowest mark is always right.
pub fn plain_prefix(bytes: &[u8]) -> usize {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const TOPS: u64 = ONES << 7;
    let equal_to = |word: u64, byte: u8| {
        let zero_where_equal = word ^ (ONES * u64::from(byte));
        zero_where_equal.wrapping_sub(ONES) & !zero_where_equal
    };
    let (words, tail) = bytes.as_chunks::<8>();
    for (i, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        let control = word.wrapping_sub(ONES * 0x20) & !word;
        let special = (control | equal_to(word, b'"') | equal_to(word, b'\\')) & TOPS;
        if special != 0 {
            return i * 8 + special.trailing_zeros() as usize / 8;
        }
    }
    let special = |byte: &u8| matches!(byte, b'"' | b'\\' | ..0x20);
    words.len() * 8 + tail.iter().position(special).unwrap_or(tail.len())
}

#[cfg(test)]
mod tests;

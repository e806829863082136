//! Bytes into text: byte order mark, what was declared, UTF-8, and only then a guess. Binary data is refused.

use std::borrow::Cow;

use chardetng::{EncodingDetector, Iso2022JpDetection, Utf8Detection};
use encoding_rs::{Encoding, UTF_8, UTF_16BE, UTF_16LE};

use super::error::ReadError;

/// How much is given to the guess; more makes it slower and hardly better.
const GUESS_BYTES: usize = 256 << 10;
/// Where an HTML page has to name its encoding (browsers look at the first 1,024 bytes; real pages are sloppier).
const META_BYTES: usize = 4_096;

/// # Errors
/// The bytes are binary data, or not in the encoding that was declared.
pub fn decode<'a>(bytes: &'a [u8], declared: Option<&str>) -> Result<Cow<'a, str>, ReadError> {
    let declared = declared.and_then(|label| Encoding::for_label(label.as_bytes()));
    checked(decode_as(bytes, declared)?)
}

/// As [`decode`], with what `<meta charset>` says when nobody declared anything.
///
/// # Errors
/// As [`decode`].
pub fn decode_html<'a>(bytes: &'a [u8], declared: Option<&str>) -> Result<Cow<'a, str>, ReadError> {
    let declared = declared.and_then(|label| Encoding::for_label(label.as_bytes())).or_else(|| meta_charset(bytes));
    // Pages are known to name a wrong encoding, so that what is valid UTF-8 is taken as such.
    match std::str::from_utf8(bytes) {
        Ok(text) => checked(Cow::Borrowed(text)),
        Err(_) => checked(match decode_as(bytes, declared) {
            Err(ReadError::WrongEncoding { .. }) => decode_as(bytes, None)?,
            other => other?,
        }),
    }
}

fn decode_as<'a>(bytes: &'a [u8], declared: Option<&'static Encoding>) -> Result<Cow<'a, str>, ReadError> {
    if let Some((encoding, mark_bytes)) = Encoding::for_bom(bytes) {
        return Ok(encoding.decode_without_bom_handling(bytes.get(mark_bytes..).unwrap_or_default()).0);
    }
    if let Some(encoding) = declared.filter(|&encoding| encoding != UTF_8) {
        let (text, had_errors) = encoding.decode_without_bom_handling(bytes);
        let errors = text.matches('\u{fffd}').count();
        if had_errors && errors * 100 > text.chars().count() {
            return Err(ReadError::WrongEncoding { declared: encoding.name().to_owned(), errors });
        }
        return Ok(text);
    }
    if let Some(encoding) = unmarked_utf16(bytes) {
        return Ok(encoding.decode_without_bom_handling(bytes).0);
    }
    match std::str::from_utf8(bytes) {
        // ISO-2022-JP is ASCII with escape sequences, which the guess knows.
        Ok(_) if bytes.windows(2).any(|pair| pair == b"\x1b$") => {}
        Ok(text) => return Ok(Cow::Borrowed(text)),
        Err(error) => {
            // UTF-8 with few bad places (cut off, or glued together) is repaired, not taken for another encoding.
            let text = String::from_utf8_lossy(bytes);
            let bad = text.matches('\u{fffd}').count();
            let good = text.chars().filter(|c| !c.is_ascii() && *c != '\u{fffd}').count();
            let is_cut_off = error.error_len().is_none() && good > 0;
            if is_cut_off || bad * 20 <= good || declared.is_some() && bad * 100 <= text.chars().count() {
                return Ok(Cow::Owned(text.replace('\u{fffd}', "")));
            }
            if declared.is_some() {
                return Err(ReadError::WrongEncoding { declared: UTF_8.name().to_owned(), errors: bad });
            }
        }
    }
    let mut detector = EncodingDetector::new(Iso2022JpDetection::Allow);
    detector.feed(bytes.get(..GUESS_BYTES).unwrap_or(bytes), bytes.len() <= GUESS_BYTES);
    Ok(detector.guess(None, Utf8Detection::Deny).decode_without_bom_handling(bytes).0)
}

/// UTF-16 without a mark shows as a zero in nearly every second byte, for text that is mostly ASCII.
fn unmarked_utf16(bytes: &[u8]) -> Option<&'static Encoding> {
    let head = bytes.get(..1_024).unwrap_or(bytes);
    let zeros = |parity: usize| head.iter().skip(parity).step_by(2).filter(|byte| **byte == 0).count();
    let (even, odd, half) = (zeros(0), zeros(1), head.len() / 2);
    if half < 2 {
        return None;
    }
    match (even * 10 > half * 7, odd * 10 > half * 7) {
        (true, false) if odd == 0 => Some(UTF_16BE),
        (false, true) if even == 0 => Some(UTF_16LE),
        _ => None,
    }
}

/// Text has hardly any control characters; whatever was decoded from binary data has many.
fn checked(text: Cow<'_, str>) -> Result<Cow<'_, str>, ReadError> {
    let (mut zeros, mut controls, mut lost, mut total) = (0usize, 0usize, 0usize, 0usize);
    for c in text.chars() {
        total += 1;
        match c {
            '\0' => zeros += 1,
            '\t' | '\n' | '\r' | '\x0c' | '\x1b' | '\x08' => {}
            '\x01'..='\x1f' | '\x7f' => controls += 1,
            '\u{fffd}' => lost += 1,
            _ => {}
        }
    }
    let what = if zeros * 1_000 > total {
        format!("{zeros} zero bytes")
    } else if (controls + zeros) * 200 > total {
        format!("{} control characters among {total}", controls + zeros)
    } else if lost * 10 > total {
        format!("{lost} of {total} characters are in no known encoding")
    } else {
        return Ok(text);
    };
    Err(ReadError::NotText { expected: "text", what })
}

/// `<meta charset="gbk">` or `<meta http-equiv="content-type" content="text/html; charset=gbk">`.
fn meta_charset(bytes: &[u8]) -> Option<&'static Encoding> {
    let head = String::from_utf8_lossy(bytes.get(..META_BYTES).unwrap_or(bytes)).to_ascii_lowercase();
    head.split("<meta").skip(1).find_map(|tag| {
        let tag = tag.split('>').next()?;
        let (_, value) = tag.split_once("charset")?;
        let value = value.trim_start().strip_prefix('=')?.trim_start().trim_start_matches(['"', '\'']);
        let label = value.split(|c: char| !(c.is_ascii_alphanumeric() || "-_:.".contains(c))).next()?;
        // A page whose bytes we can search for ASCII is not in UTF-16, whatever it says.
        Encoding::for_label(label.as_bytes()).filter(|encoding| encoding.is_ascii_compatible())
    })
}

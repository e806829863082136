//! Fonts: what the codes in a page's strings mean and how wide their glyphs are.

use std::collections::HashMap;
use std::iter;

use encoding_rs::{BIG5, EUC_JP, EUC_KR, Encoding, GBK, SHIFT_JIS, UTF_16BE};
use lopdf::{Dictionary, Object};

use super::bounds::unpacked;
use super::cmap::CMap;
use super::{dictionary, member, number};

/// A character map that unpacks to more is ignored.
const MAX_MAP_BYTES: usize = 8 << 20;
const ONE_BYTE_CODES: usize = 256;
/// Widths are thousandths of the font size.
const UNIT: f64 = 1_000.0;

pub struct Font {
    codes: Codes,
    to_unicode: Option<CMap>,
    widths: Widths,
}

/// How strings are parted into codes, and what a code means without a `ToUnicode` map.
enum Codes {
    /// One byte a character, through a table.
    Simple(Vec<String>),
    /// Two bytes that number glyphs; they mean nothing by themselves.
    Glyphs,
    /// As an embedded character map says.
    Mapped(CMap),
    /// A character encoding of the world outside.
    Encoded(&'static Encoding),
}

struct Widths {
    by_code: HashMap<u32, f64>,
    /// First and last code, and the width of all of them.
    ranges: Vec<(u32, u32, f64)>,
    default: f64,
    /// The font is one that every reader has, and names no widths.
    is_estimated: bool,
}

/// One character of a string.
#[derive(Debug, PartialEq)]
pub struct Shown {
    pub text: String,
    /// As a fraction of the font size.
    pub width: f64,
    /// Whether it is the one-byte space that word spacing widens.
    pub is_space: bool,
}

impl Font {
    pub fn load(pdf: &lopdf::Document, font: &Dictionary) -> Self {
        let to_unicode = match member(pdf, font, b"ToUnicode") {
            Some(Object::Stream(stream)) => {
                unpacked(stream, MAX_MAP_BYTES).map(|content| CMap::parse(&content)).filter(CMap::has_texts)
            }
            _ => None,
        };
        match name(pdf, font, b"Subtype") {
            b"Type0" => {
                let descendant = member(pdf, font, b"DescendantFonts")
                    .and_then(|fonts| fonts.as_array().ok()?.first())
                    .and_then(|font| dictionary(pdf, font));
                let widths = descendant.map_or_else(Widths::unknown, |font| Widths::of_glyphs(pdf, font));
                Self { codes: composite_codes(pdf, font), to_unicode, widths }
            }
            subtype => {
                let table = simple_table(pdf, font, subtype);
                Self { codes: Codes::Simple(table), to_unicode, widths: Widths::of_codes(pdf, font, subtype) }
            }
        }
    }

    /// The characters of a string.
    pub fn show<'a>(&'a self, string: &'a [u8]) -> impl Iterator<Item = Shown> + 'a {
        let mut rest = string;
        iter::from_fn(move || {
            let size = self.code_bytes(rest).min(rest.len());
            let (bytes, after) = rest.split_at(size);
            rest = after;
            (size > 0).then(|| self.shown(bytes))
        })
    }

    fn code_bytes(&self, rest: &[u8]) -> usize {
        match &self.codes {
            Codes::Simple(_) => 1,
            Codes::Glyphs => 2,
            Codes::Mapped(map) => map.code_bytes(rest).unwrap_or(2),
            Codes::Encoded(encoding) if *encoding == UTF_16BE => match rest {
                // A surrogate pair is one character.
                [0xd8..=0xdb, _, 0xdc..=0xdf, _, ..] => 4,
                _ => 2,
            },
            Codes::Encoded(encoding) => match rest.first() {
                None | Some(0..=0x80) => 1,
                // Half-width Japanese letters.
                Some(0xa0..=0xdf) if *encoding == SHIFT_JIS => 1,
                Some(_) => 2,
            },
        }
    }

    fn shown(&self, bytes: &[u8]) -> Shown {
        let code = bytes.iter().fold(0u32, |code, byte| code << 8 | u32::from(*byte));
        let mapped = self.to_unicode.as_ref().and_then(|map| map.text(code));
        let text = mapped.unwrap_or_else(|| match &self.codes {
            Codes::Simple(table) => usize::try_from(code).ok().and_then(|n| table.get(n)).cloned().unwrap_or_default(),
            Codes::Encoded(encoding) => encoding.decode_without_bom_handling(bytes).0.into_owned(),
            Codes::Glyphs | Codes::Mapped(_) => String::new(),
        });
        let width = match &self.codes {
            Codes::Mapped(map) => self.widths.of(map.glyph(code).unwrap_or(code), &text),
            Codes::Encoded(_) if bytes.len() == 1 => 0.5,
            Codes::Encoded(_) => 1.0,
            Codes::Simple(_) | Codes::Glyphs => self.widths.of(code, &text),
        };
        Shown { text, width, is_space: bytes == b" " }
    }
}

fn name<'a>(pdf: &'a lopdf::Document, dictionary: &'a Dictionary, key: &[u8]) -> &'a [u8] {
    member(pdf, dictionary, key).and_then(|object| object.as_name().ok()).unwrap_or_default()
}

fn composite_codes(pdf: &lopdf::Document, font: &Dictionary) -> Codes {
    if let Some(Object::Stream(stream)) = member(pdf, font, b"Encoding") {
        return unpacked(stream, MAX_MAP_BYTES).map_or(Codes::Glyphs, |content| Codes::Mapped(CMap::parse(&content)));
    }
    let encoding = String::from_utf8_lossy(name(pdf, font, b"Encoding")).into_owned();
    let is = |parts: &[&str]| parts.iter().any(|part| encoding.contains(part));
    if is(&["UCS2", "UTF16"]) {
        Codes::Encoded(UTF_16BE)
    } else if is(&["GBK", "GB-EUC", "GBpc", "GBT"]) {
        Codes::Encoded(GBK)
    } else if is(&["RKSJ"]) {
        Codes::Encoded(SHIFT_JIS)
    } else if is(&["KSC"]) {
        Codes::Encoded(EUC_KR)
    } else if is(&["B5", "HKscs"]) {
        Codes::Encoded(BIG5)
    } else if encoding.starts_with("EUC-") {
        Codes::Encoded(EUC_JP)
    } else {
        Codes::Glyphs
    }
}

/// What each byte means in a font with one-byte codes: a named encoding, and what differs from it.
fn simple_table(pdf: &lopdf::Document, font: &Dictionary, subtype: &[u8]) -> Vec<String> {
    let fallback = if subtype == b"TrueType" { &b"WinAnsiEncoding"[..] } else { b"StandardEncoding" };
    let encoding = member(pdf, font, b"Encoding");
    let (base, differences) = match encoding {
        Some(Object::Name(base)) => (base.as_slice(), None),
        Some(Object::Dictionary(encoding)) => (
            name(pdf, encoding, b"BaseEncoding"),
            member(pdf, encoding, b"Differences").and_then(|d| d.as_array().ok()),
        ),
        _ => (fallback, None),
    };
    let known = [&b"WinAnsiEncoding"[..], b"MacRomanEncoding", b"MacExpertEncoding", b"StandardEncoding"];
    let base = if known.contains(&base) { base } else { fallback };
    let mut table = named_encoding(base);
    let mut code = 0usize;
    for object in differences.into_iter().flatten() {
        match pdf.dereference(object) {
            Ok((_, Object::Integer(next))) => code = usize::try_from(*next).unwrap_or(ONE_BYTE_CODES),
            Ok((_, Object::Name(glyph))) => {
                if let (Some(entry), Some(text)) = (table.get_mut(code), glyph_text(glyph)) {
                    *entry = text;
                }
                code = code.saturating_add(1);
            }
            _ => {}
        }
    }
    // TeX's bullet: its symbol font has an encoding of its own that the file need not name.
    if name(pdf, font, b"BaseFont").windows(4).any(|part| part == b"CMSY")
        && let Some(bullet) = table.get_mut(15)
    {
        "•".clone_into(bullet);
    }
    table
}

/// The tables are the library's, which gives them out only as the encoding of a font.
fn named_encoding(name: &[u8]) -> Vec<String> {
    let mut font = Dictionary::new();
    font.set("Type", Object::Name(b"Font".to_vec()));
    font.set("Encoding", Object::Name(name.to_vec()));
    let pdf = lopdf::Document::new();
    let Ok(encoding) = font.get_font_encoding(&pdf) else { return vec![String::new(); ONE_BYTE_CODES] };
    (0..=u8::MAX).map(|byte| encoding.bytes_to_string(&[byte]).unwrap_or_default()).collect()
}

/// The text of a glyph by its name: `eacute`, `uni00E9`, `u1F600`, `f_i`, `a.sc`.
fn glyph_text(name: &[u8]) -> Option<String> {
    let name = std::str::from_utf8(name).ok()?;
    let name = name.split('.').next().filter(|name| !name.is_empty())?;
    if name.len() > 1 && name.contains('_') {
        return name.split('_').map(|part| glyph_text(part.as_bytes())).collect();
    }
    let hex = |digits: &str| u32::from_str_radix(digits, 16).ok().and_then(char::from_u32).map(String::from);
    if let Some(digits) = name.strip_prefix("uni").filter(|digits| digits.len() >= 4) {
        return hex(digits.get(..4)?);
    }
    if let Some(digits) = name.strip_prefix('u').filter(|digits| (4..=6).contains(&digits.len()))
        && let Some(text) = hex(digits)
    {
        return Some(text);
    }
    // Numbered glyphs name nothing.
    if name.len() > 1 && name.trim_start_matches(|c: char| c.is_ascii_alphabetic()).parse::<u32>().is_ok() {
        return None;
    }
    named_glyph(name)
}

fn named_glyph(name: &str) -> Option<String> {
    let mut encoding = Dictionary::new();
    encoding.set("Type", Object::Name(b"Encoding".to_vec()));
    encoding.set("Differences", vec![Object::Integer(0), Object::Name(name.as_bytes().to_vec())]);
    let mut font = Dictionary::new();
    font.set("Type", Object::Name(b"Font".to_vec()));
    font.set("Encoding", Object::Dictionary(encoding));
    let pdf = lopdf::Document::new();
    let text = font.get_font_encoding(&pdf).ok()?.bytes_to_string(&[0]).ok()?;
    (!text.is_empty()).then_some(text)
}

impl Widths {
    fn unknown() -> Self {
        Self { by_code: HashMap::new(), ranges: Vec::new(), default: UNIT, is_estimated: false }
    }

    /// Of a font with one-byte codes: `Widths` from `FirstChar` on.
    fn of_codes(pdf: &lopdf::Document, font: &Dictionary, subtype: &[u8]) -> Self {
        let descriptor = member(pdf, font, b"FontDescriptor").and_then(|object| object.as_dict().ok());
        let missing = descriptor.and_then(|d| number(member(pdf, d, b"MissingWidth")?)).unwrap_or(0.0);
        // Type 3 fonts have a scale of their own.
        let scale = match member(pdf, font, b"FontMatrix").and_then(|matrix| number(matrix.as_array().ok()?.first()?)) {
            Some(scale) if subtype == b"Type3" => scale * UNIT,
            _ => 1.0,
        };
        let first = member(pdf, font, b"FirstChar").and_then(|first| first.as_i64().ok()).unwrap_or(0);
        let widths = member(pdf, font, b"Widths").and_then(|widths| widths.as_array().ok());
        let is_estimated = widths.is_none();
        let by_code = (u32::try_from(first).unwrap_or(0)..)
            .zip(widths.into_iter().flatten().take(ONE_BYTE_CODES))
            .filter_map(|(code, width)| Some((code, number(pdf.dereference(width).ok()?.1)? * scale)))
            .collect();
        Self { by_code, ranges: Vec::new(), default: missing, is_estimated }
    }

    /// Of a font with numbered glyphs: `[first [width width …] first last width …]`.
    fn of_glyphs(pdf: &lopdf::Document, font: &Dictionary) -> Self {
        let mut widths = Self::unknown();
        widths.default = member(pdf, font, b"DW").and_then(number).unwrap_or(UNIT);
        let Some(list) = member(pdf, font, b"W").and_then(|list| list.as_array().ok()) else { return widths };
        let mut objects = list.iter().filter_map(|object| pdf.dereference(object).ok().map(|(_, object)| object));
        while let (Some(first), Some(second)) = (objects.next(), objects.next()) {
            let Some(first) = first.as_i64().ok().and_then(|first| u32::try_from(first).ok()) else { break };
            match second {
                Object::Array(list) => {
                    let list = list.iter().filter_map(|object| number(pdf.dereference(object).ok()?.1));
                    widths.by_code.extend((first..).zip(list));
                }
                last => {
                    let last = last.as_i64().ok().and_then(|last| u32::try_from(last).ok());
                    let (Some(last), Some(width)) = (last, objects.next().and_then(number)) else { break };
                    widths.ranges.push((first, last, width));
                }
            }
        }
        widths
    }

    fn of(&self, code: u32, text: &str) -> f64 {
        let in_range = || self.ranges.iter().find(|(first, last, _)| (*first..=*last).contains(&code)).map(|r| r.2);
        let width = match self.by_code.get(&code).copied().or_else(in_range) {
            Some(width) => width,
            None if self.is_estimated => text.chars().map(estimated_width).sum(),
            None => self.default,
        };
        width / UNIT
    }
}

/// Roughly as wide as in Helvetica and Times: enough to see the gaps between words.
fn estimated_width(c: char) -> f64 {
    match c {
        'i' | 'j' | 'l' | '\'' | '.' | ',' | ':' | ';' | '|' | '!' | ' ' | 'f' | 't' | 'I' | '(' | ')' | '/' => 270.0,
        'm' | 'w' | 'M' | 'W' | '@' | '%' => 800.0,
        'A'..='Z' | '&' => 660.0,
        _ => 520.0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_glyphs_are_understood() {
        for (name, text) in [
            ("eacute", Some("é")),
            ("A", Some("A")),
            ("space", Some(" ")),
            ("uni5802", Some("堂")),
            ("u20000", Some("𠀀")),
            ("f_i", Some("fi")),
            ("a.sc", Some("a")),
            ("g23", None),
            (".notdef", None),
            ("nonsense", None),
        ] {
            assert_eq!(glyph_text(name.as_bytes()).as_deref(), text, "{name}");
        }
    }

    #[test]
    fn predefined_chinese_encodings_are_decoded() {
        for (encoding, bytes, text) in [
            ("GBK-EUC-H", &b"\xb4\xf3a\xb0\xd3"[..], "大a影"),
            ("UniGB-UCS2-H", b"\x59\x27\x57\x5d", "大坝"),
            ("90ms-RKSJ-H", b"\x91\xe5", "大"),
            ("ETen-B5-H", b"\xa4\x6a", "大"),
        ] {
            let mut font = Dictionary::new();
            font.set("Subtype", Object::Name(b"Type0".to_vec()));
            font.set("Encoding", Object::Name(encoding.as_bytes().to_vec()));
            let font = Font::load(&lopdf::Document::new(), &font);
            let shown: String = font.show(bytes).map(|shown| shown.text).collect();
            assert_eq!(shown.chars().next(), text.chars().next(), "{encoding}");
            assert_eq!(shown.chars().count(), text.chars().count(), "{encoding}: {shown}");
        }
    }
}

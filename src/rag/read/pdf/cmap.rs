//! Character maps: from the codes in a page's strings to Unicode (`ToUnicode`), and how many bytes a code has.
//!
//! Ranges stay ranges: a map of a few bytes can name four thousand million codes.

use std::collections::HashMap;

use encoding_rs::UTF_16BE;

#[derive(Debug, Default)]
pub struct CMap {
    /// Number of bytes, first and last code.
    codespaces: Vec<(usize, u32, u32)>,
    texts: HashMap<u32, String>,
    /// First and last code, and the text of the first.
    ranges: Vec<(u32, u32, String)>,
    /// First and last code, and the glyph of the first.
    glyphs: Vec<(u32, u32, u32)>,
}

enum Token<'a> {
    String(Vec<u8>),
    Integer(u32),
    Open,
    Close,
    Word(&'a [u8]),
}

impl CMap {
    pub fn parse(content: &[u8]) -> Self {
        let mut map = Self::default();
        let mut tokens = Tokens { rest: content };
        let mut section: Option<&[u8]> = None;
        let mut operands: Vec<Token<'_>> = Vec::new();
        while let Some(token) = tokens.next() {
            match token {
                Token::Word(word) if word.starts_with(b"begin") => {
                    section = word.strip_prefix(b"begin");
                    operands.clear();
                }
                Token::Word(word) if word.starts_with(b"end") => section = None,
                Token::Word(_) => {}
                Token::Open if section == Some(b"bfrange") => {
                    map.add_list(&operands, &mut tokens);
                    operands.clear();
                }
                Token::Open | Token::Close => {}
                operand => {
                    operands.push(operand);
                    if section.is_some_and(|section| map.add(section, &operands)) || operands.len() > 3 {
                        operands.clear();
                    }
                }
            }
        }
        map.ranges.sort_by_key(|range| range.0);
        map
    }

    /// Adds an entry once all its operands are there.
    fn add(&mut self, section: &[u8], operands: &[Token<'_>]) -> bool {
        match (section, operands) {
            (b"codespacerange", [Token::String(first), Token::String(last)]) => {
                self.codespaces.push((first.len(), code(first), code(last)));
            }
            (b"bfchar", [Token::String(from), Token::String(to)]) => {
                self.texts.insert(code(from), utf16(to));
            }
            (b"bfrange", [Token::String(first), Token::String(last), Token::String(to)]) => {
                self.ranges.push((code(first), code(last), utf16(to)));
            }
            (b"cidrange", [Token::String(first), Token::String(last), Token::Integer(to)]) => {
                self.glyphs.push((code(first), code(last), *to));
            }
            (b"cidchar", [Token::String(from), Token::Integer(to)]) => self.glyphs.push((code(from), code(from), *to)),
            _ => return false,
        }
        true
    }

    /// `<first> <last> [<text> <text> …]`
    fn add_list(&mut self, operands: &[Token<'_>], tokens: &mut Tokens<'_>) {
        let Some(Token::String(first)) = operands.first() else { return };
        let mut next = code(first);
        while let Some(Token::String(text)) = tokens.next() {
            self.texts.insert(next, utf16(&text));
            next = next.saturating_add(1);
        }
    }

    pub fn has_texts(&self) -> bool {
        !self.texts.is_empty() || !self.ranges.is_empty()
    }

    pub fn text(&self, code: u32) -> Option<String> {
        if let Some(text) = self.texts.get(&code) {
            return Some(text.clone());
        }
        let after = self.ranges.partition_point(|range| range.0 <= code);
        let (first, last, text) = self.ranges.get(after.checked_sub(1)?)?;
        if code > *last {
            return None;
        }
        // The last character of the first text counts up.
        let mut text = text.clone();
        let c = text.pop()?;
        text.push(char::from_u32(u32::from(c).checked_add(code - first)?)?);
        Some(text)
    }

    /// The glyph a code stands for, where the map says.
    pub fn glyph(&self, code: u32) -> Option<u32> {
        let (first, _, glyph) = self.glyphs.iter().find(|(first, last, _)| (*first..=*last).contains(&code))?;
        glyph.checked_add(code - first)
    }

    /// How many bytes the next code has.
    pub fn code_bytes(&self, bytes: &[u8]) -> Option<usize> {
        (1..=bytes.len().min(4)).find(|n| {
            let next = code(bytes.get(..*n).unwrap_or_default());
            self.codespaces.iter().any(|(size, first, last)| size == n && (*first..=*last).contains(&next))
        })
    }
}

fn code(bytes: &[u8]) -> u32 {
    bytes.iter().take(4).fold(0, |code, byte| code << 8 | u32::from(*byte))
}

fn utf16(bytes: &[u8]) -> String {
    match bytes {
        // Some writers shorten ASCII to one byte.
        [byte] => char::from(*byte).to_string(),
        _ => UTF_16BE.decode_without_bom_handling(bytes).0.into_owned(),
    }
}

/// The tokens of PostScript that character maps consist of.
struct Tokens<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Tokens<'a> {
    type Item = Token<'a>;

    fn next(&mut self) -> Option<Token<'a>> {
        loop {
            let (first, after) = self.rest.split_first()?;
            let take_while = |more: fn(u8) -> bool| {
                let n = after.iter().take_while(|byte| more(**byte)).count();
                after.split_at(n)
            };
            match first {
                b'%' => self.rest = take_while(|byte| byte != b'\n' && byte != b'\r').1,
                b'<' => {
                    let (digits, rest) = take_while(|byte| byte != b'>' && byte != b'<');
                    self.rest = rest.get(1..).unwrap_or_default();
                    if rest.first() == Some(&b'<') || digits.is_empty() && after.first() == Some(&b'<') {
                        continue;
                    }
                    return Some(Token::String(hex(digits)));
                }
                b'[' | b']' => {
                    self.rest = after;
                    return Some(if *first == b'[' { Token::Open } else { Token::Close });
                }
                byte if byte.is_ascii_alphanumeric() => {
                    let (_, rest) = take_while(|byte| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'.');
                    let word = self.rest.get(..self.rest.len() - rest.len()).unwrap_or_default();
                    self.rest = rest;
                    let integer = std::str::from_utf8(word).ok().and_then(|word| word.parse().ok());
                    return Some(integer.map_or(Token::Word(word), Token::Integer));
                }
                _ => self.rest = after,
            }
        }
    }
}

fn hex(digits: &[u8]) -> Vec<u8> {
    let digits: Vec<u32> = digits.iter().filter_map(|digit| char::from(*digit).to_digit(16)).collect();
    let byte = |pair: &[u32]| pair.first().copied().unwrap_or(0) << 4 | pair.get(1).copied().unwrap_or(0);
    digits.chunks(2).map(|pair| u8::try_from(byte(pair)).unwrap_or(0)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn characters_ranges_and_lists_are_mapped() {
        let map = CMap::parse(
            b"/CIDInit /ProcSet findresource begin 12 dict begin begincmap % a comment\n\
              1 begincodespacerange <00> <7F> <8000> <FFFF> endcodespacerange\n\
              2 beginbfchar <01> <0041> <02> <D840DC00> endbfchar\n\
              2 beginbfrange <0010><0012><0061> <20> <21> [<00660069> <5802>] endbfrange\n\
              1 begincidrange <8000> <80ff> 700 endcidrange endcmap",
        );
        for (code, text) in [(1, "A"), (2, "𠀀"), (0x10, "a"), (0x12, "c"), (0x20, "fi"), (0x21, "堂")] {
            assert_eq!(map.text(code).as_deref(), Some(text));
        }
        assert_eq!((map.text(0x13), map.glyph(0x8001), map.glyph(1)), (None, Some(701), None));
        assert_eq!((map.code_bytes(&[0x41, 0]), map.code_bytes(&[0x81, 0])), (Some(1), Some(2)));
    }

    #[test]
    fn a_range_of_all_codes_costs_nothing() {
        let map = CMap::parse(b"1 beginbfrange <00000000> <FFFFFFFF> <0041> endbfrange");
        assert_eq!((map.text(1).as_deref(), map.text(u32::MAX)), (Some("B"), None));
    }
}

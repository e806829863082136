//! What a page may cost before the parser sees it. Its time grows with the square of the nesting, and formatting elements that are left open
//! are made anew in every paragraph that follows: a small page may have a tree of any size.

use crate::rag::read::error::ReadError;

/// Deeper nesting than any page has.
const MAX_DEPTH: usize = 2_000;
/// Formatting elements open at a time.
const MAX_FORMATTING: usize = 200;
/// Of those that are made anew, all together.
const MAX_REMADE: usize = 500_000;
/// Elements with the same tag that are made anew at most (the standard calls it Noah's Ark).
const MAX_ALIKE: usize = 3;

/// There is no end tag, or one page has one of them.
const UNNESTED: [&str; 17] = [
    "area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "param", "source", "track", "wbr",
    "body", "html", "head",
];
/// Their end tag may be left out: the next of a kind ends the one before.
const ENDED_BY_NEXT: [&[&str]; 9] = [
    &["a"],
    &["nobr"],
    &["p"],
    &["li"],
    &["dt", "dd"],
    &["td", "th", "tr", "thead", "tbody", "tfoot"],
    &["option", "optgroup"],
    &["colgroup"],
    &["rt", "rp"],
];
/// Nothing outside of these is ended by what is inside.
const SCOPES: [&str; 8] = ["table", "ul", "ol", "dl", "select", "button", "object", "ruby"];
const FORMATTING: [&str; 14] =
    ["a", "b", "big", "code", "em", "font", "i", "nobr", "s", "small", "strike", "strong", "tt", "u"];
/// What begins in a cell ends in it.
const CELLS: [&str; 2] = ["td", "th"];
/// Their content is text up to their end tag.
const RAW: [&str; 8] = ["iframe", "noembed", "noframes", "script", "style", "textarea", "title", "xmp"];

/// # Errors
/// The markup is nested too deep, or too much of it is left open.
pub fn check(text: &str) -> Result<(), ReadError> {
    let mut open: Vec<&str> = Vec::new();
    let mut formatting = Formatting::default();
    let mut rest = text;
    while let Some(at) = rest.find('<') {
        rest = &rest[at + 1..];
        if let Some(comment) = rest.strip_prefix("!--") {
            rest = comment.find("-->").map_or("", |end| &comment[end..]);
            continue;
        }
        let (is_end, inner) = rest.strip_prefix('/').map_or((false, rest), |inner| (true, inner));
        let length = inner.find(|c: char| !c.is_ascii_alphanumeric()).unwrap_or(inner.len());
        let name = &inner[..length];
        if !name.starts_with(|c: char| c.is_ascii_alphabetic()) {
            continue;
        }
        let tag = &inner[..inner.find('>').unwrap_or(inner.len())];
        rest = &inner[tag.len()..];
        let is = |other: &&str| name.eq_ignore_ascii_case(other);
        if is_end {
            formatting.end(name);
            if let Some(at) = open.iter().rposition(is) {
                open.truncate(at);
            }
            continue;
        }
        formatting.begin(name, tag)?;
        let is_foreign = || open.iter().any(|name| ["svg", "math"].iter().any(|it| name.eq_ignore_ascii_case(it)));
        if UNNESTED.iter().any(is) || (tag.ends_with('/') && is_foreign()) {
            continue;
        }
        if RAW.iter().any(is) {
            rest = behind_end_of(rest, name);
            continue;
        }
        if let Some(kind) = ENDED_BY_NEXT.iter().find(|kind| kind.iter().any(is)) {
            let is_kind = |open: &&str| kind.iter().any(|it| open.eq_ignore_ascii_case(it));
            let is_scope = |open: &&str| SCOPES.iter().any(|it| open.eq_ignore_ascii_case(it));
            let inside = open.iter().rposition(is_scope).map_or(0, |at| at + 1);
            if let Some(at) = open[inside..].iter().position(is_kind) {
                open.truncate(inside + at);
            }
        }
        open.push(name);
        if open.len() > MAX_DEPTH {
            return Err(ReadError::TooDeep { depth: open.len() });
        }
    }
    Ok(())
}

fn behind_end_of<'a>(text: &'a str, name: &str) -> &'a str {
    let is_end =
        |at: &usize| text.get(at + 2..at + 2 + name.len()).is_some_and(|found| found.eq_ignore_ascii_case(name));
    text.match_indices("</").map(|(at, _)| at).find(is_end).map_or("", |at| &text[at + 2..])
}

/// The formatting elements that are open, as the parser keeps them.
#[derive(Default)]
struct Formatting<'a> {
    /// Name and whole tag; a cell is a boundary.
    list: Vec<(&'a str, &'a str)>,
    n_remade: usize,
}

impl<'a> Formatting<'a> {
    fn begin(&mut self, name: &'a str, tag: &'a str) -> Result<(), ReadError> {
        if CELLS.iter().any(|cell| name.eq_ignore_ascii_case(cell)) {
            self.end_cell();
            self.list.push((name, ""));
            return Ok(());
        }
        if !FORMATTING.iter().any(|known| name.eq_ignore_ascii_case(known)) {
            self.n_remade += self.in_cell().len();
            return if self.n_remade > MAX_REMADE { Err(ReadError::TooManyOpen) } else { Ok(()) };
        }
        if name.eq_ignore_ascii_case("a") {
            self.end(name);
        }
        let alike = self.in_cell().iter().filter(|(_, other)| *other == tag).count();
        if alike < MAX_ALIKE {
            self.list.push((name, tag));
        }
        if self.in_cell().len() > MAX_FORMATTING { Err(ReadError::TooManyOpen) } else { Ok(()) }
    }

    fn end(&mut self, name: &str) {
        let is_row = ["tr", "table"].iter().any(|it| name.eq_ignore_ascii_case(it));
        if is_row || CELLS.iter().any(|cell| name.eq_ignore_ascii_case(cell)) {
            return self.end_cell();
        }
        let begin = self.list.len() - self.in_cell().len();
        if let Some(at) = self.list[begin..].iter().rposition(|(open, _)| open.eq_ignore_ascii_case(name)) {
            self.list.remove(begin + at);
        }
    }

    fn end_cell(&mut self) {
        let begin = self.list.len() - self.in_cell().len();
        self.list.truncate(begin.saturating_sub(1));
    }

    /// Those since the boundary.
    fn in_cell(&self) -> &[(&'a str, &'a str)] {
        let begin = self.list.iter().rposition(|(_, tag)| tag.is_empty()).map_or(0, |at| at + 1);
        &self.list[begin..]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_pages_have_passes() {
        for page in [
            format!("<script>{}</script><p>x", "if (i<n) {} ".repeat(3_000)),
            format!("<!-- {} --><p>x", "<b>".repeat(3_000)),
            "<p>a<li>b<br>".repeat(5_000),
            format!("<svg>{}</svg>", "<path d='M0'/>".repeat(3_000)),
            "<tr><td><font color=red>x".repeat(3_000),
            "<p><b>x</p>".repeat(3_000),
            "<b>x</b><i>y</i>".repeat(3_000),
            "<a href=x>y".repeat(3_000),
            "</b></p></div>".repeat(3_000),
        ] {
            assert_eq!(check(&page), Ok(()), "{}", &page[..40]);
        }
    }

    #[test]
    fn what_would_grow_without_end_does_not() {
        let bold: String = (0..150).map(|n| format!("<b id={n}>")).collect();
        let deep = ReadError::TooDeep { depth: MAX_DEPTH + 1 };
        for (page, error) in [
            ("<div>".repeat(3_000), deep),
            ("<div></zzz>".repeat(3_000), ReadError::TooDeep { depth: MAX_DEPTH + 1 }),
            (format!("<p>{bold}</p>{}", "<p>x".repeat(10_000)), ReadError::TooManyOpen),
            ((0..300).map(|n| format!("<i id={n}>")).collect(), ReadError::TooManyOpen),
        ] {
            assert_eq!(check(&page), Err(error), "{}", &page[..40]);
        }
    }
}

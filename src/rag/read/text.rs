//! Plain text: paragraphs by blank lines, hard-wrapped lines joined again, lists kept apart. Source code stays as it is.

use super::blocks::{Blocks, clean_lines, ends_sentence, is_spaceless, join, list_item};
use crate::rag::document::{Block, BlockKind, Document};

/// Lines narrower than this are not taken for wrapped text.
const MIN_WRAPPED_WIDTH: usize = 40;
/// Longest a line may be and still be one of a hard-wrapped paragraph.
const MAX_WRAPPED_WIDTH: usize = 200;

pub fn read(text: &str) -> Document {
    Document { blocks: blocks(text), ..Document::default() }
}

pub fn read_code(text: &str) -> Document {
    let mut blocks = Blocks::default();
    blocks.push(BlockKind::Code, text);
    Document { blocks: blocks.into_vec(), ..Document::default() }
}

/// The paragraphs and list items of a text.
pub fn blocks(text: &str) -> Vec<Block> {
    let text = text.replace("\r\n", "\n").replace(['\r', '\u{2028}'], "\n").replace(['\x0c', '\u{2029}'], "\n\n");
    let mut blocks = Blocks::default();
    let mut lines: Vec<&str> = Vec::new();
    for line in text.lines().chain([""]) {
        // Also a line of dashes or stars parts paragraphs; it says nothing itself.
        if line.chars().any(char::is_alphanumeric) {
            lines.push(line);
        } else {
            push_paragraph(&mut blocks, &std::mem::take(&mut lines));
        }
    }
    blocks.into_vec()
}

/// Lines between two blank ones: list items, and between them wrapped text, or lines that stand for themselves.
fn push_paragraph(blocks: &mut Blocks, lines: &[&str]) {
    let mut rest = lines;
    while let Some((first, after)) = rest.split_first() {
        let is_item = list_item(first).is_some();
        let n_more = after
            .iter()
            .take_while(|line| list_item(line).is_none() && (!is_item || line.starts_with([' ', '\t', '\u{3000}'])))
            .count();
        let (taken, remaining) = rest.split_at(n_more + 1);
        rest = remaining;
        if is_item {
            let mut item = list_item(first).unwrap_or_default().to_owned();
            taken.iter().skip(1).for_each(|line| join(&mut item, line.trim()));
            blocks.push(BlockKind::ListItem, &item);
        } else {
            push_prose(blocks, taken);
        }
    }
}

fn push_prose(blocks: &mut Blocks, lines: &[&str]) {
    if is_wrapped(lines) {
        let mut paragraph = String::new();
        for line in lines {
            // An indented line begins a paragraph where paragraphs are not parted by blank lines.
            let is_first = line.starts_with([' ', '\t', '\u{3000}']) && ends_sentence(&paragraph);
            if is_first {
                blocks.push(BlockKind::Paragraph, &std::mem::take(&mut paragraph));
            }
            join(&mut paragraph, line.trim());
        }
        blocks.push(BlockKind::Paragraph, &paragraph);
        return;
    }
    // Long lines are paragraphs of their own; short ones (verses, addresses, records) stay together, line by line.
    let mut short = String::new();
    for line in lines {
        if width(line) > MIN_WRAPPED_WIDTH * 2 {
            push_short(blocks, &std::mem::take(&mut short));
            blocks.push(BlockKind::Paragraph, line);
        } else {
            short.push_str(line);
            short.push('\n');
        }
    }
    push_short(blocks, &short);
}

fn push_short(blocks: &mut Blocks, lines: &str) {
    let text = clean_lines(lines);
    if !text.is_empty() {
        blocks.push_lines(BlockKind::Paragraph, text);
    }
}

/// Whether the lines were one paragraph before an editor broke it: all but the last have nearly the same width, and not
/// each of them ends a sentence.
fn is_wrapped(lines: &[&str]) -> bool {
    let Some((_, full)) = lines.split_last().filter(|(_, full)| !full.is_empty()) else { return true };
    let widest = full.iter().map(|line| width(line)).max().unwrap_or(0);
    let mut widths: Vec<usize> = full.iter().map(|line| width(line)).collect();
    widths.sort_unstable();
    let typical = widths.get(widths.len() / 2).copied().unwrap_or(0);
    let n_ended = full.iter().filter(|line| ends_sentence(line)).count();
    (MIN_WRAPPED_WIDTH..=MAX_WRAPPED_WIDTH).contains(&widest)
        && typical * 10 >= widest * 7
        && n_ended * 10 <= full.len() * 7
}

/// Columns in a terminal, roughly: Chinese and Japanese characters take two.
fn width(line: &str) -> usize {
    line.trim().chars().map(|c| if is_spaceless(c) { 2 } else { 1 }).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, expected: &[(BlockKind, &str)]) {
        let blocks = blocks(text);
        let found: Vec<_> = blocks.iter().map(|block| (block.kind, block.text.as_str())).collect();
        assert_eq!(found, expected, "{text:?}");
    }

    #[test]
    fn paragraphs_are_parted_by_blank_lines_and_wrapped_lines_joined() {
        use BlockKind::{ListItem, Paragraph};
        check("one\r\n\r\ntwo\x0cthree", &[(Paragraph, "one"), (Paragraph, "two"), (Paragraph, "three")]);
        check(
            "The gateway reads the whole body before it chooses\nan upstream, because the model is named inside of\nit.",
            &[(
                Paragraph,
                "The gateway reads the whole body before it chooses an upstream, because the model is named inside of it.",
            )],
        );
        check(
            "网关在选择上游之前读取整个请求体，因为模型名称写在其中\n，所以长提示必须完整保存下来，直到选好供应商为止再发送\n出去。",
            &[(
                Paragraph,
                "网关在选择上游之前读取整个请求体，因为模型名称写在其中，所以长提示必须完整保存下来，直到选好供应商为止再发送出去。",
            )],
        );
        check(
            "- one\n- two\n  and more\n3. three",
            &[(ListItem, "one"), (ListItem, "two and more"), (ListItem, "3. three")],
        );
        check("a \u{0}b\u{200b}\tc\n-----\nﬁne", &[(Paragraph, "a b c"), (Paragraph, "fine")]);
    }

    #[test]
    fn short_lines_keep_their_breaks_and_long_lines_are_paragraphs() {
        check("Roses are red,\nviolets are blue", &[(BlockKind::Paragraph, "Roses are red,\nviolets are blue")]);
        let long = "这一行是一个完整的段落，后面没有空行，因为中文文本常常每行一段，而不是用空行来分隔各个段落，读者也都习惯这样。";
        check(&format!("{long}\n{long}"), &[(BlockKind::Paragraph, long), (BlockKind::Paragraph, long)]);
    }

    #[test]
    fn code_keeps_its_lines() {
        let document = read_code("\nfn main() {\r\n\tprintln!();  \r\n}\n");
        assert_eq!(document.blocks[0].text, "fn main() {\n\tprintln!();\n}");
    }
}

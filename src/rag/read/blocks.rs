//! Collecting the blocks of a document: text is cleaned, empty blocks are dropped, tables become rows. All readers end here.

use crate::rag::document::{Block, BlockKind};

/// A document's blocks as they are found.
#[derive(Debug, Default)]
pub struct Blocks {
    blocks: Vec<Block>,
}

impl Blocks {
    /// Adds a block unless nothing is left of it after cleaning.
    pub fn push(&mut self, kind: BlockKind, text: &str) {
        let text = if kind == BlockKind::Code { clean_code(text) } else { clean(text) };
        if text.chars().any(char::is_alphanumeric) || kind == BlockKind::Code && !text.is_empty() {
            self.blocks.push(Block { kind, text });
        }
    }

    /// Adds text that is clean already and keeps its line breaks.
    pub fn push_lines(&mut self, kind: BlockKind, text: String) {
        self.blocks.push(Block { kind, text });
    }

    /// Adds one block per row, `column: value; column: value`. The first row names the columns if there are at least two
    /// rows and columns and none of its cells is empty but the first, or if `has_header` says so.
    pub fn push_table(&mut self, rows: &[Vec<String>], has_header: bool) {
        let rows: Vec<Vec<String>> = rows
            .iter()
            .map(|row| row.iter().map(|cell| clean(cell)).collect::<Vec<_>>())
            .filter(|row| row.iter().any(|cell| !cell.is_empty()))
            .collect();
        let Some((first, rest)) = rows.split_first() else { return };
        let names_columns = first.len() > 1 && first.iter().skip(1).all(|cell| !cell.is_empty());
        if rest.is_empty() || !(has_header || names_columns) {
            for row in &rows {
                self.push(BlockKind::TableRow, &row_text(&[], row));
            }
            return;
        }
        for row in rest {
            self.push(BlockKind::TableRow, &row_text(first, row));
        }
    }

    pub fn is_empty(&self) -> bool {
        self.blocks.is_empty()
    }

    pub fn n_chars(&self) -> usize {
        self.blocks.iter().map(|block| block.text.len()).sum()
    }

    /// The first heading, which titles a document that names no other title.
    pub fn first_heading(&self) -> Option<&str> {
        let is_heading = |block: &&Block| matches!(block.kind, BlockKind::Heading(_));
        self.blocks.iter().find(is_heading).map(|block| block.text.as_str())
    }

    pub fn append(&mut self, mut other: Self) {
        self.blocks.append(&mut other.blocks);
    }

    pub fn into_vec(self) -> Vec<Block> {
        self.blocks
    }
}

/// `column: value; column: value`, without empty values; a value whose column has no name stands alone.
pub fn row_text(columns: &[String], values: &[String]) -> String {
    let cells = values.iter().enumerate().filter(|(_, value)| !value.is_empty()).map(|(n, value)| {
        match columns.get(n).filter(|column| !column.is_empty()) {
            Some(column) => format!("{column}: {value}"),
            None => value.clone(),
        }
    });
    cells.collect::<Vec<_>>().join("; ")
}

/// White space squeezed to one space, control and invisible characters gone, ligatures spelt out.
pub fn clean(text: &str) -> String {
    let mut cleaned = String::with_capacity(text.len());
    let mut space = false;
    for c in text.chars() {
        if c.is_whitespace() {
            space = true;
            continue;
        }
        if is_invisible(c) {
            continue;
        }
        if space && !cleaned.is_empty() {
            cleaned.push(' ');
        }
        space = false;
        match ligature(c) {
            Some(letters) => cleaned.push_str(letters),
            None => cleaned.push(c),
        }
    }
    cleaned
}

/// As [`clean`], but line breaks and the white space inside lines stay.
pub fn clean_code(text: &str) -> String {
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    let visible = |c: &char| matches!(c, '\n' | '\t') || !is_invisible(*c);
    let lines: Vec<String> =
        text.split('\n').map(|line| line.chars().filter(visible).collect::<String>().trim_end().to_owned()).collect();
    lines.join("\n").trim_matches('\n').to_owned()
}

/// As [`clean`], line by line: for paragraphs whose line breaks carry meaning (verses, addresses).
pub fn clean_lines(text: &str) -> String {
    text.lines().map(clean).filter(|line| !line.is_empty()).collect::<Vec<_>>().join("\n")
}

/// Appends `next` to `text`, with a space between them unless the script writes none.
pub fn join(text: &mut String, next: &str) {
    let next = next.trim_start();
    if let (Some(last), Some(first)) = (text.trim_end().chars().next_back(), next.chars().next()) {
        text.truncate(text.trim_end().len());
        if !(is_spaceless(last) && is_spaceless(first)) {
            text.push(' ');
        }
    }
    text.push_str(next);
}

/// Whether the character belongs to a script that is written without spaces between words (Chinese, Japanese), or is the
/// punctuation of one.
pub fn is_spaceless(c: char) -> bool {
    matches!(c,
        '\u{2e80}'..='\u{303f}' | '\u{3040}'..='\u{30ff}' | '\u{3100}'..='\u{312f}' | '\u{31f0}'..='\u{9fff}'
        | '\u{f900}'..='\u{faff}' | '\u{fe30}'..='\u{fe4f}' | '\u{ff01}'..='\u{ff60}' | '\u{20000}'..='\u{3ffff}')
}

/// Whether a line that ends like this ends a sentence.
pub fn ends_sentence(text: &str) -> bool {
    let text = text.trim_end().trim_end_matches(['"', '\'', ')', ']', '”', '’', '」', '』', '）', '》', '»']);
    text.ends_with(['.', '!', '?', ':', ';', '…', '。', '！', '？', '：', '；'])
}

/// The text of a list item without its bullet or number, if the line begins like one.
pub fn list_item(line: &str) -> Option<&str> {
    let line = line.trim_start();
    let bullet = ['-', '*', '+', '•', '‣', '▪', '●', '○', '◦', '–', '·', '■', '\u{f0b7}'];
    if let Some(rest) = line.strip_prefix(bullet) {
        let is_bullet =
            rest.starts_with(char::is_whitespace) || line.starts_with(['•', '‣', '▪', '●', '■', '\u{f0b7}']);
        return is_bullet.then(|| rest.trim_start()).filter(|rest| !rest.is_empty());
    }
    // A number stays in the text: it is often referred to.
    let digits = line.bytes().take_while(u8::is_ascii_digit).count();
    let rest = line.get(digits..)?;
    ((1..=3).contains(&digits) && (rest.starts_with(". ") || rest.starts_with(") ") || rest.starts_with('、')))
        .then_some(line)
}

/// Control characters, byte order marks, soft hyphens, direction marks, zero-width spaces, and characters without meaning.
fn is_invisible(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{ad}' | '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2060}'..='\u{2064}'
            | '\u{feff}' | '\u{fff0}'..='\u{fffd}' | '\u{e000}'..='\u{f8ff}')
}

fn ligature(c: char) -> Option<&'static str> {
    Some(match c {
        'ﬀ' => "ff",
        'ﬁ' => "fi",
        'ﬂ' => "fl",
        'ﬃ' => "ffi",
        'ﬄ' => "ffl",
        'ﬅ' | 'ﬆ' => "st",
        _ => return None,
    })
}

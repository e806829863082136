//! Markdown: CommonMark with tables, footnotes and front matter. Raw HTML goes through the HTML reader.

use std::collections::BTreeMap;

use pulldown_cmark::{Event, Options, Parser, Tag, TagEnd};

use super::blocks::{Blocks, clean};
use super::error::ReadError;
use super::html;
use crate::rag::document::{BlockKind, Document};

/// # Errors
/// HTML inside is nested too deep.
pub fn read(text: &str) -> Result<Document, ReadError> {
    let text = text.trim_start_matches('\u{feff}');
    let options = Options::ENABLE_TABLES
        | Options::ENABLE_FOOTNOTES
        | Options::ENABLE_STRIKETHROUGH
        | Options::ENABLE_TASKLISTS
        | Options::ENABLE_HEADING_ATTRIBUTES
        | Options::ENABLE_MATH
        | Options::ENABLE_YAML_STYLE_METADATA_BLOCKS
        | Options::ENABLE_PLUSES_DELIMITED_METADATA_BLOCKS;
    let mut reader = Reader::default();
    for event in Parser::new_ext(text, options) {
        reader.event(event);
    }
    reader.flush();
    if let Some(error) = reader.error {
        return Err(error);
    }
    let mut metadata = front_matter(&reader.front_matter);
    let title = metadata.remove("title").or_else(|| reader.blocks.first_heading().map(str::to_owned));
    Ok(Document { key: String::new(), title: title.unwrap_or_default(), blocks: reader.blocks.into_vec(), metadata })
}

#[derive(Default)]
struct Reader {
    blocks: Blocks,
    /// Inline text since the last block ended.
    text: String,
    /// Set while the text is raw: a code block, an HTML block, or front matter.
    raw: bool,
    /// One per open list: the number of its next item if it is numbered.
    lists: Vec<Option<u64>>,
    rows: Vec<Vec<String>>,
    front_matter: String,
    error: Option<ReadError>,
}

impl Reader {
    fn event(&mut self, event: Event<'_>) {
        match event {
            Event::Start(tag) => self.start(&tag),
            Event::End(tag) => self.end(tag),
            Event::Text(text)
            | Event::Code(text)
            | Event::InlineMath(text)
            | Event::DisplayMath(text)
            | Event::Html(text) => self.text.push_str(&text),
            // An inline tag says nothing, but it may be a line break.
            Event::InlineHtml(_) | Event::SoftBreak | Event::HardBreak if self.raw => self.text.push('\n'),
            Event::InlineHtml(tag) if !tag.to_ascii_lowercase().starts_with("<br") => {}
            // Line breaks of the source; Chinese text has no space there.
            Event::InlineHtml(_) | Event::SoftBreak | Event::HardBreak => self.text.push('\n'),
            Event::Rule => self.flush(),
            Event::FootnoteReference(_) | Event::TaskListMarker(_) => {}
        }
    }

    fn start(&mut self, tag: &Tag<'_>) {
        match tag {
            Tag::Emphasis | Tag::Strong | Tag::Strikethrough | Tag::Link { .. } | Tag::Image { .. } => {}
            Tag::Superscript | Tag::Subscript => {}
            Tag::Table(_) => {
                self.flush();
                self.rows.clear();
            }
            Tag::TableHead | Tag::TableRow => self.rows.push(Vec::new()),
            Tag::TableCell => self.text.clear(),
            Tag::CodeBlock(_) | Tag::HtmlBlock | Tag::MetadataBlock(_) => {
                self.flush();
                self.raw = true;
            }
            Tag::List(first) => {
                self.flush();
                self.lists.push(*first);
            }
            Tag::Item => {
                self.flush();
                if let Some(Some(number)) = self.lists.last_mut() {
                    self.text = format!("{number}. ");
                    *number = number.saturating_add(1);
                }
            }
            // The paragraph of an item follows its number.
            Tag::Paragraph if !self.lists.is_empty() => {}
            _ => self.flush(),
        }
    }

    fn end(&mut self, tag: TagEnd) {
        match tag {
            TagEnd::Emphasis | TagEnd::Strong | TagEnd::Strikethrough | TagEnd::Link | TagEnd::Image => {}
            TagEnd::Superscript | TagEnd::Subscript | TagEnd::TableHead | TagEnd::TableRow => {}
            TagEnd::Heading(level) => {
                let text = std::mem::take(&mut self.text);
                self.blocks.push(BlockKind::Heading(level as u8), &joined(&text));
            }
            TagEnd::TableCell => {
                let text = std::mem::take(&mut self.text);
                if let Some(row) = self.rows.last_mut() {
                    row.push(joined(&text));
                }
            }
            TagEnd::Table => self.blocks.push_table(&std::mem::take(&mut self.rows), true),
            TagEnd::CodeBlock => {
                self.raw = false;
                self.blocks.push(BlockKind::Code, &std::mem::take(&mut self.text));
            }
            TagEnd::HtmlBlock => {
                self.raw = false;
                match html::fragment(&std::mem::take(&mut self.text)) {
                    Ok(blocks) => self.blocks.append(blocks),
                    Err(error) => self.error = self.error.take().or(Some(error)),
                }
            }
            TagEnd::MetadataBlock(_) => {
                self.raw = false;
                self.front_matter = std::mem::take(&mut self.text);
            }
            TagEnd::List(_) => {
                self.flush();
                self.lists.pop();
            }
            _ => self.flush(),
        }
    }

    fn flush(&mut self) {
        let text = std::mem::take(&mut self.text);
        let kind = if self.lists.is_empty() { BlockKind::Paragraph } else { BlockKind::ListItem };
        self.blocks.push(kind, &joined(&text));
    }
}

/// The lines of a paragraph joined as their script wants it.
fn joined(text: &str) -> String {
    let mut joined = String::with_capacity(text.len());
    for line in text.lines() {
        super::blocks::join(&mut joined, line);
    }
    joined
}

/// `key: value` (YAML) and `key = "value"` (TOML); lists are joined, deeper structures are left out.
fn front_matter(text: &str) -> BTreeMap<String, String> {
    let mut fields: BTreeMap<String, String> = BTreeMap::new();
    let mut list_of: Option<String> = None;
    for line in text.lines() {
        let trimmed = line.trim();
        if let (Some(item), Some(key)) = (trimmed.strip_prefix("- "), &list_of) {
            let list = fields.entry(key.clone()).or_default();
            if !list.is_empty() {
                list.push_str(", ");
            }
            list.push_str(unquoted(item));
            continue;
        }
        if line.starts_with([' ', '\t', '#']) {
            continue;
        }
        let Some(at) = trimmed.find([':', '=']) else { continue };
        let (key, value) = (clean(&trimmed[..at]).to_lowercase(), unquoted(&trimmed[at + 1..]));
        list_of = value.is_empty().then(|| key.clone());
        if !key.is_empty() && !value.is_empty() {
            fields.insert(key, clean(value));
        }
    }
    fields
}

fn unquoted(value: &str) -> &str {
    value.trim().trim_matches(['"', '\'', '[', ']'])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn structure_becomes_blocks() {
        let text = "---\ntitle: \"The Weir\"\nauthor: Ann\ntags:\n  - dam\n  - water\n---\n\
            # Weirs\n\nA *low* [dam](http://x)\nacross ![a river](r.png).\n\n堰是\n低坝。\n\n\
            1. one\n2. two\n   - deep\n\n```rust\nfn main() {\n\n}\n```\n\n\
            | Name | Height |\n|---|---|\n| Weir | 3 m |\n\n\
            <div><p>raw <b>html</b></p><script>x()</script></div>\n\n> quoted<br>text[^1]\n\n[^1]: A note.\n";
        let document = read(text).unwrap();
        assert_eq!(document.title, "The Weir");
        assert_eq!((document.metadata["author"].as_str(), document.metadata["tags"].as_str()), ("Ann", "dam, water"));
        let found: Vec<_> = document.blocks.iter().map(|block| (block.kind, block.text.as_str())).collect();
        use BlockKind::{Code, Heading, ListItem, Paragraph, TableRow};
        assert_eq!(
            found,
            [
                (Heading(1), "Weirs"),
                (Paragraph, "A low dam across a river."),
                (Paragraph, "堰是低坝。"),
                (ListItem, "1. one"),
                (ListItem, "2. two"),
                (ListItem, "deep"),
                (Code, "fn main() {\n\n}"),
                (TableRow, "Name: Weir; Height: 3 m"),
                (Paragraph, "raw html"),
                (Paragraph, "quoted text"),
                (Paragraph, "A note."),
            ]
        );
    }

    #[test]
    fn without_front_matter_the_first_heading_is_the_title() {
        assert_eq!(read("text\n\n## Weirs\n").unwrap().title, "Weirs");
    }
}

//! The text of a part (main text, notes): paragraphs by their style, tables by rows. Deleted text and fallbacks are left
//! out.

use super::styles::{Styles, outline_level};
use super::{Role, Tagged, attribute, parse};
use crate::rag::document::BlockKind;
use crate::rag::read::blocks::{Blocks, clean};
use crate::rag::read::error::ReadError;

/// What is found in a part.
#[derive(Default)]
pub struct Body {
    pub blocks: Blocks,
    /// The text of the paragraph whose style is the title's.
    pub title: String,
}

/// # Errors
/// The part is no XML.
pub fn read(xml: &str, styles: &Styles) -> Result<Body, ReadError> {
    let mut reader = Reader {
        styles,
        body: Body::default(),
        paragraphs: Vec::new(),
        tables: Vec::new(),
        n_left_out: 0,
        is_text: false,
    };
    parse(xml, |event| reader.event(event))?;
    Ok(reader.body)
}

struct Reader<'a> {
    styles: &'a Styles,
    body: Body,
    /// Open paragraphs: a text box lies inside the paragraph it is anchored to.
    paragraphs: Vec<Paragraph>,
    /// Open tables, the innermost last.
    tables: Vec<Table>,
    /// How many elements are open whose content is left out.
    n_left_out: usize,
    /// Inside of an element whose text is shown.
    is_text: bool,
}

#[derive(Default)]
struct Paragraph {
    text: String,
    role: Option<Role>,
    is_title: bool,
}

#[derive(Default)]
struct Table {
    rows: Vec<Vec<String>>,
    has_header: bool,
}

impl Reader<'_> {
    fn event(&mut self, event: Tagged<'_, '_>) {
        match event {
            Tagged::Open(name, _) if is_left_out(name) => self.n_left_out += 1,
            Tagged::Close(name) if is_left_out(name) => self.n_left_out = self.n_left_out.saturating_sub(1),
            _ if self.n_left_out > 0 => {}
            Tagged::Open("p", _) => self.paragraphs.push(Paragraph::default()),
            Tagged::Close("p") => self.end_paragraph(),
            Tagged::Open("tbl", _) => self.tables.push(Table::default()),
            Tagged::Open("tr", _) => self.with_table(|table| table.rows.push(Vec::new())),
            Tagged::Open("tblHeader", _) => self.with_table(|table| table.has_header |= table.rows.len() == 1),
            Tagged::Open("tc", _) => self.with_table(|table| {
                if let Some(row) = table.rows.last_mut() {
                    row.push(String::new());
                }
            }),
            Tagged::Close("tbl") => self.end_table(),
            // A slide or drawing uses "t" too, with the same meaning; "delText" and "instrText" are other names.
            Tagged::Open("t", _) => self.is_text = true,
            Tagged::Close("t") => self.is_text = false,
            Tagged::Text(text) if self.is_text => self.write(text),
            Tagged::Open("tab" | "ptab", _) => self.write(" "),
            Tagged::Open("br" | "cr", _) => self.write("\n"),
            Tagged::Open("noBreakHyphen", _) => self.write("-"),
            Tagged::Open("pStyle", tag) => {
                if let (Some(id), Some(paragraph)) = (attribute(tag, "val"), self.paragraphs.last_mut()) {
                    paragraph.role = self.styles.role(&id);
                    paragraph.is_title = self.styles.is_title(&id);
                }
            }
            Tagged::Open("outlineLvl", tag) => {
                if let (Some(level), Some(paragraph)) =
                    (outline_level(attribute(tag, "val")), self.paragraphs.last_mut())
                {
                    paragraph.role = Some(Role::Block(BlockKind::Heading(level)));
                }
            }
            Tagged::Open("numPr", _) => {
                if let Some(paragraph) = self.paragraphs.last_mut() {
                    // Headings are numbered too.
                    paragraph.role = paragraph.role.or(Some(Role::Block(BlockKind::ListItem)));
                }
            }
            _ => {}
        }
    }

    fn write(&mut self, text: &str) {
        if let Some(paragraph) = self.paragraphs.last_mut() {
            paragraph.text.push_str(text);
        }
    }

    fn with_table(&mut self, change: impl FnOnce(&mut Table)) {
        if let Some(table) = self.tables.last_mut() {
            change(table);
        }
    }

    fn end_paragraph(&mut self) {
        let Some(paragraph) = self.paragraphs.pop() else { return };
        if let Some(cell) =
            self.tables.last_mut().and_then(|table| table.rows.last_mut()).and_then(|row| row.last_mut())
        {
            if !cell.is_empty() {
                cell.push('\n');
            }
            cell.push_str(&paragraph.text);
            return;
        }
        match paragraph.role.unwrap_or(Role::Block(BlockKind::Paragraph)) {
            Role::Skipped => {}
            Role::Block(kind) => self.body.blocks.push(kind, &paragraph.text),
        }
        if paragraph.is_title && self.body.title.is_empty() {
            self.body.title = clean(&paragraph.text);
        }
    }

    fn end_table(&mut self) {
        let Some(table) = self.tables.pop() else { return };
        // A table inside of a cell is text of the cell.
        if let Some(cell) =
            self.tables.last_mut().and_then(|outer| outer.rows.last_mut()).and_then(|row| row.last_mut())
        {
            for row in table.rows {
                cell.push('\n');
                cell.push_str(&row.join("; "));
            }
            return;
        }
        if table.rows.iter().all(|row| row.len() < 2) {
            // One column is a frame around text.
            for line in table.rows.iter().flatten().flat_map(|cell| cell.lines()) {
                self.body.blocks.push(BlockKind::Paragraph, line);
            }
            return;
        }
        self.body.blocks.push_table(&table.rows, table.has_header);
    }
}

/// Deleted and moved-away text, the second version of what a drawing shows, what a change replaced, and ruby's readings.
fn is_left_out(name: &str) -> bool {
    matches!(name, "del" | "moveFrom" | "Fallback" | "pPrChange" | "rPrChange" | "tblPrChange" | "rt")
}

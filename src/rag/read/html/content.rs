//! A subtree of a page into blocks: what is content and what stands around it, which elements interrupt a line, and which
//! tables hold data.

use scraper::{ElementRef, Node};

use super::{Step, walk};
use crate::rag::document::BlockKind;
use crate::rag::read::blocks::{Blocks, clean, row_text};

/// Never content.
const DROPPED: [&str; 22] = [
    "script", "style", "noscript", "template", "head", "iframe", "object", "embed", "svg", "canvas", "audio", "video",
    "map", "button", "select", "input", "textarea", "datalist", "dialog", "rt", "rp", "math",
];
/// Around the content, not in it.
const AROUND: [&str; 4] = ["nav", "aside", "footer", "menu"];
const AROUND_ROLES: [&str; 7] = ["navigation", "banner", "contentinfo", "complementary", "search", "menu", "alert"];
const AROUND_CLASSES: [&str; 22] = [
    "nav",
    "navbar",
    "navigation",
    "navbox",
    "menu",
    "sidebar",
    "breadcrumb",
    "breadcrumbs",
    "footer",
    "site-footer",
    "site-header",
    "cookie-banner",
    "cookie-consent",
    "advertisement",
    "ads",
    "share",
    "social-share",
    "related-posts",
    "pagination",
    "mw-editsection",
    "reference",
    "headerlink",
];
/// Elements that interrupt a line of text.
const BLOCK: [&str; 33] = [
    "address",
    "article",
    "aside",
    "blockquote",
    "body",
    "caption",
    "center",
    "details",
    "div",
    "dl",
    "fieldset",
    "figcaption",
    "figure",
    "footer",
    "form",
    "header",
    "hr",
    "html",
    "legend",
    "li",
    "main",
    "nav",
    "ol",
    "p",
    "section",
    "summary",
    "table",
    "tbody",
    "td",
    "th",
    "thead",
    "tr",
    "ul",
];

/// The blocks of a subtree; `drops_around` leaves out what stands around the content.
pub fn blocks(root: ElementRef<'_>, drops_around: bool) -> Blocks {
    Walker::run(root, drops_around)
}

/// Turns a subtree into blocks.
struct Walker {
    blocks: Blocks,
    /// Inline text since the last block ended.
    text: String,
    /// Leaves out what stands around the content.
    drops_around: bool,
    n_items: usize,
    n_pre: usize,
    n_articles: usize,
}

impl Walker {
    fn run(root: ElementRef<'_>, drops_around: bool) -> Blocks {
        let mut walker =
            Self { blocks: Blocks::default(), text: String::new(), drops_around, n_items: 0, n_pre: 0, n_articles: 0 };
        let root_id = root.id();
        walk(root, |step| match step {
            Step::Open(Node::Text(text), _) => {
                walker.text.push_str(text);
                true
            }
            Step::Open(_, Some(element)) => walker.open(element, element.id() == root_id),
            Step::Open(..) => true,
            Step::Close(name) => {
                walker.close(name);
                true
            }
        });
        walker.flush();
        walker.blocks
    }

    fn open(&mut self, element: ElementRef<'_>, is_root: bool) -> bool {
        let name = element.value().name();
        if !is_root && (is_dropped(element) || self.drops_around && is_around(element, self.n_articles > 0)) {
            return false;
        }
        match name {
            "br" if self.n_pre == 0 && self.text.trim_end_matches([' ', '\t']).ends_with('\n') => self.flush(),
            "br" => self.text.push('\n'),
            "img" => {
                // One word is a label; more say something about the picture.
                let alt = element.attr("alt").unwrap_or_default();
                if alt.trim().contains(char::is_whitespace) || alt.chars().count() > 12 {
                    self.text.push(' ');
                    self.text.push_str(alt);
                    self.text.push(' ');
                }
            }
            "pre" => {
                self.flush();
                self.n_pre += 1;
            }
            "li" | "dt" => {
                self.flush();
                self.n_items += 1;
            }
            "dd" => self.n_items += 1,
            "main" | "article" => {
                self.flush();
                self.n_articles += 1;
            }
            "table" if is_data_table(element) => {
                self.flush();
                self.table(element);
                return false;
            }
            _ if heading(name).is_some() || BLOCK.contains(&name) => self.flush(),
            _ => {}
        }
        true
    }

    fn close(&mut self, name: &str) {
        match name {
            "pre" => {
                self.n_pre = self.n_pre.saturating_sub(1);
                let text = std::mem::take(&mut self.text);
                self.blocks.push(BlockKind::Code, &text);
            }
            "dt" => {
                self.n_items = self.n_items.saturating_sub(1);
                // The definition follows its term.
                self.text.truncate(self.text.trim_end().len());
                if !self.text.is_empty() {
                    self.text.push_str(": ");
                }
            }
            "li" | "dd" => {
                self.flush();
                self.n_items = self.n_items.saturating_sub(1);
            }
            "main" | "article" => {
                self.flush();
                self.n_articles = self.n_articles.saturating_sub(1);
            }
            _ => match heading(name) {
                Some(level) => {
                    let text = std::mem::take(&mut self.text);
                    self.blocks.push(BlockKind::Heading(level), &text);
                }
                None if BLOCK.contains(&name) => self.flush(),
                None => {}
            },
        }
    }

    fn flush(&mut self) {
        if self.n_pre > 0 {
            return;
        }
        let text = std::mem::take(&mut self.text);
        let kind = if self.n_items > 0 { BlockKind::ListItem } else { BlockKind::Paragraph };
        self.blocks.push(kind, text.trim_end_matches(": "));
    }

    fn table(&mut self, table: ElementRef<'_>) {
        let (mut rows, mut n_header_cells): (Vec<Vec<String>>, Vec<usize>) = (Vec::new(), Vec::new());
        let mut caption = String::new();
        walk(table, |step| {
            let Step::Open(_, Some(element)) = step else { return true };
            match element.value().name() {
                "tr" => {
                    rows.push(Vec::new());
                    n_header_cells.push(0);
                }
                name @ ("td" | "th") => {
                    if let (Some(row), Some(n)) = (rows.last_mut(), n_header_cells.last_mut()) {
                        row.push(inner_text(element));
                        *n += usize::from(name == "th");
                    }
                    return false;
                }
                "caption" => {
                    caption = inner_text(element);
                    return false;
                }
                _ => {}
            }
            true
        });
        self.blocks.push(BlockKind::Paragraph, &caption);
        let has_header = rows.first().zip(n_header_cells.first()).is_some_and(|(row, n)| row.len() == *n && *n > 0);
        let is_named_by_row = |(row, n): (&Vec<String>, &usize)| row.len() <= 2 && *n == 1 || row.len() == 1;
        if !has_header && rows.iter().zip(&n_header_cells).all(is_named_by_row) {
            // Facts in two columns, name and value, as in the boxes of encyclopaedias.
            for row in &rows {
                let (columns, values) = row.split_at(row.len().min(2) / 2);
                let columns: Vec<String> = columns.iter().map(|name| clean(name)).collect();
                let values: Vec<String> = values.iter().map(|value| clean(value)).collect();
                self.blocks.push(BlockKind::TableRow, &row_text(&columns, &values));
            }
            return;
        }
        self.blocks.push_table(&rows, has_header);
    }
}

fn is_dropped(element: ElementRef<'_>) -> bool {
    DROPPED.contains(&element.value().name())
        || element.attr("hidden").is_some()
        || element.attr("aria-hidden") == Some("true")
        || element.attr("style").is_some_and(|style| style.replace(' ', "").contains("display:none"))
}

fn is_around(element: ElementRef<'_>, in_article: bool) -> bool {
    let name = element.value().name();
    match name {
        "body" | "main" | "article" => return false,
        _ if AROUND.contains(&name) => return true,
        // The header of an article holds its title, the header of a page its menu.
        "header" => return !in_article,
        // Some frameworks wrap the whole page in a form.
        "form" => return !holds_content(element),
        _ => {}
    }
    element.attr("role").is_some_and(|role| AROUND_ROLES.contains(&role))
        || element.value().classes().any(|class| AROUND_CLASSES.contains(&class))
}

fn holds_content(element: ElementRef<'_>) -> bool {
    let (mut n_paragraphs, mut has_heading) = (0, false);
    walk(element, |step| {
        if let Step::Open(_, Some(inner)) = step {
            n_paragraphs += usize::from(inner.value().name() == "p");
            has_heading |= matches!(inner.value().name(), "main" | "article" | "h1" | "h2");
        }
        true
    });
    has_heading || n_paragraphs >= 3
}

/// A table with more than one column and nothing but text in its cells; others only arrange the page.
fn is_data_table(table: ElementRef<'_>) -> bool {
    if matches!(table.attr("role"), Some("presentation" | "none")) {
        return false;
    }
    let (mut is_plain, mut n_cells, mut widest, mut is_first) = (true, 0, 0, true);
    walk(table, |step| {
        if let Step::Open(_, Some(element)) = step {
            match element.value().name() {
                "table" | "h1" | "h2" | "h3" | "h4" | "pre" | "form" if !is_first => is_plain = false,
                "tr" => n_cells = 0,
                "td" | "th" => {
                    n_cells += 1;
                    widest = widest.max(n_cells);
                }
                _ => {}
            }
            is_first = false;
        }
        is_plain
    });
    is_plain && widest > 1
}

fn inner_text(element: ElementRef<'_>) -> String {
    let mut text = String::new();
    walk(element, |step| {
        match step {
            Step::Open(Node::Text(inner), _) => text.push_str(inner),
            Step::Open(_, Some(inner)) => {
                if is_dropped(inner) || inner.value().classes().any(|class| AROUND_CLASSES.contains(&class)) {
                    return false;
                }
                if BLOCK.contains(&inner.value().name()) || inner.value().name() == "br" {
                    text.push(' ');
                }
            }
            _ => {}
        }
        true
    });
    text
}

fn heading(name: &str) -> Option<u8> {
    match name.as_bytes() {
        [b'h', level @ b'1'..=b'6'] => Some(level - b'0'),
        _ => None,
    }
}

//! HTML: the main content of a page as blocks, without navigation, scripts and other noise.
//!
//! The tree is walked step by step, never recursively: pages may be nested deeper than a stack.

mod bounds;
mod content;

use std::collections::BTreeMap;

use scraper::{ElementRef, Html, Node};

use super::blocks::{Blocks, clean};
use super::error::ReadError;
use crate::rag::document::Document;

/// # Errors
/// The page would take the parser too long, or too much memory.
pub fn read(text: &str) -> Result<Document, ReadError> {
    bounds::check(text)?;
    let page = Html::parse_document(text);
    let root = page.root_element();
    let (title, metadata) = head(root);
    let mut blocks = content::blocks(root, true);
    if let Some(main) = main_content(root) {
        let found = content::blocks(main, true);
        // A <main> that holds a fraction of the page's text is not what its name says.
        if found.n_chars() * 4 >= blocks.n_chars() {
            blocks = found;
        }
    }
    if blocks.is_empty() {
        blocks = content::blocks(root, false);
    }
    let title = if title.is_empty() { blocks.first_heading().unwrap_or_default().to_owned() } else { title };
    Ok(Document { key: String::new(), title, blocks: blocks.into_vec(), metadata })
}

/// The blocks of HTML inside another format.
///
/// # Errors
/// As of a page.
pub fn fragment(text: &str) -> Result<Blocks, ReadError> {
    bounds::check(text)?;
    Ok(content::blocks(Html::parse_fragment(text).root_element(), true))
}

/// Title and metadata of a page.
fn head(root: ElementRef<'_>) -> (String, BTreeMap<String, String>) {
    let (mut title, mut shown_title) = (String::new(), String::new());
    let mut metadata = BTreeMap::new();
    let mut set = |name: &str, value: &str| {
        let value = clean(value);
        if !value.is_empty() {
            metadata.entry(name.to_owned()).or_insert(value);
        }
    };
    if let Some(language) = root.value().attr("lang").or_else(|| root.value().attr("xml:lang")) {
        set("language", language);
    }
    walk(root, |step| {
        let Step::Open(_, Some(element)) = step else { return true };
        match element.value().name() {
            "title" if title.is_empty() => title = clean(&element.text().collect::<String>()),
            "meta" => {
                let name = element.attr("name").or_else(|| element.attr("property")).unwrap_or_default();
                let content = element.attr("content").unwrap_or_default();
                match name.to_ascii_lowercase().as_str() {
                    "og:title" => shown_title = clean(content),
                    "description" | "og:description" => set("description", content),
                    "author" | "article:author" => set("author", content),
                    "keywords" => set("keywords", content),
                    "date" | "article:published_time" => set("date", content),
                    _ => {}
                }
            }
            "body" | "svg" => return false,
            _ => {}
        }
        true
    });
    // What is meant for showing elsewhere lacks the site's name that titles of windows carry.
    (if shown_title.is_empty() { title } else { shown_title }, metadata)
}

/// `<main>`, or the only `<article>`.
fn main_content(root: ElementRef<'_>) -> Option<ElementRef<'_>> {
    let (mut main, mut articles) = (None, Vec::new());
    walk(root, |step| {
        let Step::Open(_, Some(element)) = step else { return true };
        if element.value().name() == "main" || element.attr("role") == Some("main") {
            main = main.or(Some(element));
        } else if element.value().name() == "article" {
            articles.push(element);
        }
        true
    });
    match (main, articles.as_slice()) {
        (Some(main), _) => Some(main),
        (None, [article]) => Some(*article),
        _ => None,
    }
}

/// One step of a walk: into a node (with the element it is, if it is one), or out of an element.
enum Step<'a> {
    Open(&'a Node, Option<ElementRef<'a>>),
    Close(&'a str),
}

/// Visits the nodes below `root` in document order; the visitor says whether to go into what was opened.
fn walk<'a>(root: ElementRef<'a>, mut visit: impl FnMut(Step<'a>) -> bool) {
    let mut node = *root;
    loop {
        let mut inside = visit(Step::Open(node.value(), ElementRef::wrap(node)));
        if inside && let Some(child) = node.first_child() {
            node = child;
            continue;
        }
        loop {
            if inside && let Some(element) = ElementRef::wrap(node) {
                visit(Step::Close(element.value().name()));
            }
            if node.id() == root.id() {
                return;
            }
            if let Some(next) = node.next_sibling() {
                node = next;
                break;
            }
            let Some(parent) = node.parent() else { return };
            (node, inside) = (parent, true);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rag::document::BlockKind;

    fn check(html: &str, expected: &[(BlockKind, &str)]) {
        let document = read(html).unwrap();
        let found: Vec<_> = document.blocks.iter().map(|block| (block.kind, block.text.as_str())).collect();
        assert_eq!(found, expected, "{html:?}");
    }

    #[test]
    fn the_content_of_a_page_is_kept_and_what_stands_around_it_dropped() {
        use BlockKind::{Code, Heading, ListItem, Paragraph, TableRow};
        let html = r#"<!doctype html><html lang="en"><head><title>Weirs - Site</title>
            <meta name=description content="About weirs"><style>p{}</style></head><body>
            <header><h1>Site</h1></header><nav><a href=/>Home</a></nav><div class="sidebar x">side</div>
            <main><article><header><h1>Weirs</h1></header><p>A <b>low</b>&nbsp;dam<sup class=reference>[1]</sup>.<br>Old.
            <ul><li>one<ul><li>deep</ul><li><p>two</p></ul>
            <dl><dt>Sill</dt><dd>the crest</dd></dl><pre>a
  b</pre><table><tr><th>Name<th>Height<tr><td>Weir<td>3 m</table>
            <table><tr><td>only<p>layout</p></td></tr></table>
            <table><tr><th>Built</th><td>1900</td></tr></table>
            <form><input value=x><label>Search</label></form><script>var x;</script></article></main>
            <footer>© 2026</footer></body></html>"#;
        check(
            html,
            &[
                (Heading(1), "Weirs"),
                (Paragraph, "A low dam. Old."),
                (ListItem, "one"),
                (ListItem, "deep"),
                (ListItem, "two"),
                (ListItem, "Sill: the crest"),
                (Code, "a\n  b"),
                (TableRow, "Name: Weir; Height: 3 m"),
                (Paragraph, "only"),
                (Paragraph, "layout"),
                (TableRow, "Built: 1900"),
            ],
        );
        let document = read(html).unwrap();
        assert_eq!(document.title, "Weirs - Site");
        assert_eq!(
            (document.metadata["language"].as_str(), document.metadata["description"].as_str()),
            ("en", "About weirs")
        );
    }

    #[test]
    fn a_page_without_structure_is_read_whole() {
        check("just <i>text</i><br><br>more", &[(BlockKind::Paragraph, "just text"), (BlockKind::Paragraph, "more")]);
        // A main element that is not the content, and a page that is one form.
        check(
            "<main>x</main><p>The text of the page is out here.",
            &[(BlockKind::Paragraph, "x"), (BlockKind::Paragraph, "The text of the page is out here.")],
        );
        check(
            "<form><h2>Page</h2><p>in a form</form>",
            &[(BlockKind::Heading(2), "Page"), (BlockKind::Paragraph, "in a form")],
        );
        check("<nav>only <a>links</a></nav>", &[(BlockKind::Paragraph, "only links")]);
    }

    #[test]
    fn nesting_that_would_take_hours_is_refused() {
        let error = read(&"<div>".repeat(100_000)).unwrap_err();
        assert!(matches!(error, ReadError::TooDeep { .. }));
        assert!(read(&"<p>a<br>".repeat(100_000)).is_ok());
    }
}

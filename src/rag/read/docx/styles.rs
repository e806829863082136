//! Paragraph styles: which are headings, lists or tables of contents. Built-in styles have English names in every language
//! of Word, while their ids are translated; own styles say their level or the style they are based on.

use std::collections::HashMap;

use super::{Role, Tagged, attribute, parse};
use crate::rag::document::BlockKind;
use crate::rag::read::error::ReadError;

/// Styles that are based on each other deeper than this are a loop.
const MAX_BASES: usize = 16;

/// Styles by id.
#[derive(Debug, Default)]
pub struct Styles {
    styles: HashMap<String, Style>,
}

#[derive(Debug, Default)]
struct Style {
    name: String,
    based_on: Option<String>,
    outline_level: Option<u8>,
    is_numbered: bool,
}

impl Styles {
    /// What paragraphs of this style are, if the style says.
    pub fn role(&self, id: &str) -> Option<Role> {
        let mut id = id;
        for _ in 0..MAX_BASES {
            let Some(style) = self.styles.get(id) else { return role_of_name(id) };
            let level = style.outline_level.map(|level| Role::Block(BlockKind::Heading(level)));
            let numbered = style.is_numbered.then_some(Role::Block(BlockKind::ListItem));
            if let Some(role) = role_of_name(&style.name).or(level).or(numbered) {
                return Some(role);
            }
            id = style.based_on.as_deref()?;
        }
        None
    }

    pub fn is_title(&self, id: &str) -> bool {
        let name = self.styles.get(id).map_or(id, |style| style.name.as_str());
        name.eq_ignore_ascii_case("title")
    }
}

fn role_of_name(name: &str) -> Option<Role> {
    let name = name.to_ascii_lowercase().replace(' ', "");
    let level = |digits: &str| digits.parse::<u8>().ok().filter(|level| (1..=9).contains(level));
    if name.starts_with("toc") || name.starts_with("tableoffigures") {
        return Some(Role::Skipped);
    }
    if let Some(level) = name.strip_prefix("heading").and_then(level) {
        return Some(Role::Block(BlockKind::Heading(level)));
    }
    match name.as_str() {
        "title" => Some(Role::Block(BlockKind::Heading(1))),
        "subtitle" => Some(Role::Block(BlockKind::Paragraph)),
        _ if name.starts_with("list") => Some(Role::Block(BlockKind::ListItem)),
        _ if name.contains("code") || name.starts_with("htmlpreformatted") => Some(Role::Block(BlockKind::Code)),
        _ => None,
    }
}

/// # Errors
/// The part is no XML.
pub fn read(xml: &str) -> Result<Styles, ReadError> {
    let mut styles = Styles::default();
    let mut id = None;
    let mut style = Style::default();
    parse(xml, |event| match event {
        Tagged::Open("style", tag) => {
            id = attribute(tag, "styleId").filter(|_| attribute(tag, "type").is_none_or(|kind| kind == "paragraph"));
            style = Style::default();
        }
        Tagged::Open("name", tag) => style.name = attribute(tag, "val").unwrap_or_default(),
        Tagged::Open("basedOn", tag) => style.based_on = attribute(tag, "val"),
        Tagged::Open("outlineLvl", tag) => style.outline_level = outline_level(attribute(tag, "val")),
        Tagged::Open("numPr", _) => style.is_numbered = true,
        Tagged::Close("style") => {
            if let Some(id) = id.take() {
                styles.styles.insert(id, std::mem::take(&mut style));
            }
        }
        _ => {}
    })?;
    Ok(styles)
}

/// Levels count from 0; 9 is body text.
pub fn outline_level(value: Option<String>) -> Option<u8> {
    value?.parse::<u8>().ok().filter(|level| *level < 9).map(|level| level + 1)
}

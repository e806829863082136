//! The web as a source: ask a search engine, choose pages, read them.
//!
//! Called by the search pipeline when the documents do not answer. What comes back is text of strangers: it is refined
//! and cited like any passage, and never followed. Reaches the network only through `Fetch`, which must keep private
//! addresses out of reach of strangers' requests (`Reach::Stranger`).

use std::collections::HashSet;
use std::ops::Range;
use std::time::Duration;

use futures_util::future::join_all;
use serde::{Deserialize, Serialize};

use crate::rag::document::{BlockKind, Document};
use crate::rag::ports::{Fetch, Method, Reach, WebRequest};

use super::provider::Provider;

/// As published: paragraphs of at most so many characters are menus and captions.
const MIN_PARAGRAPH_CHARS: usize = 10;
const MAX_PAGE_BYTES: usize = 2 * 1024 * 1024;
/// No engine gives more at once, and no answer needs more.
const MAX_RESULTS: usize = 10;

/// A result of a search engine: its snippet, or the page's paragraphs one a line once it was read.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct WebPage {
    pub title: String,
    pub url: String,
    pub text: String,
}

impl WebPage {
    /// The lines that are long enough to say something.
    pub fn paragraphs(&self) -> Vec<Range<usize>> {
        let mut found = Vec::new();
        let mut start = 0;
        for line in self.text.split('\n') {
            let trimmed = line.trim();
            if trimmed.chars().count() > MIN_PARAGRAPH_CHARS {
                let from = start + (line.len() - line.trim_start().len());
                found.push(from..from + trimmed.len());
            }
            start += line.len() + 1;
        }
        found
    }

    fn is_wikipedia(&self) -> bool {
        host(&self.url).is_some_and(|host| host == "wikipedia.org" || host.ends_with(".wikipedia.org"))
    }
}

/// How the web is searched.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct WebSettings {
    pub results: usize,
    pub wikipedia: Wikipedia,
    /// Whether the pages are read, or the engine's snippets are enough.
    pub read_pages: bool,
    pub timeout_ms: u64,
}

impl Default for WebSettings {
    fn default() -> Self {
        WebSettings { results: 5, wikipedia: Wikipedia::First, read_pages: true, timeout_ms: 5_000 }
    }
}

/// Makes blocks of a page: its bytes and their content type. The reader of HTML documents fits.
pub type ReadPage = dyn Fn(&[u8], &str) -> Result<Document, String> + Send + Sync;

/// What pages of Wikipedia are worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Wikipedia {
    /// As any other page.
    Off,
    /// Before the others.
    #[default]
    First,
    /// As the published `wiki` mode: the word goes before the query and only its pages are read, if there are any.
    Only,
}

/// Asks the engine. Each address once, at most `settings.results` pages, none without text.
///
/// # Errors
/// The engine cannot be reached, refuses, or answers something else; in words.
pub async fn search(
    fetch: &dyn Fetch,
    provider: &Provider,
    query: &str,
    settings: &WebSettings,
) -> Result<Vec<WebPage>, String> {
    if query.trim().is_empty() {
        return Err("the query for the web search is empty".into());
    }
    let query = match settings.wikipedia {
        Wikipedia::Only => format!("Wikipedia, {query}"),
        _ => query.to_string(),
    };
    let count = settings.results.clamp(1, MAX_RESULTS);
    let request = provider.request(&query, count, timeout(settings))?;
    let response =
        fetch.fetch(request).await.map_err(|error| format!("{} cannot be reached: {error}", provider.name()))?;
    Ok(chosen(provider.pages(&response)?, settings.wikipedia, count))
}

/// Reads the pages, all at once. A page that cannot be had keeps its snippet.
/// Returns the pages and a note for each that failed.
pub async fn visit(
    fetch: &dyn Fetch,
    pages: Vec<WebPage>,
    settings: &WebSettings,
    read: &ReadPage,
) -> (Vec<WebPage>, Vec<String>) {
    if !settings.read_pages {
        return (pages, Vec::new());
    }
    let visits = pages.iter().map(|page| visit_one(fetch, page, settings, read));
    let read_pages = join_all(visits).await;
    let mut notes = Vec::new();
    let mut found = Vec::new();
    for (page, read) in pages.into_iter().zip(read_pages) {
        match read {
            Ok(read) => found.push(read),
            Err(error) => {
                let host = host(&page.url).unwrap_or_default();
                notes.push(format!("{host}: {error}; its snippet is used"));
                found.push(page);
            }
        }
    }
    (found, notes)
}

async fn visit_one(
    fetch: &dyn Fetch,
    page: &WebPage,
    settings: &WebSettings,
    read: &ReadPage,
) -> Result<WebPage, String> {
    if !is_public(&page.url) {
        return Err("the address is not one of the public web".into());
    }
    let request = WebRequest {
        method: Method::Get,
        url: page.url.clone(),
        headers: Vec::new(),
        body: None,
        timeout: timeout(settings),
        max_bytes: MAX_PAGE_BYTES,
        reach: Reach::Stranger,
    };
    let response = fetch.fetch(request).await?;
    if !(200..300).contains(&response.status) {
        return Err(format!("it answered {}", response.status));
    }
    let document = read(&response.body, &response.content_type)?;
    let paragraphs: Vec<String> = document
        .blocks
        .iter()
        .filter(|block| matches!(block.kind, BlockKind::Paragraph | BlockKind::ListItem | BlockKind::TableRow))
        .map(|block| block.text.split_whitespace().collect::<Vec<_>>().join(" "))
        .filter(|text| text.chars().count() > MIN_PARAGRAPH_CHARS)
        .collect();
    if paragraphs.is_empty() {
        return Err("it has no paragraphs".into());
    }
    let headings = document.blocks.iter().filter(|block| matches!(block.kind, BlockKind::Heading(_)));
    let heading = headings.map(|block| block.text.trim()).find(|text| !text.is_empty());
    let titles = [heading, Some(document.title.trim()), Some(page.title.trim())];
    let title = titles.into_iter().flatten().find(|title| !title.is_empty()).unwrap_or_default();
    Ok(WebPage { title: title.to_string(), url: page.url.clone(), text: paragraphs.join("\n") })
}

fn chosen(pages: Vec<WebPage>, wikipedia: Wikipedia, count: usize) -> Vec<WebPage> {
    let mut seen = HashSet::new();
    let mut kept: Vec<WebPage> = pages
        .into_iter()
        .filter(|page| !page.text.trim().is_empty() || !page.url.is_empty() && !page.title.trim().is_empty())
        .filter(|page| page.url.is_empty() || seen.insert(page.url.clone()))
        .collect();
    match wikipedia {
        Wikipedia::Off => {}
        // Stable: the engine's order stays within both groups.
        Wikipedia::First => kept.sort_by_key(|page| !page.is_wikipedia()),
        Wikipedia::Only => {
            if kept.iter().any(WebPage::is_wikipedia) {
                kept.retain(WebPage::is_wikipedia);
            }
        }
    }
    kept.truncate(count);
    kept
}

fn timeout(settings: &WebSettings) -> Duration {
    Duration::from_millis(settings.timeout_ms.clamp(100, 60_000))
}

fn host(url: &str) -> Option<&str> {
    let rest = url.strip_prefix("https://").or_else(|| url.strip_prefix("http://"))?;
    let authority = rest.split(['/', '?', '#', '\\']).next()?;
    let host = authority.rsplit('@').next()?;
    let host = if host.starts_with('[') { host } else { host.split(':').next()? };
    Some(host).filter(|host| !host.is_empty())
}

/// Whether a name of the public web, by its form. The last word is `Fetch`'s, which sees what the name resolves to.
fn is_public(url: &str) -> bool {
    let Some(host) = host(url) else { return false };
    let top = host.trim_end_matches('.').rsplit('.').next().unwrap_or_default();
    let named = host.contains('.') && !host.starts_with('[') && top.chars().any(|c| c.is_alphabetic());
    // "0x7f.1" and the like are addresses to some resolvers.
    named && !top.starts_with("0x") && !["local", "localhost", "internal", "lan", "home", "arpa"].contains(&top)
}

#[cfg(test)]
#[path = "web_tests.rs"]
mod tests;

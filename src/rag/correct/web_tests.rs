use super::*;
use crate::rag::document::Block;
use crate::rag::ports::{Reach, WebResponse};
use crate::rag::scripted::ScriptedWeb;

fn searxng() -> Provider {
    Provider::Searxng { base_url: "http://searx.local".into() }
}

const RESULTS: &str = r#"{"results":[
    {"title":"Blog","url":"https://blog.org/jaws","content":"A blog about the film Jaws"},
    {"title":"Jaws","url":"https://en.wikipedia.org/wiki/Jaws","content":"Jaws is a 1975 film"},
    {"title":"Jaws again","url":"https://en.wikipedia.org/wiki/Jaws","content":"twice"},
    {"title":"Trap","url":"https://wikipedia.org.evil.com/","content":"not Wikipedia"},
    {"title":"","url":"https://empty.org/","content":" "},
    {"title":"Router","url":"http://192.168.0.1/","content":"an address inside"}]}"#;

fn urls(pages: &[WebPage]) -> Vec<&str> {
    pages.iter().map(|page| page.url.as_str()).collect()
}

#[tokio::test]
async fn wikipedia_comes_first_and_doubles_go() {
    let web = ScriptedWeb::fixed(200, RESULTS);
    let settings = WebSettings { results: 3, ..WebSettings::default() };
    let pages = search(&web, &searxng(), "Jaws", &settings).await.unwrap();
    assert_eq!(
        urls(&pages),
        ["https://en.wikipedia.org/wiki/Jaws", "https://blog.org/jaws", "https://wikipedia.org.evil.com/"]
    );
    assert_eq!(web.calls(), 1);

    let only = WebSettings { wikipedia: Wikipedia::Only, ..settings.clone() };
    let pages = search(&web, &searxng(), "Jaws", &only).await.unwrap();
    assert_eq!(urls(&pages), ["https://en.wikipedia.org/wiki/Jaws"]);
    assert!(web.requests.lock()[1].url.contains("q=Wikipedia%2C%20Jaws&"));

    let off = WebSettings { wikipedia: Wikipedia::Off, ..settings };
    let pages = search(&web, &searxng(), "Jaws", &off).await.unwrap();
    assert_eq!(urls(&pages)[0], "https://blog.org/jaws");
}

#[tokio::test]
async fn errors_are_words() {
    let settings = WebSettings::default();
    let web = ScriptedWeb::new(|_| Err("connection refused".into()));
    let error = search(&web, &searxng(), "Jaws", &settings).await.unwrap_err();
    assert_eq!(error, "SearXNG cannot be reached: connection refused");
    let error = search(&ScriptedWeb::fixed(429, ""), &searxng(), "Jaws", &settings).await.unwrap_err();
    assert!(error.contains("429"), "{error}");
    assert!(search(&web, &searxng(), " ", &settings).await.is_err());
    assert_eq!(web.calls(), 1, "an empty query is not sent");
}

fn read(bytes: &[u8], content_type: &str) -> Result<Document, String> {
    assert_eq!(content_type, "text/html");
    let text = String::from_utf8_lossy(bytes).to_string();
    let block = |kind, text: &str| Block { kind, text: text.into() };
    let blocks = vec![
        block(BlockKind::Heading(1), "Jaws (film)"),
        block(BlockKind::Paragraph, &text),
        block(BlockKind::Paragraph, "menu"),
        block(BlockKind::Code, "code is no paragraph"),
        block(BlockKind::ListItem, "directed by\nSteven Spielberg"),
    ];
    if text == "broken" {
        Err("no HTML".into())
    } else {
        Ok(Document { title: "t".into(), blocks, ..Document::default() })
    }
}

fn page(url: &str) -> WebPage {
    WebPage { title: "T".into(), url: url.into(), text: "the snippet".into() }
}

#[tokio::test]
async fn pages_are_read_and_failures_keep_their_snippet() {
    let web = ScriptedWeb::new(|request| {
        let (status, body) = match request.url.as_str() {
            "https://gone.org/" => (404, ""),
            "https://broken.org/" => (200, "broken"),
            "https://down.org/" => return Err("timed out".into()),
            _ => (200, "Jaws is a 1975 film."),
        };
        Ok(WebResponse { status, content_type: "text/html".into(), body: body.as_bytes().to_vec() })
    });
    let pages =
        ["https://ok.org/", "https://gone.org/", "https://broken.org/", "https://down.org/", "http://10.0.0.1/"];
    let pages = pages.map(page).to_vec();
    let (read_pages, notes) = visit(&web, pages.clone(), &WebSettings::default(), &read).await;
    assert_eq!(read_pages[0].title, "Jaws (film)");
    assert_eq!(read_pages[0].text, "Jaws is a 1975 film.\ndirected by Steven Spielberg");
    assert!(read_pages[1..].iter().all(|page| page.text == "the snippet"));
    assert_eq!(
        notes,
        [
            "gone.org: it answered 404; its snippet is used",
            "broken.org: no HTML; its snippet is used",
            "down.org: timed out; its snippet is used",
            "10.0.0.1: the address is not one of the public web; its snippet is used",
        ]
    );
    assert_eq!(web.calls(), 4, "the private address is not asked");
    assert!(web.requests.lock().iter().all(|request| request.reach == Reach::Stranger));

    let snippets = WebSettings { read_pages: false, ..WebSettings::default() };
    assert_eq!(visit(&web, pages.clone(), &snippets, &read).await, (pages, vec![]));
    assert_eq!(web.calls(), 4);
}

#[test]
fn only_public_names_are_visited() {
    for (url, public) in [
        ("https://en.wikipedia.org/wiki/A", true),
        ("http://example.com:8080/x", true),
        ("http://example.com@127.0.0.1/", false),
        ("http://localhost/", false),
        ("http://printer.local/", false),
        ("http://127.0.0.1/", false),
        ("http://2130706433/", false),
        ("http://0x7f.0x0.0x0.0x1/", false),
        ("http://[::1]/", false),
        ("http://metadata.google.internal/", false),
        ("file:///etc/passwd", false),
        ("", false),
    ] {
        assert_eq!(is_public(url), public, "{url}");
    }
}

#[test]
fn paragraphs_are_lines_over_ten_characters() {
    let page = WebPage {
        text: "short line\n  eleven char  \n\n一二三四五六七八九十一".into(), ..WebPage::default()
    };
    let found: Vec<&str> = page.paragraphs().into_iter().map(|range| &page.text[range]).collect();
    assert_eq!(found, ["eleven char", "一二三四五六七八九十一"]);
}

#[test]
fn settings_have_defaults() {
    let settings: WebSettings = serde_json::from_str("{\"wikipedia\":\"only\"}").unwrap();
    assert_eq!(settings, WebSettings { wikipedia: Wikipedia::Only, ..WebSettings::default() });
}

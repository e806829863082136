//! Search engines as data: what is sent, and where in the answer the pages are.
//!
//! Every engine becomes the same few fields, so that one that is not listed needs configuration and no code. Pure;
//! `web` sends the request. Keys are secrets, and no error names them.

use std::time::Duration;

use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::base::secret::Secret;
use crate::rag::ports::{Method, Reach, WebRequest, WebResponse};

use super::web::WebPage;

/// More than an engine's answer ever has.
const MAX_ANSWER_BYTES: usize = 2 * 1024 * 1024;

/// A search engine and how it is reached.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "provider", rename_all = "snake_case", deny_unknown_fields)]
pub enum Provider {
    /// An own SearXNG; its `search.formats` must list `json`.
    Searxng { base_url: String },
    /// The Bing Web Search API, or what speaks it at another address.
    Bing {
        key: Secret,
        #[serde(default = "bing_url")]
        base_url: String,
    },
    Brave {
        key: Secret,
        #[serde(default = "brave_url")]
        base_url: String,
    },
    /// Google's Programmable Search Engine; `engine` is its `cx`.
    Google {
        key: Secret,
        engine: String,
        #[serde(default = "google_url")]
        base_url: String,
    },
    Tavily {
        key: Secret,
        #[serde(default = "tavily_url")]
        base_url: String,
    },
    /// Google's results through Serper, as the published CRAG scripts use it.
    Serper {
        key: Secret,
        #[serde(default = "serper_url")]
        base_url: String,
    },
    /// Any endpoint that answers JSON.
    Json(Endpoint),
}

/// An endpoint that answers a query with JSON. Paths are names and positions joined by dots: `web.results`, `data.0.hits`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Endpoint {
    /// `{query}` is replaced by the query (percent-encoded), `{count}` by the number of results.
    pub url: String,
    /// A body makes it a POST. In its strings `{query}` and `{count}` are replaced; `"{count}"` alone becomes a number.
    #[serde(default)]
    pub body: Option<Value>,
    #[serde(default)]
    pub headers: Vec<Header>,
    /// Where the list of results is; empty when the answer is the list.
    pub results_path: String,
    /// Inside one result; the last two may be empty where the engine has none.
    pub title: String,
    #[serde(default)]
    pub url_path: String,
    pub text: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Header {
    pub name: String,
    pub value: Secret,
}

impl Provider {
    pub fn name(&self) -> &'static str {
        match self {
            Provider::Searxng { .. } => "SearXNG",
            Provider::Bing { .. } => "Bing",
            Provider::Brave { .. } => "Brave",
            Provider::Google { .. } => "Google",
            Provider::Tavily { .. } => "Tavily",
            Provider::Serper { .. } => "Serper",
            Provider::Json(_) => "the JSON endpoint",
        }
    }

    /// Finds what is wrong before the first question does.
    ///
    /// # Errors
    /// The field, what is wrong and what to do.
    pub fn check(&self) -> Result<(), String> {
        let name = self.name();
        let (url, key) = match self {
            Provider::Searxng { base_url } => (base_url, None),
            Provider::Bing { key, base_url }
            | Provider::Brave { key, base_url }
            | Provider::Google { key, base_url, .. }
            | Provider::Tavily { key, base_url }
            | Provider::Serper { key, base_url } => (base_url, Some(key)),
            Provider::Json(endpoint) => (&endpoint.url, None),
        };
        if !(url.starts_with("https://") || url.starts_with("http://")) {
            return Err(format!("web search with {name}: the address {url:?} must begin with https:// or http://"));
        }
        if key.is_some_and(Secret::is_empty) {
            return Err(format!("web search with {name}: `key` is empty; put the engine's API key there"));
        }
        if let Provider::Google { engine, .. } = self
            && engine.is_empty()
        {
            return Err("web search with Google: `engine` is empty; it is the search engine's id (cx)".into());
        }
        if let Provider::Json(endpoint) = self {
            let body = endpoint.body.as_ref().map(Value::to_string).unwrap_or_default();
            if !endpoint.url.contains("{query}") && !body.contains("{query}") {
                return Err("web search with a JSON endpoint: neither `url` nor `body` has {query} in it".into());
            }
            if endpoint.title.is_empty() && endpoint.text.is_empty() {
                return Err("web search with a JSON endpoint: `title` and `text` are both empty".into());
            }
        }
        Ok(())
    }

    /// # Errors
    /// As [`Provider::check`].
    pub fn request(&self, query: &str, count: usize, timeout: Duration) -> Result<WebRequest, String> {
        self.check()?;
        let endpoint = self.endpoint();
        let headers = endpoint.headers.iter().map(|header| (header.name.clone(), header.value.clone()));
        let mut headers: Vec<(String, Secret)> = headers.collect();
        headers.push(("accept".into(), Secret::new("application/json")));
        if endpoint.body.is_some() {
            headers.push(("content-type".into(), Secret::new("application/json")));
        }
        let url = endpoint.url.replace("{count}", &count.to_string()).replace("{query}", &encoded(query));
        Ok(WebRequest {
            method: if endpoint.body.is_some() { Method::Post } else { Method::Get },
            url,
            headers,
            body: endpoint.body.as_ref().map(|body| filled(body, query, count).to_string()),
            timeout,
            max_bytes: MAX_ANSWER_BYTES,
            reach: Reach::Configured,
        })
    }

    /// The pages of an answer, in the engine's order, with marks of HTML taken out.
    ///
    /// # Errors
    /// The engine refused, or its answer is not what the paths say.
    pub fn pages(&self, response: &WebResponse) -> Result<Vec<WebPage>, String> {
        let name = self.name();
        if !(200..300).contains(&response.status) {
            return Err(format!("{name} answered {}: {}", response.status, self.advice(response.status)));
        }
        let answer: Value = serde_json::from_slice(&response.body)
            .map_err(|error| format!("{name} answered {} bytes that are not JSON ({error})", response.body.len()))?;
        let endpoint = self.endpoint();
        let results = match at_path(&answer, &endpoint.results_path) {
            Some(Value::Array(results)) => results,
            // Engines leave the list out when they found nothing.
            None if answer.is_object() && !matches!(self, Provider::Json(_)) && answer.get("error").is_none() => {
                return Ok(Vec::new());
            }
            _ => {
                let path = &endpoint.results_path;
                return Err(format!("the answer of {name} has no list at \"{path}\"{}", said(&answer)));
            }
        };
        let field = |result: &Value, path: &str| match at_path(result, path) {
            Some(Value::String(text)) if !path.is_empty() => plain(text),
            Some(Value::Number(number)) => number.to_string(),
            _ => String::new(),
        };
        let page = |result: &Value| WebPage {
            title: field(result, &endpoint.title),
            url: match at_path(result, &endpoint.url_path) {
                Some(Value::String(url)) if !endpoint.url_path.is_empty() => url.trim().to_string(),
                _ => String::new(),
            },
            text: field(result, &endpoint.text),
        };
        Ok(results.iter().map(page).collect())
    }

    fn endpoint(&self) -> Endpoint {
        let get = |base_url: &str, query: &str, key: Option<(&str, &Secret)>, paths: [&str; 4]| Endpoint {
            url: format!("{}{query}", base_url.trim_end_matches('/')),
            body: None,
            headers: key.into_iter().map(|(name, value)| Header { name: name.into(), value: value.clone() }).collect(),
            results_path: paths[0].into(),
            title: paths[1].into(),
            url_path: paths[2].into(),
            text: paths[3].into(),
        };
        match self {
            Provider::Searxng { base_url } => {
                get(base_url, "/search?q={query}&format=json", None, ["results", "title", "url", "content"])
            }
            Provider::Bing { key, base_url } => get(
                base_url,
                "?q={query}&count={count}",
                Some(("ocp-apim-subscription-key", key)),
                ["webPages.value", "name", "url", "snippet"],
            ),
            Provider::Brave { key, base_url } => get(
                base_url,
                "?q={query}&count={count}",
                Some(("x-subscription-token", key)),
                ["web.results", "title", "url", "description"],
            ),
            Provider::Google { key, engine, base_url } => get(
                base_url,
                // Ten is the most that it gives; the key has no other place.
                &format!("?key={}&cx={}&num={{count}}&q={{query}}", encoded(key.expose()), encoded(engine)),
                None,
                ["items", "title", "link", "snippet"],
            ),
            Provider::Tavily { key, base_url } => {
                let key = Secret::new(format!("Bearer {}", key.expose()));
                let paths = ["results", "title", "url", "content"];
                let body = serde_json::json!({"query": "{query}", "max_results": "{count}"});
                Endpoint { body: Some(body), ..get(base_url, "", Some(("authorization", &key)), paths) }
            }
            Provider::Serper { key, base_url } => {
                let paths = ["organic", "title", "link", "snippet"];
                let body = serde_json::json!({"q": "{query}", "num": "{count}"});
                Endpoint { body: Some(body), ..get(base_url, "", Some(("x-api-key", key)), paths) }
            }
            Provider::Json(endpoint) => endpoint.clone(),
        }
    }

    fn advice(&self, status: u16) -> &'static str {
        match status {
            403 if matches!(self, Provider::Searxng { .. }) => {
                "it does not give JSON out; add `json` to `search.formats` in its settings.yml"
            }
            401 | 403 => "the API key is wrong, expired or not allowed to search",
            402 | 429 => "the quota is used up or questions come too fast; search again later or raise the plan",
            404 => "there is no search at this address; check `base_url` or `url`",
            400..500 => "it does not understand the request; check the address and the fields",
            _ => "it is out of order at the moment",
        }
    }
}

/// The value at a dotted path; the value itself for an empty one.
pub fn at_path<'a>(value: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').filter(|step| !step.is_empty()).try_fold(value, |value, step| match value {
        Value::Array(list) => list.get(step.parse::<usize>().ok()?),
        other => other.get(step),
    })
}

/// What RFC 3986 leaves unreserved stays as it is.
const UNRESERVED: &AsciiSet = &NON_ALPHANUMERIC.remove(b'-').remove(b'.').remove(b'_').remove(b'~');

fn encoded(text: &str) -> String {
    // Braces are encoded too, so that a question cannot bring placeholders of its own.
    utf8_percent_encode(text, UNRESERVED).to_string()
}

fn filled(body: &Value, query: &str, count: usize) -> Value {
    match body {
        Value::String(text) if text == "{count}" => count.into(),
        // The count first: the question may contain the word "{count}".
        Value::String(text) => text.replace("{count}", &count.to_string()).replace("{query}", query).into(),
        Value::Array(list) => list.iter().map(|value| filled(value, query, count)).collect(),
        Value::Object(object) => {
            object.iter().map(|(name, value)| (name.clone(), filled(value, query, count))).collect()
        }
        other => other.clone(),
    }
}

/// Without the tags with which engines emphasise the words they found, and with the commonest entities read.
fn plain(text: &str) -> String {
    let mut without = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('<') {
        let tail = &rest[at + 1..];
        let is_tag = tail.starts_with(|c: char| c.is_ascii_alphabetic() || c == '/');
        without.push_str(&rest[..at]);
        match tail.find('>') {
            Some(end) if is_tag => rest = &tail[end + 1..],
            _ => {
                without.push('<');
                rest = tail;
            }
        }
    }
    without.push_str(rest);
    const ENTITIES: [(&str, &str); 7] = [
        ("&lt;", "<"),
        ("&gt;", ">"),
        ("&quot;", "\""),
        ("&#39;", "'"),
        ("&#x27;", "'"),
        ("&nbsp;", " "),
        ("&amp;", "&"),
    ];
    let read = ENTITIES.iter().fold(without, |text, (entity, character)| text.replace(entity, character));
    read.trim().to_string()
}

/// What the engine itself says about an error, shortened.
fn said(answer: &Value) -> String {
    let message = ["error.message", "message", "error", "detail"];
    let found = message.iter().find_map(|path| at_path(answer, path).and_then(Value::as_str));
    found.map(|text| format!("; it says: {}", text.chars().take(200).collect::<String>())).unwrap_or_default()
}

fn bing_url() -> String {
    "https://api.bing.microsoft.com/v7.0/search".into()
}

fn brave_url() -> String {
    "https://api.search.brave.com/res/v1/web/search".into()
}

fn google_url() -> String {
    "https://www.googleapis.com/customsearch/v1".into()
}

fn tavily_url() -> String {
    "https://api.tavily.com/search".into()
}

fn serper_url() -> String {
    "https://google.serper.dev/search".into()
}

#[cfg(test)]
#[path = "provider_tests.rs"]
mod tests;

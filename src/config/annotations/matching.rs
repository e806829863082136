//! `match-method`, `exact-|prefix-|regex-match-header-<name>`, `…-match-pseudo-header-<name>`, `…-match-query-<name>`:
//! conditions beside host and path (Higress `annotations/match.go`).

use super::{Annotations, HIGRESS};
use crate::config::model::{HeaderMatch, Pattern, QueryMatch, StringMatch};

const METHODS: &[&str] = &["GET", "HEAD", "POST", "PUT", "DELETE", "CONNECT", "OPTIONS", "TRACE", "PATCH"];

#[derive(Debug, Default)]
pub(in crate::config) struct Matches {
    pub methods: Vec<String>,
    pub headers: Vec<HeaderMatch>,
    pub queries: Vec<QueryMatch>,
}

pub(super) fn read(annotations: &Annotations<'_>) -> Matches {
    let mut matches = Matches { methods: methods(annotations), ..Matches::default() };
    for (key, value) in annotations.all_higress() {
        let Some((how, rest)) = key.split_once("-match-") else { continue };
        let full_key = format!("{HIGRESS}{key}");
        let condition = match how {
            "exact" => StringMatch::Exact(value.to_owned()),
            "prefix" => StringMatch::Prefix(value.to_owned()),
            // Ignoring a broken expression would open the route to requests it was meant to keep out.
            "regex" => match Pattern::full(value) {
                Ok(pattern) => StringMatch::Regex(pattern),
                Err(error) => {
                    annotations.mark_known(full_key.clone());
                    annotations.error(&full_key, format!("is not a regular expression: {}", reason(&error)));
                    continue;
                }
            },
            _ => continue,
        };
        if let Some(name) = rest.strip_prefix("query-").filter(|name| !name.is_empty()) {
            matches.queries.push(QueryMatch { name: name.to_owned(), value: condition });
        } else if let Some(name) = rest.strip_prefix("pseudo-header-").filter(|name| !name.is_empty()) {
            matches.headers.push(HeaderMatch { name: format!(":{}", name.to_ascii_lowercase()), value: condition });
        } else if let Some(name) = rest.strip_prefix("header-").filter(|name| !name.is_empty()) {
            matches.headers.push(HeaderMatch { name: name.to_ascii_lowercase(), value: condition });
        } else {
            continue;
        }
        annotations.mark_known(full_key);
    }
    matches.headers.sort_by(|a, b| a.name.cmp(&b.name));
    matches.queries.sort_by(|a, b| a.name.cmp(&b.name));
    matches
}

fn methods(annotations: &Annotations<'_>) -> Vec<String> {
    let Some((key, text)) = annotations.either("match-method") else { return Vec::new() };
    let mut methods = Vec::new();
    for word in text.split_whitespace() {
        let method = word.to_ascii_uppercase();
        if !METHODS.contains(&method.as_str()) {
            annotations.warn(&key, format!("`{word}` is not a method and has no effect"));
        } else if !methods.contains(&method) {
            methods.push(method);
        }
    }
    methods
}

/// The last line of the parser's message: the ones before draw a picture of the expression.
pub(in crate::config) fn reason(error: &regex::Error) -> String {
    let text = error.to_string();
    let last = text.lines().last().unwrap_or_default();
    last.trim_start_matches("error: ").to_owned()
}

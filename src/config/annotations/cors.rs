//! `enable-cors` and `cors-*`: which cross-origin requests browsers may make (Higress `annotations/cors.go`).
//!
//! Unlike in Higress, the scheme of an origin with an asterisk counts: `https://*.a.com` does not admit `http://x.a.com`.

use http::HeaderValue;

use super::Annotations;
use crate::config::model::{Cors, Pattern, StringMatch};

const METHODS: &str = "GET, PUT, POST, DELETE, PATCH, OPTIONS";
const HEADERS: &str = "DNT,X-CustomHeader,Keep-Alive,User-Agent,X-Requested-With,If-Modified-Since,Cache-Control,\
    Content-Type,Authorization";
const MAX_AGE_SECS: u64 = 1_728_000;
/// All but the switch.
const KEYS: &[&str] = &[
    "cors-allow-origin",
    "cors-allow-methods",
    "cors-allow-headers",
    "cors-expose-headers",
    "cors-allow-credentials",
    "cors-max-age",
];

pub(super) fn read(annotations: &Annotations<'_>) -> Option<Cors> {
    if !annotations.flag(annotations.either("enable-cors")) {
        // Known, and without effect.
        KEYS.iter().for_each(|key| drop(annotations.either(key)));
        return None;
    }
    let list = |key: &str, default: &str| {
        let Some((key, text)) = annotations.either(key) else { return words(default) };
        let (usable, wrong): (Vec<String>, Vec<String>) =
            words(text).into_iter().partition(|word| HeaderValue::from_str(word).is_ok());
        if !wrong.is_empty() {
            annotations.warn(&key, format!("names {wrong:?}, which cannot stand in a header and have no effect"));
        }
        usable
    };
    let origins = list("cors-allow-origin", "*");
    let max_age = annotations.either("cors-max-age");
    Some(Cors {
        origins: origins.iter().filter_map(|origin| origin_match(origin)).collect(),
        methods: list("cors-allow-methods", METHODS),
        headers: list("cors-allow-headers", HEADERS),
        expose: list("cors-expose-headers", ""),
        credentials: annotations.boolean(annotations.either("cors-allow-credentials")).unwrap_or(true),
        max_age_secs: annotations
            .parse(max_age, "a number of seconds", |text| text.parse().ok())
            .unwrap_or(MAX_AGE_SECS),
    })
}

/// Elements of a comma list; one asterisk stands for all.
fn words(text: &str) -> Vec<String> {
    let words: Vec<String> =
        text.split(',').map(str::trim).filter(|word| !word.is_empty()).map(str::to_owned).collect();
    if words.iter().any(|word| word == "*") { vec!["*".to_owned()] } else { words }
}

fn origin_match(origin: &str) -> Option<StringMatch> {
    if origin == "*" {
        return Some(StringMatch::Prefix(String::new()));
    }
    if !origin.contains('*') {
        return Some(StringMatch::Exact(origin.to_owned()));
    }
    let any_scheme = if origin.contains("://") { "" } else { "[^/]*://" };
    let expression = format!("{any_scheme}{}", regex::escape(origin).replace(r"\*", "[^/]*"));
    Pattern::full(&expression).ok().map(StringMatch::Regex)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn origins() {
        for (written, origin, expected) in [
            ("*", "http://a.com", true),
            ("http://a.com", "http://a.com", true),
            ("http://a.com", "https://a.com", false),
            ("https://*.a.com", "https://x.a.com", true),
            ("https://*.a.com", "http://x.a.com", false),
            ("https://*.a.com", "https://a.com", false),
            ("https://*.a.com", "https://x.a.com.evil", false),
            ("*.a.com", "http://x.a.com", true),
        ] {
            assert_eq!(origin_match(written).unwrap().is_match(origin), expected, "{written} {origin}");
        }
        assert_eq!(words("a, *,b"), ["*"]);
        assert_eq!(words(" a,,b "), ["a", "b"]);
    }
}

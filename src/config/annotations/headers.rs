//! `request-header-control-…` and `response-header-control-…` with `add`, `update`, `remove` (Higress
//! `annotations/header_control.go`): lines `name value`, either in quotes if need be; for `remove` a comma list.

use super::Annotations;
use crate::config::header_change::{self, Refusal, check_removal, check_value};
use crate::config::model::{HeaderControl, HeaderOperations};

pub(super) fn read(annotations: &Annotations<'_>) -> HeaderControl {
    HeaderControl { request: operations(annotations, "request"), response: operations(annotations, "response") }
}

fn operations(annotations: &Annotations<'_>, side: &str) -> HeaderOperations {
    let find = |what: &str| annotations.higress(&format!("{side}-header-control-{what}"));
    let pairs = |what: &str| find(what).map(|(key, text)| pairs(annotations, &key, text)).unwrap_or_default();
    let (single, add) = pairs("add").into_iter().partition(|(name, _)| header_change::is_single(name));
    let mut update = pairs("update");
    update.extend::<Vec<_>>(single);
    let remove = find("remove").map(|(key, text)| names(annotations, &key, text)).unwrap_or_default();
    HeaderOperations { remove, update, add }
}

fn names(annotations: &Annotations<'_>, key: &str, text: &str) -> Vec<String> {
    let names = text.split(',').map(unquoted).filter(|name| !name.is_empty());
    names.filter(|name| is_good(annotations, key, &check_removal(name))).map(str::to_owned).collect()
}

fn pairs(annotations: &Annotations<'_>, key: &str, text: &str) -> Vec<(String, String)> {
    let mut pairs = Vec::new();
    for line in text.lines().map(str::trim).filter(|line| !line.is_empty()) {
        let Some((name, value)) = line.split_once(char::is_whitespace) else {
            annotations.warn(key, format!("`{line}` has no value and has no effect; write a name, a space, a value"));
            continue;
        };
        let (name, value) = (unquoted(name), unquoted(value));
        if is_good(annotations, key, &check_value(name, value)) {
            pairs.push((name.to_owned(), value.to_owned()));
        }
    }
    pairs
}

fn is_good(annotations: &Annotations<'_>, key: &str, checked: &Result<(), Refusal>) -> bool {
    if let Err(Refusal::NoHeader(message) | Refusal::WithoutEffect(message)) = checked {
        annotations.warn(key, message.clone());
    }
    checked.is_ok()
}

/// Without the quotes around the whole; others are part of it.
fn unquoted(text: &str) -> &str {
    let text = text.trim();
    let inner = |quote: char| text.strip_prefix(quote)?.strip_suffix(quote);
    inner('"').or_else(|| inner('\'')).unwrap_or(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_pair_of_quotes_around_the_whole_goes() {
        for (written, expected) in [
            (" \"a b\" ", "a b"),
            ("'a'", "a"),
            ("attachment; filename=\"x.pdf\"", "attachment; filename=\"x.pdf\""),
            ("\"a'", "\"a'"),
            ("\"", "\""),
            ("\"\"", ""),
        ] {
            assert_eq!(unquoted(written), expected);
        }
    }
}

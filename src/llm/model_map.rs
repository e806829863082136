//! Which name a model has at the provider: the mapping tables of the plugins `ai-proxy` and `model-mapper`.
//!
//! Both look for the exact name, then for patterns, then for `*`, and leave the name alone if nothing fits or the target is
//! empty. They differ in their patterns, as in Higress, except that `ai-proxy` there tries patterns in no fixed order.

use std::borrow::Cow;
use std::collections::HashMap;

use regex::Regex;

/// A mapping from the names clients use to those the provider knows.
#[derive(Debug, Clone, Default)]
pub struct ModelMap {
    exact: HashMap<String, String>,
    /// Prefix (written `gpt-4*`) and target, in the order they are tried.
    prefixes: Vec<(String, String)>,
    /// Expression (written `~^gpt-(.*)`) and target, in the order they are tried.
    patterns: Vec<(Regex, String)>,
    any: Option<String>,
}

/// A mapping key that can't be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{key}` is not a regular expression ({reason}). Correct the part after `~`, or drop the `~` for an exact name."
)]
pub struct MapError {
    pub key: String,
    pub reason: String,
}

impl ModelMap {
    /// `modelMapping` of `ai-proxy`: exact name, longest prefix, first matching expression in the given order, `*`. What
    /// an expression matched is replaced by the target, which may refer to groups (`$1`); the rest of the name stays.
    ///
    /// # Errors
    /// Every key whose expression does not compile.
    pub fn ai_proxy(entries: impl IntoIterator<Item = (String, String)>) -> Result<ModelMap, Vec<MapError>> {
        let mut map = ModelMap::default();
        let mut errors = Vec::new();
        for (key, target) in entries {
            match key.strip_prefix('~').map(Regex::new) {
                Some(Ok(pattern)) => map.patterns.push((pattern, target)),
                Some(Err(error)) => errors.push(MapError { reason: one_line(&error), key }),
                None => map.add_plain(key, target),
            }
        }
        map.prefixes.sort_by_key(|(prefix, _)| std::cmp::Reverse(prefix.len()));
        if errors.is_empty() { Ok(map) } else { Err(errors) }
    }

    /// `modelMapping` of `model-mapper`: exact name, prefixes in alphabetical order, `*`. No expressions.
    pub fn model_mapper(entries: impl IntoIterator<Item = (String, String)>) -> ModelMap {
        let mut map = ModelMap::default();
        for (key, target) in entries {
            map.add_plain(key, target);
        }
        map.prefixes.sort();
        map
    }

    /// The provider's name for `model`.
    pub fn map<'a>(&'a self, model: &'a str) -> Cow<'a, str> {
        let mapped = self.find(model);
        mapped.filter(|target| !target.is_empty()).unwrap_or(Cow::Borrowed(model))
    }

    fn find<'a>(&'a self, model: &'a str) -> Option<Cow<'a, str>> {
        if let Some(target) = self.exact.get(model) {
            return Some(target.into());
        }
        if let Some((_, target)) = self.prefixes.iter().find(|(prefix, _)| model.starts_with(prefix.as_str())) {
            return Some(target.into());
        }
        if let Some((pattern, target)) = self.patterns.iter().find(|(pattern, _)| pattern.is_match(model)) {
            // An empty target keeps the name; it does not cut the match out of it.
            return Some(if target.is_empty() { Cow::Borrowed("") } else { pattern.replace_all(model, target) });
        }
        self.any.as_deref().map(Cow::Borrowed)
    }

    fn add_plain(&mut self, key: String, target: String) {
        match key.strip_suffix('*') {
            Some("") => self.any = Some(target),
            Some(prefix) => self.prefixes.push((prefix.to_owned(), target)),
            None => drop(self.exact.insert(key, target)),
        }
    }
}

/// The parser draws the expression over several lines; its last line says what is wrong.
fn one_line(error: &regex::Error) -> String {
    let text = error.to_string();
    text.lines().last().unwrap_or_default().trim_start_matches("error: ").to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entries(entries: &[(&str, &str)]) -> Vec<(String, String)> {
        entries.iter().map(|(key, target)| (key.to_string(), target.to_string())).collect()
    }

    #[test]
    fn ai_proxy_order_is_exact_longest_prefix_expression_any() {
        let map = ModelMap::ai_proxy(entries(&[
            ("*", "default"),
            ("gpt-*", "short"),
            ("gpt-4*", "long"),
            ("gpt-4o", "exact"),
            ("~^(llama|qwen)-(\\d+)b", "$2-of-$1"),
            ("~llama", "never"),
            ("~turbo", "fast"),
            ("kept*", ""),
        ]))
        .unwrap();
        for (model, mapped) in [
            ("gpt-4o", "exact"),
            ("gpt-4-turbo", "long"),
            ("gpt-3.5", "short"),
            ("qwen-72b-chat", "72-of-qwen-chat"),
            ("my-turbo-turbo", "my-fast-fast"),
            ("kept-name", "kept-name"),
            ("other", "default"),
            ("", "default"),
        ] {
            assert_eq!(map.map(model), mapped, "{model}");
        }
    }

    #[test]
    fn an_empty_target_keeps_the_name_everywhere() {
        let map = ModelMap::ai_proxy(entries(&[("a", ""), ("b*", ""), ("~c", ""), ("*", "")])).unwrap();
        for model in ["a", "b1", "xcx", "d"] {
            assert_eq!(map.map(model), model);
        }
        assert_eq!(ModelMap::default().map("x"), "x");
    }

    #[test]
    fn model_mapper_takes_prefixes_alphabetically_and_no_expressions() {
        let map = ModelMap::model_mapper(entries(&[
            ("gpt-4*", "second"),
            ("gpt-*", "first"),
            ("~gpt", "literal"),
            ("exact", "one"),
            ("*", "rest"),
        ]));
        for (model, mapped) in
            [("gpt-4o", "first"), ("~gpt", "literal"), ("exact", "one"), ("exactly", "rest"), ("x", "rest")]
        {
            assert_eq!(map.map(model), mapped, "{model}");
        }
    }

    #[test]
    fn all_bad_expressions_are_reported() {
        let errors = ModelMap::ai_proxy(entries(&[("~(", "x"), ("~[", "y"), ("ok", "z")])).unwrap_err();
        let keys: Vec<_> = errors.iter().map(|error| error.key.as_str()).collect();
        assert_eq!(keys, ["~(", "~["]);
        assert!(!errors[0].to_string().contains('\n'), "{}", errors[0]);
    }
}

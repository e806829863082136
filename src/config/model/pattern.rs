//! Regular expressions that are already compiled.

use std::fmt;
use std::sync::Arc;

use serde::{Serialize, Serializer};

use crate::config::re2::translated;

/// A compiled regular expression together with the text it was written as. Cheap to clone.
#[derive(Clone)]
pub struct Pattern {
    source: Arc<str>,
    regex: regex::Regex,
}

impl Pattern {
    /// An expression that has to match the whole text, as Envoy's matchers do.
    pub fn full(source: &str) -> Result<Self, regex::Error> {
        Self::build(source, &format!(r"\A(?:{source})\z"), false)
    }

    /// An expression that may match anywhere, for substitution.
    pub fn search(source: &str, ignore_case: bool) -> Result<Self, regex::Error> {
        Self::build(source, source, ignore_case)
    }

    fn build(source: &str, expression: &str, ignore_case: bool) -> Result<Self, regex::Error> {
        // A route table may hold thousands of expressions; the default of 10 MiB each would let one folder take the machine.
        let regex = regex::RegexBuilder::new(&translated(expression))
            .case_insensitive(ignore_case)
            .size_limit(1024 * 1024)
            .build()?;
        Ok(Self { source: source.into(), regex })
    }

    pub fn is_match(&self, text: &str) -> bool {
        self.regex.is_match(text)
    }

    /// The expression as written.
    pub fn as_str(&self) -> &str {
        &self.source
    }

    pub fn regex(&self) -> &regex::Regex {
        &self.regex
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.source == other.source && self.regex.as_str() == other.regex.as_str()
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{}/", self.source)
    }
}

impl Serialize for Pattern {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.source)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn full_patterns_match_the_whole_text() {
        let pattern = Pattern::full("/a|/b.*").unwrap();
        for (text, expected) in [("/a", true), ("/ax", false), ("x/a", false), ("/bx", true), ("/a\n", false)] {
            assert_eq!(pattern.is_match(text), expected, "{text:?}");
        }
        assert_eq!(pattern.as_str(), "/a|/b.*");
        assert_ne!(pattern, Pattern::search("/a|/b.*", false).unwrap());
    }

    #[test]
    fn patterns_are_bounded() {
        assert!(Pattern::full(r"(\w{100}){100}").is_err());
    }
}

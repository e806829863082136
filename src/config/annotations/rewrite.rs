//! `rewrite-path`, `rewrite-target`, `use-regex`, `full-path-regex`, `upstream-vhost`, `ignore-path-case`: how a path is
//! matched and what the upstream sees instead (Higress `annotations/rewrite.go`, `ignore_case.go`).

use http::uri::PathAndQuery;

use super::Annotations;
use crate::config::header_change::is_host;
use crate::config::model::{PathMatch, PathRewrite, Pattern, Rewrite};

/// What the annotations ask for, before the path is known.
#[derive(Debug, Default)]
pub(in crate::config) struct RewriteRule {
    pub ignore_case: bool,
    host: Option<String>,
    path: Option<String>,
    /// In the syntax of the `regex` crate.
    target: Option<String>,
    target_has_captures: bool,
    use_regex: bool,
    full_path_regex: bool,
}

pub(super) fn read(annotations: &Annotations<'_>) -> RewriteRule {
    let text =
        |found: Option<(String, &str)>| found.map(|(_, text)| text.trim().to_owned()).filter(|text| !text.is_empty());
    let usable = |found: Option<(String, &str)>, what: &str, is_usable: fn(&str) -> bool| {
        let key = found.as_ref().map(|(key, _)| key.clone()).unwrap_or_default();
        let text = text(found)?;
        if !is_usable(&text) {
            annotations.warn(&key, format!("`{text}` is no {what} and has no effect"));
            return None;
        }
        Some(text)
    };
    let path = usable(annotations.higress("rewrite-path"), "path that begins with a slash", is_path);
    let target = usable(annotations.either("rewrite-target"), "path that begins with a slash", is_target);
    RewriteRule {
        ignore_case: annotations.flag(annotations.either("ignore-path-case")),
        host: usable(annotations.either("upstream-vhost"), "host", is_host),
        target_has_captures: target.as_deref().is_some_and(|target| target.contains(['$', '\\'])),
        target: target.as_deref().map(substitution),
        path,
        use_regex: annotations.flag(annotations.either("use-regex")),
        full_path_regex: annotations.flag(annotations.higress("full-path-regex")),
    }
}

pub(super) fn is_path(text: &str) -> bool {
    text.starts_with('/') && !text.contains('#') && text.parse::<PathAndQuery>().is_ok()
}

/// What stands for a part of the old path may begin with its slash.
fn is_target(text: &str) -> bool {
    is_path(text) || (text.starts_with(['$', '\\']) && is_path(&format!("/{}", text.replace('\\', "$"))))
}

impl RewriteRule {
    /// Whether a path without a type stays as it is written.
    pub fn needs_path_as_written(&self) -> bool {
        self.use_regex || self.full_path_regex || self.target.is_some()
    }

    /// Whether the path of this Ingress is a regular expression.
    pub fn is_regex(&self, path: &str) -> bool {
        let has_regex_characters =
            path.contains(['\\', '.', '^', '$', '*', '+', '?', '(', ')', '[', ']', '{', '}', '|']);
        self.use_regex
            || self.full_path_regex
            || (self.target.is_some() && (self.target_has_captures || has_regex_characters))
    }

    /// The expression the whole path has to match.
    pub fn path_regex(&self, path: &str) -> Result<Pattern, regex::Error> {
        if self.full_path_regex { Pattern::full(path) } else { Pattern::full(&format!("{path}.*")) }
    }

    /// The rewrite for one path.
    pub fn apply(&self, matched: &PathMatch) -> Result<Rewrite, regex::Error> {
        let ignore_case = self.ignore_case;
        let path = match (&self.path, &self.target, matched) {
            (Some(to), _, PathMatch::Prefix(from)) => {
                Some(PathRewrite::Prefix { from: from.clone(), to: to.clone(), ignore_case })
            }
            (Some(to), ..) => Some(PathRewrite::Full(to.clone())),
            (None, Some(target), PathMatch::Exact(_)) => Some(PathRewrite::Full(target.replace("$$", "$"))),
            (None, Some(target), PathMatch::Prefix(prefix)) => {
                let pattern = Pattern::search(&format!("^{}", regex::escape(prefix)), ignore_case)?;
                Some(PathRewrite::Regex { pattern, substitution: target.clone() })
            }
            (None, Some(target), PathMatch::Regex(pattern)) => {
                let pattern = Pattern::search(pattern.as_str(), false)?;
                Some(PathRewrite::Regex { pattern, substitution: target.clone() })
            }
            (None, None, _) => None,
        };
        Ok(Rewrite { host: self.host.clone(), path })
    }
}

/// nginx's `$1` and RE2's `\1` to `${1}`; any other dollar is meant literally.
fn substitution(target: &str) -> String {
    let mut out = String::with_capacity(target.len() + 4);
    let mut characters = target.chars().peekable();
    while let Some(character) = characters.next() {
        match (character, characters.peek()) {
            ('$' | '\\', Some(digit)) if digit.is_ascii_digit() => {
                out.push_str("${");
                out.push(*digit);
                out.push('}');
                characters.next();
            }
            ('$', _) => out.push_str("$$"),
            _ => out.push(character),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn substitutions_are_those_of_nginx_and_re2() {
        for (written, expected) in [
            ("/$1", "/${1}"),
            (r"/\2x", "/${2}x"),
            ("/$10", "/${1}0"),
            ("/$x$", "/$$x$$"),
            (r"/\d", r"/\d"),
            ("/a", "/a"),
        ] {
            assert_eq!(substitution(written), expected);
        }
    }

    /// The path `/svc/foo` as the upstream sees it.
    #[track_caller]
    fn rewritten(rule: &RewriteRule, written: &str) -> String {
        let matched = PathMatch::Regex(rule.path_regex(written).unwrap());
        applied(rule, &matched, "/svc/foo")
    }

    #[track_caller]
    fn applied(rule: &RewriteRule, matched: &PathMatch, path: &str) -> String {
        match rule.apply(matched).unwrap().path {
            Some(PathRewrite::Regex { pattern, substitution }) => {
                pattern.regex().replace_all(path, substitution).into_owned()
            }
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn a_rewrite_sees_the_whole_match() {
        let rule =
            RewriteRule { target: Some(substitution("/$1")), target_has_captures: true, ..RewriteRule::default() };
        assert!(rule.is_regex("/plain"));
        assert_eq!(rewritten(&rule, "/svc/(.*)"), "/foo");
        let plain = RewriteRule { target: Some(substitution("/x")), ..RewriteRule::default() };
        assert!(plain.is_regex("/svc(/|$)") && plain.is_regex("/v1.0/svc") && !plain.is_regex("/v1/svc"));
        let prefix = PathMatch::Prefix("/foo".into());
        for (path, expected) in [("/foo", "/x"), ("/foo/", "/x/"), ("/foo/y", "/x/y")] {
            assert_eq!(applied(&plain, &prefix, path), expected);
        }
        assert_eq!(rewritten(&plain, "/svc/f.+"), "/x");
    }
}

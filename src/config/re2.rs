//! Regular expressions as Envoy's RE2 reads them, for the `regex` crate, which is stricter: a brace that begins no repetition
//! stands for itself (`/api/{id}`), and what is between `\Q` and `\E` is literal.

/// The expression for the `regex` crate; what both read alike stays as it is.
pub fn translated(expression: &str) -> String {
    let mut out = String::with_capacity(expression.len() + 8);
    let mut rest = expression;
    while let Some(first) = rest.chars().next() {
        let n = match first {
            '\\' if rest.starts_with(r"\Q") => {
                let literal = &rest[2..rest.find(r"\E").unwrap_or(rest.len())];
                out.push_str(&regex::escape(literal));
                rest = rest.get(2 + literal.len() + 2..).unwrap_or_default();
                continue;
            }
            '\\' => escape(rest),
            '[' => class(rest),
            '{' if !is_repetition(rest) => {
                out.push('\\');
                1
            }
            other => other.len_utf8(),
        };
        out.push_str(&rest[..n]);
        rest = &rest[n..];
    }
    out
}

/// Length of `\d`, `\x{41}`, `\p{Greek}` at the start of `text`.
fn escape(text: &str) -> usize {
    let mut characters = text.char_indices().skip(1);
    let Some((at, escaped)) = characters.next() else { return text.len() };
    match (escaped, characters.next()) {
        ('x' | 'p' | 'P', Some((_, '{'))) => text.find('}').map_or(text.len(), |end| end + 1),
        _ => at + escaped.len_utf8(),
    }
}

/// Length of the `[…]` at the start of `text`. A bracket right behind the opening one is a member.
fn class(text: &str) -> usize {
    let first = if text.starts_with("[^") { 2 } else { 1 };
    let mut at = first;
    while let Some(character) = text[at..].chars().next() {
        at += match character {
            ']' if at > first => return at + 1,
            '\\' => escape(&text[at..]),
            '[' if text[at..].starts_with("[:") => text[at..].find(":]").map_or(1, |end| end + 2),
            other => other.len_utf8(),
        };
    }
    text.len()
}

/// Whether `text` begins with `{2}`, `{2,}` or `{2,3}`.
fn is_repetition(text: &str) -> bool {
    let Some((inside, _)) = text[1..].split_once('}') else { return false };
    let (least, most) = inside.split_once(',').unwrap_or((inside, ""));
    let is_digits = |text: &str| text.bytes().all(|byte| byte.is_ascii_digit());
    !least.is_empty() && is_digits(least) && is_digits(most)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_re2_takes_is_taken() {
        for (written, expected) in [
            ("/api/{id}/x", r"/api/\{id}/x"),
            (r"/\Qa.b\E/.*", r"/a\.b/.*"),
            (r"\Qa+", r"a\+"),
            ("a{2}b{2,}c{2,3}d{,3}", r"a{2}b{2,}c{2,3}d\{,3}"),
            (r"[{}\]]{1}\{", r"[{}\]]{1}\{"),
            (r"[]{]\p{Greek}\x{41}", r"[]{]\p{Greek}\x{41}"),
            ("[[:alpha:]{]+", "[[:alpha:]{]+"),
            ("{", r"\{"),
            (r"a\", r"a\"),
        ] {
            assert_eq!(translated(written), expected, "{written}");
        }
    }

    proptest! {
        #[test]
        fn valid_expressions_keep_their_meaning(expression in r"[a-c.*+?|()\[\]^{},0-2\\-]{0,12}", text in "[a-c{}]{0,6}") {
            if let Ok(before) = regex::Regex::new(&expression) {
                let after = regex::Regex::new(&translated(&expression)).unwrap();
                prop_assert_eq!(before.is_match(&text), after.is_match(&text), "{}", expression);
            }
        }
    }
}

//! "Did you mean …": the known name nearest to a misspelt one.

/// The candidate within a third of the name's length in edits, if any.
pub(super) fn nearest<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let name: Vec<char> = name.chars().map(fold).collect();
    let limit = (name.len() / 3).max(1);
    candidates
        .into_iter()
        .filter_map(|candidate| Some((distance(&name, candidate, limit)?, candidate)))
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// As [`nearest`], as a hint for a message.
pub(super) fn did_you_mean<'a>(name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<String> {
    nearest(name, candidates).map(|nearest| format!("did you mean `{nearest}`?"))
}

/// Hints for the first few names only: to compare each of thousands with each of thousands takes seconds, and nobody reads that.
pub(super) struct Hints {
    left: usize,
}

impl Hints {
    pub fn new() -> Hints {
        Hints { left: 5 }
    }

    pub fn did_you_mean<'a>(&mut self, name: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<String> {
        self.left = self.left.checked_sub(1)?;
        did_you_mean(name, candidates)
    }
}

fn fold(c: char) -> char {
    if c == '-' { '_' } else { c.to_ascii_lowercase() }
}

/// Levenshtein distance from a folded name, ignoring ASCII case and the difference between `-` and `_`; `None` if it is more than `limit`.
fn distance(name: &[char], other: &str, limit: usize) -> Option<usize> {
    // Each character more is an edit.
    let n_chars = other.chars().count();
    if n_chars.abs_diff(name.len()) > limit {
        return None;
    }
    // Distances of the whole of `other` so far from each beginning of the name that has a character.
    let mut row: Vec<usize> = (1..=name.len()).collect();
    for (i, c) in other.chars().map(fold).enumerate() {
        let (mut diagonal, mut left, mut least) = (i, i + 1, i + 1);
        for (own, slot) in name.iter().zip(&mut row) {
            let above = *slot;
            left = (diagonal + usize::from(c != *own)).min(left + 1).min(above + 1);
            diagonal = above;
            *slot = left;
            least = least.min(left);
        }
        if least > limit {
            return None;
        }
    }
    Some(row.last().copied().unwrap_or(n_chars)).filter(|distance| *distance <= limit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distance_counts_edits() {
        for (a, b, expected) in [
            ("", "", 0),
            ("", "abc", 3),
            ("abc", "", 3),
            ("kitten", "sitting", 3),
            ("flaw", "lawn", 2),
            ("a-B", "a_b", 0),
        ] {
            let name: Vec<char> = a.chars().map(fold).collect();
            assert_eq!(distance(&name, b, expected), Some(expected), "{a} {b}");
            assert!(expected == 0 || distance(&name, b, expected - 1).is_none(), "{a} {b}");
        }
    }

    #[test]
    fn nearest_is_close_or_nothing() {
        let names = ["key-auth", "ai-proxy", "model-router"];
        assert_eq!(nearest("key_auth", names), Some("key-auth"));
        assert_eq!(nearest("ai-prxy", names), Some("ai-proxy"));
        assert_eq!(nearest("waf", names), None);
    }
}

//! Questions that are two in one, split by their form: comparisons ("Were X and Y both ...?", "Which ..., X or Y?"),
//! and questions joined by "and". Deterministic and English, with the plain Chinese forms; anything else stays whole.

use super::entities::{Entity, Kind, entities};
use super::stop::is_stop_word;

/// Verbs that a yes-or-no question begins with.
const VERBS: [&str; 11] = ["is", "are", "was", "were", "do", "does", "did", "has", "have", "had", "can"];
const ASKING: [&str; 10] = ["who", "what", "when", "where", "which", "why", "how", "whose", "whom", "in what"];
/// Words that say that two things are compared; they mean nothing once there is one.
const COMPARING: [&str; 8] = ["both", "same", "either", "also", "together", "each", "respectively", "alike"];

/// The parts, none when the question is one. Each has the names that it needs.
pub fn sub_questions(question: &str) -> Vec<String> {
    let question = question.trim();
    let ways = [choice, pair, chinese_pair, conjunction];
    ways.iter().map(|way| way(question)).find(|parts| !parts.is_empty()).unwrap_or_default()
}

/// Whether two things are compared: both need a passage, so that one search rarely finds the two.
pub fn is_comparison(question: &str) -> bool {
    let question = question.trim();
    !choice(question).is_empty() || !pair(question).is_empty() || !chinese_pair(question).is_empty()
}

/// "Which magazine was started first, Arthur's Magazine or First for Women?"
fn choice(question: &str) -> Vec<String> {
    let body = question.trim_end_matches(['?', ' ', '.']);
    for comma in [", ", ": ", " - "] {
        let Some((asked, choices)) = body.rsplit_once(comma) else { continue };
        let Some((first, second)) = choices.split_once(" or ") else { continue };
        let (first, second) = (first.trim(), second.trim());
        let short = |text: &str| !text.is_empty() && text.split_whitespace().count() <= 8;
        let lower = asked.to_lowercase();
        if short(first) && short(second) && ASKING.iter().any(|word| lower.contains(word)) {
            let rest = without_comparison(asked);
            return [first, second].map(|choice| format!("{choice}: {rest}")).to_vec();
        }
    }
    Vec::new()
}

/// "Were X and Y both ...?", "Do X and Y have the same ...?", "Are X and Y ...?"
fn pair(question: &str) -> Vec<String> {
    let Some((verb, after)) = question.split_once(' ') else { return Vec::new() };
    let lower = verb.to_lowercase();
    let yes_or_no = VERBS.contains(&lower.as_str());
    let compares = question.split_whitespace().map(bare).any(|word| COMPARING.contains(&word.as_str()));
    if !yes_or_no && !compares {
        return Vec::new();
    }
    let found = entities(question);
    let names: Vec<&Entity<'_>> = found.iter().filter(|entity| entity.kind != Kind::Number).collect();
    let joined = names.windows(2).find_map(|pair| {
        let (first, second) = (pair.first()?, pair.get(1)?);
        let between =
            question.get(first.range.end..second.range.start)?.trim_matches(['"', '\u{201d}', '\u{201c}', ' ']);
        (["and", "or", "&", ", and"].contains(&between) || is_appositive(between)).then_some((*first, *second))
    });
    let Some((first, second)) = joined else { return Vec::new() };
    let begins = question.get(..first.range.start).unwrap_or_default();
    // "Were X and Y": the names follow the verb. "What do X and Y have in common": something is asked before them.
    let begins = if yes_or_no { begins.get(verb.len()..).unwrap_or_default() } else { begins };
    let ends = question.get(second.range.end..).unwrap_or_default();
    let rest =
        without_comparison(&format!("{} {}", begins.trim(), ends.trim_matches(['"', '\u{201d}', '?', ' ', ','])));
    // Nothing is asked of either: "Are Jaws and Alien?"
    if rest.split_whitespace().all(|word| is_stop_word(&bare(word))) || after.is_empty() {
        return Vec::new();
    }
    [first.text, second.text].map(|name| format!("{name}: {rest}")).to_vec()
}

/// "X, the director, and Y": what stands between commas says more of the first name.
fn is_appositive(between: &str) -> bool {
    between.len() < 60 && between.starts_with(',') && between.ends_with("and") && between.matches(',').count() == 2
}

/// "《三体》和《球状闪电》的作者是同一人吗": quoted titles joined by 和, 与, 或 or 还是.
fn chinese_pair(question: &str) -> Vec<String> {
    let found = entities(question);
    for pair in found.windows(2) {
        let [first, second] = pair else { continue };
        let Some(between) = question.get(first.range.end..second.range.start) else { continue };
        let between = between.trim_matches(['》', '《', '」', '「', '\u{201d}', '\u{201c}', ' ']);
        if ["和", "与", "及", "或", "还是", "跟"].contains(&between) {
            let before = question.get(..first.range.start).unwrap_or_default();
            let after = question.get(second.range.end..).unwrap_or_default();
            let marks: &[char] = &['》', '《', '」', '「', '\u{201d}', '\u{201c}', '？', '?', ' '];
            let rest = format!("{}{}", before.trim_matches(marks), after.trim_matches(marks));
            return [first.text, second.text].map(|name| format!("{name} {rest}")).to_vec();
        }
    }
    Vec::new()
}

/// "Who wrote Dune and when was it published?": a new question word after "and" begins a question of its own.
fn conjunction(question: &str) -> Vec<String> {
    let lower = question.to_lowercase();
    // Lower case can move bytes in other alphabets; then positions would not fit.
    if lower.len() != question.len() || !ASKING.iter().any(|word| begins_with_word(&lower, word)) {
        return Vec::new();
    }
    let cut = [", and ", " and ", "? "].iter().find_map(|joint| {
        let mut starts = lower.match_indices(joint).map(|(at, _)| (at, at + joint.len()));
        starts.find(|&(_, after)| ASKING.iter().any(|word| begins_with_word(&lower[after..], word)))
    });
    let Some((end, start)) = cut else { return Vec::new() };
    let (Some(first), Some(second)) = (question.get(..end), question.get(start..)) else { return Vec::new() };
    let first = first.trim_end_matches([',', '?', ' ']);
    let second = second.trim_end_matches(['?', ' ']);
    if first.split_whitespace().count() < 3 || second.split_whitespace().count() < 2 {
        return Vec::new();
    }
    let names: Vec<&str> =
        entities(first).into_iter().filter(|entity| entity.kind != Kind::Number).map(|entity| entity.text).collect();
    let named = entities(second).iter().any(|entity| entity.kind != Kind::Number);
    let second =
        if named || names.is_empty() { format!("{second}?") } else { format!("{}: {second}?", names.join(", ")) };
    vec![format!("{first}?"), second]
}

fn without_comparison(text: &str) -> String {
    let kept = text.split_whitespace().filter(|word| !COMPARING.contains(&bare(word).as_str()));
    kept.collect::<Vec<_>>().join(" ")
}

fn begins_with_word(text: &str, word: &str) -> bool {
    text.strip_prefix(word).is_some_and(|rest| !rest.starts_with(char::is_alphanumeric))
}

fn bare(word: &str) -> String {
    word.trim_matches(|c: char| !c.is_alphanumeric()).to_lowercase()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn questions_that_are_two() {
        for (question, expected) in [
            (
                "Were Scott Derrickson and Ed Wood of the same nationality?",
                vec!["Scott Derrickson: of the nationality", "Ed Wood: of the nationality"],
            ),
            (
                "Which magazine was started first, Arthur's Magazine or First for Women?",
                vec![
                    "Arthur's Magazine: Which magazine was started first",
                    "First for Women: Which magazine was started first",
                ],
            ),
            (
                "Are Random House Tower and 888 7th Avenue both used for real estate?",
                vec!["Random House Tower: used for real estate", "888 7th Avenue: used for real estate"],
            ),
            (
                "What do the bands Oasis and Blur have in common, both being British?",
                vec![
                    "Oasis: What do the bands have in common, being British",
                    "Blur: What do the bands have in common, being British",
                ],
            ),
            ("Who wrote Dune and when was it published?", vec!["Who wrote Dune?", "Dune: when was it published?"]),
            ("When was Jaws made, and who directed Alien?", vec!["When was Jaws made?", "who directed Alien?"]),
            ("《三体》和《球状闪电》的作者是同一人吗？", vec!["三体 的作者是同一人吗", "球状闪电 的作者是同一人吗"]),
            ("Who is the director of Romeo and Juliet?", vec![]),
            ("Is Jaws a film?", vec![]),
            ("Are Jaws and Alien?", vec![]),
            ("who won and lost", vec![]),
            ("", vec![]),
        ] {
            assert_eq!(sub_questions(question), expected, "{question}");
        }
    }

    #[test]
    fn comparisons_are_told_from_conjunctions() {
        assert!(is_comparison("Who is older, Annie Morton or Terry Richardson?"));
        assert!(!is_comparison("Who wrote Dune and when was it published?"));
    }

    proptest::proptest! {
        #[test]
        fn any_question_can_be_split(question in "(\\PC|[ ,?]| and | or |Which |Were |[A-Z]){0,60}") {
            let n = sub_questions(&question).len();
            proptest::prop_assert!(n == 0 || n == 2);
        }
    }
}

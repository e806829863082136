//! Conversations without a model: whether a question needs what was said before, and the names to put before it if so.
//! By the form of the question; deterministic.

use crate::rag::ports::{Message, Role};
use crate::rag::words::{count_words, words};

use super::Rewritten;
use super::entities::{Kind, entities};

/// Words that stand for something said before, unless their noun is in the question too.
const PRONOUNS: [&str; 24] = [
    "he", "him", "his", "she", "her", "hers", "they", "them", "their", "theirs", "it", "its", "this", "that", "these",
    "those", "there", "one", "ones", "former", "latter", "same", "again", "else",
];
/// Of these, the ones that also stand for things inside the question: "the man who said that he ...".
const WEAK: [&str; 9] = ["it", "that", "this", "there", "one", "ones", "same", "again", "else"];
const BEGINNINGS: [&str; 10] =
    ["and ", "but ", "or ", "so ", "then ", "what about", "how about", "what else", "why not", "also "];

/// Longest first, so that none hides another.
const CHINESE_PRONOUNS: [&str; 20] = [
    "他们", "她们", "它们", "前者", "后者", "上面", "上述", "刚才", "那里", "这里", "这个", "那个", "这些", "那些",
    "他", "她", "它", "其", "此", "该",
];
const CHINESE_BEGINNINGS: [&str; 6] = ["那么", "那", "还有", "然后", "另外", "再"];

/// Names from the question before that are put in front.
const MAX_NAMES: usize = 4;

/// Whether a question says all by itself. Without a conversation every question does.
pub fn is_self_contained(question: &str, turns: &[Message]) -> bool {
    if !turns.iter().any(|turn| turn.role == Role::User && !turn.text.trim().is_empty()) {
        return true;
    }
    let lower = question.trim().to_lowercase();
    if BEGINNINGS.iter().any(|beginning| lower.starts_with(beginning)) {
        return false;
    }
    let chinese = lower.chars().any(crate::rag::words::is_character_word);
    if chinese && CHINESE_BEGINNINGS.iter().any(|beginning| lower.starts_with(beginning)) {
        return false;
    }
    let named = has_name(question);
    let refers = if chinese {
        CHINESE_PRONOUNS.iter().any(|pronoun| lower.contains(pronoun))
    } else {
        words(&lower).into_iter().map(|range| bare(&lower[range])).any(|word| {
            let weak = WEAK.contains(&word.as_str());
            PRONOUNS.contains(&word.as_str()) && !(weak && named)
        })
    };
    // "Why?", "The year?": too short to be a question of its own.
    let short = if chinese { count_words(question) < 6 } else { count_words(question) < 4 };
    !refers && (named || !short)
}

/// The question with the names of the last one that had any before it.
pub fn standalone(question: &str, turns: &[Message]) -> Rewritten {
    let same = || Rewritten { query: question.to_string(), note: None };
    if is_self_contained(question, turns) {
        return same();
    }
    let asked = turns.iter().rev().filter(|turn| turn.role == Role::User);
    let lower = question.to_lowercase();
    for turn in asked {
        let found = entities(&turn.text);
        let strong = found.iter().filter(|entity| entity.kind != Kind::Number);
        let names: Vec<&str> = strong
            .map(|entity| entity.text)
            .filter(|name| !lower.contains(&name.to_lowercase()))
            .take(MAX_NAMES)
            .collect();
        if !names.is_empty() {
            let query = format!("{}: {question}", names.join(", "));
            return Rewritten { query, note: Some("the names of an earlier question were added".into()) };
        }
    }
    // No names anywhere, as in Chinese: the last question as a whole is better than nothing.
    match turns.iter().rev().find(|turn| turn.role == Role::User && !turn.text.trim().is_empty()) {
        Some(turn) if count_words(&turn.text) <= 60 => {
            let query = format!("{} {question}", turn.text.trim());
            Rewritten { query, note: Some("the question before was added".into()) }
        }
        _ => same(),
    }
}

fn has_name(question: &str) -> bool {
    entities(question).iter().any(|entity| entity.kind != Kind::Number)
}

fn bare(word: &str) -> String {
    let word = word.trim_matches(|c: char| !c.is_alphanumeric());
    word.trim_end_matches("'s").trim_end_matches("\u{2019}s").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn conversation(texts: &[&str]) -> Vec<Message> {
        let role = |n: usize| if n.is_multiple_of(2) { Role::User } else { Role::Assistant };
        texts.iter().enumerate().map(|(n, text)| Message { role: role(n), text: (*text).into() }).collect()
    }

    #[test]
    fn what_needs_the_conversation() {
        let turns = conversation(&["Who directed Jaws?", "Steven Spielberg."]);
        for (question, whole) in [
            ("When was he born?", false),
            ("And the sequel?", false),
            ("What about Alien?", false),
            ("Why?", false),
            ("What's its budget?", false),
            ("Which actors played in Alien?", true),
            ("Is it true that Alien was shot in London?", true),
            ("how do sharks find their prey in the sea", false),
            ("how long does a shark live in the sea", true),
            ("他是什么时候出生的？", false),
            ("为什么？", false),
            ("网关支持哪些负载均衡算法？", true),
        ] {
            assert_eq!(is_self_contained(question, &turns), whole, "{question}");
        }
        assert!(is_self_contained("When was he born?", &[]));
    }

    #[test]
    fn names_of_the_question_before_are_added() {
        let turns = conversation(&["Who directed \"Jaws\" and Alien?", "Two men.", "really?", "Yes."]);
        assert_eq!(standalone("When were they born?", &turns).query, "Jaws, Alien: When were they born?");
        assert_eq!(standalone("And who played in Alien then?", &turns).query, "Jaws: And who played in Alien then?");
        let whole = standalone("When was Ridley Scott born?", &turns);
        assert_eq!((whole.query.as_str(), whole.note), ("When was Ridley Scott born?", None));
    }

    #[test]
    fn without_names_the_question_before_is_added() {
        let turns = conversation(&["网关怎么配置限流？", "用插件。"]);
        assert_eq!(standalone("它支持集群吗？", &turns).query, "网关怎么配置限流？ 它支持集群吗？");
    }

    proptest::proptest! {
        #[test]
        fn the_question_is_always_kept(question in "\\PC{0,60}", before in "\\PC{0,60}") {
            let turns = conversation(&[&before]);
            proptest::prop_assert!(standalone(&question, &turns).query.ends_with(&question));
        }
    }
}

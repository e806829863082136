//! Questions to calibrate with where nobody has written any. Each is made from one passage of the knowledge base, which then
//! is its answer.
//!
//! A language model writes them where there is one. Without one a question is what somebody types who knows half of it: a
//! sentence of the passage without one of its names or numbers, which is asked for (a cloze, as in unsupervised question
//! answering, arXiv 1906.04980), and with every second of its other words. Thresholds from it are near those of people's
//! questions, not the same; docs/rag.md has both for one set.

use std::ops::{Range, RangeInclusive};

use crate::rag::expand::entities::{Entity, Kind, entities};
use crate::rag::expand::reply;
use crate::rag::expand::stop::is_stop_word;
use crate::rag::ports::{ChatPrompt, Complete};
use crate::rag::sentence::sentences;
use crate::rag::store::Passage;
use crate::rag::terms::{Language, language};
use crate::rag::words::{is_character_word, join_pieces, words};

/// A shorter sentence says too little to ask for, a longer one too much.
const WORDS: RangeInclusive<usize> = 6..=60;

/// Fewer are not a question.
const MIN_KEPT: usize = 3;

/// One question for the passage; by `model`, or without one where there is none or it fails. `None`: the passage says nothing to
/// ask for.
pub async fn question(passage: &Passage, model: Option<&dyn Complete>) -> Option<String> {
    if let Some(model) = model
        && let Ok(answer) = model.complete(prompt(passage)).await
        && let Some(question) = reply::line(&answer)
    {
        return Some(question);
    }
    cloze(&passage.title, &passage.text)
}

fn prompt(passage: &Passage) -> ChatPrompt {
    let system = "Write one question that the passage answers, in its language, as somebody would ask it who has not read the passage: \
                  in other words than the passage's where that is possible, and without words like \"passage\" or \"text\". \
                  Answer with the question only.";
    ChatPrompt::new(system, format!("{}\n\n{}", passage.header, passage.text)).with_max_tokens(80)
}

/// Without a model: from the first sentence that has something to ask for.
fn cloze(title: &str, text: &str) -> Option<String> {
    let sentences = sentences(text).into_iter().map(|range| text[range].trim());
    sentences.filter(|sentence| WORDS.contains(&words(sentence).len())).find_map(|sentence| asked(title, sentence))
}

/// The sentence without its last name or number, which the question word stands for. The name of the whole document is kept: it is
/// what the question is about.
fn asked(title: &str, sentence: &str) -> Option<String> {
    let named = entities(sentence);
    let title = title.to_lowercase();
    let is_new = |entity: &&Entity<'_>| entity.kind != Kind::Quoted && !title.contains(&entity.text.to_lowercase());
    let answer = named.iter().rev().find(is_new);
    let meets =
        |entity: &Entity<'_>, unit: &Range<usize>| entity.range.start < unit.end && unit.start < entity.range.end;
    let mut kept: Vec<&str> = Vec::new();
    let mut n_others = 0usize;
    for unit in units(sentence).into_iter().filter(|unit| !answer.is_some_and(|answer| meets(answer, unit))) {
        let word = sentence[unit.clone()].trim_matches(|c: char| !c.is_alphanumeric());
        if word.is_empty() {
            continue;
        }
        if named.iter().any(|entity| meets(entity, &unit)) {
            kept.push(word);
        } else if !is_stop_word(&word.to_lowercase()) {
            n_others += 1;
            kept.extend(Some(word).filter(|_| n_others % 2 == 1));
        }
    }
    if kept.len() < MIN_KEPT {
        return None;
    }
    let kept = join_pieces(kept);
    Some(match (language(sentence), answer) {
        (Language::Chinese, _) => format!("{kept}是什么"),
        (_, Some(Entity { kind: Kind::Name, .. })) => format!("who or what {kept}"),
        (_, Some(Entity { text, .. })) if is_year(text) => format!("when {kept}"),
        (_, Some(_)) => format!("how many {kept}"),
        (_, None) => format!("what {kept}"),
    })
}

fn is_year(number: &str) -> bool {
    number.len() == 4 && number.parse().is_ok_and(|year: u32| (1000..2100).contains(&year))
}

/// Words; of Chinese, which has no spaces, two characters each.
fn units(sentence: &str) -> Vec<Range<usize>> {
    let is_character = |unit: &Range<usize>| sentence[unit.clone()].chars().next().is_some_and(is_character_word);
    let mut units: Vec<Range<usize>> = Vec::new();
    // Whether the last unit is one character that waits for its second.
    let mut is_half = false;
    for word in words(sentence) {
        let character = is_character(&word);
        match units.last_mut() {
            Some(last) if is_half && character && last.end == word.start => {
                last.end = word.end;
                is_half = false;
            }
            _ => {
                units.push(word);
                is_half = character;
            }
        }
    }
    units
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rag::scripted::ScriptedModel;

    fn passage(title: &str, text: &str) -> Passage {
        Passage { title: title.into(), header: title.into(), text: text.into(), ..Passage::default() }
    }

    #[test]
    fn a_cloze_asks_for_the_last_name_or_number() {
        for (title, text, expected) in [
            (
                "Jaws",
                "Jaws is a film about a great white shark that was made by Steven Spielberg.",
                Some("who or what Jaws film white"),
            ),
            (
                "Jaws",
                "The film called Jaws opened in many American theatres during 1975.",
                Some("when film Jaws American theatres"),
            ),
            ("", "Short. Too short.", None),
            ("", "when the was of and to in", None),
        ] {
            assert_eq!(cloze(title, text).as_deref(), expected, "{text}");
        }
    }

    #[test]
    fn chinese_is_asked_in_pairs_of_characters() {
        let asked = cloze("", "长城是中国古代的军事防御工程，全长超过两万公里。").unwrap();
        assert!(asked.starts_with("长城") && asked.ends_with("是什么"), "{asked}");
    }

    #[tokio::test]
    async fn a_model_asks_in_its_own_words_and_may_fail() {
        let of = passage("Jaws", "Jaws is a film about a great white shark that was made by Steven Spielberg.");
        let model = ScriptedModel::new([Ok("1. Who directed the film about a shark?"), Err("down")]);
        assert_eq!(question(&of, Some(&model)).await.as_deref(), Some("Who directed the film about a shark?"));
        assert_eq!(question(&of, Some(&model)).await, question(&of, None).await);
        assert_eq!(model.calls(), 2);
    }
}

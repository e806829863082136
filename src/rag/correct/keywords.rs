//! A question as at most three keywords for a search engine, as CRAG asks a model for them; and without a model, from
//! the form of the question: its names, quoted titles and numbers, then its longest runs of content words.

use crate::rag::expand::entities::{Entity, Kind, entities, gaps};
use crate::rag::expand::reply;
use crate::rag::expand::stop::{chinese_stop_word, is_stop_word};
use crate::rag::ports::{ChatPrompt, Complete};
use crate::rag::words::{is_character_word, words};

/// As published.
pub const MAX_KEYWORDS: usize = 3;

/// A longer keyword is a sentence, and no search engine wants one.
const MAX_KEYWORD_CHARS: usize = 100;

/// What a search engine is asked, and why it is not what the model said.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Keywords {
    pub keywords: Vec<String>,
    pub note: Option<String>,
}

impl Keywords {
    /// Separated by commas, as published.
    pub fn query(&self) -> String {
        self.keywords.join(", ")
    }
}

/// By a model, or without one where there is none or it fails.
pub async fn rewrite(question: &str, model: Option<&dyn Complete>) -> Keywords {
    let Some(model) = model else {
        return Keywords { keywords: keywords(question), note: None };
    };
    let problem = match model.complete(prompt(question)).await {
        Ok(answer) => {
            let found = parse(&answer);
            if !found.is_empty() {
                return Keywords { keywords: found, note: None };
            }
            "the model gave no keywords".to_string()
        }
        Err(error) => error,
    };
    let note = Some(format!("keywords without a model: {problem}"));
    Keywords { keywords: keywords(question), note }
}

/// Without a model. Never empty for a question that has a letter or digit: then the question itself is the keyword.
pub fn keywords(question: &str) -> Vec<String> {
    let spans = entities(question);
    let mut candidates: Vec<(u8, usize, usize, &str)> = Vec::new();
    for span in &spans {
        let class = match span.kind {
            Kind::Quoted => 4,
            Kind::Name => 3,
            Kind::Number => 2,
        };
        candidates.push((class, span.text.chars().count(), span.range.start, span.text));
    }
    for phrase in phrases(question, &spans) {
        let length = phrase.chars().count();
        let start = phrase.as_ptr().addr() - question.as_ptr().addr();
        candidates.push((1, length, start, phrase));
    }
    candidates.sort_by(|a, b| b.0.cmp(&a.0).then(b.1.cmp(&a.1)).then(a.2.cmp(&b.2)));
    candidates.truncate(MAX_KEYWORDS);
    candidates.sort_by_key(|candidate| candidate.2);
    let found: Vec<String> = candidates.into_iter().map(|(.., text)| capped(text)).collect();
    if found.is_empty() && question.chars().any(char::is_alphanumeric) {
        return vec![capped(question.trim())];
    }
    found
}

fn prompt(question: &str) -> ChatPrompt {
    let system = "Turn the question into a query for a web search: at most three keywords or short phrases, separated by \
                  commas, in the language of the question. Keep names, titles, dates and numbers exactly. Answer with \
                  the keywords only.\n\
                  question: Which river does the Tower Bridge in London cross?\n\
                  keywords: Tower Bridge, London, river\n\
                  question: 《围城》的作者是哪一年出生的？\n\
                  keywords: 《围城》, 作者, 出生年份";
    ChatPrompt::new(system, format!("question: {question}\nkeywords:")).with_max_tokens(64)
}

fn parse(answer: &str) -> Vec<String> {
    let listed = reply::list(answer, MAX_KEYWORDS);
    let several = listed.len() > 1;
    let split = listed
        .iter()
        .flat_map(|line| if several { vec![line.as_str()] } else { line.split([',', '，', '、', ';']).collect() });
    let trimmed = split.map(|word| word.trim().trim_matches('"').trim_end_matches(['.', '。']).trim());
    trimmed.filter(|word| word.chars().any(char::is_alphanumeric)).map(capped).take(MAX_KEYWORDS).collect()
}

/// Runs of content words between function words, marks and entities.
fn phrases<'a>(question: &'a str, spans: &[Entity<'_>]) -> Vec<&'a str> {
    let mut found = Vec::new();
    for gap in gaps(question, spans) {
        let text = &question[gap];
        let mut run: Option<(usize, usize)> = None;
        let mut close = |run: &mut Option<(usize, usize)>| {
            let phrase =
                run.take().map_or("", |(start, end)| text[start..end].trim_matches(|c: char| !c.is_alphanumeric()));
            if phrase.chars().count() > 1 {
                found.push(phrase);
            }
        };
        let mut skip_to = 0;
        for word in words(text) {
            if word.start < skip_to {
                continue;
            }
            let written = &text[word.clone()];
            let bare = written.trim_matches(|c: char| !c.is_alphanumeric());
            let chinese = written.starts_with(is_character_word).then(|| chinese_stop_word(&text[word.start..]));
            let stops = match chinese {
                Some(Some(length)) => {
                    skip_to = word.start + length;
                    true
                }
                Some(None) => false,
                None => {
                    bare.is_empty() || is_stop_word(&bare.to_lowercase().replace(['\'', '\u{2019}'], "")) || bare == "s"
                }
            };
            if stops {
                close(&mut run);
                continue;
            }
            run = Some((run.map_or(word.start, |(start, _)| start), word.end));
            if written.ends_with([',', '，', ';', '；', '?', '？', '。', '.', '、']) {
                close(&mut run);
            }
        }
        close(&mut run);
    }
    found
}

fn capped(text: &str) -> String {
    text.chars().take(MAX_KEYWORD_CHARS).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rag::scripted::ScriptedModel;

    #[test]
    fn keywords_from_the_form() {
        for (question, expected) in [
            ("What is Henry Feilden's occupation?", vec!["Henry Feilden", "occupation"]),
            ("In what city was Billy Carlson born?", vec!["city", "Billy Carlson", "born"]),
            ("What is the religion of John Gwynn?", vec!["religion", "John Gwynn"]),
            ("when did the eagles win last super bowl", vec!["eagles win last super bowl"]),
            ("WWE wrestler Ric Flair was declared brain dead on 16 May 2019.", vec!["WWE", "Ric Flair", "16 May 2019"]),
            ("RCEP具体包括哪些国家", vec!["RCEP", "国家"]),
            ("《围城》的作者是哪一年出生的？", vec!["围城", "作者", "一年出生"]),
            ("what is it?", vec!["what is it?"]),
            ("???", vec![]),
        ] {
            assert_eq!(keywords(question), expected, "{question}");
        }
    }

    #[tokio::test]
    async fn a_model_is_asked_once_and_may_fail() {
        let model = ScriptedModel::new([
            Ok("keywords: Jaws, director"),
            Ok("1. Jaws\n2. director\n3. film\n4. shark"),
            Ok("<think>hm"),
            Err("no route \"small\""),
        ]);
        let question = "Who is the director of Jaws?";
        assert_eq!(rewrite(question, Some(&model)).await.query(), "Jaws, director");
        assert_eq!(rewrite(question, Some(&model)).await.query(), "Jaws, director, film");
        let fallen = rewrite(question, Some(&model)).await;
        assert_eq!(fallen.query(), "director, Jaws");
        assert_eq!(fallen.note.as_deref(), Some("keywords without a model: the model gave no keywords"));
        let failed = rewrite(question, Some(&model)).await;
        assert!(failed.note.unwrap().contains("no route"));
        assert_eq!(model.calls(), 4);
        assert!(model.prompts.lock()[0].messages[1].text.contains(question));
        assert_eq!(rewrite(question, None).await.note, None);
        assert_eq!(model.calls(), 4);
    }

    proptest::proptest! {
        #[test]
        fn at_most_three_of_any_question(question in "(\\PC|[ ,?A-Z的]){0,120}") {
            let found = keywords(&question);
            proptest::prop_assert!(found.len() <= MAX_KEYWORDS);
            proptest::prop_assert!(found.iter().all(|word| !word.trim().is_empty()));
        }
    }
}

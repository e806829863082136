//! Before retrieval: what is searched for, made from what was asked.
//!
//! With a language model: a standalone question from the conversation, other wordings, sub-questions, hypothetical
//! answers. Without one: `history`, `split`, `feedback` and `entities`, which are deterministic. Whatever a model does,
//! the question itself is searched for first: a step that fails leaves it and a note for the trace. Called by the search
//! pipeline; reaches a model only through `Complete`.

pub mod entities;
pub mod feedback;
pub mod history;
pub mod reply;
pub mod split;
pub mod stop;

use crate::rag::ports::{ChatPrompt, Complete, Message, Role};

/// More queries cost more than they find.
pub const MAX_QUERIES: usize = 8;
/// A hypothetical answer is as long as a passage.
const MAX_PASSAGE_CHARS: usize = 2_000;
/// Turns of the conversation that a question can refer to, and how much of each is shown.
const MAX_TURNS: usize = 6;
const MAX_TURN_CHARS: usize = 600;

/// One question instead of another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rewritten {
    pub query: String,
    /// What went wrong or was decided, for the trace.
    pub note: Option<String>,
}

/// Several queries, the question first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expanded {
    pub queries: Vec<String>,
    pub note: Option<String>,
}

/// Texts that could be the answer; embedded, never shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Hypothetical {
    pub passages: Vec<String>,
    pub note: Option<String>,
}

/// A question that can be understood without the conversation. No model is asked when it is one already; without a
/// model, or when it fails, the names of the question before are put in front.
pub async fn standalone(question: &str, turns: &[Message], model: Option<&dyn Complete>) -> Rewritten {
    if history::is_self_contained(question, turns) {
        return Rewritten { query: question.to_string(), note: None };
    }
    let Some(model) = model else {
        return history::standalone(question, turns);
    };
    let problem = match model.complete(standalone_prompt(question, turns)).await {
        Ok(answer) => match reply::line(&answer) {
            Some(query) => return Rewritten { query, note: None },
            None => "the model gave no question".to_string(),
        },
        Err(error) => error,
    };
    let fallen = history::standalone(question, turns);
    let note = Some(format!("rewritten without a model: {problem}"));
    Rewritten { note, ..fallen }
}

/// The question and up to `limit` other wordings of it.
pub async fn variants(question: &str, limit: usize, model: &dyn Complete) -> Expanded {
    let limit = limit.min(MAX_QUERIES - 1);
    ask_for_list(question, variants_prompt(question, limit), limit, "no other wordings", model).await
}

/// The question and up to `limit` questions that it is made of. A model is asked; where it fails, the form decides.
pub async fn sub_questions(question: &str, limit: usize, model: Option<&dyn Complete>) -> Expanded {
    let limit = limit.min(MAX_QUERIES - 1);
    let by_form = |note| {
        let parts = split::sub_questions(question).into_iter().take(limit);
        Expanded { queries: [question.to_string()].into_iter().chain(parts).collect(), note }
    };
    let Some(model) = model else { return by_form(None) };
    let asked = ask_for_list(question, split_prompt(question, limit), limit, "split by its form", model).await;
    if asked.note.is_some() { by_form(asked.note) } else { asked }
}

/// Up to `limit` passages that a document answering the question could hold (HyDE). None when the model fails: the
/// question alone is embedded then.
pub async fn hypothetical(question: &str, limit: usize, model: &dyn Complete) -> Hypothetical {
    let mut passages: Vec<String> = Vec::new();
    let mut note = None;
    for _ in 0..limit.min(MAX_QUERIES) {
        match model.complete(hypothetical_prompt(question)).await {
            Ok(answer) => {
                let text = reply::clean(&answer);
                let passage: String = text.chars().take(MAX_PASSAGE_CHARS).collect();
                if passage.chars().any(char::is_alphanumeric) && !passages.contains(&passage) {
                    passages.push(passage);
                }
            }
            Err(error) => {
                note = Some(format!("no hypothetical answer: {error}"));
                break;
            }
        }
    }
    if passages.is_empty() && note.is_none() && limit > 0 {
        note = Some("no hypothetical answer: the model gave no text".into());
    }
    Hypothetical { passages, note }
}

async fn ask_for_list(
    question: &str,
    prompt: ChatPrompt,
    limit: usize,
    without: &str,
    model: &dyn Complete,
) -> Expanded {
    let mut queries = vec![question.to_string()];
    if limit == 0 {
        return Expanded { queries, note: None };
    }
    let note = match model.complete(prompt).await {
        Ok(answer) => {
            // One more, for the question itself may be among them.
            let listed = reply::list(&answer, limit + 1);
            let nothing = listed.is_empty();
            let new = listed.into_iter().filter(|query| query.to_lowercase() != question.to_lowercase());
            queries.extend(new.take(limit));
            nothing.then(|| format!("{without}: the model gave no queries"))
        }
        Err(error) => Some(format!("{without}: {error}")),
    };
    Expanded { queries, note }
}

const ONLY_JSON: &str = "Answer with a JSON list of strings and nothing else, in the language of the question.";

fn standalone_prompt(question: &str, turns: &[Message]) -> ChatPrompt {
    let system = "You make the last question of a conversation understandable on its own, for a search engine. Replace \
                  pronouns and what is left out by the names they stand for; change nothing else; do not answer it. If it \
                  is understandable already, repeat it. Answer with the question only, in its own language.";
    let user = format!("Conversation:\n{}\n\nLast question: {question}", transcript(turns));
    ChatPrompt::new(system, user).with_max_tokens(200)
}

fn variants_prompt(question: &str, limit: usize) -> ChatPrompt {
    let system = format!(
        "You write {limit} other search queries for the same information: other words, other word order, one more \
         general and one more specific. Keep names and numbers exactly. {ONLY_JSON}"
    );
    ChatPrompt::new(system, format!("Question: {question}")).with_temperature(0.3).with_max_tokens(400)
}

fn split_prompt(question: &str, limit: usize) -> ChatPrompt {
    let system = format!(
        "You split a question into the at most {limit} simple questions that must be looked up to answer it, each \
         understandable on its own. A question that needs one look-up gives an empty list: []. {ONLY_JSON}"
    );
    ChatPrompt::new(system, format!("Question: {question}")).with_max_tokens(400)
}

fn hypothetical_prompt(question: &str) -> ChatPrompt {
    let system = "Write one paragraph of at most 100 words, as it could stand in an encyclopedia or a manual, that answers \
                  the question. It is used as a search query only, so guess where you do not know. Write in the language \
                  of the question, without an introduction.";
    ChatPrompt::new(system, format!("Question: {question}")).with_temperature(0.7).with_max_tokens(256)
}

/// The last turns, long ones shortened.
fn transcript(turns: &[Message]) -> String {
    let recent = turns.get(turns.len().saturating_sub(MAX_TURNS)..).unwrap_or_default();
    let lines = recent.iter().filter(|turn| turn.role != Role::System).map(|turn| {
        let text: String = turn.text.split_whitespace().collect::<Vec<_>>().join(" ");
        let shown: String = text.chars().take(MAX_TURN_CHARS).collect();
        let dots = if shown.len() < text.len() { " ..." } else { "" };
        format!("{}: {shown}{dots}", turn.role.as_str())
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rag::scripted::ScriptedModel;

    fn turns() -> Vec<Message> {
        [(Role::User, "Who directed Jaws?"), (Role::Assistant, "Steven Spielberg.")]
            .map(|(role, text)| Message { role, text: text.into() })
            .to_vec()
    }

    #[tokio::test]
    async fn a_follow_up_is_rewritten_and_a_whole_question_is_not() {
        let model = ScriptedModel::new([Ok("Question: When was Steven Spielberg born?"), Ok(""), Err("down")]);
        let asked = standalone("When was Ridley Scott born?", &turns(), Some(&model)).await;
        assert_eq!((asked.query.as_str(), model.calls()), ("When was Ridley Scott born?", 0));
        let asked = standalone("When was he born?", &turns(), Some(&model)).await;
        assert_eq!((asked.query.as_str(), asked.note), ("When was Steven Spielberg born?", None));
        assert!(model.prompts.lock()[0].messages[1].text.contains("assistant: Steven Spielberg."));
        for problem in ["gave no question", "down"] {
            let fallen = standalone("When was he born?", &turns(), Some(&model)).await;
            assert!(fallen.query.ends_with("When was he born?") && fallen.query.contains("Jaws"), "{fallen:?}");
            assert!(fallen.note.unwrap().contains(problem));
        }
        assert_eq!(model.calls(), 3);
        assert!(standalone("When was he born?", &turns(), None).await.query.contains("Jaws"));
    }

    #[tokio::test]
    async fn other_wordings_are_added_up_to_the_limit() {
        let model = ScriptedModel::new([
            Ok("[\"jaws director\", \"Who directed JAWS?\", \"film maker of jaws\", \"shark film\"]"),
            Ok("<think>"),
            Err("no model is configured"),
        ]);
        let question = "Who directed Jaws?";
        let found = variants(question, 2, &model).await;
        assert_eq!(found.queries, [question, "jaws director", "film maker of jaws"]);
        for problem in ["gave no queries", "no model is configured"] {
            let fallen = variants(question, 2, &model).await;
            assert_eq!(fallen.queries, [question]);
            assert!(fallen.note.unwrap().contains(problem));
        }
        assert_eq!(variants(question, 0, &model).await.queries, [question]);
        assert_eq!(model.calls(), 3, "nothing asked for, nobody asked");
    }

    #[tokio::test]
    async fn sub_questions_come_from_the_model_or_the_form() {
        let question = "Were Scott Derrickson and Ed Wood of the same nationality?";
        let model = ScriptedModel::new([Ok("[\"Nationality of Scott Derrickson?\"]"), Err("down")]);
        let found = sub_questions(question, 4, Some(&model)).await;
        assert_eq!(found.queries, [question, "Nationality of Scott Derrickson?"]);
        let fallen = sub_questions(question, 4, Some(&model)).await;
        assert_eq!(fallen.queries.len(), 3, "{fallen:?}");
        assert_eq!(fallen.note.as_deref(), Some("split by its form: down"));
        assert_eq!(sub_questions(question, 1, None).await.queries.len(), 2);
    }

    #[tokio::test]
    async fn hypothetical_answers_are_capped_and_may_be_none() {
        let long: &'static str = "word ".repeat(1_000).leak();
        let model = ScriptedModel::new([Ok("Jaws was directed by Spielberg."), Ok(long), Err("down")]);
        let found = hypothetical("Who directed Jaws?", 3, &model).await;
        assert_eq!(found.passages.len(), 2);
        assert_eq!(found.passages[1].chars().count(), MAX_PASSAGE_CHARS);
        assert_eq!(found.note.as_deref(), Some("no hypothetical answer: down"));
        let silent = hypothetical("q", 1, &ScriptedModel::new([Ok(" ")])).await;
        assert!(silent.passages.is_empty() && silent.note.is_some());
    }

    #[test]
    fn long_conversations_are_shortened() {
        let turn = Message { role: Role::User, text: "word ".repeat(400) };
        let shown = transcript(&vec![turn; 20]);
        assert_eq!(shown.lines().count(), MAX_TURNS);
        assert!(shown.lines().all(|line| line.chars().count() < MAX_TURN_CHARS + 20));
    }
}

use std::sync::Arc;

use futures_util::{StreamExt, stream};

use super::*;
use crate::rag::answer::prompt::REFUSAL_ENGLISH;
use crate::rag::correct::provider::Provider;
use crate::rag::correct::web::WebSettings;
use crate::rag::knowledge_base::{NewBase, Rag};
use crate::rag::outside::{Outside, Web};
use crate::rag::ports::{ChatPrompt, Complete, Piece, Pieces, Role};
use crate::rag::scripted::{ScriptedModel, ScriptedWeb};
use crate::rag::testing::{document, rag};

/// A base of two documents, asked with the given model and web.
async fn films(outside: Outside) -> (tempfile::TempDir, Arc<KnowledgeBase>) {
    let (dir, rag, _) = rag();
    let rag: Rag = rag.with_outside(outside);
    let base = rag.create("films", &NewBase { model: Some("none".into()), ..NewBase::default() }).await.unwrap();
    let documents = vec![
        document("jaws", "Jaws", "Jaws is a film. It was directed by Steven Spielberg in 1974."),
        document("alien", "Alien", "Alien is a film. Ridley Scott directed it."),
    ];
    base.ingest(documents, &|_| {}).await.unwrap();
    (dir, base)
}

fn with_model(model: &Arc<ScriptedModel>) -> Outside {
    Outside { model: Some(model.clone()), web: None }
}

fn question(text: &str) -> Search {
    Search { query: text.into(), top_k: 5, ..Search::default() }
}

/// The pieces that were told, and how it ended.
async fn heard(base: &Arc<KnowledgeBase>, ask: Ask) -> (Vec<String>, Result<Box<Asked>, RagError>) {
    let mut pieces = Vec::new();
    let mut events = Box::pin(events(base.clone(), ask));
    while let Some(event) = events.next().await {
        match event {
            Event::Text(text) => pieces.push(text),
            Event::End(end) => {
                assert!(events.next().await.is_none(), "the end is the end");
                return (pieces, end);
            }
        }
    }
    panic!("no end after {pieces:?}")
}

#[tokio::test]
async fn a_model_writes_and_what_is_heard_is_the_answer() {
    let model = Arc::new(ScriptedModel::new([Ok("Steven Spielberg directed Jaws [1]. It is a film [1][7].")]));
    let (_dir, base) = films(with_model(&model)).await;
    let (pieces, asked) = heard(&base, Ask::new(question("Who directed Jaws?"))).await;
    let asked = asked.unwrap();
    assert_eq!(asked.answer.text, "Steven Spielberg directed Jaws. [1] It is a film. [1]");
    assert_eq!(pieces.concat(), asked.answer.text);
    assert_eq!((asked.written_by, asked.sources[0].passage.document.as_str()), (Writer::Model, "jaws"));
    let evidence = &asked.answer.sentences[0].evidence[0];
    assert_eq!(asked.sources[0].passage.text[evidence.range.clone()], *"It was directed by Steven Spielberg in 1974.");
    assert!(model.prompts.lock()[0].messages[1].text.contains("[1] Jaws\n"));
}

#[tokio::test]
async fn nothing_found_costs_no_call() {
    let model = Arc::new(ScriptedModel::new([]));
    let (_dir, base) = films(with_model(&model)).await;
    let (pieces, asked) = heard(&base, Ask::new(question("Penguin yachts?"))).await;
    let asked = asked.unwrap();
    assert!(asked.answer.refused && asked.sources.is_empty());
    assert_eq!((pieces.concat(), model.calls()), (REFUSAL_ENGLISH.to_owned(), 0));
}

#[tokio::test]
async fn a_model_without_citations_or_words_refuses() {
    for said in ["Jaws is great.", REFUSAL_ENGLISH, "", "<think>Spielberg [1]."] {
        let model = Arc::new(ScriptedModel::new([Ok(said)]));
        let (_dir, base) = films(with_model(&model)).await;
        let (pieces, asked) = heard(&base, Ask::new(question("Who directed Jaws?"))).await;
        let refused = asked.unwrap().answer;
        assert!(refused.refused, "{said}");
        assert_eq!(pieces.concat(), REFUSAL_ENGLISH, "{said}");
    }
}

#[tokio::test]
async fn a_model_that_is_down_costs_its_words_only() {
    let model = Arc::new(ScriptedModel::new([Err("it answered 503")]));
    let (_dir, base) = films(with_model(&model)).await;
    let (pieces, asked) = heard(&base, Ask::new(question("Who directed Jaws?"))).await;
    let asked = asked.unwrap();
    assert_eq!((asked.written_by, asked.answer.refused), (Writer::Sources, false));
    assert!(asked.trace.notes.iter().any(|note| note.contains("it answered 503")), "{:?}", asked.trace.notes);
    assert_eq!(pieces.concat(), asked.answer.text);
    assert_eq!(asked.answer.text, "It was directed by Steven Spielberg in 1974. [1]");
}

/// Says one sentence that is supported, begins another, and breaks off.
struct Breaking;

#[async_trait::async_trait]
impl Complete for Breaking {
    async fn complete(&self, _: ChatPrompt) -> Result<String, String> {
        Err("not asked for".into())
    }

    async fn stream(&self, _: ChatPrompt) -> Result<Pieces, String> {
        let items = [Ok(Piece::Text("Jaws is a film [1]. It was".into())), Err("reset".into())];
        Ok(Box::pin(stream::iter(items)))
    }
}

#[tokio::test]
async fn an_answer_that_breaks_off_says_so_to_whom_heard_a_part() {
    let outside = Outside { model: Some(Arc::new(Breaking)), web: None };
    let (_dir, base) = films(outside).await;
    let (pieces, end) = heard(&base, Ask::new(question("Who directed Jaws?"))).await;
    assert_eq!(pieces, ["Jaws is a film. [1]"]);
    assert!(matches!(end, Err(RagError::Cut(_))));
    // Nobody has heard anything: the documents answer.
    let asked = base.ask(&question("Who directed Jaws?")).await.unwrap();
    assert_eq!((asked.written_by, asked.answer.refused), (Writer::Sources, false));
}

#[tokio::test]
async fn a_follow_up_is_searched_for_with_its_names() {
    let model = Arc::new(ScriptedModel::new([Ok("Who directed Alien?"), Ok("Ridley Scott directed it [1].")]));
    let (_dir, base) = films(with_model(&model)).await;
    let turn = |role, text: &str| Message { role, text: text.into() };
    let turns = vec![turn(Role::User, "What is Alien?"), turn(Role::Assistant, "A film.")];
    let ask = Ask { turns, ..Ask::new(question("Who directed it?")) };
    let asked = base.answer(&ask, &Listener::default()).await.unwrap();
    assert_eq!(asked.sources[0].passage.document, "alien");
    assert_eq!((asked.answer.text.as_str(), model.calls()), ("Ridley Scott directed it. [1]", 2));
    let prompts = model.prompts.lock();
    let said: Vec<&str> = prompts[1].messages.iter().map(|message| message.text.as_str()).collect();
    assert_eq!(said[1..3], ["What is Alien?", "A film."]);
    assert!(said[3].ends_with("Question: Who directed Alien?"));
}

#[tokio::test]
async fn further_queries_find_what_the_question_does_not() {
    let model = Arc::new(ScriptedModel::new([Ok("[\"Ridley Scott\"]"), Ok("A film by Ridley Scott.")]));
    let (_dir, base) = films(with_model(&model)).await;
    let steps = AskSteps { multi_query: 1, hyde: true, feedback: true, decompose: true, ..AskSteps::default() };
    let ask = Ask { steps, ..Ask::new(question("Spielberg shark?")) };
    let (asked, found) = base.find(&ask).await.unwrap();
    assert_eq!(asked, "Spielberg shark?");
    let documents: Vec<&str> = found.candidates.iter().map(|c| c.passage.document.as_str()).collect();
    assert!(documents.contains(&"alien") && documents.contains(&"jaws"), "{documents:?} {:?}", found.trace);
    let names: Vec<&str> = found.trace.steps.iter().map(|step| step.name).collect();
    for step in ["multi_query", "hyde", "feedback", "merge"] {
        assert!(names.contains(&step), "{names:?}");
    }
    // Without a model the steps that need one are notes, and the rest runs.
    let (_dir, base) = films(Outside::default()).await;
    let ask = Ask { steps, ..Ask::new(question("Jaws and who else?")) };
    let (_, found) = base.find(&ask).await.unwrap();
    assert!(found.trace.notes.iter().any(|note| note.starts_with("multi_query")), "{:?}", found.trace.notes);
}

#[tokio::test]
async fn the_web_answers_what_the_documents_do_not() {
    let answer = r#"{"results": [{"title": "Penguins", "url": "https://birds.example/p", "content": "Penguins sail yachts in the south."}]}"#;
    let web = Arc::new(ScriptedWeb::fixed(200, answer));
    let provider = Provider::Searxng { base_url: "http://127.0.0.1:1".into() };
    let settings = WebSettings { read_pages: false, ..WebSettings::default() };
    let outside = Outside { model: None, web: Some(Web { fetch: web.clone(), provider, settings }) };
    let (_dir, base) = films(outside).await;
    let ask = |web| Ask {
        steps: AskSteps { web, ..AskSteps::default() },
        ..Ask::new(question("Which penguins sail yachts?"))
    };
    let without = base.answer(&ask(false), &Listener::default()).await.unwrap();
    assert_eq!((without.answer.refused, web.calls()), (true, 0));
    let asked = base.answer(&ask(true), &Listener::default()).await.unwrap();
    assert_eq!((asked.answer.text.as_str(), web.calls()), ("Penguins sail yachts in the south. [1]", 1));
    assert_eq!(asked.sources[0].passage.document, "https://birds.example/p");
    // What the documents answer is not looked for elsewhere.
    let ask = Ask {
        steps: AskSteps { web: true, refine: true, ..AskSteps::default() },
        ..Ask::new(question("Who directed Jaws?"))
    };
    let asked = base.answer(&ask, &Listener::default()).await.unwrap();
    assert_eq!((asked.answer.text.as_str(), web.calls()), ("It was directed by Steven Spielberg in 1974. [1]", 1));
}

#[tokio::test]
async fn a_listener_that_leaves_ends_the_work() {
    let model = Arc::new(ScriptedModel::new([Ok("Jaws is a film [1].")]));
    let (_dir, base) = films(with_model(&model)).await;
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    drop(receiver);
    let ask = Ask::new(question("Who directed Jaws?"));
    assert!(matches!(base.answer(&ask, &Listener::new(sender)).await, Err(RagError::Unavailable(_))));
}

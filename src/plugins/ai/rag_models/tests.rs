use bytes::Bytes;
use serde_json::json;

use super::*;
use crate::plugins::testing::problem_fields;
use crate::rag::answer::{Answer, BoundSentence, Evidence};
use crate::rag::ask::{Asked, Writer};
use crate::rag::ports::{Role, Usage};
use crate::rag::retrieve::{Candidate, Trace};
use crate::rag::store::Passage;

fn request(body: &Value) -> ChatRequest {
    ChatRequest::parse(&Bytes::from(body.to_string())).unwrap_or_else(|error| panic!("{error}"))
}

fn asked() -> Asked {
    let passage = |document: &str, text: &str| Passage {
        id: format!("{document}#0"),
        document: document.into(),
        title: document.into(),
        text: text.into(),
        ..Passage::default()
    };
    let source = |document, text| Candidate { passage: passage(document, text), ..Candidate::default() };
    let evidence = |source| Evidence { source, range: 0..5, score: 1.0, added: false };
    let sentences = vec![
        BoundSentence { text: "猫会叫。".into(), evidence: vec![evidence(0), evidence(1)] },
        BoundSentence { text: "So it is.".into(), evidence: vec![] },
        BoundSentence { text: "Dogs bark.".into(), evidence: vec![evidence(1)] },
    ];
    let text = "猫会叫。 [1][2] So it is. Dogs bark. [2]".to_owned();
    Asked {
        answer: Answer { text, refused: false, sentences, confidence: None },
        sources: vec![source("cats/a b", "Purr. Yes"), source("https://dogs.example/", "Bark. Yes")],
        action: None,
        written_by: Writer::Model,
        usage: Some(Usage { prompt_tokens: 7, completion_tokens: 3 }),
        trace: Trace::begin(),
    }
}

#[test]
fn the_configuration_says_what_is_wrong() {
    assert!(problem_fields(&SPEC, &json!({})).is_empty());
    let good = json!({"knowledgeBases": ["pets"], "topK": 3, "maxTokens": 10, "steps": {"web": true, "hop": true, "multi_query": 2}});
    assert!(problem_fields(&SPEC, &good).is_empty());
    let wrong = json!({"topK": 0, "maxTokens": 0, "steps": {"webb": true}, "other": 1});
    assert_eq!(problem_fields(&SPEC, &wrong), ["topK", "maxTokens", "steps", "other"]);
}

#[test]
fn the_question_is_what_the_user_said_last() {
    let body = json!({"model": "rag/pets", "messages": [
        {"role": "system", "content": "Be kind."}, {"role": "user", "content": "Cats?"}, {"role": "assistant", "content": "Purr."},
        {"role": "user", "content": [{"type": "text", "text": "And dogs?"}]}, {"role": "tool", "tool_call_id": "1", "content": "x"}]});
    let (question, turns) = chat::conversation(&request(&body)).unwrap();
    assert_eq!(question, "And dogs?");
    let roles: Vec<Role> = turns.iter().map(|turn| turn.role).collect();
    assert_eq!(roles, [Role::System, Role::User, Role::Assistant]);
    let silent = json!({"model": "rag/pets", "messages": [{"role": "system", "content": "Be kind."}]});
    assert_eq!(chat::conversation(&request(&silent)).unwrap_err().kind, ErrorKind::InvalidValue);
}

#[test]
fn annotations_stand_where_the_marks_are() {
    let asked = asked();
    let characters: Vec<char> = asked.answer.text.chars().collect();
    let found: Vec<(String, String)> = chat::annotations(&asked, "pets")
        .iter()
        .map(|annotation| {
            let citation = &annotation["url_citation"];
            let at = |name: &str| usize::try_from(citation[name].as_u64().unwrap()).unwrap();
            let mark: String = characters[at("start_index")..at("end_index")].iter().collect();
            (mark, citation["url"].as_str().unwrap().to_owned())
        })
        .collect();
    let expected = [
        ("[1]", "/v1/rag/knowledge-bases/pets/documents/cats%2Fa%20b"),
        ("[2]", "https://dogs.example/"),
        ("[2]", "https://dogs.example/"),
    ];
    assert_eq!(found, expected.map(|(mark, url)| (mark.to_owned(), url.to_owned())));
}

#[tokio::test]
async fn a_stream_ends_with_citations_usage_and_done_or_with_an_error() {
    let body = json!({"model": "rag/pets", "stream": true, "stream_options": {"include_usage": true},
        "messages": [{"role": "user", "content": "Cats?"}]});
    let said = async |end: Event| {
        let chat = Chat::new("1", &request(&body));
        let told = chat.told.clone();
        let events = futures_util::stream::iter([Event::Text("猫会叫。 [1][2]".into()), end]);
        let pieces: Vec<Bytes> = chat.pieces(events).collect().await;
        let text = String::from_utf8(pieces.concat()).unwrap();
        let data: Vec<String> =
            text.split("\n\n").filter_map(|event| event.strip_prefix("data: ")).map(str::to_owned).collect();
        (data, told.lock().answered())
    };
    let (data, answered) = said(Event::End(Ok(Box::new(asked())))).await;
    assert_eq!((data.len(), data[4].as_str()), (5, "[DONE]"));
    let chunk = |n: usize| serde_json::from_str::<Value>(&data[n]).unwrap();
    assert_eq!(chunk(0)["choices"][0]["delta"]["role"], "assistant");
    assert_eq!(chunk(1)["choices"][0]["delta"]["content"], "猫会叫。 [1][2]");
    assert_eq!(chunk(2)["choices"][0]["delta"]["annotations"].as_array().unwrap().len(), 3);
    assert_eq!(
        (&chunk(2)["choices"][0]["finish_reason"], &chunk(2)["weirgate"]["refused"]),
        (&json!("stop"), &json!(false))
    );
    assert_eq!((&chunk(3)["choices"], &chunk(3)["usage"]["total_tokens"]), (&json!([]), &json!(10)));
    assert!(answered.is_ok());
    let (data, answered) = said(Event::End(Err(RagError::Cut("x".into())))).await;
    assert_eq!(serde_json::from_str::<Value>(data.last().unwrap()).unwrap()["error"]["code"], "upstream_cut");
    assert!(!answered.is_ok());
}

#[test]
fn models_join_a_list_or_are_one() {
    let models = list::Models(vec!["rag/pets".into()]);
    let extended = |status: u16, body: &str| {
        let mut head = ResponseHeader::build(status, None).unwrap();
        let mut body = Bytes::from(body.to_owned());
        list::extend(&models, &mut head, &mut body);
        (head.status.as_u16(), String::from_utf8(body.to_vec()).unwrap())
    };
    let (status, list) = extended(200, r#"{"object":"list","data":[{"id":"a"}],"x":1.50}"#);
    assert!(status == 200 && list.contains("1.5") && list.contains("rag/pets") && list.contains("\"a\""), "{list}");
    assert_eq!(extended(404, "no route").0, 200);
    assert_eq!(extended(200, "<html>"), (200, "<html>".to_owned()));
    for (path, model) in [
        ("/v1/models/rag/pets", Some("rag/pets")),
        ("/v1/models/rag%2Fpets", Some("rag/pets")),
        ("/v1/models/gpt", None),
        ("/v1/models", None),
    ] {
        assert_eq!(list::asked_for(path).as_deref(), model);
    }
    assert!(list::is_list("/v1/models") && !list::is_list("/v1/models/gpt"));
}

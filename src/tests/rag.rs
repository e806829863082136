//! Knowledge bases through the admin port and the command line of the real program. Search by words only: no model is at hand.

use bytes::Bytes;
use serde_json::{Value, json};

use crate::harness::*;

pub async fn rag(gateway: &Gateway, method: &str, path: &str, body: Value) -> Answer {
    let token = format!("Bearer {}", gateway.token());
    let headers = [("authorization", token.as_str()), ("content-type", "application/json")];
    let body = if body.is_null() { Bytes::new() } else { body.to_string().into() };
    send(gateway.admin, method, &format!("/v1/rag/{path}"), &headers, body).await
}

pub fn found(answer: &Answer) -> Vec<String> {
    let json = answer.json();
    json["results"].as_array().unwrap().iter().map(|result| result["document"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn documents_are_stored_found_and_outlive_a_killed_gateway() {
    let gateway = Gateway::start(Folder::new());
    assert_eq!(send(gateway.admin, "GET", "/v1/rag/knowledge-bases", &[], Bytes::new()).await.status, 401);
    assert_eq!(rag(&gateway, "GET", "knowledge-bases", Value::Null).await.json(), json!({"data": []}));
    let made = rag(&gateway, "PUT", "knowledge-bases/pets", json!({"model": "none"})).await;
    assert_eq!(made.status, 201, "{}", made.text());
    let documents = json!({"documents": [
        {"id": "cats", "title": "Cats", "text": "Cats purr when they are content."},
        {"id": "猫", "title": "猫", "text": "猫在满足时会发出呼噜声。"},
    ]});
    let stored = rag(&gateway, "POST", "knowledge-bases/pets/documents", documents).await;
    assert_eq!((stored.status, &stored.json()["added"]), (200, &json!(2)), "{}", stored.text());
    let search = async |gateway: &Gateway, query: &str| {
        found(&rag(gateway, "POST", "knowledge-bases/pets/search", json!({"query": query})).await)
    };
    assert_eq!(search(&gateway, "why does a cat purr?").await, ["cats"]);
    assert_eq!(search(&gateway, "猫为什么发出呼噜声").await, ["猫"]);
    // Dropping it kills the process.
    let folder = gateway.into_folder();
    let gateway = Gateway::start(folder);
    assert_eq!(search(&gateway, "purring cats").await, ["cats"]);
    assert_eq!(rag(&gateway, "DELETE", "knowledge-bases/pets/documents/%E7%8C%AB", Value::Null).await.status, 200);
    assert!(search(&gateway, "猫").await.is_empty());
}

#[tokio::test]
async fn a_missing_embedding_model_is_an_error_that_names_the_command() {
    let gateway = Gateway::start_without_models(Folder::new());
    assert_eq!(rag(&gateway, "PUT", "knowledge-bases/pets", Value::Null).await.status, 201);
    let documents = json!({"documents": [{"id": "cats", "text": "Cats purr."}]});
    let refused = rag(&gateway, "POST", "knowledge-bases/pets/documents", documents).await;
    assert_eq!((refused.status, refused.error_code().as_str()), (503, "unavailable"));
    assert!(refused.text().contains(" fetch`"), "{}", refused.text());
    let nothing = rag(&gateway, "POST", "knowledge-bases/pets/search", json!({"query": "cats"})).await;
    assert_eq!((nothing.status, found(&nothing).len()), (200, 0));
    assert!(nothing.json()["trace"]["notes"][0].as_str().unwrap().contains(" fetch`"), "{}", nothing.text());
}

#[test]
fn a_folder_is_ingested_searched_and_emptied_by_commands() {
    let folder = Folder::new();
    let documents = folder.dir.path().join("documents");
    std::fs::create_dir_all(documents.join("deep/.hidden")).unwrap();
    let file = |name: &str, text: &[u8]| std::fs::write(documents.join(name), text).unwrap();
    file("cats.md", b"# Cats\n\nCats purr when they are content.\n");
    file("deep/dogs.txt", b"Dogs bark at strangers.");
    file("deep/.hidden/secret.txt", b"Cats and dogs.");
    file("broken.pdf", b"%PDF-1.7 not really");
    file("binary.txt", &[0, 159, 146, 150, 0, 1, 2, 3]);
    file("empty.txt", b"");
    let models = folder.no_models();
    let rag = |args: &[&str]| run_cli(&[&["rag", "--models-dir", models.to_str().unwrap()], args].concat(), &folder);
    let path = documents.to_str().unwrap();
    let (code, said, complained) = rag(&["ingest", "pets", path, "--json"]);
    let report: Value = serde_json::from_str(&said).unwrap_or_default();
    assert_eq!((code, &report["added"], &report["unchanged"]), (0, &json!(2), &json!(0)), "{said} {complained}");
    let wrong: Vec<&str> =
        report["errors"].as_array().unwrap().iter().map(|error| error["document"].as_str().unwrap()).collect();
    assert_eq!(wrong, ["binary.txt", "broken.pdf", "empty.txt"].map(|name| format!("{path}/{name}")));
    assert!(complained.contains(" fetch`"), "{complained}");
    let (_, said, _) = rag(&["ingest", "pets", path, "--json"]);
    assert_eq!(serde_json::from_str::<Value>(&said).unwrap()["unchanged"], 2);
    let (code, said, _) = rag(&["search", "pets", "do cats purr", "--json"]);
    let result: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((code, &result["results"][0]["document"]), (0, &json!(format!("{path}/cats.md"))));
    assert!(rag(&["list", "pets"]).1.contains("dogs.txt"));
    assert_eq!(rag(&["search", "others", "x"]).0, 1);
    let (code, _, told) = rag(&["ingest", "pets", "/no/such/path", &format!("{path}/cats.md")]);
    assert!(code == 0 && told.contains("/no/such/path"), "what cannot be read costs no other: {told}");
    assert_eq!(rag(&["ingest", "pets", "/no/such/path"]).0, 1);
    let (code, _, told) = rag(&["ingest", "pets", path, "--chunk-size", "300"]);
    assert!(code == 0 && told.contains("--chunk-size 300 has no effect: pets was made with "), "{code} {told}");
    assert_eq!(rag(&["remove", "pets"]).0, 64, "a whole base is deleted only if that is said");
    assert_eq!(rag(&["remove", "pets", &format!("{path}/cats.md")]).0, 0);
    assert_eq!(rag(&["remove", "pets", "unknown"]).0, 1);
    assert_eq!(rag(&["remove", "pets", "--all"]).0, 0);
    assert!(!rag(&["list"]).1.contains("pets"));
}

#[tokio::test]
async fn the_plugin_puts_passages_before_the_question() {
    let upstream = Upstream::start(|_, _| async { ok(&completion("m", "Because they are content.")) }).await;
    let folder = Folder::new();
    folder.services(&[("llm", upstream.address)]).route("chat", "/", "llm.static");
    folder.plugin("ai-rag", &json!({"knowledgeBase": "pets", "topK": 1}), &json!([]));
    let gateway = Gateway::start(folder);
    let without = gateway.chat(&question("m", "Why do cats purr?")).await;
    assert_eq!((without.status, without.header("x-envoy-rag-recall")), (200, Some("false")), "{}", without.text());
    rag(&gateway, "PUT", "knowledge-bases/pets", json!({"model": "none"})).await;
    let documents = json!({"documents": [{"id": "cats", "title": "Cats", "text": "Cats purr when they are content."}]});
    rag(&gateway, "POST", "knowledge-bases/pets/documents", documents).await;
    let with = gateway.chat(&question("m", "Why do cats purr?")).await;
    assert_eq!((with.status, with.header("x-envoy-rag-recall")), (200, Some("true")), "{}", with.text());
    let messages = upstream.last().json()["messages"].clone();
    let expected = json!([{"role": "user", "content": "Cats\nCats purr when they are content."},
        {"role": "user", "content": "Why do cats purr?"}]);
    assert_eq!(messages, expected);
    // A base that names its consumers is not there for anybody else.
    rag(&gateway, "PUT", "knowledge-bases/secret", json!({"model": "none", "consumers": ["ann"]})).await;
    rag(&gateway, "DELETE", "knowledge-bases/pets", Value::Null).await;
    assert_eq!(gateway.chat(&question("m", "Why do cats purr?")).await.header("x-envoy-rag-recall"), Some("false"));
    assert_eq!(upstream.n_calls(), 3);
}

#[tokio::test]
async fn an_answer_quotes_the_documents_or_says_that_it_does_not_know() {
    let gateway = Gateway::start(Folder::new());
    rag(&gateway, "PUT", "knowledge-bases/pets", json!({"model": "none"})).await;
    let documents = json!({"documents": [{"id": "cats", "title": "Cats", "text": "Cats are small. Cats purr when they are content. They sleep a lot."}]});
    rag(&gateway, "POST", "knowledge-bases/pets/documents", documents).await;
    let ask = async |question: &str| {
        rag(&gateway, "POST", "knowledge-bases/pets/ask", json!({"query": question})).await.json()
    };
    let known = ask("When do cats purr?").await;
    assert_eq!(
        (&known["refused"], &known["sentences"][0]["text"]),
        (&json!(false), &json!("Cats purr when they are content.")),
        "{known}"
    );
    let citation = &known["sentences"][0]["citations"][0];
    assert_eq!(
        (&citation["document"], &citation["text"]),
        (&json!("cats"), &json!("Cats purr when they are content."))
    );
    let unknown = ask("Which cats won the national election of the year?").await;
    assert_eq!((&unknown["refused"], &unknown["sentences"]), (&json!(true), &json!([])), "{unknown}");
    let search = json!({"query": "when do cats purr", "steps": {"compress": true}, "max_tokens": 12});
    let compressed = rag(&gateway, "POST", "knowledge-bases/pets/search", search).await.json();
    assert_eq!(compressed["context"]["sentences"][0]["text"], "Cats purr when they are content.", "{compressed}");
}

//! Where the documents of a knowledge base and their vectors may come from: addresses, and an embedding model behind an API.

use axum::response::Response;
use serde_json::{Value, json};

use crate::harness::*;
use crate::rag::{found, rag};

fn page(content_type: &str, text: &str) -> Response {
    let body = axum::body::Body::from(text.to_owned());
    Response::builder().header("content-type", content_type).body(body).unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn addresses_are_read_like_files_and_cited() {
    let site = Upstream::start(|_, seen| async move {
        match seen.path.as_str() {
            "/docs/cats.md?raw=1" => page("text/plain; charset=utf-8", "# Cats\n\nCats purr when they are content.\n"),
            "/dogs" => page("text/html", "<title>Dogs</title><p>Dogs bark at strangers.</p><script>cats()</script>"),
            "/moved" => {
                Response::builder().status(302).header("location", "/dogs").body(axum::body::Body::empty()).unwrap()
            }
            _ => Response::builder().status(404).body(axum::body::Body::empty()).unwrap(),
        }
    })
    .await;
    let folder = Folder::new();
    let models = folder.no_models().display().to_string();
    let url = |path: &str| format!("http://{}{path}", site.address);
    let [cats, dogs, moved, gone] = ["/docs/cats.md?raw=1", "/dogs", "/moved", "/gone"].map(url);
    let cli = |args: &[&str]| run_cli(&[&["rag", "--models-dir", &models], args].concat(), &folder);
    let (code, said, complained) =
        cli(&["ingest", "pets", &cats, &dogs, &moved, &gone, "http://127.0.0.1:1/", "--json"]);
    let report: Value = serde_json::from_str(&said).unwrap_or_default();
    assert_eq!((code, &report["added"]), (0, &json!(3)), "{said} {complained}");
    let errors = report["errors"].as_array().unwrap();
    let told: Vec<(&str, &str)> =
        errors.iter().map(|error| (error["document"].as_str().unwrap(), error["message"].as_str().unwrap())).collect();
    assert_eq!(told[0], (gone.as_str(), "it answered 404"));
    assert!(told[1].1.contains("no connection"), "{told:?}");
    let documents: Value = serde_json::from_str(&cli(&["list", "pets", "--json"]).1).unwrap();
    let listed = documents.as_array().unwrap().iter().find(|document| document["id"] == json!(cats)).unwrap();
    assert_eq!((&listed["title"], &listed["metadata"]["url"]), (&json!("Cats"), &json!(cats)));
    let again: Value = serde_json::from_str(&cli(&["ingest", "pets", &cats, "--json"]).1).unwrap();
    assert_eq!(again["unchanged"], 1);
}

/// Vectors that count letters: enough to tell texts apart.
fn embeddings(asked: &Value) -> Value {
    let vector = |text: &str| {
        let mut counts = [0.1f32; 8];
        text.chars().for_each(|c| counts[c as usize % 8] += 1.0);
        counts
    };
    let texts = asked["input"].as_array().unwrap().iter().map(|text| text.as_str().unwrap());
    let data: Vec<Value> = texts
        .enumerate()
        .map(|(index, text)| json!({"object": "embedding", "index": index, "embedding": vector(text)}))
        .collect();
    json!({"object": "list", "data": data, "model": asked["model"]})
}

#[tokio::test]
async fn an_embedding_api_serves_a_knowledge_base() {
    let api = Upstream::start(|n, seen| async move {
        let asked = seen.json();
        assert_eq!((seen.path.as_str(), seen.headers["authorization"].as_str()), ("/v1/embeddings", "Bearer sk-e"));
        if n == 1 {
            return Response::builder().status(429).body(axum::body::Body::empty()).unwrap();
        }
        assert!(asked["input"].as_array().unwrap().len() <= 2, "{asked}");
        ok(&embeddings(&asked))
    })
    .await;
    let settings = format!(
        "[rag.embedding]\nurl = \"http://{}/v1\"\nmodel = \"letters\"\napi_key = \"sk-e\"\nbatch = 2\n",
        api.address
    );
    let gateway = Gateway::start_with(Folder::new(), &settings);
    let made = rag(&gateway, "PUT", "knowledge-bases/pets", Value::Null).await;
    assert_eq!((made.status, api.n_calls()), (201, 1), "the length of a vector was asked for: {}", made.text());
    let documents = json!({"documents": [{"id": "cats", "text": "Cats purr."}, {"id": "dogs", "text": "Dogs bark."},
        {"id": "猫", "text": "猫会发出呼噜声。"}]});
    let stored = rag(&gateway, "POST", "knowledge-bases/pets/documents", documents).await;
    assert_eq!((stored.status, &stored.json()["added"]), (200, &json!(3)), "{}", stored.text());
    assert_eq!(api.n_calls(), 4, "two calls, one of them made again");
    let by_meaning = json!({"query": "猫会发出呼噜声。", "steps": {"lexical": false, "hop": false}});
    let answer = rag(&gateway, "POST", "knowledge-bases/pets/search", by_meaning.clone()).await;
    assert_eq!((found(&answer)[0].as_str(), found(&answer).len()), ("猫", 3), "{}", answer.text());
    // Without that model the base is still found by its words, and is told from one that fits.
    let gateway = Gateway::start_without_models(gateway.into_folder());
    let answer = rag(&gateway, "POST", "knowledge-bases/pets/search", by_meaning).await;
    assert_eq!(found(&answer), ["猫"]);
    assert!(answer.json()["trace"]["notes"][0].as_str().unwrap().contains("\"letters\""), "{}", answer.text());
    let more = json!({"documents": [{"id": "cows", "text": "Cows moo."}]});
    let refused = rag(&gateway, "POST", "knowledge-bases/pets/documents", more).await;
    assert!(refused.status >= 400 && refused.text().contains("letters"), "{}", refused.text());
}

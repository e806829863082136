//! Knowledge bases that answer: as models on the traffic port, on the admin port, on the command line; with a scripted model behind the
//! gateway's own route, without one, and with one that is down.

use bytes::Bytes;
use serde_json::{Value, json};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::harness::*;

const KEYS: [(&str, &str); 3] = [("ann", "sk-ann"), ("bob", "sk-bob"), ("rag", "sk-rag")];

/// What the gateway is asked for by its own pipeline.
const MODEL: &str = "[rag]\nmodel = \"writer\"\napi_key = \"sk-rag\"\n";

/// Writes an answer with a citation.
async fn writer() -> Upstream {
    Upstream::start(|_, seen| async move {
        if seen.json()["stream"] == true {
            sse(&events("writer", &["Cats purr when they are con", "tent [1]. They sle", "ep a lot [1]"]))
        } else {
            ok(&completion("writer", "When do cats purr?"))
        }
    })
    .await
}

/// A gateway with a base of two documents, in front of a model.
async fn gateway(model: &Upstream, settings: &str, plugin: &Value) -> Gateway {
    let folder = Folder::new();
    folder
        .services(&[("llm", model.address)])
        .route("chat", "/v1/chat", "llm.static")
        .provider("llm.static", &json!({}));
    let consumers = KEYS.map(|(name, key)| json!({"name": name, "credential": format!("Bearer {key}")}));
    folder.plugin(
        "key-auth",
        &json!({"global_auth": true, "keys": ["Authorization"], "consumers": consumers}),
        &json!([]),
    );
    folder.plugin("rag-models", plugin, &json!([]));
    let gateway = Gateway::start_with(folder, settings);
    for (base, about) in
        [("pets", json!({"model": "none"})), ("secret", json!({"model": "none", "consumers": ["ann"]}))]
    {
        assert_eq!(admin(&gateway, "PUT", &format!("rag/knowledge-bases/{base}"), &about).await.status, 201);
        let documents = json!({"documents": [
            {"id": "cats", "title": "Cats", "text": "Cats are small. Cats purr when they are content. They sleep a lot."},
            {"id": "dogs", "title": "Dogs", "text": "Dogs bark at strangers.", "metadata": {"url": "https://dogs.example/"}}]});
        let stored = admin(&gateway, "POST", &format!("rag/knowledge-bases/{base}/documents"), &documents).await;
        assert_eq!(stored.json()["added"], 2, "{}", stored.text());
    }
    gateway
}

async fn admin(gateway: &Gateway, method: &str, path: &str, body: &Value) -> Answer {
    let token = format!("Bearer {}", gateway.token());
    let headers = [("authorization", token.as_str()), ("content-type", "application/json")];
    let body = if body.is_null() { Bytes::new() } else { body.to_string().into() };
    send(gateway.admin, method, &format!("/v1/{path}"), &headers, body).await
}

async fn chat_as(gateway: &Gateway, key: &str, body: &Value) -> Answer {
    gateway.post("/v1/chat/completions", &[("authorization", &format!("Bearer {key}"))], body.to_string()).await
}

async fn chat(gateway: &Gateway, body: &Value) -> Answer {
    chat_as(gateway, "sk-bob", body).await
}

fn streamed(mut body: Value) -> Value {
    body["stream"] = json!(true);
    body["stream_options"] = json!({"include_usage": true});
    body
}

/// The data of a stream's events.
fn data(answer: &Answer) -> Vec<String> {
    assert_eq!(answer.header("content-type"), Some("text/event-stream"), "{}", answer.text());
    answer.text().split("\n\n").filter_map(|event| event.strip_prefix("data: ")).map(str::to_owned).collect()
}

fn chunks(answer: &Answer) -> Vec<Value> {
    let mut data = data(answer);
    assert_eq!(data.pop().as_deref(), Some("[DONE]"));
    data.iter().map(|chunk| serde_json::from_str(chunk).unwrap()).collect()
}

fn text(chunks: &[Value]) -> String {
    chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str()).collect()
}

#[tokio::test]
async fn a_model_name_answers_in_the_words_of_a_model_with_citations() {
    let model = writer().await;
    let gateway = gateway(&model, MODEL, &json!({})).await;
    let asked = question("rag/pets", "When do cats purr?");
    let whole = chat(&gateway, &asked).await;
    assert_eq!(whole.status, 200, "{}", whole.text());
    let whole = whole.json();
    let message = &whole["choices"][0]["message"];
    assert_eq!(message["content"], "Cats purr when they are content. [1] They sleep a lot [1]");
    assert_eq!((&whole["object"], &whole["model"]), (&json!("chat.completion"), &json!("rag/pets")));
    assert_eq!(whole["weirgate"]["written_by"], "model");
    let prompt = model.last().json();
    assert_eq!(
        (&prompt["model"], model.last().headers["authorization"].as_str()),
        (&json!("writer"), "Bearer sk-provider")
    );
    assert!(prompt["messages"][1]["content"].as_str().unwrap().contains("[1] Cats\nCats are small."), "{prompt}");
    // Every citation leads to a passage that is there, and quotes it.
    let stored = admin(&gateway, "GET", "rag/knowledge-bases/pets/chunks", &Value::Null).await.json();
    let citations: Vec<&Value> =
        message["annotations"].as_array().unwrap().iter().map(|a| &a["url_citation"]).collect();
    assert_eq!(citations.len(), 2);
    for citation in citations {
        let chunk = stored["data"].as_array().unwrap().iter().find(|chunk| chunk["id"] == citation["chunk"]).unwrap();
        assert!(chunk["text"].as_str().unwrap().contains(citation["text"].as_str().unwrap()));
        let place = citation["url"].as_str().unwrap().trim_start_matches("/v1/");
        assert_eq!(admin(&gateway, "GET", place, &Value::Null).await.status, 200);
    }
    let streamed = chunks(&chat(&gateway, &streamed(asked)).await);
    assert_eq!(text(&streamed), message["content"].as_str().unwrap());
    assert!(streamed.len() > 4, "it comes sentence by sentence: {streamed:?}");
    let last = &streamed[streamed.len() - 2];
    assert_eq!(last["choices"][0]["delta"]["annotations"], message["annotations"]);
    assert_eq!((&last["choices"][0]["finish_reason"], &last["weirgate"]["refused"]), (&json!("stop"), &json!(false)));
    assert_eq!(streamed.last().unwrap()["choices"], json!([]));
    assert_eq!(model.n_calls(), 2);
    let metrics = gateway.metrics().await;
    assert!(metrics.contains("llm.static"), "the model was asked through the route's provider");
}

#[tokio::test]
async fn a_follow_up_is_understood_with_what_was_said_before() {
    let model = writer().await;
    let gateway = gateway(&model, MODEL, &json!({})).await;
    let body = json!({"model": "rag/pets", "messages": [{"role": "user", "content": "What are Cats?"},
        {"role": "assistant", "content": "Small."}, {"role": "user", "content": "When do they do it?"}]});
    let answer = chat(&gateway, &body).await.json();
    assert_eq!((&answer["weirgate"]["refused"], model.n_calls()), (&json!(false), 2), "{answer}");
    let prompt = model.last().json()["messages"].clone();
    assert_eq!(prompt[1]["content"], "What are Cats?");
    assert!(prompt[3]["content"].as_str().unwrap().ends_with("Question: When do cats purr?"), "{prompt}");
}

#[tokio::test]
async fn nothing_relevant_is_a_refusal_that_costs_no_call() {
    let model = writer().await;
    let gateway = gateway(&model, MODEL, &json!({})).await;
    let asked = question("rag/pets", "Quantum chromodynamics?");
    let whole = chat(&gateway, &asked).await.json();
    assert_eq!(whole["choices"][0]["message"]["annotations"], json!([]));
    assert_eq!(whole["weirgate"]["refused"], true, "{whole}");
    let refusal = whole["choices"][0]["message"]["content"].as_str().unwrap();
    assert!(refusal.starts_with("I don't know"));
    assert_eq!(text(&chunks(&chat(&gateway, &streamed(asked)).await)), refusal);
    assert_eq!(model.n_calls(), 0);
}

#[tokio::test]
async fn without_a_model_the_documents_answer_and_with_one_that_is_down_too() {
    let down =
        Upstream::start(|_, _| async { answer(500, "application/json", "{\"error\":{\"message\":\"broken\"}}") }).await;
    for (settings, n_calls) in [("", 0), (MODEL, 1)] {
        let gateway = gateway(&down, settings, &json!({})).await;
        let asked = question("rag/pets", "When do cats purr?");
        let whole = chat(&gateway, &asked).await.json();
        let content = &whole["choices"][0]["message"]["content"];
        assert_eq!(
            (content, &whole["weirgate"]["written_by"]),
            (&json!("Cats purr when they are content. [1]"), &json!("sources"))
        );
        assert_eq!(whole["usage"]["total_tokens"], 0);
        assert_eq!(down.n_calls(), n_calls);
        assert_eq!(text(&chunks(&chat(&gateway, &streamed(asked)).await)), content.as_str().unwrap());
        let asked = json!({"query": "When do cats purr?"});
        let told = admin(&gateway, "POST", "rag/knowledge-bases/pets/ask", &asked).await.json();
        let says_why = told["trace"]["notes"].to_string().contains("answered 500: broken");
        assert_eq!((&told["written_by"], says_why), (&json!("sources"), n_calls > 0), "{told}");
    }
}

#[tokio::test]
async fn a_stream_that_its_model_breaks_off_does_not_look_complete() {
    let model = Upstream::start(|_, _| async {
        let mut events = events("writer", &["Cats purr when they are content [1]. They sl", "eep"]);
        events.truncate(3);
        sse(&events)
    })
    .await;
    let gateway = gateway(&model, MODEL, &json!({})).await;
    let broken = data(&chat(&gateway, &streamed(question("rag/pets", "When do cats purr?"))).await);
    let last: Value = serde_json::from_str(broken.last().unwrap()).unwrap();
    assert_eq!(last["error"]["code"], "upstream_cut", "{broken:?}");
    assert!(broken.iter().any(|chunk| chunk.contains("Cats purr when they are content. [1]")));
}

/// Regression: the model went on writing for a client of a whole answer that had left.
#[tokio::test]
async fn a_client_that_leaves_cancels_the_model() {
    for stream in [false, true] {
        let (asked, left) = (CancellationToken::new(), CancellationToken::new());
        let (is_asked, is_left) = (asked.clone(), left.clone());
        let model = Upstream::start(move |_, _| {
            let (asked, left) = (is_asked.clone(), is_left.clone().drop_guard());
            async move {
                asked.cancel();
                std::future::pending::<()>().await;
                drop(left);
                ok(&json!({}))
            }
        })
        .await;
        let gateway = gateway(&model, MODEL, &json!({})).await;
        let mut body = question("rag/pets", "When do cats purr?");
        body["stream"] = json!(stream);
        let body = body.to_string();
        let mut client = TcpStream::connect(gateway.http).await.unwrap();
        let head = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer sk-bob\r\nContent-Type: application/json";
        client.write_all(format!("{head}\r\nContent-Length: {}\r\n\r\n{body}", body.len()).as_bytes()).await.unwrap();
        timeout(PATIENCE, asked.cancelled()).await.expect("the model is asked");
        drop(client);
        timeout(PATIENCE, left.cancelled()).await.expect("the model's connection ends");
    }
}

#[tokio::test]
async fn a_base_that_is_not_there_or_not_for_the_caller_is_no_model() {
    let model = writer().await;
    let gateway = gateway(&model, MODEL, &json!({})).await;
    for (key, base) in [("sk-ann", "nothing"), ("sk-bob", "secret"), ("sk-bob", "no name!")] {
        for stream in [false, true] {
            let mut asked = question(&format!("rag/{base}"), "When do cats purr?");
            asked["stream"] = json!(stream);
            let refused = chat_as(&gateway, key, &asked).await;
            assert_eq!((refused.status, refused.error_code().as_str()), (404, "model_not_found"), "{}", refused.text());
            assert_eq!(refused.json()["error"]["param"], "model");
        }
    }
    assert_eq!(chat_as(&gateway, "sk-ann", &question("rag/secret", "When do cats purr?")).await.status, 200);
    assert_eq!(chat_as(&gateway, "sk-nobody", &question("rag/pets", "When do cats purr?")).await.status, 401);
    let silent = chat(&gateway, &json!({"model": "rag/pets", "messages": [{"role": "system", "content": "x"}]})).await;
    assert_eq!((silent.status, silent.error_code().as_str()), (400, "invalid_value"));
    // The list has what the caller may ask; nobody else has one here.
    let list = async |key: &str, path: &str| {
        send(gateway.http, "GET", path, &[("authorization", &format!("Bearer {key}"))], Bytes::new()).await
    };
    let ids = |answer: &Answer| {
        let list = answer.json();
        list["data"]
            .as_array()
            .unwrap()
            .iter()
            .map(|model| model["id"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(ids(&list("sk-ann", "/v1/models").await), ["rag/pets", "rag/secret"]);
    assert_eq!(ids(&list("sk-bob", "/v1/models").await), ["rag/pets"]);
    assert_eq!(list("sk-bob", "/v1/models/rag/pets").await.json()["id"], "rag/pets");
    assert_eq!(list("sk-bob", "/v1/models/rag/secret").await.status, 404);
    // And they join another plugin's.
    gateway.folder.plugin("semantic-router", &json!({"candidates": [{"model": "a"}], "baseline": "a"}), &json!([]));
    eventually_async("the router's models", || async {
        let ids = ids(&list("sk-bob", "/v1/models").await);
        (ids == ["auto", "higress/auto", "a", "rag/pets"]).then_some(())
    })
    .await;
    gateway.folder.plugin("rag-models", &json!({"knowledgeBases": ["secret"]}), &json!([]));
    eventually_async("one base alone", || async {
        (chat(&gateway, &question("rag/pets", "When do cats purr?")).await.status == 404).then_some(())
    })
    .await;
}

// The command blocks one thread while another is its model.
#[tokio::test(flavor = "multi_thread")]
async fn the_admin_port_streams_and_the_command_line_answers() {
    let model = writer().await;
    let gateway = gateway(&model, MODEL, &json!({})).await;
    let asked = json!({"query": "When do cats purr?", "stream": true,
        "messages": [{"role": "user", "content": "Hello"}], "steps": {"decompose": true, "refine": true}});
    let streamed = admin(&gateway, "POST", "rag/knowledge-bases/pets/ask", &asked).await;
    assert_eq!(
        (streamed.status, streamed.header("content-type")),
        (200, Some("text/event-stream")),
        "{}",
        streamed.text()
    );
    let events: Vec<(String, Value)> = streamed
        .text()
        .split("\n\n")
        .filter_map(|event| event.strip_prefix("event: ")?.split_once("\ndata: "))
        .map(|(name, data)| (name.to_owned(), serde_json::from_str(data).unwrap()))
        .collect();
    let heard: String =
        events.iter().filter(|(name, _)| name == "text").map(|(_, data)| data["text"].as_str().unwrap()).collect();
    let (last, answer) = events.last().unwrap();
    assert_eq!((last.as_str(), answer["answer"].as_str()), ("answer", Some(heard.as_str())));
    assert_eq!(answer["sentences"][0]["citations"][0]["text"], "Cats purr when they are content.");
    let wrong = json!({"query": "x", "stream": true, "steps": {"webb": true}});
    assert_eq!(admin(&gateway, "POST", "rag/knowledge-bases/pets/ask", &wrong).await.status, 400);
    let missing = json!({"query": "x", "stream": true});
    assert_eq!(admin(&gateway, "POST", "rag/knowledge-bases/none/ask", &missing).await.status, 404);
    // The command asks the same gateway's model, by its address.
    let toml = gateway.folder.dir.path().join("cli.toml");
    std::fs::write(&toml, format!("{MODEL}url = \"http://{}/v1\"\n", gateway.http)).unwrap();
    let models = gateway.folder.dir.path().join("no-models");
    let ask = |more: &[&str]| {
        let places = ["rag", "--config", toml.to_str().unwrap(), "--models-dir", models.to_str().unwrap()];
        gateway.cli(&[&places[..], &["ask", "pets", "When do cats purr?"], more].concat())
    };
    let (code, said, complained) = ask(&[]);
    assert_eq!(code, 0, "{complained}");
    assert!(
        said.starts_with("Cats purr when they are content. [1] They sleep a lot [1]\n[1] cats#0"),
        "{said} {complained}"
    );
    let (_, said, _) = ask(&["--extractive", "--json"]);
    assert_eq!(serde_json::from_str::<Value>(&said).unwrap()["written_by"], "sources");
    let (code, _, complained) = ask(&["--steps", "{\"webb\": true}"]);
    assert!(code == 64 && complained.contains("webb"), "{complained}");
}

#[tokio::test]
async fn the_web_is_searched_where_the_documents_do_not_answer() {
    let engine = Upstream::start(|_, seen| async move {
        assert!(seen.path.starts_with("/search?q="), "{}", seen.path);
        // The page lies on this machine: it must not be read, and its snippet is used.
        ok(&json!({"results": [{"title": "QCD", "url": "http://127.0.0.1:1/qcd", "content": "Quantum chromodynamics describes quarks and gluons."}]}))
    })
    .await;
    let model = writer().await;
    let settings = format!("[rag.web]\nprovider = \"searxng\"\nbase_url = \"http://{}\"\n", engine.address);
    let gateway = gateway(&model, &settings, &json!({"steps": {"web": true}})).await;
    let asked = question("rag/pets", "What does quantum chromodynamics describe?");
    let answer = chat(&gateway, &asked).await.json();
    let message = &answer["choices"][0]["message"];
    assert_eq!(message["content"], "Quantum chromodynamics describes quarks and gluons. [1]", "{answer}");
    assert_eq!(message["annotations"][0]["url_citation"]["url"], "http://127.0.0.1:1/qcd");
    assert_eq!(engine.n_calls(), 1);
    assert_eq!(chat(&gateway, &question("rag/pets", "When do cats purr?")).await.json()["weirgate"]["refused"], false);
    assert_eq!(engine.n_calls(), 1, "what the documents answer is not looked for elsewhere");
}

#[test]
fn wrong_settings_are_told_before_anything_starts() {
    let folder = Folder::new();
    let toml = folder.dir.path().join("config.toml");
    for (text, named) in [
        ("[rag]\nmodel = \"rag/pets\"\n", "rag.model"),
        ("[rag.web]\nprovider = \"brave\"\n", "key"),
        ("[rag.web]\nprovider = \"nobody\"\n", "searxng"),
    ] {
        std::fs::write(&toml, text).unwrap();
        let (code, said, complained) = run_cli(&["validate", "--config", toml.to_str().unwrap()], &folder);
        assert!(code == 64 && (said.contains(named) || complained.contains(named)), "{said}{complained}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_openai_sdk_reads_answers_and_vector_stores() {
    let model = writer().await;
    let gateway = gateway(&model, MODEL, &json!({})).await;
    let url = |port: std::net::SocketAddr| format!("http://{port}/v1");
    run_script("openai_rag.py", &[url(gateway.http), url(gateway.admin), gateway.token()]);
}

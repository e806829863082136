//! Requests to a server as `proxy` and `admin` hand them in, over knowledge bases in a temporary folder.

use serde_json::{Value, json};
use tokio::runtime::Handle;

use super::*;
use crate::config::model::HostPattern;
use crate::rag::knowledge_base::NewBase;
use crate::rag::testing::{document, rag};

struct World {
    dir: tempfile::TempDir,
    rag: Arc<Rag>,
    mcp: Mcp,
    server: McpServer,
    client: Client,
}

/// A server of the knowledge base `pets`, which does not exist yet, and a client that nobody knows.
fn world() -> World {
    let (dir, rag, _) = rag();
    let rag = Arc::new(rag);
    let mcp = Mcp::new(rag.clone(), Tasks::new(Handle::current()));
    World { dir, rag, mcp, server: server_of("pets"), client: Client::consumer(None) }
}

impl World {
    async fn with_texts(self, texts: &[(&str, &str)]) -> World {
        let base = self.rag.base_or_new("pets").await.unwrap();
        let documents = texts.iter().map(|(title, text)| document(title, title, text)).collect();
        base.ingest(documents, &|_| {}).await.unwrap();
        self
    }

    fn settings(&mut self) -> &mut RagServer {
        let McpServerKind::Rag(settings) = &mut self.server.kind;
        settings
    }

    async fn send(&self, method: &str, headers: &[(&str, &str)], body: impl Into<Bytes>) -> (u16, Value) {
        let mut request = Request::builder().method(method).uri("/mcp").header("content-type", "application/json");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(body.into()).unwrap();
        let (head, body) = self.mcp.answer(&self.server, self.client.clone(), request).await.into_parts();
        let text = String::from_utf8(body.to_vec()).unwrap();
        (head.status.as_u16(), serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    async fn post(&self, body: Value) -> (u16, Value) {
        self.send("POST", &[], body.to_string()).await
    }

    /// The result of a call, which may be an error of the tool.
    async fn call(&self, tool: &str, arguments: Value) -> Value {
        let (status, answer) = self.post(message("tools/call", &json!({"name": tool, "arguments": arguments}))).await;
        assert_eq!(status, 200, "{answer}");
        assert!(answer["error"].is_null(), "{answer}");
        answer["result"].clone()
    }

    /// The document in the text of a call that went well.
    async fn ok(&self, tool: &str, arguments: Value) -> Value {
        let result = self.call(tool, arguments).await;
        assert_eq!((&result["isError"], result["content"].as_array().unwrap().len()), (&json!(false), 1), "{result}");
        assert_eq!(result["content"][0]["type"], "text");
        serde_json::from_str(result["content"][0]["text"].as_str().unwrap()).unwrap()
    }

    /// What the tool says is wrong.
    async fn wrong(&self, tool: &str, arguments: Value) -> String {
        let result = self.call(tool, arguments).await;
        assert_eq!(result["isError"], json!(true), "{result}");
        result["content"][0]["text"].as_str().unwrap().to_owned()
    }

    async fn found(&self, arguments: Value) -> Vec<String> {
        let found = self.ok("search-chunks", arguments).await;
        let title = |hit: &Value| hit["document"]["metadata"]["chunk_title"].as_str().unwrap().to_owned();
        found.as_array().unwrap().iter().map(title).collect()
    }
}

fn message(method: &str, params: &Value) -> Value {
    json!({"jsonrpc": "2.0", "id": 1, "method": method, "params": params})
}

fn initialize(version: &str) -> Value {
    let client = json!({"name": "test", "version": "1"});
    message("initialize", &json!({"protocolVersion": version, "capabilities": {}, "clientInfo": client}))
}

const CATS: &str = "Cats purr when they are content.";
const DOGS: &str = "Dogs bark at strangers.";

#[tokio::test]
async fn every_version_with_a_handshake_is_agreed_to() {
    let world = world();
    for (asked, agreed) in [
        ("2024-11-05", "2024-11-05"),
        ("2025-03-26", "2025-03-26"),
        ("2025-06-18", "2025-06-18"),
        ("2025-11-25", "2025-11-25"),
        // It has no handshake.
        ("2026-07-28", "2025-11-25"),
        ("1999-01-01", "2025-11-25"),
    ] {
        let (status, answer) = world.post(initialize(asked)).await;
        assert_eq!((status, &answer["result"]["protocolVersion"]), (200, &json!(agreed)), "{answer}");
        assert_eq!(answer["result"]["serverInfo"], json!({"name": "pets", "version": "1.0.0"}));
        assert!(answer["result"]["capabilities"]["tools"].is_object(), "{answer}");
    }
    let (status, answer) = world.post(json!({"jsonrpc": "2.0", "method": "notifications/initialized"})).await;
    assert_eq!((status, answer), (202, json!("")));
    assert_eq!(world.post(message("ping", &json!({}))).await, (200, json!({"jsonrpc": "2.0", "id": 1, "result": {}})));
}

#[tokio::test]
async fn the_version_without_a_handshake_is_spoken_too() {
    let world = world().with_texts(&[("Cats", CATS)]).await;
    let with_meta = |mut params: Value| {
        params["_meta"] = json!({"io.modelcontextprotocol/protocolVersion": "2026-07-28",
            "io.modelcontextprotocol/clientCapabilities": {}});
        params
    };
    let send = async |method: &str, name: Option<&str>, params: Value| {
        let mut headers = vec![("mcp-protocol-version", "2026-07-28"), ("mcp-method", method)];
        headers.extend(name.map(|name| ("mcp-name", name)));
        world.send("POST", &headers, message(method, &with_meta(params)).to_string()).await
    };
    let (status, discovered) = send("server/discover", None, json!({})).await;
    let versions = json!(["2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25", "2026-07-28"]);
    assert_eq!((status, &discovered["result"]["supportedVersions"]), (200, &versions), "{discovered}");
    let (status, listed) = send("tools/list", None, json!({})).await;
    assert_eq!((status, &listed["result"]["resultType"]), (200, &json!("complete")), "{listed}");
    assert_eq!(listed["result"]["tools"].as_array().unwrap().len(), 5);
    let params = json!({"name": "search-chunks", "arguments": {"query": "cats"}});
    let (status, called) = send("tools/call", Some("search-chunks"), params.clone()).await;
    assert_eq!((status, &called["result"]["isError"]), (200, &json!(false)), "{called}");
    let (status, refused) = send("tools/call", Some("chat"), params).await;
    assert_eq!((status, &refused["error"]["code"]), (400, &json!(-32020)), "header and body differ: {refused}");
    let (status, refused) = send("ping", None, json!({})).await;
    assert_eq!((status, &refused["error"]["code"]), (404, &json!(-32601)), "{refused}");
}

#[tokio::test]
async fn the_tools_are_those_of_higress() {
    let mut world = world();
    let names = |answer: &Value| -> Vec<String> {
        let tools = answer["result"]["tools"].as_array().unwrap().iter();
        tools.map(|tool| tool["name"].as_str().unwrap().to_owned()).collect()
    };
    let (_, listed) = world.post(message("tools/list", &json!({}))).await;
    assert_eq!(names(&listed), ["chat", "create-chunks-from-text", "delete-chunk", "list-chunks", "search-chunks"]);
    let schema = |at: usize| &listed["result"]["tools"][at]["inputSchema"];
    assert_eq!(schema(1)["required"], json!(["text", "title"]));
    assert_eq!(schema(4)["properties"]["topk"]["type"], "integer");
    assert_eq!(schema(3)["type"], "object");
    world.settings().read_only = true;
    let (_, listed) = world.post(message("tools/list", &json!({}))).await;
    assert_eq!(names(&listed), ["chat", "list-chunks", "search-chunks"]);
    let (status, refused) = world.post(message("tools/call", &json!({"name": "delete-chunk"}))).await;
    assert_eq!((status, &refused["error"]["code"]), (200, &json!(-32602)), "{refused}");
}

#[tokio::test]
async fn a_text_is_stored_listed_found_asked_and_deleted() {
    let world = world();
    assert_eq!(world.ok("list-chunks", json!({})).await, json!([]), "there is no knowledge base yet");
    assert_eq!(world.ok("search-chunks", json!({"query": "cats"})).await, json!([]));
    assert!(world.ok("chat", json!({"query": "When do cats purr?"})).await.as_str().unwrap().contains("don't know"));
    let stored = world.ok("create-chunks-from-text", json!({"text": CATS, "title": "Cats"})).await;
    assert_eq!((&stored["success"], stored["data"].as_array().unwrap().len()), (&json!(true), 1), "{stored}");
    let chunk = &stored["data"][0];
    assert_eq!(chunk["content"], CATS);
    assert_eq!(chunk["metadata"], json!({"chunk_index": 0, "chunk_title": "Cats", "chunk_size": CATS.len()}));
    let created_at: jiff::Timestamp = chunk["created_at"].as_str().unwrap().parse().unwrap();
    assert!(created_at > jiff::Timestamp::UNIX_EPOCH);
    assert_eq!(world.ok("list-chunks", json!({})).await, json!([chunk]));
    for tool in ["search-chunks", "search"] {
        let found = world.ok(tool, json!({"query": "why do cats purr"})).await;
        assert_eq!((found.as_array().unwrap().len(), &found[0]["document"]), (1, chunk), "{found}");
        assert!(found[0]["score"].as_f64().unwrap() > 0.0);
    }
    let answer = world.call("chat", json!({"query": "When do cats purr?"})).await;
    let text: String = serde_json::from_str(answer["content"][0]["text"].as_str().unwrap()).unwrap();
    assert!(text.starts_with("Cats purr when they are content."), "{text}");
    assert_eq!(answer["structuredContent"]["sources"][0]["document"], *chunk, "{answer}");
    let deleted = world.ok("delete-chunk", json!({"id": chunk["id"]})).await;
    assert_eq!(deleted["success"], json!(true));
    assert_eq!(world.ok("list-chunks", json!({})).await, json!([]));
}

#[tokio::test]
async fn the_same_text_is_there_once_and_whole() {
    let mut world = world();
    (world.settings().chunk_size, world.settings().chunk_overlap) = (Some(60), Some(0));
    let text =
        "Cats purr when they are content and warm. Dogs bark at strangers who come by. Birds sing in the morning.";
    let store = async |title: &str| {
        let stored = world.ok("create-chunks-from-text", json!({"text": text, "title": title})).await;
        let id = |chunk: &Value| chunk["id"].as_str().unwrap().to_owned();
        stored["data"].as_array().unwrap().iter().map(id).collect::<Vec<_>>()
    };
    let n_listed = async || world.ok("list-chunks", json!({})).await.as_array().unwrap().len();
    let first = store("Pets").await;
    assert!(first.len() > 1, "{first:?}");
    assert_eq!(store("Pets").await, first);
    assert_eq!(n_listed().await, first.len());
    for deleted in [&first[0], &first[1]] {
        world.ok("delete-chunk", json!({"id": deleted})).await;
        assert_eq!(store("Pets").await, first, "what was deleted is back, and the rest is there once");
        assert_eq!(n_listed().await, first.len());
    }
    assert_ne!(store("Animals").await, first, "another title, another text");
    assert_eq!(n_listed().await, 2 * first.len());
}

#[tokio::test]
async fn topk_and_threshold_count() {
    let texts =
        [("Cats", CATS), ("Tigers", "Tigers are cats that swim."), ("Dogs", DOGS), ("Birds", "Birds sing at dawn.")];
    let mut world = world().with_texts(&texts).await;
    let all = world.found(json!({"query": "cats purr"})).await;
    assert_eq!((all.len(), all[0].as_str()), (4, "Cats"), "{all:?}");
    for (topk, expected) in [(json!(1), 1), (json!(2.0), 2), (json!(100), 4), (json!(null), 4)] {
        assert_eq!(world.found(json!({"query": "cats purr", "topk": topk})).await, all[..expected]);
    }
    let scores = world.ok("search-chunks", json!({"query": "cats purr"})).await;
    let between = (scores[0]["score"].as_f64().unwrap() + scores[1]["score"].as_f64().unwrap()) / 2.0;
    assert_eq!(world.found(json!({"query": "cats purr", "threshold": between})).await, ["Cats"]);
    assert!(world.found(json!({"query": "cats purr", "threshold": 9})).await.is_empty());
    world.settings().top_k = 3;
    world.settings().threshold = Some(between);
    assert_eq!(
        world.found(json!({"query": "cats purr"})).await,
        ["Cats"],
        "the configuration's where the call has none"
    );
    assert_eq!(world.found(json!({"query": "cats purr", "threshold": 0})).await, all[..3]);
}

#[tokio::test]
async fn what_is_wrong_is_said_to_whom_can_put_it_right() {
    let world = world().with_texts(&[("Cats", CATS)]).await;
    for (tool, arguments, expected) in [
        ("search-chunks", json!({}), "\"query\" is missing"),
        ("search-chunks", json!({"query": 5}), "\"query\" is a string, not 5"),
        ("search-chunks", json!({"query": " "}), "the query is empty"),
        ("search-chunks", json!({"query": "a", "topk": 0}), "topk 0: it is 1 to 100"),
        ("search-chunks", json!({"query": "a", "topk": 101}), "topk 101"),
        ("search-chunks", json!({"query": "a", "topk": "5"}), "\"topk\" is a whole number"),
        ("search-chunks", json!({"query": "a", "threshold": "x"}), "\"threshold\" is a number"),
        ("chat", json!({}), "\"query\" is missing"),
        ("create-chunks-from-text", json!({"text": "a"}), "\"title\" is missing"),
        ("create-chunks-from-text", json!({"text": " ", "title": "a"}), "there is no text in it"),
        ("delete-chunk", json!({}), "\"id\" is missing"),
        ("delete-chunk", json!({"id": "x' OR '1'='1"}), "there is no chunk"),
    ] {
        let said = world.wrong(tool, arguments).await;
        assert!(said.contains(expected), "{tool}: {said}");
    }
    assert_eq!(world.ok("list-chunks", json!({})).await.as_array().unwrap().len(), 1, "nothing was deleted");
    let (status, unknown) = world.post(message("tools/call", &json!({"name": "paint", "arguments": {}}))).await;
    assert_eq!((status, &unknown["error"]["code"]), (200, &json!(-32602)));
    assert!(unknown["error"]["message"].as_str().unwrap().contains("search-chunks"), "{unknown}");
    // A call without arguments is one with none.
    let (_, listed) = world.post(message("tools/call", &json!({"name": "list-chunks"}))).await;
    assert_eq!(listed["result"]["isError"], json!(false), "{listed}");
}

#[tokio::test]
async fn the_gateways_own_failures_are_errors_of_the_protocol() {
    let world = world().with_texts(&[("Cats", CATS)]).await;
    // Another process writes.
    let lock = std::fs::File::create(world.dir.path().join("rag/.pets.lock")).unwrap();
    lock.lock().unwrap();
    let arguments = json!({"text": DOGS, "title": "Dogs"});
    let (status, busy) =
        world.post(message("tools/call", &json!({"name": "create-chunks-from-text", "arguments": arguments}))).await;
    assert_eq!((status, &busy["error"]["code"]), (200, &json!(-32603)), "{busy}");
    assert!(busy["error"]["message"].as_str().unwrap().contains("try again"), "{busy}");
}

#[tokio::test]
async fn a_base_that_is_not_for_the_client_looks_like_none() {
    let mut world = world();
    let new = NewBase { consumers: vec!["ann".to_owned()], ..NewBase::default() };
    world.rag.create("pets", &new).await.unwrap();
    world.client = Client::consumer(Some("ann".to_owned()));
    let stored = world.ok("create-chunks-from-text", json!({"text": CATS, "title": "Cats"})).await;
    assert_eq!(world.found(json!({"query": "cats"})).await, ["Cats"]);
    for nobody in [Client::consumer(Some("bob".to_owned())), Client::consumer(None)] {
        world.client = nobody;
        assert_eq!(world.ok("list-chunks", json!({})).await, json!([]));
        assert!(world.found(json!({"query": "cats"})).await.is_empty());
        assert!(
            world.ok("chat", json!({"query": "When do cats purr?"})).await.as_str().unwrap().contains("don't know")
        );
        world.wrong("delete-chunk", json!({"id": stored["data"][0]["id"]})).await;
        let said = world.wrong("create-chunks-from-text", json!({"text": DOGS, "title": "Dogs"})).await;
        assert!(said.contains("there is no knowledge base \"pets\"") && !said.contains("ann"), "{said}");
    }
    world.client = Client::operator(None);
    assert_eq!(world.found(json!({"query": "cats"})).await, ["Cats"]);
}

#[tokio::test]
async fn tenants_do_not_see_or_change_each_others_documents() {
    let mut world = world().with_texts(&[("Cats", CATS)]).await;
    let mut ids = Vec::new();
    for tenant in ["us", "them"] {
        world.client = Client::operator(Some(tenant.to_owned()));
        let stored = world.ok("create-chunks-from-text", json!({"text": DOGS, "title": "Dogs"})).await;
        ids.push(stored["data"][0]["id"].clone());
        assert_eq!(world.ok("list-chunks", json!({})).await.as_array().unwrap().len(), 2, "its own and everybody's");
    }
    assert_ne!(ids[0], ids[1]);
    world.wrong("delete-chunk", json!({"id": ids[0]})).await;
    world.client = Client::operator(None);
    assert_eq!(world.found(json!({"query": "dogs bark"})).await, ["Cats"]);
}

#[tokio::test]
async fn requests_that_are_no_single_message() {
    let world = world();
    let send = async |body: &str| world.send("POST", &[], body.to_owned()).await;
    for (body, code) in [("{", -32700), ("[{]", -32700), ("{}", -32600), ("5", -32600), ("[]", -32600)] {
        let (status, answer) = send(body).await;
        assert_eq!(
            (status, &answer["error"]["code"], &answer["id"]),
            (400, &json!(code), &Value::Null),
            "{body}: {answer}"
        );
    }
    let ping = |id: u32| json!({"jsonrpc": "2.0", "id": id, "method": "ping"});
    let notification = json!({"jsonrpc": "2.0", "method": "notifications/initialized"});
    let (status, answers) = send(&json!([ping(1), notification, ping(2), 5]).to_string()).await;
    let ids: Vec<&Value> = answers.as_array().unwrap().iter().map(|answer| &answer["id"]).collect();
    assert_eq!((status, ids), (200, vec![&json!(1), &json!(2), &Value::Null]), "{answers}");
    assert_eq!(send(&json!([notification]).to_string()).await, (202, json!("")));
    let too_many: Vec<Value> = (0..33).map(ping).collect();
    assert_eq!(send(&Value::Array(too_many).to_string()).await.0, 400);
    let newer = world.send("POST", &[("mcp-protocol-version", "2025-06-18")], json!([ping(1)]).to_string()).await;
    assert_eq!(newer.0, 400, "that version has no batches: {}", newer.1);
    for method in ["GET", "DELETE", "PUT"] {
        assert_eq!(world.send(method, &[("accept", "text/event-stream")], "").await.0, 405);
    }
    for (accept, status) in [("application/json", 200), ("*/*", 200), ("text/html", 406)] {
        assert_eq!(world.send("POST", &[("accept", accept)], ping(1).to_string()).await.0, status, "{accept}");
    }
    assert_eq!(world.post(message("prompts/list", &json!({}))).await.1["error"]["code"], json!(-32601));
}

#[test]
fn pages_may_call_where_a_name_cannot_be_rebound() {
    let mut server = server_of("pets");
    server.hosts = vec![vec![HostPattern::any()]];
    for (host, expected) in [
        ("localhost", true),
        ("a.localhost", true),
        ("127.0.0.1", true),
        ("[::1]", true),
        ("evil.com", false),
        ("", false),
    ] {
        assert_eq!(admits_pages(&server, host), expected, "{host}");
    }
    server.hosts = vec![vec![HostPattern::parse("*.corp.com").unwrap()]];
    assert!(admits_pages(&server, "mcp.corp.com"));
}

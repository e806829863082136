//! Knowledge bases as MCP servers, on the data port and the admin port of the real program. Search by words only: no model is at
//! hand.

use bytes::Bytes;
use serde_json::{Value, json};

use crate::harness::*;

const PATH: &str = "/mcp-servers/rag";

/// A ConfigMap with one server of the knowledge base `pets`; `more` is added to the server.
fn server(folder: &Folder, more: &Value) {
    let mut server =
        json!({"name": "rag", "path": PATH, "type": "rag", "config": {"vector_db": {"collection": "pets"}}});
    server.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    mcp_server(folder, &json!({"enable": true, "servers": [server]}));
}

fn mcp_server(folder: &Folder, section: &Value) {
    let higress = json!({"mcpServer": section}).to_string();
    let object = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "higress-config"}, "data": {"higress": higress}});
    folder.write("configmaps/higress-config.yaml", &object);
}

async fn rag(gateway: &Gateway, method: &str, path: &str, body: Value) -> Answer {
    let bearer = format!("Bearer {}", gateway.token());
    let headers = [("authorization", bearer.as_str()), ("content-type", "application/json")];
    let body = if body.is_null() { Bytes::new() } else { body.to_string().into() };
    send(gateway.admin, method, &format!("/v1/rag/{path}"), &headers, body).await
}

fn message(method: &str, params: &Value) -> Value {
    json!({"jsonrpc": "2.0", "id": 7, "method": method, "params": params})
}

fn call(tool: &str, arguments: Value) -> String {
    message("tools/call", &json!({"name": tool, "arguments": arguments})).to_string()
}

/// The JSON document that a call returned.
fn document(answer: &Answer) -> Value {
    let json = answer.json();
    assert_eq!((answer.status, &json["result"]["isError"]), (200, &json!(false)), "{json}");
    serde_json::from_str(json["result"]["content"][0]["text"].as_str().unwrap()).unwrap()
}

#[tokio::test]
async fn a_server_of_the_configuration_has_the_five_tools() {
    let upstream = Upstream::start(|_, _| async { ok(&json!("upstream")) }).await;
    let folder = Folder::new();
    folder.services(&[("a", upstream.address)]).route("web", "/", "a.static");
    server(&folder, &json!({"domain_list": ["mcp.example.com", "*.internal"]}));
    let gateway = Gateway::start(folder);
    rag(&gateway, "PUT", "knowledge-bases/pets", json!({"model": "none"})).await;
    let headers = [("host", "mcp.example.com:8080"), ("accept", "application/json, text/event-stream")];
    let post = async |body: String| gateway.post(PATH, &headers, body).await;
    let begin =
        json!({"protocolVersion": "2025-06-18", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}});
    let begun = post(message("initialize", &begin).to_string()).await;
    assert_eq!((begun.status, begun.header("content-type")), (200, Some("application/json")), "{}", begun.text());
    assert_eq!(begun.json()["result"]["protocolVersion"], "2025-06-18");
    assert_eq!(begun.json()["result"]["serverInfo"], json!({"name": "rag", "version": "1.0.0"}));
    let ready = post(json!({"jsonrpc": "2.0", "method": "notifications/initialized"}).to_string()).await;
    assert_eq!((ready.status, ready.text().as_str()), (202, ""));
    let listed = post(message("tools/list", &json!({})).to_string()).await.json();
    let names: Vec<&str> =
        listed["result"]["tools"].as_array().unwrap().iter().map(|tool| tool["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["chat", "create-chunks-from-text", "delete-chunk", "list-chunks", "search-chunks"]);

    let text = "Cats purr when they are content.";
    let stored = document(&post(call("create-chunks-from-text", json!({"text": text, "title": "Cats"}))).await);
    let chunk = &stored["data"][0];
    assert_eq!(
        (&stored["success"], &chunk["content"], &chunk["metadata"]["chunk_size"]),
        (&json!(true), &json!(text), &json!(32))
    );
    document(&post(call("create-chunks-from-text", json!({"text": "Cats sleep a lot.", "title": "Sleep"}))).await);
    let listed = document(&post(call("list-chunks", json!({}))).await);
    assert_eq!(listed.as_array().unwrap().len(), 2);
    for tool in ["search-chunks", "search"] {
        let found = document(&post(call(tool, json!({"query": "when do cats purr?"}))).await);
        assert_eq!((found.as_array().unwrap().len(), &found[0]["document"]), (2, chunk), "{found}");
    }
    let one = document(&post(call("search-chunks", json!({"query": "cats", "topk": 1}))).await);
    assert_eq!(one.as_array().unwrap().len(), 1);
    let all = document(&post(call("search-chunks", json!({"query": "when do cats purr?"}))).await);
    let best = &all[0]["score"];
    let near = document(&post(call("search-chunks", json!({"query": "when do cats purr?", "threshold": best}))).await);
    assert_eq!((near.as_array().unwrap().len(), &near[0]["document"]), (1, chunk), "{near}");
    let answer = document(&post(call("chat", json!({"query": "When do cats purr?"}))).await);
    assert!(answer.as_str().unwrap().starts_with("Cats purr when they are content."), "{answer}");
    let unknown = document(&post(call("chat", json!({"query": "Who won the national election?"}))).await);
    assert!(unknown.as_str().unwrap().contains("don't know"), "{unknown}");
    let deleted = document(&post(call("delete-chunk", json!({"id": chunk["id"]}))).await);
    assert_eq!(deleted["success"], json!(true));
    assert_eq!(document(&post(call("list-chunks", json!({}))).await).as_array().unwrap().len(), 1);

    let wrong = post(call("search-chunks", json!({"query": 1}))).await.json();
    assert_eq!(wrong["result"]["isError"], json!(true), "{wrong}");
    let unknown = post(call("paint", json!({}))).await.json();
    assert_eq!((&unknown["error"]["code"], &unknown["id"]), (&json!(-32602), &json!(7)), "{unknown}");
    assert_eq!(upstream.n_calls(), 0, "all of it was answered here");
}

#[tokio::test]
async fn other_hosts_paths_and_methods_are_not_the_servers() {
    let upstream = Upstream::start(|_, _| async { ok(&json!("upstream")) }).await;
    let folder = Folder::new();
    folder.services(&[("a", upstream.address)]).route("web", "/web", "a.static");
    server(&folder, &json!({"domain_list": ["mcp.example.com", "*.internal"]}));
    let gateway = Gateway::start(folder);
    let list = call("list-chunks", json!({}));
    let status = async |method: &str, path: &str, headers: &[(&str, &str)]| {
        let mut all = vec![("content-type", "application/json")];
        all.extend_from_slice(headers);
        send(gateway.http, method, path, &all, list.clone().into()).await.status
    };
    assert_eq!(status("POST", PATH, &[("host", "a.internal")]).await, 200);
    assert_eq!(status("POST", PATH, &[("host", "example.com")]).await, 404);
    assert_eq!(status("POST", "/mcp-servers/rag/x", &[("host", "a.internal")]).await, 404);
    assert_eq!(status("POST", "/web", &[("host", "a.internal")]).await, 200);
    for method in ["GET", "DELETE"] {
        let refused =
            send(gateway.http, method, PATH, &[("host", "a.internal"), ("accept", "text/event-stream")], "".into())
                .await;
        assert_eq!((refused.status, refused.header("allow")), (405, Some("POST")), "{method}");
    }
    assert_eq!(upstream.n_calls(), 1);
    // Over HTTP/2 the host is no header.
    server(&gateway.folder, &json!({}));
    let second = eventually_async("the server on any host", || async {
        let answer =
            send_h2c(gateway.http, "POST", PATH, &[("content-type", "application/json")], list.clone().into()).await;
        (answer.status == 200).then_some(answer)
    })
    .await;
    assert_eq!(document(&second), json!([]));
    // A page on a name that somebody made point here.
    let page = [("host", "evil.example"), ("origin", "http://evil.example")];
    assert_eq!(status("POST", PATH, &page).await, 403);
    assert_eq!(status("POST", PATH, &[("host", "localhost"), ("origin", "http://localhost:6274")]).await, 200);
    assert_eq!(status("POST", PATH, &[("host", "evil.example")]).await, 200, "no page");
    mcp_server(&gateway.folder, &json!({"enable": false, "servers": [{"name": "rag", "path": PATH, "type": "rag"}]}));
    eventually_async("the end of the server", || async { (status("POST", PATH, &[]).await == 404).then_some(()) })
        .await;
}

#[tokio::test]
async fn a_server_is_reached_where_a_rule_of_match_list_covers_its_path_and_the_host() {
    let paths = [
        ("/exact", 200),
        ("/exact/more", 404),
        ("/prefixed", 200),
        ("/a/prefix", 404),
        ("/a/suffix", 200),
        ("/suffix/a", 404),
        ("/a/mid/b", 200),
        ("/r1", 200),
        ("/r12", 404),
        ("/host", 404),
    ];
    let rule = |kind: &str, path: &str, domain: &str| json!({"match_rule_type": kind, "match_rule_path": path, "match_rule_domain": domain});
    let rules = json!([
        rule("exact", "/exact", "*"),
        rule("prefix", "/pre", ""),
        rule("suffix", "/suffix", "*"),
        rule("contains", "mid", "*"),
        rule("regex", "^/r[0-9]$", "*"),
        rule("exact", "/host", "*.internal")
    ]);
    let server = |(path, _): &(&str, u16)| json!({"name": path, "path": path, "type": "rag", "config": {"vector_db": {"collection": "pets"}}});
    let servers: Vec<Value> = paths.iter().map(server).collect();
    let folder = Folder::new();
    mcp_server(&folder, &json!({"enable": true, "servers": servers, "match_list": rules}));
    let gateway = Gateway::start(folder);
    let list = call("list-chunks", json!({}));
    for (path, expected) in paths {
        assert_eq!(gateway.post(path, &[], list.clone()).await.status, expected, "{path}");
    }
    assert_eq!(gateway.post("/host", &[("host", "a.internal")], list).await.status, 200);
}

#[tokio::test]
async fn plugins_come_before_the_server_and_say_who_calls() {
    let folder = Folder::new();
    server(&folder, &json!({}));
    let consumers = json!([{"name": "ann", "credential": "a"}, {"name": "bob", "credential": "b"}]);
    folder.plugin("key-auth", &json!({"global_auth": true, "keys": ["x-api-key"], "consumers": consumers}), &json!([]));
    let gateway = Gateway::start(folder);
    rag(&gateway, "PUT", "knowledge-bases/pets", json!({"model": "none", "consumers": ["ann"]})).await;
    let documents = json!({"documents": [{"id": "cats", "title": "Cats", "text": "Cats purr.", "metadata": {"year": "2026"}},
        {"id": "dogs", "title": "Dogs", "text": "Dogs bark.", "tenant": "them"}]});
    rag(&gateway, "POST", "knowledge-bases/pets/documents", documents).await;
    let list = call("list-chunks", json!({}));
    assert_eq!(gateway.post(PATH, &[], list.clone()).await.status, 401);
    let seen = document(&gateway.post(PATH, &[("x-api-key", "a")], list.clone()).await);
    assert_eq!(seen.as_array().unwrap().len(), 1, "no other tenant's: {seen}");
    let metadata = json!({"year": "2026", "chunk_index": 0, "chunk_title": "Cats", "chunk_size": 10});
    assert_eq!((&seen[0]["id"], &seen[0]["metadata"]), (&json!("cats#0"), &metadata));
    assert_eq!(document(&gateway.post(PATH, &[("x-api-key", "b")], list).await), json!([]), "there is nothing for bob");
    let search = call("search-chunks", json!({"query": "cats"}));
    assert_eq!(document(&gateway.post(PATH, &[("x-api-key", "b")], search).await), json!([]));
    let store = call("create-chunks-from-text", json!({"text": "Birds sing.", "title": "Birds"}));
    let refused = gateway.post(PATH, &[("x-api-key", "b")], store).await.json();
    assert_eq!(refused["result"]["isError"], json!(true), "{refused}");
    let log = gateway.access_log(5);
    assert_eq!((&log[0]["response_code"], &log[1]["consumer"]), (&json!(401), &json!("ann")), "{log:?}");
    assert_eq!(log[1]["response_code_details"], "mcp_server");
}

#[tokio::test]
async fn any_knowledge_base_is_a_server_on_the_admin_port() {
    let gateway = Gateway::start(Folder::new());
    let list = call("list-chunks", json!({}));
    let open =
        send(gateway.admin, "POST", "/v1/rag/mcp/pets", &[("content-type", "application/json")], list.clone().into());
    assert_eq!(open.await.status, 401);
    let list: Value = serde_json::from_str(&list).unwrap();
    let unknown = rag(&gateway, "POST", "mcp/pets", list.clone()).await;
    assert_eq!((unknown.status, unknown.error_code().as_str()), (404, "not_found"));
    rag(&gateway, "PUT", "knowledge-bases/pets", json!({"model": "none"})).await;
    let text = json!({"text": "Cats purr.", "title": "Cats"});
    let store: Value = serde_json::from_str(&call("create-chunks-from-text", text)).unwrap();
    document(&rag(&gateway, "POST", "mcp/pets", store.clone()).await);
    document(&rag(&gateway, "POST", "mcp/pets?tenant=us", store).await);
    assert_eq!(document(&rag(&gateway, "POST", "mcp/pets", list.clone()).await).as_array().unwrap().len(), 1);
    assert_eq!(document(&rag(&gateway, "POST", "mcp/pets?tenant=us", list).await).as_array().unwrap().len(), 2);
    let begin = message(
        "initialize",
        &json!({"protocolVersion": "2025-11-25", "capabilities": {}, "clientInfo": {"name": "t", "version": "1"}}),
    );
    let begun = rag(&gateway, "POST", "mcp/pets", begin).await.json();
    assert_eq!(begun["result"]["serverInfo"]["name"], "pets", "{begun}");
    assert_eq!(rag(&gateway, "GET", "mcp/pets", Value::Null).await.status, 405);
    // The interface beside it is where it was.
    assert_eq!(rag(&gateway, "GET", "knowledge-bases/pets", Value::Null).await.json()["chunks"], json!(1));
}

#[test]
fn validate_names_what_has_no_effect() {
    let folder = Folder::new();
    let config = json!({"rag": {"top_k": 500, "threshold": 0.5, "splitter": {"provider": "recursive", "chunk_sice": 300}},
        "embedding": {"provider": "openai", "api_key": "sk-secret"}, "llm": {"provider": "openai", "api_key": "sk-secret"},
        "vectordb": {"provider": "milvus", "host": "milvus", "port": 19530, "collection": "docs"}});
    let servers = json!([{"name": "rag", "path": "/rag", "type": "rag", "config": config}, {"name": "db", "path": "/db", "type": "database"}]);
    let rules = json!([{"match_rule_path": "/rag", "match_rule_type": "prefix"}, {"match_rule_path": "/other", "match_rule_type": "exact"}]);
    mcp_server(
        &folder,
        &json!({"enable": true, "redis": {"address": "redis:6379"}, "servers": servers, "match_list": rules}),
    );
    let dir = folder.config();
    let (code, out, err) = run_cli(&["validate", dir.to_str().unwrap()], &folder);
    assert_eq!(code, 0, "{out}{err}");
    assert!(!out.contains("sk-secret"), "{out}");
    let at = "warning: configmaps/higress-config.yaml: ConfigMap higress-system/higress-config: data.higress.mcpServer";
    for expected in [
        "servers[0].config.rag.top_k: 500 is not from 1 to 100",
        "servers[0].config.rag.splitter.chunk_sice: is not a field",
        "servers[0].config.embedding: provider, api_key have no effect",
        "servers[0].config.llm: provider, api_key have no effect",
        "servers[0].config.vectordb: provider, host, port have no effect",
        "servers[1].type: MCP servers of type `database` are not supported yet",
        "match_list[1]: is for no MCP server of this gateway",
        "redis: is not used",
    ] {
        assert!(out.contains(&format!("{at}.{expected}")), "{expected} is missing in {out}");
    }
}

use super::files::FilesAnswer;
use super::*;
use crate::rag::files::Files;
use crate::rag::testing;

struct Client(Rag, #[expect(dead_code, reason = "the folder goes when it is dropped")] tempfile::TempDir);

impl Client {
    fn new() -> Client {
        let (dir, rag, _) = testing::rag();
        Client(rag, dir)
    }

    async fn ask(&self, method: &str, path: &str, body: Value) -> (u16, Value) {
        self.ask_as(Caller::Operator, method, path, body).await
    }

    async fn ask_as(&self, caller: Caller, method: &str, path: &str, body: Value) -> (u16, Value) {
        let body = if body.is_null() { Bytes::new() } else { body.to_string().into() };
        self.send(caller, method, path, Some("application/json"), body).await
    }

    async fn send(&self, caller: Caller, method: &str, path: &str, kind: Option<&str>, body: Bytes) -> (u16, Value) {
        let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query.to_owned())));
        let content_type = kind.map(str::to_owned);
        let request = ApiRequest { method: method.into(), path: path.into(), query, content_type, body, caller };
        let response = handle(&self.0, request).await;
        (response.status, response.body)
    }
}

fn cats_and_dogs() -> Value {
    json!({"documents": [
        {"id": "pets/cats", "title": "Cats", "text": "Cats purr when they are content.", "metadata": {"kind": "cat", "legs": 4}},
        {"id": "dogs", "title": "Dogs", "text": "Dogs bark at strangers."},
        {"id": "ours", "title": "Secret cats", "text": "Our cats hiss.", "tenant": "us"},
    ]})
}

#[tokio::test]
async fn a_knowledge_base_from_making_to_deleting() {
    let client = Client::new();
    let (status, made) = client.ask("PUT", "knowledge-bases/pets", json!({"chunk_size": 200})).await;
    assert_eq!(
        (status, &made["name"], &made["chunk_size"], &made["dimensions"]),
        (201, &json!("pets"), &json!(200), &json!(16))
    );
    let (status, report) = client.ask("POST", "knowledge-bases/pets/documents", cats_and_dogs()).await;
    assert_eq!((status, &report["added"], &report["errors"]), (200, &json!(3), &json!([])));
    let (_, list) = client.ask("GET", "knowledge-bases", Value::Null).await;
    assert_eq!(
        (&list["data"][0]["documents"], &list["data"][0]["chunks"]),
        (&json!(2), &json!(2)),
        "a tenant's are counted for the tenant"
    );
    let (status, found) =
        client.ask("POST", "knowledge-bases/pets/search", json!({"query": "when do cats purr", "top_k": 1})).await;
    assert!(found["trace"]["ms"].as_f64().unwrap() > 0.0, "{found}");
    let best = &found["results"][0];
    assert_eq!((status, &best["document"], &best["id"]), (200, &json!("pets/cats"), &json!("pets/cats#0")));
    assert_eq!(best["metadata"], json!({"kind": "cat", "legs": "4"}));
    assert!(best["scores"]["dense"].is_number() && best["scores"]["lexical"].is_number(), "{best}");
    assert!(found["trace"]["steps"].as_array().unwrap().iter().any(|step| step["name"] == "retrieve"));
    let (_, filtered) =
        client.ask("POST", "knowledge-bases/pets/search", json!({"query": "cats", "filter": {"kind": "dog"}})).await;
    assert_eq!(filtered["results"], json!([]));
    let (status, shown) = client.ask("GET", "knowledge-bases/pets/documents/pets%2Fcats", Value::Null).await;
    assert_eq!((status, &shown["title"], &shown["chunks"]), (200, &json!("Cats"), &json!(1)));
    let (_, chunks) = client.ask("GET", "knowledge-bases/pets/chunks?document=dogs", Value::Null).await;
    assert_eq!(chunks["data"][0]["text"], "Dogs bark at strangers.");
    assert_eq!(client.ask("DELETE", "knowledge-bases/pets/chunks/dogs%230", Value::Null).await.0, 200);
    assert_eq!(client.ask("DELETE", "knowledge-bases/pets/documents/pets%2Fcats", Value::Null).await.0, 200);
    assert_eq!(client.ask("DELETE", "knowledge-bases/pets/documents/pets%2Fcats", Value::Null).await.0, 404);
    assert_eq!(client.ask("DELETE", "knowledge-bases/pets", Value::Null).await.0, 200);
    assert_eq!(client.ask("GET", "knowledge-bases/pets", Value::Null).await.0, 404);
}

#[tokio::test]
async fn a_file_is_read_by_its_name() {
    let client = Client::new();
    client.ask("PUT", "knowledge-bases/pets", Value::Null).await;
    let path = "knowledge-bases/pets/documents?name=pets.md";
    let text = Bytes::from("# Cats\n\nCats purr.\n\n# Dogs\n\nDogs bark.\n");
    let (status, report) = client.send(Caller::Operator, "POST", path, None, text).await;
    assert_eq!((status, &report["added"]), (200, &json!(1)), "{report}");
    let (status, error) = client.send(Caller::Operator, "POST", path, None, Bytes::new()).await;
    assert_eq!((status, &error["error"]["code"]), (422, &json!("unreadable")), "{error}");
    let (status, error) =
        client.send(Caller::Operator, "POST", "knowledge-bases/pets/documents", None, "x".into()).await;
    assert_eq!(status, 400);
    assert!(error["error"]["message"].as_str().unwrap().contains("?name="), "{error}");
}

#[tokio::test]
async fn others_see_neither_the_base_nor_its_rows_nor_change_them() {
    let client = Client::new();
    client.ask("PUT", "knowledge-bases/open", Value::Null).await;
    client.ask("PUT", "knowledge-bases/anns", json!({"consumers": ["ann"]})).await;
    client.ask("POST", "knowledge-bases/open/documents", cats_and_dogs()).await;
    let bob = |tenant: Option<&str>| Caller::Consumer { name: Some("bob".into()), tenant: tenant.map(str::to_owned) };
    let (_, list) = client.ask_as(bob(None), "GET", "knowledge-bases", Value::Null).await;
    assert_eq!((list["data"].as_array().unwrap().len(), &list["data"][0]["name"]), (1, &json!("open")));
    let (status, error) = client.ask_as(bob(None), "GET", "knowledge-bases/anns", Value::Null).await;
    assert_eq!((status, &error["error"]["code"]), (404, &json!("not_found")));
    let (status, other) = client.ask_as(bob(None), "GET", "knowledge-bases/nothing", Value::Null).await;
    let unnamed = |error: &Value| error["error"]["message"].as_str().unwrap().replace("nothing", "anns");
    assert_eq!((status, unnamed(&other)), (404, unnamed(&error)), "what is hidden looks like what is not there");
    let documents = async |tenant: Option<&str>| {
        let body = json!({"query": "cats", "steps": {"dense": false}});
        let (_, found) = client.ask_as(bob(tenant), "POST", "knowledge-bases/open/search", body).await;
        let mut names: Vec<String> =
            found["results"].as_array().unwrap().iter().map(|r| r["document"].as_str().unwrap().to_owned()).collect();
        names.sort();
        names
    };
    assert_eq!(documents(None).await, ["pets/cats"]);
    assert_eq!(documents(Some("us")).await, ["ours", "pets/cats"]);
    for (method, path) in [
        ("PUT", "knowledge-bases/new"),
        ("PATCH", "knowledge-bases/open"),
        ("DELETE", "knowledge-bases/open"),
        ("POST", "knowledge-bases/open/documents"),
        ("DELETE", "knowledge-bases/open/documents/dogs"),
        ("DELETE", "knowledge-bases/open/chunks/dogs%230"),
    ] {
        let (status, error) = client.ask_as(bob(None), method, path, cats_and_dogs()).await;
        assert_eq!((status, &error["error"]["code"]), (403, &json!("forbidden")), "{method} {path}");
    }
}

#[tokio::test]
async fn who_may_see_a_base_can_be_changed() {
    let client = Client::new();
    client.ask("PUT", "knowledge-bases/pets", json!({"tenant": "us"})).await;
    let status = async |name: &str, tenant: Option<&str>| {
        let caller = Caller::Consumer { name: Some(name.to_owned()), tenant: tenant.map(str::to_owned) };
        client.ask_as(caller, "GET", "knowledge-bases/pets", Value::Null).await.0
    };
    assert_eq!((status("bob", Some("us")).await, status("ann", None).await), (200, 404));
    let (_, base) = client.ask("PATCH", "knowledge-bases/pets", json!({"consumers": ["ann"]})).await;
    assert_eq!((&base["consumers"], &base["tenant"]), (&json!(["ann"]), &json!("us")));
    assert_eq!((status("bob", Some("us")).await, status("ann", Some("us")).await), (404, 200));
    let (_, base) = client.ask("PATCH", "knowledge-bases/pets", json!({"tenant": null})).await;
    assert_eq!((&base["consumers"], &base["tenant"]), (&json!(["ann"]), &Value::Null));
    assert_eq!((status("bob", None).await, status("ann", None).await), (404, 200));
}

#[tokio::test]
async fn what_is_wrong_with_a_request_is_said() {
    let client = Client::new();
    client.ask("PUT", "knowledge-bases/pets", Value::Null).await;
    let check = async |method: &str, path: &str, body: Value, status: u16, part: &str| {
        let (found, error) = client.ask(method, path, body).await;
        let message = error["error"]["message"].as_str().unwrap_or_default();
        assert!(found == status && message.contains(part), "{method} {path}: {found} {message}");
    };
    check("PUT", "knowledge-bases/pets", Value::Null, 409, "exists already").await;
    check("PUT", "knowledge-bases/a%2Fb", Value::Null, 400, "cannot name").await;
    check("PUT", "knowledge-bases/new", json!({"chunk_size": 10}), 400, "chunk_size 10").await;
    check("PUT", "knowledge-bases/new", json!({"model": "ada"}), 400, "\"ada\"").await;
    check("PUT", "knowledge-bases/new", json!({"chunks": 10}), 400, "`chunks`").await;
    check("POST", "knowledge-bases/pets/search", json!({"query": " "}), 400, "empty").await;
    check("POST", "knowledge-bases/pets/search", json!({"query": "x", "top_k": 0}), 400, "top_k 0").await;
    check("POST", "knowledge-bases/pets/search", json!({"query": "x", "steps": {"magic": true}}), 400, "`magic`").await;
    check("POST", "knowledge-bases/pets/search", json!({}), 400, "`query`").await;
    check("GET", "knowledge-bases/pets/chunks?limit=x", Value::Null, 400, "limit=x").await;
    check("GET", "knowledge-bases/nothing", Value::Null, 404, "\"nothing\"").await;
    check("PATCH", "knowledge-bases/pets", json!({"model": "none"}), 400, "`model`").await;
    check("PATCH", "knowledge-bases/nothing", json!({}), 404, "\"nothing\"").await;
    check("POST", "knowledge-bases/pets", Value::Null, 404, "openapi.json").await;
}

/// The description names each path that is answered, and no other.
#[test]
fn the_description_has_the_paths_of_this_module() {
    let described: Value = serde_json::from_str(OPENAPI).unwrap();
    let mut described: Vec<String> = described["paths"]
        .as_object()
        .unwrap()
        .iter()
        .flat_map(|(path, methods)| {
            let methods = methods.as_object().unwrap().keys().filter(|key| *key != "parameters");
            methods
                .map(move |method| format!("{} {}", method.to_uppercase(), path.trim_start_matches('/')))
                .collect::<Vec<_>>()
        })
        .collect();
    let table = include_str!("mod.rs").lines().filter_map(|line| line.strip_prefix("//! | `"));
    let mut documented: Vec<String> = table
        .flat_map(|row| {
            let cell = row.split(" |").next().unwrap_or_default();
            let path = cell.rsplit(' ').next().unwrap_or_default().trim_matches('`').to_owned();
            let methods =
                cell.split([' ', '`', ',']).filter(|word| ["GET", "PUT", "PATCH", "POST", "DELETE"].contains(word));
            methods.map(|method| format!("{method} {path}")).collect::<Vec<_>>()
        })
        .collect();
    described.sort();
    documented.sort();
    assert_eq!(described, documented);
}

/// Uploads a file as a browser's form does, and returns its id.
async fn upload(client: &Client, files: &Files, name: &str, content: &str) -> String {
    let form = format!(
        "--x\r\ncontent-disposition: form-data; name=\"purpose\"\r\n\r\nassistants\r\n\
         --x\r\ncontent-disposition: form-data; name=\"file\"; filename=\"{name}\"\r\n\r\n{content}\r\n--x--\r\n"
    );
    let request = ApiRequest {
        method: "POST".to_owned(),
        path: String::new(),
        query: None,
        content_type: Some("multipart/form-data; boundary=x".to_owned()),
        body: form.into(),
        caller: Caller::Operator,
    };
    let FilesAnswer::Json(answer) = files::handle(&client.0, files, request).await else { panic!("no JSON") };
    assert_eq!(answer.status, 200, "{}", answer.body);
    answer.body["id"].as_str().unwrap().to_owned()
}

#[tokio::test]
async fn a_store_is_made_from_uploaded_files() {
    let client = Client::new();
    let dir = tempfile::tempdir().unwrap();
    let files = Files::new(dir.path().to_owned());
    let cats = upload(&client, &files, "C:\\pets\\cats.txt", "Cats purr when they are content.").await;
    let empty = upload(&client, &files, "empty.txt", "").await;
    let stores = async |method: &str, path: &str, body: Value| {
        let body = if body.is_null() { Bytes::new() } else { body.to_string().into() };
        let (path, query) = path.split_once('?').map_or((path, None), |(path, query)| (path, Some(query.to_owned())));
        let content_type = Some("application/json".to_owned());
        let request = ApiRequest {
            method: method.into(),
            path: path.into(),
            query,
            content_type,
            body,
            caller: Caller::Operator,
        };
        let answer = vector_stores::handle(&client.0, &files, request).await;
        (answer.status, answer.body)
    };
    let chunks = json!({"type": "static", "static": {"max_chunk_size_tokens": 100, "chunk_overlap_tokens": 20}});
    let new = json!({"name": "pets", "file_ids": [cats, empty], "chunking_strategy": chunks});
    let (status, store) = stores("POST", "", new).await;
    assert_eq!(
        (status, &store["file_counts"]),
        (200, &json!({"in_progress": 0, "completed": 1, "failed": 1, "cancelled": 0, "total": 2}))
    );
    let (_, base) = client.ask("GET", "knowledge-bases/pets", Value::Null).await;
    assert_eq!((&base["chunk_size"], &base["chunk_overlap"]), (&json!(400), &json!(80)));
    let (_, found) = stores("POST", "pets/search", json!({"query": "cats"})).await;
    let best = &found["data"][0];
    assert_eq!(
        (&best["file_id"], &best["filename"], &best["attributes"]),
        (&json!(cats), &json!("cats.txt"), &json!({}))
    );
    let is = |value: &str| json!({"type": "eq", "key": "file_id", "value": value});
    let both = json!({"type": "and", "filters": [is("other"), is(&cats)]});
    let (_, none) = stores("POST", "pets/search", json!({"query": "cats", "filters": both})).await;
    assert_eq!(none["data"], json!([]), "one condition does not take the place of another");
    let (_, titled) = stores("POST", "", json!({"name": "Support FAQ"})).await;
    assert!(titled["id"].as_str().unwrap().starts_with("vs_") && titled["created_at"].as_i64() > Some(0), "{titled}");
    assert_eq!(titled["name"], "Support FAQ");
    for (path, body, named) in [
        ("", json!({"file_ids": ["file-none"]}), "file-none"),
        ("", json!({"name": "a", "expires_after": {}}), "expires_after"),
        (
            "",
            json!({"name": "a", "chunking_strategy": {"type": "static", "static": {"max_chunk_size_tokens": 5, "chunk_overlap_tokens": 0}}}),
            "chunk_size 20",
        ),
        ("pets/files", json!({"file_id": empty}), "empty.txt"),
        ("pets/file_batches", json!({"files": [{"file_id": cats}], "file_ids": [cats]}), "one of them"),
    ] {
        let (status, said) = stores("POST", path, body).await;
        let message = said["error"]["message"].as_str().unwrap();
        assert!((400..500).contains(&status) && message.contains(named), "{path}: {status} {message}");
    }
    for query in [
        "pets/files?limit=0",
        "pets/files?after=file-none",
        "pets/files?before=file-none",
        "pets/files?order=up",
        "pets/files?filter=done",
        "pets/files/file-none",
    ] {
        let (status, _) = stores("GET", query, Value::Null).await;
        assert!((400..500).contains(&status), "{query}: {status}");
    }
}

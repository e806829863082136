use super::*;
use proptest::prelude::*;
use serde_json::{Value, json};

const FULL: &str = include_str!("../fixtures/requests/full.json");

fn parse(body: &str) -> Result<ChatRequest, ApiError> {
    ChatRequest::parse(&Bytes::copy_from_slice(body.as_bytes()))
}

fn is_within(part: &[u8], whole: &[u8]) -> bool {
    whole.as_ptr_range().start <= part.as_ptr() && part.as_ptr_range().end <= whole.as_ptr_range().end
}

#[test]
fn a_simple_request() {
    let request = parse(include_str!("../fixtures/requests/simple.json")).unwrap();
    assert_eq!(request.model(), "gpt-4o-mini");
    assert_eq!(request.messages_json(), r#"[{"role":"user","content":"What is 2+2?"}]"#);
    assert_eq!(request.last_user_text(), "What is 2+2?");
    assert!(!request.stream() && !request.wants_usage() && !request.has_tools());
    assert_eq!((request.n_messages(), request.n_turns()), (1, 1));
    assert_eq!(request.estimate_prompt_tokens(), 4 + 3);
}

#[test]
fn everything_else_is_kept_and_not_judged() {
    let request = parse(FULL).unwrap();
    assert_eq!(request.body(), FULL.as_bytes());
    assert!(request.stream() && request.wants_usage() && request.has_tools());
    assert_eq!((request.n_messages(), request.n_turns()), (5, 2));
    assert_eq!(request.last_user_text(), "What is in \"this\"\n\npicture?");
    assert!(is_within(&request.messages(), request.body()), "messages are a slice of the body");
    assert!(is_within(request.messages_json().as_bytes(), request.body()));
}

#[test]
fn each_mistake_has_its_error() {
    use ErrorKind::*;
    for (body, kind, param) in [
        ("", InvalidJson, None),
        ("{\"model\":\"m\",\"messages\":[{\"role\":\"user\"}]", InvalidJson, None),
        ("{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":\"\u{0}\"}]}", InvalidJson, None),
        ("\u{0}", InvalidJson, None),
        ("not json", InvalidJson, None),
        ("hello", InvalidJson, None),
        ("null", InvalidType, None),
        ("[]", InvalidType, None),
        ("\"text\"", InvalidType, None),
        ("{}", MissingModel, Some("model")),
        ("{\"model\":\"\",\"messages\":[]}", MissingModel, Some("model")),
        ("{\"model\":null,\"messages\":[]}", MissingModel, Some("model")),
        ("{\"model\":7,\"messages\":[]}", InvalidType, Some("model")),
        ("{\"model\":\"m\"}", MissingMessages, Some("messages")),
        ("{\"model\":\"m\",\"messages\":[]}", EmptyMessages, Some("messages")),
        ("{\"model\":\"m\",\"messages\":[ ]}", EmptyMessages, Some("messages")),
        ("{\"model\":\"m\",\"messages\":null}", InvalidType, Some("messages")),
        ("{\"model\":\"m\",\"messages\":\"hi\"}", InvalidType, Some("messages")),
        ("{\"model\":\"m\",\"messages\":[{\"role\":\"user\"},\"hi\"]}", InvalidType, Some("messages[1]")),
        ("{\"model\":\"m\",\"messages\":[{\"content\":\"hi\"}]}", InvalidValue, Some("messages[0].role")),
        ("{\"model\":\"m\",\"messages\":[{\"role\":\"king\"}]}", InvalidValue, Some("messages[0].role")),
        ("{\"model\":\"m\",\"messages\":[{\"role\":1}]}", InvalidType, Some("messages[0].role")),
        (
            "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":7}]}",
            InvalidType,
            Some("messages[0].content"),
        ),
        (
            "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":true}]}",
            InvalidType,
            Some("messages[0].content"),
        ),
        (
            "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":{}}]}",
            InvalidType,
            Some("messages[0].content"),
        ),
        (
            "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":[1,\"a\",null]}]}",
            InvalidType,
            Some("messages[0].content"),
        ),
        (
            "{\"model\":\"m\",\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":5}]}]}",
            InvalidType,
            Some("messages[0].content"),
        ),
        ("{\"model\":\"m\",\"messages\":[{\"role\":\"user\"}],\"stream\":\"yes\"}", InvalidType, Some("stream")),
        ("{\"model\":\"m\",\"messages\":[{\"role\":\"user\"}],\"stream\":1}", InvalidType, Some("stream")),
        ("{\"model\":\"m\",\"messages\":[{\"role\":\"user\"}]} extra", InvalidJson, None),
    ] {
        let error = parse(body).unwrap_err();
        assert_eq!((error.kind, error.param.as_deref(), error.status), (kind, param, 400), "{body:?}: {error}");
    }
    let error = ChatRequest::parse(&Bytes::from_static(b"{\"model\":\"\xff\"}")).unwrap_err();
    assert_eq!(error.kind, InvalidUtf8);
}

#[test]
fn messages_of_errors_stay_short_whatever_the_client_sends() {
    let role = "x".repeat(100_000);
    let error = parse(&json!({"model": "m", "messages": [{"role": role}]}).to_string()).unwrap_err();
    assert!(error.message.len() < 300, "{}", error.message.len());
}

#[test]
fn nesting_is_refused_at_any_depth_without_harm() {
    for (n, accepted) in [(100, true), (1_000, false), (1_000_000, false)] {
        let deep = format!(
            r#"{{"model":"m","messages":[{{"role":"user","content":"x"}}],"extra":{}{}}}"#,
            "[".repeat(n),
            "]".repeat(n)
        );
        assert_eq!(
            parse(&deep).map(drop).map_err(|error| error.kind),
            if accepted { Ok(()) } else { Err(ErrorKind::InvalidJson) }
        );
    }
}

#[test]
fn the_last_of_equal_members_counts() {
    let request = parse(
        r#"{"model":1,"model":"a","messages":5,"messages":[{"role":"user","content":"x","content":"y"}],"stream":"x","stream":true,"mod\u0065l":"b"}"#,
    )
    .unwrap();
    assert_eq!(request.model(), "b");
    assert_eq!(request.last_user_text(), "y");
    assert!(request.stream());
    assert_eq!(
        parse(r#"{"model":"a","messages":[{"role":"user"}],"model":2}"#).unwrap_err().kind,
        ErrorKind::InvalidType
    );
}

#[test]
fn the_last_user_text_falls_back_sensibly() {
    for (messages, text) in [
        (json!([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]), "a"),
        (json!([{"role": "user", "content": "a"}, {"role": "user", "content": null}]), "a"),
        (json!([{"role": "system", "content": "s"}, {"role": "assistant"}]), "s"),
        (json!([{"role": "user", "content": [{"type": "image_url"}]}]), ""),
        (json!([{"role": "user", "content": [{"type": "image_url"}, {"text": "b"}, {"text": null}]}]), "b"),
        (json!([{"role": "user"}]), ""),
    ] {
        let request = parse(&json!({"model": "m", "messages": messages}).to_string()).unwrap();
        assert_eq!(request.last_user_text(), text, "{messages}");
    }
}

#[test]
fn a_megabyte_of_prompt_is_not_copied() {
    let prompt = "long 长 prompt. ".repeat(64 << 10);
    let body = Bytes::from(json!({"model": "m", "messages": [{"role": "user", "content": prompt}]}).to_string());
    assert!(body.len() > 1 << 20);
    let request = ChatRequest::parse(&body).unwrap();
    let text = request.last_user_text();
    assert_eq!(text.len(), prompt.len());
    assert!(is_within(text.as_bytes(), &body));
    assert_eq!(request.body().as_ptr(), body.as_ptr());
}

#[test]
fn fields_are_peeked_at_in_any_json() {
    for (body, found) in [
        (r#"{"a":{"model":"no"},"model":"yes"}"#, Some("yes")),
        (r#"{"model":"first","model":"last"}"#, Some("last")),
        (r#"{"model":"first","model":2}"#, None),
        (r#"{"m\u006fdel":"escap\u0065d"}"#, Some("escaped")),
        (r#"{"input":[1,2]}"#, None),
        ("[\"model\"]", None),
    ] {
        assert_eq!(peek_field(body.as_bytes(), "model").unwrap().as_deref(), found, "{body}");
    }
    assert_eq!(peek_field(b"{\"model\":\"x\"", "model").unwrap_err().kind, ErrorKind::InvalidJson);
    assert_eq!(peek_field(b"\xff", "model").unwrap_err().kind, ErrorKind::InvalidUtf8);
}

fn message() -> impl Strategy<Value = Value> {
    let text = any::<String>;
    prop_oneof![
        (prop::sample::select(ROLES.to_vec()), text()).prop_map(|(role, text)| json!({"role": role, "content": text})),
        text().prop_map(|text| json!({"content": [{"type": "text", "text": text}], "role": "user", "name": "n"})),
    ]
}

proptest! {
    #[test]
    fn any_valid_request_reads_back(
        model in "[^\0]{1,12}",
        messages in prop::collection::vec(message(), 1..6),
        stream in any::<bool>(),
        pretty in any::<bool>(),
    ) {
        let value = json!({"model": model, "messages": messages, "stream": stream, "other": [1, {"x": null}]});
        let body = if pretty { serde_json::to_string_pretty(&value) } else { serde_json::to_string(&value) }.unwrap();
        let request = parse(&body).unwrap();
        prop_assert_eq!(request.model(), model);
        prop_assert_eq!(request.stream(), stream);
        prop_assert_eq!(request.n_messages(), messages.len());
        prop_assert_eq!(serde_json::from_str::<Value>(request.messages_json()).unwrap(), Value::from(messages.clone()));
        let text = |message: &Value| match &message["content"] {
            Value::String(text) => text.clone(),
            parts => parts[0]["text"].as_str().unwrap_or_default().to_owned(),
        };
        let last = messages.iter().rfind(|message| message["role"] == "user").or(messages.last()).map(text);
        prop_assert_eq!(Some(request.last_user_text().into_owned()), last);
    }

    #[test]
    fn any_bytes_are_an_answer_and_never_a_panic(body in prop::collection::vec(any::<u8>(), 0..200)) {
        let _ = ChatRequest::parse(&Bytes::from(body));
    }

    #[test]
    fn a_broken_request_is_never_accepted(at in 0..FULL.len()) {
        // Whatever one byte is cut out: accepted only if it is still JSON.
        let mut body = FULL.as_bytes().to_vec();
        body.remove(at);
        if ChatRequest::parse(&Bytes::from(body.clone())).is_ok() {
            prop_assert!(serde_json::from_slice::<serde::de::IgnoredAny>(&body).is_ok());
        }
    }
}

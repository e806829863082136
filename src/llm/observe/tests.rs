use proptest::prelude::*;
use serde_json::{Value, json};

use super::notes::MAX_TOOL_CALLS;
use super::*;

const WANT: Want = Want { content: true, max_text_bytes: 1 << 20, max_body_bytes: 1 << 20 };

fn observe<'c>(kind: BodyKind, chunks: impl IntoIterator<Item = &'c [u8]>) -> Observation {
    let mut observer = Observer::new(kind, WANT);
    chunks.into_iter().for_each(|chunk| observer.feed(chunk));
    observer.finish()
}

fn whole(body: &str) -> Observation {
    observe(BodyKind::Json, [body.as_bytes()])
}

fn sse(body: &str) -> Observation {
    observe(BodyKind::Sse, [body.as_bytes()])
}

macro_rules! fixture {
    ($name:literal) => {
        include_str!(concat!("../fixtures/", $name))
    };
}

fn tool(index: u64, id: &str, name: &str, arguments: &str) -> ToolCall {
    ToolCall { index, id: id.to_owned(), name: name.to_owned(), arguments: arguments.to_owned() }
}

/// Prompt, completion and total; cached and reasoning.
type Counts = (u64, u64, u64, Option<u64>, Option<u64>);

fn counts(usage: &Option<Usage>) -> Option<Counts> {
    let usage = usage.as_ref()?;
    let Usage { prompt_tokens, completion_tokens, total_tokens, cached_tokens, reasoning_tokens, .. } = usage;
    Some((*prompt_tokens, *completion_tokens, *total_tokens, *cached_tokens, *reasoning_tokens))
}

#[test]
fn a_chat_completion() {
    let seen = whole(fixture!("responses/chat.json"));
    assert_eq!(seen.chat_id.as_deref(), Some("chatcmpl-1"));
    assert_eq!(seen.model.as_deref(), Some("gpt-4o-mini-2024"));
    assert_eq!((seen.answer.as_str(), seen.reasoning.as_str()), ("Four.", "2+2=4"));
    assert_eq!(seen.finish_reason.as_deref(), Some("stop"));
    assert_eq!(counts(&seen.usage), Some((13, 2, 15, Some(8), Some(1))));
    let usage = seen.usage.as_ref().unwrap();
    assert_eq!(usage.input_details.as_deref(), Some(r#"{"cached_tokens":8,"audio_tokens":0}"#));
    assert_eq!(usage.output_details.as_deref(), Some(r#"{"reasoning_tokens":1}"#));
    assert!(seen.is_complete() && seen.error.is_none() && seen.n_unreadable == 0);
}

#[test]
fn other_answers() {
    let tools = [tool(0, "call_a", "weather", "{\"city\":\"Paris\"}"), tool(1, "call_b", "time", "{}")];
    assert_eq!(whole(fixture!("responses/tools.json")).tool_calls, tools);

    let completion = whole(fixture!("responses/completion.json"));
    assert_eq!((completion.answer.as_str(), completion.finish_reason.as_deref()), (" Four.", Some("length")));
    assert_eq!(counts(&completion.usage), Some((5, 3, 8, None, None)), "the total is the sum");

    let message = whole(fixture!("responses/anthropic.json"));
    assert_eq!((message.answer.as_str(), message.reasoning.as_str()), ("Four.", "hm"));
    assert_eq!(message.tool_calls, [tool(2, "tu_1", "weather", "{\"city\": \"Paris\"}")]);
    assert_eq!(message.finish_reason.as_deref(), Some("tool_use"));
    assert_eq!(counts(&message.usage), Some((10, 5, 22, Some(4), None)), "cache tokens are counted beside the prompt");

    let response = whole(fixture!("responses/responses_api.json"));
    assert_eq!((response.answer.as_str(), response.reasoning.as_str()), ("Four.", "Add."));
    assert_eq!(response.tool_calls, [tool(2, "call_a", "weather", "{}")]);
    assert_eq!(response.finish_reason.as_deref(), Some("completed"));
    assert_eq!(counts(&response.usage), Some((9, 4, 13, Some(2), Some(3))));

    let gemini = whole(fixture!("responses/gemini.json"));
    assert_eq!(gemini.model.as_deref(), Some("gemini-2.5"));
    assert_eq!(counts(&gemini.usage), Some((6, 2, 11, None, Some(3))));
}

#[test]
fn oddities_cost_one_field_each() {
    let seen = whole(fixture!("responses/odd.json"));
    assert_eq!(seen.chat_id.as_deref(), Some("7"));
    assert_eq!(seen.answer, "Four.");
    assert_eq!(counts(&seen.usage), Some((4, 0, 4, None, None)));
    assert_eq!((seen.finish_reason, seen.error, seen.n_unreadable), (None, None, 0));
    assert_eq!(whole("<html>").n_unreadable, 1);
    assert!(!whole("<html>").is_complete());
}

#[test]
fn a_chat_stream() {
    let seen = sse(fixture!("streams/chat.sse"));
    assert_eq!(seen.answer, "It is \"4\" 四。😀");
    assert_eq!(seen.reasoning, "Hm, 加");
    assert_eq!(seen.finish_reason.as_deref(), Some("stop"));
    assert_eq!(counts(&seen.usage), Some((12, 7, 19, None, Some(2))));
    assert_eq!((seen.n_events, seen.n_unreadable, seen.saw_done), (7, 0, true));
}

#[test]
fn pieces_of_tool_calls_are_joined() {
    let seen = sse(fixture!("streams/tools.sse"));
    assert_eq!(
        seen.tool_calls,
        [tool(0, "call_a", "weather", "{\"city\":\"Paris\"}"), tool(1, "call_b", "time", "{}")]
    );
    assert_eq!(seen.finish_reason.as_deref(), Some("tool_calls"));
}

#[test]
fn an_anthropic_stream() {
    let seen = sse(fixture!("streams/anthropic.sse"));
    assert_eq!((seen.chat_id.as_deref(), seen.model.as_deref()), (Some("msg_2"), Some("claude-x")));
    assert_eq!((seen.answer.as_str(), seen.reasoning.as_str()), ("Four.", "hm"));
    assert_eq!(seen.tool_calls, [tool(2, "tu_1", "weather", "{\"city\": \"Paris\"}")]);
    assert_eq!(counts(&seen.usage), Some((25, 15, 45, Some(5), None)));
    assert_eq!((seen.finish_reason.as_deref(), seen.saw_done), (Some("tool_use"), true));
}

#[test]
fn a_responses_stream() {
    let seen = sse(fixture!("streams/responses_api.sse"));
    assert_eq!((seen.chat_id.as_deref(), seen.model.as_deref()), (Some("resp_2"), Some("gpt-5")));
    assert_eq!(seen.answer, "Four.");
    assert_eq!(seen.tool_calls, [tool(1, "call_a", "weather", "{}")]);
    assert_eq!(counts(&seen.usage), Some((9, 4, 13, None, Some(0))));
    assert_eq!((seen.finish_reason.as_deref(), seen.saw_done), (Some("completed"), true));
}

#[test]
fn a_stream_cut_at_every_byte_says_the_same() {
    for stream in [
        fixture!("streams/chat.sse"),
        fixture!("streams/tools.sse"),
        fixture!("streams/anthropic.sse"),
        fixture!("streams/responses_api.sse"),
    ] {
        let whole = sse(stream);
        for at in 0..stream.len() {
            let (head, tail) = stream.as_bytes().split_at(at);
            assert_eq!(observe(BodyKind::Sse, [head, tail]), whole, "cut at {at}");
        }
    }
    let body = fixture!("responses/chat.json");
    assert_eq!(observe(BodyKind::Json, body.as_bytes().chunks(7)), whole(body));
}

#[test]
fn a_stream_that_breaks_off_is_not_complete() {
    let seen = sse(fixture!("streams/cut.sse"));
    assert!(!seen.is_complete());
    assert_eq!(seen.n_unreadable, 1);
    assert_eq!(seen.answer, "It is \"4\" ");
    // Whole apart from its last line end is whole.
    let stream = fixture!("streams/chat.sse").trim_end();
    assert!(sse(stream).saw_done);
}

#[test]
fn text_is_bounded_and_cut_between_characters() {
    let want = Want { max_text_bytes: 12, ..WANT };
    let mut observer = Observer::new(BodyKind::Sse, want);
    observer.feed(fixture!("streams/chat.sse").as_bytes());
    let seen = observer.finish();
    assert_eq!(seen.answer, "It is \"4\" ", "四 does not fit whole");
    assert!(seen.truncated);

    let mut observer = Observer::new(BodyKind::Json, Want { max_body_bytes: 10, ..WANT });
    observer.feed(fixture!("responses/chat.json").as_bytes());
    let seen = observer.finish();
    assert!(seen.truncated && seen.model.is_none() && !seen.is_complete());
}

#[test]
fn without_content_the_rest_is_still_seen() {
    for stream in [fixture!("streams/chat.sse"), fixture!("streams/tools.sse")] {
        let mut observer = Observer::new(BodyKind::Sse, Want { content: false, ..WANT });
        observer.feed(stream.as_bytes());
        assert!(observer.has_content() && observer.is_complete());
        let seen = observer.finish();
        assert!(seen.answer.is_empty() && seen.tool_calls.is_empty() && !seen.truncated);
        assert_eq!((seen.usage, seen.model), (sse(stream).usage, sse(stream).model));
    }
}

#[test]
fn hostile_tool_indices_do_not_cost_memory() {
    let mut observer = Observer::new(BodyKind::Sse, WANT);
    for index in (0..1000_u64).map(|i| u64::MAX - i) {
        let event = format!("data: {{\"choices\":[{{\"delta\":{{\"tool_calls\":[{{\"index\":{index}}}]}}}}]}}\n\n");
        observer.feed(event.as_bytes());
    }
    let seen = observer.finish();
    assert_eq!((seen.tool_calls.len(), seen.truncated), (MAX_TOOL_CALLS, true));
}

#[test]
fn errors_are_found_in_every_dialect() {
    for (body, message, kind, code) in [
        (fixture!("responses/error.json"), "Rate limit reached", Some("rate_limit_error"), Some("429")),
        (r#"{"error":"model not loaded"}"#, "model not loaded", None, None),
        (
            r#"{"type":"error","error":{"type":"overloaded_error","message":"Overloaded"}}"#,
            "Overloaded",
            Some("overloaded_error"),
            None,
        ),
        (r#"{"type":"error","code":"server_error","message":"Oops"}"#, "Oops", None, Some("server_error")),
        (r#"{"type":"response.failed","response":{"error":{"code":"x","message":"Bad"}}}"#, "Bad", None, Some("x")),
        (
            r#"{"code":"InvalidParameter","message":"Preprocessor error"}"#,
            "Preprocessor error",
            None,
            Some("InvalidParameter"),
        ),
    ] {
        let error = UpstreamError::parse(body.as_bytes()).unwrap();
        assert_eq!(
            (error.message.as_str(), error.kind.as_deref(), error.code.as_deref()),
            (message, kind, code),
            "{body}"
        );
    }
    assert_eq!(UpstreamError::parse(b"busy"), None);
    assert_eq!(UpstreamError::parse(fixture!("responses/chat.json").as_bytes()), None);
    let seen =
        sse("data: {\"choices\":[{\"delta\":{\"content\":\"a\"}}]}\n\nevent: error\ndata: {\"message\":\"died\"}\n\n");
    assert_eq!(seen.error.map(|error| error.message).as_deref(), Some("died"));
}

#[test]
fn the_first_event_decides_whether_to_commit() {
    let role =
        r#"data: {"id":"1","choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}"#;
    let need_more = ["", ": ping\n\n", "data: {\"id\":", role, &format!("{role}\n\n"), "data: {\"type\":\"ping\"}\n\n"];
    for start in need_more {
        assert_eq!(classify_first(start.as_bytes()), FirstEvent::NeedMore, "{start}");
    }
    for meaningful in [
        r#"{"id":"1","choices":[{"delta":{"content":"a"}}]}"#,
        r#"{"id":"1","choices":[{"delta":{"tool_calls":[{"index":0,"id":"c"}]}}]}"#,
        r#"{"id":"1","choices":[{"delta":{},"finish_reason":"stop"}]}"#,
        r#"{"type":"content_block_delta","index":0,"delta":{"type":"text_delta","text":"x"}}"#,
        r#"{"something":"else"}"#,
        "[DONE]",
        "plain text",
    ] {
        let start = format!("{role}\n\ndata: {meaningful}\n\n");
        assert_eq!(classify_first(start.as_bytes()), FirstEvent::Meaningful, "{meaningful}");
    }
    for error in [
        "data: {\"error\":{\"message\":\"no\"}}",
        "event: error\ndata: no",
        "event: error\ndata: {\"code\":\"c\",\"message\":\"no\"}",
    ] {
        let start = format!(
            "{role}\n\n{error}\n\ndata: {{\"id\":\"1\",\"choices\":[{{\"delta\":{{\"content\":\"a\"}}}}]}}\n\n"
        );
        let FirstEvent::Error(error) = classify_first(start.as_bytes()) else { panic!("{start}") };
        assert_eq!(error.message, "no");
    }
    assert_eq!(classify_first(": ping\n\n".repeat(10_000).as_bytes()), FirstEvent::Meaningful, "it must end somewhere");
    let start = fixture!("streams/anthropic.sse").split_inclusive("\n\n").take(2).collect::<String>();
    assert_eq!(classify_first(start.as_bytes()), FirstEvent::NeedMore);
}

proptest! {
    /// The shortcut for repeating events says what parsing says.
    #[test]
    fn a_stream_reads_the_same_as_its_events_one_by_one(
        pieces in proptest::collection::vec("[a-z世\"\\\\\n ]{0,6}", 1..20),
        reasons in proptest::collection::vec(0..12u8, 20),
    ) {
        let event = |piece: &str, reason: u8| {
            let finish = if reason == 0 { json!("stop") } else { Value::Null };
            let mut event = json!({"id": "c1", "model": "m", "choices": [
                {"index": 0, "delta": {"content": piece}, "finish_reason": finish}]});
            if reason == 1 {
                event["usage"] = json!({"prompt_tokens": 3, "completion_tokens": 4});
            }
            format!("data: {event}\n\n")
        };
        let stream: Vec<String> = pieces.iter().zip(&reasons).map(|(piece, &reason)| event(piece, reason)).collect();
        let seen = sse(&stream.concat());
        prop_assert_eq!(&seen.answer, &pieces.concat());
        prop_assert_eq!(seen.n_events, pieces.len());
        let is_finished = reasons[..pieces.len()].contains(&0);
        prop_assert_eq!(seen.finish_reason.as_deref(), is_finished.then_some("stop"));
        prop_assert_eq!(seen.usage.is_some(), reasons[..pieces.len()].contains(&1));
        prop_assert!(seen.n_unreadable == 0 && seen.error.is_none());
    }
}

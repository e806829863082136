//! A completion as OpenAI stream events, each with the time at which it is due: the first text after the first-token time, the
//! rest spread evenly up to the latency.

use bytes::Bytes;
use serde_json::{Value, json};
use std::time::Duration;

use super::api::Envelope;
use super::service::Completion;

/// Characters of text in one event.
const EVENT_CHARS: usize = 12;

/// The events, in order: role, text pieces, finish, usage if wanted, `[DONE]`. Times count from the request.
pub fn events(envelope: &Envelope, completion: &Completion, include_usage: bool) -> Vec<(Duration, Bytes)> {
    let characters: Vec<char> = completion.text.chars().collect();
    let pieces: Vec<String> = characters.chunks(EVENT_CHARS).map(|piece| piece.iter().collect()).collect();
    let rest = completion.latency.saturating_sub(completion.first_token);
    let due = |i: usize| completion.first_token + rest.mul_f64(i as f64 / pieces.len().max(2).saturating_sub(1) as f64);
    let choice =
        |delta: Value, finish: Value| json!([{"index": 0, "delta": delta, "logprobs": null, "finish_reason": finish}]);
    let chunk = |choices: Value, usage: Option<Value>| {
        let mut chunk = json!({
            "id": envelope.id,
            "object": "chat.completion.chunk",
            "created": envelope.created,
            "model": envelope.model,
            "service_tier": "default",
            "system_fingerprint": null,
            "choices": choices,
        });
        if include_usage {
            chunk["usage"] = usage.unwrap_or(Value::Null);
        }
        Bytes::from(format!("data: {chunk}\n\n"))
    };
    let role = json!({"role": "assistant", "content": "", "refusal": null});
    let mut events = vec![(completion.first_token, chunk(choice(role, Value::Null), None))];
    events.extend(
        pieces
            .iter()
            .enumerate()
            .map(|(i, piece)| (due(i), chunk(choice(json!({"content": piece}), Value::Null), None))),
    );
    events.push((completion.latency, chunk(choice(json!({}), json!("stop")), None)));
    if include_usage {
        events.push((completion.latency, chunk(json!([]), Some(usage(completion)))));
    }
    events.push((completion.latency, Bytes::from_static(b"data: [DONE]\n\n")));
    events
}

/// The `usage` object of a completion.
pub fn usage(completion: &Completion) -> Value {
    json!({
        "prompt_tokens": completion.prompt_tokens,
        "completion_tokens": completion.completion_tokens,
        "total_tokens": completion.prompt_tokens + completion.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0, "audio_tokens": 0, "accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0,
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shape_order_and_times_of_a_stream() {
        let envelope = Envelope { id: "mock-1".into(), created: 1, model: "m".into() };
        let ms = Duration::from_millis;
        let text = "参考编号0123456789一二三四五六七八九十".to_string();
        let completion = Completion {
            text: text.clone(),
            prompt_tokens: 3,
            completion_tokens: 5,
            latency: ms(100),
            first_token: ms(30),
        };
        let events = events(&envelope, &completion, true);
        assert_eq!(events.iter().map(|(due, _)| *due).collect::<Vec<_>>(), [30, 30, 100, 100, 100, 100].map(ms));
        let mut chunks = Vec::new();
        for (_, bytes) in &events[..events.len() - 1] {
            let event = std::str::from_utf8(bytes).unwrap();
            let json = event.strip_prefix("data: ").unwrap().strip_suffix("\n\n").unwrap();
            chunks.push(serde_json::from_str::<Value>(json).unwrap());
        }
        assert_eq!(events.last().unwrap().1, "data: [DONE]\n\n");
        assert!(chunks.iter().all(|chunk| chunk["id"] == "mock-1" && chunk["object"] == "chat.completion.chunk"));
        assert_eq!(chunks[0]["choices"][0]["delta"]["role"], "assistant");
        let streamed: String =
            chunks.iter().filter_map(|chunk| chunk["choices"][0]["delta"]["content"].as_str()).collect();
        assert_eq!(streamed, text);
        assert_eq!(chunks[3]["choices"][0]["finish_reason"], "stop");
        assert_eq!(chunks[4]["choices"], json!([]));
        assert_eq!(chunks[4]["usage"]["total_tokens"], 8);
        assert_eq!(chunks[0]["usage"], Value::Null);
        let without = super::events(&envelope, &completion, false);
        assert_eq!(without.len(), 5);
        assert!(without.iter().all(|(_, event)| !event.windows(5).any(|w| w == b"usage")));
    }
}

//! Asks one question of an OpenAI-compatible service (a gateway, or the mock itself) and reads what came back.

use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use hyper::HeaderMap;
use hyper::header::{HeaderName, HeaderValue};
use serde::Deserialize;
use serde_json::{Value, json};

use crate::http::{Answer, Client, excerpt};

/// Response header that names the model that answered; without it the `model` field counts.
const MODEL_HEADER: &str = "x-weirgate-model";
/// Response header with the gateway's own class of the question; optional.
const DOMAIN_HEADER: &str = "x-weirgate-domain";

#[derive(Clone)]
pub struct ChatClient {
    client: Client,
    url: String,
    headers: Vec<(HeaderName, HeaderValue)>,
}

/// A whole answer.
#[derive(Debug)]
pub struct Reply {
    pub text: String,
    /// The model that answered.
    pub model: String,
    pub claimed_domain: Option<String>,
    /// `None` where the answer does not tell.
    pub usage: Option<Usage>,
    pub latency: Duration,
    /// First byte of the body; for a stream, the first event.
    pub first_token: Duration,
}

#[derive(Debug, Deserialize, Clone, Copy, PartialEq)]
pub struct Usage {
    pub prompt_tokens: u64,
    pub completion_tokens: u64,
}

impl ChatClient {
    /// `base` without the `/v1`.
    pub fn new(client: Client, base: &str, headers: Vec<(HeaderName, HeaderValue)>) -> ChatClient {
        ChatClient { client, url: format!("{}/v1/chat/completions", base.trim_end_matches('/')), headers }
    }

    /// The same service with one more header.
    pub fn with_header(mut self, header: (HeaderName, HeaderValue)) -> ChatClient {
        self.headers.push(header);
        self
    }

    /// One question as one user message. Any status but 200 and any answer without text is an error.
    pub async fn ask(&self, model: &str, question: &str, stream: bool) -> Result<Reply> {
        let mut body = json!({"model": model, "messages": [{"role": "user", "content": question}]});
        if stream {
            body["stream"] = true.into();
            body["stream_options"] = json!({"include_usage": true});
        }
        let request = Client::request("POST", &self.url, &self.headers, Bytes::from(body.to_string()))?;
        let answer = self.client.send(request).await?;
        let read = if answer.status != 200 {
            Err(anyhow::anyhow!("status {}", answer.status))
        } else if stream {
            read_stream(&answer)
        } else {
            read_json(&answer)
        };
        read.with_context(|| format!("POST {}: model {model:?}: body {}", self.url, excerpt(&answer.body)))
    }
}

fn read_json(answer: &Answer) -> Result<Reply> {
    let body: Value = serde_json::from_slice(&answer.body).context("the body is not JSON")?;
    let text =
        body["choices"][0]["message"]["content"].as_str().context("field choices[0].message.content is missing")?;
    reply(answer, text.to_string(), body["model"].as_str().unwrap_or_default(), usage(&body["usage"]))
}

fn read_stream(answer: &Answer) -> Result<Reply> {
    let body = std::str::from_utf8(&answer.body).context("the stream is not UTF-8")?;
    let (mut text, mut model, mut tokens, mut is_done) = (String::new(), String::new(), None, false);
    for data in body.lines().filter_map(|line| line.strip_prefix("data:")).map(str::trim) {
        if data == "[DONE]" {
            is_done = true;
            continue;
        }
        let event: Value = serde_json::from_str(data).with_context(|| format!("event {data:?} is not JSON"))?;
        if let Some(error) = event.get("error") {
            bail!("the stream holds an error: {error}");
        }
        text.push_str(event["choices"][0]["delta"]["content"].as_str().unwrap_or_default());
        if let Some(name) = event["model"].as_str().filter(|_| model.is_empty()) {
            model = name.to_string();
        }
        if event["usage"].is_object() {
            tokens = usage(&event["usage"]);
        }
    }
    if !is_done {
        bail!("the stream ended without data: [DONE]");
    }
    reply(answer, text, &model, tokens)
}

fn reply(answer: &Answer, text: String, model: &str, usage: Option<Usage>) -> Result<Reply> {
    if text.is_empty() {
        bail!("the answer has no text");
    }
    Ok(Reply {
        text,
        model: header(&answer.headers, MODEL_HEADER).unwrap_or_else(|| model.to_string()),
        claimed_domain: header(&answer.headers, DOMAIN_HEADER),
        usage,
        latency: answer.total,
        first_token: answer.first_byte,
    })
}

fn usage(value: &Value) -> Option<Usage> {
    Usage::deserialize(value).ok()
}

fn header(headers: &HeaderMap, name: &str) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(body: &str, header: Option<&'static str>) -> Answer {
        let mut headers = HeaderMap::new();
        if let Some(model) = header {
            headers.insert(MODEL_HEADER, HeaderValue::from_static(model));
        }
        let ms = Duration::from_millis;
        Answer { status: 200, headers, body: Bytes::from(body.to_string()), first_byte: ms(1), total: ms(2) }
    }

    #[test]
    fn the_header_names_the_model_before_the_body_does() {
        let body = r#"{"model":"auto","choices":[{"message":{"content":"hi"}}],"usage":{"prompt_tokens":3,"completion_tokens":4}}"#;
        assert_eq!(read_json(&answer(body, None)).unwrap().model, "auto");
        let reply = read_json(&answer(body, Some("qwen-max"))).unwrap();
        assert_eq!((reply.model.as_str(), reply.text.as_str()), ("qwen-max", "hi"));
        assert_eq!(reply.usage, Some(Usage { prompt_tokens: 3, completion_tokens: 4 }));
        let silent = read_json(&answer(r#"{"choices":[{"message":{"content":"hi"}}]}"#, None)).unwrap();
        assert_eq!(silent.usage, None, "not told is not nothing");
        assert!(read_json(&answer(r#"{"choices":[]}"#, None)).is_err());
    }

    #[test]
    fn streams_are_put_together_and_must_end() {
        let events = [
            r#"{"model":"m","choices":[{"delta":{"role":"assistant","content":""}}]}"#,
            r#"{"model":"m","choices":[{"delta":{"content":"你"}}]}"#,
            r#"{"model":"m","choices":[{"delta":{"content":"好"}}]}"#,
            r#"{"model":"m","choices":[],"usage":{"prompt_tokens":1,"completion_tokens":2}}"#,
        ];
        let body: String = events.iter().map(|event| format!("data: {event}\r\n\r\n")).collect();
        let reply = read_stream(&answer(&format!("{body}data: [DONE]\n\n"), None)).unwrap();
        assert_eq!((reply.text.as_str(), reply.model.as_str()), ("你好", "m"));
        assert_eq!(reply.usage.unwrap().completion_tokens, 2);
        let error = |body: &str| format!("{:#}", read_stream(&answer(body, None)).unwrap_err());
        assert!(error(&body).contains("without data: [DONE]"));
        assert!(error("data: {\"error\":{\"message\":\"cut\"}}\n\n").contains("cut"));
    }
}

//! A language model behind an OpenAI-compatible API: one call, whole or streamed.

use std::collections::VecDeque;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::stream;
use reqwest::Response;
use serde_json::{Value, json};

use super::Lazy;
use super::endpoint::{Endpoint, MAX_TOLD, next};
use crate::base::secret::Secret;
use crate::llm::sse::SseParser;
use crate::rag::ports::{ChatPrompt, Complete, Piece, Pieces, Usage};

/// No answer that is wanted here is as long.
const MAX_ANSWER_BYTES: usize = 4 << 20;

pub struct ChatModel {
    model: String,
    endpoint: Endpoint,
}

impl ChatModel {
    /// `base` is the address up to and with `/v1`.
    pub fn new(model: &str, base: &str, key: Option<Secret>, patience: Duration) -> ChatModel {
        let endpoint = Endpoint {
            what: format!("model \"{model}\""),
            url: format!("{}/chat/completions", base.trim_end_matches('/')),
            key,
            key_setting: "rag.api_key",
            patience,
            client: Lazy::default(),
        };
        ChatModel { model: model.to_owned(), endpoint }
    }

    async fn ask(&self, prompt: &ChatPrompt, is_stream: bool) -> Result<Response, String> {
        let accept = if is_stream { "text/event-stream" } else { "application/json" };
        self.endpoint.post(&self.body(prompt, is_stream), accept).await.map_err(|refused| refused.told)
    }

    fn body(&self, prompt: &ChatPrompt, is_stream: bool) -> Value {
        let messages: Vec<Value> = prompt
            .messages
            .iter()
            .map(|message| json!({"role": message.role.as_str(), "content": message.text}))
            .collect();
        let mut body = json!({
            "model": self.model, "messages": messages, "temperature": prompt.temperature, "max_tokens": prompt.max_tokens,
        });
        if is_stream {
            body["stream"] = true.into();
            body["stream_options"] = json!({"include_usage": true});
        }
        body
    }
}

#[async_trait]
impl Complete for ChatModel {
    async fn complete(&self, prompt: ChatPrompt) -> Result<String, String> {
        let mut response = self.ask(&prompt, false).await?;
        let body = self.endpoint.whole(&mut response, MAX_ANSWER_BYTES).await?;
        let answer: Value = serde_json::from_slice(&body)
            .map_err(|error| format!("model \"{}\" answered what is not JSON: {error}", self.model))?;
        let text = answer["choices"][0]["message"]["content"].as_str();
        text.map(str::to_owned).ok_or_else(|| format!("model \"{}\" answered without text", self.model))
    }

    async fn stream(&self, prompt: ChatPrompt) -> Result<Pieces, String> {
        let response = self.ask(&prompt, true).await?;
        let reading = Reading {
            response,
            patience: self.endpoint.patience,
            parser: SseParser::new(MAX_ANSWER_BYTES),
            ready: VecDeque::new(),
            is_complete: false,
            is_over: false,
        };
        let model = self.model.clone();
        Ok(Box::pin(stream::unfold(reading, move |mut reading| {
            let model = model.clone();
            async move {
                let item = reading.next().await?;
                Some((item.map_err(|error| format!("model \"{model}\": {error}")), reading))
            }
        })))
    }
}

/// A streamed answer being read.
struct Reading {
    response: Response,
    patience: Duration,
    parser: SseParser,
    ready: VecDeque<Result<Piece, String>>,
    /// The model has said that it is done.
    is_complete: bool,
    is_over: bool,
}

impl Reading {
    async fn next(&mut self) -> Option<Result<Piece, String>> {
        loop {
            if let Some(item) = self.ready.pop_front() {
                self.is_over |= item.is_err();
                return Some(item);
            }
            if self.is_over {
                return None;
            }
            match next(&mut self.response, self.patience).await {
                Ok(Some(chunk)) => self.read(&chunk),
                Ok(None) => {
                    self.is_over = true;
                    if !self.is_complete {
                        return Some(Err("its stream ended before the answer did".to_owned()));
                    }
                }
                Err(error) => {
                    self.is_over = true;
                    return Some(Err(error));
                }
            }
        }
    }

    fn read(&mut self, chunk: &[u8]) {
        let (ready, is_complete) = (&mut self.ready, &mut self.is_complete);
        let pushed = self.parser.push(chunk, &mut |event| {
            if event.data == b"[DONE]" {
                *is_complete = true;
                return;
            }
            let Ok(data) = serde_json::from_slice::<Value>(event.data) else { return };
            if let Some(error) = data.get("error").filter(|error| !error.is_null()) {
                let told = error["message"].as_str().unwrap_or("its stream has an error event");
                ready.push_back(Err(told.chars().take(MAX_TOLD).collect()));
                return;
            }
            let choice = &data["choices"][0];
            *is_complete |= choice["finish_reason"].is_string();
            if let Some(text) = choice["delta"]["content"].as_str().filter(|text| !text.is_empty()) {
                ready.push_back(Ok(Piece::Text(text.to_owned())));
            }
            if let Some(usage) = data.get("usage").filter(|usage| usage.is_object()) {
                let tokens = |name: &str| usage[name].as_u64().unwrap_or(0);
                ready.push_back(Ok(Piece::Usage(Usage {
                    prompt_tokens: tokens("prompt_tokens"),
                    completion_tokens: tokens("completion_tokens"),
                })));
            }
        });
        if let Err(error) = pushed {
            self.ready.push_back(Err(error.to_string()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The texts of a stream, and what it says at its end.
    async fn read(stream: &'static str) -> (String, Result<Option<Usage>, String>) {
        let mut reading = Reading {
            response: Response::from(http::Response::new(stream)),
            patience: Duration::from_secs(10),
            parser: SseParser::new(MAX_ANSWER_BYTES),
            ready: VecDeque::new(),
            is_complete: false,
            is_over: false,
        };
        let (mut text, mut usage) = (String::new(), None);
        while let Some(item) = reading.next().await {
            match item {
                Ok(Piece::Text(piece)) => text.push_str(&piece),
                Ok(Piece::Usage(said)) => usage = Some(said),
                Err(error) => {
                    assert!(reading.next().await.is_none(), "an error is the last item");
                    return (text, Err(error));
                }
            }
        }
        (text, Ok(usage))
    }

    #[tokio::test]
    async fn a_stream_is_read_to_its_end_or_to_its_fault() {
        let complete = "data: {\"choices\":[{\"delta\":{\"role\":\"assistant\",\"content\":\"\"}}]}\n\n\
            data: {\"choices\":[{\"delta\":{\"content\":\"hel\"}}]}\n\n: ping\n\ndata: {\"choices\":[{\"delta\":{\"content\":\"lo\"},\"finish_reason\":\"stop\"}]}\n\n\
            data: {\"choices\":[],\"usage\":{\"prompt_tokens\":3,\"completion_tokens\":2}}\n\ndata: [DONE]\n\n";
        let usage = Usage { prompt_tokens: 3, completion_tokens: 2 };
        assert_eq!(read(complete).await, ("hello".to_owned(), Ok(Some(usage))));
        let (text, end) = read("data: {\"choices\":[{\"delta\":{\"content\":\"hel\"}}]}\n\n").await;
        assert_eq!(text, "hel");
        assert!(end.unwrap_err().contains("ended before"));
        let (_, end) = read("data: {\"error\":{\"message\":\"overloaded\"}}\n\ndata: {\"choices\":[]}\n\n").await;
        assert_eq!(end.unwrap_err(), "overloaded");
        assert!(read("").await.1.is_err());
        assert_eq!(read("data: nonsense\n\ndata: [DONE]\n\n").await, (String::new(), Ok(None)));
    }

    #[test]
    fn a_call_names_the_model_and_what_it_is_asked() {
        let model = ChatModel::new("m", "http://127.0.0.1:1/v1/", None, Duration::from_secs(1));
        assert_eq!(model.endpoint.url, "http://127.0.0.1:1/v1/chat/completions");
        let body = model.body(&ChatPrompt::new("s", "u"), true);
        assert_eq!((&body["stream"], &body["messages"][1]["content"]), (&json!(true), &json!("u")));
    }
}

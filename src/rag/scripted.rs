//! Scripted models and a scripted web that count their calls. Tests only.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;
use parking_lot::Mutex;

use super::ports::{ChatPrompt, Complete, Fetch, Score, WebRequest, WebResponse};

type Answering = dyn Fn(&WebRequest) -> Result<WebResponse, String> + Send + Sync;

type Scoring = dyn Fn(&str, &[&str]) -> Result<Vec<f32>, String> + Send + Sync;

/// A scorer that follows a function.
pub struct ScriptedScore {
    scoring: Box<Scoring>,
    calls: AtomicUsize,
}

impl ScriptedScore {
    pub fn new(score: impl Fn(&str, &str) -> f32 + Send + Sync + 'static) -> Self {
        Self::raw(move |query, texts| Ok(texts.iter().map(|text| score(query, text)).collect()))
    }

    pub fn raw(scoring: impl Fn(&str, &[&str]) -> Result<Vec<f32>, String> + Send + Sync + 'static) -> Self {
        ScriptedScore { scoring: Box::new(scoring), calls: AtomicUsize::new(0) }
    }

    pub fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }
}

#[async_trait]
impl Score for ScriptedScore {
    fn name(&self) -> &str {
        "scripted"
    }

    async fn score(&self, query: &str, texts: &[&str]) -> Result<Vec<f32>, String> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        (self.scoring)(query, texts)
    }
}

/// A model that gives its answers in order, then fails.
pub struct ScriptedModel {
    answers: Mutex<VecDeque<Result<String, String>>>,
    pub prompts: Mutex<Vec<ChatPrompt>>,
}

impl ScriptedModel {
    pub fn new(answers: impl IntoIterator<Item = Result<&'static str, &'static str>>) -> Self {
        let answers = answers.into_iter().map(|answer| answer.map(Into::into).map_err(Into::into)).collect();
        ScriptedModel { answers: Mutex::new(answers), prompts: Mutex::default() }
    }

    pub fn calls(&self) -> usize {
        self.prompts.lock().len()
    }
}

#[async_trait]
impl Complete for ScriptedModel {
    async fn complete(&self, prompt: ChatPrompt) -> Result<String, String> {
        self.prompts.lock().push(prompt);
        self.answers.lock().pop_front().unwrap_or_else(|| Err("the script is over".into()))
    }
}

/// A web that answers by the address.
pub struct ScriptedWeb {
    answer: Box<Answering>,
    pub requests: Mutex<Vec<WebRequest>>,
}

impl ScriptedWeb {
    pub fn new(answer: impl Fn(&WebRequest) -> Result<WebResponse, String> + Send + Sync + 'static) -> Self {
        ScriptedWeb { answer: Box::new(answer), requests: Mutex::default() }
    }

    /// The same status and body for every request.
    pub fn fixed(status: u16, body: &'static str) -> Self {
        Self::new(move |_| {
            Ok(WebResponse { status, content_type: "application/json".into(), body: body.as_bytes().to_vec() })
        })
    }

    pub fn calls(&self) -> usize {
        self.requests.lock().len()
    }
}

#[async_trait]
impl Fetch for ScriptedWeb {
    async fn fetch(&self, request: WebRequest) -> Result<WebResponse, String> {
        self.requests.lock().push(request.clone());
        (self.answer)(&request)
    }
}

//! What the RAG pipeline asks of the outside: a score for texts, a completion, a web request.
//!
//! The server implements these on its model pool, its LLM routes and its HTTP client; tests script them. Nothing here
//! does IO, and no other file of `rag` may reach a model or the network on another way.

use std::fmt;
use std::pin::Pin;
use std::time::Duration;

use async_trait::async_trait;
use futures_util::{Stream, stream};

use crate::base::secret::Secret;

/// How well texts answer a query: a cross-encoder, or term overlap where no model serves the language.
///
/// The forward pass belongs on the model pool; the implementation sends it there and waits.
#[async_trait]
pub trait Score: Send + Sync {
    /// Names the scorer and its version. Thresholds hold for one scorer only, so they are stored under this name.
    fn name(&self) -> &str;

    /// One score a text, in order; higher is better. The scale is the scorer's own.
    ///
    /// # Errors
    /// The model cannot be run; in words for the trace.
    async fn score(&self, query: &str, texts: &[&str]) -> Result<Vec<f32>, String>;
}

/// Scores with the promises checked: one per text, and what is not a number counts as the worst. No texts, no call.
///
/// # Errors
/// The scorer fails or gives another number of scores than texts.
pub async fn scores_of(scorer: &dyn Score, query: &str, texts: &[&str]) -> Result<Vec<f32>, String> {
    if texts.is_empty() {
        return Ok(Vec::new());
    }
    let mut scores = scorer.score(query, texts).await?;
    if scores.len() != texts.len() {
        let (name, given, asked) = (scorer.name(), scores.len(), texts.len());
        return Err(format!("the scorer \"{name}\" gave {given} scores for {asked} texts; its answer is not used"));
    }
    for score in &mut scores {
        if score.is_nan() {
            *score = f32::NEG_INFINITY;
        }
    }
    Ok(scores)
}

/// One turn of a conversation with a model.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    pub role: Role,
    pub text: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    System,
    User,
    Assistant,
}

impl Role {
    pub fn as_str(self) -> &'static str {
        match self {
            Role::System => "system",
            Role::User => "user",
            Role::Assistant => "assistant",
        }
    }
}

/// What a model is asked; the implementation chooses the model and the provider.
#[derive(Debug, Clone, PartialEq)]
pub struct ChatPrompt {
    pub messages: Vec<Message>,
    pub temperature: f32,
    pub max_tokens: u32,
}

impl ChatPrompt {
    /// An instruction and one text to apply it to.
    pub fn new(system: impl Into<String>, user: impl Into<String>) -> Self {
        let messages =
            vec![Message { role: Role::System, text: system.into() }, Message { role: Role::User, text: user.into() }];
        ChatPrompt { messages, temperature: 0.0, max_tokens: 512 }
    }

    #[must_use]
    pub fn with_temperature(mut self, temperature: f32) -> Self {
        self.temperature = temperature;
        self
    }

    #[must_use]
    pub fn with_max_tokens(mut self, max_tokens: u32) -> Self {
        self.max_tokens = max_tokens;
        self
    }
}

/// A part of a completion, in the order of its coming.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    Text(String),
    /// Said once, where the provider says it.
    Usage(Usage),
}

/// What a completion took, in tokens, as the provider counts them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Usage {
    pub prompt_tokens: u64,
    pub completion_tokens: u64,
}

/// A completion as it comes. An error is its last item; dropping it breaks the call off.
pub type Pieces = Pin<Box<dyn Stream<Item = Result<Piece, String>> + Send>>;

/// A language model behind one call.
#[async_trait]
pub trait Complete: Send + Sync {
    /// # Errors
    /// No model is configured, or it failed; in words for the trace.
    async fn complete(&self, prompt: ChatPrompt) -> Result<String, String>;

    /// The same, piece by piece.
    ///
    /// # Errors
    /// As [`Complete::complete`], as far as it is known before the first piece.
    async fn stream(&self, prompt: ChatPrompt) -> Result<Pieces, String> {
        let text = self.complete(prompt).await?;
        Ok(Box::pin(stream::iter([Ok(Piece::Text(text))])))
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    Get,
    Post,
}

/// A request to a search engine or for a page that it found.
#[derive(Clone, PartialEq, Eq)]
pub struct WebRequest {
    pub method: Method,
    pub url: String,
    pub headers: Vec<(String, Secret)>,
    pub body: Option<String>,
    pub timeout: Duration,
    /// More than this is cut off or refused.
    pub max_bytes: usize,
    pub reach: Reach,
}

/// Where a request may end, which depends on who named its address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// The configuration: anywhere, and no redirect, which would take a key elsewhere.
    Configured,
    /// The operator, who may name what is in the own network: anywhere, and wherever a redirect leads.
    Operator,
    /// The internet: private and local addresses are refused after the name is resolved, on every redirect too.
    Stranger,
}

impl fmt::Debug for WebRequest {
    /// Without the query, which carries the key for some engines.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let url = self.url.split('?').next().unwrap_or_default();
        f.debug_struct("WebRequest")
            .field("method", &self.method)
            .field("url", &url)
            .field("headers", &self.headers)
            .finish_non_exhaustive()
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WebResponse {
    pub status: u16,
    pub content_type: String,
    pub body: Vec<u8>,
}

/// The way to the web.
#[async_trait]
pub trait Fetch: Send + Sync {
    /// Any status is an answer.
    ///
    /// # Errors
    /// No answer came; in words for the trace, without the query of the address.
    async fn fetch(&self, request: WebRequest) -> Result<WebResponse, String>;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rag::scripted::ScriptedScore;

    #[tokio::test]
    async fn scores_are_checked() {
        let scorer = ScriptedScore::new(|_, _| f32::NAN);
        assert_eq!(scores_of(&scorer, "q", &["a"]).await, Ok(vec![f32::NEG_INFINITY]));
        assert_eq!(scores_of(&scorer, "q", &[]).await, Ok(vec![]));
        assert_eq!(scorer.calls(), 1);
        let short = ScriptedScore::raw(|_, _| Ok(vec![1.0]));
        assert!(scores_of(&short, "q", &["a", "b"]).await.unwrap_err().contains("1 scores for 2 texts"));
    }

    #[test]
    fn a_request_never_shows_its_key() {
        let request = WebRequest {
            method: Method::Get,
            url: "https://example.org/search?key=k-123&q=x".into(),
            headers: vec![("x-api-key".into(), Secret::new("k-456"))],
            body: Some("{\"api_key\":\"k-789\"}".into()),
            timeout: Duration::from_secs(1),
            max_bytes: 1,
            reach: Reach::Configured,
        };
        let shown = format!("{request:?}");
        assert!(shown.contains("https://example.org/search"), "{shown}");
        assert!(!shown.contains("k-"), "{shown}");
    }
}

//! The gateway's RAG interface as the harness uses it: knowledge bases, documents, search and ask.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use hyper::header::{AUTHORIZATION, HeaderName, HeaderValue};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

use super::set::Document;
use crate::http::{Answer, Client, excerpt};

pub struct Gateway {
    client: Client,
    base: String,
    headers: Vec<(HeaderName, HeaderValue)>,
}

#[derive(Deserialize, Debug, Clone, Default)]
#[serde(default)]
pub struct KnowledgeBase {
    pub documents: u64,
    pub chunks: u64,
    pub model: Option<String>,
}

/// What the server did with a batch of documents.
#[derive(Deserialize, Debug, Clone, Default)]
#[serde(default)]
pub struct Ingested {
    pub added: u64,
    pub updated: u64,
    pub unchanged: u64,
    pub chunks: u64,
    pub errors: Vec<Value>,
}

#[derive(Deserialize, Debug, Clone, Default)]
pub struct Found {
    pub results: Vec<Hit>,
    pub action: Option<String>,
    pub confidence: Option<f64>,
    pub context: Option<Compressed>,
    #[serde(default)]
    pub trace: Trace,
}

/// A chunk of a ranking.
#[derive(Deserialize, Debug, Clone, Default)]
pub struct Hit {
    pub document: String,
    #[serde(default)]
    pub title: Option<String>,
    #[serde(default)]
    pub header: Option<String>,
    pub text: String,
    /// What the list is ordered by.
    #[serde(default)]
    pub score: Option<f64>,
    #[serde(default)]
    pub scores: BTreeMap<String, Option<f64>>,
}

/// What compression made of the ranking.
#[derive(Deserialize, Debug, Clone, Default)]
#[serde(default)]
pub struct Compressed {
    pub text: String,
    pub tokens: Option<f64>,
    pub sentences: Vec<Sentence>,
}

#[derive(Deserialize, Debug, Clone)]
pub struct Sentence {
    pub document: String,
}

#[derive(Deserialize, Debug, Clone, Default)]
#[serde(default)]
pub struct Trace {
    pub steps: Vec<TraceStep>,
    /// What the server left out, and why.
    pub notes: Vec<String>,
    pub ms: Option<f64>,
}

#[derive(Deserialize, Debug, Clone)]
pub struct TraceStep {
    pub name: String,
    pub ms: f64,
}

impl Hit {
    /// What the last part that judges passages thinks of it: the reranker, else the second hop, which both say it in the score, else the
    /// cosine.
    pub fn judgement(&self) -> Option<f64> {
        let is_judged = ["rerank", "hop"].iter().any(|kind| self.score_of(kind).is_some());
        if is_judged { self.score.or_else(|| self.score_of("rerank")) } else { self.score_of("dense") }
    }

    /// The chunk as it would be sent: under its headings, which carry the title where there are any.
    pub fn whole_text(&self) -> String {
        let above = [&self.header, &self.title].into_iter().flatten().find(|text| !text.is_empty());
        above.map_or_else(|| self.text.clone(), |above| format!("{above}\n{}", self.text))
    }

    /// The parts of the pipeline that scored it.
    pub fn score_kinds(&self) -> impl Iterator<Item = &str> {
        self.scores.iter().filter(|(_, score)| score.is_some()).map(|(kind, _)| kind.as_str())
    }

    pub fn score_of(&self, kind: &str) -> Option<f64> {
        self.scores.get(kind).copied().flatten()
    }
}

/// An answer that is none: the status and what the server said.
#[derive(Debug, Clone)]
pub struct Refused {
    pub status: u16,
    pub message: String,
}

impl std::fmt::Display for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "status {}: {}", self.status, self.message)
    }
}

/// A search or ask that came to its end, and how long it took at the client.
pub struct Timed<T> {
    pub outcome: Result<T, Refused>,
    pub client: Duration,
}

impl Gateway {
    pub fn new(base: &str, token: Option<&str>) -> Result<Gateway> {
        let mut headers = Vec::new();
        if let Some(token) = token {
            let value = HeaderValue::try_from(format!("Bearer {token}")).context("--token is no header value")?;
            headers.push((AUTHORIZATION, value));
        }
        Ok(Gateway { client: Client::new(), base: base.trim_end_matches('/').to_string(), headers })
    }

    /// None if there is none of this name.
    pub async fn knowledge_base(&self, name: &str) -> Result<Option<KnowledgeBase>> {
        let answer = self.send("GET", name, "", Bytes::new()).await?;
        if answer.status == 404 {
            return Ok(None);
        }
        read(&answer).with_context(|| format!("GET knowledge base {name:?}")).map(Some)
    }

    pub async fn create(&self, name: &str) -> Result<()> {
        let answer = self.send("PUT", name, "", Bytes::from_static(b"{}")).await?;
        if !(200..300).contains(&answer.status) {
            bail!("PUT knowledge base {name:?}: status {}: {}", answer.status, error_text(&answer));
        }
        Ok(())
    }

    pub async fn ingest(&self, name: &str, documents: &[Document]) -> Result<(Ingested, Duration)> {
        let body = serde_json::to_vec(&json!({"documents": documents}))?;
        let answer = self.send("POST", name, "/documents", body.into()).await?;
        let ingested = read(&answer).with_context(|| format!("POST documents to knowledge base {name:?}"))?;
        Ok((ingested, answer.total))
    }

    pub async fn search(&self, name: &str, body: &Value) -> Result<Timed<Found>> {
        self.timed(name, "/search", body).await
    }

    pub async fn ask(&self, name: &str, body: &Value) -> Result<Timed<Value>> {
        self.timed(name, "/ask", body).await
    }

    /// An error only where asking further questions is pointless.
    async fn timed<T: DeserializeOwned>(&self, name: &str, path: &str, body: &Value) -> Result<Timed<T>> {
        let answer = self.send("POST", name, path, Bytes::from(body.to_string())).await?;
        let outcome = match answer.status {
            200..=299 => serde_json::from_slice(&answer.body).map_err(|error| Refused {
                status: answer.status,
                message: format!("unexpected body ({error}): {}", excerpt(&answer.body)),
            }),
            status => Err(Refused { status, message: error_text(&answer) }),
        };
        Ok(Timed { outcome, client: answer.total })
    }

    async fn send(&self, method: &str, name: &str, path: &str, body: Bytes) -> Result<Answer> {
        let url = format!("{}/v1/rag/knowledge-bases/{name}{path}", self.base);
        let answer = self.client.send(Client::request(method, &url, &self.headers, body)?).await?;
        if [401, 403].contains(&answer.status) {
            bail!("{method} {url}: status {}; is --token the admin token? {}", answer.status, error_text(&answer));
        }
        Ok(answer)
    }
}

fn read<T: DeserializeOwned>(answer: &Answer) -> Result<T> {
    if !(200..300).contains(&answer.status) {
        bail!("status {}: {}", answer.status, error_text(answer));
    }
    serde_json::from_slice(&answer.body).with_context(|| format!("unexpected body {}", excerpt(&answer.body)))
}

/// Message, code and parameter of the error object, or the beginning of the body.
fn error_text(answer: &Answer) -> String {
    let body: Value = serde_json::from_slice(&answer.body).unwrap_or_default();
    let field = |name: &str| body["error"][name].as_str().filter(|text| !text.is_empty());
    match field("message") {
        Some(message) => {
            let details: Vec<String> =
                ["code", "param"].iter().filter_map(|name| Some(format!("{name} {}", field(name)?))).collect();
            if details.is_empty() { message.to_string() } else { format!("{message} ({})", details.join(", ")) }
        }
        None => excerpt(&answer.body),
    }
}

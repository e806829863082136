//! The steps of the challenge, as a client sees them: fetch questions, ask, have the answer scored.

use std::collections::{BTreeMap, HashMap};
use std::pin::pin;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use futures_util::StreamExt;
use indicatif::{ProgressBar, ProgressStyle};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::chat::ChatClient;
use super::outcomes::Outcome;
use crate::http::Client;
use crate::mock::world::World;

/// A question of one of the two services, with its true domain where a label file knows it.
#[derive(Debug, Clone)]
pub struct Question {
    pub id: String,
    pub text: String,
    pub domain: String,
}

/// What came of one question; one line of `raw.jsonl.gz`.
#[derive(Debug, Clone, Serialize)]
pub struct Row {
    /// `train`, `curve-<rows>`, `verify`, `stream` or `baseline`.
    pub phase: String,
    pub id: String,
    pub domain: String,
    /// The model that answered, by the world's name if it has one; the model asked for where it failed.
    pub model: String,
    /// What the mock's `/v1/evaluate` said: 0..1, or -1. `None` where there was no answer.
    pub evaluated: Option<f64>,
    pub latency_ms: f64,
    pub first_token_ms: f64,
    /// US dollars, from the world's prices and the answer's usage; `None` where one of them is missing, 0 where there is no answer.
    pub cost: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claimed_domain: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Row {
    /// Whether the true domain is known.
    pub fn is_labelled(&self) -> bool {
        !self.domain.is_empty()
    }

    /// Score for the means: no answer, and an answer no model gave, count as 0. So does a cost that is not known; whoever shows
    /// costs has to look.
    pub fn outcome(&self) -> Outcome {
        let score = self.evaluated.unwrap_or_default().max(0.0);
        Outcome { score, cost: self.cost.unwrap_or_default(), latency_ms: self.latency_ms }
    }
}

/// One of the two mock services.
pub struct Service {
    client: Client,
    base: String,
    pub questions: Vec<Question>,
}

/// What `GET /stats` of our mock tells; other mocks have none.
#[derive(Deserialize)]
pub struct Stats {
    pub calls: BTreeMap<String, u64>,
    pub questions_by_n_models: BTreeMap<usize, u64>,
}

impl Service {
    /// Fetches `GET /questions`; `labels` maps a question's text to its domain.
    pub async fn connect(client: Client, base: &str, labels: &HashMap<String, String>) -> Result<Service> {
        #[derive(Deserialize)]
        struct Listed {
            questions: Vec<Item>,
        }
        #[derive(Deserialize)]
        struct Item {
            id: serde_json::Value,
            question: String,
        }
        let base = base.trim_end_matches('/').to_string();
        let listed: Listed = client
            .json("GET", &format!("{base}/questions"), &[], Bytes::new())
            .await
            .context("the mock's questions; start it with `weirgate-eval mock --train … --verify …`")?;
        if listed.questions.is_empty() {
            bail!("GET {base}/questions: field questions is empty");
        }
        let question = |item: Item| Question {
            id: item.id.as_str().map_or_else(|| item.id.to_string(), str::to_string),
            domain: labels.get(item.question.trim()).cloned().unwrap_or_default(),
            text: item.question,
        };
        let questions = listed.questions.into_iter().map(question).collect();
        Ok(Service { client, base, questions })
    }

    pub fn chat(&self) -> ChatClient {
        ChatClient::new(self.client.clone(), &self.base, Vec::new())
    }

    /// Names of the models, from `GET /v1/models`.
    pub async fn models(&self) -> Result<Vec<String>> {
        #[derive(Deserialize)]
        struct Listed {
            data: Vec<Model>,
        }
        #[derive(Deserialize)]
        struct Model {
            id: String,
        }
        let listed: Listed = self.client.json("GET", &format!("{}/v1/models", self.base), &[], Bytes::new()).await?;
        Ok(listed.data.into_iter().map(|model| model.id).collect())
    }

    /// The score of an answer: 0..1, or -1 where the question is unknown or no model gave that answer.
    pub async fn evaluate(&self, question: &str, answer: &str) -> Result<f64> {
        #[derive(Deserialize)]
        struct Evaluated {
            score: f64,
        }
        let url = format!("{}/v1/evaluate", self.base);
        let body = Bytes::from(json!({"question": question, "answer": answer}).to_string());
        let evaluated: Evaluated = self.client.json("POST", &url, &[], body).await?;
        if evaluated.score != -1.0 && !(0.0..=1.0).contains(&evaluated.score) {
            bail!("POST {url}: field score = {}: must be in 0..1, or -1", evaluated.score);
        }
        Ok(evaluated.score)
    }

    /// `None` where the mock has no `/stats`.
    pub async fn stats(&self) -> Option<Stats> {
        self.client.json("GET", &format!("{}/stats", self.base), &[], Bytes::new()).await.ok()
    }

    pub async fn reset_stats(&self) -> Result<()> {
        let request = Client::request("POST", &format!("{}/stats/reset", self.base), &[], Bytes::new())?;
        self.client.send(request).await.map(drop)
    }

    /// Asks `target` each of `questions` for an answer of `model` and has it scored here. Rows come in the questions' order; a
    /// failed question is a row with an error.
    ///
    /// # Errors
    /// An evaluation failed, or many questions and no success: one by one they would take hours to fail.
    pub async fn run(&self, ask: &Ask<'_>, questions: &[Question]) -> Result<Vec<Row>> {
        let progress = progress_bar(&ask.phase, questions.len());
        let patience = (3 * ask.concurrency).max(10);
        let asked = futures_util::stream::iter(questions).map(|question| self.ask_one(ask, question));
        let mut answered = pin!(asked.buffered(ask.concurrency));
        let mut rows: Vec<Row> = Vec::with_capacity(questions.len());
        while let Some(row) = answered.next().await {
            rows.push(row?);
            progress.inc(1);
            let first = rows.first().and_then(|row| row.error.as_ref()).filter(|_| rows.len() == patience);
            if let Some(first) = first.filter(|_| rows.iter().all(|row| row.error.is_some())) {
                bail!(
                    "{}: not one of the first {patience} questions was answered; the first: {first}. See the log of what was asked; \
                     if it only needs longer, raise --timeout-secs",
                    ask.phase
                );
            }
        }
        progress.finish_and_clear();
        Ok(rows)
    }

    async fn ask_one(&self, ask: &Ask<'_>, question: &Question) -> Result<Row> {
        let mut row = Row {
            phase: ask.phase.clone(),
            id: question.id.clone(),
            domain: question.domain.clone(),
            model: ask.model.to_string(),
            evaluated: None,
            latency_ms: 0.0,
            first_token_ms: 0.0,
            cost: Some(0.0),
            claimed_domain: None,
            error: None,
        };
        let start = Instant::now();
        match ask.target.ask(ask.model, &question.text, ask.stream).await {
            Ok(reply) => {
                let known = ask.world.named(&reply.model);
                row.evaluated = Some(self.evaluate(&question.text, &reply.text).await?);
                row.latency_ms = reply.latency.as_secs_f64() * 1e3;
                row.first_token_ms = reply.first_token.as_secs_f64() * 1e3;
                let of = known.zip(reply.usage);
                row.cost = of.map(|(model, usage)| model.cost(usage.prompt_tokens, usage.completion_tokens));
                row.claimed_domain = reply.claimed_domain;
                row.model = known.map_or(reply.model, |model| model.name.clone());
            }
            Err(error) => {
                row.latency_ms = start.elapsed().as_secs_f64() * 1e3;
                row.error = Some(format!("{error:#}"));
            }
        }
        Ok(row)
    }
}

/// How questions are asked in one phase.
pub struct Ask<'a> {
    pub phase: String,
    pub target: &'a ChatClient,
    pub model: &'a str,
    pub stream: bool,
    pub concurrency: usize,
    pub world: &'a World,
}

fn progress_bar(phase: &str, n: usize) -> ProgressBar {
    // A template that does not parse would only cost the looks.
    let style = ProgressStyle::with_template("{msg:>14} {bar:32} {pos}/{len} {eta}");
    ProgressBar::new(n as u64)
        .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        .with_message(phase.to_string())
}

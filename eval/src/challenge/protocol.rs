//! The steps of the challenge, as a client sees them: fetch questions, ask, have the answer scored, trigger the training.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use bytes::Bytes;
use futures_util::StreamExt;
use hyper::header::{AUTHORIZATION, HeaderName, HeaderValue};
use indicatif::{ProgressBar, ProgressStyle};
use serde::{Deserialize, Serialize};
use serde_json::json;

use super::chat::ChatClient;
use super::outcomes::Outcome;
use crate::http::{Client, excerpt};
use crate::mock::world::World;
use crate::shell;

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
    /// The model that answered; the model asked for where it failed.
    pub model: String,
    /// What the mock's `/v1/evaluate` said: 0..1, or -1. `None` where there was no answer.
    pub evaluated: Option<f64>,
    pub latency_ms: f64,
    pub first_token_ms: f64,
    /// US dollars, from the world's prices and the answer's usage.
    pub cost: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub claimed_domain: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

impl Row {
    /// Score for the means: no answer, and an answer no model gave, count as 0.
    pub fn outcome(&self) -> Outcome {
        let score = self.evaluated.unwrap_or_default().max(0.0);
        Outcome { score, cost: self.cost, latency_ms: self.latency_ms }
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
    /// failed question is a row with an error, a failed evaluation ends the run.
    pub async fn run(&self, ask: &Ask<'_>, questions: &[Question]) -> Result<Vec<Row>> {
        let progress = progress_bar(&ask.phase, questions.len());
        let rows = futures_util::stream::iter(questions)
            .map(async |question| {
                let row = self.ask_one(ask, question).await;
                progress.inc(1);
                row
            })
            .buffered(ask.concurrency)
            .collect::<Vec<_>>()
            .await;
        progress.finish_and_clear();
        rows.into_iter().collect()
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
            cost: 0.0,
            claimed_domain: None,
            error: None,
        };
        let start = Instant::now();
        match ask.target.ask(ask.model, &question.text, ask.stream).await {
            Ok(reply) => {
                let prices = ask.world.model(&reply.model);
                row.evaluated = Some(self.evaluate(&question.text, &reply.text).await?);
                row.latency_ms = reply.latency.as_secs_f64() * 1e3;
                row.first_token_ms = reply.first_token.as_secs_f64() * 1e3;
                row.cost = prices.map_or(0.0, |model| model.cost(reply.prompt_tokens, reply.completion_tokens));
                row.claimed_domain = reply.claimed_domain;
                row.model = reply.model;
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

/// How the gateway is told to train; nothing set means that it does so by itself.
pub struct Trainer {
    pub client: Client,
    pub url: Option<String>,
    pub token: Option<String>,
    pub command: Option<String>,
    pub ready_url: Option<String>,
    pub timeout: Duration,
}

impl Trainer {
    pub fn can_trigger(&self) -> bool {
        self.url.is_some() || self.command.is_some()
    }

    /// Runs the command, posts to the URL, then waits until the ready URL answers 200. Returns what they printed.
    pub async fn train(&self) -> Result<String> {
        let mut said = String::new();
        if let Some(command) = &self.command {
            said += &shell::run("--train-command", command).await?;
        }
        if let Some(url) = &self.url {
            said += &self.post(url).await?;
        }
        if let Some(url) = &self.ready_url {
            self.wait(url).await?;
        }
        Ok(said)
    }

    async fn post(&self, url: &str) -> Result<String> {
        let headers = self.authorization()?;
        let request = Client::request("POST", url, &headers, Bytes::from_static(b"{}"))?;
        let answer = tokio::time::timeout(self.timeout, self.client.send(request))
            .await
            .context("--train-timeout-secs is over")??;
        if !(200..300).contains(&answer.status) {
            bail!("POST {url} (--train-url): status {}, body {}", answer.status, excerpt(&answer.body));
        }
        Ok(excerpt(&answer.body))
    }

    async fn wait(&self, url: &str) -> Result<()> {
        let deadline = Instant::now() + self.timeout;
        loop {
            let answer = self.client.send(Client::request("GET", url, &self.authorization()?, Bytes::new())?).await?;
            if answer.status == 200 {
                return Ok(());
            }
            if Instant::now() > deadline {
                bail!("GET {url} (--ready-url): still status {} after {:?}", answer.status, self.timeout);
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    fn authorization(&self) -> Result<Vec<(HeaderName, HeaderValue)>> {
        let Some(token) = &self.token else { return Ok(Vec::new()) };
        let value = HeaderValue::try_from(format!("Bearer {token}")).context("--train-token is no header value")?;
        Ok(vec![(AUTHORIZATION, value)])
    }
}

fn progress_bar(phase: &str, n: usize) -> ProgressBar {
    // A template that does not parse would only cost the looks.
    let style = ProgressStyle::with_template("{msg:>14} {bar:32} {pos}/{len} {eta}");
    ProgressBar::new(n as u64)
        .with_style(style.unwrap_or_else(|_| ProgressStyle::default_bar()))
        .with_message(phase.to_string())
}

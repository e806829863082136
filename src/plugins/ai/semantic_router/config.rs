//! What a `semantic-router` is configured with. Field names are camelCase, as in Higress' AI plugins.

use std::sync::Arc;
use std::time::Duration;

use http::HeaderName;

use crate::learning::live::Setup;
use crate::llm::cost::Price;
use crate::plugins::config::{FieldProblem, Fields};
use crate::plugins::registry::Scope;
use crate::routing::{Candidate, Policy};

/// A checked configuration.
#[derive(Debug, Clone)]
pub struct Config {
    /// Name under which this router learns. Routes that name the same router share what it knows.
    pub router: String,
    /// Request models that are routed; any other model is passed on and recorded.
    pub models: Vec<String>,
    pub candidates: Vec<Candidate>,
    pub baseline: String,
    pub policy: Policy,
    /// How many next best candidates are tried when the chosen one fails before its first byte.
    pub fallbacks: usize,
    pub shadow: Shadow,
    pub training: Training,
    pub evaluate: Option<Evaluate>,
    pub learn: Learn,
    pub embedding: Embedding,
}

/// When a prompt is embedded for a decision. Only versions that were trained with embeddings have a use for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Embedding {
    Off,
    /// When the best two candidates are close without it.
    Auto,
    Always,
}

/// Calls of the baseline beside the answer the client gets.
#[derive(Debug, Clone, PartialEq)]
pub struct Shadow {
    /// Share of routed requests, 0 to 1.
    pub rate: f64,
    pub max_concurrent: usize,
    pub budget_usd_per_day: f64,
    pub timeout: Duration,
}

/// Fan-out to all candidates when a client asks for it by header.
#[derive(Debug, Clone)]
pub struct Training {
    pub enabled: bool,
    pub header: HeaderName,
    /// Consumers who may use it; empty means everybody.
    pub consumers: Vec<String>,
    pub timeout: Duration,
}

/// A service that scores answers: `POST {question, answer}` gives `{score}` in 0..1, or a negative score for "unknown".
#[derive(Debug, Clone, PartialEq)]
pub struct Evaluate {
    pub url: String,
    /// Share of served answers that are scored, 0 to 1. Training mode scores every answer.
    pub rate: f64,
    pub timeout: Duration,
}

/// How the router is trained; when is set in `config.toml`.
#[derive(Debug, Clone, PartialEq)]
pub struct Learn {
    /// Fewer scored exchanges than this are not trained on.
    pub min_rows: u64,
    pub folds: usize,
    pub seed: u64,
}

impl Config {
    /// Reads a scope and every problem in it.
    pub fn read(scope: &Scope<'_>) -> (Config, Vec<FieldProblem>) {
        let value = scope.overlaid();
        let mut fields = Fields::of(&value, "");
        let candidates = read_candidates(&mut fields);
        if candidates.is_empty() && fields.is_usable() {
            fields.problem("candidates", "must name at least one model");
        }
        let baseline = fields.string("baseline").unwrap_or_default().to_owned();
        if !candidates.iter().any(|candidate| candidate.model == baseline) && fields.is_usable() {
            let known: Vec<&str> = candidates.iter().map(|candidate| candidate.model.as_str()).collect();
            fields.problem(
                "baseline",
                format!("must be one of the candidates ({}), found \"{baseline}\"", known.join(", ")),
            );
        }
        let config = Config {
            router: fields.string("router").unwrap_or("default").to_owned(),
            models: fields.strings("models").unwrap_or_else(|| vec!["auto".into(), "higress/auto".into()]),
            candidates,
            baseline,
            policy: read_policy(&mut fields),
            fallbacks: usize::try_from(fields.count("fallbacks").unwrap_or(2)).unwrap_or(usize::MAX),
            shadow: read_shadow(&mut fields),
            training: read_training(&mut fields),
            evaluate: read_evaluate(&mut fields),
            learn: read_learn(&mut fields),
            embedding: read_embedding(&mut fields),
        };
        (config, fields.finish())
    }

    pub fn candidate(&self, model: &str) -> Option<&Candidate> {
        self.candidates.iter().find(|candidate| candidate.model == model)
    }

    /// Price of a model; unknown models cost nothing that we know of.
    pub fn price(&self, model: &str) -> Option<Price> {
        self.candidate(model).map(|candidate| Price { input: candidate.price_in, output: candidate.price_out })
    }

    pub fn is_large(&self, model: &str) -> bool {
        self.candidate(model).is_some_and(|candidate| candidate.tags.iter().any(|tag| tag == "large"))
    }

    /// What the learner has to know.
    pub fn setup(&self) -> Setup {
        Setup {
            candidates: self.candidates.clone(),
            baseline: self.baseline.clone(),
            policy: self.policy,
            min_rows: self.learn.min_rows,
            folds: self.learn.folds,
            seed: self.learn.seed,
            embeds: self.embedding != Embedding::Off,
        }
    }

    /// The service a candidate is reached at; `None` is the route's own destination.
    pub fn service(&self, model: &str) -> Option<Arc<str>> {
        let provider = &self.candidate(model)?.provider;
        (!provider.is_empty()).then(|| Arc::from(provider.as_str()))
    }
}

fn read_candidates(fields: &mut Fields<'_>) -> Vec<Candidate> {
    let mut candidates: Vec<Candidate> = Vec::new();
    for (index, value) in fields.list("candidates").unwrap_or_default().iter().enumerate() {
        let mut one = Fields::of(value, &format!("candidates[{index}]"));
        let model = one.string("model").unwrap_or_default().to_owned();
        if model.is_empty() {
            one.problem("model", "must name the model to ask for");
        }
        if candidates.iter().any(|candidate| candidate.model == model) {
            one.problem("model", format!("\"{model}\" is listed twice"));
        }
        let mut candidate = Candidate {
            model,
            provider: one.string("provider").unwrap_or_default().to_owned(),
            price_in: 0.0,
            price_out: 0.0,
            tags: one.strings("tags").unwrap_or_default(),
        };
        if let Some(value) = one.object("price") {
            let mut price = Fields::of(value, &one.at("price"));
            candidate.price_in = price.amount("input").unwrap_or(0.0);
            candidate.price_out = price.amount("output").unwrap_or(0.0);
            one.problems.extend(price.finish());
        }
        candidates.push(candidate);
        fields.problems.extend(one.finish());
    }
    candidates
}

fn read_policy(fields: &mut Fields<'_>) -> Policy {
    let mut policy = Policy::default();
    if let Some(value) = fields.object("weights") {
        let mut weights = Fields::of(value, "weights");
        policy.lambda_cost = weights.amount("cost").unwrap_or(policy.lambda_cost);
        policy.lambda_latency = weights.amount("latency").unwrap_or(policy.lambda_latency);
        fields.problems.extend(weights.finish());
    }
    if let Some(value) = fields.object("limits") {
        let mut limits = Fields::of(value, "limits");
        policy.max_cost_usd = limits.amount("maxCostUsd");
        policy.max_latency_ms = limits.amount("maxLatencyMs");
        policy.min_score = limits.amount("minScore");
        fields.problems.extend(limits.finish());
    }
    policy
}

fn read_shadow(fields: &mut Fields<'_>) -> Shadow {
    let mut shadow =
        Shadow { rate: 0.0, max_concurrent: 4, budget_usd_per_day: 1.0, timeout: Duration::from_secs(120) };
    if let Some(value) = fields.object("shadow") {
        let mut own = Fields::of(value, "shadow");
        shadow.rate = share(&mut own, "rate", shadow.rate);
        shadow.max_concurrent = own.count("maxConcurrent").and_then(|n| usize::try_from(n).ok()).unwrap_or(4);
        shadow.budget_usd_per_day = own.amount("budgetUsdPerDay").unwrap_or(shadow.budget_usd_per_day);
        shadow.timeout = own.count("timeoutMs").map_or(shadow.timeout, Duration::from_millis);
        fields.problems.extend(own.finish());
    }
    shadow
}

fn read_training(fields: &mut Fields<'_>) -> Training {
    let mut training = Training {
        enabled: false,
        header: HeaderName::from_static("x-training-mode"),
        consumers: Vec::new(),
        timeout: Duration::from_secs(120),
    };
    if let Some(value) = fields.object("training") {
        let mut own = Fields::of(value, "training");
        training.enabled = own.boolean("enabled").unwrap_or(true);
        if let Some(name) = own.string("header") {
            match HeaderName::try_from(name) {
                Ok(header) => training.header = header,
                Err(_) => own.problem("header", format!("\"{name}\" is not a header name")),
            }
        }
        training.consumers = own.strings("consumers").unwrap_or_default();
        training.timeout = own.count("timeoutMs").map_or(training.timeout, Duration::from_millis);
        fields.problems.extend(own.finish());
    }
    training
}

fn read_evaluate(fields: &mut Fields<'_>) -> Option<Evaluate> {
    let value = fields.object("evaluate")?;
    let mut own = Fields::of(value, "evaluate");
    let url = own.string("url").unwrap_or_default().to_owned();
    if !url.parse::<http::Uri>().is_ok_and(|uri| uri.host().is_some() && uri.scheme().is_some()) {
        own.problem("url", format!("\"{url}\" is not a URL; write for example http://127.0.0.1:9000/v1/evaluate"));
    }
    let evaluate = Evaluate {
        url,
        rate: share(&mut own, "rate", 1.0),
        timeout: own.count("timeoutMs").map_or(Duration::from_secs(10), Duration::from_millis),
    };
    fields.problems.extend(own.finish());
    Some(evaluate)
}

fn read_learn(fields: &mut Fields<'_>) -> Learn {
    let mut learn = Learn { min_rows: 50, folds: 5, seed: 1 };
    if let Some(value) = fields.object("learn") {
        let mut own = Fields::of(value, "learn");
        learn.min_rows = own.count("minRows").unwrap_or(learn.min_rows);
        learn.folds = own.count("folds").and_then(|n| usize::try_from(n).ok()).unwrap_or(learn.folds);
        if !(2..=20).contains(&learn.folds) {
            own.problem("folds", "must be between 2 and 20");
        }
        learn.seed = own.count("seed").unwrap_or(learn.seed);
        fields.problems.extend(own.finish());
    }
    learn
}

fn read_embedding(fields: &mut Fields<'_>) -> Embedding {
    match fields.string("embedding") {
        None | Some("off") => Embedding::Off,
        Some("auto") => Embedding::Auto,
        Some("always") => Embedding::Always,
        Some(other) => {
            fields.problem("embedding", format!("must be off, auto or always, found \"{other}\""));
            Embedding::Off
        }
    }
}

/// A member between 0 and 1.
fn share(fields: &mut Fields<'_>, key: &'static str, default: f64) -> f64 {
    let value = fields.amount(key).unwrap_or(default);
    if value > 1.0 {
        fields.problem(key, format!("must be between 0 and 1, found {value}"));
    }
    value
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_whole_configuration_is_read() {
        let value = json!({
            "router": "main",
            "candidates": [
                {"model": "big", "provider": "llm-a.internal.dns", "price": {"input": 10, "output": 30}, "tags": ["large"]},
                {"model": "small"},
            ],
            "baseline": "big",
            "weights": {"cost": 0.1, "latency": 0.05},
            "limits": {"maxLatencyMs": 2000},
            "shadow": {"rate": 0.1, "budgetUsdPerDay": 2},
            "training": {"consumers": ["lab"]},
            "evaluate": {"url": "http://127.0.0.1:9000/v1/evaluate", "rate": 0.5},
            "learn": {"minRows": 500},
            "embedding": "auto",
        });
        let (config, problems) = Config::read(&Scope { global: Some(&value), rule: None, n_rules: 0 });
        assert_eq!(problems, []);
        assert_eq!((config.candidates.len(), config.is_large("big"), config.is_large("small")), (2, true, false));
        assert_eq!(config.service("big").as_deref(), Some("llm-a.internal.dns"));
        assert_eq!(config.service("small"), None);
        assert!(config.training.enabled);
        assert_eq!(config.learn.min_rows, 500);
        assert!(config.setup().embeds);
    }

    #[test]
    fn problems_name_their_field() {
        let value = json!({
            "candidates": [{"model": "a"}, {"model": "a"}, {"price": {"input": -1}}],
            "baseline": "zzz",
            "shadow": {"rate": 2},
            "evaluate": {"url": "nowhere"},
            "learn": {"folds": 1},
            "embedding": "sometimes",
        });
        let (_, problems) = Config::read(&Scope { global: Some(&value), rule: None, n_rules: 0 });
        let named: Vec<&str> = problems.iter().map(|problem| problem.field.as_str()).collect();
        assert_eq!(
            named,
            [
                "candidates[1].model",
                "candidates[2].model",
                "candidates[2].price.input",
                "shadow.rate",
                "evaluate.url",
                "learn.folds",
                "embedding"
            ]
        );
    }
}

//! One mock service: the questions it knows, the world it draws from and the calls it counted. No HTTP here.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, bail};
use parking_lot::Mutex;
use serde::Serialize;

use super::draw;
use super::questions::Question;
use super::world::{Model, World};

pub struct Service {
    pub world: Arc<World>,
    pub questions: Vec<Question>,
    by_text: HashMap<String, usize>,
    time_scale: f64,
    calls: Mutex<Calls>,
}

/// What one model says to one prompt, and how long it takes for it.
pub struct Completion {
    pub text: String,
    pub prompt_tokens: u64,
    pub completion_tokens: u64,
    pub latency: Duration,
    pub first_token: Duration,
}

#[derive(Default)]
struct Calls {
    by_model: BTreeMap<String, u64>,
    models_of_question: HashMap<usize, BTreeSet<String>>,
    n_unknown_questions: u64,
    n_evaluations: u64,
}

/// Answer of `GET /stats`.
#[derive(Debug, Serialize)]
pub struct Stats {
    /// Chat calls by model.
    pub calls: BTreeMap<String, u64>,
    /// How many known questions were put to exactly n different models, by n.
    pub questions_by_n_models: BTreeMap<usize, u64>,
    /// Chat calls whose last user message is none of the questions.
    pub unknown_questions: u64,
    pub evaluations: u64,
}

impl Service {
    /// Errors name the question whose domain the world lacks.
    pub fn new(world: Arc<World>, questions: Vec<Question>, time_scale: f64) -> Result<Service> {
        for question in &questions {
            if !world.domains().any(|domain| domain == question.domain) {
                bail!(
                    "question {}: field domain = {:?}, but the world only has {}; add it to each model's competence",
                    question.id,
                    question.domain,
                    world.domains().collect::<Vec<_>>().join(", ")
                );
            }
        }
        let by_text = questions.iter().enumerate().map(|(i, q)| (q.question.trim().to_string(), i)).collect();
        Ok(Service { world, questions, by_text, time_scale, calls: Mutex::default() })
    }

    /// The answer of `model` to `prompt`; the call is counted. Prompts that are no known question are answered too.
    pub fn complete(&self, model: &Model, prompt: &str) -> Completion {
        let known = self.by_text.get(prompt.trim()).copied();
        {
            let mut calls = self.calls.lock();
            *calls.by_model.entry(model.name.clone()).or_default() += 1;
            match known {
                Some(question) => {
                    calls.models_of_question.entry(question).or_default().insert(model.name.clone());
                }
                None => calls.n_unknown_questions += 1,
            }
        }
        let question_id = known.map_or(prompt, |i| self.questions[i].id.as_str());
        let text = draw::answer(&self.world, question_id, prompt, model);
        let completion_tokens = draw::estimate_tokens(&text);
        let latency_ms = draw::latency_ms(&self.world, question_id, model, completion_tokens) * self.time_scale;
        Completion {
            prompt_tokens: draw::estimate_tokens(prompt) + 4,
            completion_tokens,
            text,
            latency: Duration::from_secs_f64(latency_ms / 1e3),
            first_token: Duration::from_secs_f64(latency_ms / 1e3 * model.first_token_share),
        }
    }

    /// The score of `answer` in 0..1; -1 for an unknown question or an answer that no model gives.
    pub fn evaluate(&self, question: &str, answer: &str) -> f64 {
        self.calls.lock().n_evaluations += 1;
        let Some(question) = self.by_text.get(question.trim()).map(|i| &self.questions[*i]) else { return -1.0 };
        let given = |model: &&Model| draw::answer(&self.world, &question.id, &question.question, model) == answer;
        let Some(model) = self.world.models.iter().find(given) else { return -1.0 };
        draw::score(&self.world, &question.id, &question.domain, model).unwrap_or(-1.0)
    }

    pub fn stats(&self) -> Stats {
        let calls = self.calls.lock();
        let mut questions_by_n_models = BTreeMap::new();
        for models in calls.models_of_question.values() {
            *questions_by_n_models.entry(models.len()).or_default() += 1;
        }
        Stats {
            calls: calls.by_model.clone(),
            questions_by_n_models,
            unknown_questions: calls.n_unknown_questions,
            evaluations: calls.n_evaluations,
        }
    }

    pub fn reset_stats(&self) {
        *self.calls.lock() = Calls::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service() -> Service {
        let question = |id: &str, text: &str, domain: &str| Question {
            id: id.into(),
            question: text.into(),
            domain: domain.into(),
        };
        let questions = vec![question("q1", "1+1=?", "math"), question("q2", "写一首诗", "writing")];
        Service::new(Arc::new(World::load(None).unwrap()), questions, 1.0).unwrap()
    }

    #[test]
    fn evaluate_scores_what_a_model_gave_and_nothing_else() {
        let service = service();
        let model = service.world.models[1].clone();
        let answer = service.complete(&model, "1+1=?").text;
        let score = service.evaluate("1+1=?", &answer);
        assert!((0.0..=1.0).contains(&score));
        assert_eq!(service.evaluate("1+1=?", &answer), score);
        assert_eq!(service.evaluate(" 1+1=?\n", &answer), score, "white space around a question does not matter");
        assert_eq!(service.evaluate("2+2=?", &answer), -1.0, "an unknown question");
        assert_eq!(service.evaluate("1+1=?", "2"), -1.0, "an answer no model gave");
        assert_eq!(service.evaluate("写一首诗", &answer), -1.0, "an answer to another question");
        let stray = service.complete(&model, "hello").text;
        assert_eq!(service.evaluate("hello", &stray), -1.0, "an answer to a prompt that is no question");
    }

    #[test]
    fn stats_count_models_per_question() {
        let service = service();
        let models = service.world.models.clone();
        for (model, prompt) in [(0, "1+1=?"), (0, "1+1=?"), (1, "1+1=?"), (1, "写一首诗"), (1, "hello")] {
            service.complete(&models[model], prompt);
        }
        let stats = service.stats();
        assert_eq!(stats.calls, BTreeMap::from([("qwen-max".into(), 2), ("qwen-math-32b".into(), 3)]));
        assert_eq!(stats.questions_by_n_models, BTreeMap::from([(1, 1), (2, 1)]));
        assert_eq!(stats.unknown_questions, 1);
        service.reset_stats();
        assert!(service.stats().calls.is_empty());
    }

    #[test]
    fn a_domain_the_world_lacks_is_named() {
        let question = Question { id: "q9".into(), question: "?".into(), domain: "law".into() };
        let error = Service::new(Arc::new(World::load(None).unwrap()), vec![question], 1.0).err().unwrap().to_string();
        assert!(error.contains("question q9: field domain = \"law\""), "{error}");
    }
}

//! The world: a TOML file that says which model answers what how well, how fast and at what price. `mock` draws answers from
//! it, `challenge` reads only the prices. It knows nothing of HTTP and never draws anything itself (see `draw`).

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

/// The world used when no file is named.
const DEFAULT_WORLD: &str = include_str!("../../worlds/default.toml");

/// A checked world: every model covers the same domains and every number is in its range.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct World {
    /// Everything is drawn from this seed, the question and the model.
    pub seed: u64,
    pub score: ScoreBells,
    pub answer: AnswerLength,
    pub models: Vec<Model>,
}

/// How right and wrong answers are scored.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ScoreBells {
    pub right: Bell,
    pub wrong: Bell,
    /// 0: each model's luck is its own; 1: all models find the same questions hard.
    pub difficulty_share: f64,
}

/// A normal distribution, cut to 0..1 where a score is drawn from it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Bell {
    pub mean: f64,
    pub sd: f64,
}

/// Length of an answer in tokens; `spread` is the standard deviation as a share of the mean.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AnswerLength {
    pub mean_tokens: f64,
    pub spread: f64,
}

/// One model of the world.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Model {
    pub name: String,
    /// US dollars per million prompt tokens.
    pub price_in: f64,
    /// US dollars per million completion tokens.
    pub price_out: f64,
    /// Mean time of a whole answer of mean length, in milliseconds.
    pub latency_ms: f64,
    /// Standard deviation of the latency as a share of its mean; the distribution is log-normal.
    pub jitter: f64,
    /// Share of the latency before the first token of a stream.
    pub first_token_share: f64,
    /// How fast tokens beyond the mean length come.
    pub tokens_per_second: f64,
    /// Probability of a right answer by domain.
    pub competence: BTreeMap<String, f64>,
}

impl World {
    /// Reads `path`, or the default world where there is none.
    pub fn load(path: Option<&Path>) -> Result<World> {
        let Some(path) = path else { return World::parse(DEFAULT_WORLD).context("the built-in default world") };
        let text = std::fs::read_to_string(path).with_context(|| {
            format!("world file {}: cannot be read; pass one of eval/worlds/*.toml", path.display())
        })?;
        World::parse(&text).with_context(|| format!("world file {}", path.display()))
    }

    /// Parses and checks; all problems are reported at once, each with its field.
    pub fn parse(text: &str) -> Result<World> {
        let world: World = toml::from_str(text)?;
        let problems = world.problems();
        if !problems.is_empty() {
            bail!("{} problem(s):\n  {}", problems.len(), problems.join("\n  "));
        }
        Ok(world)
    }

    /// The domains every model has a competence for.
    pub fn domains(&self) -> impl Iterator<Item = &str> {
        self.models.iter().take(1).flat_map(|model| model.competence.keys().map(String::as_str))
    }

    pub fn model(&self, name: &str) -> Option<&Model> {
        self.models.iter().find(|model| model.name == name)
    }

    /// The model that an answer names: by its name, or by what stands behind the last `/` of it, as gateways put the provider
    /// before it (`openai/qwen-max`).
    pub fn named(&self, name: &str) -> Option<&Model> {
        self.model(name).or_else(|| self.model(name.rsplit('/').next()?))
    }

    fn problems(&self) -> Vec<String> {
        let mut problems = Vec::new();
        let mut check = |field: String, value: f64, low: f64, high: f64, why: &str| {
            if !(low..=high).contains(&value) {
                problems.push(format!("{field} = {value}: must be between {low} and {high} ({why})"));
            }
        };
        for (name, bell) in [("right", self.score.right), ("wrong", self.score.wrong)] {
            check(format!("score.{name}.mean"), bell.mean, 0.0, 1.0, "scores are 0..1");
            check(format!("score.{name}.sd"), bell.sd, 0.0, 1.0, "scores are 0..1");
        }
        check("score.difficulty_share".into(), self.score.difficulty_share, 0.0, 1.0, "a share");
        check("answer.mean_tokens".into(), self.answer.mean_tokens, 8.0, 10_000.0, "tokens of an answer");
        check("answer.spread".into(), self.answer.spread, 0.0, 1.0, "a share of mean_tokens");
        for model in &self.models {
            let field = |name: &str| format!("models[{}].{name}", model.name);
            check(field("price_in"), model.price_in, 0.0, 10_000.0, "US dollars per million tokens");
            check(field("price_out"), model.price_out, 0.0, 10_000.0, "US dollars per million tokens");
            check(field("latency_ms"), model.latency_ms, 0.0, 600_000.0, "milliseconds");
            check(field("jitter"), model.jitter, 0.0, 2.0, "a share of latency_ms");
            check(field("first_token_share"), model.first_token_share, 0.0, 1.0, "a share of latency_ms");
            check(field("tokens_per_second"), model.tokens_per_second, 1.0, 1e6, "tokens per second");
            for (domain, p) in &model.competence {
                check(field(&format!("competence.{domain}")), *p, 0.0, 1.0, "a probability");
            }
        }
        let mut names = BTreeSet::new();
        for model in &self.models {
            if model.name.trim().is_empty() || !names.insert(&model.name) {
                problems.push(format!("models[{}].name: names must be unique and not empty", model.name));
            }
            if model.competence.is_empty() || !model.competence.keys().eq(self.models[0].competence.keys()) {
                problems.push(format!(
                    "models[{}].competence: every model needs a probability for the same domains as {}: {}",
                    model.name,
                    self.models[0].name,
                    self.models[0].competence.keys().cloned().collect::<Vec<_>>().join(", ")
                ));
            }
        }
        if self.models.is_empty() {
            problems.push("models: a world needs at least one [[models]] table".into());
        }
        problems
    }
}

impl Model {
    /// Cost of one call in US dollars.
    pub fn cost(&self, prompt_tokens: u64, completion_tokens: u64) -> f64 {
        (self.price_in * prompt_tokens as f64 + self.price_out * completion_tokens as f64) / 1e6
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(text: &str) -> String {
        format!("{:#}", World::parse(text).unwrap_err())
    }

    #[test]
    fn the_default_world_has_the_thirteen_models_of_the_challenge() {
        let world = World::load(None).unwrap();
        let mut expected = vec!["qwen-max".to_string()];
        for family in ["math", "code", "medicine", "writing"] {
            expected.extend(["32b", "7b", "3b"].map(|size| format!("qwen-{family}-{size}")));
        }
        assert_eq!(world.models.iter().map(|m| m.name.clone()).collect::<Vec<_>>(), expected);
        assert_eq!(world.domains().collect::<Vec<_>>(), ["code", "generic", "math", "medicine", "writing"]);
        assert_eq!(world.model("qwen-max").unwrap().latency_ms, 500.0);
    }

    #[test]
    fn a_provider_before_the_name_does_not_hide_the_model() {
        let world = World::load(None).unwrap();
        let named = |name: &str| world.named(name).map(|model| model.name.as_str());
        assert_eq!(named("openai/qwen-max"), Some("qwen-max"));
        assert_eq!((named("qwen-max"), named("auto"), named("qwen-max/")), (Some("qwen-max"), None, None));
    }

    #[test]
    fn every_shipped_world_parses() {
        let mut n_worlds = 0;
        for entry in std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/worlds")).unwrap() {
            World::load(Some(&entry.unwrap().path())).unwrap();
            n_worlds += 1;
        }
        assert!(n_worlds >= 3);
    }

    #[test]
    fn all_problems_are_named_with_field_and_value() {
        let text = DEFAULT_WORLD
            .replace("medicine = 0.95", "medicine = 1.95")
            .replace("difficulty_share = 0.5", "difficulty_share = -1.0")
            .replace("\"qwen-code-3b\"", "\"qwen-max\"")
            .replace("{ math = 0.26, code = 0.62, ", "{ ");
        let error = error(&text);
        for part in [
            "4 problem(s)",
            "models[qwen-medicine-7b].competence.medicine = 1.95: must be between 0 and 1",
            "score.difficulty_share = -1",
            "models[qwen-max].name: names must be unique",
            "models[qwen-max].competence: every model needs",
        ] {
            assert!(error.contains(part), "{part} not in {error}");
        }
    }

    #[test]
    fn unknown_and_missing_fields_are_named() {
        assert!(error(&DEFAULT_WORLD.replace("spread = 0.3", "spreed = 0.3")).contains("spreed"));
        assert!(error(&DEFAULT_WORLD.replacen("price_in = 1.60", "", 1)).contains("price_in"));
        let missing = World::load(Some(Path::new("nowhere.toml"))).unwrap_err();
        assert!(format!("{missing:#}").contains("nowhere.toml"));
    }

    #[test]
    fn cost_is_per_million_tokens() {
        let world = World::load(None).unwrap();
        assert!((world.model("qwen-max").unwrap().cost(1_000_000, 500_000) - (1.6 + 3.2)).abs() < 1e-12);
    }
}

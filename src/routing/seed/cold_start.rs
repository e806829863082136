//! Predictions for candidates without a single outcome: from the seed's domain, the candidates' tags and their prices.
//! All of them are guesses and say so (`n = 0`); they order candidates sensibly until outcomes arrive.

use super::{Domain, DomainProbabilities, N_DOMAINS, Seed};
use crate::routing::features::{self, FeatureVector};
use crate::routing::{Candidate, Prediction, Router};

/// A domain less likely than this is not trusted, and the baseline answers.
const SURE: f32 = 0.55;

/// Output tokens assumed for the cost of an answer.
const OUTPUT_TOKENS: f64 = 400.0;

/// Latency assumed for the smallest and the largest candidate, ms.
const LATENCY_MS: (f32, f32) = (300.0, 1200.0);

/// What is known of the candidates before there are outcomes.
#[derive(Debug, Clone, PartialEq)]
pub struct ColdStart {
    known: Vec<Known>,
    baseline: String,
}

/// Of one candidate.
#[derive(Debug, Clone, PartialEq)]
struct Known {
    model: String,
    price_in: f64,
    price_out: f64,
    /// By [`Domain`]; `None`: it is good at nothing in particular.
    specialities: Option<[bool; N_DOMAINS]>,
    /// 0 (smallest of the candidates) to 1 (largest).
    size: f32,
}

impl ColdStart {
    pub fn new(candidates: &[Candidate], baseline: &str) -> ColdStart {
        let known = candidates.iter().zip(sizes(candidates)).map(|(candidate, size)| Known {
            model: candidate.model.clone(),
            price_in: candidate.price_in,
            price_out: candidate.price_out,
            specialities: specialities(candidate),
            size,
        });
        ColdStart { known: known.collect(), baseline: baseline.to_owned() }
    }

    /// What to expect of each candidate for a prompt: what the router has learned, guesses for what it knows nothing of, given
    /// what [`Seed::classify`] says of the prompt. Empty without both.
    pub fn predict(
        &self,
        router: Option<&Router>,
        domains: Option<&DomainProbabilities>,
        features: &FeatureVector,
        embedding: Option<&[f32]>,
    ) -> Vec<Prediction> {
        let trained = router.map(|router| router.predict(features, embedding));
        match (trained, domains) {
            (Some(trained), Some(domains)) => self.complete(trained, domains, features),
            (Some(trained), None) => trained,
            (None, Some(domains)) => self.guess(domains, features),
            (None, None) => Vec::new(),
        }
    }

    /// In the order of the candidates. One tagged with the likely domain's name is expected to be good at it, more so if it is
    /// large (by size tag, else by price); when the domain is unsure or `generic`, the baseline is.
    fn guess(&self, domains: &DomainProbabilities, features: &FeatureVector) -> Vec<Prediction> {
        let (domain, probability) = Seed::likeliest(domains);
        let unsure = domain == Domain::Generic || probability < SURE;
        let predictions = self.known.iter().map(|known| Prediction {
            model: known.model.clone(),
            score: known.expected_score(domains),
            latency_ms: LATENCY_MS.0 + known.size * (LATENCY_MS.1 - LATENCY_MS.0),
            cost_usd: known.expected_cost(features) as f32,
            confidence: probability,
            n: 0,
        });
        let mut predictions: Vec<Prediction> = predictions.collect();
        if unsure {
            let best = predictions.iter().map(|p| p.score).fold(0.0, f32::max);
            if let Some(baseline) = predictions.iter_mut().find(|p| p.model == self.baseline) {
                baseline.score = (best + 0.1).min(1.0);
            }
        }
        predictions
    }

    /// Adds guesses for the candidates that `trained` says nothing about, and drops predictions for models that are no
    /// longer candidates. Guesses are put on the scale of the trained predictions through the baseline, and stay under the
    /// best trained score: a model without outcomes earns traffic by outcomes (shadow calls, training mode), not by its tags.
    fn complete(
        &self,
        mut trained: Vec<Prediction>,
        domains: &DomainProbabilities,
        features: &FeatureVector,
    ) -> Vec<Prediction> {
        trained.retain(|prediction| self.known.iter().any(|known| known.model == prediction.model));
        if trained.len() == self.known.len() {
            return trained;
        }
        let guesses = self.guess(domains, features);
        if trained.is_empty() {
            return guesses;
        }
        let score_of =
            |predictions: &[Prediction]| predictions.iter().find(|p| p.model == self.baseline).map(|p| p.score);
        let shift = score_of(&trained).zip(score_of(&guesses)).map_or(0.0, |(trained, guessed)| trained - guessed);
        let best = trained.iter().map(|p| p.score).fold(0.0, f32::max);
        for mut guess in guesses {
            if !trained.iter().any(|p| p.model == guess.model) {
                guess.score = (guess.score + shift).clamp(0.0, (best - 0.02).max(0.0));
                trained.push(guess);
            }
        }
        trained
    }
}

impl Known {
    /// Expected over the domains: specialists are good in their own and poor elsewhere, generalists fair everywhere.
    fn expected_score(&self, domains: &DomainProbabilities) -> f32 {
        let size = self.size;
        let Some(specialities) = &self.specialities else { return 0.5 + 0.15 * size };
        let within = |(is_own, probability): (&bool, &f32)| {
            probability * if *is_own { 0.6 + 0.25 * size } else { 0.2 + 0.2 * size }
        };
        specialities.iter().zip(domains).map(within).sum()
    }

    /// Price of the prompt as it is and of an assumed answer, USD.
    fn expected_cost(&self, features: &FeatureVector) -> f64 {
        let prompt_tokens = f64::from(features::n_chars(features)) / 3.0;
        (prompt_tokens * self.price_in + OUTPUT_TOKENS * self.price_out) * 1e-6
    }
}

fn specialities(candidate: &Candidate) -> Option<[bool; N_DOMAINS]> {
    let is_own = |domain: Domain| candidate.tags.iter().any(|tag| tag.eq_ignore_ascii_case(domain.name()));
    let own = Domain::ALL.map(is_own);
    own.contains(&true).then_some(own)
}

/// 0 (smallest) to 1 (largest) for each candidate: the logarithm of its parameter count where a tag such as `32b` gives
/// it or a size word stands for one, else of its price.
fn sizes(candidates: &[Candidate]) -> Vec<f32> {
    let tagged: Vec<Option<f64>> = candidates.iter().map(|c| c.tags.iter().find_map(|tag| parameters(tag))).collect();
    let measure: Vec<f64> = if tagged.iter().all(Option::is_some) {
        tagged.into_iter().flatten().collect()
    } else {
        candidates.iter().map(|c| c.price_in + c.price_out).collect()
    };
    let logs: Vec<f64> = measure.into_iter().map(|value| value.max(1e-6).ln()).collect();
    let least = logs.iter().copied().fold(f64::INFINITY, f64::min);
    let most = logs.iter().copied().fold(f64::NEG_INFINITY, f64::max);
    let range = most - least;
    logs.into_iter().map(|log| if range > 1e-9 { ((log - least) / range) as f32 } else { 0.5 }).collect()
}

/// Billions of parameters named by a tag.
fn parameters(tag: &str) -> Option<f64> {
    const NAMED: [(&str, f64); 5] = [("small", 4.0), ("mini", 4.0), ("medium", 14.0), ("large", 70.0), ("max", 70.0)];
    let named = NAMED.into_iter().find(|(name, _)| tag.eq_ignore_ascii_case(name)).map(|(_, size)| size);
    named.or_else(|| tag.strip_suffix(['b', 'B'])?.parse().ok().filter(|b: &f64| b.is_finite() && *b > 0.0))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::routing::features::{Prompt, extract};
    use crate::routing::{Policy, decide};

    fn candidate(model: &str, price: f64, tags: &[&str]) -> Candidate {
        let tags = tags.iter().map(|&tag| tag.to_owned()).collect();
        Candidate { model: model.to_owned(), provider: "p".to_owned(), price_in: price, price_out: price * 3.0, tags }
    }

    fn pool() -> Vec<Candidate> {
        let mut pool = vec![candidate("max", 2.0, &["generic", "large"])];
        for domain in ["math", "code", "medicine", "writing"] {
            for (size, price) in [("32b", 0.7), ("7b", 0.2), ("3b", 0.1)] {
                pool.push(candidate(&format!("{domain}-{size}"), price, &[domain, size]));
            }
        }
        pool
    }

    fn route(text: &str) -> String {
        let seed = Seed::shipped().unwrap();
        let policy = Policy { lambda_latency: 0.0, ..Policy::default() };
        let features = extract(&Prompt::single(text));
        let guesses = ColdStart::new(&pool(), "max").guess(&seed.classify(&features), &features);
        decide(&guesses, &policy, "max").model
    }

    #[test]
    fn the_specialist_of_the_domain_is_preferred_and_the_baseline_when_unsure() {
        assert_eq!(route("已知等差数列的前三项之和为12，求通项公式，并证明数列单调。"), "math-32b");
        assert_eq!(route("Write a Python function that reverses a linked list recursively."), "code-32b");
        assert_eq!(route("高血压患者感冒发烧应该吃什么药？有没有副作用？"), "medicine-32b");
        assert_eq!(route("请写一首关于秋天的诗，语言优美，情感真挚。"), "writing-32b");
        assert_eq!(route("推荐几个北京适合周末旅游的景点"), "max");
        assert_eq!(route(""), "max");
    }

    #[test]
    fn unseen_candidates_join_without_taking_the_lead() {
        let seed = Seed::shipped().unwrap();
        let features = extract(&Prompt::single("求函数的导数"));
        let known = |model: &str, score| Prediction {
            model: model.to_owned(),
            score,
            latency_ms: 100.0,
            cost_usd: 0.001,
            confidence: 0.9,
            n: 50,
        };
        let trained = vec![known("max", 0.7), known("math-7b", 0.8), known("retired", 0.99)];
        let all = ColdStart::new(&pool(), "max").complete(trained, &seed.classify(&features), &features);
        assert_eq!(all.len(), pool().len());
        assert!(all.iter().all(|p| p.model != "retired"));
        let best = all.iter().max_by(|a, b| a.score.total_cmp(&b.score)).unwrap();
        assert_eq!(best.model, "math-7b");
        assert!(all.iter().filter(|p| p.n == 0).all(|p| (0.0..0.79).contains(&p.score)));
    }

    #[test]
    fn sizes_come_from_tags_or_prices() {
        let tagged = [candidate("a", 9.0, &["3b"]), candidate("b", 1.0, &["large"])];
        assert_eq!(sizes(&tagged), [0.0, 1.0]);
        let priced = [candidate("a", 9.0, &[]), candidate("b", 1.0, &["large"])];
        assert_eq!(sizes(&priced), [1.0, 0.0]);
        assert_eq!(sizes(&priced[..1]), [0.5]);
    }
}

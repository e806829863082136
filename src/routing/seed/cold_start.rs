//! Predictions for candidates without a single outcome: from the seed's domain, the candidates' tags and their prices.
//! All of them are guesses and say so (`n = 0`); they order candidates sensibly until outcomes arrive.

use super::{Domain, DomainProbabilities, Seed};
use crate::routing::features::{self, FeatureVector};
use crate::routing::{Candidate, Prediction};

/// A domain less likely than this is not trusted, and the baseline answers.
const SURE: f32 = 0.55;

/// Output tokens assumed for the cost of an answer.
const OUTPUT_TOKENS: f64 = 400.0;

/// Latency assumed for the smallest and the largest candidate, ms.
const LATENCY_MS: (f32, f32) = (300.0, 1200.0);

/// Guessed predictions for `candidates`, in their order, given what [`Seed::classify`] says of the prompt. A candidate tagged with the likely domain's name is expected
/// to be good at it, more so if it is large (by size tag, else by price); when the domain is unsure or `generic`, the
/// candidate named `baseline` is.
pub fn cold_start(
    domains: &DomainProbabilities,
    features: &FeatureVector,
    candidates: &[Candidate],
    baseline: &str,
) -> Vec<Prediction> {
    let (domain, probability) = Seed::likeliest(domains);
    let unsure = domain == Domain::Generic || probability < SURE;
    let sizes = sizes(candidates);
    let mut predictions: Vec<Prediction> = candidates
        .iter()
        .zip(sizes)
        .map(|(candidate, size)| Prediction {
            model: candidate.model.clone(),
            score: expected_score(candidate, size, domains),
            latency_ms: LATENCY_MS.0 + size * (LATENCY_MS.1 - LATENCY_MS.0),
            cost_usd: expected_cost(candidate, features) as f32,
            confidence: probability,
            n: 0,
        })
        .collect();
    if unsure {
        let best = predictions.iter().map(|p| p.score).fold(0.0, f32::max);
        if let Some(known) = predictions.iter_mut().find(|p| p.model == baseline) {
            known.score = (best + 0.1).min(1.0);
        }
    }
    predictions
}

/// Adds guesses for the `candidates` that `trained` says nothing about, and drops predictions for models that are no
/// longer candidates. Guesses are put on the scale of the trained predictions through the baseline, and stay under the
/// best trained score: a model without outcomes earns traffic by outcomes (shadow calls, training mode), not by its tags.
pub fn with_unseen(
    trained: Vec<Prediction>,
    domains: &DomainProbabilities,
    features: &FeatureVector,
    candidates: &[Candidate],
    baseline: &str,
) -> Vec<Prediction> {
    let mut known: Vec<Prediction> =
        trained.into_iter().filter(|p| candidates.iter().any(|c| c.model == p.model)).collect();
    if known.len() == candidates.len() {
        return known;
    }
    let guesses = cold_start(domains, features, candidates, baseline);
    if known.is_empty() {
        return guesses;
    }
    let score_of = |predictions: &[Prediction]| predictions.iter().find(|p| p.model == baseline).map(|p| p.score);
    let shift = score_of(&known).zip(score_of(&guesses)).map_or(0.0, |(trained, guessed)| trained - guessed);
    let best = known.iter().map(|p| p.score).fold(0.0, f32::max);
    for mut guess in guesses {
        if !known.iter().any(|p| p.model == guess.model) {
            guess.score = (guess.score + shift).clamp(0.0, (best - 0.02).max(0.0));
            known.push(guess);
        }
    }
    known
}

/// Expected over the domains: specialists are good in their own and poor elsewhere, generalists fair everywhere.
fn expected_score(candidate: &Candidate, size: f32, probabilities: &[f32]) -> f32 {
    let is_specialist = |domain: &Domain| candidate.tags.iter().any(|tag| tag.eq_ignore_ascii_case(domain.name()));
    if !Domain::ALL.iter().any(is_specialist) {
        return 0.5 + 0.15 * size;
    }
    let in_domain = |(domain, probability): (&Domain, &f32)| {
        probability * if is_specialist(domain) { 0.6 + 0.25 * size } else { 0.2 + 0.2 * size }
    };
    Domain::ALL.iter().zip(probabilities).map(in_domain).sum()
}

/// Price of the prompt as it is and of an assumed answer, USD.
fn expected_cost(candidate: &Candidate, features: &FeatureVector) -> f64 {
    let prompt_tokens = f64::from(features::n_chars(features)) / 3.0;
    (prompt_tokens * candidate.price_in + OUTPUT_TOKENS * candidate.price_out) * 1e-6
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
        decide(&cold_start(&seed.classify(&features), &features, &pool(), "max"), &policy, "max").model
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
        let all = with_unseen(trained, &seed.classify(&features), &features, &pool(), "max");
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

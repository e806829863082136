//! What each feature is worth. A question of one passage and one that needs several are not ranked alike: links are worth
//! much to the second and harm the first, so that part of the weights counts as far as the question looks like the second.
//!
//! Fitted by eval/train/hop_weights.py on HotpotQA and MuSiQue (100 training questions each), Natural Questions (335, QED)
//! and SQuAD (600 of its dev questions); never on questions that the ladder asks.

use super::features::{Features, N_FEATURES, NAMES};

/// Feature; what it is worth to every question, and what more to one that needs several passages.
const WEIGHTS: [(&str, f32, f32); N_FEATURES] = [
    ("cos", 8.70, 0.33),
    ("cos_gap", 0.00, 0.21),
    ("own", 4.71, -1.18),
    ("own_gap", 0.00, -0.79),
    ("best", 1.04, -0.71),
    ("lex", -1.11, -4.40),
    ("cov", -0.54, -2.09),
    ("tcov", 0.00, 5.12),
    ("tfrac", 0.00, -0.82),
    ("tinq", 0.00, 2.70),
    ("bi", -0.34, 5.39),
    ("sent", 3.69, 1.28),
    ("out", 0.00, 1.45),
    ("amb", 0.00, -0.05),
    ("isum", 0.00, -0.21),
    ("link", 0.00, 1.11),
    ("back", 0.00, -1.83),
    ("lgain", 0.00, 5.01),
    ("bgain", 0.00, 10.48),
    ("gain1", 0.00, 10.09),
    ("lboth", 0.00, 4.86),
    ("bboth", 0.00, 3.80),
    ("sboth", 0.00, -2.37),
    ("msent", 0.00, 4.38),
    ("nlink", 0.00, -4.46),
    ("nback", 0.00, -2.72),
    ("lneed", 0.00, 0.85),
    ("bneed", 0.00, 1.41),
];

/// What makes a question look like one that needs several passages: its length (logarithm of its words), what the best passage
/// leaves uncovered, and the highest of some features among all passages.
const BIAS: f32 = -12.13;
const WORDS: f32 = 5.81;
const NEED: f32 = -0.27;
const HIGHEST: [(&str, f32); 4] = [("cos", -2.28), ("lgain", 0.56), ("gain1", 2.72), ("sent", -1.29)];

/// How much the question looks like one that needs several passages, from 0 to 1.
pub fn several(n_words: usize, need: f32, features: &[Features]) -> f32 {
    let highest = |name: &str| {
        let at = NAMES.iter().position(|known| *known == name);
        let values = features.iter().filter_map(|features| features.get(at?).copied());
        values.fold(f32::MIN, f32::max)
    };
    let passages: f32 = HIGHEST.iter().map(|(name, weight)| weight * highest(name)).sum();
    sigmoid(BIAS + WORDS * (n_words.max(1) as f32).ln() + NEED * need + passages)
}

/// From the weighted sum to how often passages of such a sum were right in training: constant, sum, `several`.
const CHANCE: [f32; 3] = [-10.42, 0.857, 1.74];

/// How likely it is that a passage with these features is one that the question needs, from 0 to 1.
pub fn score(features: &Features, several: f32) -> f32 {
    let sum: f32 =
        features.iter().zip(&WEIGHTS).map(|(feature, (_, one, more))| feature * (one + several * more)).sum();
    sigmoid(CHANCE[0] + CHANCE[1] * sum + CHANCE[2] * several)
}

fn sigmoid(z: f32) -> f32 {
    1.0 / (1.0 + (-z).exp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_weight_stands_beside_its_feature() {
        assert_eq!(WEIGHTS.map(|(name, ..)| name), NAMES);
        assert!(HIGHEST.iter().all(|(name, _)| NAMES.contains(name)));
    }

    #[test]
    fn long_questions_look_like_more_than_one_passage() {
        let short = several(6, 0.3, &[[0.5; N_FEATURES]]);
        let long = several(20, 0.3, &[[0.5; N_FEATURES]]);
        assert!(short < 0.5 && long > 0.5, "{short} {long}");
    }
}

//! Thresholds of CRAG and a confidence in 0 to 1, fitted to labelled scores, with the errors that they will make.
//!
//! Called by `weirgate rag calibrate` on pairs of one scorer and one knowledge base. A pair may be a document (score,
//! whether it answers) or a question (best score, whether any document answers); errors are then of documents or of
//! questions. Deterministic: the same pairs in any order give the same numbers.

use serde::{Deserialize, Serialize};

use super::Thresholds;

/// Fewer of one kind say nothing about an error rate.
const MIN_OF_A_KIND: usize = 10;

/// What the thresholds are to achieve.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Goal {
    pub upper: UpperGoal,
    /// The lower threshold calls at most this share of the relevant ones wrong.
    pub max_lost: f64,
}

#[derive(Debug, Clone, Copy, PartialEq)]
pub enum UpperGoal {
    /// At least this share of those above the threshold are relevant.
    Precision(f64),
    /// The best harmonic mean of precision and recall.
    BestF1,
}

impl Default for Goal {
    fn default() -> Self {
        Goal { upper: UpperGoal::Precision(0.95), max_lost: 0.05 }
    }
}

/// What came out, with what it was measured on.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Calibration {
    pub upper: Threshold,
    pub lower: Threshold,
    /// Whether the goal of the upper threshold was reached; if not, it is the most precise one there is.
    pub upper_goal_reached: bool,
    /// Of those that the lower threshold calls Incorrect, the share that is irrelevant.
    pub incorrect_precision: f64,
    /// Of the irrelevant ones, the share that the lower threshold calls Incorrect.
    pub incorrect_recall: f64,
    /// Area under the ROC curve; ties count half.
    pub auc: f64,
    /// Best mean of the two kinds' accuracy over all thresholds, on these pairs, and where it is.
    pub balanced_accuracy: f64,
    pub balanced_at: f64,
    pub confidence: Platt,
    pub n_relevant: usize,
    pub n_irrelevant: usize,
}

impl Calibration {
    pub fn thresholds(&self) -> Thresholds {
        Thresholds { upper: self.upper.value, lower: self.lower.value }
    }
}

/// A threshold and what happens to those at or above it.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Threshold {
    pub value: f64,
    pub precision: f64,
    pub recall: f64,
    /// Share of the irrelevant ones at or above it.
    pub false_positive_rate: f64,
    /// Share of the relevant ones below it.
    pub false_negative_rate: f64,
}

/// A score as the probability of being relevant, for the mix of relevant and irrelevant that it was fitted on.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
pub struct Platt {
    pub slope: f64,
    pub intercept: f64,
}

impl Platt {
    /// In 0 to 1; 0 for what is not a number.
    pub fn confidence(&self, score: f32) -> f64 {
        let value = sigmoid(self.slope * f64::from(score) + self.intercept);
        if value.is_nan() { 0.0 } else { value }
    }
}

/// Why nothing was fitted.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum CalibrateError {
    #[error(
        "{n_relevant} relevant and {n_irrelevant} irrelevant pairs: at least {needed_relevant} relevant and \
         {needed_irrelevant} irrelevant ones are needed for error rates that mean something; add labelled pairs"
    )]
    TooFew { n_relevant: usize, n_irrelevant: usize, needed_relevant: usize, needed_irrelevant: usize },
    #[error("pair {0} (from 0) has a score that is not a finite number; the scorer is broken or the file is")]
    NotFinite(usize),
    #[error("{name} is {value}: it must be above 0 and below 1")]
    Goal { name: &'static str, value: f64 },
    #[error(
        "the scores do not tell relevant from irrelevant (ROC-AUC {auc:.3}, chance is 0.5): no threshold would help; \
         check the labels, or use another scorer for this language"
    )]
    NoSignal { auc: f64 },
}

/// # Errors
/// Too few pairs of a kind, scores that are no numbers or tell nothing, a goal outside 0 to 1.
pub fn calibrate(pairs: &[(f32, bool)], goal: &Goal) -> Result<Calibration, CalibrateError> {
    check(pairs, goal)?;
    let cuts = Cuts::new(pairs);
    let auc = cuts.auc();
    if auc <= 0.5 {
        return Err(CalibrateError::NoSignal { auc });
    }
    let confidence = platt(pairs);
    let balanced = cuts.best(|cut| cuts.balanced_accuracy(cut));
    let (mut upper, upper_goal_reached) = cuts.upper(goal.upper);
    let mut lower = cuts.lower(goal.max_lost);
    if cuts.at(lower).value > cuts.at(upper).value {
        // The kinds lie so far apart that both goals hold between the two: one threshold does, the best of those.
        let reaches = |cut: usize| match goal.upper {
            UpperGoal::Precision(target) => cuts.precision(cut) >= target,
            UpperGoal::BestF1 => cut == upper,
        };
        // Cuts go from the highest value down, so the lower threshold has the smaller index here.
        let between = (lower..=upper).filter(|&cut| reaches(cut));
        let both =
            between.max_by(|&a, &b| cuts.balanced_accuracy(a).total_cmp(&cuts.balanced_accuracy(b)).then(b.cmp(&a)));
        let both = both.unwrap_or(upper);
        (upper, lower) = (both, both);
    }
    let (n_below, n_irrelevant_below) = cuts.below(lower);
    Ok(Calibration {
        upper: cuts.at(upper),
        lower: cuts.at(lower),
        upper_goal_reached,
        incorrect_precision: share(n_irrelevant_below, n_below),
        incorrect_recall: share(n_irrelevant_below, cuts.n_irrelevant),
        auc,
        balanced_accuracy: cuts.balanced_accuracy(balanced),
        balanced_at: cuts.at(balanced).value,
        confidence,
        n_relevant: cuts.n_relevant,
        n_irrelevant: cuts.n_irrelevant,
    })
}

fn check(pairs: &[(f32, bool)], goal: &Goal) -> Result<(), CalibrateError> {
    let mut limits = vec![("the share of relevant ones that may be lost", goal.max_lost)];
    if let UpperGoal::Precision(target) = goal.upper {
        limits.push(("the precision of the upper threshold", target));
    }
    for (name, value) in limits {
        if !(value > 0.0 && value < 1.0) {
            return Err(CalibrateError::Goal { name, value });
        }
    }
    if let Some(n) = pairs.iter().position(|(score, _)| !score.is_finite()) {
        return Err(CalibrateError::NotFinite(n));
    }
    // One of the relevant ones must be a smaller share than may be lost, or the goal could not be seen to hold.
    let needed_relevant = ((1.0 / goal.max_lost).ceil().min(1e6) as usize).max(MIN_OF_A_KIND);
    let n_relevant = pairs.iter().filter(|(_, relevant)| *relevant).count();
    let n_irrelevant = pairs.len() - n_relevant;
    if n_relevant < needed_relevant || n_irrelevant < MIN_OF_A_KIND {
        let needed_irrelevant = MIN_OF_A_KIND;
        return Err(CalibrateError::TooFew { n_relevant, n_irrelevant, needed_relevant, needed_irrelevant });
    }
    Ok(())
}

/// Every way to cut the sorted scores in two, from the highest threshold down.
struct Cuts {
    /// Threshold, relevant and irrelevant ones at or above it. The last has everything above it.
    cuts: Vec<(f64, usize, usize)>,
    n_relevant: usize,
    n_irrelevant: usize,
}

impl Cuts {
    fn new(pairs: &[(f32, bool)]) -> Self {
        let mut sorted = pairs.to_vec();
        sorted.sort_by(|a, b| b.0.total_cmp(&a.0));
        let (mut n_relevant, mut n_irrelevant) = (0, 0);
        let mut cuts = Vec::new();
        let mut rest = sorted.iter().copied().peekable();
        while let Some((score, relevant)) = rest.next() {
            if relevant {
                n_relevant += 1;
            } else {
                n_irrelevant += 1;
            }
            match rest.peek() {
                // Equal scores cannot be cut apart; -0 and 0 are equal too.
                Some((next, _)) if *next == score => {}
                // Half way to the next: as far as can be from both.
                Some((next, _)) => cuts.push(((f64::from(score) + f64::from(*next)) / 2.0, n_relevant, n_irrelevant)),
                None => cuts.push((f64::from(score), n_relevant, n_irrelevant)),
            }
        }
        Cuts { cuts, n_relevant, n_irrelevant }
    }

    fn counts(&self, cut: usize) -> (f64, usize, usize) {
        self.cuts.get(cut).copied().unwrap_or((f64::INFINITY, 0, 0))
    }

    fn precision(&self, cut: usize) -> f64 {
        let (_, relevant, irrelevant) = self.counts(cut);
        share(relevant, relevant + irrelevant)
    }

    fn balanced_accuracy(&self, cut: usize) -> f64 {
        let (_, relevant, irrelevant) = self.counts(cut);
        f64::midpoint(share(relevant, self.n_relevant), 1.0 - share(irrelevant, self.n_irrelevant))
    }

    fn at(&self, cut: usize) -> Threshold {
        let (value, relevant, irrelevant) = self.counts(cut);
        let recall = share(relevant, self.n_relevant);
        Threshold {
            value,
            precision: self.precision(cut),
            recall,
            false_positive_rate: share(irrelevant, self.n_irrelevant),
            false_negative_rate: share(self.n_relevant - relevant, self.n_relevant),
        }
    }

    /// How many lie below a cut, and how many of them are irrelevant.
    fn below(&self, cut: usize) -> (usize, usize) {
        let (_, relevant, irrelevant) = self.counts(cut);
        let n_irrelevant = self.n_irrelevant - irrelevant;
        (self.n_relevant - relevant + n_irrelevant, n_irrelevant)
    }

    /// The cut with the greatest value; the higher threshold of equals.
    fn best(&self, value: impl Fn(usize) -> f64) -> usize {
        let better = |&a: &usize, &b: &usize| value(a).total_cmp(&value(b)).then(b.cmp(&a));
        (0..self.cuts.len()).max_by(better).unwrap_or(0)
    }

    fn upper(&self, goal: UpperGoal) -> (usize, bool) {
        match goal {
            UpperGoal::BestF1 => {
                let f1 = |cut| {
                    let (_, relevant, irrelevant) = self.counts(cut);
                    share(2 * relevant, relevant + irrelevant + self.n_relevant)
                };
                (self.best(f1), true)
            }
            // The lowest threshold that is precise enough finds the most.
            UpperGoal::Precision(target) => match (0..self.cuts.len()).rfind(|&cut| self.precision(cut) >= target) {
                Some(cut) => (cut, true),
                None => (self.best(|cut| self.precision(cut)), false),
            },
        }
    }

    /// The highest threshold that loses few enough.
    fn lower(&self, max_lost: f64) -> usize {
        let lost = |cut: usize| share(self.n_relevant - self.counts(cut).1, self.n_relevant);
        (0..self.cuts.len()).find(|&cut| lost(cut) <= max_lost).unwrap_or(self.cuts.len().saturating_sub(1))
    }

    fn auc(&self) -> f64 {
        let mut above = 0;
        let mut doubled: u128 = 0;
        let mut before = 0;
        for &(_, relevant, irrelevant) in &self.cuts {
            let here = (irrelevant - before) as u128;
            doubled += here * ((above + relevant) as u128);
            (above, before) = (relevant, irrelevant);
        }
        doubled as f64 / (2.0 * self.n_relevant as f64 * self.n_irrelevant as f64)
    }
}

fn share(part: usize, whole: usize) -> f64 {
    if whole == 0 { 0.0 } else { part as f64 / whole as f64 }
}

fn sigmoid(x: f64) -> f64 {
    if x >= 0.0 {
        1.0 / (1.0 + (-x).exp())
    } else {
        let e = x.exp();
        e / (1.0 + e)
    }
}

/// Logistic regression on the score with Platt's targets, which keep separable data finite, by Newton's method with
/// halved steps (Lin, Lin and Weng 2007).
fn platt(pairs: &[(f32, bool)]) -> Platt {
    // Sums depend on the order in the last digits; sorted, any order of the pairs gives the same.
    let mut sorted = pairs.to_vec();
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
    let n = sorted.len() as f64;
    let n_relevant = sorted.iter().filter(|(_, relevant)| *relevant).count() as f64;
    let mean = sorted.iter().map(|(score, _)| f64::from(*score)).sum::<f64>() / n;
    let variance = sorted.iter().map(|(score, _)| (f64::from(*score) - mean).powi(2)).sum::<f64>() / n;
    // On standardised scores the Hessian is well conditioned whatever the scorer's scale is.
    let deviation = if variance > 0.0 { variance.sqrt() } else { 1.0 };
    let high = (n_relevant + 1.0) / (n_relevant + 2.0);
    let low = 1.0 / (n - n_relevant + 2.0);
    let points: Vec<(f64, f64)> = sorted
        .iter()
        .map(|(score, relevant)| ((f64::from(*score) - mean) / deviation, if *relevant { high } else { low }))
        .collect();
    let loss = |slope: f64, intercept: f64| -> f64 {
        let one = |&(x, target): &(f64, f64)| {
            let z = slope * x + intercept;
            // log(1 + e^z) - target * z without overflow.
            z.max(0.0) + (-z.abs()).exp().ln_1p() - target * z
        };
        points.iter().map(one).sum()
    };
    let (mut slope, mut intercept) = (0.0, ((n_relevant + 1.0) / (n - n_relevant + 1.0)).ln());
    let mut current = loss(slope, intercept);
    for _ in 0..100 {
        let (mut gradient_s, mut gradient_i) = (0.0, 0.0);
        let (mut h_ss, mut h_si, mut h_ii) = (1e-9, 0.0, 1e-9);
        for &(x, target) in &points {
            let p = sigmoid(slope * x + intercept);
            let (error, weight) = (p - target, p * (1.0 - p));
            gradient_s += error * x;
            gradient_i += error;
            h_ss += weight * x * x;
            h_si += weight * x;
            h_ii += weight;
        }
        if gradient_s.abs().max(gradient_i.abs()) < 1e-9 * n {
            break;
        }
        let determinant = h_ss * h_ii - h_si * h_si;
        let step_s = (h_ii * gradient_s - h_si * gradient_i) / determinant;
        let step_i = (h_ss * gradient_i - h_si * gradient_s) / determinant;
        let mut size = 1.0;
        let improved = loop {
            let (next_s, next_i) = (slope - size * step_s, intercept - size * step_i);
            let next = loss(next_s, next_i);
            if next < current {
                (slope, intercept, current) = (next_s, next_i, next);
                break true;
            }
            size /= 2.0;
            if size < 1e-10 {
                break false;
            }
        };
        if !improved {
            break;
        }
    }
    Platt { slope: slope / deviation, intercept: intercept - slope * mean / deviation }
}

#[cfg(test)]
#[path = "calibrate_tests.rs"]
mod tests;

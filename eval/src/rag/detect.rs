//! Telling two classes apart by a score: ROC, its area, balanced accuracy, and refusing at a bounded share of false refusals.

/// A score and whether the thing scored is of the positive class (relevant, answerable).
pub type Scored = (f64, bool);

/// Area under the ROC curve: the chance that a positive has the higher score, ties counting half. None without both classes.
pub fn auc(scored: &[Scored]) -> Option<f64> {
    let (n_positive, n_negative) = class_sizes(scored);
    if n_positive == 0 || n_negative == 0 {
        return None;
    }
    let sorted = sorted(scored);
    let (mut wins, mut n_negatives_below) = (0.0, 0.0);
    for ties in sorted.chunk_by(|a, b| a.0 == b.0) {
        let (positives, negatives) = class_sizes(ties);
        wins += positives as f64 * (n_negatives_below + negatives as f64 / 2.0);
        n_negatives_below += negatives as f64;
    }
    Some(wins / (n_positive * n_negative) as f64)
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Split {
    pub threshold: f64,
    /// Mean of the shares of positives at or above and of negatives below the threshold.
    pub balanced_accuracy: f64,
    pub accuracy: f64,
}

/// The quality of a given threshold, or of the best one among the scores' percentiles. None without both classes.
pub fn split(scored: &[Scored], threshold: Option<f64>) -> Option<Split> {
    let (n_positive, n_negative) = class_sizes(scored);
    if n_positive == 0 || n_negative == 0 {
        return None;
    }
    let at = |threshold: f64| {
        let n_true = |wanted: bool| {
            scored
                .iter()
                .filter(|(score, is_positive)| *is_positive == wanted && (*score >= threshold) == wanted)
                .count()
        };
        let (n_kept, n_rejected) = (n_true(true), n_true(false));
        Split {
            threshold,
            balanced_accuracy: (n_kept as f64 / n_positive as f64 + n_rejected as f64 / n_negative as f64) / 2.0,
            accuracy: (n_kept + n_rejected) as f64 / scored.len() as f64,
        }
    };
    if let Some(threshold) = threshold {
        return Some(at(threshold));
    }
    let sorted = sorted(scored);
    let candidates =
        (1..100).filter_map(|percent| sorted.get(percent * (sorted.len() - 1) / 100)).map(|(score, _)| at(*score));
    candidates.max_by(|a, b| a.balanced_accuracy.total_cmp(&b.balanced_accuracy))
}

/// What refusing below a threshold does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Refusal {
    /// Refuse where the confidence is below it.
    pub threshold: f64,
    /// Share of the unanswerable questions refused: good.
    pub refused: f64,
    /// Share of the answerable questions refused: bad.
    pub falsely_refused: f64,
}

/// Every threshold worth considering, from refusing nothing to refusing everything.
pub fn refusals(scored: &[Scored]) -> Vec<Refusal> {
    let (n_answerable, n_unanswerable) = class_sizes(scored);
    if n_answerable == 0 || n_unanswerable == 0 {
        return Vec::new();
    }
    let (mut n_false, mut n_true) = (0, 0);
    let mut curve = Vec::new();
    let point = |threshold: f64, n_true: usize, n_false: usize| Refusal {
        threshold,
        refused: n_true as f64 / n_unanswerable as f64,
        falsely_refused: n_false as f64 / n_answerable as f64,
    };
    for ties in sorted(scored).chunk_by(|a, b| a.0 == b.0) {
        curve.extend(ties.first().map(|(score, _)| point(*score, n_true, n_false)));
        let (answerable, unanswerable) = class_sizes(ties);
        n_false += answerable;
        n_true += unanswerable;
    }
    curve.push(point(f64::INFINITY, n_true, n_false));
    curve
}

/// The most refused at no more than `bound` falsely refused.
pub fn best_refusal(curve: &[Refusal], bound: f64) -> Option<Refusal> {
    curve.iter().filter(|point| point.falsely_refused <= bound).max_by(|a, b| a.refused.total_cmp(&b.refused)).copied()
}

/// What a given threshold refuses.
pub fn refusal_at(scored: &[Scored], threshold: f64) -> Option<Refusal> {
    let (n_answerable, n_unanswerable) = class_sizes(scored);
    if n_answerable == 0 || n_unanswerable == 0 {
        return None;
    }
    let n_below =
        |wanted: bool| scored.iter().filter(|(score, class)| *class == wanted && *score < threshold).count() as f64;
    Some(Refusal {
        threshold,
        refused: n_below(false) / n_unanswerable as f64,
        falsely_refused: n_below(true) / n_answerable as f64,
    })
}

/// Sizes of the positive and the negative class.
fn class_sizes(scored: &[Scored]) -> (usize, usize) {
    let n_positive = scored.iter().filter(|(_, is_positive)| *is_positive).count();
    (n_positive, scored.len() - n_positive)
}

fn sorted(scored: &[Scored]) -> Vec<Scored> {
    let mut sorted = scored.to_vec();
    sorted.sort_by(|a, b| a.0.total_cmp(&b.0));
    sorted
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIXED: [Scored; 5] = [(0.9, true), (0.8, false), (0.7, true), (0.2, false), (0.1, false)];

    #[test]
    fn auc_by_hand() {
        // 0.9 beats three negatives, 0.7 beats two: 5 of 6.
        for (scored, expected) in [
            (MIXED.to_vec(), Some(5.0 / 6.0)),
            (vec![(0.5, true), (0.5, false)], Some(0.5)),
            (vec![(1.0, false), (0.0, true)], Some(0.0)),
            (vec![(1.0, true)], None),
            (vec![], None),
        ] {
            assert_eq!(auc(&scored), expected);
        }
    }

    #[test]
    fn thresholds_are_searched_or_given() {
        let best = split(&MIXED, None).unwrap();
        assert_eq!(best.threshold, 0.7);
        assert!(
            (best.balanced_accuracy - (1.0 + 2.0 / 3.0) / 2.0).abs() < 1e-12 && (best.accuracy - 0.8).abs() < 1e-12
        );
        let given = split(&MIXED, Some(0.85)).unwrap();
        assert!((given.balanced_accuracy - 0.75).abs() < 1e-12);
        assert_eq!(split(&[(1.0, true)], None), None);
    }

    #[test]
    fn refusal_is_bounded_by_false_refusals() {
        let curve = refusals(&MIXED);
        assert_eq!(curve.len(), 6);
        let strict = best_refusal(&curve, 0.05).unwrap();
        assert_eq!((strict.threshold, strict.falsely_refused), (0.7, 0.0));
        assert!((strict.refused - 2.0 / 3.0).abs() < 1e-12);
        assert_eq!(best_refusal(&curve, 0.5).unwrap().refused, 1.0);
        assert_eq!(refusal_at(&MIXED, 0.7), Some(strict));
        assert!(refusals(&[(0.3, true)]).is_empty());
    }

    #[test]
    fn equal_scores_are_refused_together() {
        let curve = refusals(&[(0.5, true), (0.5, false)]);
        assert_eq!(best_refusal(&curve, 0.05).unwrap().refused, 0.0);
    }
}

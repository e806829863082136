use super::*;

/// Relevant ones at 0.30, 0.31, ... and irrelevant ones at -0.30, -0.29, ...: they overlap where asked.
fn pairs(n_relevant: usize, n_irrelevant: usize, shift: f32) -> Vec<(f32, bool)> {
    let relevant = (0..n_relevant).map(|n| (n as f32 / 100.0, true));
    let irrelevant = (0..n_irrelevant).map(|n| (shift - n as f32 / 100.0, false));
    relevant.chain(irrelevant).collect()
}

#[test]
fn separable_scores_have_one_threshold_between_them() {
    let found = calibrate(&pairs(20, 20, -0.5), &Goal::default()).unwrap();
    assert_eq!(found.upper, found.lower);
    assert_eq!((found.upper.value, found.auc, found.balanced_accuracy), (-0.25, 1.0, 1.0));
    assert_eq!((found.upper.false_positive_rate, found.upper.false_negative_rate), (0.0, 0.0));
    assert_eq!((found.incorrect_precision, found.incorrect_recall), (1.0, 1.0));
    assert!(found.confidence.confidence(0.1) > 0.9 && found.confidence.confidence(-0.6) < 0.1, "{found:?}");
}

fn auc_by_pairs(pairs: &[(f32, bool)]) -> f64 {
    let of = |kind: bool| pairs.iter().filter(move |pair| pair.1 == kind).map(|pair| pair.0);
    let wins = of(true).flat_map(|high| of(false).map(move |low| (high, low)));
    let won: f64 = wins
        .map(|(high, low)| {
            if high > low {
                1.0
            } else if high == low {
                0.5
            } else {
                0.0
            }
        })
        .sum();
    won / (of(true).count() * of(false).count()) as f64
}

#[test]
fn thresholds_reach_their_goals_on_overlapping_scores() {
    // 100 relevant at 0.00..0.99, 100 irrelevant at 0.30..-0.69: 31 irrelevant among the lower relevant ones.
    let pairs = pairs(100, 100, 0.30);
    let found = calibrate(&pairs, &Goal::default()).unwrap();
    let above = |t: f64, kind: bool| {
        pairs.iter().filter(|(score, relevant)| f64::from(*score) >= t && *relevant == kind).count() as f64
    };
    let upper = found.upper;
    assert!(found.upper_goal_reached && upper.precision >= 0.95, "{found:?}");
    assert_eq!(upper.precision, above(upper.value, true) / (above(upper.value, true) + above(upper.value, false)));
    assert_eq!(upper.false_positive_rate, above(upper.value, false) / 100.0);
    assert_eq!(found.lower.false_negative_rate, 0.05, "exactly five of a hundred may go");
    assert_eq!(found.lower.false_positive_rate, above(found.lower.value, false) / 100.0);
    assert!(found.lower.value < upper.value);
    assert!((found.auc - auc_by_pairs(&pairs)).abs() < 1e-12, "{}", found.auc);
    assert_eq!(found.incorrect_recall, 1.0 - found.lower.false_positive_rate);
    assert_eq!((found.n_relevant, found.n_irrelevant), (100, 100));
    let thresholds = found.thresholds();
    assert!(Thresholds::new(thresholds.upper, thresholds.lower).is_ok());
}

#[test]
fn the_order_of_the_pairs_does_not_matter() {
    let mut pairs = pairs(60, 80, 0.2);
    let first = calibrate(&pairs, &Goal::default()).unwrap();
    pairs.reverse();
    assert_eq!(calibrate(&pairs, &Goal::default()).unwrap(), first);
    pairs.rotate_left(33);
    assert_eq!(calibrate(&pairs, &Goal::default()).unwrap(), first);
}

#[test]
fn best_f1_is_the_best() {
    let pairs = pairs(50, 150, 0.25);
    let found = calibrate(&pairs, &Goal { upper: UpperGoal::BestF1, max_lost: 0.1 }).unwrap();
    let f1 = |t: &Threshold| 2.0 * t.precision * t.recall / (t.precision + t.recall);
    let cuts = Cuts::new(&pairs);
    let best = (0..cuts.cuts.len()).map(|cut| f1(&cuts.at(cut))).filter(|f| !f.is_nan()).fold(0.0, f64::max);
    assert!((f1(&found.upper) - best).abs() < 1e-12);
}

#[test]
fn a_precision_out_of_reach_is_said() {
    // The best score of all is irrelevant, so that every threshold lets it through.
    let mut pairs = pairs(40, 40, 0.1);
    pairs.push((9.0, false));
    let found = calibrate(&pairs, &Goal { upper: UpperGoal::Precision(0.99), max_lost: 0.05 }).unwrap();
    assert!(!found.upper_goal_reached);
    assert!(found.upper.precision < 0.99 && found.upper.precision > 0.9, "{found:?}");
}

#[test]
fn equal_scores_are_not_cut_apart() {
    let pairs: Vec<(f32, bool)> = (0..60).map(|n| (if n % 3 == 0 { 1.0 } else { 0.0 }, n % 2 == 0)).collect();
    assert_eq!(Cuts::new(&pairs).cuts.len(), 2);
    // A third of each kind is up: no signal at all.
    let error = calibrate(&pairs, &Goal::default()).unwrap_err();
    assert_eq!(error, CalibrateError::NoSignal { auc: 0.5 });
    assert_eq!(Cuts::new(&[(0.0, true), (-0.0, false)]).cuts.len(), 1);
}

#[test]
fn bad_input_says_what_is_needed() {
    let goal = Goal::default();
    let enough = pairs(20, 10, -0.5);
    assert!(calibrate(&enough, &goal).is_ok());
    for (pairs, expected) in [
        (vec![], "0 relevant and 0 irrelevant pairs: at least 20 relevant and 10"),
        (pairs(19, 10, -0.5), "19 relevant"),
        (pairs(20, 0, -0.5), "and 0 irrelevant"),
        (pairs(20, 9, -0.5), "10 irrelevant ones are needed"),
        (vec![(f32::NAN, true)], "pair 0"),
        (pairs(20, 20, 3.0), "do not tell"),
    ] {
        let error = calibrate(&pairs, &goal).unwrap_err().to_string();
        assert!(error.contains(expected), "{error}");
    }
    for goal in [
        Goal { max_lost: 0.0, ..goal },
        Goal { max_lost: f64::NAN, ..goal },
        Goal { upper: UpperGoal::Precision(1.0), ..goal },
    ] {
        assert!(matches!(calibrate(&enough, &goal), Err(CalibrateError::Goal { .. })), "{goal:?}");
    }
}

#[test]
fn confidence_is_calibrated() {
    // Of the scores s = 0.0, 0.1, ..., 1.0 a share s is relevant: the confidence must follow it.
    let pairs: Vec<(f32, bool)> = (0..=10).flat_map(|s| (0..100).map(move |n| (s as f32 / 10.0, n < s * 10))).collect();
    let platt = platt(&pairs);
    for s in [0.2_f32, 0.5, 0.8] {
        let confidence = platt.confidence(s);
        assert!((confidence - f64::from(s)).abs() < 0.06, "{s} {confidence}");
    }
    assert_eq!(platt.confidence(f32::NAN), 0.0);
    assert_eq!((platt.confidence(f32::INFINITY), platt.confidence(f32::NEG_INFINITY)), (1.0, 0.0));
}

#[test]
fn confidence_does_not_depend_on_the_scale() {
    let pairs = pairs(60, 80, 0.2);
    let scaled: Vec<(f32, bool)> = pairs.iter().map(|(score, relevant)| (score * 1024.0, *relevant)).collect();
    let (a, b) = (platt(&pairs), platt(&scaled));
    for score in [-0.3_f32, 0.0, 0.4] {
        assert!((a.confidence(score) - b.confidence(score * 1024.0)).abs() < 1e-9);
    }
}

proptest::proptest! {
    #[test]
    fn promises_hold_on_any_scores(
        pairs in proptest::collection::vec((-5.0_f32..5.0, proptest::bool::ANY), 40..120),
        max_lost in 0.06_f64..0.5,
        target in 0.5_f64..0.99,
    ) {
        // Relevant ones get a lead, so that there is something to find.
        let pairs: Vec<(f32, bool)> = pairs.into_iter().map(|(s, r)| (if r { s + 2.0 } else { s }, r)).collect();
        if let Ok(found) = calibrate(&pairs, &Goal { upper: UpperGoal::Precision(target), max_lost }) {
            proptest::prop_assert!(found.lower.value <= found.upper.value);
            proptest::prop_assert!(found.lower.false_negative_rate <= max_lost);
            proptest::prop_assert!(!found.upper_goal_reached || found.upper.precision >= target);
            proptest::prop_assert!(found.confidence.slope.is_finite() && found.confidence.intercept.is_finite());
        }
    }
}

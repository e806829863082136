use super::*;
use crate::routing::{Domain, Outcome, Prediction, Prompt, decide, extract, gate};

const TOPICS: [(Domain, &[&str]); 4] = [
    (
        Domain::Math,
        &["求函数的导数并解方程", "证明等差数列的前项和公式", "Compute the area of a triangle with sides 3, 4, 5"],
    ),
    (
        Domain::Code,
        &[
            "用 Python 写一个快速排序函数",
            "Redis 缓存穿透怎么解决",
            "Fix the null pointer exception in this Java method",
        ],
    ),
    (
        Domain::Medicine,
        &["高血压患者感冒发烧吃什么药", "孩子咳嗽三天需要去医院吗", "What are the symptoms of type 2 diabetes?"],
    ),
    (Domain::Writing, &["写一首关于秋天的诗", "帮我起草一封感谢信", "Write a short story about a lighthouse keeper"]),
];

/// The topic's own specialist is right, others are wrong, the generalist is right on two questions in three. `shift`
/// reassigns which specialist knows which topic.
fn world(n: usize, shift: usize) -> Vec<Example> {
    let models = ["alpha", "beta", "gamma", "delta"];
    let example = |i: usize| {
        let (topic, texts) = (i % TOPICS.len(), TOPICS[i % TOPICS.len()].1);
        let text = format!("{} {}", texts[(i / TOPICS.len()) % texts.len()], i / 12);
        let outcome = |model: &str, score: f32, latency_ms: f32| Outcome {
            model: model.to_owned(),
            score,
            latency_ms,
            cost_usd: latency_ms * 1e-5,
        };
        let mut outcomes: Vec<Outcome> = models
            .iter()
            .enumerate()
            .map(|(k, model)| outcome(model, if (topic + shift) % 4 == k { 1.0 } else { 0.1 }, 100.0))
            .collect();
        outcomes.push(outcome("max", if i.is_multiple_of(3) { 0.0 } else { 1.0 }, 500.0));
        Example {
            hash: i as u64,
            features: extract(&Prompt::single(&text)),
            embedding: Some(meaning(topic, i)),
            outcomes,
        }
    };
    (0..n).map(example).collect()
}

/// An embedding that points to the topic, give or take.
fn meaning(topic: usize, i: usize) -> Vec<f32> {
    let mut vector: Vec<f32> = (0..8).map(|k| ((i * 31 + k * 17) % 23) as f32 / 46.0 - 0.25).collect();
    vector[topic] += 1.0;
    let length = vector.iter().map(|v| v * v).sum::<f32>().sqrt();
    vector.into_iter().map(|v| v / length).collect()
}

fn options() -> TrainOptions {
    TrainOptions { baseline: "max".to_owned(), folds: 3, ..TrainOptions::default() }
}

fn trained(examples: &[Example], seed: Option<&Seed>, options: &TrainOptions) -> Trained {
    train(examples, seed, options, &mut |_| {}).unwrap()
}

fn route(router: &Router, text: &str) -> String {
    decide(&router.predict(&extract(&Prompt::single(text)), None), &Policy::default(), "max").model
}

#[test]
fn every_family_recovers_the_table_and_follows_it_when_it_is_swapped() {
    let seed = Seed::shipped().unwrap();
    for family in Family::ALL.into_iter().filter(|family| *family != Family::Constant) {
        for shift in [0, 1] {
            let options = TrainOptions { families: vec![family], ..options() };
            let router = trained(&world(240, shift), Some(&seed), &options).router;
            let specialists = ["alpha", "beta", "gamma", "delta"];
            assert_eq!(route(&router, "解方程并求导数"), specialists[shift % 4], "{family:?}");
            assert_eq!(route(&router, "写一首关于冬天的诗"), specialists[(3 + shift) % 4], "{family:?}");
        }
    }
}

#[test]
fn the_chosen_family_beats_every_single_model_and_the_references_are_in_order() {
    let seed = Seed::shipped().unwrap();
    let report = trained(&world(240, 0), Some(&seed), &options()).report;
    let of = |family| report.families.iter().find(|(f, _)| *f == family).unwrap().1;
    assert_ne!(report.chosen, Family::Constant);
    assert!(of(report.chosen).utility > report.best_single.1.utility + 0.1, "{report:?}");
    assert!(report.oracle.utility >= of(report.chosen).utility);
    assert!(report.random.utility < report.best_single.1.utility);
    assert_eq!(report.best_single.0, "max");
    assert_eq!((report.observed, report.n_prompts, report.always.len()), (1.0, 240, 5));
}

#[test]
fn outcomes_nobody_recorded_are_estimated_not_ignored() {
    let seed = Seed::shipped().unwrap();
    let mut examples = world(480, 0);
    // The generalist always, and one of the others by turns, as sampled shadow calls would.
    for (i, example) in examples.iter_mut().enumerate() {
        let kept = (i / 4) % 4;
        example.outcomes = vec![example.outcomes[kept].clone(), example.outcomes[4].clone()];
    }
    let report = trained(&examples, Some(&seed), &options()).report;
    let chosen = report.families.iter().find(|(family, _)| *family == report.chosen).unwrap().1;
    assert!(report.observed < 0.9);
    assert!((chosen.score - 1.0).abs() < 0.15, "the specialists are always right: {chosen:?}");
    assert!(chosen.utility > report.best_single.1.utility + 0.1, "{report:?}");
}

#[test]
fn at_equal_utility_the_simpler_family_is_chosen() {
    let mut examples = world(120, 0);
    // One model is always right: nothing is to be learned from the text.
    for outcome in examples.iter_mut().flat_map(|example| &mut example.outcomes) {
        outcome.score = f32::from(u8::from(outcome.model == "beta"));
    }
    let report = trained(&examples, Some(&Seed::shipped().unwrap()), &options()).report;
    assert_eq!((report.chosen, report.best_single.0.as_str()), (Family::Constant, "beta"));
}

#[test]
fn equal_inputs_give_equal_bytes_and_bytes_give_the_router_back() {
    let (examples, seed) = (world(120, 0), Seed::shipped().unwrap());
    for family in Family::ALL {
        let options = TrainOptions { families: vec![family], ..options() };
        let router = trained(&examples, Some(&seed), &options).router;
        let bytes = router.to_bytes();
        assert_eq!(bytes, trained(&examples, Some(&seed), &options).router.to_bytes(), "{family:?}");
        let read = Router::from_bytes(&bytes).unwrap();
        assert_eq!(read, router, "{family:?}");
        let example = &examples[7];
        for embedding in [None, example.embedding.as_deref()] {
            let predicted = read.predict(&example.features, embedding);
            assert_eq!(predicted, router.predict(&example.features, embedding), "{family:?}");
        }
        for cut in [0, 3, 8, 12, bytes.len() / 2, bytes.len() - 1] {
            assert!(Router::from_bytes(&bytes[..cut]).is_err(), "{family:?} cut at {cut}");
        }
    }
}

#[test]
fn without_a_seed_the_families_that_need_none_are_trained() {
    let trained = trained(&world(240, 0), None, &options());
    assert!(trained.report.families.iter().all(|(family, _)| !family.needs_seed()));
    assert_eq!(route(&trained.router, "写一首关于秋天的诗 3"), "delta");
    assert_eq!(Router::from_bytes(&trained.router.to_bytes()).unwrap(), trained.router);
    let none = TrainOptions { families: vec![Family::Domains], ..options() };
    assert!(matches!(train(&world(60, 0), None, &none, &mut |_| {}), Err(TrainError::NoFamily)));
}

#[test]
fn the_gate_promotes_what_was_learned_and_refuses_what_was_learned_from_another_world() {
    let seed = Seed::shipped().unwrap();
    let always_max = |_: &Example| {
        vec![Prediction {
            model: "max".to_owned(),
            score: 0.7,
            latency_ms: 500.0,
            cost_usd: 0.0,
            confidence: 1.0,
            n: 9,
        }]
    };
    let examples = world(320, 0);
    let (training, held_out) = examples.split_at(240);
    let good = trained(training, Some(&seed), &options()).router;
    let verdict = gate(&always_max, &|e| good.predict(&e.features, None), held_out, &Policy::default(), "max", 1);
    assert!(verdict.promote && verdict.gain > 0.1, "{verdict:?}");
    let bad = trained(&world(240, 1), Some(&seed), &options()).router;
    let verdict = gate(
        &|e| good.predict(&e.features, None),
        &|e| bad.predict(&e.features, None),
        held_out,
        &Policy::default(),
        "max",
        1,
    );
    assert!(!verdict.promote && verdict.ci_high < 0.0, "{verdict:?}");
}

#[test]
fn a_meaning_that_words_do_not_show_is_read_from_the_embedding_and_missed_without_it() {
    let mut examples = world(240, 0);
    // Every text says the same; only its embedding tells the topic.
    let features = extract(&Prompt::single("嗯？"));
    examples.iter_mut().for_each(|example| example.features = features.clone());
    let trained = trained(&examples, Some(&Seed::shipped().unwrap()), &options());
    assert_eq!((trained.report.chosen, trained.router.reads_embedding()), (Family::Semantic, true));
    let router = Router::from_bytes(&trained.router.to_bytes()).unwrap();
    let choice =
        |embedding: Option<&[f32]>| decide(&router.predict(&features, embedding), &Policy::default(), "max").model;
    for (topic, specialist) in ["alpha", "beta", "gamma", "delta"].into_iter().enumerate() {
        assert_eq!(choice(Some(&meaning(topic, 5))), specialist);
    }
    assert_eq!(choice(None), "max");
    assert_eq!(choice(Some(&[1.0; 3])), "max", "an embedding of another model is none");
}

#[test]
fn without_embeddings_the_family_that_reads_them_is_not_offered() {
    let mut examples = world(120, 0);
    examples.iter_mut().for_each(|example| example.embedding = None);
    let report = trained(&examples, None, &options()).report;
    assert!(report.families.iter().all(|(family, _)| !family.needs_embedding()));
    let only = TrainOptions { families: vec![Family::Semantic], ..options() };
    assert!(matches!(train(&examples, None, &only, &mut |_| {}), Err(TrainError::NoFamily)));
}

#[test]
fn progress_reaches_its_total() {
    let mut steps = Vec::new();
    train(&world(60, 0), None, &options(), &mut |step| steps.push(step)).unwrap();
    assert_eq!(steps.len(), steps[0].total);
    assert!(steps.iter().enumerate().all(|(i, step)| step.done == i + 1));
}

#[test]
fn impossible_requests_are_refused_with_the_reason() {
    let error = |examples: &[Example], options: &TrainOptions| {
        train(examples, None, options, &mut |_| {}).err().map(|error| error.to_string()).unwrap_or_default()
    };
    assert!(error(&world(19, 0), &options()).contains("19 recorded questions are too few"));
    assert!(error(&world(60, 0), &TrainOptions { folds: 1, ..options() }).contains("`folds` is 1"));
    let mut wrong = world(60, 0);
    wrong[5].outcomes[2].score = -1.0;
    let message = error(&wrong, &options());
    assert!(
        message.contains("`gamma`") && message.contains("score -1") && message.contains("0000000000000005"),
        "{message}"
    );
    wrong[5].outcomes[2].score = f32::NAN;
    assert!(error(&wrong, &options()).contains("NaN"));
    wrong[5].outcomes[2] = Outcome { model: "gamma".to_owned(), score: 0.5, latency_ms: f32::INFINITY, cost_usd: 0.0 };
    assert!(error(&wrong, &options()).contains("latency_ms"));
}

#[test]
fn one_question_asked_often_is_one_question() {
    let mut examples = world(60, 0);
    examples.iter_mut().for_each(|example| example.hash = 42);
    assert!(matches!(
        train(&examples, None, &options(), &mut |_| {}),
        Err(TrainError::TooFewQuestions { found: 1, .. })
    ));
}

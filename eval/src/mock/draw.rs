//! What a model of the world answers to a question: text, score, length and latency, all drawn by hash from (seed, question
//! id, model). No state: asking twice gives the same, so two gateways are compared on the same luck.

use sha2::{Digest, Sha256};

use super::world::{Model, World};

/// Score of an answer: drawn from the bell of right or wrong answers, which of the two by the model's competence in `domain`.
/// Rounded to four digits. `None` where the world has no such domain.
pub fn score(world: &World, question_id: &str, domain: &str, model: &Model) -> Option<f64> {
    let competence = *model.competence.get(domain)?;
    let share = world.score.difficulty_share;
    let difficulty = Draw::new(world.seed, question_id, "", "difficulty").normal();
    let own = Draw::new(world.seed, question_id, &model.name, "luck").normal();
    let right = normal_cdf(share.sqrt() * difficulty + (1.0 - share).sqrt() * own) < competence;
    let bell = if right { world.score.right } else { world.score.wrong };
    let score = bell.mean + bell.sd * Draw::new(world.seed, question_id, &model.name, "score").normal();
    Some((score.clamp(0.0, 1.0) * 1e4).round() / 1e4)
}

/// The text a model gives for a question, in the question's script. It says nothing about the model or the score; the hex
/// digits in it make it unique to the pair.
pub fn answer(world: &World, question_id: &str, question: &str, model: &Model) -> String {
    let n_tokens = n_tokens(world, question_id, model);
    let chinese = question.chars().filter(|c| is_cjk(*c)).count() * 3 > question.chars().count();
    let phrases: &[&str] = if chinese { &CHINESE } else { &ENGLISH };
    let digest = Draw::new(world.seed, question_id, &model.name, "text").0;
    let mut text = if chinese { "参考编号 " } else { "Reference " }.to_string();
    text.extend(digest[..8].iter().map(|byte| format!("{byte:02x}")));
    text.push_str(if chinese { "。" } else { ". " });
    let mut i = 0;
    while estimate_tokens(&text) < n_tokens {
        let byte = digest[8 + i % 24] as usize;
        text.push_str(phrases[(byte + i) % phrases.len()]);
        i += 1;
    }
    text.trim_end().to_string()
}

/// Time of the whole answer in milliseconds, given its length.
pub fn latency_ms(world: &World, question_id: &str, model: &Model, completion_tokens: u64) -> f64 {
    let sigma = (1.0 + model.jitter * model.jitter).ln().sqrt();
    let luck = Draw::new(world.seed, question_id, &model.name, "latency").normal();
    let mean_length = model.latency_ms * (sigma * luck - sigma * sigma / 2.0).exp();
    let longer = completion_tokens as f64 - world.answer.mean_tokens;
    (mean_length + 1e3 * longer / model.tokens_per_second).max(model.latency_ms * 0.1)
}

/// Rough token count, as good as a mock needs: one for a Chinese character, one for four other bytes.
pub fn estimate_tokens(text: &str) -> u64 {
    let (cjk, other) =
        text.chars().fold(
            (0u64, 0u64),
            |(cjk, other), c| {
                if is_cjk(c) { (cjk + 1, other) } else { (cjk, other + c.len_utf8() as u64) }
            },
        );
    cjk + other.div_ceil(4)
}

fn n_tokens(world: &World, question_id: &str, model: &Model) -> u64 {
    let length = Draw::new(world.seed, question_id, &model.name, "length").normal();
    (world.answer.mean_tokens * (1.0 + world.answer.spread * length)).max(8.0) as u64
}

fn is_cjk(c: char) -> bool {
    matches!(c, '\u{3000}'..='\u{30ff}' | '\u{3400}'..='\u{9fff}' | '\u{f900}'..='\u{faff}' | '\u{ff00}'..='\u{ffef}')
}

/// 256 uniform bits for one purpose.
struct Draw([u8; 32]);

impl Draw {
    fn new(seed: u64, question_id: &str, model: &str, purpose: &str) -> Draw {
        let mut hasher = Sha256::new();
        hasher.update(seed.to_le_bytes());
        for part in [question_id, model, purpose] {
            hasher.update((part.len() as u64).to_le_bytes());
            hasher.update(part);
        }
        Draw(hasher.finalize().into())
    }

    /// Uniform in (0, 1).
    fn uniform(&self, lane: usize) -> f64 {
        let mut bytes = [0; 8];
        bytes.copy_from_slice(&self.0[lane * 8..lane * 8 + 8]);
        ((u64::from_le_bytes(bytes) >> 11) as f64 + 0.5) / (1u64 << 53) as f64
    }

    /// Standard normal, by Box and Muller.
    fn normal(&self) -> f64 {
        (-2.0 * self.uniform(0).ln()).sqrt() * (std::f64::consts::TAU * self.uniform(1)).cos()
    }
}

/// Standard normal distribution function; absolute error under 1e-7 (Abramowitz and Stegun 26.2.17).
fn normal_cdf(x: f64) -> f64 {
    let t = 1.0 / (1.0 + 0.231_641_9 * x.abs());
    let poly =
        t * (0.319_381_530 + t * (-0.356_563_782 + t * (1.781_477_937 + t * (-1.821_255_978 + t * 1.330_274_429))));
    let upper = (-x * x / 2.0).exp() / std::f64::consts::TAU.sqrt() * poly;
    if x >= 0.0 { 1.0 - upper } else { upper }
}

const ENGLISH: [&str; 16] = [
    "Start from what the question gives and write it down. ",
    "Two cases have to be kept apart here. ",
    "The first step follows directly from the definition. ",
    "A short check confirms the intermediate value. ",
    "This part needs more care than it seems. ",
    "Putting the pieces together gives the overall picture. ",
    "An example makes the point clear. ",
    "It helps to look at the simplest situation first. ",
    "The remaining part is handled in the same way. ",
    "Note the condition under which this holds. ",
    "In short, the main reason is the one given above. ",
    "There is an alternative, but it is longer. ",
    "Keep the order of the steps in mind. ",
    "The final result can be read off from here. ",
    "One more remark completes the argument. ",
    "That answers what was asked. ",
];

const CHINESE: [&str; 16] = [
    "首先整理题目中给出的信息。",
    "这里需要分两种情况讨论。",
    "第一步可以由定义直接得到。",
    "中间结果可以简单检验一下。",
    "这一部分要比看上去更仔细。",
    "把以上几点综合起来就得到整体思路。",
    "举一个例子会更清楚。",
    "不妨先看最简单的情形。",
    "其余部分可以用同样的方法处理。",
    "注意这一结论成立的前提。",
    "总的来说,主要原因如上所述。",
    "也有另一种做法,不过更长一些。",
    "请注意各步骤的先后顺序。",
    "由此可以看出最后的结果。",
    "最后再补充一点说明。",
    "以上就是对这个问题的回答。",
];

#[cfg(test)]
mod tests {
    use super::*;

    fn mean(values: impl ExactSizeIterator<Item = f64>) -> f64 {
        let n = values.len() as f64;
        values.sum::<f64>() / n
    }

    #[test]
    fn the_same_pair_is_drawn_alike_and_other_pairs_differ() {
        let world = World::load(None).unwrap();
        let model = &world.models[1];
        assert_eq!(score(&world, "q1", "math", model), score(&world, "q1", "math", model));
        assert_eq!(answer(&world, "q1", "what?", model), answer(&world, "q1", "what?", model));
        let mut texts: Vec<_> = (0..50)
            .flat_map(|q| world.models.iter().map(move |model| (q, model)))
            .map(|(q, model)| answer(&world, &format!("q{q}"), "what?", model))
            .collect();
        texts.sort();
        texts.dedup();
        assert_eq!(texts.len(), 50 * 13);
        let other = World { seed: world.seed + 1, ..world.clone() };
        assert_ne!(answer(&world, "q1", "what?", model), answer(&other, "q1", "what?", model));
    }

    #[test]
    fn pinned_draws_stay_as_they_are_across_releases() {
        let world = World { seed: 7, ..World::load(None).unwrap() };
        let model = world.model("qwen-math-7b").unwrap();
        let drawn: Vec<_> = (0..4).map(|q| score(&world, &format!("q{q}"), "math", model).unwrap()).collect();
        assert_eq!(drawn, [0.8447, 0.871, 0.9038, 0.209]);
    }

    #[test]
    fn competence_is_the_share_of_right_answers() {
        let world = World::load(None).unwrap();
        for (name, domain) in [("qwen-math-32b", "math"), ("qwen-max", "code"), ("qwen-code-3b", "writing")] {
            let model = world.model(name).unwrap();
            let right = (0..4000)
                .map(|q| score(&world, &format!("q{q}"), domain, model).unwrap())
                .map(|score| f64::from(u8::from(score > 0.6)));
            assert!((mean(right) - model.competence[domain]).abs() < 0.02, "{name} in {domain}");
        }
    }

    #[test]
    fn hard_questions_are_hard_for_everyone() {
        let world = World::load(None).unwrap();
        let (a, b) = (world.model("qwen-max").unwrap(), world.model("qwen-math-7b").unwrap());
        let pairs: Vec<_> = (0..4000)
            .map(|q| format!("q{q}"))
            .map(|q| (score(&world, &q, "math", a).unwrap() > 0.6, score(&world, &q, "math", b).unwrap() > 0.6))
            .collect();
        let both = mean(pairs.iter().map(|(a, b)| f64::from(u8::from(*a && *b))));
        assert!(both > a.competence["math"] * b.competence["math"] + 0.03);
    }

    #[test]
    fn latency_has_the_mean_of_the_world() {
        let world = World::load(None).unwrap();
        for model in &world.models {
            let latencies = (0..4000).map(|q| format!("q{q}")).map(|q| {
                let text = answer(&world, &q, "what is it?", model);
                latency_ms(&world, &q, model, estimate_tokens(&text))
            });
            let mean = mean(latencies);
            assert!((mean / model.latency_ms - 1.0).abs() < 0.06, "{}: {mean}", model.name);
        }
    }

    #[test]
    fn answers_do_not_name_the_model_and_follow_the_script() {
        let world = World::load(None).unwrap();
        for model in &world.models {
            let english = answer(&world, "q1", "Why is the sky blue?", model);
            assert!(!english.contains(&model.name) && english.is_ascii());
            assert!(answer(&world, "q1", "天空为什么是蓝色的?", model).starts_with("参考编号"));
        }
    }

    #[test]
    fn distribution_function_at_known_points() {
        for (x, expected) in [(0.0, 0.5), (1.0, 0.841_344_746), (-1.959_964, 0.025)] {
            assert!((normal_cdf(x) - expected).abs() < 1e-6);
        }
    }
}

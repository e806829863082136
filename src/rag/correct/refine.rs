//! Knowledge refinement: take passages apart into strips, keep those that answer the question, put them together again.
//!
//! Three ways to cut, as published; a strip knows where it comes from, so that what is kept can be cited. Called by the
//! search pipeline. Chinese and Japanese text is counted in characters where others count words.

use std::cmp::Ordering;
use std::collections::HashSet;
use std::ops::Range;

use serde::{Deserialize, Serialize};

use crate::rag::ports::{Score, scores_of};
use crate::rag::sentence::sentences;
use crate::rag::words::{count_words, join_pieces, words};

use super::web::WebPage;

/// Words in a window of [`Mode::FixedNum`], and the tail that is too short to stand alone.
const WINDOW_WORDS: usize = 50;
const MIN_TAIL_WORDS: usize = 10;
/// Sentences that go together in [`Mode::Excerption`]; one of at most so many words goes to the one before it.
const GROUP_SENTENCES: usize = 3;
const SHORT_SENTENCE_WORDS: usize = 5;
/// A strip of fewer words says nothing and is not scored.
const MIN_STRIP_WORDS: usize = 4;

/// How a passage is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Mode {
    /// Windows of 50 words.
    FixedNum,
    /// Groups of three sentences.
    #[default]
    Excerption,
    /// The passage as it is.
    Selection,
}

/// In which order the kept strips are joined.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Order {
    /// As they stood in the passages, as the paper says.
    #[default]
    Position,
    /// Best first, as the published script joins them.
    Score,
}

/// How much is kept.
#[derive(Debug, Clone, PartialEq)]
pub struct Refinement {
    pub mode: Mode,
    pub top_n: usize,
    /// Strips below this are dropped even when fewer than `top_n` remain; the paper uses -0.5 with its own evaluator.
    pub min_score: Option<f32>,
    /// The score of a strip that is too short to be scored: -1, the worst on the published evaluator's scale. A scorer
    /// with lower scores needs a lower one, or scraps come before sentences.
    pub short_score: f32,
    pub order: Order,
}

impl Refinement {
    /// As published: the best 6 strips, or 3 whole passages.
    pub fn new(mode: Mode) -> Self {
        let top_n = if mode == Mode::Selection { 3 } else { 6 };
        Refinement { mode, top_n, min_score: None, short_score: -1.0, order: Order::Position }
    }

    /// As published for pages of the web: their paragraphs are the strips, and 5 are kept.
    pub fn for_web() -> Self {
        Refinement { top_n: 5, ..Self::new(Mode::Selection) }
    }
}

/// A piece of a passage.
#[derive(Debug, Clone, PartialEq)]
pub struct Strip {
    /// Which of the passages it comes from.
    pub passage: usize,
    /// Where its parts stand in the passage, as byte ranges in order.
    pub ranges: Vec<Range<usize>>,
    pub text: String,
    pub score: f32,
}

/// The whole refinement of passages.
///
/// # Errors
/// The scorer fails.
pub async fn refine(
    question: &str,
    passages: &[&str],
    scorer: &dyn Score,
    refinement: &Refinement,
) -> Result<Vec<Strip>, String> {
    let strips = passages.iter().enumerate().flat_map(|(n, passage)| decompose(n, passage, refinement.mode)).collect();
    filter(question, strips, scorer, refinement).await
}

/// The whole refinement of pages: each paragraph is a strip that begins with its page's title.
///
/// # Errors
/// The scorer fails.
pub async fn refine_pages(
    question: &str,
    pages: &[WebPage],
    scorer: &dyn Score,
    refinement: &Refinement,
) -> Result<Vec<Strip>, String> {
    let mut strips = Vec::new();
    for (n, page) in pages.iter().enumerate() {
        for range in page.paragraphs() {
            let text = format!("{}: {}", page.title.trim(), one_line(&page.text[range.clone()]));
            strips.push(Strip { passage: n, ranges: vec![range], text, score: f32::NEG_INFINITY });
        }
    }
    filter(question, strips, scorer, refinement).await
}

/// Cuts one passage. Identical sentences are taken once.
pub fn decompose(passage: usize, text: &str, mode: Mode) -> Vec<Strip> {
    let groups = match mode {
        Mode::FixedNum => windows(text),
        Mode::Excerption => excerpts(text),
        Mode::Selection if text.trim().is_empty() => Vec::new(),
        Mode::Selection => vec![vec![0..text.len()]],
    };
    let strip = |ranges: Vec<Range<usize>>| {
        let pieces: Vec<String> = ranges.iter().map(|range| one_line(&text[range.clone()])).collect();
        let joined = join_pieces(pieces.iter().map(String::as_str));
        Strip { passage, ranges, text: joined, score: f32::NEG_INFINITY }
    };
    groups.into_iter().map(strip).collect()
}

/// Scores the strips and keeps the best; equal scores keep the order of the passages.
///
/// # Errors
/// The scorer fails.
pub async fn filter(
    question: &str,
    mut strips: Vec<Strip>,
    scorer: &dyn Score,
    refinement: &Refinement,
) -> Result<Vec<Strip>, String> {
    let (long, texts): (Vec<usize>, Vec<&str>) = strips
        .iter()
        .enumerate()
        .filter(|(_, strip)| count_words(&strip.text) >= MIN_STRIP_WORDS)
        .map(|(n, strip)| (n, strip.text.as_str()))
        .unzip();
    let scores = scores_of(scorer, question, &texts).await?;
    for strip in &mut strips {
        strip.score = refinement.short_score;
    }
    for (n, score) in long.into_iter().zip(scores) {
        if let Some(strip) = strips.get_mut(n) {
            strip.score = score;
        }
    }
    let mut ranked: Vec<(usize, Strip)> = strips.into_iter().enumerate().collect();
    ranked.sort_by(|(_, a), (_, b)| best_first(a.score, b.score));
    ranked.truncate(refinement.top_n);
    if let Some(min_score) = refinement.min_score {
        ranked.retain(|(_, strip)| strip.score >= min_score);
    }
    if refinement.order == Order::Position {
        ranked.sort_by_key(|(n, _)| *n);
    }
    Ok(ranked.into_iter().map(|(_, strip)| strip).collect())
}

/// The kept strips as one text, as published.
pub fn recompose(strips: &[Strip]) -> String {
    strips.iter().map(|strip| strip.text.as_str()).collect::<Vec<_>>().join("; ")
}

fn best_first(a: f32, b: f32) -> Ordering {
    b.total_cmp(&a)
}

fn windows(text: &str) -> Vec<Vec<Range<usize>>> {
    let words = words(text);
    let span = |words: &[Range<usize>]| match (words.first(), words.last()) {
        (Some(first), Some(last)) => first.start..last.end,
        _ => 0..0,
    };
    let mut found: Vec<Range<usize>> = Vec::new();
    for window in words.chunks(WINDOW_WORDS) {
        let range = span(window);
        match found.last_mut() {
            Some(last) if window.len() < MIN_TAIL_WORDS => last.end = range.end,
            _ => found.push(range),
        }
    }
    found.into_iter().map(|range| vec![range]).collect()
}

fn excerpts(text: &str) -> Vec<Vec<Range<usize>>> {
    let mut seen = HashSet::new();
    let mut strips: Vec<Vec<Range<usize>>> = Vec::new();
    for range in sentences(text) {
        let sentence = &text[range.clone()];
        if !seen.insert(sentence) {
            continue;
        }
        match strips.last_mut() {
            Some(last) if count_words(sentence) <= SHORT_SENTENCE_WORDS => last.push(range),
            _ => strips.push(vec![range]),
        }
    }
    strips.chunks(GROUP_SENTENCES).map(<[_]>::concat).collect()
}

/// Line breaks inside a strip would end it where the result is read line by line.
fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rag::scripted::ScriptedScore;

    fn numbered(n: usize) -> String {
        (1..=n).map(|n| format!("w{n}")).collect::<Vec<_>>().join(" ")
    }

    fn texts(strips: &[Strip]) -> Vec<&str> {
        strips.iter().map(|strip| strip.text.as_str()).collect()
    }

    #[test]
    fn windows_of_fifty_words() {
        for (n_words, expected) in
            [(0, vec![]), (5, vec![5]), (50, vec![50]), (59, vec![59]), (60, vec![50, 10]), (109, vec![50, 59])]
        {
            let strips = decompose(0, &numbered(n_words), Mode::FixedNum);
            let lengths: Vec<usize> = strips.iter().map(|strip| strip.text.split(' ').count()).collect();
            assert_eq!(lengths, expected, "{n_words} words");
        }
        // Characters are the words of Chinese.
        let chinese = "网".repeat(120);
        let lengths: Vec<usize> =
            decompose(0, &chinese, Mode::FixedNum).iter().map(|strip| strip.text.chars().count()).collect();
        assert_eq!(lengths, [50, 50, 20]);
    }

    #[test]
    fn excerpts_of_three_sentences() {
        let text = "The first sentence has quite many words. Short one here. The second sentence has as many words. \
                    The third sentence also has many words. The fourth sentence begins another group here. \
                    The second sentence has as many words.";
        let strips = decompose(2, text, Mode::Excerption);
        assert_eq!(
            texts(&strips),
            [
                "The first sentence has quite many words. Short one here. The second sentence has as many words. The \
                 third sentence also has many words.",
                "The fourth sentence begins another group here.",
            ]
        );
        assert_eq!(strips[0].ranges.len(), 4);
        assert!(strips.iter().all(|strip| strip.passage == 2));
        assert_eq!(&text[strips[1].ranges[0].clone()], "The fourth sentence begins another group here.");
    }

    #[test]
    fn excerpts_of_chinese() {
        let text = "网关负责转发所有请求。很快。它支持多种语言模型。配置保存在文件夹中。每次修改都会立即生效。";
        let strips = decompose(0, text, Mode::Excerption);
        assert_eq!(
            texts(&strips),
            ["网关负责转发所有请求。很快。它支持多种语言模型。配置保存在文件夹中。", "每次修改都会立即生效。"]
        );
    }

    #[test]
    fn selection_keeps_the_passage() {
        assert_eq!(texts(&decompose(0, "One.\nTwo.", Mode::Selection)), ["One. Two."]);
        assert!(decompose(0, " \n", Mode::Selection).is_empty());
    }

    #[tokio::test]
    async fn the_best_are_kept_in_order_and_scraps_are_not_scored() {
        let scorer = ScriptedScore::new(|question, text| {
            assert_eq!(question, "q");
            assert!(text.split(' ').count() >= 4, "{text}");
            text.rsplit(' ').next().unwrap().parse().unwrap()
        });
        let passages = ["a b c 0.1", "too short", "a b c 0.9", "a b c -0.4", "a b c 0.5", "a b c -1.5"];
        let best = refine("q", &passages, &scorer, &Refinement::new(Mode::Selection)).await.unwrap();
        assert_eq!(recompose(&best), "a b c 0.1; a b c 0.9; a b c 0.5");
        assert_eq!(scorer.calls(), 1);

        let all = Refinement { top_n: 5, ..Refinement::new(Mode::Selection) };
        let kept = refine("q", &passages, &scorer, &all).await.unwrap();
        let scores: Vec<f32> = kept.iter().map(|strip| strip.score).collect();
        assert_eq!(scores, [0.1, -1.0, 0.9, -0.4, 0.5], "the short one has -1 and beats -1.5");

        let by_score = Refinement { order: Order::Score, min_score: Some(-0.5), ..all };
        let kept = refine("q", &passages, &scorer, &by_score).await.unwrap();
        assert_eq!(recompose(&kept), "a b c 0.9; a b c 0.5; a b c 0.1; a b c -0.4");
    }

    #[test]
    fn published_amounts() {
        let amounts = [Mode::FixedNum, Mode::Excerption, Mode::Selection].map(|mode| Refinement::new(mode).top_n);
        assert_eq!((amounts, Refinement::for_web().top_n), ([6, 6, 3], 5));
    }

    #[tokio::test]
    async fn nothing_to_refine_asks_nobody() {
        let scorer = ScriptedScore::new(|_, _| 0.0);
        assert!(refine("q", &[], &scorer, &Refinement::new(Mode::Excerption)).await.unwrap().is_empty());
        assert!(refine("q", &["", " "], &scorer, &Refinement::new(Mode::FixedNum)).await.unwrap().is_empty());
        assert_eq!(scorer.calls(), 0);
    }

    #[tokio::test]
    async fn a_failing_scorer_is_an_error() {
        let scorer = ScriptedScore::raw(|_, _| Err("no model".into()));
        let result = refine("q", &["a b c d"], &scorer, &Refinement::new(Mode::Excerption)).await;
        assert_eq!(result, Err("no model".into()));
    }

    #[tokio::test]
    async fn paragraphs_of_pages_carry_the_title() {
        let page = WebPage {
            title: "Henry Feilden".into(),
            url: "https://en.wikipedia.org/wiki/Henry_Feilden".into(),
            text: "He was an English politician.\nshort\n\nBorn in 1818\nhe died in 1875.".into(),
        };
        let scorer = ScriptedScore::new(|_, text| text.len() as f32);
        let strips = refine_pages("q", &[page], &scorer, &Refinement::for_web()).await.unwrap();
        assert_eq!(
            texts(&strips),
            [
                "Henry Feilden: He was an English politician.",
                "Henry Feilden: Born in 1818",
                "Henry Feilden: he died in 1875."
            ]
        );
    }

    proptest::proptest! {
        #[test]
        fn any_text_can_be_cut(text in "(\\PC|[。\\n .?]){0,200}") {
            for mode in [Mode::FixedNum, Mode::Excerption, Mode::Selection] {
                for strip in decompose(0, &text, mode) {
                    proptest::prop_assert!(strip.ranges.iter().all(|range| text.get(range.clone()).is_some()));
                    proptest::prop_assert!(!strip.text.contains('\n'));
                }
            }
        }
    }
}

//! Two ranked lists into one.

use std::collections::HashMap;

use super::{Candidate, Fusion, merge, sort};
use crate::rag::store::Hit;

/// What the two searches found, best first.
#[derive(Debug, Clone, Default)]
pub struct Lists {
    pub dense: Vec<Hit>,
    pub lexical: Vec<Hit>,
}

/// Of reciprocal rank fusion (Cormack, Clarke, Büttcher 2009): damps the first ranks.
const RRF_K: f32 = 60.0;

/// What the best match by words is worth beside a cosine, which runs from about 0 to 0.9. On the same questions as the
/// constants of `hop` everything from 0.2 to 0.6 is within a point of recall.
const LEXICAL_WEIGHT: f32 = 0.3;

/// Candidates of both lists, each once, ordered by the fused score.
pub fn fuse(fusion: Fusion, lists: Lists) -> Vec<Candidate> {
    let scale = Scale::of(&lists);
    let ranks = [&lists.dense, &lists.lexical].map(|list| ranks(list));
    let mut candidates = merge(lists.dense, lists.lexical);
    for candidate in &mut candidates {
        let score = match fusion {
            Fusion::Rrf => {
                let ranks = ranks.iter().filter_map(|ranks| ranks.get(&candidate.passage.id));
                ranks.map(|rank| 1.0 / (RRF_K + rank)).sum()
            }
            Fusion::Weighted => scale.score(candidate),
        };
        candidate.scores.fused = Some(score);
        candidate.score = score;
    }
    sort(&mut candidates);
    candidates
}

/// How scores of one question are put on one scale: cosines as they are, BM25 as a share of the best.
#[derive(Debug, Clone, Copy)]
pub struct Scale {
    /// Of a passage that only its words found: as near as the last that meaning found, at most.
    floor: f32,
    best_lexical: f32,
    has_dense: bool,
}

impl Scale {
    pub fn of(lists: &Lists) -> Scale {
        Scale {
            floor: lists.dense.last().map_or(0.0, |hit| hit.score),
            best_lexical: lists.lexical.first().map_or(0.0, |hit| hit.score),
            has_dense: !lists.dense.is_empty(),
        }
    }

    /// Cosine of passages that were not found by meaning, at most.
    pub fn floor(&self) -> f32 {
        self.floor
    }

    /// Where nothing was found by meaning, words alone decide.
    pub fn score(&self, candidate: &Candidate) -> f32 {
        let lexical = candidate.scores.lexical.map_or(0.0, |score| score / self.best_lexical.max(f32::MIN_POSITIVE));
        if !self.has_dense {
            return lexical;
        }
        candidate.scores.dense.unwrap_or(self.floor) + LEXICAL_WEIGHT * lexical
    }
}

/// Rank of each passage, from 1.
fn ranks(list: &[Hit]) -> HashMap<String, f32> {
    let ranks = (1u16..).map(f32::from);
    list.iter().zip(ranks).map(|(hit, rank)| (hit.passage.id.clone(), rank)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::rag::store::Passage;

    fn list(hits: &[(&str, f32)]) -> Vec<Hit> {
        let hit = |(id, score): &(&str, f32)| Hit {
            passage: Passage { id: (*id).to_owned(), ..Passage::default() },
            score: *score,
        };
        hits.iter().map(hit).collect()
    }

    fn check(fusion: Fusion, dense: &[(&str, f32)], lexical: &[(&str, f32)], expected: &[&str]) {
        let fused = fuse(fusion, Lists { dense: list(dense), lexical: list(lexical) });
        let ids: Vec<&str> = fused.iter().map(|candidate| candidate.passage.id.as_str()).collect();
        assert_eq!(ids, expected);
    }

    #[test]
    fn each_passage_is_there_once_and_the_order_is_that_of_the_fused_score() {
        let (dense, lexical) = ([("a", 0.9), ("b", 0.5), ("c", 0.4)], [("b", 20.0), ("d", 10.0)]);
        check(Fusion::Rrf, &dense, &lexical, &["b", "a", "d", "c"]);
        check(Fusion::Weighted, &dense, &lexical, &["a", "b", "d", "c"]);
    }

    #[test]
    fn one_list_alone_keeps_its_order() {
        let lexical = [("b", 20.0), ("d", 10.0), ("a", 1.0)];
        for fusion in [Fusion::Rrf, Fusion::Weighted] {
            check(fusion, &[], &lexical, &["b", "d", "a"]);
            check(fusion, &[("x", 0.3), ("y", 0.2)], &[], &["x", "y"]);
            check(fusion, &[], &[], &[]);
        }
    }
}

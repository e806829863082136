//! Two ranked lists into one.

use std::collections::HashMap;

use super::{Candidate, Fusion, sort};
use crate::rag::store::Hit;

/// What the two searches found, best first.
#[derive(Debug, Clone, Default)]
pub struct Lists {
    pub dense: Vec<Hit>,
    pub lexical: Vec<Hit>,
}

/// Of reciprocal rank fusion (Cormack, Clarke, Büttcher 2009): damps the first ranks.
const RRF_K: f32 = 60.0;

/// What the best match by words is worth beside a cosine, which runs from about 0 to 0.9. On 100 HotpotQA
/// training questions everything from 0.2 to 0.6 is within a point of recall.
const LEXICAL_WEIGHT: f32 = 0.3;

/// Candidates of both lists, each once, ordered by the fused score.
pub fn fuse(fusion: Fusion, lists: &Lists) -> Vec<Candidate> {
    let scale = Scale::of(lists);
    let ranks = [&lists.dense, &lists.lexical].map(|list| ranks(list));
    let mut candidates = merge(lists);
    for candidate in &mut candidates {
        let score = match fusion {
            Fusion::Rrf => {
                let ranks = ranks.iter().filter_map(|ranks| ranks.get(&candidate.row));
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
fn ranks(list: &[Hit]) -> HashMap<u64, f32> {
    let ranks = (1u16..).map(f32::from);
    list.iter().zip(ranks).map(|(hit, rank)| (hit.row, rank)).collect()
}

/// Hits of both searches as candidates, each passage once.
fn merge(lists: &Lists) -> Vec<Candidate> {
    let mut candidates: HashMap<u64, Candidate> = HashMap::with_capacity(lists.dense.len() + lists.lexical.len());
    for hit in &lists.dense {
        candidates.entry(hit.row).or_default().scores.dense = Some(hit.score);
    }
    for hit in &lists.lexical {
        candidates.entry(hit.row).or_default().scores.lexical = Some(hit.score);
    }
    candidates.into_iter().map(|(row, candidate)| Candidate { row, ..candidate }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn list(hits: &[(char, f32)]) -> Vec<Hit> {
        hits.iter().map(|(row, score)| Hit { row: u64::from(u32::from(*row)), score: *score }).collect()
    }

    fn check(fusion: Fusion, dense: &[(char, f32)], lexical: &[(char, f32)], expected: &str) {
        let fused = fuse(fusion, &Lists { dense: list(dense), lexical: list(lexical) });
        let rows = fused.iter().map(|candidate| char::from_u32(u32::try_from(candidate.row).unwrap()).unwrap());
        assert_eq!(rows.collect::<String>(), expected);
    }

    #[test]
    fn each_passage_is_there_once_and_the_order_is_that_of_the_fused_score() {
        let (dense, lexical) = ([('a', 0.9), ('b', 0.5), ('c', 0.4)], [('b', 20.0), ('d', 10.0)]);
        check(Fusion::Rrf, &dense, &lexical, "badc");
        check(Fusion::Weighted, &dense, &lexical, "abdc");
    }

    #[test]
    fn one_list_alone_keeps_its_order() {
        let lexical = [('b', 20.0), ('d', 10.0), ('a', 1.0)];
        for fusion in [Fusion::Rrf, Fusion::Weighted] {
            check(fusion, &[], &lexical, "bda");
            check(fusion, &[('x', 0.3), ('y', 0.2)], &[], "xy");
            check(fusion, &[], &[], "");
        }
    }
}

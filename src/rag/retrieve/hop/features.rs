//! What a passage shares with the question, and with the passages that lead to it.
//!
//! Each distinct term of the question is one bit, so that "which terms of the question does this text have" is a number and
//! "what does this passage add to that one" is two operations.

use std::collections::{HashMap, HashSet};

use crate::rag::retrieve::lexicon::{Lexicon, Row, title_terms};
use crate::rag::sentence::sentences;
use crate::rag::store::Passage;
use crate::rag::terms::{query_terms, terms};

/// Of [`NAMES`].
pub const N_FEATURES: usize = 28;

/// In the order of a feature vector. The lower half is about links: the maximum over the bridges `b` (the best passages), each
/// weighed by how well it was found itself.
///
/// | Feature | |
/// |---|---|
/// | `cos`, `cos_gap` | cosine with the question, and less the best cosine |
/// | `own`, `own_gap` | score of the first stage, and less the best |
/// | `best` | 1 for the first stage's first |
/// | `lex` | BM25 as a share of the highest that these terms could give |
/// | `cov`, `tcov`, `sent` | share of the question's terms, by weight, that the passage has; its title; its best sentence with its title |
/// | `tfrac`, `tinq` | share of the title's terms that the question has; 1 if the question names the title |
/// | `bi` | share of the question's pairs of neighbouring terms |
/// | `out`, `amb`, `isum` | 1 if only names lead here; log of the passages of that title; rarity of the title |
/// | `link`, `back` | `b` names the passage; the passage names `b` |
/// | `lgain`, `bgain`, `gain1` | what the passage adds to `b`'s coverage, given a link, a link back, or neither |
/// | `lboth`, `bboth`, `sboth` | coverage of both together, likewise |
/// | `msent` | coverage of the sentence of `b` that names the passage |
/// | `nlink`, `nback` | log of one and the number of links, weighed |
/// | `lneed`, `bneed` | link, and link back, times what the best passage does not cover |
pub const NAMES: [&str; N_FEATURES] = [
    "cos", "cos_gap", "own", "own_gap", "best", "lex", "cov", "tcov", "tfrac", "tinq", "bi", "sent", "out", "amb",
    "isum", "link", "back", "lgain", "bgain", "gain1", "lboth", "bboth", "sboth", "msent", "nlink", "nback", "lneed",
    "bneed",
];

pub type Features = [f32; N_FEATURES];

/// Of Lucene's BM25.
const K1: f32 = 1.2;
const B: f32 = 0.75;

/// How fast trust in a bridge falls with its distance from the best one, in scores of the first stage.
const TRUST: f32 = 8.0;

/// Bits of a mask; of a longer question the rarest terms are kept.
const MAX_BITS: usize = 64;

type Mask = u64;

/// A question, ready to read passages with.
pub struct Question<'a> {
    lexicon: &'a Lexicon,
    bits: HashMap<String, usize>,
    /// Inverse document frequency by bit.
    weights: Vec<f32>,
    pairs: HashMap<(usize, usize), usize>,
    pair_weights: Vec<f32>,
    named: Vec<Row>,
}

/// What of a question a passage has.
pub struct Reading {
    pub row: Option<Row>,
    document: String,
    /// Terms in all.
    n_terms: usize,
    /// Occurrences by bit.
    counts: Vec<u16>,
    title: Mask,
    text: Mask,
    pairs: Mask,
    sentences: Vec<Sentence>,
    title_fraction: f32,
    title_weight: f32,
    namesakes: usize,
}

struct Sentence {
    terms: Mask,
    names: Vec<Row>,
}

impl<'a> Question<'a> {
    pub fn new(lexicon: &'a Lexicon, text: &str) -> Question<'a> {
        let mut rare: Vec<(String, f32)> =
            query_terms(text).split_whitespace().map(|term| (term.to_owned(), lexicon.idf(term))).collect();
        // What no passage has cannot tell one from another.
        rare.sort_by(|a, b| lexicon.knows(&b.0).cmp(&lexicon.knows(&a.0)).then(b.1.total_cmp(&a.1)));
        rare.truncate(MAX_BITS);
        let weights: Vec<f32> = rare.iter().map(|(_, idf)| *idf).collect();
        let bits: HashMap<String, usize> = rare.into_iter().enumerate().map(|(bit, (term, _))| (term, bit)).collect();
        let (mut pairs, mut pair_weights) = (HashMap::new(), Vec::new());
        let sequence: Vec<Option<usize>> = terms(text).split_whitespace().map(|term| bits.get(term).copied()).collect();
        for pair in sequence.windows(2) {
            if let [Some(first), Some(second)] = *pair
                && pair_weights.len() < MAX_BITS
                && !pairs.contains_key(&(first, second))
            {
                pairs.insert((first, second), pair_weights.len());
                pair_weights.push(weights[first].min(weights[second]));
            }
        }
        Question { lexicon, bits, weights, pairs, pair_weights, named: lexicon.named_in(text, true) }
    }

    /// Passages whose title the question names.
    pub fn named(&self) -> &[Row] {
        &self.named
    }

    pub fn read(&self, passage: &Passage) -> Reading {
        let title = title_terms(&passage.title);
        let (mut in_title, mut shared, mut title_weight) = (0, 0.0, 0.0);
        for term in title.split_whitespace() {
            let idf = self.lexicon.idf(term);
            title_weight += idf;
            if let Some(bit) = self.bits.get(term) {
                in_title |= 1 << bit;
                shared += idf;
            }
        }
        let mut reading = Reading {
            row: self.lexicon.row(&passage.id),
            document: passage.document.clone(),
            n_terms: 0,
            counts: vec![0; self.weights.len()],
            title: in_title,
            text: 0,
            pairs: 0,
            sentences: Vec::new(),
            title_fraction: if title_weight > 0.0 { shared / title_weight } else { 0.0 },
            title_weight,
            namesakes: self.lexicon.namesakes(&passage.title),
        };
        // The title counts twice: alone and in the header.
        let mut before = None;
        self.count(&title, &mut before, &mut reading);
        self.count(&terms(&passage.header), &mut before, &mut reading);
        for range in sentences(&passage.text) {
            let sentence = passage.text.get(range).unwrap_or_default();
            let terms = self.count(&terms(sentence), &mut before, &mut reading);
            reading.sentences.push(Sentence { terms, names: self.lexicon.named_in(sentence, false) });
        }
        reading
    }

    /// Adds `terms` to the reading; returns which terms of the question they have.
    fn count(&self, terms: &str, before: &mut Option<usize>, reading: &mut Reading) -> Mask {
        let mut mask = 0;
        for term in terms.split_whitespace() {
            reading.n_terms += 1;
            let bit = self.bits.get(term).copied();
            if let Some(bit) = bit {
                mask |= 1 << bit;
                reading.counts[bit] = reading.counts[bit].saturating_add(1);
                if let Some(pair) = before.and_then(|before| self.pairs.get(&(before, bit))) {
                    reading.pairs |= 1 << pair;
                }
            }
            *before = bit;
        }
        reading.text |= mask;
        mask
    }

    /// Features of each passage. The first ones are the bridges; `own` are scores of the first stage, the highest first.
    pub fn features(&self, read: &[Reading], own: &[f32], cosines: &[f32], n_bridges: usize) -> Vec<Features> {
        let best_own = own.iter().copied().fold(f32::MIN, f32::max);
        let best_cosine = cosines.iter().copied().fold(f32::MIN, f32::max);
        let bridges: Vec<(usize, &Reading, f32)> = read
            .iter()
            .zip(own)
            .enumerate()
            .take(n_bridges)
            .map(|(at, (reading, own))| (at, reading, (TRUST * (own - best_own)).exp()))
            .collect();
        let need = self.need(read);
        let features = read.iter().zip(own.iter().zip(cosines)).enumerate();
        features
            .map(|(at, (passage, (own, cosine)))| {
                let links = self.links(at, passage, &bridges);
                let is_named = passage.row.is_some_and(|row| self.named.contains(&row));
                let sentence = passage.sentences.iter().map(|sentence| self.share(sentence.terms | passage.title));
                [
                    *cosine,
                    cosine - best_cosine,
                    *own,
                    own - best_own,
                    flag(at == 0),
                    self.bm25(passage),
                    self.share(passage.text),
                    self.share(passage.title),
                    passage.title_fraction,
                    flag(is_named),
                    share(passage.pairs, &self.pair_weights),
                    sentence.fold(self.share(passage.title), f32::max),
                    flag(at >= super::RANKED),
                    (passage.namesakes.max(1) as f32).ln(),
                    (passage.title_weight / 10.0).min(3.0),
                    links.link,
                    links.back,
                    links.link_gain,
                    links.back_gain,
                    links.gain,
                    links.link_both,
                    links.back_both,
                    links.both,
                    links.sentence,
                    (1.0 + links.n_links).ln(),
                    (1.0 + links.n_back).ln(),
                    links.link * need,
                    links.back * need,
                ]
            })
            .collect()
    }

    /// What the best passage does not cover, from 0 to 1.
    pub fn need(&self, read: &[Reading]) -> f32 {
        read.first().map_or(1.0, |best| 1.0 - self.share(best.text))
    }

    fn links(&self, at: usize, passage: &Reading, bridges: &[(usize, &Reading, f32)]) -> Links {
        let mut links = Links::default();
        for &(bridge_at, bridge, trust) in bridges.iter().filter(|bridge| bridge.0 != at) {
            debug_assert_ne!(bridge_at, at);
            let gain = trust * self.share(passage.text & !bridge.text);
            let both = trust * self.share(passage.text | bridge.text);
            raise(&mut links.gain, gain);
            raise(&mut links.both, both);
            if bridge.document == passage.document {
                continue; // A document names itself in most of its passages.
            }
            let naming = bridge.sentences.iter().filter(|s| passage.row.is_some_and(|row| s.names.contains(&row)));
            let sentence = naming.map(|sentence| self.share(sentence.terms | bridge.title)).reduce(f32::max);
            if let Some(sentence) = sentence {
                raise(&mut links.link, trust);
                raise(&mut links.link_gain, gain);
                raise(&mut links.link_both, both);
                raise(&mut links.sentence, trust * sentence);
                links.n_links += trust;
            }
            if bridge.row.is_some_and(|row| passage.named().any(|named| named == row)) {
                raise(&mut links.back, trust);
                raise(&mut links.back_gain, gain);
                raise(&mut links.back_both, both);
                links.n_back += trust;
            }
        }
        links
    }

    fn share(&self, mask: Mask) -> f32 {
        share(mask, &self.weights)
    }

    fn bm25(&self, passage: &Reading) -> f32 {
        let length = passage.n_terms as f32 / self.lexicon.mean_length().max(1.0);
        let damped = K1 * (1.0 - B + B * length);
        let gained = self.weights.iter().zip(&passage.counts).map(|(idf, count)| {
            let count = f32::from(*count);
            idf * count / (count + damped)
        });
        ratio(gained.sum(), self.weights.iter().sum())
    }
}

impl Reading {
    /// Passages that this one names, each once, in order.
    pub fn named(&self) -> impl Iterator<Item = Row> {
        let mut seen = HashSet::new();
        self.sentences.iter().flat_map(|sentence| sentence.names.iter().copied()).filter(move |row| seen.insert(*row))
    }
}

/// The maxima and sums over bridges.
#[derive(Default)]
struct Links {
    link: f32,
    back: f32,
    link_gain: f32,
    back_gain: f32,
    gain: f32,
    link_both: f32,
    back_both: f32,
    both: f32,
    sentence: f32,
    n_links: f32,
    n_back: f32,
}

fn raise(highest: &mut f32, value: f32) {
    *highest = highest.max(value);
}

fn flag(is: bool) -> f32 {
    if is { 1.0 } else { 0.0 }
}

/// Weight of the bits that are set, as a share of all.
fn share(mask: Mask, weights: &[f32]) -> f32 {
    let set: f32 = weights.iter().enumerate().filter(|(bit, _)| mask >> bit & 1 == 1).map(|(_, weight)| weight).sum();
    ratio(set, weights.iter().sum())
}

fn ratio(part: f32, whole: f32) -> f32 {
    if whole > 0.0 { part / whole } else { 0.0 }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILM: (&str, &str) = ("Jaws (film)", "Jaws is about a shark. It was made by Steven Spielberg in 1975.");
    const PERSON: (&str, &str) = ("Steven Spielberg", "He was born in Cincinnati.");
    const OTHER: (&str, &str) = ("Cincinnati", "A town by a river.");

    fn features(question: &str, passages: &[(&str, &str)], feature: &str) -> Vec<f32> {
        let mut lexicon = Lexicon::default();
        let passage = |(n, (title, text)): (usize, &(&str, &str))| Passage {
            id: format!("{n}"),
            document: format!("{n}"),
            title: (*title).to_owned(),
            text: (*text).to_owned(),
            ..Passage::default()
        };
        let passages: Vec<Passage> = passages.iter().enumerate().map(passage).collect();
        for passage in &passages {
            lexicon.add(&passage.id, &passage.title, &terms(&format!("{} {}", passage.title, passage.text)));
        }
        let question = Question::new(&lexicon, question);
        let read: Vec<Reading> = passages.iter().map(|passage| question.read(passage)).collect();
        let own = vec![0.5; read.len()];
        let at = NAMES.iter().position(|name| *name == feature).unwrap();
        question.features(&read, &own, &own, 2).iter().map(|features| features[at]).collect()
    }

    #[test]
    fn links_go_from_the_naming_passage_to_the_named() {
        assert_eq!(features("who made Jaws", &[FILM, PERSON, OTHER], "link"), [0.0, 1.0, 1.0]);
        assert_eq!(
            features("who made Jaws", &[FILM, OTHER, PERSON], "back"),
            [0.0, 0.0, 1.0],
            "the person names the town"
        );
    }

    #[test]
    fn coverage_is_the_share_of_the_questions_terms() {
        let covered = features("shark made by Spielberg", &[FILM, PERSON, OTHER], "cov");
        assert!(
            (covered[0] - 1.0).abs() < 1e-6 && covered[1] > 0.0 && covered[1] < 1.0 && covered[2] == 0.0,
            "{covered:?}"
        );
        assert_eq!(features("the and of", &[FILM], "cov"), [0.0], "a question without terms covers nothing");
    }

    #[test]
    fn what_a_passage_adds_is_what_the_bridge_lacks() {
        let gained = features("which shark film's maker was born in Cincinnati", &[FILM, PERSON, OTHER], "lgain");
        assert!(gained[1] > 0.0 && gained[0] == 0.0, "{gained:?}");
    }

    #[test]
    fn a_title_in_the_question_is_found_without_its_brackets() {
        assert_eq!(features("who is in jaws", &[FILM, PERSON], "tinq"), [1.0, 0.0]);
    }

    #[test]
    fn more_terms_than_bits_are_no_harm() {
        let long: String = (0..200).map(|n| format!("word{n} ")).collect();
        let found = features(&long, &[FILM, ("Words", "word1 word2 word199")], "cov");
        assert!(found[1] > 0.0 && found[1] <= 1.0);
    }
}

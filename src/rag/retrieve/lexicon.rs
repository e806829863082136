//! What is known about a knowledge base as a whole, in memory: how rare its terms are, and which passages are about the thing
//! that a text names. Read once per version of the base.

use std::collections::HashMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use crate::rag::RagError;
use crate::rag::store::Table;
use crate::rag::terms::{fold, is_stop_word, stem, terms};

/// Words of a title at most; longer ones are sentences and are not looked for.
const MAX_WORDS: usize = 12;

/// Passages of one title at most: a title of many is a document's, not a thing's.
const MAX_PASSAGES: usize = 20;

/// A passage by its place in the lexicon.
pub type Row = u32;

/// Hashes stand for terms and titles: two that share one by chance (about one in 2^30 among a million) rank a passage wrongly,
/// and their texts would cost twenty times the memory.
#[derive(Default)]
pub struct Lexicon {
    ids: Vec<String>,
    rows: HashMap<u64, Row>,
    /// Passages that have a term.
    frequencies: HashMap<u64, u32>,
    /// Passages by the words of their title.
    titles: HashMap<u64, Vec<Row>>,
    /// Longest title, in words.
    longest: usize,
    n_terms: u64,
}

/// The lexicon of the version that was asked for last.
#[derive(Default)]
pub struct LexiconCache(tokio::sync::Mutex<Option<(u64, Arc<Lexicon>)>>);

impl LexiconCache {
    /// # Errors
    /// The table cannot be read.
    pub async fn get(&self, table: &Table) -> Result<Arc<Lexicon>, RagError> {
        let version = table.version().await?;
        // Held while the base is read: searches that come meanwhile wait for the one reading.
        let mut cache = self.0.lock().await;
        if let Some((known, lexicon)) = &*cache
            && *known == version
        {
            return Ok(lexicon.clone());
        }
        let mut lexicon = Lexicon::default();
        table.each_text(&mut |id, title, terms| lexicon.add(id, title, terms)).await?;
        let lexicon = Arc::new(lexicon);
        *cache = Some((version, lexicon.clone()));
        Ok(lexicon)
    }
}

impl Lexicon {
    /// Adds a passage; `indexed` are the terms it is indexed by.
    pub(super) fn add(&mut self, id: &str, title: &str, indexed: &str) {
        let Ok(row) = Row::try_from(self.ids.len()) else { return };
        self.ids.push(id.to_owned());
        self.rows.insert(hash(id), row);
        let mut distinct: Vec<u64> = indexed.split(' ').map(hash).collect();
        self.n_terms += distinct.len() as u64;
        distinct.sort_unstable();
        distinct.dedup();
        for term in distinct {
            *self.frequencies.entry(term).or_default() += 1;
        }
        for words in title_forms(title) {
            if words.len() <= MAX_WORDS && words.iter().map(String::len).sum::<usize>() >= 3 {
                self.longest = self.longest.max(words.len());
                let key = words.iter().fold(EMPTY, |key, word| extended(key, hash(word)));
                let rows = self.titles.entry(key).or_default();
                // One more than are looked at says that there are too many.
                if rows.len() <= MAX_PASSAGES && rows.last() != Some(&row) {
                    rows.push(row);
                }
            }
        }
    }

    pub fn id(&self, row: Row) -> Option<&str> {
        self.ids.get(row as usize).map(String::as_str)
    }

    pub fn row(&self, id: &str) -> Option<Row> {
        self.rows.get(&hash(id)).copied()
    }

    /// Whether any passage has the term.
    pub fn knows(&self, term: &str) -> bool {
        self.frequencies.contains_key(&hash(term))
    }

    /// Inverse document frequency as in BM25; of a term that no passage has the highest.
    pub fn idf(&self, term: &str) -> f32 {
        let (n, df) = (self.ids.len() as f32, self.frequencies.get(&hash(term)).map_or(0.0, |df| *df as f32));
        (1.0 + (n - df + 0.5) / (df + 0.5)).ln()
    }

    /// Terms in a passage, on average.
    pub fn mean_length(&self) -> f32 {
        self.n_terms as f32 / (self.ids.len() as f32).max(1.0)
    }

    /// Passages that share their title with this one, itself among them; counted to one more than are looked at.
    pub fn namesakes(&self, title: &str) -> usize {
        let key = title_words(without_brackets(title)).iter().fold(EMPTY, |key, word| extended(key, hash(word)));
        self.titles.get(&key).map_or(1, Vec::len)
    }

    /// Passages whose title `text` names: the longest title at each place. In running text a name of one word begins with a
    /// capital; people who ask do not bother (`asked`).
    pub fn named_in(&self, text: &str, asked: bool) -> Vec<Row> {
        let words = Words::of(text);
        let mut found = Vec::new();
        let mut at = 0;
        while at < words.hashes.len() {
            match self.longest_at(&words, at, asked) {
                Some((rows, n_words)) => {
                    found.extend(rows.iter().copied().filter(|row| !found.contains(row)).collect::<Vec<_>>());
                    at += n_words;
                }
                None => at += 1,
            }
        }
        found
    }

    fn longest_at(&self, words: &Words, at: usize, asked: bool) -> Option<(&[Row], usize)> {
        let mut key = EMPTY;
        let mut longest = None;
        for (n, word) in words.hashes[at..].iter().take(self.longest).enumerate() {
            key = extended(key, *word);
            if let Some(rows) = self.titles.get(&key).filter(|rows| rows.len() <= MAX_PASSAGES)
                && (n > 0
                    || words.can_be_name[at] == CanBeName::Yes
                    || (asked && words.can_be_name[at] == CanBeName::Asked))
            {
                longest = Some((rows.as_slice(), n + 1));
            }
        }
        longest
    }
}

/// Whether a word by itself may be the name of something.
#[derive(Clone, Copy, PartialEq, Eq)]
enum CanBeName {
    Yes,
    /// In a question only.
    Asked,
    /// It is a number, or a word that every text has.
    No,
}

/// A text as titles are compared with it.
struct Words {
    hashes: Vec<u64>,
    can_be_name: Vec<CanBeName>,
}

impl Words {
    fn of(text: &str) -> Words {
        let mut words = Words { hashes: Vec::new(), can_be_name: Vec::new() };
        for word in split(text) {
            let folded = fold(word);
            words.can_be_name.push(if is_stop_word(&folded) || word.chars().all(char::is_numeric) {
                CanBeName::No
            } else if word.starts_with(char::is_uppercase) {
                CanBeName::Yes
            } else {
                CanBeName::Asked
            });
            words.hashes.push(hash(&stem(&folded)));
        }
        words
    }
}

/// The ways a title is named: whole, without what tells it from others ("Kiss and Tell (1945 film)"), without its article.
fn title_forms(title: &str) -> Vec<Vec<String>> {
    let mut forms = vec![title_words(title), title_words(without_brackets(title))];
    let short = forms.iter().filter(|form| form.len() > 1 && form[0] == "the").map(|form| form[1..].to_vec());
    forms.extend(short.collect::<Vec<_>>());
    forms.retain(|form| !form.is_empty());
    forms.sort();
    forms.dedup();
    forms
}

fn title_words(title: &str) -> Vec<String> {
    split(title).map(|word| stem(&fold(word)).into_owned()).collect()
}

pub fn without_brackets(title: &str) -> &str {
    title.split(" (").next().unwrap_or(title)
}

/// Title terms that say what a passage is about.
pub fn title_terms(title: &str) -> String {
    terms(without_brackets(title))
}

/// Words without punctuation; the genitive's "'s" is no word.
fn split(text: &str) -> impl Iterator<Item = &str> {
    let mut after_apostrophe = false;
    text.split_inclusive(|c: char| !c.is_alphanumeric()).filter_map(move |piece| {
        let word = piece.trim_end_matches(|c: char| !c.is_alphanumeric());
        let is_genitive = after_apostrophe && word == "s";
        after_apostrophe = piece.ends_with(['\'', '\u{2019}']);
        (!word.is_empty() && !is_genitive).then_some(word)
    })
}

/// Key of no words.
const EMPTY: u64 = 0xcbf2_9ce4_8422_2325;

/// The key of a run of words with one more.
fn extended(key: u64, word: u64) -> u64 {
    (key.rotate_left(7) ^ word).wrapping_mul(0x9e37_79b9_7f4a_7c15)
}

fn hash(text: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lexicon(titles: &[&str]) -> Lexicon {
        let mut lexicon = Lexicon::default();
        for (n, title) in titles.iter().enumerate() {
            lexicon.add(&format!("{n}"), title, &terms(title));
        }
        lexicon
    }

    fn named(titles: &[&str], text: &str, asked: bool) -> Vec<Row> {
        lexicon(titles).named_in(text, asked)
    }

    #[test]
    fn the_longest_title_at_each_place_counts() {
        let titles = ["New York", "New York City Ballet", "Ballet"];
        assert_eq!(named(&titles, "She left the New York City Ballet for New York.", false), [1, 0]);
    }

    #[test]
    fn titles_are_found_without_what_tells_them_apart_and_in_other_forms() {
        assert_eq!(named(&["Kiss and Tell (1945 film)"], "in Kiss and Tell she played", false), [0]);
        assert_eq!(named(&["The Beatles"], "a song of Beatles' early years", false), [0]);
        assert_eq!(named(&["Beyonc\u{e9}"], "Beyonce's tour", false), [0]);
        assert_eq!(named(&["Grey's Anatomy"], "an actress of Grey\u{2019}s Anatomy", false), [0]);
    }

    #[test]
    fn a_common_word_names_nothing_in_running_text() {
        let titles = ["Father", "It", "1984"];
        assert_eq!(named(&titles, "his father gave it to him in 1984", false), [] as [Row; 0]);
        assert_eq!(named(&titles, "who wrote father", true), [0]);
        assert_eq!(named(&titles, "Father was written by Strindberg", false), [0]);
    }

    #[test]
    fn a_title_of_many_passages_is_no_name() {
        let lexicon = lexicon(&["Annual Report"; MAX_PASSAGES + 1]);
        assert!(lexicon.named_in("see the Annual Report", false).is_empty());
        assert_eq!(lexicon.namesakes("Annual Report"), MAX_PASSAGES + 1);
    }

    #[test]
    fn rare_terms_weigh_more() {
        let lexicon = lexicon(&["red house", "red boat", "red sky"]);
        assert!(lexicon.idf("hous") > lexicon.idf("red"));
        assert!(lexicon.idf("unseen") > lexicon.idf("hous"));
        assert_eq!((lexicon.mean_length(), lexicon.row("1"), lexicon.id(2)), (2.0, Some(1), Some("2")));
    }
}

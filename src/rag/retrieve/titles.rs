//! Titles of a knowledge base in memory: which passages are about the thing that a text names. Read once per version.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;

use crate::rag::RagError;
use crate::rag::store::Table;

/// Words of a title at most; longer ones are sentences and are not looked for.
const MAX_WORDS: usize = 10;

/// Passages by the words of their title.
#[derive(Debug, Default)]
pub struct TitleIndex {
    ids: HashMap<String, Vec<String>>,
    /// Longest title, in words.
    longest: usize,
}

/// The index of the version that was asked for last.
#[derive(Default)]
pub struct TitleCache(Mutex<Option<(u64, Arc<TitleIndex>)>>);

impl TitleCache {
    /// # Errors
    /// The table cannot be read.
    pub async fn get(&self, table: &Table) -> Result<Arc<TitleIndex>, RagError> {
        let version = table.version().await?;
        if let Some((known, index)) = &*self.0.lock()
            && *known == version
        {
            return Ok(index.clone());
        }
        let index = Arc::new(TitleIndex::new(table.titles().await?));
        *self.0.lock() = Some((version, index.clone()));
        Ok(index)
    }
}

impl TitleIndex {
    /// From pairs of title and passage id. "Kiss and Tell (1945 film)" is found as "Kiss and Tell", too.
    pub fn new(titles: Vec<(String, String)>) -> TitleIndex {
        let mut index = TitleIndex::default();
        for (title, id) in titles {
            let plain = words(without_brackets(&title)).join(" ");
            let whole = words(&title).join(" ");
            for key in if plain == whole { vec![plain] } else { vec![plain, whole] } {
                let n_words = key.split(' ').count();
                if key.chars().count() < 3 || n_words > MAX_WORDS {
                    continue;
                }
                index.longest = index.longest.max(n_words);
                index.ids.entry(key).or_default().push(id.clone());
            }
        }
        index
    }

    /// Titles that `text` names, longest first at each place, each once with the ids of its passages.
    pub fn named_in(&self, text: &str) -> Vec<(&str, &[String])> {
        let words = words(text);
        let mut found: Vec<(&str, &[String])> = Vec::new();
        let mut at = 0;
        while at < words.len() {
            let longest = self.longest.min(words.len() - at);
            let hit =
                (1..=longest).rev().find_map(|n| self.ids.get_key_value(&words[at..at + n].join(" ")).zip(Some(n)));
            match hit {
                Some(((title, ids), n)) => {
                    if !found.iter().any(|(known, _)| *known == title) {
                        found.push((title, ids));
                    }
                    at += n;
                }
                None => at += 1,
            }
        }
        found
    }
}

fn without_brackets(title: &str) -> &str {
    title.split(" (").next().unwrap_or(title)
}

/// Lower-case words without punctuation, as titles and texts are compared.
fn words(text: &str) -> Vec<String> {
    text.split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()).map(str::to_lowercase).collect()
}

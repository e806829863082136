//! Stand-ins for models, and knowledge bases in temporary folders.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use async_trait::async_trait;

use super::embed::Embed;
use super::ingest::NewDocument;
use super::knowledge_base::{Models, Place, Rag};
use super::read;
use super::terms::Language;
use super::{Document, RagError};

/// A vector counts the words of a text, each in one of 16 places. Counts the texts it was given.
#[derive(Default)]
pub struct WordCounts {
    pub n_texts: AtomicUsize,
}

impl WordCounts {
    pub fn texts(&self) -> usize {
        self.n_texts.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl Embed for WordCounts {
    fn model(&self) -> &str {
        "word-counts"
    }

    async fn dimensions(&self) -> Result<usize, RagError> {
        Ok(16)
    }

    fn reads(&self, language: Language) -> bool {
        language == Language::English
    }

    async fn embed(&self, texts: Vec<String>) -> Result<Vec<Vec<f32>>, RagError> {
        self.n_texts.fetch_add(texts.len(), Ordering::SeqCst);
        let vector = |text: &String| {
            let mut vector = [0.01f32; 16];
            for word in text.to_lowercase().split(|c: char| !c.is_alphanumeric()).filter(|word| !word.is_empty()) {
                vector[word.bytes().map(usize::from).sum::<usize>() % 16] += 1.0;
            }
            let norm = vector.iter().map(|v| v * v).sum::<f32>().sqrt();
            vector.iter().map(|v| v / norm).collect()
        };
        Ok(texts.iter().map(vector).collect())
    }
}

/// Knowledge bases in a folder of their own, with a model that counts words.
pub fn rag() -> (tempfile::TempDir, Rag, Arc<WordCounts>) {
    let dir = tempfile::tempdir().unwrap();
    let embed = Arc::new(WordCounts::default());
    let rag = reopened(dir.path(), embed.clone());
    (dir, rag, embed)
}

/// As another process would open the folder.
pub fn reopened(dir: &std::path::Path, embed: Arc<WordCounts>) -> Rag {
    let place = Place { uri: dir.join("rag").display().to_string(), ..Place::default() };
    Rag::new(place, Models { embed: Some(embed), rerank: None })
}

pub fn document(id: &str, title: &str, text: &str) -> NewDocument {
    let document = Document { title: title.into(), blocks: read::paragraphs(text), ..Document::default() };
    NewDocument { id: id.into(), document, tenant: None, source: None }
}

//! An embedding model behind an OpenAI-compatible API.

use std::time::Duration;

use async_trait::async_trait;
use futures_util::{StreamExt, TryStreamExt, stream};
use serde::Deserialize;
use serde_json::{Value, json};

use super::Lazy;
use super::endpoint::{Endpoint, Refused};
use crate::config::settings::RagEmbedding;
use crate::rag::RagError;
use crate::rag::embed::Embed;
use crate::rag::terms::Language;

/// An answer of 2,048 vectors of 3,072 numbers is about as long.
const MAX_ANSWER_BYTES: usize = 128 << 20;

/// Calls under way at the same time.
const CONCURRENT: usize = 4;

/// Pauses before a call is made again that failed for the moment.
const PAUSES: [Duration; 3] = [Duration::from_millis(500), Duration::from_secs(2), Duration::from_secs(5)];

pub struct EmbeddingModel {
    model: String,
    dimensions: Option<usize>,
    batch: usize,
    endpoint: Endpoint,
    pauses: &'static [Duration],
}

#[derive(Deserialize)]
struct Answer {
    data: Vec<Embedded>,
}

#[derive(Deserialize)]
struct Embedded {
    index: Option<usize>,
    embedding: Vec<f32>,
}

impl EmbeddingModel {
    /// None where the settings name none.
    pub fn configured(settings: &RagEmbedding) -> Option<EmbeddingModel> {
        let RagEmbedding { url, model, api_key, dimensions, batch, timeout_secs } = settings;
        let (url, model) = (url.as_ref()?, model.as_ref()?);
        let endpoint = Endpoint {
            what: format!("embedding model \"{model}\""),
            url: format!("{}/embeddings", url.trim_end_matches('/')),
            key: api_key.clone(),
            key_setting: "rag.embedding.api_key",
            patience: Duration::from_secs(*timeout_secs),
            client: Lazy::default(),
        };
        Some(EmbeddingModel { model: model.clone(), dimensions: *dimensions, batch: *batch, endpoint, pauses: &PAUSES })
    }

    async fn call(&self, texts: &[String]) -> Result<Vec<Vec<f32>>, RagError> {
        let mut body = json!({"model": self.model, "input": texts, "encoding_format": "float"});
        if let Some(dimensions) = self.dimensions {
            body["dimensions"] = dimensions.into();
        }
        let mut pauses = self.pauses.iter();
        let answer = loop {
            match self.once(&body).await {
                Ok(answer) => break answer,
                Err(refused) => match pauses.next().filter(|_| refused.is_passing()) {
                    Some(pause) => tokio::time::sleep(*pause).await,
                    None => return Err(RagError::Unavailable(refused.told)),
                },
            }
        };
        self.vectors(&answer, texts.len()).map_err(RagError::Unavailable)
    }

    async fn once(&self, body: &Value) -> Result<Vec<u8>, Refused> {
        let mut response = self.endpoint.post(body, "application/json").await?;
        let whole = self.endpoint.whole(&mut response, MAX_ANSWER_BYTES).await;
        whole.map_err(|told| Refused { status: None, told })
    }

    /// The vectors of an answer in the order of the texts, each of length 1.
    fn vectors(&self, answer: &[u8], n_texts: usize) -> Result<Vec<Vec<f32>>, String> {
        let what = &self.endpoint.what;
        let Answer { mut data } = serde_json::from_slice(answer)
            .map_err(|error| format!("{what} answered what is no list of vectors: {error}"))?;
        if data.len() != n_texts {
            return Err(format!("{what} answered {} vectors for {n_texts} texts", data.len()));
        }
        data.sort_by_key(|embedded| embedded.index);
        let width = data.first().map_or(0, |embedded| embedded.embedding.len());
        let normalised = data.into_iter().map(|Embedded { embedding, .. }| {
            let norm = embedding.iter().map(|value| value * value).sum::<f32>().sqrt();
            let is_vector = embedding.len() == width && norm.is_normal();
            is_vector.then(|| embedding.into_iter().map(|value| value / norm).collect())
        });
        let vectors: Option<Vec<Vec<f32>>> = normalised.collect();
        vectors.ok_or_else(|| format!("{what} answered vectors that are empty, of different lengths, or no numbers"))
    }
}

#[async_trait]
impl Embed for EmbeddingModel {
    fn model(&self) -> &str {
        &self.model
    }

    async fn dimensions(&self) -> Result<usize, RagError> {
        if let Some(dimensions) = self.dimensions {
            return Ok(dimensions);
        }
        let vectors = self.call(&["How long is a vector?".to_owned()]).await?;
        Ok(vectors.first().map_or(0, Vec::len))
    }

    /// Which languages a model reads is known to who chose it.
    fn reads(&self, _language: Language) -> bool {
        true
    }

    async fn embed(&self, texts: Vec<String>) -> Result<Vec<Vec<f32>>, RagError> {
        let calls = texts.chunks(self.batch.max(1)).map(|texts| self.call(texts)).collect::<Vec<_>>();
        let answered: Vec<Vec<Vec<f32>>> = stream::iter(calls).buffered(CONCURRENT).try_collect().await?;
        Ok(answered.into_iter().flatten().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model() -> EmbeddingModel {
        let settings = RagEmbedding {
            url: Some("http://127.0.0.1:1/v1/".into()),
            model: Some("m".into()),
            ..RagEmbedding::default()
        };
        EmbeddingModel { pauses: &[], ..EmbeddingModel::configured(&settings).unwrap() }
    }

    #[test]
    fn vectors_are_in_the_order_of_the_texts_and_of_length_1() {
        let answer =
            br#"{"data": [{"index": 1, "embedding": [0, 2]}, {"index": 0, "embedding": [3, 4]}], "model": "m"}"#;
        assert_eq!(model().vectors(answer, 2).unwrap(), [[0.6, 0.8], [0.0, 1.0]]);
        assert_eq!(model().endpoint.url, "http://127.0.0.1:1/v1/embeddings");
    }

    #[test]
    fn an_answer_that_cannot_be_used_is_said_so() {
        for (answer, n_texts, told) in [
            (r#"{"data": []}"#, 1, "0 vectors for 1 texts"),
            (r#"{"data": [{"embedding": []}]}"#, 1, "empty"),
            (r#"{"data": [{"embedding": [0, 0]}]}"#, 1, "empty"),
            (r#"{"data": [{"embedding": [1, 0]}, {"embedding": [1]}]}"#, 2, "different lengths"),
            (r#"{"error": "x"}"#, 1, "no list of vectors"),
            ("<html>", 1, "no list of vectors"),
        ] {
            let error = model().vectors(answer.as_bytes(), n_texts).unwrap_err();
            assert!(error.contains(told) && error.contains("embedding model \"m\""), "{answer}: {error}");
        }
    }

    #[tokio::test]
    async fn one_that_is_not_there_is_named() {
        let error = model().embed(vec!["a".into()]).await.unwrap_err();
        assert!(matches!(&error, RagError::Unavailable(told) if told.contains("no connection")), "{error}");
    }

    #[test]
    fn none_is_configured_by_default() {
        assert!(EmbeddingModel::configured(&RagEmbedding::default()).is_none());
    }
}

//! `[rag]`: the language model and the search engine of knowledge bases.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::base::secret::Secret;

/// Where knowledge bases are kept, and what they may ask for an answer. Without a model an answer is made of the documents'
/// own sentences.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct Rag {
    /// Object storage that speaks S3, in the place of `rag/` in the data folder. Its keys come from the environment:
    /// AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = "s3://bucket/folder")]
    pub storage_url: Option<String>,
    /// Where that storage is, if it is not Amazon's.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = "http://127.0.0.1:9000")]
    pub storage_endpoint: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = "eu-central-1")]
    pub storage_region: Option<String>,
    /// Model that writes answers, and queries where a step asks for them.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = "qwen-max")]
    pub model: Option<String>,
    /// OpenAI-compatible API that has the model, up to and with /v1. Without it this gateway is asked at its own HTTP port, where
    /// the routes' providers, token pools, fallbacks and limits are.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = "https://api.openai.com/v1")]
    pub url: Option<String>,
    /// Sent as `Authorization: Bearer`: the API's key, or that of a consumer of this gateway.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", example = "sk-...")]
    pub api_key: Option<Secret>,
    /// For the first byte of an answer, and between two pieces of it.
    pub timeout_secs: u64,
    pub embedding: RagEmbedding,
    pub web: RagWeb,
}

/// Embedding model behind an OpenAI-compatible API, in the place of the sentence model in the process. A knowledge base keeps the model that it
/// was made with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct RagEmbedding {
    /// Up to and with /v1. Text is embedded in the process without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = "https://api.openai.com/v1")]
    pub url: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = "text-embedding-3-small")]
    pub model: Option<String>,
    /// Sent as `Authorization: Bearer`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", example = "sk-...")]
    pub api_key: Option<Secret>,
    /// Numbers in a vector, where the model can be asked for fewer than it has.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = 512)]
    pub dimensions: Option<usize>,
    /// Texts in one call.
    pub batch: usize,
    pub timeout_secs: u64,
}

/// Search engine for questions that the documents do not answer, where the step `web` is on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(default)]
pub struct RagWeb {
    /// `searxng`, `bing`, `brave`, `google`, `tavily`, `serper` or `json`. Nothing is searched without it.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = &"searxng")]
    pub provider: Option<WebProvider>,
    /// Address of the engine; the others than `searxng` have one.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = "http://127.0.0.1:8888")]
    pub base_url: Option<String>,
    /// API key of the engine.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(with = "Option<String>", example = "...")]
    pub key: Option<Secret>,
    /// Id of Google's search engine (`cx`).
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schemars(example = "...")]
    pub engine: Option<String>,
    /// Pages that are read, 10 at most.
    pub results: usize,
    /// Read the pages, or take the engine's snippets for them.
    pub read_pages: bool,
    pub timeout_ms: u64,
    /// Of `json`: `url`, `body`, `headers`, `results_path`, `title`, `url_path`, `text` (docs/rag.md).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<Value>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "snake_case")]
pub enum WebProvider {
    Searxng,
    Bing,
    Brave,
    Google,
    Tavily,
    Serper,
    Json,
}

impl Default for Rag {
    fn default() -> Self {
        Self {
            storage_url: None,
            storage_endpoint: None,
            storage_region: None,
            model: None,
            url: None,
            api_key: None,
            timeout_secs: 60,
            embedding: RagEmbedding::default(),
            web: RagWeb::default(),
        }
    }
}

impl Default for RagEmbedding {
    fn default() -> Self {
        Self { url: None, model: None, api_key: None, dimensions: None, batch: 64, timeout_secs: 60 }
    }
}

impl Default for RagWeb {
    fn default() -> Self {
        Self {
            provider: None,
            base_url: None,
            key: None,
            engine: None,
            results: 5,
            read_pages: true,
            timeout_ms: 5_000,
            endpoint: None,
        }
    }
}

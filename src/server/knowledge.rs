//! The knowledge bases of the process: where they lie and which models serve them.

use std::sync::Arc;

use super::outside::embedding;
use crate::config::settings::Settings;
use crate::infer::{Engine, Library};
use crate::rag::RagError;
use crate::rag::ask::{Ask, Events, events};
use crate::rag::cross_encoder::CrossEncoderScore;
use crate::rag::embed::SentenceModel;
use crate::rag::knowledge_base::{Caller, Models, Place, Rag};
use crate::rag::retrieve::{Candidate, Search};

/// Reads next to nothing yet: the folder and the models are opened by the first request that needs them.
pub fn open(settings: &Settings, engine: &Arc<Engine>) -> Rag {
    let embed = embedding(settings).unwrap_or_else(|| Arc::new(SentenceModel::of_engine(engine.clone())));
    let found = CrossEncoderScore::find(&Library::new(&settings.models_dir), Some(engine.clone()));
    let rerank =
        found.inspect_err(|error| tracing::warn!(%error, "The reranker cannot be used; searches go without it")).ok();
    Rag::new(place(settings), Models { embed: Some(embed), rerank })
}

/// Where the knowledge bases lie: in object storage if the settings say so, else in the data folder.
pub fn place(settings: &Settings) -> Place {
    let Some(url) = &settings.rag.storage_url else {
        return Place { uri: settings.data_dir.join("rag").display().to_string(), ..Place::default() };
    };
    let endpoint = settings.rag.storage_endpoint.as_ref();
    let is_plain = endpoint.is_some_and(|url| url.starts_with("http://")).then(|| "true".to_owned());
    let options =
        [("endpoint", endpoint), ("region", settings.rag.storage_region.as_ref()), ("allow_http", is_plain.as_ref())];
    let options = options.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?.clone())));
    Place { uri: url.clone(), options: options.collect() }
}

/// Passages for a request that passes through the gateway.
///
/// # Errors
/// There is no such knowledge base for this caller, or it cannot be searched.
pub async fn search(rag: &Rag, base: &str, mut search: Search, caller: &Caller) -> Result<Vec<Candidate>, RagError> {
    let base = rag.admitted(base, caller).await?;
    if let Caller::Consumer { tenant, .. } = caller {
        search.filter.tenant.clone_from(tenant);
    }
    Ok(base.search(&search).await?.candidates)
}

/// An answer for a request that passes through the gateway.
///
/// # Errors
/// There is no such knowledge base for this caller, or it cannot be read.
pub async fn ask(rag: &Rag, base: &str, mut ask: Ask, caller: &Caller) -> Result<Events, RagError> {
    let base = rag.admitted(base, caller).await?;
    if let Caller::Consumer { tenant, .. } = caller {
        ask.search.filter.tenant.clone_from(tenant);
    }
    Ok(Box::pin(events(base, ask)))
}

//! The knowledge bases of the process: where they lie and which models serve them.

use std::sync::Arc;

use crate::config::settings::Settings;
use crate::infer::Engine;
use crate::rag::RagError;
use crate::rag::ask::{Ask, Events, events};
use crate::rag::embed::SentenceModel;
use crate::rag::knowledge_base::{Caller, Models, Place, Rag};
use crate::rag::retrieve::{Candidate, Search};

/// Reads nothing yet: the folder and the model are opened by the first request that needs them.
pub fn open(settings: &Settings, engine: &Arc<Engine>) -> Rag {
    let place = Place { uri: settings.data_dir.join("rag").display().to_string(), ..Place::default() };
    let embed = SentenceModel::of_engine(engine.clone());
    Rag::new(place, Models { embed: Some(Arc::new(embed)), rerank: None })
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

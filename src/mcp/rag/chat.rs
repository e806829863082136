//! Who words the answer of the tool `chat`.

use crate::rag::RagError;
use crate::rag::ask::Asked;
use crate::rag::knowledge_base::KnowledgeBase;
use crate::rag::retrieve::Search;

/// Answers as every other way of asking the knowledge base does.
///
/// # Errors
/// The knowledge base cannot be searched.
pub async fn answer(base: &KnowledgeBase, search: &Search) -> Result<Asked, RagError> {
    base.ask(search).await
}

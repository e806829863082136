//! Names, descriptions and arguments of the tools, as clients see them.

use std::sync::Arc;

use rmcp::model::{Tool, ToolAnnotations, object};
use serde_json::{Value, json};

use crate::config::model::RagServer;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ToolName {
    Chat,
    CreateChunks,
    DeleteChunk,
    ListChunks,
    SearchChunks,
}

impl ToolName {
    /// In the order of their names: lists are the same every time.
    pub const ALL: [ToolName; 5] =
        [ToolName::Chat, ToolName::CreateChunks, ToolName::DeleteChunk, ToolName::ListChunks, ToolName::SearchChunks];

    pub fn name(self) -> &'static str {
        match self {
            ToolName::Chat => "chat",
            ToolName::CreateChunks => "create-chunks-from-text",
            ToolName::DeleteChunk => "delete-chunk",
            ToolName::ListChunks => "list-chunks",
            ToolName::SearchChunks => "search-chunks",
        }
    }

    /// The tool of that name. Higress' documentation has `search`, its program `search-chunks`.
    pub fn of(name: &str) -> Option<ToolName> {
        let name = if name == "search" { ToolName::SearchChunks.name() } else { name };
        Self::ALL.into_iter().find(|tool| tool.name() == name)
    }

    pub fn writes(self) -> bool {
        matches!(self, ToolName::CreateChunks | ToolName::DeleteChunk)
    }

    pub fn described(self) -> Tool {
        let (title, description, properties, required) = self.parts();
        let schema = json!({"type": "object", "properties": properties, "required": required});
        let hints = ToolAnnotations::with_title(title)
            .read_only(!self.writes())
            .destructive(self == ToolName::DeleteChunk)
            .idempotent(self != ToolName::DeleteChunk)
            .open_world(false);
        Tool::new(self.name(), description, Arc::new(object(schema))).with_annotations(hints)
    }

    /// Title, description, arguments, and which of them must be there.
    fn parts(self) -> (&'static str, &'static str, Value, &'static [&'static str]) {
        match self {
            ToolName::Chat => (
                "Answer from the documents",
                "Answer a question from the documents of the knowledge base, or say that they do not answer it",
                json!({"query": {"type": "string", "description": "The question"}}),
                &["query"],
            ),
            ToolName::CreateChunks => (
                "Store a text",
                "Cut a text into chunks and store them in the knowledge base; the same text under the same title is stored once",
                json!({
                    "text": {"type": "string", "description": "The text to store"},
                    "title": {"type": "string", "description": "What the text is about"},
                }),
                &["text", "title"],
            ),
            ToolName::DeleteChunk => (
                "Delete a chunk",
                "Delete one chunk from the knowledge base",
                json!({"id": {"type": "string", "description": "The chunk's id, as the other tools return it"}}),
                &["id"],
            ),
            ToolName::ListChunks => {
                ("List chunks", "List the chunks of the knowledge base, at most 1,000", json!({}), &[])
            }
            ToolName::SearchChunks => (
                "Search",
                "Find the passages of the knowledge base that fit a question or phrase, best first",
                json!({
                    "query": {"type": "string", "description": "What to look for"},
                    "topk": {"type": "integer", "minimum": 1, "maximum": RagServer::MAX_TOP_K,
                        "description": "Passages to return at most"},
                    "threshold": {"type": "number", "description": "Passages with a lower score are left out"},
                }),
                &["query"],
            ),
        }
    }
}

//! A knowledge base as an MCP server: the five tools of Higress' RAG server with their names, arguments and JSON.
//!
//! What of Higress' server is not copied: its `topk` and `threshold` have no effect, search results have no time, and the same text
//! stored again is there twice.

mod arguments;
mod calls;
mod chat;
mod tools;

use std::sync::Arc;

use rmcp::model::{
    CallToolRequestParams, CallToolResponse, CallToolResult, ContentBlock, ErrorData, Implementation, ListToolsResult,
    PaginatedRequestParams, ServerCapabilities, ServerConfig, Tool,
};
use rmcp::service::{NotificationContext, RequestContext};
use rmcp::{RoleServer, ServerHandler};

use self::arguments::Arguments;
use self::tools::ToolName;
use super::Client;
use crate::config::model::RagServer;
use crate::rag::RagError;
use crate::rag::knowledge_base::Rag;
use crate::rag::store::Filter;

/// Of Higress' server, whose tools these are.
const VERSION: &str = "1.0.0";

const INSTRUCTIONS: &str = "A knowledge base. `search-chunks` finds passages, `chat` answers a question from them, the other tools list, store and delete passages.";

/// The tools for one client.
#[derive(Clone)]
pub struct RagTools {
    rag: Arc<Rag>,
    name: Arc<str>,
    settings: Arc<RagServer>,
    client: Arc<Client>,
}

/// Why a call did not do its work.
enum Failure {
    /// What the caller can put right: part of the tool's result, so that the model reads it.
    Call(String),
    /// The gateway's own fault: an error of the protocol, as all errors of Higress' server are.
    Gateway(String),
}

impl RagTools {
    pub fn new(rag: Arc<Rag>, name: &str, settings: RagServer, client: Client) -> RagTools {
        RagTools { rag, name: name.into(), settings: settings.into(), client: client.into() }
    }

    /// The rows that this client may see.
    fn filter(&self) -> Filter {
        Filter { tenant: self.client.tenant.clone(), ..Filter::default() }
    }

    fn tool(&self, name: &str) -> Option<ToolName> {
        ToolName::of(name).filter(|tool| !(self.settings.read_only && tool.writes()))
    }

    fn tools(&self) -> Vec<Tool> {
        ToolName::ALL
            .iter()
            .filter(|tool| !(self.settings.read_only && tool.writes()))
            .map(|tool| tool.described())
            .collect()
    }
}

impl ServerHandler for RagTools {
    fn get_info(&self) -> ServerConfig {
        ServerConfig::new(ServerCapabilities::builder().enable_tools().build())
            .with_server_info(Implementation::new(&*self.name, VERSION))
            .with_instructions(INSTRUCTIONS)
    }

    async fn list_tools(
        &self,
        _: Option<PaginatedRequestParams>,
        _: RequestContext<RoleServer>,
    ) -> Result<ListToolsResult, ErrorData> {
        Ok(ListToolsResult::with_all_items(self.tools()))
    }

    async fn call_tool(
        &self,
        request: CallToolRequestParams,
        _: RequestContext<RoleServer>,
    ) -> Result<CallToolResponse, ErrorData> {
        let Some(tool) = self.tool(&request.name) else {
            let known: Vec<String> = self.tools().into_iter().map(|tool| tool.name.into_owned()).collect();
            let message = format!("there is no tool \"{}\"; there are {}", request.name, known.join(", "));
            return Err(ErrorData::invalid_params(message, None));
        };
        let arguments = Arguments::new(request.arguments.unwrap_or_default());
        match calls::call(self, tool, &arguments).await {
            Ok(result) => Ok(result.into()),
            Err(Failure::Call(message)) => Ok(CallToolResult::error(vec![ContentBlock::text(message)]).into()),
            Err(Failure::Gateway(message)) => {
                tracing::warn!(server = %self.name, tool = tool.name(), error = message, "An MCP tool failed");
                Err(ErrorData::internal_error(message, None))
            }
        }
    }

    /// Asked by rmcp to compare headers with arguments.
    fn get_tool(&self, name: &str) -> Option<Tool> {
        self.tool(name).map(ToolName::described)
    }

    /// A stateless server has nothing to begin.
    async fn on_initialized(&self, _: NotificationContext<RoleServer>) {}
}

impl From<RagError> for Failure {
    fn from(error: RagError) -> Failure {
        let message = error.to_string();
        match error {
            RagError::Invalid(_)
            | RagError::Unknown { .. }
            | RagError::UnknownFile(_)
            | RagError::UnknownBase { .. }
            | RagError::Forbidden(_)
            | RagError::Name(_)
            | RagError::NoPath(_)
            | RagError::Unreadable(_) => Failure::Call(message),
            RagError::Exists(_)
            | RagError::Dimensions { .. }
            | RagError::Model { .. }
            | RagError::Store { .. }
            | RagError::Busy(_)
            | RagError::Unavailable(_)
            | RagError::Cut(_)
            | RagError::Failed(_) => Failure::Gateway(message),
        }
    }
}

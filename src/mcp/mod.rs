//! The Model Context Protocol: servers whose tools run in this process, over streamable HTTP.
//!
//! ```text
//! request ── transport: batches, what is no message ── rmcp: versions, methods ── rag: the tools of a knowledge base
//! ```
//!
//! Called by `proxy` for the servers of the ConfigMap `higress-config`, by `admin` for any knowledge base. A hub of servers
//! elsewhere will be one more [`McpServerKind`] beside `rag`. Everything here is stateless: a request needs none before it, and
//! every answer is one JSON document.

pub mod rag;
#[cfg(test)]
mod tests;
mod transport;

use std::net::IpAddr;
use std::sync::Arc;

use bytes::Bytes;
use http::{Request, Response};
use tokio::sync::oneshot;

use crate::base::tasks::Tasks;
use crate::config::model::{McpServer, McpServerKind, RagServer};
use crate::rag::knowledge_base::{Caller, Rag};

use self::rag::RagTools;

/// The servers' common ground. One per process.
pub struct Mcp {
    rag: Arc<Rag>,
    tasks: Tasks,
}

/// Who calls.
#[derive(Debug, Clone)]
pub struct Client {
    caller: Caller,
    /// Whose documents are seen and written, beside everybody's.
    tenant: Option<String>,
}

impl Client {
    /// A consumer of the gateway, if a plugin found out which.
    pub fn consumer(name: Option<String>) -> Client {
        Client { caller: Caller::Consumer { name, tenant: None }, tenant: None }
    }

    /// Whoever has the admin token.
    pub fn operator(tenant: Option<String>) -> Client {
        Client { caller: Caller::Operator, tenant }
    }
}

impl Mcp {
    pub fn new(rag: Arc<Rag>, tasks: Tasks) -> Mcp {
        Mcp { rag, tasks }
    }

    /// Answers one HTTP request to a server, on the background threads: searching must not take a proxy thread's turn.
    pub async fn answer(&self, server: &McpServer, client: Client, request: Request<Bytes>) -> Response<Bytes> {
        let McpServerKind::Rag(settings) = &server.kind;
        let tools = RagTools::new(self.rag.clone(), &server.name, settings.clone(), client);
        let (sender, receiver) = oneshot::channel();
        // The receiver may be gone: then the client is, too.
        self.tasks.spawn(async move { drop(sender.send(transport::answer(tools, request).await)) });
        receiver.await.unwrap_or_else(|_| transport::stopping())
    }
}

/// The server that a knowledge base is without any configuration.
pub fn server_of(knowledge_base: &str) -> McpServer {
    let kind = McpServerKind::Rag(RagServer::new(knowledge_base));
    McpServer { name: knowledge_base.to_owned(), path: String::new(), hosts: Vec::new(), kind }
}

/// Whether a web page may call the server at this host. A page on a foreign name that resolves to this machine (DNS rebinding)
/// may not: addresses and `localhost` cannot be rebound, and names that the configuration has are its owner's.
pub fn admits_pages(server: &McpServer, host: &str) -> bool {
    let is_address = host.trim_matches(['[', ']']).parse::<IpAddr>().is_ok();
    is_address || host == "localhost" || host.ends_with(".localhost") || server.names(host)
}

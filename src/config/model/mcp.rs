//! MCP servers that run inside the gateway, and where they are reached.

use serde::Serialize;

/// One server of `mcpServer.servers` in the ConfigMap `higress-config`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct McpServer {
    /// What the server calls itself.
    pub name: String,
    /// The whole path of its requests.
    pub path: String,
    /// Hosts it is reached at: one of each list must match.
    pub hosts: Vec<Vec<HostPattern>>,
    pub kind: McpServerKind,
}

/// Where the tools of a server come from.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum McpServerKind {
    Rag(RagServer),
}

/// A knowledge base as a server of type `rag`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct RagServer {
    pub knowledge_base: String,
    /// Passages that a search returns where the call does not say: 1 to [`RagServer::MAX_TOP_K`].
    pub top_k: usize,
    /// Passages with a lower score are left out, where the call does not say.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub threshold: Option<f64>,
    /// Characters in a chunk and in its overlap, if the knowledge base has yet to be made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chunk_size: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub chunk_overlap: Option<usize>,
    /// Leaves out the tools that write.
    pub read_only: bool,
}

/// A host name in which one `*` stands for any characters.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HostPattern {
    before: String,
    /// `None`: no `*`.
    #[serde(skip_serializing_if = "Option::is_none")]
    after: Option<String>,
}

impl McpServer {
    /// Whether a request to this host (lower case, without port) and path is for this server.
    pub fn takes(&self, host: &str, path: &str) -> bool {
        let is_one_of = |patterns: &Vec<HostPattern>| patterns.iter().any(|pattern| pattern.matches(host));
        self.path == path && self.hosts.iter().all(is_one_of)
    }

    /// Whether the configuration names this host, instead of taking any.
    pub fn names(&self, host: &str) -> bool {
        self.hosts.iter().flatten().any(|pattern| !pattern.is_any() && pattern.matches(host))
    }
}

impl RagServer {
    pub const DEFAULT_TOP_K: usize = 10;
    pub const MAX_TOP_K: usize = 100;

    /// With the defaults of Higress' server, except that its threshold of 0.5, which it never applied, is none.
    pub fn new(knowledge_base: &str) -> RagServer {
        RagServer {
            knowledge_base: knowledge_base.to_owned(),
            top_k: Self::DEFAULT_TOP_K,
            threshold: None,
            chunk_size: None,
            chunk_overlap: None,
            read_only: false,
        }
    }
}

impl HostPattern {
    /// `None` if there is more than one `*`.
    pub fn parse(text: &str) -> Option<HostPattern> {
        let text = text.to_ascii_lowercase();
        match text.split_once('*') {
            None => Some(HostPattern { before: text, after: None }),
            Some((_, after)) if after.contains('*') => None,
            Some((before, after)) => Some(HostPattern { before: before.to_owned(), after: Some(after.to_owned()) }),
        }
    }

    pub fn any() -> HostPattern {
        HostPattern { before: String::new(), after: Some(String::new()) }
    }

    fn is_any(&self) -> bool {
        *self == HostPattern::any()
    }

    fn matches(&self, host: &str) -> bool {
        match &self.after {
            None => host == self.before,
            Some(after) => host.strip_prefix(self.before.as_str()).is_some_and(|rest| rest.ends_with(after.as_str())),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(hosts: &[&[&str]]) -> McpServer {
        let patterns = |list: &&[&str]| list.iter().map(|text| HostPattern::parse(text).unwrap()).collect();
        let kind = McpServerKind::Rag(RagServer::new("docs"));
        McpServer { name: "rag".into(), path: "/mcp/rag".into(), hosts: hosts.iter().map(patterns).collect(), kind }
    }

    #[test]
    fn a_server_takes_its_path_on_its_hosts() {
        for (hosts, host, expected) in [
            (&[][..], "a.com", true),
            (&[&["*"][..]][..], "a.com", true),
            (&[&["A.com", "b.com"]], "a.com", true),
            (&[&["*.a.com"]], "x.a.com", true),
            (&[&["*.a.com"]], "a.com", false),
            (&[&["mcp.*"]], "mcp.a.com", true),
            (&[&["a*a"]], "a", false),
            (&[&["*"], &["a.com"]], "b.com", false),
            (&[&[]], "a.com", false),
        ] {
            assert_eq!(server(hosts).takes(host, "/mcp/rag"), expected, "{hosts:?} {host}");
            assert!(!server(hosts).takes(host, "/mcp/rag/more"));
        }
        assert_eq!(HostPattern::parse("*.a.*"), None);
    }

    #[test]
    fn a_host_is_named_by_more_than_a_star() {
        assert!(!server(&[]).names("a.com"));
        assert!(!server(&[&["*"]]).names("a.com"));
        assert!(server(&[&["*"], &["*.com"]]).names("a.com"));
        assert!(!server(&[&["*.org"]]).names("a.com"));
    }
}

//! `mcpServer` of the ConfigMap `higress-config` (Higress `configmap/mcp_server.go`): which MCP servers the gateway has, and
//! where they are reached. Servers of type `rag` run here; of the rest is said that it has no effect.

use regex::Regex;
use serde_json::Value;

use super::mcp_rag;
use crate::config::fields::Fields;
use crate::config::model::{HostPattern, McpServer, McpServerKind};

/// Server types of Higress that this gateway does not have.
const OTHER_TYPES: &[&str] =
    &["database", "higress-api", "higress-ops", "nacos-mcp-registry", "nginx-migration", "tool-search"];

/// In the place of a `config` that is not there.
static NOTHING: Value = Value::Null;

const MATCH_TYPES: &[&str] = &["exact", "prefix", "suffix", "contains", "regex"];
const UPSTREAM_TYPES: &[&str] = &["", "rest", "sse", "streamable"];

/// The servers that run here; none where MCP is switched off, which a section that does not say `enable: true` is.
pub(super) fn read(mut fields: Fields<'_>) -> Vec<McpServer> {
    if !fields.boolean("enable").unwrap_or(false) {
        fields.inert(&["enable_user_level_server", "match_list", "rate_limit", "redis", "servers", "sse_path_suffix"]);
        fields.finish();
        return Vec::new();
    }
    let rules: Vec<Rule> = fields.objects("match_list").into_iter().map(Rule::read).collect();
    let mut servers: Vec<McpServer> = Vec::new();
    for entry in fields.objects("servers") {
        let (report, place) = (entry.report(), entry.path().to_owned());
        let Some(mut server) = server(entry) else { continue };
        if !rules.is_empty() {
            let covering = rules.iter().filter(|rule| rule.covers(&server.path));
            let domains: Vec<HostPattern> = covering.map(|rule| rule.domain.clone()).collect();
            if domains.is_empty() {
                report.warn_hint(
                    &place,
                    format!("no rule of match_list covers `{}`, so this server is not reached", server.path),
                    "add a rule for the path, or leave match_list out",
                );
            }
            server.hosts.push(domains);
        }
        match servers.iter().find(|first| first.path == server.path && first.hosts == server.hosts) {
            Some(first) => report.warn(
                &place,
                format!(
                    "`{}` is the path of the server `{}` already; this one is not reached",
                    server.path, first.name
                ),
            ),
            None => servers.push(server),
        }
    }
    let is_idle = |rule: &&Rule| !rule.is_wrong() && !servers.iter().any(|server| rule.covers(&server.path));
    for rule in rules.iter().filter(is_idle) {
        fields.report().warn(
            &rule.place,
            "is for no MCP server of this gateway: requests pass to their route unchanged, without SSE sessions and path rewrite",
        );
    }
    fields.text("sse_path_suffix");
    if fields.object("redis").is_some_and(|mut redis| redis.text("address").is_some_and(|address| !address.is_empty()))
    {
        fields.report().warn_hint(
            &fields.path_of("redis"),
            "is not used: sessions over HTTP+SSE, which it would keep, are not supported",
            "clients that speak streamable HTTP use the server's path",
        );
    }
    if fields.boolean("enable_user_level_server") == Some(true) {
        fields.report().warn(&fields.path_of("enable_user_level_server"), "is not supported yet and has no effect");
    }
    fields.unsupported(&["rate_limit"]);
    fields.finish();
    servers
}

/// One server; `None` if it does not run here, which has been reported.
fn server(mut fields: Fields<'_>) -> Option<McpServer> {
    let report = fields.report();
    let part = report.part();
    let name = fields.required_text("name").map(str::to_owned);
    let path = fields.required_text("path").map(str::to_owned);
    if let Some(path) = path.as_ref().filter(|path| !path.starts_with('/')) {
        report.error(&fields.path_of("path"), format!("must begin with `/`, which `{path}` does not"));
    }
    let mut domains: Vec<HostPattern> = Vec::new();
    for (at, domain) in fields.texts("domain_list").iter().enumerate() {
        match HostPattern::parse(domain) {
            Some(pattern) => domains.push(pattern),
            None => report.error(
                &format!("{}[{at}]", fields.path_of("domain_list")),
                format!("`{domain}` has more than one `*`"),
            ),
        }
    }
    let kind = match fields.required_text("type") {
        Some("rag") => {
            let config = fields.object("config");
            let config = config.unwrap_or_else(|| Fields::new(&NOTHING, fields.path_of("config"), report));
            mcp_rag::read(config).map(McpServerKind::Rag)
        }
        Some(other) => {
            // Whatever it holds belongs to a server that does not run.
            fields.inert(&["config"]);
            let message = if OTHER_TYPES.contains(&other) {
                format!("MCP servers of type `{other}` are not supported yet: this one does not run")
            } else {
                format!("there is no MCP server of type `{other}`: this one does not run")
            };
            report.warn_hint(&fields.path_of("type"), message, "`rag` is supported");
            None
        }
        None => {
            fields.inert(&["config"]);
            None
        }
    };
    fields.finish();
    if !part.is_whole() {
        return None;
    }
    let hosts = if domains.is_empty() { Vec::new() } else { vec![domains] };
    Some(McpServer { name: name?, path: path?, hosts, kind: kind? })
}

/// Where requests are taken for MCP.
struct Rule {
    place: String,
    domain: HostPattern,
    path: PathRule,
}

enum PathRule {
    Any,
    Exact(String),
    Prefix(String),
    Suffix(String),
    Contains(String),
    Regex(Regex),
    /// The rule is wrong.
    Never,
}

impl Rule {
    fn read(mut fields: Fields<'_>) -> Rule {
        let report = fields.report();
        let part = report.part();
        let domain = fields.text("match_rule_domain").filter(|domain| !domain.is_empty()).unwrap_or("*");
        let domain = HostPattern::parse(domain).unwrap_or_else(|| {
            let place = fields.path_of("match_rule_domain");
            report.error(&place, format!("`{domain}` has more than one `*`"));
            HostPattern::any()
        });
        let path = fields.text("match_rule_path").unwrap_or_default().to_owned();
        let kind = fields.text("match_rule_type").unwrap_or_default();
        let path = match kind {
            _ if path.is_empty() => PathRule::Any,
            "exact" => PathRule::Exact(path),
            "prefix" => PathRule::Prefix(path),
            "suffix" => PathRule::Suffix(path),
            "contains" => PathRule::Contains(path),
            "regex" => match Regex::new(&path) {
                Ok(regex) => PathRule::Regex(regex),
                Err(error) => {
                    // The lines before show the expression.
                    let error = error.to_string();
                    let reason = error.lines().last().unwrap_or_default();
                    report.error(&fields.path_of("match_rule_path"), format!("is no regular expression: {reason}"));
                    PathRule::Never
                }
            },
            other => {
                let types = MATCH_TYPES.join(", ");
                report.error(&fields.path_of("match_rule_type"), format!("`{other}` is none of {types}"));
                PathRule::Never
            }
        };
        if let Some(other) = fields.text("upstream_type").filter(|kind| !UPSTREAM_TYPES.contains(kind)) {
            report.error(&fields.path_of("upstream_type"), format!("`{other}` is none of rest, sse, streamable"));
        }
        fields.boolean("enable_path_rewrite");
        fields.text("path_rewrite_prefix");
        let place = fields.path().to_owned();
        fields.finish();
        let path = if part.is_whole() { path } else { PathRule::Never };
        Rule { place, domain, path }
    }

    fn is_wrong(&self) -> bool {
        matches!(self.path, PathRule::Never)
    }

    fn covers(&self, path: &str) -> bool {
        match &self.path {
            PathRule::Any => true,
            PathRule::Exact(exact) => path == exact,
            PathRule::Prefix(prefix) => path.starts_with(prefix),
            PathRule::Suffix(suffix) => path.ends_with(suffix),
            PathRule::Contains(part) => path.contains(part),
            PathRule::Regex(regex) => regex.is_match(path),
            PathRule::Never => false,
        }
    }
}

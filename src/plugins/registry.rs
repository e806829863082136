//! The built-in plugins, in the order of the chain: name, place, family, builder.
//!
//! This table is the single source for chain defaults, `weirgate validate` and the documentation. Phases and priorities are
//! those of the Higress console's plugin list; a WasmPlugin object may name others.

use std::path::Path;
use std::sync::Arc;

use serde_json::Value;

use super::config::{FieldProblem, flag};
use super::rules::Family;
use super::{Host, Plugin, ai, auth, security, traffic, transform};
use crate::config::PluginCatalog;
pub use crate::config::Scope;
use crate::config::model::Phase;

/// A built-in plugin.
pub struct PluginSpec {
    pub name: &'static str,
    pub phase: Phase,
    pub priority: i32,
    pub family: Family,
    pub summary: &'static str,
    /// Makes the plugin for one scope; `None` is a plugin that does nothing there.
    pub build: fn(&Scope<'_>, &Arc<dyn Host>) -> BuildResult,
    /// Reads the configuration only, for validation without a running process.
    pub check: fn(&Scope<'_>) -> Vec<FieldProblem>,
}

impl PluginSpec {
    /// Whether a rule says that the plugin is off where it matches, which the C++ plugins know.
    pub fn is_switched_off(&self, scope: &Scope<'_>) -> bool {
        let says = scope.rule.and_then(|rule| rule.get("_disable_")).and_then(flag);
        self.family == Family::Cpp && says == Some(true)
    }
}

pub type BuildResult = Result<Option<Arc<dyn Plugin>>, Vec<FieldProblem>>;

impl Scope<'_> {
    /// The rule laid over the global configuration, member by member: how Higress' overriding plugins read a rule.
    pub fn overlaid(&self) -> Value {
        match (self.global, self.rule) {
            (Some(Value::Object(global)), Some(Value::Object(rule))) => {
                let mut merged = global.clone();
                merged.extend(rule.iter().map(|(key, value)| (key.clone(), value.clone())));
                Value::Object(merged)
            }
            (global, rule) => rule.or(global).cloned().unwrap_or(Value::Object(serde_json::Map::new())),
        }
    }

    /// The rule alone, or the global configuration where no rule is built: plugins that do not inherit.
    pub fn alone(&self) -> Value {
        self.rule.or(self.global).cloned().unwrap_or(Value::Object(serde_json::Map::new()))
    }
}

pub static PLUGINS: &[PluginSpec] = &[
    security::sni_misdirect::SPEC,
    transform::custom_response::SPEC,
    ai::model_router::SPEC,
    ai::model_mapper::SPEC,
    security::replay_protection::SPEC,
    traffic::geo_ip::SPEC,
    traffic::de_graphql::SPEC,
    transform::cache_control::SPEC,
    transform::transformer::SPEC,
    auth::ext_auth::SPEC,
    auth::oauth::SPEC,
    auth::oidc::SPEC,
    auth::jwt_auth::GO_SPEC,
    auth::jwt_auth::SPEC,
    auth::hmac_auth::SPEC,
    auth::basic_auth::SPEC,
    auth::basic_auth::GO_SPEC,
    auth::key_auth::GO_SPEC,
    auth::key_auth::SPEC,
    auth::opa::SPEC,
    security::request_validation::SPEC,
    security::ip_restriction::SPEC,
    auth::hmac_auth_apisix::SPEC,
    auth::simple_jwt_auth::SPEC,
    security::cors::SPEC,
    security::waf::SPEC,
    security::request_block::GO_SPEC,
    security::request_block::SPEC,
    security::bot_detect::SPEC,
    security::bot_detect::GO_SPEC,
    ai::statistics::SPEC,
    ai::rag_models::SPEC,
    ai::semantic_router::SPEC,
    traffic::frontend_gray::SPEC,
    ai::rag::SPEC,
    traffic::traffic_tag::SPEC,
    ai::proxy::SPEC,
    transform::traffic_editor::SPEC,
    transform::jsonrpc_converter::SPEC,
    traffic::cluster_key_rate_limit::SPEC,
    traffic::key_rate_limit::SPEC,
    transform::gw_error_format::SPEC,
    transform::http_call::SPEC,
    transform::log_request_response::SPEC,
    transform::nginx_rewrite_compatible::SPEC,
    transform::response_cache::SPEC,
];

/// Names of plugin images that are not the plugin's own name.
const ALIASES: &[(&str, &str)] = &[("json-converter", "jsonrpc-converter")];

/// Plugins that never fail open: they keep requests out or, as ai-proxy, put a credential in the place of the client's.
const GUARDS: &[&str] = &[
    "ai-proxy",
    "basic-auth",
    "bot-detect",
    "ext-auth",
    "go-basic-auth",
    "go-bot-detect",
    "go-jwt-auth",
    "go-key-auth",
    "go-request-block",
    "hmac-auth",
    "hmac-auth-apisix",
    "ip-restriction",
    "jwt-auth",
    "key-auth",
    "oauth",
    "oidc",
    "opa",
    "replay-protection",
    "request-block",
    "request-validation",
    "simple-jwt-auth",
    "waf",
];

/// Whether a rule by service is about the service's protocol, without which requests to it come to nothing.
pub fn says_how_to_speak(plugin: &str) -> bool {
    plugin == ai::proxy::SPEC.name
}

/// Plugins of Higress that have no native form here.
pub const NOT_HERE: &[&str] = &[
    "ai-agent",
    "ai-cache",
    "ai-context-limit",
    "ai-data-masking",
    "ai-history",
    "ai-image-reader",
    "ai-intent",
    "ai-json-resp",
    "ai-load-balancer",
    "ai-prompt-decorator",
    "ai-prompt-template",
    "ai-quota",
    "ai-search",
    "ai-security-guard",
    "ai-token-ratelimit",
    "ai-transformer",
    "api-workflow",
    "chatgpt-proxy",
    "mcp-router",
    "mcp-server",
    "qwen3guard",
];

/// What plugins have to say about the files they read, for validation without a running process.
type FileCheck = fn(&Scope<'_>, &Path) -> Vec<FieldProblem>;
const READ_FILES: &[(&str, FileCheck)] =
    &[("geo-ip", traffic::geo_ip::check_files), ("waf", security::waf::check_files)];

/// Problems with files of the data folder that only building a plugin would show.
pub fn check_files(plugin: &str, scope: &Scope<'_>, data_dir: &Path) -> Vec<FieldProblem> {
    let check = READ_FILES.iter().find(|(name, _)| *name == plugin);
    check.map_or_else(Vec::new, |(_, check)| check(scope, data_dir))
}

pub fn find(name: &str) -> Option<&'static PluginSpec> {
    let name = ALIASES.iter().find(|(alias, _)| *alias == name).map_or(name, |(_, name)| name);
    PLUGINS.iter().find(|spec| spec.name == name)
}

/// The registry as configuration checking sees it.
pub struct BuiltIns;

impl PluginCatalog for BuiltIns {
    fn names(&self) -> Vec<&str> {
        PLUGINS.iter().map(|spec| spec.name).chain(ALIASES.iter().map(|(alias, _)| *alias)).collect()
    }

    fn guards(&self, plugin: &str) -> bool {
        GUARDS.contains(&plugin)
    }

    fn lacks(&self, plugin: &str) -> bool {
        NOT_HERE.contains(&plugin)
    }

    fn check(&self, plugin: &str, scope: &Scope<'_>) -> Vec<FieldProblem> {
        let Some(spec) = find(plugin).filter(|spec| !spec.is_switched_off(scope)) else { return Vec::new() };
        let mut problems = (spec.check)(scope);
        // Every C++ plugin knows it, and it says that the plugin is on.
        problems.retain(|problem| spec.family != Family::Cpp || problem.field != "_disable_");
        problems
    }
}

#[cfg(test)]
mod tests {
    use expect_test::expect;

    use super::*;

    /// The chain order users see; a change here changes what runs before what.
    #[test]
    fn the_chain_runs_in_this_order() {
        let mut specs: Vec<&PluginSpec> = PLUGINS.iter().collect();
        specs.sort_by_key(|spec| (spec.phase, std::cmp::Reverse(spec.priority), spec.name));
        let listed: Vec<String> =
            specs.iter().map(|spec| format!("{:?} {} {}", spec.phase, spec.priority, spec.name)).collect();
        expect![[r#"
            Authn 1000 sni-misdirect
            Authn 910 custom-response
            Authn 900 model-router
            Authn 800 model-mapper
            Authn 800 replay-protection
            Authn 440 geo-ip
            Authn 430 de-graphql
            Authn 420 cache-control
            Authn 410 transformer
            Authn 360 ext-auth
            Authn 350 oauth
            Authn 350 oidc
            Authn 340 go-jwt-auth
            Authn 340 jwt-auth
            Authn 330 hmac-auth
            Authn 320 basic-auth
            Authn 320 go-basic-auth
            Authn 310 go-key-auth
            Authn 310 key-auth
            Authn 225 opa
            Authn 220 request-validation
            Authn 210 ip-restriction
            Authn 200 hmac-auth-apisix
            Authn 200 simple-jwt-auth
            Authz 340 cors
            Authz 330 waf
            Authz 320 go-request-block
            Authz 320 request-block
            Authz 310 bot-detect
            Authz 310 go-bot-detect
            Unspecified 900 ai-statistics
            Unspecified 870 rag-models
            Unspecified 860 semantic-router
            Unspecified 450 frontend-gray
            Unspecified 400 ai-rag
            Unspecified 400 traffic-tag
            Unspecified 100 ai-proxy
            Unspecified 100 traffic-editor
            Unspecified 50 jsonrpc-converter
            Unspecified 20 cluster-key-rate-limit
            Unspecified 10 key-rate-limit
            Unspecified 0 gw-error-format
            Unspecified 0 http-call
            Unspecified 0 log-request-response
            Unspecified 0 nginx-rewrite-compatible
            Unspecified 0 response-cache"#]]
        .assert_eq(&listed.join("\n"));
        let written: Vec<&str> = PLUGINS.iter().map(|spec| spec.name).collect();
        let sorted: Vec<&str> = specs.iter().map(|spec| spec.name).collect();
        assert_eq!(written, sorted, "the table is kept in chain order");
        assert!(GUARDS.iter().all(|name| find(name).is_some()));
    }
}

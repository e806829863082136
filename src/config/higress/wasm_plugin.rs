//! WasmPlugin: which plugin runs where in the chain, and with which configuration for which routes, domains and services
//! (Higress `pkg/ingress/config/ingress_config.go`, conversion; `wasm-go pkg/matcher`, `_rules_`).

use serde_json::{Map, Value};

use super::{skip_common, skip_metadata};
use crate::config::fields::{Fields, type_name};
use crate::config::model::{FailStrategy, Phase, PluginRule, PluginUse};
use crate::config::problem::{ObjectReport, Report};
use crate::config::source::RawObject;
use crate::config::suggest::did_you_mean;
use crate::config::{PluginCatalog, Scope, Severity};

/// `None` if the plugin is off or of no use; faults have been reported.
pub(in crate::config) fn read(object: &RawObject, catalog: &dyn PluginCatalog, report: &Report) -> Option<PluginUse> {
    let report = report.on(&object.origin);
    let mut fields = Fields::new(&object.value, "", report);
    let label = fields.object("metadata").and_then(|mut metadata| {
        skip_metadata(&mut metadata);
        metadata.inert(&["annotations"]);
        let labels = metadata.text_map("labels");
        metadata.finish();
        labels.into_iter().find(|(key, _)| *key == "higress.io/wasm-plugin-name").map(|(_, name)| name.into_owned())
    });
    skip_common(&mut fields);
    let Some(mut spec) = fields.object("spec") else {
        report.error("spec", "is missing");
        return None;
    };
    fields.finish();
    let url = spec.text("url").filter(|url| !url.is_empty());
    let phase = read_phase(&mut spec);
    let priority = spec.integer::<i32>("priority").unwrap_or(0);
    let fail_strategy = read_fail_strategy(&mut spec);
    // About fetching and running a module; a built-in needs none of it.
    spec.inert(&[
        "imagePullPolicy",
        "imagePullSecret",
        "match",
        "pluginName",
        "selector",
        "sha256",
        "type",
        "verificationKey",
        "vmConfig",
    ]);
    let config = read_config(&mut spec)?;
    spec.finish();

    let plugin = plugin_name(url, label.as_deref(), &object.origin.name, catalog, report);
    // The console writes `FAIL_OPEN` into every object; a slip in a list of keys must not open what they guard.
    let fail_strategy = if catalog.guards(&plugin) { FailStrategy::FailClose } else { fail_strategy };
    config.report_idle_rules(catalog.guards(&plugin), report);
    if catalog.knows(&plugin) {
        config.check(&plugin, fail_strategy, catalog, report);
    } else {
        report_unknown(&plugin, url, fail_strategy, catalog, report);
    }
    Some(PluginUse {
        object: object.origin.clone(),
        plugin,
        url: url.map(str::to_owned),
        phase,
        priority,
        fail_strategy,
        global: config.global,
        global_path: config.global_path,
        rules: config.rules,
    })
}

fn read_phase(spec: &mut Fields<'_>) -> Phase {
    match spec.text("phase") {
        None | Some("" | "UNSPECIFIED_PHASE" | "UNSPECIFIED") => Phase::Unspecified,
        Some("AUTHN") => Phase::Authn,
        Some("AUTHZ") => Phase::Authz,
        Some("STATS") => Phase::Stats,
        Some(other) => {
            let message = format!("`{other}` is not a phase");
            spec.report().error_hint(&spec.path_of("phase"), message, "one of AUTHN, AUTHZ, STATS, UNSPECIFIED_PHASE");
            Phase::Unspecified
        }
    }
}

fn read_fail_strategy(spec: &mut Fields<'_>) -> FailStrategy {
    match spec.text("failStrategy") {
        None | Some("" | "FAIL_CLOSE") => FailStrategy::FailClose,
        Some("FAIL_OPEN") => FailStrategy::FailOpen,
        Some(other) => {
            let message = format!("`{other}` is not a fail strategy");
            spec.report().error_hint(&spec.path_of("failStrategy"), message, "one of FAIL_CLOSE, FAIL_OPEN");
            FailStrategy::FailClose
        }
    }
}

/// The parts of a plugin's configuration.
#[derive(Debug, Default)]
struct Config {
    global: Option<Value>,
    global_path: String,
    rules: Vec<PluginRule>,
}

impl Config {
    /// Such rules stay: a configuration of rules alone must not become one without any, which switches a plugin on everywhere.
    fn report_idle_rules(&self, is_guard: bool, report: ObjectReport<'_>) {
        let is_idle = |rule: &&PluginRule| {
            [&rule.routes, &rule.route_prefixes, &rule.domains, &rule.services].iter().all(|names| names.is_empty())
        };
        for rule in self.rules.iter().filter(is_idle) {
            let field = rule.path.strip_suffix(".config").unwrap_or(&rule.path);
            let hint = Some("name at least one ingress, domain or service".to_owned());
            // In Higress the whole object is refused.
            let (severity, message) = match is_guard {
                true => (Severity::Outage, "matches nothing, so what it is to guard is open"),
                false => (Severity::Warning, "matches nothing, so the rule has no effect"),
            };
            report.add(severity, field, message.to_owned(), hint);
        }
    }

    /// A value that a plugin cannot use puts it out of work where it applies; in Higress everywhere.
    fn check(&self, plugin: &str, strategy: FailStrategy, catalog: &dyn PluginCatalog, report: ObjectReport<'_>) {
        let global = self.global.as_ref();
        let own = self.global.iter().map(|_| (&self.global_path, None));
        let rules = self.rules.iter().map(|rule| (&rule.path, Some(&rule.config)));
        for (path, rule) in own.chain(rules) {
            for problem in catalog.check(plugin, &Scope { global, rule, n_rules: self.rules.len() }) {
                let field = if problem.field.is_empty() { path.clone() } else { format!("{path}.{}", problem.field) };
                let (severity, hint) = match problem.severity {
                    Severity::Error => (Severity::Outage, Some(effect(strategy).to_owned())),
                    other => (other, None),
                };
                report.add(severity, &field, problem.message, hint);
            }
        }
    }
}

/// `None` if the plugin is off: no rule is left and the global configuration is disabled.
fn read_config(spec: &mut Fields<'_>) -> Option<Config> {
    let report = spec.report();
    let default_disabled = spec.boolean("defaultConfigDisable").unwrap_or(false);
    let default = config_object(spec, "defaultConfig");
    let written = config_object(spec, "pluginConfig");
    let rules = spec.objects("matchRules");
    if let Some(written) = written {
        if default.is_some() || !rules.is_empty() {
            report.warn("spec.pluginConfig", "is set, so defaultConfig and matchRules have no effect, as in Higress");
        }
        return Some(split("spec.pluginConfig", written.clone(), Vec::new(), report));
    }
    let rules: Vec<PluginRule> = rules.into_iter().filter_map(read_rule).collect();
    if default_disabled && rules.is_empty() {
        return None;
    }
    let default = default.filter(|_| !default_disabled).cloned().unwrap_or_default();
    Some(split("spec.defaultConfig", default, rules, report))
}

fn config_object<'a>(spec: &mut Fields<'a>, key: &'static str) -> Option<&'a Map<String, Value>> {
    match spec.value(key)? {
        Value::Object(map) => Some(map),
        other => {
            let message = format!("must be a mapping, not {}", type_name(other));
            spec.report().error(&spec.path_of(key), message);
            None
        }
    }
}

/// One of `matchRules`; `None` if it is disabled (the request then falls through to a later rule).
fn read_rule(mut fields: Fields<'_>) -> Option<PluginRule> {
    let config = config_object(&mut fields, "config").cloned().unwrap_or_default();
    let is_grpc = fields.text("routeType").is_some_and(|kind| kind == "GRPC");
    let is_disabled = fields.boolean("configDisable").unwrap_or(false);
    let (mut routes, mut domains) = (fields.texts("ingress"), fields.texts("domain"));
    let mut services = fields.texts("service");
    // As Higress: the console leaves some.
    [&mut routes, &mut domains, &mut services].into_iter().for_each(|list| list.retain(|name| !name.is_empty()));
    if is_grpc {
        routes.iter_mut().for_each(|route| *route = format!("GRPC/{route}"));
    }
    lower_case(&mut domains);
    let path = fields.path().to_owned();
    fields.finish();
    if is_disabled {
        return None;
    }
    let (config, path) = (Value::Object(config), format!("{path}.config"));
    Some(PluginRule { routes, route_prefixes: Vec::new(), domains, services, config, path })
}

/// Hosts are compared in lower case: Higress compares as written, so that a client could choose whether a rule takes it.
fn lower_case(domains: &mut [String]) {
    domains.iter_mut().for_each(|domain| domain.make_ascii_lowercase());
}

/// Takes `_rules_` out of a configuration. The other keys are the global configuration; a configuration of rules alone
/// leaves the plugin inert elsewhere, an empty one switches it on everywhere.
fn split(path: &str, mut config: Map<String, Value>, mut rules: Vec<PluginRule>, report: ObjectReport<'_>) -> Config {
    let inner = config.remove("_rules_");
    // Rules of `matchRules` replace those written by hand, as one JSON key would the other.
    if let (Some(inner), true) = (inner, rules.is_empty()) {
        let path = format!("{path}._rules_");
        match inner {
            Value::Array(elements) => {
                rules = (0..)
                    .zip(elements)
                    .filter_map(|(i, rule)| inner_rule(format!("{path}[{i}]"), rule, report))
                    .collect();
            }
            other => report.error(&path, format!("must be a list, not {}", type_name(&other))),
        }
    }
    // Only names the plugin in logs.
    config.remove("_plugin_id_");
    let global = (!config.is_empty() || rules.is_empty()).then(|| Value::Object(config));
    Config { global, global_path: path.to_owned(), rules }
}

/// A rule in the form plugins receive: match keys beside the configuration.
fn inner_rule(path: String, rule: Value, report: ObjectReport<'_>) -> Option<PluginRule> {
    let Value::Object(mut config) = rule else {
        report.error(&path, format!("must be a mapping, not {}", type_name(&rule)));
        return None;
    };
    let mut take = |key: &str| match config.remove(key) {
        None | Some(Value::Null) => Vec::new(),
        Some(Value::Array(elements)) if elements.iter().all(Value::is_string) => {
            elements.iter().filter_map(Value::as_str).map(str::to_owned).collect()
        }
        Some(_) => {
            report.error(&format!("{path}.{key}"), "must be a list of strings");
            Vec::new()
        }
    };
    let (routes, route_prefixes) = (take("_match_route_"), take("_match_route_prefix_"));
    let (mut domains, services) = (take("_match_domain_"), take("_match_service_"));
    lower_case(&mut domains);
    Some(PluginRule { routes, route_prefixes, domains, services, config: Value::Object(config), path })
}

/// The built-in an object means: the first known name of the url, the console's label, and the object itself
/// (`key-auth.internal`, `key-auth-1.0.0`). If none is known, what the url says.
fn plugin_name(
    url: Option<&str>,
    label: Option<&str>,
    object: &str,
    catalog: &dyn PluginCatalog,
    report: ObjectReport<'_>,
) -> String {
    let unversioned = without_version(object.strip_suffix(".internal").unwrap_or(object));
    let in_url = url.and_then(name_in_url).map(without_version);
    let names = in_url.into_iter().chain(label).chain([unversioned]);
    // Plugins that exist in Go and in C++ have images called `go-key-auth` and the like, or lie in a folder of their language.
    let is_go = url.is_some_and(|url| url.contains("/wasm-go/"));
    for (i, name) in names.map(|name| name.replace('_', "-")).enumerate() {
        let short = name.strip_prefix("go-").or_else(|| name.strip_prefix("cpp-")).unwrap_or(&name);
        let in_go = format!("go-{short}");
        let spellings = [in_go.as_str(), name.as_str(), short];
        if let Some(known) = spellings[usize::from(!is_go)..].iter().find(|name| catalog.knows(name)) {
            if let (1.., Some(in_url)) = (i, in_url) {
                let message =
                    format!("`{in_url}` is no built-in plugin; the built-in `{known}` runs, as the object is named");
                report.warn("spec.url", message);
            }
            return (*known).to_owned();
        }
    }
    in_url.or(label).unwrap_or(unversioned).replace('_', "-")
}

/// `oci://host/plugins/key-auth:2.0.0@sha256:…`, `http://host/plugins/key-auth/2.0.0/plugin.wasm`, `file:///…/key-auth.wasm`.
fn name_in_url(url: &str) -> Option<&str> {
    let url = url.split(['?', '#']).next().unwrap_or(url);
    let path = url.split_once("://").map_or(url, |(_, rest)| rest);
    let mut segments = path.rsplit('/').filter(|segment| !segment.is_empty());
    let last = segments.next()?;
    if let Some(stem) = last.strip_suffix(".wasm") {
        if !matches!(stem, "plugin" | "main") {
            return Some(stem);
        }
        // The host is no name either.
        let folders: Vec<&str> = segments.collect();
        return folders.split_last()?.1.iter().find(|folder| !is_version(folder)).copied();
    }
    let image = last.split('@').next()?;
    let name = image.split(':').next()?;
    (!name.is_empty()).then_some(name)
}

/// `traffic-editor-1.0.0-alpha` without what follows the name.
fn without_version(name: &str) -> &str {
    let is_v =
        |text: &str| text.strip_prefix('v').is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
    let begins_version = |rest: &str| rest.split('-').next().is_some_and(|first| is_version(first) || is_v(first));
    let version = name.match_indices('-').find(|(at, _)| begins_version(&name[at + 1..]));
    version.map_or(name, |(at, _)| &name[..at])
}

fn is_version(text: &str) -> bool {
    let digits = text.strip_prefix('v').unwrap_or(text);
    let is_date = digits.contains('-') && digits.chars().all(|c| c.is_ascii_digit() || c == '-');
    digits == "latest" || is_date || (digits.starts_with(|c: char| c.is_ascii_digit()) && digits.contains('.'))
}

fn report_unknown(
    plugin: &str,
    url: Option<&str>,
    fail_strategy: FailStrategy,
    catalog: &dyn PluginCatalog,
    report: ObjectReport<'_>,
) {
    let field = if url.is_some() { "spec.url" } else { "metadata.name" };
    let hint = match catalog.lacks(plugin) {
        true => {
            "a plugin of Higress that this version does not have; docs/compatibility.md lists those it has".to_owned()
        }
        false => did_you_mean(plugin, catalog.names())
            .unwrap_or_else(|| "docs/compatibility.md lists the plugins there are; modules are not run yet".to_owned()),
    };
    let severity = match fail_strategy {
        FailStrategy::FailOpen => Severity::Warning,
        FailStrategy::FailClose => Severity::Outage,
    };
    let message = format!("there is no built-in plugin `{plugin}`; {}", effect(fail_strategy));
    report.add(severity, field, message, Some(hint));
}

/// What becomes of requests where a plugin does not work.
fn effect(strategy: FailStrategy) -> &'static str {
    match strategy {
        FailStrategy::FailOpen => "requests pass without it (failStrategy FAIL_OPEN)",
        FailStrategy::FailClose => "requests that it is for are answered with 503",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_no_part_of_names() {
        for (name, expected) in [
            ("key-auth-2.0.0", "key-auth"),
            ("traffic-editor-1.0.0-alpha", "traffic-editor"),
            ("key-auth-v2", "key-auth"),
            ("key-auth-latest", "key-auth"),
            ("hmac-auth-apisix", "hmac-auth-apisix"),
            ("de-graphql", "de-graphql"),
        ] {
            assert_eq!(without_version(name), expected);
        }
    }

    #[test]
    fn names_of_plugins() {
        for (url, expected) in [
            ("oci://registry/plugins/key-auth:2.0.0", Some("key-auth")),
            ("oci://registry:5000/plugins/key-auth", Some("key-auth")),
            ("registry/plugins/key-auth@sha256:abc", Some("key-auth")),
            ("http://localhost:8002/plugins/ai-proxy/2.0.0/plugin.wasm", Some("ai-proxy")),
            ("file:///opt/plugins/wasm-go/extensions/request-block/plugin.wasm", Some("request-block")),
            ("file:///opt/request-block.wasm?x=1", Some("request-block")),
            ("file:///opt/plugins/mcp-server/2026-07-28/plugin.wasm", Some("mcp-server")),
            ("http://localhost/plugin.wasm", None),
            ("file:///", None),
        ] {
            assert_eq!(name_in_url(url), expected, "{url}");
        }
    }
}

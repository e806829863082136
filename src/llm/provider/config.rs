//! A provider's configuration, as Higress' `ai-proxy` plugin writes it: checked, and told what it can't do.

use std::time::Duration;

use http::HeaderValue;
use serde_json::{Map, Value};

use super::api::Api;
use super::endpoint::Endpoint;
use super::fields::{FieldError, FieldErrorKind, Fields};
use super::policy::{FailoverPolicy, RetryPolicy, StatusSet};
use super::table::{NOT_YET, ProviderType, TYPES};
use crate::base::secret::{Secret, has_reference};
use crate::llm::model_map::ModelMap;

/// One entry of `providers`, valid by construction.
#[derive(Debug, Clone)]
pub struct ProviderConfig {
    /// `id`; empty if there is none.
    pub id: String,
    /// `type`
    pub kind: &'static ProviderType,
    /// `apiTokens`
    pub tokens: Vec<Secret>,
    /// `firstByteTimeout`: how long the first byte of a streamed answer may take.
    pub first_byte_timeout: Option<Duration>,
    /// `protocol`
    pub protocol: Protocol,
    /// `modelMapping`
    pub model_map: ModelMap,
    /// `customSettings`
    pub custom_settings: Vec<CustomSetting>,
    /// `failover`, if enabled
    pub failover: Option<FailoverPolicy>,
    /// `retryOnFailure`, if enabled
    pub retry: Option<RetryPolicy>,
    /// Not `disableStreamUsageStats`: ask for usage in streams where the client does not say.
    pub stream_usage: bool,
    /// `responseJsonSchema`: the `response_format` of every chat request, as JSON text.
    pub response_format: Option<String>,
    /// `capabilities`: paths that differ from the type's.
    pub capabilities: Vec<(Api, String)>,
    /// `basePath` with `basePathHandling`
    pub base_path: Option<BasePath>,
    /// `providerBasePath`
    pub provider_base_path: Option<String>,
    /// Host, path prefix and addresses, from the type and its own fields.
    pub endpoint: Endpoint,
    /// What the configuration asks for and this version does not do. The caller warns; requests are served without it.
    pub unsupported: Vec<String>,
}

/// What the client speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocol {
    /// OpenAI's API, whatever the provider speaks.
    OpenAi,
    /// The provider's own: only host and credential are seen to.
    Original,
}

/// A request parameter the operator sets.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CustomSetting {
    /// Dotted path in the request body.
    pub path: String,
    /// JSON text.
    pub value: String,
    /// Whether it replaces what the client sent.
    pub overwrite: bool,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BasePath {
    /// Cut off the front of the client's path.
    Remove(String),
    /// Put in front of the provider's path.
    Prepend(String),
}

/// Parameters that `customSettings` in mode `auto` may name for providers that speak OpenAI's protocol.
const AUTO_SETTINGS: [&str; 4] = ["max_tokens", "temperature", "top_p", "seed"];

/// Fields of Higress that this version does not act on, for whatever type.
const UNSUPPORTED: [&str; 46] = [
    "apiVersion",
    "authHeaderKey",
    "awsAccessKey",
    "awsRegion",
    "awsSecretKey",
    "azureServiceUrl",
    "bedrockAdditionalFields",
    "bedrockPromptCachePointPositions",
    "botType",
    "claudeCodeMode",
    "claudeVersion",
    "context",
    "contextCleanupCommands",
    "difyApiUrl",
    "geminiSafetySetting",
    "geminiThinkingBudget",
    "hiclawMode",
    "hunyuanAuthId",
    "hunyuanAuthKey",
    "inputVariable",
    "klingAccessKey",
    "klingSecretKey",
    "klingTokenRefreshAhead",
    "logUpstreamErrorResponseBody",
    "mergeConsecutiveMessages",
    "minimaxGroupId",
    "moonshotFileId",
    "outputVariable",
    "promoteThinkingOnEmpty",
    "promptCacheRetention",
    "qwenFileIds",
    "targetLang",
    "tritonDomain",
    "tritonModelVersion",
    "vertexAuthKey",
    "vertexAuthServiceName",
    "vertexOpenAICompatible",
    "vertexProjectId",
    "vertexRegion",
    "vertexTokenRefreshAhead",
    // Written by the console for its own use.
    "openaiCustomServiceName",
    "openaiCustomServicePort",
    "proxyName",
    "version",
    "rawConfigs",
    "tokens",
];

impl ProviderConfig {
    /// Reads one provider object.
    ///
    /// # Errors
    /// Everything that is wrong with it, each with its field: missing or unknown type, wrong types of fields, expressions
    /// that do not compile.
    pub fn parse(provider: &Value) -> Result<ProviderConfig, Vec<FieldError>> {
        let Some(object) = provider.as_object() else {
            let message = "must be an object with at least `type` and, for most types, `apiTokens`".to_owned();
            return Err(vec![FieldError { field: String::new(), message, kind: FieldErrorKind::Wrong }]);
        };
        let mut fields = Fields::new("", object);
        let kind = read_type(&mut fields)?;
        let mut unsupported: Vec<String> = kind.differences.iter().map(ToString::to_string).collect();
        let protocol = match fields.string("protocol") {
            None | Some("openai") => Protocol::OpenAi,
            Some("original") => Protocol::Original,
            Some(_) => {
                fields.error("protocol", "must be openai or original");
                Protocol::OpenAi
            }
        };
        let model_map = ModelMap::ai_proxy(fields.string_map("modelMapping")).unwrap_or_else(|errors| {
            errors.iter().for_each(|error| fields.error("modelMapping", error.to_string()));
            ModelMap::default()
        });
        // Accepted for completeness: it bounds only the fetching of a context file.
        let _ = fields.millis("timeout");
        let config = ProviderConfig {
            id: fields.string("id").unwrap_or_default().to_owned(),
            kind,
            tokens: read_tokens(&mut fields, kind),
            first_byte_timeout: fields.millis("firstByteTimeout"),
            protocol,
            model_map,
            custom_settings: read_custom_settings(&mut fields, protocol, &mut unsupported),
            failover: read_failover(&mut fields, &mut unsupported),
            retry: read_retry(&mut fields, &mut unsupported),
            stream_usage: !fields.boolean("disableStreamUsageStats").unwrap_or(false),
            response_format: fields
                .object("responseJsonSchema")
                .map(|schema| Value::Object(schema.clone()).to_string()),
            capabilities: read_capabilities(&mut fields, &mut unsupported),
            base_path: read_base_path(&mut fields),
            provider_base_path: read_path(&mut fields, "providerBasePath"),
            endpoint: Endpoint::read(&mut fields, kind, &mut unsupported),
            unsupported: Vec::new(),
        };
        if fields.string("reasoningContentMode").is_some_and(|mode| !mode.eq_ignore_ascii_case("passthrough")) {
            unsupported.push("reasoningContentMode: reasoning passes through as the provider sends it".to_owned());
        }
        ignore_unsupported(&mut fields, kind, &mut unsupported);
        let errors = fields.finish(&mut unsupported);
        if errors.is_empty() { Ok(ProviderConfig { unsupported, ..config }) } else { Err(errors) }
    }
}

fn read_type(fields: &mut Fields<'_>) -> Result<&'static ProviderType, Vec<FieldError>> {
    let name = fields.string("type").map(str::to_owned);
    let known = || TYPES.iter().map(|kind| kind.name).collect::<Vec<_>>().join(", ");
    let message = match name.as_deref() {
        None if !fields.errors.is_empty() => return Err(std::mem::take(&mut fields.errors)),
        None => format!("is missing. Set it to one of {}.", known()),
        Some(name) => match ProviderType::by_name(name) {
            Some(kind) => return Ok(kind),
            None if NOT_YET.contains(&name) => {
                let message = "which Higress knows and this version can't translate";
                fields.unsupported("type", format!("is {name}, {message}. It knows {}.", known()));
                return Err(std::mem::take(&mut fields.errors));
            }
            None => format!("is {name}, which is no provider type. Use one of {}.", known()),
        },
    };
    fields.error("type", message);
    Err(std::mem::take(&mut fields.errors))
}

fn read_tokens(fields: &mut Fields<'_>, kind: &ProviderType) -> Vec<Secret> {
    let mut tokens = fields.strings("apiTokens");
    // What the console writes for providers that it has other credentials of.
    let has_others = ["hunyuanAuthId", "hunyuanAuthKey"].iter().any(|name| fields.value(name).is_some());
    if has_others {
        tokens.retain(|token| !token.is_empty());
    }
    if tokens.is_empty() && has_others {
        fields.unsupported("apiTokens", "is empty, and authentication with an id and a key is not available");
    } else if tokens.is_empty() && kind.tokens_required {
        fields.error("apiTokens", format!("is empty, and {} needs at least one token", kind.name));
    }
    for (i, token) in tokens.iter().enumerate() {
        if has_reference(token) {
            let message = "is a reference to a Secret or key that is not there, which no provider knows";
            fields.unsupported(&format!("apiTokens[{i}]"), message);
        } else if token.is_empty() || HeaderValue::from_str(token).is_err() {
            let message = "is empty or has characters that can't stand in a header. Copy the token again.";
            fields.error(&format!("apiTokens[{i}]"), message);
        }
    }
    tokens.into_iter().map(Secret::new).collect()
}

fn read_custom_settings(
    fields: &mut Fields<'_>,
    protocol: Protocol,
    unsupported: &mut Vec<String>,
) -> Vec<CustomSetting> {
    let Some(list) = fields.value("customSettings") else { return Vec::new() };
    let Some(list) = list.as_array() else {
        fields.error("customSettings", "must be a list of {name, value, mode, overwrite}");
        return Vec::new();
    };
    let mut settings = Vec::new();
    for (i, item) in list.iter().enumerate() {
        let at = format!("customSettings[{i}]");
        let Some(object) = item.as_object() else {
            fields.error(&at, "must be an object {name, value, mode, overwrite}");
            continue;
        };
        let mut setting = Fields::new(&fields.path_of(&at), object);
        let name = setting.string("name").unwrap_or_default().to_owned();
        // Null is a value like any other here.
        let _ = setting.value("value");
        let value = object.get("value").map(Value::to_string);
        let mode = setting.string("mode").unwrap_or("auto");
        let overwrite = setting.boolean("overwrite").unwrap_or(true);
        if name.is_empty() {
            setting.error("name", "is missing. Name the request parameter, for example max_tokens.");
        }
        if value.is_none() {
            setting.error("value", "is missing");
        }
        let known_name = match mode {
            "auto" => protocol == Protocol::OpenAi && AUTO_SETTINGS.contains(&name.as_str()),
            "raw" => true,
            _ => {
                setting.error("mode", "must be auto or raw");
                true
            }
        };
        if !known_name {
            unsupported
                .push(format!("{at}: mode auto knows no `{name}` for this provider; use mode raw to send it as it is"));
        }
        fields.errors.append(&mut setting.finish(unsupported));
        if let (true, Some(value)) = (known_name, value) {
            settings.push(CustomSetting { path: name, value, overwrite });
        }
    }
    settings
}

fn read_failover(fields: &mut Fields<'_>, unsupported: &mut Vec<String>) -> Option<FailoverPolicy> {
    let mut failover = Fields::new("failover", fields.object("failover")?);
    let enabled = failover.boolean("enabled").unwrap_or(false);
    let policy = FailoverPolicy {
        failure_threshold: failover.count("failureThreshold").unwrap_or(3),
        success_threshold: failover.count("successThreshold").unwrap_or(1),
        health_check_interval: failover.millis("healthCheckInterval").unwrap_or(Duration::from_secs(5)),
        health_check_timeout: failover.millis("healthCheckTimeout").unwrap_or(Duration::from_secs(5)),
        health_check_model: failover.string("healthCheckModel").map(str::to_owned),
        cooldown: failover.millis("cooldownDuration"),
        failover_on: read_statuses(&mut failover, "failoverOnStatus"),
    };
    if enabled && policy.health_check_model.is_none() && policy.cooldown.is_none() {
        let message = "is on, but no token could ever return. Set healthCheckModel or cooldownDuration (milliseconds).";
        failover.error("enabled", message);
    }
    fields.errors.append(&mut failover.finish(unsupported));
    enabled.then_some(policy)
}

fn read_retry(fields: &mut Fields<'_>, unsupported: &mut Vec<String>) -> Option<RetryPolicy> {
    let mut retry = Fields::new("retryOnFailure", fields.object("retryOnFailure")?);
    let enabled = retry.boolean("enabled").unwrap_or(false);
    let policy = RetryPolicy {
        max_retries: retry.count("maxRetries").unwrap_or(1),
        timeout: retry.millis("retryTimeout").unwrap_or(Duration::from_secs(30)),
        retry_on: read_statuses(&mut retry, "retryOnStatus"),
    };
    fields.errors.append(&mut retry.finish(unsupported));
    enabled.then_some(policy)
}

fn read_statuses<'a>(fields: &mut Fields<'a>, name: &'a str) -> StatusSet {
    let patterns = fields.strings(name);
    let patterns = if patterns.is_empty() { vec!["4.*".to_owned(), "5.*".to_owned()] } else { patterns };
    StatusSet::new(patterns.iter().map(String::as_str)).unwrap_or_else(|message| {
        fields.error(name, message);
        StatusSet::default()
    })
}

fn read_capabilities(fields: &mut Fields<'_>, unsupported: &mut Vec<String>) -> Vec<(Api, String)> {
    let mut capabilities = Vec::new();
    for (name, path) in fields.string_map("capabilities") {
        match Api::from_capability(&name) {
            Some(_) if !path.starts_with('/') => {
                fields.error(&format!("capabilities.{name}"), "must be a path that begins with /");
            }
            Some(api) => capabilities.push((api, path)),
            None => unsupported.push(format!("capabilities.{name}: no such API; the entry has no effect")),
        }
    }
    capabilities
}

fn read_base_path(fields: &mut Fields<'_>) -> Option<BasePath> {
    let handling = fields.string("basePathHandling").unwrap_or("removePrefix").to_owned();
    let base_path = read_path(fields, "basePath");
    match handling.as_str() {
        "removePrefix" => base_path.map(BasePath::Remove),
        "prepend" => base_path.map(BasePath::Prepend),
        _ => {
            fields.error("basePathHandling", "must be removePrefix or prepend");
            None
        }
    }
}

/// A path without a slash at its end; `/` alone counts as absent.
fn read_path<'a>(fields: &mut Fields<'a>, name: &'a str) -> Option<String> {
    let path = fields.string(name)?;
    if !path.starts_with('/') {
        fields.error(name, "must be a path that begins with /");
    }
    Some(path.trim_end_matches('/').to_owned()).filter(|path| !path.is_empty())
}

/// Notes fields that Higress has and that do nothing here, unless they are switched off anyway.
fn ignore_unsupported(fields: &mut Fields<'_>, kind: &ProviderType, unsupported: &mut Vec<String>) {
    let of_other_types = TYPES.iter().flat_map(|other| other.fields).filter(|field| !kind.fields.contains(field));
    for name in fields.unread() {
        let is_known = UNSUPPORTED.contains(&name) || of_other_types.clone().any(|field| *field == name);
        if is_known && fields.value(name).is_some_and(|value| !is_off(value)) {
            unsupported.push(format!("{name}: has no effect on a provider of type {}", kind.name));
        }
    }
}

fn is_off(value: &Value) -> bool {
    match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(string) => string.is_empty(),
        Value::Array(items) => items.is_empty(),
        Value::Object(members) => members == &Map::new(),
        Value::Number(number) => number.as_u64() == Some(0),
        Value::Bool(true) => false,
    }
}

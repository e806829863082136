//! Making the provider's request out of the client's.

use std::hash::{DefaultHasher, Hash, Hasher};

use bytes::Bytes;
use http::HeaderName;
use http::header::{ACCEPT, ACCEPT_ENCODING, AUTHORIZATION};
use memchr::memmem;
use serde_json::Value;

use super::api::{Api, Recognised, recognise, v1_tail};
use super::config::{BasePath, Protocol, ProviderConfig};
use super::fields::FieldError;
use super::table::Auth;
use crate::llm::error::{ApiError, ErrorKind};
use crate::llm::json::{Cursor, JsonError, Kind, unquote};
use crate::llm::splice::{Edit, Patch, apply, splice};

const OPENAI: &str = "api.openai.com";

/// Headers in which clients carry credentials for the gateway. They never reach a provider that has its own.
const CLIENT_CREDENTIALS: [&str; 4] = ["x-api-key", "api-key", "x-authorization", "anthropic-api-key"];

/// Where Higress keeps the client's credential for a second pass through the gateway. No provider may see it.
const ORIGINAL_AUTH: HeaderName = HeaderName::from_static("x-hi-original-auth");

/// A configured provider.
#[derive(Debug, Clone)]
pub struct Provider {
    config: ProviderConfig,
    fingerprint: u64,
}

/// What of the client's request matters here.
#[derive(Debug, Clone, Copy)]
pub struct ClientRequest<'a> {
    pub path_and_query: &'a str,
    pub body: &'a Bytes,
    /// The model to use, in the client's terms: what the body names, or what a router chose instead. Empty if the API has
    /// none.
    pub model: &'a str,
    /// Whether the client asked for a stream.
    pub stream: bool,
}

/// What to send.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ProviderRequest {
    /// The API, if the path is known.
    pub api: Option<Api>,
    /// The `Host` header; `None` keeps the client's.
    pub host: Option<String>,
    /// Path and query.
    pub path: String,
    /// Secret in part: never log the values.
    pub headers_set: Vec<(HeaderName, String)>,
    pub headers_remove: Vec<HeaderName>,
    /// The client's own bytes, unless something had to change.
    pub body: Bytes,
    /// The model's name at the provider.
    pub sent_model: String,
}

impl Provider {
    /// Reads one entry of `providers`.
    ///
    /// # Errors
    /// As [`ProviderConfig::parse`].
    pub fn parse(provider: &Value) -> Result<Provider, Vec<FieldError>> {
        let config = ProviderConfig::parse(provider)?;
        let mut hasher = DefaultHasher::new();
        config.id.hash(&mut hasher);
        config.tokens.iter().for_each(|token| token.expose().hash(&mut hasher));
        format!("{:?}", config.failover).hash(&mut hasher);
        Ok(Provider { config, fingerprint: hasher.finish() })
    }

    /// Equal for providers whose tokens can share one pool: same id, tokens and failover policy.
    pub fn fingerprint(&self) -> u64 {
        self.fingerprint
    }

    pub fn config(&self) -> &ProviderConfig {
        &self.config
    }

    /// Makes the provider's request. `token` is the API token to use, if the provider has any.
    ///
    /// # Errors
    /// `unsupported_api` if the provider has no such endpoint, and what [`splice`] finds wrong with a body that must change.
    pub fn prepare(&self, request: ClientRequest<'_>, token: Option<&str>) -> Result<ProviderRequest, ApiError> {
        let recognised = recognise(request.path_and_query);
        let path = self.path(request.path_and_query, recognised)?;
        let api = recognised.map(|recognised| recognised.api);
        let passes_untouched = self.config.kind.name == "generic";
        let mapped_model = self.config.model_map.map(request.model);
        let keeps_model = passes_untouched || self.config.protocol == Protocol::Original;
        let sent_model = if keeps_model { request.model } else { mapped_model.as_ref() };
        let body = match api {
            Some(api) if !passes_untouched && api.has_model_in_body() && is_object(request.body) => {
                self.body(api, &request, sent_model)?
            }
            _ => request.body.clone(),
        };
        let mut headers_remove = vec![ACCEPT_ENCODING, ORIGINAL_AUTH];
        let mut headers_set = Vec::new();
        if let Some(token) = token.filter(|_| self.config.kind.auth != Auth::None) {
            headers_remove.extend(CLIENT_CREDENTIALS.map(HeaderName::from_static));
            let credential = match self.config.kind.auth {
                Auth::Bare => token.to_owned(),
                Auth::Bearer | Auth::None => format!("Bearer {token}"),
            };
            headers_set.push((AUTHORIZATION, credential));
        }
        if request.stream {
            headers_set.push((ACCEPT, "text/event-stream".to_owned()));
        }
        Ok(ProviderRequest {
            api,
            host: self.config.endpoint.host.clone(),
            path,
            headers_set,
            headers_remove,
            body,
            sent_model: sent_model.to_owned(),
        })
    }

    fn path(&self, path_and_query: &str, recognised: Option<Recognised<'_>>) -> Result<String, ApiError> {
        let config = &self.config;
        let (path, query) = match path_and_query.split_once('?') {
            Some((path, query)) => (path, Some(query)),
            None => (path_and_query, None),
        };
        let path = match &config.base_path {
            Some(BasePath::Remove(prefix)) => match path.strip_prefix(prefix.as_str()) {
                Some("") => "/",
                Some(rest) if rest.starts_with('/') => rest,
                _ => path,
            },
            _ => path,
        };
        let mut path = if config.protocol == Protocol::Original || config.kind.name == "generic" {
            path.to_owned()
        } else {
            self.provider_path(path, recognised)?
        };
        if let Some(BasePath::Prepend(prefix)) = &config.base_path
            && !path.starts_with(prefix.as_str())
        {
            path.insert_str(0, prefix);
        }
        if let Some(prefix) = &config.provider_base_path
            && !path.starts_with(prefix.as_str())
        {
            path.insert_str(0, prefix);
        }
        if let Some(query) = query {
            path.push(if path.contains('?') { '&' } else { '?' });
            path.push_str(query);
        }
        Ok(path)
    }

    /// The provider's path for what the client's path means.
    fn provider_path(&self, path: &str, recognised: Option<Recognised<'_>>) -> Result<String, ApiError> {
        let config = &self.config;
        let endpoint = &config.endpoint;
        let Some(Recognised { api, tail, id }) = recognised else {
            // Not an API we know. It is still the provider's to answer, in its own place.
            return Ok(match v1_tail(path) {
                Some(tail) => format!("{}{tail}", endpoint.prefix),
                None => path.to_owned(),
            });
        };
        if let Some((_, template)) = config.capabilities.iter().find(|(known, _)| *known == api) {
            return Ok(fill(template, id));
        }
        if let Some(direct) = endpoint.direct.as_ref().filter(|direct| tail.ends_with(direct.suffix)) {
            return Ok(direct.path.clone());
        }
        // Whoever serves models at a URL of his own may speak Anthropic's protocol, too.
        let is_openai_itself = endpoint.host.as_deref() == Some(OPENAI);
        if !config.kind.supports(api) || (is_openai_itself && api.is_anthropic()) {
            let message = format!(
                "The provider `{}` (type {}) has no endpoint for {path}. Send this to a route whose provider has it.",
                config.id, config.kind.name
            );
            return Err(ApiError::new(ErrorKind::UnsupportedApi, message));
        }
        Ok(match config.kind.fixed_path(api) {
            Some(fixed) => fixed.to_owned(),
            None if matches!(api, Api::GeminiGenerateContent | Api::GeminiStreamGenerateContent) => path.to_owned(),
            None => format!("{}{tail}", endpoint.prefix),
        })
    }

    /// The body with the provider's model name, the operator's settings and what the provider needs changed.
    fn body(&self, api: Api, request: &ClientRequest<'_>, sent_model: &str) -> Result<Bytes, ApiError> {
        let config = &self.config;
        let mut edits = Vec::new();
        for setting in &config.custom_settings {
            let (path, value) = (setting.path.as_str(), setting.value.as_str());
            edits.push(if setting.overwrite { Edit::set(path, value) } else { Edit::default(path, value) });
        }
        if config.protocol == Protocol::Original {
            return Ok(splice(request.body, &edits)?);
        }
        if !sent_model.is_empty() {
            edits.push(Edit::set_string("model", sent_model));
        }
        let mut body = request.body.clone();
        if api == Api::ChatCompletions {
            if config.stream_usage && request.stream {
                edits.push(Edit::default("stream_options.include_usage", "true"));
            }
            if let Some(format) = &config.response_format {
                edits.push(Edit::set("response_format", format.as_str()));
            }
            body = developer_to_system(body)?;
        }
        if config.kind.name == "doubao" {
            match api {
                Api::Responses => edits.extend(["parallel_tool_calls", "tool_choice"].map(Edit::remove)),
                Api::ImageGenerations => edits.push(Edit::default("watermark", "false")),
                _ => {}
            }
        }
        Ok(splice(&body, &edits)?)
    }
}

fn is_object(body: &[u8]) -> bool {
    body.trim_ascii_start().first() == Some(&b'{')
}

/// Puts the id into a path such as `/videos/{video_id}`.
fn fill(template: &str, id: Option<&str>) -> String {
    match (template.split_once('{'), id) {
        (Some((before, rest)), Some(id)) => {
            let after = rest.split_once('}').map_or("", |(_, after)| after);
            format!("{before}{id}{after}")
        }
        _ => template.to_owned(),
    }
}

/// Gives messages of the role `developer` the role `system`, which is what providers other than OpenAI call it.
fn developer_to_system(body: Bytes) -> Result<Bytes, ApiError> {
    if memmem::find(&body, b"developer").is_none() {
        return Ok(body);
    }
    let text = body.as_ref();
    let mut patches: Vec<Patch> = Vec::new();
    let mut cursor = Cursor::new(text);
    cursor.object(|cursor, key| {
        if key.text() == "messages" && cursor.kind()? == Kind::Array {
            cursor.array(|cursor| role_patches(cursor, text, &mut patches)).map(drop)
        } else {
            cursor.value().map(drop)
        }
    })?;
    if patches.is_empty() { Ok(body) } else { Ok(apply(&body, patches)) }
}

fn role_patches(cursor: &mut Cursor<'_>, text: &[u8], patches: &mut Vec<Patch>) -> Result<(), JsonError> {
    if cursor.kind()? != Kind::Object {
        return cursor.value().map(drop);
    }
    cursor.object(|cursor, key| {
        let is_string = cursor.kind()? == Kind::String;
        let value = cursor.value()?;
        if is_string && key.text() == "role" && unquote(&text[value.clone()]) == "developer" {
            patches.push((value, "\"system\"".to_owned()));
        }
        Ok(())
    })?;
    Ok(())
}

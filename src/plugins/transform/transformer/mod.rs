//! `transformer`: removes, renames, replaces, adds, appends, maps and dedupes headers, query parameters and body fields of
//! requests, headers and body fields of answers. AUTHN phase, priority 410.
//!
//! Rules run in written order, first all for headers, then all for the query, then all for the body. Differences from Higress:
//! files of a multipart form are kept (Higress drops them when it writes the form again), JSON bodies keep their spelling
//! (Higress writes them anew with line breaks), an empty key is a configuration error.

mod config;
mod fields;
mod json;
#[cfg(test)]
mod tests;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use http::header::CONTENT_TYPE;
use http::{Method, StatusCode};
use pingora_http::ResponseHeader;

use self::config::Config;
use self::fields::{Place, Sources};
use super::bag::{self, RequestHeaders, ResponseHeaders};
use super::form::{Form, media_type};
use crate::config::model::Phase;
use crate::plugins::config::is_usable;
use crate::plugins::registry::{BuildResult, PluginSpec, Scope};
use crate::plugins::rules::Family;
use crate::plugins::{Flow, Host, Plugin, Request};

pub const SPEC: PluginSpec = PluginSpec {
    name: "transformer",
    phase: Phase::Authn,
    priority: 410,
    family: Family::Go,
    summary: "Changes headers, query parameters and bodies of requests, headers and bodies of answers",
    build,
    check: |scope| Config::read(scope).1,
};

struct Transformer {
    config: Config,
}

fn build(scope: &Scope<'_>, _host: &Arc<dyn Host>) -> BuildResult {
    let (config, problems) = Config::read(scope);
    if is_usable(&problems) { Ok(Some(Arc::new(Transformer { config }))) } else { Err(problems) }
}

/// Host and path a request came with: what patterns of both halves look at.
#[derive(Clone)]
struct Origin(Place);

/// A request body the request rules look at, as its content type says before any rule ran.
#[derive(Clone)]
struct RequestBody {
    content_type: String,
}

#[async_trait]
impl Plugin for Transformer {
    async fn on_request_headers(&self, request: &mut Request<'_>) -> Flow {
        let place = Place {
            host: request.header("host").unwrap_or_default().to_owned(),
            path: bag::path_and_query(request).to_owned(),
        };
        request.state.notes.remove::<RequestBody>();
        let content_type = request.header("content-type").unwrap_or_default().to_owned();
        let rules = &self.config.request;
        if rules.needs_body() && is_form_or_json(&content_type) {
            request.state.notes.insert(RequestBody { content_type });
        }
        if !(rules.reads_body && request.state.notes.get::<RequestBody>().is_some()) {
            self.transform_head(request, &place, None);
        }
        request.state.notes.insert(Origin(place));
        Flow::Continue
    }

    fn wants_body(&self, request: &Request<'_>) -> bool {
        request.state.notes.get::<RequestBody>().is_some()
    }

    async fn on_request_body(&self, request: &mut Request<'_>) -> Flow {
        let Some(RequestBody { content_type }) = request.state.notes.remove::<RequestBody>() else {
            return Flow::Continue;
        };
        let place = origin(request);
        let bytes = request.state.body.clone().unwrap_or_default();
        let mut body = Body::parse(&content_type, &bytes);
        if self.config.request.reads_body {
            self.transform_head(request, &place, body.as_ref());
        }
        let steps = &self.config.request.body;
        let changed = match &mut body {
            None => None,
            Some(_) if steps.is_empty() => None,
            Some(Body::Json(text)) => {
                let query = bag::query(request);
                let headers = RequestHeaders(request);
                let sources = Sources { headers: Some(&headers), querys: Some(&query), body: None };
                json::run(steps, text, &place, &sources)
            }
            Some(Body::Form(form)) => {
                let query = bag::query(request);
                let headers = RequestHeaders(request);
                let sources = Sources { headers: Some(&headers), querys: Some(&query), body: None };
                fields::run(steps, config::Part::Body, form.fields(), &place, &sources);
                Some(form.encode())
            }
        };
        if let Some(changed) = changed {
            request.state.body = Some(changed);
        }
        Flow::Continue
    }

    fn may_hold_answer(&self, _request: &Request<'_>) -> bool {
        self.config.response.needs_body()
    }

    fn on_response_headers(&self, request: &mut Request<'_>, response: &mut ResponseHeader) {
        // An answer without its body shows none.
        let is_bare = request.head.method == Method::HEAD || response.status == StatusCode::NOT_MODIFIED;
        let has_no_body = is_bare && request.state.is_upstream_answer;
        if has_no_body || !(self.config.response.reads_body && is_json(response)) {
            self.transform_answer_head(request, response, None);
        }
    }

    fn wants_response_body(&self, _request: &Request<'_>, response: &ResponseHeader) -> bool {
        self.config.response.needs_body() && is_json(response)
    }

    async fn on_response_body(&self, request: &mut Request<'_>, response: &mut ResponseHeader, body: &mut Bytes) {
        let parsed = Body::parse("application/json", body);
        if self.config.response.reads_body {
            self.transform_answer_head(request, response, parsed.as_ref());
        }
        let steps = &self.config.response.body;
        let Some(Body::Json(text)) = parsed.filter(|_| !steps.is_empty()) else { return };
        let place = origin(request);
        let headers = ResponseHeaders(response);
        let sources = Sources { headers: Some(&headers), querys: None, body: None };
        if let Some(changed) = json::run(steps, &text, &place, &sources) {
            *body = changed;
        }
    }
}

impl Transformer {
    /// Runs the rules for headers and query, then has the route matched again unless that is switched off.
    fn transform_head(&self, request: &mut Request<'_>, place: &Place, body: Option<&Body>) {
        let rules = &self.config.request;
        let body = body.map(Body::source);
        if !rules.headers.is_empty() {
            let query = bag::query(request);
            let sources = Sources { headers: None, querys: Some(&query), body };
            fields::run(&rules.headers, config::Part::Headers, &mut RequestHeaders(request), place, &sources);
        }
        if !rules.querys.is_empty() {
            let mut query = bag::query(request);
            let headers = RequestHeaders(request);
            let sources = Sources { headers: Some(&headers), querys: None, body };
            fields::run(&rules.querys, config::Part::Querys, &mut query, place, &sources);
            bag::set_query(request, &query);
        }
        if !(rules.headers.is_empty() && rules.querys.is_empty()) && self.config.reroute {
            request.state.reroute = true;
        }
    }

    fn transform_answer_head(&self, request: &Request<'_>, response: &mut ResponseHeader, body: Option<&Body>) {
        let steps = &self.config.response.headers;
        if !steps.is_empty() {
            let sources = Sources { headers: None, querys: None, body: body.map(Body::source) };
            let place = origin(request);
            fields::run(steps, config::Part::Headers, &mut ResponseHeaders(response), &place, &sources);
        }
    }
}

/// A body whose fields rules may name.
enum Body {
    Json(String),
    Form(Form),
}

impl Body {
    /// `None` for a body that is empty or not what its content type says; it stays as it is.
    fn parse(content_type: &str, body: &Bytes) -> Option<Body> {
        if body.is_empty() {
            return None;
        }
        if media_type(content_type) == "application/json" {
            let text = std::str::from_utf8(body).ok().filter(|text| super::json_edit::is_json(text))?;
            return Some(Body::Json(text.to_owned()));
        }
        Form::parse(content_type, body).map(Body::Form)
    }

    fn source(&self) -> fields::BodySource<'_> {
        match self {
            Body::Json(text) => fields::BodySource::Json(text),
            Body::Form(Form::UrlEncoded(values) | Form::Multipart { fields: values, .. }) => {
                fields::BodySource::Form(values)
            }
        }
    }
}

fn origin(request: &Request<'_>) -> Place {
    request.state.notes.get::<Origin>().map(|origin| origin.0.clone()).unwrap_or_default()
}

fn is_form_or_json(content_type: &str) -> bool {
    let kinds = ["application/json", "application/x-www-form-urlencoded", "multipart/form-data"];
    kinds.contains(&media_type(content_type).as_str())
}

fn is_json(response: &ResponseHeader) -> bool {
    let kind = response.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    kind.is_some_and(|kind| media_type(kind) == "application/json")
}

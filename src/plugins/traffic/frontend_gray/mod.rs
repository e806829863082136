//! `frontend-gray`: gives part of the users another version of a web site. Default phase, priority 450.
//!
//! A page (no file suffix, or that of a page) belongs to the version of its user; the files it loads belong to the version the
//! page told by the cookie `x-higress-tag`. The version goes upstream in the header of that name and replaces `{version}` in
//! rewritten paths and in pages. Pages are not cached, can be replaced (`html`), and get scripts (`injection`).
//!
//! Differences from Higress: `storeMaxAge` counts (there its value is ignored); a rewritten path keeps its query; the number
//! handed out to a new user is the one the version was chosen by; the tag header is set, not added to what the client sent; a
//! deployment without rule and weight is a warning and goes to nobody (there it ends the plugin).

mod choose;
mod config;
mod page;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use http::header::{CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_ENCODING, CONTENT_TYPE, HOST, SET_COOKIE};
use http::{HeaderName, HeaderValue, Method, StatusCode};
use pingora_http::ResponseHeader;

use self::choose::User;
use self::config::Config;
use crate::config::model::Phase;
use crate::plugins::config::is_usable;
use crate::plugins::registry::{BuildResult, PluginSpec, Scope};
use crate::plugins::rules::Family;
use crate::plugins::{Flow, Host, Plugin, Request, parts};

pub const SPEC: PluginSpec = PluginSpec {
    name: "frontend-gray",
    phase: Phase::Unspecified,
    priority: 450,
    family: Family::Go,
    summary: "Gives part of the users another version of a web site",
    build,
    check: |scope| Config::read(scope).1,
};

/// Header and cookie with the version.
const TAG: HeaderName = HeaderName::from_static("x-higress-tag");
const NO_CACHE: HeaderValue = HeaderValue::from_static("no-cache, no-store, max-age=0, must-revalidate");
const PAGE_SUFFIXES: [&str; 9] = [".html", ".htm", ".jsp", ".php", ".asp", ".aspx", ".erb", ".ejs", ".twig"];

/// What the answer of this request needs to know.
#[derive(Clone)]
struct Chosen {
    is_page: bool,
    is_index: bool,
    version: String,
    backend_version: String,
    unique: String,
    script: Option<String>,
}

struct FrontendGray {
    config: Config,
}

fn build(scope: &Scope<'_>, _host: &Arc<dyn Host>) -> BuildResult {
    let (config, problems) = Config::read(scope);
    if is_usable(&problems) { Ok(Some(Arc::new(FrontendGray { config }))) } else { Err(problems) }
}

#[async_trait]
impl Plugin for FrontendGray {
    async fn on_request_headers(&self, request: &mut Request<'_>) -> Flow {
        request.state.notes.remove::<Chosen>();
        let config = &self.config;
        let path = clean(request.path());
        let is_index = config.index_paths.iter().any(|pattern| pattern.is_match(&path));
        if !config.applies(request, &path, is_index) {
            return Flow::Continue;
        }
        let is_page = is_page(&path);
        let user = User::of(config, request);
        let deployment = config.deployment_of(&user, request);
        let version = match is_page || is_index {
            true => deployment.version.clone(),
            false => config.version_of_file(deployment, &path, parts::cookie(request, TAG.as_str())).to_owned(),
        };
        let chosen = Chosen {
            is_page,
            is_index,
            version: version.clone(),
            backend_version: deployment.backend_version.clone(),
            script: config.script(&user, request),
            unique: user.unique,
        };
        request.state.notes.insert(chosen);
        // What cannot be a header's value or a path is left out; the configuration's author sees the version missing upstream.
        let _ = request.head.insert_header(TAG, version.as_str());
        if !config.rewrite.host.is_empty() {
            let _ = request.head.insert_header(HOST, config.rewrite.host.as_str());
        }
        if let Some(rewritten) = config.rewritten(&path, &version, is_page) {
            let query = request.head.uri.query().map(|query| format!("?{query}")).unwrap_or_default();
            let _ = request.head.set_raw_path(format!("{rewritten}{query}").as_bytes());
        }
        Flow::Continue
    }

    fn may_hold_answer(&self, request: &Request<'_>) -> bool {
        request
            .state
            .notes
            .get::<Chosen>()
            .is_some_and(|chosen| chosen.is_page && (self.config.use_manifest || !chosen.is_index))
    }

    fn on_response_headers(&self, request: &mut Request<'_>, response: &mut ResponseHeader) {
        let Some(chosen) = request.state.notes.get::<Chosen>() else { return };
        // The names and values below are valid; inserting them cannot fail.
        if !self.config.use_manifest {
            if chosen.is_index {
                let _ = response.insert_header(CACHE_CONTROL, NO_CACHE);
                return;
            }
            if !chosen.is_page {
                return;
            }
        }
        if !self.config.rewrite.host.is_empty() {
            response.remove_header(&CONTENT_DISPOSITION);
        }
        match response.status {
            StatusCode::OK => {}
            StatusCode::NOT_FOUND if !self.config.html.is_empty() => {
                let _ = response.set_status(StatusCode::OK);
                let _ = response.insert_header(CONTENT_TYPE, "text/html");
            }
            _ => return,
        }
        let _ = response.insert_header(CACHE_CONTROL, NO_CACHE);
        for cookie in self.config.cookies(chosen) {
            let _ = response.append_header(SET_COOKIE, cookie);
        }
    }

    /// A page that can be read as text, or has another in its place.
    fn wants_response_body(&self, request: &Request<'_>, response: &ResponseHeader) -> bool {
        let kind = response.headers.get(CONTENT_TYPE).map(|kind| kind.as_bytes().to_ascii_lowercase());
        self.may_hold_answer(request)
            && response.status == StatusCode::OK
            && request.head.method != Method::HEAD
            && (!self.config.html.is_empty()
                || (kind.is_none_or(|kind| kind.starts_with(b"text/html"))
                    && !response.headers.contains_key(CONTENT_ENCODING)))
    }

    async fn on_response_body(&self, request: &mut Request<'_>, response: &mut ResponseHeader, body: &mut Bytes) {
        let Some(chosen) = request.state.notes.get::<Chosen>() else { return };
        let text = if self.config.html.is_empty() { std::str::from_utf8(body) } else { Ok("") };
        // What is in another encoding stays as it is.
        let Ok(text) = text else { return };
        response.remove_header(&CONTENT_ENCODING);
        *body = Bytes::from(self.config.page(text, chosen.script.as_deref(), &chosen.version));
    }
}

impl Config {
    /// Whether this request is for the web site at all.
    fn applies(&self, request: &Request<'_>, path: &str, is_index: bool) -> bool {
        let is_skipped_by_header = || {
            let header = |name: &str| parts::text(request, name).unwrap_or_default();
            self.skipped_by_headers.iter().any(|(name, value)| header(name) == value.as_str())
        };
        if is_index {
            return true;
        }
        if self.skipped_paths.iter().any(|pattern| pattern.is_match(path)) {
            return false;
        }
        is_page(path) || !self.rewrite.host.is_empty() || (!is_skipped_by_header() && !self.gray.is_empty())
    }

    /// Where the version keeps this path, if that is elsewhere.
    fn rewritten(&self, path: &str, version: &str, is_page: bool) -> Option<String> {
        let routing = if is_page { &self.rewrite.index } else { &self.rewrite.file };
        let (prefix, target) = routing.iter().find(|(prefix, _)| path.starts_with(prefix.as_str()))?;
        let target = target.replace("{version}", version);
        let rewritten = match (is_page, path.strip_prefix(prefix.as_str())) {
            (false, Some(rest)) => clean(&format!("{target}/{rest}")),
            _ => target,
        };
        (rewritten != path).then_some(rewritten)
    }

    fn cookies(&self, chosen: &Chosen) -> Vec<String> {
        let kept =
            |name: &str, value: &str| format!("{name}={value}; Max-Age={}; Path=/; HttpOnly; Secure", self.max_age);
        let mut cookies = Vec::new();
        if chosen.is_page {
            cookies.push(kept(TAG.as_str(), &chosen.version));
        }
        if !chosen.unique.is_empty() {
            cookies.push(kept(&self.unique_tag, &chosen.unique));
        }
        let has_backends = self.gray.iter().any(|deployment| !deployment.backend_version.is_empty());
        match chosen.backend_version.as_str() {
            _ if !has_backends || !chosen.is_page => {}
            "" => {
                let gone = "Expires=Thu, 01 Jan 1970 00:00:00 GMT";
                cookies.push(format!("{}=; {gone}; Path=/; HttpOnly; Secure", self.backend_tag));
            }
            version => cookies.push(kept(&self.backend_tag, version)),
        }
        cookies
    }
}

fn is_page(path: &str) -> bool {
    let last = path.rsplit('/').next().unwrap_or_default();
    last.rfind('.').is_none_or(|dot| last.get(dot..).is_some_and(|suffix| PAGE_SUFFIXES.contains(&suffix)))
}

/// A path without empty, `.` and `..` segments and without a slash at its end.
fn clean(path: &str) -> String {
    let mut segments: Vec<&str> = Vec::new();
    for segment in path.split('/') {
        match segment {
            "" | "." => {}
            ".." => {
                segments.pop();
            }
            other => segments.push(other),
        }
    }
    format!("/{}", segments.join("/"))
}

#[cfg(test)]
mod tests;

//! What a route changes in heads: of the request on its way upstream, and of the upstream's answer. Both ways out, pingora's
//! and the exchange's, pass here.

use http::{HeaderName, HeaderValue};
use pingora_error::Result;
use pingora_http::{RequestHeader, ResponseHeader};

use super::context::Context;
use super::{mcp_session, span};
use crate::config::model::{HeaderOperations, PathRewrite, Rewrite};
use crate::plugins::Reply;

/// How Higress tells a default backend which route it answers for, and under which name it was configured.
const FALLBACK_ROUTE: &str = "x-envoy-route-name";
const FALLBACK_SERVICE: &str = "x-envoy-fallback-service";

/// Applies rewrite and header control to the head that goes upstream.
///
/// # Errors
/// The rewrite makes something that is no path or host.
pub fn prepare(request: &mut RequestHeader, ctx: &Context) -> Result<()> {
    let Some(entry) = &ctx.route else { return Ok(()) };
    span::propagate(request, ctx);
    if let Some(fallback) = entry.route.fallback.as_ref().filter(|_| ctx.has_fallen_back) {
        request.insert_header(FALLBACK_ROUTE, format!("{}-fallback", ctx.state.route))?;
        request.insert_header(FALLBACK_SERVICE, fallback.service.as_str())?;
        return request.set_raw_path(b"/");
    }
    rewrite(request, &entry.route.rewrite)?;
    open_session(request, ctx)?;
    control(request, ctx)
}

/// The server knows its session by the name it gave it.
fn open_session(request: &mut RequestHeader, ctx: &Context) -> Result<()> {
    let Some(parameter) = ctx.session_parameter() else { return Ok(()) };
    let opened = request.uri.query().and_then(|query| mcp_session::opened(query, parameter));
    let Some((query, _)) = opened else { return Ok(()) };
    let full = format!("{}?{query}", request.uri.path());
    request.set_raw_path(full.as_bytes())
}

/// Applies header control alone to a request.
///
/// # Errors
/// None: the operations were checked when they were read.
pub fn control(request: &mut RequestHeader, ctx: &Context) -> Result<()> {
    ctx.header_control().map_or(Ok(()), |control| apply(request, &control.request))
}

/// Applies header control to the head of an upstream's answer.
pub fn finish(answer: &mut ResponseHeader, ctx: &Context) {
    if let Some(control) = ctx.header_control() {
        // The operations were checked when they were read.
        let _ = apply(answer, &control.response);
    }
}

/// Applies header control to an answer that the route itself gives, as Envoy does.
pub fn finish_reply(reply: &mut Reply, ctx: &Context) {
    if let Some(control) = ctx.header_control() {
        // The operations were checked when they were read.
        let _ = apply(reply, &control.response);
    }
}

/// The kinds of heads.
trait Head {
    fn remove(&mut self, name: &str);
    fn set(&mut self, name: &str, value: &str) -> Result<()>;
    fn add(&mut self, name: &str, value: &str) -> Result<()>;
}

impl Head for RequestHeader {
    fn remove(&mut self, name: &str) {
        self.remove_header(name);
    }

    fn set(&mut self, name: &str, value: &str) -> Result<()> {
        self.insert_header(name.to_owned(), value)
    }

    fn add(&mut self, name: &str, value: &str) -> Result<()> {
        self.append_header(name.to_owned(), value).map(|_| ())
    }
}

impl Head for ResponseHeader {
    fn remove(&mut self, name: &str) {
        self.remove_header(name);
    }

    fn set(&mut self, name: &str, value: &str) -> Result<()> {
        self.insert_header(name.to_owned(), value)
    }

    fn add(&mut self, name: &str, value: &str) -> Result<()> {
        self.append_header(name.to_owned(), value).map(|_| ())
    }
}

impl Head for Reply {
    fn remove(&mut self, name: &str) {
        self.headers.retain(|(known, _)| !known.as_str().eq_ignore_ascii_case(name));
    }

    fn set(&mut self, name: &str, value: &str) -> Result<()> {
        self.remove(name);
        self.add(name, value)
    }

    fn add(&mut self, name: &str, value: &str) -> Result<()> {
        if let (Ok(name), Ok(value)) = (HeaderName::try_from(name), HeaderValue::try_from(value)) {
            self.headers.push((name, value));
        }
        Ok(())
    }
}

/// Removes, then updates, then adds, as Envoy does.
fn apply(head: &mut impl Head, operations: &HeaderOperations) -> Result<()> {
    operations.remove.iter().for_each(|name| head.remove(name));
    for (name, value) in &operations.update {
        head.set(name, value)?;
    }
    for (name, value) in &operations.add {
        head.add(name, value)?;
    }
    Ok(())
}

fn rewrite(request: &mut RequestHeader, rewrite: &Rewrite) -> Result<()> {
    if let Some(host) = &rewrite.host {
        request.insert_header(http::header::HOST, host.as_str())?;
    }
    let Some(path_rewrite) = &rewrite.path else { return Ok(()) };
    let path = rewritten(request.uri.path(), path_rewrite);
    let full = match request.uri.query() {
        Some(query) => format!("{path}?{query}"),
        None => path,
    };
    request.set_raw_path(full.as_bytes())
}

/// The path a rewrite makes of one. What is no path becomes one: captures may be anything.
pub fn rewritten(path: &str, rewrite: &PathRewrite) -> String {
    let new = replaced(path, rewrite);
    if new.starts_with('/') { new } else { format!("/{new}") }
}

fn replaced(path: &str, rewrite: &PathRewrite) -> String {
    match rewrite {
        PathRewrite::Full(to) => to.clone(),
        PathRewrite::Prefix { from, to, .. } => {
            let rest = path.get(from.trim_end_matches('/').len()..).unwrap_or_default();
            // What follows the prefix stays letter for letter, slashes too: upstreams tell `/v/` from `/v`.
            match (to.trim_end_matches('/'), rest) {
                ("", "") => "/".to_owned(),
                (_, "") => to.clone(),
                (base, rest) if rest.starts_with('/') => format!("{base}{rest}"),
                (base, rest) => format!("{base}/{rest}"),
            }
        }
        PathRewrite::Regex { pattern, substitution } => {
            pattern.regex().replace_all(path, substitution.as_str()).into_owned()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_are_removed_then_updated_then_added() {
        let pair = |name: &str, value: &str| (name.to_owned(), value.to_owned());
        let operations = HeaderOperations {
            remove: vec!["x-old".into(), "x-a".into()],
            update: vec![pair("X-A", "1"), pair("x-b", "2")],
            add: vec![pair("x-b", "3")],
        };
        let mut head = RequestHeader::build("GET", b"/", None).unwrap();
        for (name, value) in [("x-old", "0"), ("x-a", "0"), ("x-b", "0"), ("x-c", "0")] {
            head.insert_header(name, value).unwrap();
        }
        apply(&mut head, &operations).unwrap();
        let values = |name: &str| head.headers.get_all(name).iter().map(|v| v.to_str().unwrap()).collect::<Vec<_>>();
        assert_eq!((values("x-old"), values("x-a")), (vec![], vec!["1"]));
        assert_eq!((values("x-b"), values("x-c")), (vec!["2", "3"], vec!["0"]));
    }

    #[test]
    fn paths_are_rewritten_and_queries_stay() {
        let rewritten = |path: PathRewrite, from: &str| {
            let mut head = RequestHeader::build("GET", from.as_bytes(), None).unwrap();
            rewrite(&mut head, &Rewrite { host: None, path: Some(path) }).unwrap();
            head.uri.to_string()
        };
        let prefix = |to: &str| PathRewrite::Prefix { from: "/foo".into(), to: to.into(), ignore_case: false };
        for (path, from, expected) in [
            (PathRewrite::Full("/x".into()), "/foo/bar?y=1", "/x?y=1"),
            (prefix("/x"), "/foo/bar", "/x/bar"),
            (prefix("/x"), "/foo", "/x"),
            (prefix("/"), "/foo/bar", "/bar"),
            (prefix("/"), "/foo", "/"),
            (prefix("/"), "/foo/", "/"),
            (prefix("/x"), "/foo/", "/x/"),
            (prefix("/x/"), "/foo/bar/", "/x/bar/"),
            (prefix("/x/"), "/foo", "/x/"),
            (prefix("/x"), "/foo//bar", "/x//bar"),
        ] {
            assert_eq!(rewritten(path, from), expected);
        }
    }
}

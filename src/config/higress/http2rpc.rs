//! Http2Rpc: HTTP requests as calls of a Dubbo service. Bound to a route by the annotation `rpc-destination-name`
//! (Higress `ingress_config.go`, `constructHttp2RpcMethods`).
//!
//! Unlike Higress, which looks at the first of `httpMethods` only, each of them counts.

use std::sync::Arc;

use super::skip_common;
use crate::config::SYSTEM_NAMESPACE;
use crate::config::fields::Fields;
use crate::config::model::{AttachedHeaders, DubboMethod, DubboParam, DubboService, ParamSource, Pattern};
use crate::config::problem::Report;
use crate::config::source::RawObject;

/// Name and meaning, which is `None` for what has a fault; nothing at all for an object without effect.
pub(in crate::config) fn read(object: &RawObject, report: &Report) -> Option<(String, Option<Arc<DubboService>>)> {
    let report = report.on_parts_of(&object.origin);
    if object.origin.namespace != SYSTEM_NAMESPACE {
        report.warn("metadata.namespace", format!("only Http2Rpcs in {SYSTEM_NAMESPACE} count; it has no effect"));
        return None;
    }
    let part = report.part();
    let mut fields = Fields::new(&object.value, "", report);
    skip_common(&mut fields);
    let name = object.origin.name.clone();
    let Some(mut spec) = fields.object("spec") else { return Some((name, None)) };
    let dubbo = spec.object("dubbo");
    // Reserved in Higress, and empty.
    spec.unsupported(&["grpc"]);
    spec.finish();
    fields.finish();
    let Some(mut dubbo) = dubbo else {
        report.warn("spec.dubbo", "is missing, so the object has no effect");
        return None;
    };
    let interface = dubbo.required_text("service").map(str::to_owned);
    let version = dubbo.text("version").unwrap_or_default().to_owned();
    let group = dubbo.text("group").filter(|group| !group.is_empty()).map(str::to_owned);
    let is_whole = part.is_whole();
    let mut methods: Vec<(Vec<Shape>, DubboMethod)> = dubbo.objects("methods").into_iter().filter_map(method).collect();
    if methods.is_empty() {
        report.error(&dubbo.path_of("methods"), "names no usable method");
    }
    // In each element what is written out says better what is meant than `*`, and that better than `**`.
    methods.sort_by(|(a, _), (b, _)| a.cmp(b));
    let methods: Vec<DubboMethod> = methods.into_iter().map(|(_, method)| method).collect();
    dubbo.finish();
    let is_usable = is_whole && !methods.is_empty();
    let usable = interface.filter(|_| is_usable);
    Some((name, usable.map(|interface| Arc::new(DubboService { interface, version, group, methods }))))
}

/// `None` if it has a fault: without one of its parameters it would be another method.
fn method(mut fields: Fields<'_>) -> Option<(Vec<Shape>, DubboMethod)> {
    let report = fields.report();
    let part = report.part();
    let name = fields.required_text("serviceMethod").map(str::to_owned);
    let http_methods: Vec<String> =
        fields.texts("httpMethods").iter().map(|method| method.to_ascii_uppercase()).collect();
    if http_methods.is_empty() {
        report.error(&fields.path_of("httpMethods"), "names no method");
    }
    let path_field = fields.path_of("httpPath");
    let template = fields.required_text("httpPath").map(path);
    if let Some(Err(message)) = &template {
        report.error(&path_field, message.clone());
    }
    let headers = match fields.text("headersAttach").map(str::trim) {
        None | Some("") => AttachedHeaders::None,
        Some("*") => AttachedHeaders::All,
        Some(names) => AttachedHeaders::Named(
            names.split(',').map(str::trim).filter(|name| !name.is_empty()).map(str::to_owned).collect(),
        ),
    };
    let params = params(&mut fields);
    fields.finish();
    let Template { path, variables, shapes } = template?.ok().filter(|_| part.is_whole())?;
    Some((shapes, DubboMethod { name: name?, http_methods, path, variables, headers, params }))
}

fn params(fields: &mut Fields<'_>) -> Vec<DubboParam> {
    if let Some(mut entire) = fields.object("paramFromEntireBody") {
        // As in Higress it is then the only parameter.
        fields.inert(&["params"]);
        let java_type = entire.required_text("paramType").map(str::to_owned);
        entire.finish();
        let whole = |java_type| DubboParam { source: ParamSource::Body, key: String::new(), java_type };
        return java_type.map(whole).into_iter().collect();
    }
    let read = |mut param: Fields<'_>| {
        let source = match param.required_text("paramSource") {
            Some("QUERY") => Some(ParamSource::Query),
            Some("HEADER") => Some(ParamSource::Header),
            Some("PATH") => Some(ParamSource::Path),
            Some("BODY") => Some(ParamSource::Body),
            Some(other) => {
                let field = param.path_of("paramSource");
                param.report().error_hint(
                    &field,
                    format!("`{other}` is no source"),
                    "one of QUERY, HEADER, PATH, BODY",
                );
                None
            }
            None => None,
        };
        // Without a key the whole body is meant.
        let key = match source {
            Some(ParamSource::Body) => param.text("paramKey").or(Some("")),
            _ => param.required_text("paramKey"),
        };
        let key = key.map(str::to_owned);
        let java_type = param.required_text("paramType").map(str::to_owned);
        param.finish();
        Some(DubboParam { source: source?, key: key?, java_type: java_type? })
    };
    fields.objects("params").into_iter().filter_map(read).collect()
}

/// What an element of a path takes, the most exact first.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Shape {
    Literal,
    One,
    Rest,
}

struct Template {
    path: Pattern,
    variables: Vec<String>,
    shapes: Vec<Shape>,
}

const ONE: &str = "[^/]+";
const REST: &str = ".*";

/// A path with variables: `{id}` and `*` are one element, `{rest=**}` and `**` all the rest.
fn path(template: &str) -> Result<Template, String> {
    if !template.starts_with('/') {
        return Err(format!("`{template}` must start with a slash"));
    }
    let mut expression = String::new();
    let (mut variables, mut shapes) = (Vec::new(), Vec::new());
    for element in template.trim_start_matches('/').split('/') {
        let (name, shape) = match element.strip_prefix('{').and_then(|inner| inner.strip_suffix('}')) {
            Some(inner) => {
                let (name, shape) = inner.split_once('=').unwrap_or((inner, "*"));
                (Some(name), shape)
            }
            None => (None, element),
        };
        let shape = match shape {
            "*" => ONE.to_owned(),
            "**" => REST.to_owned(),
            literal if name.is_none() && !literal.contains(['{', '}', '*']) => regex::escape(literal),
            _ => return Err(format!("`{element}` is no element of a path: write text, {{name}}, * or **")),
        };
        shapes.push(match shape.as_str() {
            ONE => Shape::One,
            REST => Shape::Rest,
            _ => Shape::Literal,
        });
        expression.push('/');
        match name {
            Some(name) => {
                variables.push(name.to_owned());
                expression.push_str(&format!("({shape})"));
            }
            None => expression.push_str(&shape),
        }
    }
    let pattern = Pattern::full(&expression).map_err(|error| format!("cannot be matched: {error}"))?;
    Ok(Template { path: pattern, variables, shapes })
}

#[cfg(test)]
mod tests {
    #[test]
    fn paths_with_variables() {
        for (template, path, values) in [
            ("/dubbo/hello", "/dubbo/hello", Some(vec![])),
            ("/dubbo/hello", "/dubbo/hello/", None),
            ("/users/{id}/x.y", "/users/7/x.y", Some(vec!["7"])),
            ("/users/{id}/x.y", "/users/7/xzy", None),
            ("/users/{id}", "/users/7/8", None),
            ("/files/*/{rest=**}", "/files/a/b/c", Some(vec!["b/c"])),
            ("/**", "/any/thing", Some(vec![])),
        ] {
            let found = super::path(template).unwrap().path;
            let found = found.regex().captures(path).map(|captures| {
                captures.iter().skip(1).map(|group| group.unwrap().as_str().to_owned()).collect::<Vec<_>>()
            });
            assert_eq!(
                found,
                values.map(|values| values.into_iter().map(str::to_owned).collect()),
                "{template} {path}"
            );
        }
        for template in ["users", "/a{b}", "/{a=b}", "/a*"] {
            assert!(super::path(template).is_err(), "{template}");
        }
    }
}

//! `matches` of HTTPRoute and GRPCRoute rules: the conditions of one route each.

use crate::config::fields::Fields;
use crate::config::model::{HeaderMatch, PathMatch, Pattern, QueryMatch, StringMatch};

/// Conditions that hold together.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Match {
    pub path: PathMatch,
    pub methods: Vec<String>,
    pub headers: Vec<HeaderMatch>,
    pub queries: Vec<QueryMatch>,
}

impl Match {
    /// What a rule without matches takes.
    pub fn everything() -> Match {
        Match { path: PathMatch::Prefix("/".to_owned()), methods: Vec::new(), headers: Vec::new(), queries: Vec::new() }
    }
}

/// `None` if it cannot be used, which has been reported.
pub(super) fn http(mut fields: Fields<'_>) -> Option<Match> {
    let path = match fields.object("path") {
        Some(path) => http_path(path),
        None => Some(PathMatch::Prefix("/".to_owned())),
    };
    let methods = fields.text("method").map(str::to_ascii_uppercase).into_iter().collect();
    let headers = headers(&mut fields);
    let queries = pairs(&mut fields, "queryParams").map(|pairs| {
        let mut queries: Vec<QueryMatch> = Vec::new();
        for (name, value) in pairs {
            // Of those of one name the first counts, as of headers.
            if queries.iter().all(|known| known.name != name) {
                queries.push(QueryMatch { name, value });
            }
        }
        queries
    });
    fields.finish();
    Some(Match { path: path?, methods, headers: headers?, queries: queries? })
}

/// A call of a service's method is a POST to `/<service>/<method>`.
pub(super) fn grpc(mut fields: Fields<'_>) -> Option<Match> {
    let path = match fields.object("method") {
        Some(method) => grpc_path(method),
        None => Some(PathMatch::Prefix("/".to_owned())),
    };
    let headers = headers(&mut fields);
    fields.finish();
    Some(Match { path: path?, methods: Vec::new(), headers: headers?, queries: Vec::new() })
}

fn http_path(mut path: Fields<'_>) -> Option<PathMatch> {
    let report = path.report();
    let value = path.text("value").unwrap_or("/").to_owned();
    let (value_field, type_field) = (path.path_of("value"), path.path_of("type"));
    let kind = path.text("type").unwrap_or("PathPrefix");
    let found = match kind {
        "Exact" | "PathPrefix" if !value.starts_with('/') => {
            report.error(&value_field, format!("`{value}` must start with a slash"));
            None
        }
        "Exact" => Some(PathMatch::Exact(value)),
        "PathPrefix" => Some(PathMatch::Prefix(match value.trim_end_matches('/') {
            "" => "/".to_owned(),
            prefix => prefix.to_owned(),
        })),
        "RegularExpression" => pattern(&value, &value_field, &path).map(PathMatch::Regex),
        other => {
            report.error_hint(
                &type_field,
                format!("`{other}` is no way to match a path"),
                "one of Exact, PathPrefix, RegularExpression",
            );
            None
        }
    };
    path.finish();
    found
}

fn grpc_path(mut method: Fields<'_>) -> Option<PathMatch> {
    let service = method.text("service").filter(|text| !text.is_empty()).map(str::to_owned);
    let name = method.text("method").filter(|text| !text.is_empty()).map(str::to_owned);
    let kind_field = method.path_of("type");
    let kind = method.text("type").unwrap_or("Exact");
    let field = method.path().to_owned();
    let found = match (kind, service, name) {
        ("Exact" | "RegularExpression", None, None) => {
            method.report().error(&field, "names neither a service nor a method");
            None
        }
        ("Exact", Some(service), Some(name)) => Some(PathMatch::Exact(format!("/{service}/{name}"))),
        ("Exact", Some(service), None) => Some(PathMatch::Prefix(format!("/{service}"))),
        ("Exact", None, Some(name)) => {
            pattern(&format!("/[^/]+/{}", regex::escape(&name)), &field, &method).map(PathMatch::Regex)
        }
        ("RegularExpression", service, name) => {
            let part = |text: Option<String>| text.map_or_else(|| "[^/]+".to_owned(), |text| format!("(?:{text})"));
            pattern(&format!("/{}/{}", part(service), part(name)), &field, &method).map(PathMatch::Regex)
        }
        (other, ..) => {
            method.report().error_hint(
                &kind_field,
                format!("`{other}` is no way to match a method"),
                "one of Exact, RegularExpression",
            );
            None
        }
    };
    method.finish();
    found
}

fn headers(fields: &mut Fields<'_>) -> Option<Vec<HeaderMatch>> {
    let pairs = pairs(fields, "headers")?;
    let mut headers: Vec<HeaderMatch> = Vec::new();
    for (name, value) in pairs {
        let name = name.to_ascii_lowercase();
        // The specification: of entries with the same name the first counts.
        if !headers.iter().any(|other| other.name == name) {
            headers.push(HeaderMatch { name, value });
        }
    }
    Some(headers)
}

/// Names with what their values must be.
fn pairs(fields: &mut Fields<'_>, key: &'static str) -> Option<Vec<(String, StringMatch)>> {
    let mut all = Some(Vec::new());
    for mut pair in fields.objects(key) {
        let name = pair.required_text("name").map(str::to_owned);
        let value = pair.text("value").unwrap_or_default().to_owned();
        let (kind_field, value_field) = (pair.path_of("type"), pair.path_of("value"));
        let value = match pair.text("type").unwrap_or("Exact") {
            "Exact" => Some(StringMatch::Exact(value)),
            "RegularExpression" => pattern(&value, &value_field, &pair).map(StringMatch::Regex),
            other => {
                pair.report().error_hint(
                    &kind_field,
                    format!("`{other}` is no way to match a value"),
                    "one of Exact, RegularExpression",
                );
                None
            }
        };
        pair.finish();
        match (&mut all, name, value) {
            (Some(all), Some(name), Some(value)) => all.push((name, value)),
            // Without one of its conditions a match would take too much.
            _ => all = None,
        }
    }
    all
}

fn pattern(expression: &str, field: &str, fields: &Fields<'_>) -> Option<Pattern> {
    Pattern::full(expression)
        .map_err(|error| {
            let reason = crate::config::annotations::reason(&error);
            fields.report().error(field, format!("is not a regular expression: {reason}"));
        })
        .ok()
}

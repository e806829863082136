//! From an HTTP request to a call: which method it means, and where its arguments are.

use percent_encoding::percent_decode_str;
use serde_json::Value;

use crate::config::model::{AttachedHeaders, DubboMethod, DubboParam, DubboService, ParamSource};

/// A call, ready to be written.
#[derive(Debug, Clone, PartialEq)]
pub struct Call<'a> {
    pub interface: &'a str,
    /// May be empty.
    pub version: &'a str,
    pub group: Option<&'a str>,
    pub method: &'a str,
    pub arguments: Vec<Argument<'a>>,
    pub attachments: Vec<(String, String)>,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Argument<'a> {
    pub java_type: &'a str,
    pub value: Value,
}

/// The parts of a request that arguments come from.
pub struct Source<'a> {
    pub method: &'a str,
    pub path: &'a str,
    /// Without question mark.
    pub query: &'a str,
    /// Names in lower case.
    pub headers: Vec<(&'a str, &'a str)>,
    pub body: &'a [u8],
}

/// Why a request is no call.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Misfit {
    #[error("no method of {interface} is bound to {method} {path}; the Http2Rpc object lists those that are")]
    NoMethod { interface: String, method: String, path: String },
    #[error("the {place} \"{key}\" is missing, which the method takes an argument from")]
    Missing { place: &'static str, key: String },
    #[error("the {place} \"{key}\" must be of type {java_type}, not \"{value}\"")]
    Type { place: &'static str, key: String, java_type: String, value: String },
    #[error("the body must be JSON: {0}")]
    Body(String),
}

/// # Errors
/// No method takes this request, or an argument is missing or of the wrong type.
pub fn call<'a>(service: &'a DubboService, source: &Source<'_>) -> Result<Call<'a>, Misfit> {
    let (method, variables) = find(service, source).ok_or_else(|| Misfit::NoMethod {
        interface: service.interface.clone(),
        method: source.method.to_owned(),
        path: source.path.to_owned(),
    })?;
    let mut body = None;
    let mut arguments = Vec::with_capacity(method.params.len());
    let mut n_path = 0;
    for param in &method.params {
        let value = match param.source {
            ParamSource::Body => {
                if body.is_none() {
                    body = Some(serde_json::from_slice(source.body).map_err(|error| Misfit::Body(error.to_string()))?);
                }
                member(body.as_ref().unwrap_or(&Value::Null), param)?
            }
            ParamSource::Path => {
                // By name; Higress counts, which is the same where the names are no variables of the path.
                let named = variables.iter().find(|(name, _)| *name == param.key);
                let value = named.or_else(|| variables.get(n_path)).map(|(_, value)| value.clone());
                n_path += 1;
                typed(value, param, "path variable")?
            }
            ParamSource::Query => {
                let found = form_urlencoded::parse(source.query.as_bytes()).find(|(name, _)| *name == param.key);
                typed(found.map(|(_, value)| value.into_owned()), param, "query parameter")?
            }
            ParamSource::Header => {
                let found = source.headers.iter().find(|(name, _)| name.eq_ignore_ascii_case(&param.key));
                typed(found.map(|(_, value)| (*value).to_owned()), param, "header")?
            }
        };
        arguments.push(Argument { java_type: &param.java_type, value });
    }
    Ok(Call {
        interface: &service.interface,
        version: &service.version,
        group: service.group.as_deref(),
        method: &method.name,
        arguments,
        attachments: attachments(&method.headers, source)?,
    })
}

/// The method and the variables of its path.
fn find<'a>(service: &'a DubboService, source: &Source<'_>) -> Option<(&'a DubboMethod, Vec<(&'a str, String)>)> {
    service.methods.iter().filter(|method| method.http_methods.iter().any(|it| it == source.method)).find_map(
        |method| {
            // Empty elements at the end say nothing.
            let bare = source.path.trim_end_matches('/');
            let captures = [source.path, bare].iter().find_map(|path| method.path.regex().captures(path))?;
            let texts = captures.iter().skip(1).map(|group| group.map_or("", |group| group.as_str()));
            let values = texts.map(|text| percent_decode_str(text).decode_utf8_lossy().into_owned());
            Some((method, method.variables.iter().map(String::as_str).zip(values).collect()))
        },
    )
}

fn member(body: &Value, param: &DubboParam) -> Result<Value, Misfit> {
    if param.key.is_empty() {
        return Ok(body.clone());
    }
    let missing = || Misfit::Missing { place: "body's member", key: param.key.clone() };
    body.get(&param.key).cloned().ok_or_else(missing)
}

/// Text as a value of the parameter's type. What is no simple type stays text: generic calls turn it into an enum or a date.
fn typed(text: Option<String>, param: &DubboParam, place: &'static str) -> Result<Value, Misfit> {
    let text = text.ok_or_else(|| Misfit::Missing { place, key: param.key.clone() })?;
    let value = match param.java_type.as_str() {
        "boolean" | "java.lang.Boolean" => text.parse::<bool>().ok().map(Value::from),
        "byte" | "java.lang.Byte" => text.parse::<i8>().ok().map(Value::from),
        "short" | "java.lang.Short" => text.parse::<i16>().ok().map(Value::from),
        "int" | "java.lang.Integer" => text.parse::<i32>().ok().map(Value::from),
        "long" | "java.lang.Long" => text.parse::<i64>().ok().map(Value::from),
        "float" | "double" | "java.lang.Float" | "java.lang.Double" => {
            text.parse::<f64>().ok().filter(|number| number.is_finite()).map(Value::from)
        }
        "java.util.List" | "java.util.Collection" | "java.util.Set" => Some(Value::from(vec![text.clone()])),
        // Milliseconds, or text in the provider's own format.
        "java.util.Date" => Some(text.parse::<i64>().map_or_else(|_| Value::from(text.as_str()), Value::from)),
        _ => Some(Value::String(text.clone())),
    };
    let misfit = || Misfit::Type { place, key: param.key.clone(), java_type: param.java_type.clone(), value: text };
    value.ok_or_else(misfit)
}

fn attachments(headers: &AttachedHeaders, source: &Source<'_>) -> Result<Vec<(String, String)>, Misfit> {
    let owned = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
    match headers {
        AttachedHeaders::None => Ok(Vec::new()),
        AttachedHeaders::All => Ok(source.headers.iter().map(owned).collect()),
        AttachedHeaders::Named(names) => names
            .iter()
            .map(|name| {
                let found = source.headers.iter().find(|(other, _)| other.eq_ignore_ascii_case(name));
                let missing = || Misfit::Missing { place: "header", key: name.clone() };
                found.map(|(_, value)| (name.clone(), (*value).to_owned())).ok_or_else(missing)
            })
            .collect(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::model::Pattern;

    fn param(source: ParamSource, key: &str, java_type: &str) -> DubboParam {
        DubboParam { source, key: key.into(), java_type: java_type.into() }
    }

    fn service(headers: AttachedHeaders, params: Vec<DubboParam>) -> DubboService {
        let method = DubboMethod {
            name: "get".into(),
            http_methods: vec!["GET".into(), "POST".into()],
            path: Pattern::full("/users/([^/]+)/(.*)").unwrap(),
            variables: vec!["id".into(), "rest".into()],
            headers,
            params,
        };
        DubboService { interface: "a.B".into(), version: "1".into(), group: None, methods: vec![method] }
    }

    fn source(body: &[u8]) -> Source<'_> {
        let headers = vec![("x-flag", "true"), ("x-id", "9")];
        Source { method: "POST", path: "/users/a%20b/c", query: "n=5&s=x+%26y&empty=", headers, body }
    }

    #[test]
    fn arguments_come_from_every_place() {
        use ParamSource::{Body, Header, Path, Query};
        let service = service(
            AttachedHeaders::Named(vec!["X-Id".into()]),
            vec![
                param(Path, "rest", "java.lang.String"),
                param(Path, "id", "java.lang.String"),
                param(Query, "n", "int"),
                param(Query, "s", "java.lang.String"),
                param(Header, "X-Flag", "java.lang.Boolean"),
                param(Body, "user", "a.User"),
                param(Body, "", "java.util.Map"),
                param(Query, "s", "java.util.List"),
            ],
        );
        let call = call(&service, &source(br#"{"user": {"age": 3}}"#)).unwrap();
        let values: Vec<Value> = call.arguments.into_iter().map(|argument| argument.value).collect();
        let expected = json!(["c", "a b", 5, "x &y", true, {"age": 3}, {"user": {"age": 3}}, ["x &y"]]);
        assert_eq!(json!(values), expected);
        assert_eq!(call.attachments, [("X-Id".to_owned(), "9".to_owned())]);
    }

    #[test]
    fn what_does_not_fit_is_told() {
        use ParamSource::{Body, Header, Query};
        for (wrong, expected) in [
            (param(Query, "absent", "java.lang.String"), "the query parameter \"absent\" is missing"),
            (param(Query, "s", "long"), "the query parameter \"s\" must be of type long, not \"x &y\""),
            (param(Query, "empty", "double"), "must be of type double, not \"\""),
            (param(Header, "x-absent", "int"), "the header \"x-absent\" is missing"),
            (param(Body, "user", "a.User"), "the body must be JSON"),
        ] {
            let service = service(AttachedHeaders::All, vec![wrong]);
            let misfit = call(&service, &source(b"")).unwrap_err().to_string();
            assert!(misfit.contains(expected), "{misfit}");
        }
        let service = service(AttachedHeaders::None, vec![]);
        for (method, path) in [("PUT", "/users/1/2"), ("GET", "/users/1")] {
            let misfit = call(&service, &Source { method, path, ..source(b"") }).unwrap_err();
            assert!(matches!(misfit, Misfit::NoMethod { .. }), "{misfit}");
        }
    }
}

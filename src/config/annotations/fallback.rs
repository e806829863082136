//! `default-backend` with `custom-http-errors`: a service that answers when that of the route cannot, or when it answers
//! with one of the statuses (Higress `annotations/default_backend.go`).

use super::Annotations;

#[derive(Debug)]
pub(in crate::config) struct FallbackRule {
    /// Key of the annotation, for messages.
    pub key: String,
    pub namespace: Option<String>,
    pub name: String,
    pub statuses: Vec<u16>,
}

pub(super) fn read(annotations: &Annotations<'_>) -> Option<FallbackRule> {
    let backend = annotations.either("default-backend");
    let errors = annotations.either("custom-http-errors");
    let Some((key, text)) = backend else {
        if let Some((key, _)) = errors {
            annotations.warn(&key, "has no effect without default-backend, the service that answers then");
        }
        return None;
    };
    let Some((namespace, name, None)) = service_name(text) else {
        annotations.warn(&key, format!("must be `service` or `namespace/service`, not \"{text}\"; it has no effect"));
        return None;
    };
    let statuses = errors.map(|(key, text)| statuses(annotations, &key, text)).unwrap_or_default();
    Some(FallbackRule { key, namespace, name, statuses })
}

fn statuses(annotations: &Annotations<'_>, key: &str, text: &str) -> Vec<u16> {
    let mut statuses = Vec::new();
    for word in text.split(',').map(str::trim).filter(|word| !word.is_empty()) {
        match word.parse() {
            Ok(status @ 100..=599) => statuses.push(status),
            _ => annotations.warn(key, format!("`{word}` is not a status and has no effect")),
        }
    }
    statuses
}

/// Namespace, name and port of `[namespace/]name[:port]`.
pub(super) fn service_name(text: &str) -> Option<(Option<String>, String, Option<u16>)> {
    let text = text.trim();
    let (text, port) = match text.split_once(':') {
        Some((text, port)) => (text, Some(port.parse().ok().filter(|port| *port > 0)?)),
        None => (text, None),
    };
    let (namespace, name) = match text.split_once('/') {
        Some((namespace, name)) => (Some(namespace.to_owned()), name),
        None => (None, text),
    };
    let is_name = |name: &str| !name.is_empty() && !name.contains(['/', ':']) && !name.contains(char::is_whitespace);
    let is_whole = is_name(name) && namespace.as_deref().is_none_or(is_name);
    is_whole.then(|| (namespace, name.to_owned(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn service_names() {
        let own = |text: &str| Some(text.to_owned());
        assert_eq!(service_name("a"), Some((None, "a".into(), None)));
        assert_eq!(service_name(" n/a:80 "), Some((own("n"), "a".into(), Some(80))));
        for wrong in ["", "/", "n/", "/a", "a/b/c", "a:0", "a:x", "a b"] {
            assert_eq!(service_name(wrong), None, "{wrong}");
        }
    }
}

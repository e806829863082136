//! `${secret.<name>.<key>}` and `${secret.<namespace>/<name>.<key>}` in any string of any object (Higress
//! `ingress_template.go`). Higress replaces in the JSON text; here it happens in the string values, so a secret with
//! quotes in it cannot break the object. A reference that leads nowhere stays as it is, as there, and so does one to a ConfigMap.

use std::borrow::Cow;
use std::sync::LazyLock;

use regex::{Captures, Regex};
use serde_json::Value;

use super::secret::Secrets;
use crate::base::secret;
use crate::config::SYSTEM_NAMESPACE;
use crate::config::problem::ObjectReport;

#[expect(clippy::expect_used, reason = "a constant expression, compiled in every test")]
static REFERENCE: LazyLock<Regex> = LazyLock::new(|| {
    Regex::new(r"\$\{(secret|configmap)\.(?:([^/}]+)/)?([^.}/]+)\.([^}]+)\}").expect("the expression is valid")
});

/// The value at `path` of an object with every reference replaced; borrowed if it has none.
pub(in crate::config) fn resolve<'a>(
    value: &'a Value,
    path: &str,
    secrets: &Secrets,
    report: ObjectReport<'_>,
) -> Cow<'a, Value> {
    if !has_reference(value) {
        return Cow::Borrowed(value);
    }
    let mut value = value.clone();
    replace(&mut value, path, secrets, report);
    Cow::Owned(value)
}

/// Whether there is anything to replace.
pub(in crate::config) fn has_reference(value: &Value) -> bool {
    match value {
        Value::String(text) => secret::has_reference(text),
        Value::Array(elements) => elements.iter().any(has_reference),
        Value::Object(map) => map.values().any(has_reference),
        _ => false,
    }
}

fn replace(value: &mut Value, path: &str, secrets: &Secrets, report: ObjectReport<'_>) {
    match value {
        Value::String(text) => {
            let replaced = REFERENCE.replace_all(text, |captures: &Captures<'_>| {
                let group = |i: usize| captures.get(i).map(|found| found.as_str());
                let reference = group(0).unwrap_or_default();
                if group(1) == Some("configmap") {
                    let message = format!("`{reference}` stays as it is: only Secrets can be referred to");
                    report.warn_hint(path, message, "put the value into a Secret and write ${secret.<name>.<key>}");
                    return reference.to_owned();
                }
                let (namespace, name) = (group(2).unwrap_or(SYSTEM_NAMESPACE), group(3).unwrap_or_default());
                let key = group(4).unwrap_or_default();
                match secrets.get(namespace, name).map(|secret| secret.text(key)) {
                    Some(Some(text)) => text.to_owned(),
                    found => {
                        let missing = if found.is_none() { "such Secret" } else { "text under that key" };
                        report.warn_hint(
                            path,
                            format!("`{reference}` stays as it is: there is no {missing}"),
                            format!("add the key `{key}` to the Secret {namespace}/{name}"),
                        );
                        reference.to_owned()
                    }
                }
            });
            if let Cow::Owned(replaced) = replaced {
                *text = replaced;
            }
        }
        Value::Array(elements) => {
            for (i, element) in elements.iter_mut().enumerate() {
                replace(element, &format!("{path}[{i}]"), secrets, report);
            }
        }
        Value::Object(map) => {
            for (key, element) in map {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                replace(element, &path, secrets, report);
            }
        }
        _ => {}
    }
}

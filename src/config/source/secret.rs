//! The text of a Secret that holds a certificate, as Higress' controller writes it.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};

use crate::config::model::ObjectRef;
use crate::config::yaml;

/// The Secret with this chain and key (PEM). What else `before` has, the text of the file so far, stays.
///
/// # Errors
/// The file holds another object.
pub fn tls_secret(before: Option<&str>, secret: &ObjectRef, chain: &str, key: &str) -> Result<String, String> {
    let before = before.and_then(|text| yaml::parse(text).ok()).filter(Value::is_object);
    if let Some(other) = before.as_ref().filter(|before| !is_it(before, secret)) {
        return Err(format!("{} holds another object: {}", secret.file.display(), other["metadata"]));
    }
    let mut object = before.unwrap_or_else(|| {
        json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": secret.name, "namespace": secret.namespace}})
    });
    let version = object.pointer("/metadata/resourceVersion").and_then(Value::as_str);
    let version = version.and_then(|version| version.parse::<u64>().ok()).unwrap_or(0) + 1;
    let entries = |value: &mut Value| {
        if !value.is_object() {
            *value = json!({});
        }
    };
    entries(&mut object["metadata"]);
    entries(&mut object["data"]);
    object["metadata"]["resourceVersion"] = json!(version.to_string());
    object["type"] = json!("kubernetes.io/tls");
    for (name, pem) in [("tls.crt", chain), ("tls.key", key)] {
        object["data"][name] = json!(STANDARD.encode(pem));
        // It would win.
        if let Some(clear) = object.get_mut("stringData").and_then(Value::as_object_mut) {
            clear.remove(name);
        }
    }
    yaml::print(&object)
}

/// What a file leaves out is what its place says.
fn is_it(object: &Value, secret: &ObjectRef) -> bool {
    let says = |key: &str, ours: &str| object["metadata"][key].as_str().is_none_or(|written| written == ours);
    let is_secret = object["kind"].as_str().is_none_or(|kind| kind == "Secret");
    is_secret && says("name", &secret.name) && says("namespace", &secret.namespace)
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;

    #[test]
    fn what_the_object_has_besides_stays() {
        let secret = ObjectRef {
            kind: "Secret".into(),
            namespace: "team".into(),
            name: "a".into(),
            file: PathBuf::from("secrets/a.yaml"),
        };
        let first = tls_secret(None, &secret, "chain", "key").unwrap();
        let value = yaml::parse(&first).unwrap();
        assert_eq!(value["metadata"], json!({"name": "a", "namespace": "team", "resourceVersion": "1"}));
        assert_eq!(value["data"], json!({"tls.crt": "Y2hhaW4=", "tls.key": "a2V5"}));
        let before =
            "metadata: {name: a, labels: {l: x}, resourceVersion: '7'}\nstringData: {tls.key: old, ca.crt: ca}\n";
        let value = yaml::parse(&tls_secret(Some(before), &secret, "chain", "key").unwrap()).unwrap();
        assert_eq!(
            (&value["metadata"]["labels"]["l"], &value["metadata"]["resourceVersion"]),
            (&json!("x"), &json!("8"))
        );
        assert_eq!((&value["stringData"], &value["type"]), (&json!({"ca.crt": "ca"}), &json!("kubernetes.io/tls")));
        for other in ["metadata: {name: b}", "metadata: {name: a, namespace: higress-system}", "kind: ConfigMap"] {
            assert!(tls_secret(Some(other), &secret, "chain", "key").is_err(), "{other}");
        }
    }
}

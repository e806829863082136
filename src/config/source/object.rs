//! From the bytes of one file to an object with its place.

use std::collections::{HashMap, HashSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::Value;

use super::scan::Stamp;
use super::{Listing, RawObject};
use crate::config::higress::secret_refs::has_reference;
use crate::config::model::ObjectRef;
use crate::config::problem::{Problem, Severity};
use crate::config::{SYSTEM_NAMESPACE, yaml};

/// What came of one file.
#[derive(Debug)]
pub struct Parsed {
    /// What tells the file from a changed one; `None` when that would be a guess.
    pub stamp: Option<Stamp>,
    pub digest: [u8; 32],
    pub bytes: Arc<[u8]>,
    pub object: Option<RawObject>,
    pub problems: Vec<Problem>,
}

/// Bytes of one file to an object with its place.
pub fn parse(
    bytes: &[u8],
    digest: [u8; 32],
    stamp: Option<Stamp>,
    file: &Path,
    kind: &str,
    namespaced: bool,
) -> Parsed {
    let mut problems = Vec::new();
    let object = match read_object(bytes) {
        Ok(value) => identify(value, digest, file, kind, namespaced, &mut problems),
        Err((line, message, hint)) => {
            let mut problem = problem(Severity::Error, file.to_owned(), None, message, hint);
            problem.line = line;
            problems.push(problem);
            None
        }
    };
    Parsed { stamp, digest, bytes: bytes.into(), object, problems }
}

type Fault = (Option<u64>, String, Option<String>);

fn read_object(bytes: &[u8]) -> Result<Value, Fault> {
    let text = std::str::from_utf8(bytes).map_err(|error| {
        let line = bytes.iter().take(error.valid_up_to()).filter(|byte| **byte == b'\n').count() as u64 + 1;
        (Some(line), "is not UTF-8 text".to_owned(), None)
    })?;
    match yaml::parse(text) {
        Ok(value @ Value::Object(_)) => Ok(value),
        Ok(Value::Null) => Err((None, "is empty".to_owned(), Some("delete the file if the object is gone".to_owned()))),
        Ok(_) => Err((Some(1), "is not a Kubernetes object".to_owned(), None)),
        Err(error) => Err((error.line, format!("is not valid YAML: {}", error.message), None)),
    }
}

/// The groups and versions that objects are read of; `None` of kinds without effect.
fn api_versions(kind: &str) -> Option<&'static [&'static str]> {
    Some(match kind {
        "ConfigMap" | "Endpoints" | "Secret" | "Service" => &["v1"],
        "DestinationRule" => &["networking.istio.io/v1", "networking.istio.io/v1beta1", "networking.istio.io/v1alpha3"],
        "EndpointSlice" => &["discovery.k8s.io/v1"],
        "EnvoyFilter" => &["networking.istio.io/v1alpha3"],
        "GRPCRoute" | "Gateway" | "GatewayClass" | "HTTPRoute" | "ReferenceGrant" => {
            &["gateway.networking.k8s.io/v1", "gateway.networking.k8s.io/v1beta1", "gateway.networking.k8s.io/v1alpha2"]
        }
        "Http2Rpc" | "McpBridge" => &["networking.higress.io/v1"],
        "Ingress" => &["networking.k8s.io/v1"],
        "WasmPlugin" => &["extensions.higress.io/v1alpha1"],
        _ => return None,
    })
}

/// Settles kind, namespace and name. As in Higress the folder gives the kind and the file its name; unlike there,
/// `metadata.namespace` is honoured.
fn identify(
    value: Value,
    digest: [u8; 32],
    file: &Path,
    kind: &str,
    namespaced: bool,
    problems: &mut Vec<Problem>,
) -> Option<RawObject> {
    let metadata = |key: &str| value.get("metadata").and_then(|metadata| metadata.get(key)).and_then(Value::as_str);
    let name = file.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    let namespace = match metadata("namespace") {
        _ if !namespaced => "",
        None | Some("") => SYSTEM_NAMESPACE,
        Some(namespace) => namespace,
    };
    let origin = ObjectRef { kind: kind.to_owned(), namespace: namespace.to_owned(), name, file: file.to_owned() };
    let written = value.get("metadata").and_then(|metadata| metadata.get("namespace"));
    if written.is_some_and(|written| !written.is_string() && !written.is_null()) {
        // Which plugin rules and grants hold for it, the namespace decides.
        let message = "must be a string".to_owned();
        problems.push(field_problem(Severity::Error, &origin, "metadata.namespace", message, None));
        return None;
    }
    match value.get("kind").map(Value::as_str) {
        Some(Some(written)) if written != kind => {
            problems.push(field_problem(
                Severity::Error,
                &origin,
                "kind",
                format!("is `{written}`, but the folder holds {kind} objects"),
                Some("move the file to the folder of its kind"),
            ));
            return None;
        }
        Some(None) => {
            problems.push(field_problem(Severity::Error, &origin, "kind", "must be a string".to_owned(), None));
            return None;
        }
        _ => {}
    }
    let version = value.get("apiVersion").and_then(Value::as_str);
    if let (Some(version), Some(known)) = (version, api_versions(kind))
        && !known.contains(&version)
    {
        let message = format!(
            "is `{version}`, which this version does not know; the object is read as one of {}",
            known.join(", ")
        );
        problems.push(field_problem(Severity::Warning, &origin, "apiVersion", message, None));
    }
    if let Some(written) = metadata("name").filter(|written| *written != origin.name) {
        problems.push(field_problem(
            Severity::Warning,
            &origin,
            "metadata.name",
            format!("is `{written}`, but the file is named `{}`; the file name counts", origin.name),
            Some("rename one of them"),
        ));
    }
    let has_references = has_reference(&value);
    Some(RawObject { origin, value: Arc::new(value), digest, has_references })
}

/// An object that two files define is ambiguous: neither may win in silence.
pub fn reject_doubles(listing: &mut Listing) {
    let mut first: HashMap<(&str, &str, &str), &Path> = HashMap::with_capacity(listing.objects.len());
    let mut doubles = HashSet::new();
    for RawObject { origin, .. } in &listing.objects {
        let key = (origin.kind.as_str(), origin.namespace.as_str(), origin.name.as_str());
        let other = *first.entry(key).or_insert(&origin.file);
        if other != origin.file {
            let message = format!("is already defined by {}", other.display());
            listing.problems.push(problem(
                Severity::Error,
                origin.file.clone(),
                Some(origin.to_string()),
                message,
                Some("delete one of the files".to_owned()),
            ));
            doubles.insert(origin.file.clone());
        }
    }
    if !doubles.is_empty() {
        listing.objects.retain(|object| !doubles.contains(&object.origin.file));
    }
}

pub fn problem(
    severity: Severity,
    file: PathBuf,
    object: Option<String>,
    message: String,
    hint: Option<String>,
) -> Problem {
    Problem { severity, file, line: None, object, field: None, message, hint }
}

fn field_problem(severity: Severity, origin: &ObjectRef, field: &str, message: String, hint: Option<&str>) -> Problem {
    Problem { severity, hint: hint.map(str::to_owned), ..Problem::error(origin, field, message) }
}

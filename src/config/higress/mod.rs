//! One file per kind of object: how it is read and what it means. Facts about Higress' behaviour are from its sources,
//! release line 2.2.

pub(super) mod config_map;
pub(super) mod destination_rule;
pub(super) mod draft;
pub(super) mod envoy_filter;
pub(super) mod gateway_api;
pub(super) mod http2rpc;
pub(super) mod https;
pub(super) mod ingress;
pub(super) mod mcp_bridge;
pub(super) mod registry;
pub(super) mod secret;
pub(super) mod secret_refs;
pub(super) mod service;
pub(super) mod wasm_plugin;

use super::fields::Fields;

/// Reads past the parts every object has; what is left is the kind's own.
pub(super) fn skip_common(fields: &mut Fields<'_>) {
    fields.inert(&["apiVersion", "kind", "status"]);
    if let Some(mut metadata) = fields.object("metadata") {
        skip_metadata(&mut metadata);
        metadata.inert(&["annotations", "labels"]);
        metadata.finish();
    }
}

/// Name and namespace were read with the file; the rest is the business of an API server.
pub(super) fn skip_metadata(metadata: &mut Fields<'_>) {
    if metadata.value("creationTimestamp").is_some_and(|time| !time.is_string()) {
        let path = metadata.path_of("creationTimestamp");
        metadata.report().warn(&path, "is no time; the object counts as the youngest");
    }
    metadata.inert(&[
        "creationTimestamp",
        "deletionGracePeriodSeconds",
        "deletionTimestamp",
        "finalizers",
        "generateName",
        "generation",
        "managedFields",
        "name",
        "namespace",
        "ownerReferences",
        "resourceVersion",
        "selfLink",
        "uid",
    ]);
}

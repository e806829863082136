//! EnvoyFilter: patches of Envoy's own configuration. Of all that can be written there this gateway reads what the Higress
//! console writes for the fallback of an AI route: answers with an error are redirected inside the gateway to the fallback's
//! route (console `templates/envoyfilter-route-fallback.yaml`).
//!
//! Two filters that come with a standalone installation have nothing to do here and are passed over.

use std::sync::Arc;

use serde_json::Value;

use super::skip_common;
use crate::config::fields::Fields;
use crate::config::model::Reentry;
use crate::config::problem::Report;
use crate::config::source::RawObject;

/// Envoy's filter that replaces answers.
const CUSTOM_RESPONSE: &str = "envoy.filters.http.custom_response";
/// Puts that filter into the chain; here it is part of the request path.
const GLOBAL_CUSTOM_RESPONSE: &str = "higress-gateway-global-custom-response";
/// Where Higress' controller answers ACME challenges.
const HTTP_RESOLVER: &str = "higress-http-resolver-cluster";
/// How often Envoy redirects a request where nothing is said.
const REDIRECTS: u64 = 1;

/// What becomes of the errors of a route.
pub(in crate::config) struct RouteFilter {
    /// Name of the route.
    pub route: String,
    pub reentry: Arc<Reentry>,
}

pub(in crate::config) fn read(object: &RawObject, report: &Report) -> Vec<RouteFilter> {
    let report = report.on_parts_of(&object.origin);
    if [GLOBAL_CUSTOM_RESPONSE, HTTP_RESOLVER].contains(&object.origin.name.as_str()) {
        return Vec::new();
    }
    let mut fields = Fields::new(&object.value, "", report);
    skip_common(&mut fields);
    let (mut filters, mut foreign) = (Vec::new(), Vec::new());
    if let Some(mut spec) = fields.object("spec") {
        for (path, patch) in spec.list("configPatches") {
            match redirect(patch) {
                Some(filter) => filters.push(filter),
                None => foreign.push((path, patch["applyTo"].as_str().unwrap_or("nothing"))),
            }
        }
        // Which of Istio's proxies are meant.
        spec.inert(&["priority", "targetRefs", "workloadSelector"]);
        spec.finish();
    }
    fields.finish();
    let hint = "only the fallback of AI routes, as the Higress console writes it, is understood";
    if filters.is_empty() {
        report.warn_hint("", "has no patch that this gateway can follow, so it has no effect", hint);
    } else {
        for (path, applies_to) in foreign {
            let message = format!("is a patch of {applies_to} that this gateway cannot follow; it has no effect");
            report.warn_hint(&path, message, hint);
        }
    }
    filters
}

/// The patch, if it redirects the errors of one route.
fn redirect(patch: &Value) -> Option<RouteFilter> {
    let route = patch.pointer("/match/routeConfiguration/vhost/route/name")?.as_str()?;
    if patch["applyTo"] != "HTTP_ROUTE" || patch.pointer("/patch/operation")? != "MERGE" {
        return None;
    }
    let settings = &patch.pointer("/patch/value/typed_per_filter_config")?[CUSTOM_RESPONSE];
    let matcher = settings.pointer("/value/custom_response_matcher/matcher_list/matchers/0")?;
    let policy = matcher.pointer("/on_match/action/typed_config/value")?;
    // A redirect with another address would lead out of the gateway.
    if policy["use_original_request_uri"] != true {
        return None;
    }
    let reentry = Reentry {
        classes: classes(&matcher["predicate"])?,
        limit: policy["max_internal_redirects"].as_u64().unwrap_or(REDIRECTS).try_into().ok()?,
        request_headers: headers(&policy["request_headers_to_add"])?,
        response_headers: headers(&policy["response_headers_to_add"])?,
    };
    Some(RouteFilter { route: route.to_owned(), reentry: Arc::new(reentry) })
}

/// `4xx` and the like, alone or several.
fn classes(predicate: &Value) -> Option<Vec<u16>> {
    let class = |single: &Value| {
        let class = single.pointer("/single_predicate/value_match/exact")?.as_str()?.strip_suffix("xx")?;
        class.parse::<u16>().ok().filter(|class| (1..=5).contains(class))
    };
    match predicate.pointer("/or_matcher/predicate").and_then(Value::as_array) {
        Some(several) => several.iter().map(class).collect(),
        None => Some(vec![class(predicate)?]),
    }
}

/// Lower-case names with values that can stand in a header; there may be none.
fn headers(list: &Value) -> Option<Vec<(String, String)>> {
    let header = |entry: &Value| {
        let (name, value) = (entry.pointer("/header/key")?.as_str()?, entry.pointer("/header/value")?.as_str()?);
        let name = http::HeaderName::try_from(name).ok()?;
        http::HeaderValue::from_str(value).ok()?;
        Some((name.to_string(), value.to_owned()))
    };
    list.as_array().map_or(Some(Vec::new()), |entries| entries.iter().map(header).collect())
}

//! Which plugin runs where in the chain, and with which configuration, as the fields of a WasmPlugin say.

use serde_json::{Value, json};

use crate::control_plane::saying;
use crate::harness::*;

/// Answers with the bodies that its configuration has.
fn answering(folder: &Folder, name: &str, mut spec: Value) {
    spec["url"] = json!("oci://registry/plugins/custom-response:1.0.0");
    folder.write(
        &format!("wasmplugins/{name}.yaml"),
        &json!({"apiVersion": "extensions.higress.io/v1alpha1", "kind": "WasmPlugin", "metadata": {"name": name}, "spec": spec}),
    );
}

/// Where nothing answers before it, the upstream says "up".
async fn check(gateway: &Gateway, expected: &[(&str, &str)]) {
    for (path, body) in expected {
        assert_eq!(gateway.post(path, &[], "{}").await.text(), *body, "{path}");
    }
}

#[tokio::test]
async fn rules_apply_where_their_object_says() {
    let upstream = saying("up").await;
    let folder = Folder::new();
    folder.services(&[("up", upstream.address)]);
    for name in ["first", "calls", "prefixed", "named", "outside"] {
        folder.route(name, &format!("/{name}"), "up.static");
    }
    let object = |place: &str, kind: &str, name: &str, spec: Value| {
        let api = "gateway.networking.k8s.io/v1";
        let object = json!({"apiVersion": api, "kind": kind, "metadata": {"name": name}, "spec": spec});
        folder.write(&format!("{place}/{name}.yaml"), &object);
    };
    let class = json!({"controllerName": "higress.io/gateway-controller"});
    object("gatewayclasses", "GatewayClass", "own", class);
    let listeners = json!([{"name": "http", "port": 80, "protocol": "HTTP"}]);
    object("gateways", "Gateway", "web", json!({"gatewayClassName": "own", "listeners": listeners}));
    let backend = json!({"group": "networking.higress.io", "kind": "Service", "name": "up.static", "port": 80});
    let rules = json!([{"matches": [{"method": {"service": "t.T"}}], "backendRefs": [backend]}]);
    object("grpcroutes", "GRPCRoute", "calls", json!({"parentRefs": [{"name": "web"}], "rules": rules}));
    let rules = json!([
        {"ingress": ["first"], "config": {"body": "disabled"}, "configDisable": true},
        {"ingress": ["first"], "config": {"body": "the next rule"}},
        {"ingress": ["calls"], "config": {"body": "of calls"}, "routeType": "GRPC"}]);
    answering(
        &folder,
        "rules",
        json!({"defaultConfigDisable": true, "defaultConfig": {"body": "global"}, "matchRules": rules}),
    );
    let written = json!({"_rules_": [{"_match_route_prefix_": ["pre"], "body": "by prefix"}, {"_match_route_": ["named"], "body": "by name"}]});
    let idle = json!([{"ingress": ["outside"], "config": {"body": "beside pluginConfig"}}]);
    answering(&folder, "written", json!({"pluginConfig": written, "matchRules": idle}));
    let gateway = Gateway::start(folder);
    let expected = [
        ("/first", "the next rule"),
        ("/calls", "\"up\""),
        ("/t.T/Call", "of calls"),
        ("/prefixed", "by prefix"),
        ("/named", "by name"),
        ("/outside", "\"up\""),
    ];
    check(&gateway, &expected).await;
}

/// The first to answer is the first in the chain.
#[tokio::test]
async fn plugins_run_by_phase_and_then_by_priority() {
    let upstream = saying("up").await;
    let folder = Folder::new();
    folder.services(&[("up", upstream.address)]);
    let at = |name: &str, route: &str, phase: &str, priority: Value| {
        let rules = json!([{"ingress": [route], "config": {"body": name}}]);
        let spec = json!({"phase": phase, "priority": priority, "defaultConfigDisable": true, "matchRules": rules});
        answering(&folder, name, spec);
    };
    // Were it not for these fields, names would decide.
    for (route, phases) in
        [("one", ["UNSPECIFIED_PHASE", "STATS"]), ("two", ["STATS", "AUTHZ"]), ("three", ["AUTHZ", "AUTHN"])]
    {
        folder.route(route, &format!("/{route}"), "up.static");
        at(&format!("a-late-{route}"), route, phases[0], json!(1000));
        at(&format!("z-early-{route}"), route, phases[1], json!(1));
    }
    folder.route("four", "/four", "up.static");
    at("a-low", "four", "AUTHN", json!("3"));
    at("z-high", "four", "AUTHN", json!(20));
    let gateway = Gateway::start(folder);
    let expected = [("/one", "z-early-one"), ("/two", "z-early-two"), ("/three", "z-early-three"), ("/four", "z-high")];
    check(&gateway, &expected).await;
}

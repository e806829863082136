//! The whole pipeline: golden folders (YAML in, problems and model out), and properties that hold for any input.

mod prefixes;

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::model::ObjectRef;
use super::*;

/// Knows some names and rejects configurations that have the key `invalid`.
struct TestCatalog;

impl PluginCatalog for TestCatalog {
    fn names(&self) -> Vec<&str> {
        vec!["ai-proxy", "ai-statistics", "key-auth", "model-mapper", "model-router"]
    }

    fn guards(&self, plugin: &str) -> bool {
        plugin == "key-auth"
    }

    fn lacks(&self, plugin: &str) -> bool {
        plugin == "ai-cache"
    }

    fn check(&self, _: &str, scope: &Scope<'_>) -> Vec<FieldProblem> {
        let (place, config) = scope.rule.map_or(("global", scope.global), |rule| ("rule", Some(rule)));
        let has_both = scope.rule.and(scope.global).is_some();
        let message = format!("is not allowed in the {place} configuration (global: {has_both})");
        let invalid = config.and_then(|config| config.get("invalid"));
        invalid.map(|_| FieldProblem::error("invalid", message)).into_iter().collect()
    }
}

fn golden_dir() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("src/config/tests/golden")
}

fn compile_folder(folder: &Path) -> Compiled {
    let Listing { objects, mut problems } = Folder::new(folder).read().unwrap();
    let mut compiled = compile(&objects, &TestCatalog);
    problems.append(&mut compiled.problems);
    Compiled { problems, ..compiled }
}

/// What `expected.txt` of a case holds.
fn dump(compiled: &Compiled) -> String {
    let mut out = String::from("# problems\n");
    for problem in &compiled.problems {
        writeln!(out, "{problem}").unwrap();
    }
    let mut model = serde_json::to_value(&compiled.gateway).unwrap();
    strip_empty(&mut model);
    writeln!(out, "\n# model\n{}", serde_json::to_string_pretty(&model).unwrap()).unwrap();
    out
}

/// Empty members say nothing and make the files hard to read.
fn strip_empty(value: &mut Value) {
    match value {
        Value::Object(map) => {
            let is_model = |key: &str| !matches!(key, "config" | "global");
            map.iter_mut().filter(|(key, _)| is_model(key)).for_each(|(_, value)| strip_empty(value));
            map.retain(|_, value| *value != json!(null) && *value != json!([]) && *value != json!(false));
        }
        Value::Array(elements) => elements.iter_mut().for_each(strip_empty),
        _ => {}
    }
}

/// Every folder in `tests/golden` compiles to its `expected.txt`; `WEIRGATE_UPDATE_GOLDEN=1` writes them.
#[test]
fn golden_folders() {
    let mut failed = Vec::new();
    for case in std::fs::read_dir(golden_dir()).unwrap().map(|entry| entry.unwrap().path()) {
        let actual = dump(&compile_folder(&case));
        let expected = case.join("expected.txt");
        if std::env::var_os("WEIRGATE_UPDATE_GOLDEN").is_some() {
            std::fs::write(&expected, &actual).unwrap();
        }
        if std::fs::read_to_string(&expected).ok().as_deref() != Some(&actual) {
            failed.push(format!("--- {}\n{actual}", expected.display()));
        }
    }
    assert!(failed.is_empty(), "run with WEIRGATE_UPDATE_GOLDEN=1 and look at the change:\n{}", failed.join("\n"));
}

/// What each fault leaves open is what was written without it, never more.
#[test]
fn faults_take_out_what_they_are_in() {
    let contained = compile_folder(&golden_dir().join("contained"));
    assert!(!contained.has_errors() && contained.problems.iter().any(Problem::is_fault), "{:?}", contained.problems);
    let open = contained.gateway.routes.iter().filter(|route| !route.is_closed());
    let open: Vec<(&str, String)> = open.map(|route| (route.name.as_str(), format!("{:?}", route.path))).collect();
    let expected = [("clients", "/"), ("port", "/"), ("r", "/a")];
    assert_eq!(open, expected.map(|(name, path)| (name, format!("Prefix({path:?})"))));
    let canaries = contained.gateway.routes.iter().map(|route| route.canaries.len()).sum::<usize>();
    assert_eq!(canaries, 0, "a canary of what is closed is closed");
    let certificates = &contained.gateway.certificates;
    assert!(certificates.len() == 1 && certificates[0].options.is_closed, "{certificates:?}");
    assert!(!contained.gateway.services.contains_key("behind.dns"), "without its proxy it would be asked directly");
    // Whose word is taken on client addresses decides what source ranges mean.
    assert!(compile_folder(&golden_dir().join("bad-trust")).has_errors());
}

#[test]
fn secrets_stay_out_of_dumps_and_problems() {
    let tls = compile_folder(&golden_dir().join("tls"));
    assert!(!tls.gateway.certificates.is_empty());
    let ai = compile_folder(&golden_dir().join("ai-gateway"));
    assert!(
        ai.gateway.plugins.iter().any(|plugin| plugin.global.as_ref().is_some_and(|it| it.to_string().contains("sk-")))
    );
    let console = compile_folder(&golden_dir().join("console"));
    let registries = compile_folder(&golden_dir().join("registries"));
    assert!(registries.gateway.registries.len() > 2);
    for text in [
        dump(&tls),
        format!("{tls:?}"),
        format!("{ai:?}"),
        dump(&registries),
        format!("{registries:?}"),
        format!("{console:?}"),
    ] {
        for secret in
            ["the key of shop.example.com", "sk-", "token-of-consul", "password-of-nacos", "secret-of-skywalking"]
        {
            assert!(!text.contains(secret), "{text}");
        }
    }
}

#[test]
fn diff_between_folders() {
    let gateway = |case: &str| compile_folder(&golden_dir().join(case)).gateway;
    let (empty, tls) = (Gateway::default(), gateway("tls"));
    assert!(diff(&tls, &tls).is_empty());
    let changes = diff(&empty, &tls);
    assert_eq!(changes.routes.added.len(), 1, "{changes}");
    assert_eq!(diff(&tls, &empty).routes.removed, changes.routes.added);
    let mut other = tls.clone();
    other.routes.iter_mut().for_each(|route| route.methods.push("GET".to_owned()));
    assert_eq!(diff(&tls, &other).to_string(), "routes ~shop");
}

fn object(kind: &str, name: &str, value: Value) -> RawObject {
    let file = format!("{kind}/{name}.yaml").into();
    let origin =
        ObjectRef { kind: kind.to_owned(), namespace: SYSTEM_NAMESPACE.to_owned(), name: name.to_owned(), file };
    RawObject { origin, value: Arc::new(value), digest: [0; 32], has_references: true }
}

/// Any JSON, made of the words the readers look for, so that it gets past the first check.
fn any_value() -> impl Strategy<Value = Value> {
    const WORDS: &str = "spec|data|stringData|rules|host|http|paths|path|pathType|backend|service|port|number|name|\
        registries|type|domain|static|dns|matchRules|defaultConfig|pluginConfig|config|ingress|_rules_|_match_route_|url|\
        subsets|addresses|ports|endpoints|ip|metadata|annotations|labels|higress|tls|hosts|secretName|resource|kind";
    let word = proptest::sample::select(WORDS.split('|').collect::<Vec<_>>());
    let text = prop_oneof![
        word.clone().prop_map(str::to_owned),
        proptest::sample::select(vec![
            "/a(",
            "*",
            "*.a.com",
            "::1",
            "[::1]:80",
            "1.2.3.4:5",
            "50% x.dns:1",
            "${secret.a.b}",
            "a: {"
        ])
        .prop_map(str::to_owned),
        ".{0,12}",
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        text.prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 96, 6, move |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            proptest::collection::btree_map(word.clone().prop_map(str::to_owned), inner, 0..6)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

/// Annotations that exist, with values that may be nonsense.
fn any_annotations() -> impl Strategy<Value = Value> {
    let keys = vec![
        "higress.io/destination",
        "higress.io/timeout",
        "higress.io/rewrite-path",
        "nginx.ingress.kubernetes.io/rewrite-target",
        "nginx.ingress.kubernetes.io/use-regex",
        "higress.io/full-path-regex",
        "higress.io/ignore-path-case",
        "higress.io/proxy-next-upstream",
        "higress.io/proxy-next-upstream-tries",
        "higress.io/regex-match-header-a",
        "higress.io/exact-match-query-",
        "higress.io/match-method",
        "higress.io/app-root",
        "higress.io/canary",
        "higress.io/canary-by-header",
        "higress.io/canary-by-header-value",
        "higress.io/canary-weight-total",
        "higress.io/cors-allow-origin",
        "higress.io/enable-cors",
        "higress.io/default-backend",
        "higress.io/mirror-target-service",
        "higress.io/permanent-redirect",
        "higress.io/request-header-control-add",
        "higress.io/route-limit-rpm",
        "higress.io/ssl-cipher",
        "higress.io/ssl-passthrough",
        "higress.io/upstream-hash-by",
        "higress.io/whitelist-source-range",
    ];
    let value = prop_oneof![Just("true".to_owned()), Just("http_500,error".to_owned()), ".{0,16}"];
    proptest::collection::btree_map(proptest::sample::select(keys), value, 0..8).prop_map(|map| json!(map))
}

proptest! {
    #[test]
    fn any_bytes_are_read_without_panic(bytes in proptest::collection::vec(any::<u8>(), 0..256), text in "[-a: {}\\[\\]|>&*!#%\"'\n\t0-9]{0,128}") {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("ingresses")).unwrap();
        std::fs::write(root.path().join("ingresses/a.yaml"), bytes).unwrap();
        std::fs::write(root.path().join("ingresses/b.yaml"), text).unwrap();
        compile_folder(root.path());
    }

    #[test]
    fn any_object_of_any_kind_compiles_without_panic(value in any_value(), spec in any_value(), data in any_value()) {
        let kinds = ["ConfigMap", "EndpointSlice", "Endpoints", "Ingress", "McpBridge", "Secret", "Service", "WasmPlugin", "Other"];
        for value in [value, json!({"spec": spec, "data": data, "subsets": spec, "endpoints": data})] {
            let name = |kind: &str| match kind {
                "ConfigMap" => "higress-config",
                "McpBridge" => "default",
                _ => "key-auth",
            };
            let objects: Vec<RawObject> = kinds.iter().map(|kind| object(kind, name(kind), value.clone())).collect();
            let compiled = compile(&objects, &TestCatalog);
            prop_assert!(compiled.gateway.routes.iter().all(|route| route.is_app_root() || !route.destinations.is_empty()));
        }
    }

    #[test]
    fn any_annotations_and_paths_compile_without_panic(annotations in any_annotations(), path in ".{0,12}", kind in proptest::option::of("Exact|Prefix|ImplementationSpecific|.")) {
        let backend = json!({"service": {"name": "a", "port": {"number": 80}}});
        let value = json!({
            "metadata": {"annotations": annotations},
            "spec": {"rules": [{"http": {"paths": [{"path": path, "pathType": kind, "backend": backend}]}}]},
        });
        compile(&[object("Ingress", "a", value)], &TestCatalog);
    }
}

//! Configuration changes while the gateway serves, and what `validate` says.

use serde_json::json;

use crate::harness::*;

#[tokio::test]
async fn a_changed_route_goes_live_without_restart() {
    let (a, b) = (
        Upstream::start(|_, _| async { ok(&json!("a")) }).await,
        Upstream::start(|_, _| async { ok(&json!("b")) }).await,
    );
    let folder = Folder::new();
    folder.services(&[("a", a.address), ("b", b.address)]).route("web", "/", "a.static");
    let gateway = Gateway::start(folder);
    assert_eq!(gateway.get("/").await.json(), "a");
    gateway.folder.route("web", "/", "b.static");
    eventually_async("the new destination", || async { (gateway.get("/").await.json() == "b").then_some(()) }).await;
    gateway.folder.route("more", "/more", "a.static");
    eventually_async("the new route", || async { (gateway.get("/more").await.json() == "a").then_some(()) }).await;
}

#[tokio::test]
async fn a_broken_change_is_refused_with_every_problem_and_the_old_snapshot_serves() {
    let upstream = Upstream::start(|_, _| async { ok(&json!("a")) }).await;
    let folder = Folder::new();
    folder.services(&[("a", upstream.address)]).route("web", "/", "a.static");
    let gateway = Gateway::start(folder);
    gateway.folder.write_text("ingresses/broken.yaml", "spec: [unclosed\n");
    gateway.folder.plugin(
        "key-auth",
        &json!({"global_auth": true, "consumers": [{"name": "x"}], "typo": 1}),
        &json!([]),
    );
    let status = eventually_async("the refusal", || async {
        let status = gateway.admin("GET", "/api/v1/config").await.json();
        (status["problems"].as_array().is_some_and(|problems| problems.len() >= 3)).then_some(status)
    })
    .await;
    assert_eq!(status["snapshot"], 1);
    let text = status["problems"].to_string();
    for expected in ["ingresses/broken.yaml", "consumers[0].credential", "spec.defaultConfig.typo", "key-auth.internal"]
    {
        assert!(text.contains(expected), "{expected} missing in {text}");
    }
    assert_eq!(gateway.get("/").await.json(), "a");
    let metrics = gateway.metrics().await;
    assert!(metrics.contains("weirgate_config_reloads_total{result=\"refused\"}"), "{metrics}");
}

#[test]
fn validate_lists_every_problem_and_exits_64() {
    let folder = Folder::new();
    folder.route("web", "/", "nowhere.static");
    folder.write_text("ingresses/broken.yaml", "a: b: c\n");
    let dir = folder.config();
    let (code, out, _) = run_cli(&["validate", dir.to_str().unwrap()], &folder);
    assert_eq!(code, 64, "{out}");
    assert!(out.contains("error: ingresses/broken.yaml"), "{out}");
    assert!(out.contains("warning: ingresses/web.yaml") && out.contains("nowhere.static"), "{out}");
    std::fs::remove_file(dir.join("ingresses/broken.yaml")).unwrap();
    let (code, out, _) = run_cli(&["validate", dir.to_str().unwrap(), "--json"], &folder);
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((code, &report["valid"], &report["routes"]), (0, &json!(true), &json!(1)));
}

#[test]
fn validate_goes_on_behind_the_first_fault() {
    let folder = Folder::new();
    folder.route("web", "/", "nowhere.static");
    let text = std::fs::read_to_string(folder.config().join("ingresses/web.yaml")).unwrap();
    assert!(text.contains("Prefix"), "{text}");
    folder.write_text("ingresses/web.yaml", &text.replace("Prefix", "Perfix"));
    folder.write_text("../config.toml", "[limits]\nmax_body_bytes = 'much'\n[timeouts]\ndrain_secs = -1\n");
    let (settings, dir) = (folder.config().join("../config.toml"), folder.config());
    let args = ["validate", dir.to_str().unwrap(), "--config", settings.to_str().unwrap()];
    let (code, out, _) = run_cli(&args, &folder);
    assert_eq!(code, 64, "{out}");
    for told in ["limits.max_body_bytes", "timeouts.drain_secs", "`Perfix` is not a path type", "nowhere.static"] {
        assert!(out.contains(told), "{told} is missing in {out}");
    }
    let (code, _, err) = run_cli(&["serve", "--config", settings.to_str().unwrap()], &folder);
    assert!(code == 64 && err.contains("limits.max_body_bytes") && err.contains("timeouts.drain_secs"), "{err}");
}

#[test]
fn a_broken_configuration_keeps_the_process_from_starting_with_64() {
    let folder = Folder::new();
    folder.write_text("ingresses/broken.yaml", "a: b: c\n");
    let (code, _, err) = run_cli(&["serve", "--http-port", "0", "--https-port", "0", "--admin-port", "0"], &folder);
    assert_eq!(code, 64, "{err}");
    assert!(err.contains("ingresses/broken.yaml"), "{err}");
}

#[test]
fn the_demo_folder_is_valid() {
    let folder = Folder::new();
    let demo = concat!(env!("CARGO_MANIFEST_DIR"), "/assets/demo");
    let (code, out, err) = run_cli(&["validate", demo], &folder);
    assert_eq!(code, 0, "{out}{err}");
    assert!(out.contains("0 errors, 0 warnings"), "{out}");
}

#[tokio::test]
async fn the_demo_folder_sends_questions_to_models() {
    let model =
        Upstream::start(|_, seen| async move { ok(&completion(seen.json()["model"].as_str().unwrap(), "hi")) }).await;
    let folder = Folder::new();
    let demo = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("assets/demo");
    for kind in std::fs::read_dir(&demo).unwrap().map(|entry| entry.unwrap().path()) {
        for file in std::fs::read_dir(&kind).unwrap().map(|entry| entry.unwrap().path()) {
            // The mock models of `make demo` have ports of their own.
            let text = std::fs::read_to_string(&file).unwrap();
            let lines = text.lines().map(|line| match line.split_once("domain: 127.0.0.1:") {
                Some((before, _)) => format!("{before}domain: {}\n", model.address),
                None => format!("{line}\n"),
            });
            folder.write_text(file.strip_prefix(&demo).unwrap().to_str().unwrap(), &lines.collect::<String>());
        }
    }
    let gateway = Gateway::start(folder);
    let ask = async |headers: &[(&str, &str)]| {
        let body = question("auto", "Prove that the square root of 2 is irrational.").to_string();
        gateway.post("/v1/chat/completions", headers, body).await
    };
    assert_eq!((ask(&[]).await.status, model.n_calls()), (401, 0));
    let answer = ask(&[("authorization", "Bearer demo-app")]).await;
    assert_eq!(answer.status, 200, "{}", answer.text());
    let asked = model.last().json()["model"].as_str().unwrap().to_owned();
    assert_eq!(answer.header("x-weirgate-model"), Some(asked.as_str()));
    assert_ne!(asked, "auto");
}

/// The code blocks of a document, indented or fenced.
fn code_blocks(document: &str) -> Vec<String> {
    let mut blocks = vec![String::new()];
    let mut is_fenced = false;
    for line in document.lines() {
        let is_fence = line.starts_with("```");
        let code = if is_fenced || line.is_empty() { Some(line) } else { line.strip_prefix("    ") };
        match code.filter(|_| !is_fence) {
            Some(code) => *blocks.last_mut().unwrap() += &format!("{code}\n"),
            None => blocks.push(String::new()),
        }
        is_fenced ^= is_fence;
    }
    blocks
}

#[test]
fn the_objects_that_put_weirgate_behind_a_higress_are_valid() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/docs/behind-higress.md");
    let blocks = code_blocks(&std::fs::read_to_string(path).unwrap());
    // What follows a comment in a block goes into an object of the reader's. The dots are the rest of a key.
    let lines_after = |comment: &str| {
        let found = blocks.iter().find_map(|block| block.split_once(&format!("{comment}\n")));
        let (_, rest) = found.unwrap_or_else(|| panic!("{comment} is not in {path}"));
        rest.split("\n\n").next().unwrap().trim_end().replace('\n', "\n    ").replace('…', "")
    };
    let folder = Folder::new();
    let annotation = lines_after("# in the Ingress of Higress");
    for object in blocks.iter().map(|block| block.trim_start()).filter(|block| block.contains("\napiVersion: ")) {
        let file = object.strip_prefix("# ").and_then(|rest| rest.split([' ', ':', '\n']).next()).unwrap();
        let annotated = object.replace("  annotations:\n", &format!("  annotations:\n    {annotation}\n"));
        folder.write_text(file, &annotated);
    }
    let keys = lines_after("# key-auth in Weirgate");
    let head = "apiVersion: extensions.higress.io/v1alpha1\nkind: WasmPlugin\nmetadata: {name: key-auth.internal}\n";
    let spec = format!("spec:\n  phase: AUTHN\n  priority: 310\n  defaultConfig:\n    {keys}\n");
    folder.write_text("wasmplugins/key-auth.internal.yaml", &format!("{head}{spec}"));
    let (code, out, _) = run_cli(&["validate", folder.config().to_str().unwrap(), "--json"], &folder);
    let report: serde_json::Value = serde_json::from_str(&out).unwrap();
    let told = ["objects", "routes", "services", "plugins", "problems"].map(|key| &report[key]);
    assert_eq!((code, told), (0, [&json!(4), &json!(1), &json!(1), &json!(2), &json!([])]), "{out}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reloads_under_load_fail_no_request_and_mix_no_snapshots() {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicBool, Ordering};
    let (a, b) = (
        Upstream::start(|_, _| async { ok(&json!("a")) }).await,
        Upstream::start(|_, _| async { ok(&json!("b")) }).await,
    );
    let folder = Folder::new();
    folder.services(&[("a", a.address), ("b", b.address)]).route("web", "/", "a.static");
    let gateway = Arc::new(Gateway::start(folder));
    let stop = Arc::new(AtomicBool::new(false));
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let (gateway, stop) = (gateway.clone(), stop.clone());
        clients.spawn(async move {
            let mut n_seen = [0; 2];
            while !stop.load(Ordering::SeqCst) {
                let answer = gateway.get("/").await;
                assert_eq!(answer.status, 200, "{}", answer.text());
                n_seen[usize::from(answer.json() == "b")] += 1;
            }
            n_seen
        });
    }
    for round in 0..20 {
        let service = if round % 2 == 0 { "b.static" } else { "a.static" };
        gateway.folder.route("web", "/", service);
        let expected = if round % 2 == 0 { "b" } else { "a" };
        eventually_async("the change", || async { (gateway.get("/").await.json() == expected).then_some(()) }).await;
        gateway.folder.write_text("ingresses/broken.yaml", "a: b: c\n");
        std::fs::remove_file(gateway.folder.config().join("ingresses/broken.yaml")).unwrap();
    }
    stop.store(true, Ordering::SeqCst);
    while let Some(seen) = clients.join_next().await {
        let seen = seen.unwrap();
        assert!(seen[0] > 0 && seen[1] > 0, "{seen:?}");
    }
}

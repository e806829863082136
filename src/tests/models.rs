//! Models that run inside the process: their files are managed by a command, and a gateway without them serves everything else.

use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::harness::*;

/// A router that asks for embeddings.
async fn folder() -> (Folder, Upstream) {
    let upstream = Upstream::start(|_, seen| async move {
        let model = seen.json()["model"].as_str().unwrap().to_owned();
        ok(&completion(&model, "hello"))
    })
    .await;
    let folder = Folder::new();
    folder.services(&[("llm", upstream.address)]).route("chat", "/", "llm.static");
    let config = json!({"candidates": [{"model": "a"}, {"model": "b"}], "baseline": "a", "embedding": "always"});
    folder.plugin("semantic-router", &config, &json!([]));
    (folder, upstream)
}

#[tokio::test]
async fn a_missing_model_is_one_warning_that_names_the_command_and_everything_is_served() {
    let (folder, _upstream) = folder().await;
    let models = folder.dir.path().join("no-models");
    let log = folder.dir.path().join("log");
    let child = Command::new(binary())
        .args(["serve", "--http-port", "0", "--https-port", "0", "--admin-port", "0", "--bind", "127.0.0.1"])
        .arg("--config-dir")
        .arg(folder.config())
        .arg("--data-dir")
        .arg(folder.data())
        .arg("--models-dir")
        .arg(&models)
        .stdout(Stdio::piped())
        .stderr(std::fs::File::create(&log).unwrap())
        .spawn()
        .unwrap();
    let gateway = Gateway::of(child, folder);
    for _ in 0..3 {
        assert_eq!(gateway.chat(&question("auto", "What is a monad?")).await.status, 200);
    }
    let warnings = || std::fs::read_to_string(&log).unwrap().matches(" fetch` installs").count();
    eventually("the warning", || (warnings() > 0).then_some(()));
    assert_eq!(gateway.chat(&question("auto", "And what is a monoid?")).await.header("x-weirgate-model"), Some("a"));
    assert_eq!(warnings(), 1, "{}", std::fs::read_to_string(&log).unwrap());

    let models = models.to_str().unwrap();
    let (code, said, _) = gateway.cli(&["validate", "--models-dir", models]);
    assert_eq!(code, 0, "{said}");
    for part in ["warning: ", "embedding: ", "all-minilm-l6-v2/config.json", "weirgate models fetch"] {
        assert!(said.contains(part), "{part} in {said}");
    }
}

#[tokio::test]
async fn the_command_says_which_file_is_missing_or_wrong() {
    let (folder, _upstream) = folder().await;
    let models = folder.dir.path().join("models");
    let run = |args: &[&str]| {
        let all = [&["models", "--models-dir", models.to_str().unwrap()], args].concat();
        run_cli(&all, &folder)
    };
    let (code, said, _) = run(&["list", "--json"]);
    let listed: Value = serde_json::from_str(&said).unwrap();
    assert_eq!((code, &listed[0]["files"]["state"]), (0, &json!("missing")));
    assert_eq!(run(&["verify"]).0, 1);
    let wrong = folder.dir.path().join("wrong");
    std::fs::create_dir(&wrong).unwrap();
    for name in ["config.json", "tokenizer.json", "model.safetensors"] {
        std::fs::write(wrong.join(name), "{}").unwrap();
    }
    let (code, _, error) = run(&["fetch", "all-minilm-l6-v2", "--from", wrong.to_str().unwrap()]);
    assert_eq!(code, 1);
    let expected = listed[0]["model"]["file"][0]["sha256"].as_str().unwrap();
    assert!(error.contains("config.json") && error.contains(expected), "{error}");
    assert_eq!(std::fs::read_dir(&models).unwrap().count(), 0, "nothing is half installed");
    let (code, _, error) = run(&["fetch", "gpt"]);
    assert_eq!((code, error.contains("all-minilm-l6-v2")), (64, true), "{error}");
}

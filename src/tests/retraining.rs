//! Training that nobody asks for: after so many new rows, and after so long.

use serde_json::{Value, json};
use weirgate::flywheel::{NewVersion, Store};

use crate::harness::*;
use crate::process_log::Logged;
use crate::routing::{collect, decided_by, folder, world};

/// Questions that are asked: enough of them are held out for the gate.
const N_ROWS: usize = 300;

/// Collects under these settings of `[routing]` and waits for the version that comes of it to decide. Returns it.
async fn trained_by_itself(triggers: &str) -> Value {
    let world = world().await;
    let mut logged = Logged::start(folder(&world, &json!({"consumers": ["lab"]})), &format!("[routing]\n{triggers}"));
    collect(&logged.gateway, N_ROWS).await;
    logged.says(&["Router trained", "is_promoted=true"]).await;
    let gateway = &logged.gateway;
    let versions = gateway.admin("GET", "/api/v1/routers/default/versions").await.json();
    let serving = versions.as_array().unwrap().iter().find(|version| version["state"] == "serving");
    let serving = serving.unwrap_or_else(|| panic!("{versions}")).clone();
    assert_eq!(serving["verdict"]["promote"], true, "through the gate: {serving}");
    let id = serving["id"].as_i64();
    eventually_async("the version to decide", || async { (decided_by(gateway).await == id).then_some(()) }).await;
    serving
}

#[tokio::test]
async fn so_many_new_rows_train_the_router() {
    let triggers = format!("retrain_rows = {N_ROWS}\nretrain_interval_secs = 0\n");
    let version = trained_by_itself(&triggers).await;
    assert_eq!(version["id"], 1, "nothing was trained before the rows were there");
    // A fifth is held out; with fewer rows than were asked for there would be fewer left.
    let n_rows = version["n_rows"].as_u64().unwrap();
    assert!((200..300).contains(&n_rows), "{n_rows}");
}

#[tokio::test]
async fn so_long_with_new_rows_trains_the_router() {
    trained_by_itself("retrain_rows = 0\nretrain_interval_secs = 1\n").await;
}

/// An update of the program may not read what the one before has trained; the recorded outcomes are still there.
#[tokio::test]
async fn a_version_that_another_program_wrote_is_trained_anew() {
    const QUIET: &str = "[routing]\nretrain_rows = 0\nretrain_interval_secs = 0\n";
    let world = world().await;
    let gateway = Gateway::start_with(folder(&world, &json!({"consumers": ["lab"]})), QUIET);
    collect(&gateway, N_ROWS).await;
    assert_eq!(gateway.admin("POST", "/api/v1/routers/default/train?force=true").await.status, 200);
    let folder = gateway.into_folder();
    let store = Store::open(&folder.data().join("weirgate.db")).unwrap();
    let foreign = NewVersion {
        router: "default".to_owned(),
        family: "Unheard".to_owned(),
        features_version: 1,
        seed: 1,
        n_rows: 1,
        metrics: json!({}),
        verdict: None,
        is_rejected: false,
        artifact: b"of another program".to_vec(),
    };
    let lost = store.insert_version(&foreign).unwrap();
    store.set_serving(lost).unwrap();
    let mut logged = Logged::start(folder, "");
    logged.says(&["cannot be read", "until another is trained"]).await;
    logged.says(&["Router trained", "is_promoted=true"]).await;
    let gateway = &logged.gateway;
    eventually_async("the new version to decide", || async { (decided_by(gateway).await > Some(lost)).then_some(()) })
        .await;
    let promoted = gateway.admin("POST", &format!("/api/v1/routers/default/versions/{lost}/promote")).await;
    assert!(promoted.status >= 400 && promoted.text().contains("cannot be read"), "{}", promoted.text());
}

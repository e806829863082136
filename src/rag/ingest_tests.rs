use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::Arc;

use super::*;
use crate::rag::knowledge_base::NewBase;
use crate::rag::store::Filter;
use crate::rag::testing::{WordCounts, document, rag, reopened};

fn counts(report: &IngestReport) -> (usize, usize, usize) {
    (report.added, report.updated, report.unchanged)
}

#[tokio::test]
async fn the_same_documents_again_are_no_work() {
    let (dir, rag, embed) = rag();
    let base = rag.create("base", &NewBase::default()).await.unwrap();
    let documents = || vec![document("a", "Cats", "Cats purr."), document("b", "Dogs", "Dogs bark.")];
    let first = base.ingest(documents(), &|_| {}).await.unwrap();
    assert_eq!((counts(&first), first.chunks, embed.texts()), ((2, 0, 0), 2, 2));
    let version = base.table().version().await.unwrap();
    assert_eq!(counts(&base.ingest(documents(), &|_| {}).await.unwrap()), (0, 0, 2));
    // Another process finds them, too.
    let again = reopened(dir.path(), embed.clone()).base("base").await.unwrap();
    assert_eq!(counts(&again.ingest(documents(), &|_| {}).await.unwrap()), (0, 0, 2));
    assert_eq!((embed.texts(), base.table().version().await.unwrap()), (2, version));
}

/// A descriptor stays open in a child between fork and exec; the next ingest was refused as if another process wrote.
#[test]
fn the_lock_ends_with_the_ingest_while_a_child_still_shares_the_file() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("lock");
    let lock = exclusive(&path, "base").unwrap();
    let shared = lock.0.try_clone().unwrap();
    assert!(matches!(exclusive(&path, "base"), Err(RagError::Busy(_))));
    drop(lock);
    assert!(exclusive(&path, "base").is_ok());
    drop(shared);
}

#[tokio::test]
async fn a_changed_document_takes_the_place_of_the_old_one() {
    let (_dir, rag, _) = rag();
    let base = rag.create("base", &NewBase { chunk_size: Some(60), ..NewBase::default() }).await.unwrap();
    let long = "The first sentence is about cats. The second one is about dogs. The third is about fish in the sea.";
    base.ingest(vec![document("a", "Animals", long), document("b", "Other", "Stays.")], &|_| {}).await.unwrap();
    assert!(base.table().size(&Filter::default()).await.unwrap().1 > 2);
    let report = base.ingest(vec![document("a", "Animals", "Only birds.")], &|_| {}).await.unwrap();
    assert_eq!(counts(&report), (0, 1, 0));
    let chunks = base.table().chunks(&Filter::default(), 0, 10).await.unwrap();
    assert_eq!(chunks.iter().map(|chunk| chunk.text.as_str()).collect::<Vec<_>>(), ["Only birds.", "Stays."]);
}

#[tokio::test]
async fn what_is_wrong_with_one_document_stops_no_other() {
    let (_dir, rag, _) = rag();
    let base = rag.create("base", &NewBase::default()).await.unwrap();
    let documents = vec![
        document("a", "", "One."),
        document("empty", "", "  \n "),
        document("a", "", "Twice."),
        document("", "", "No id."),
        document("line\nbreak", "", "Bad id."),
        document("b", "", "Two."),
    ];
    let report = base.ingest(documents, &|_| {}).await.unwrap();
    assert_eq!((report.added, report.chunks), (2, 2));
    let wrong: Vec<&str> = report.errors.iter().map(|error| error.document.as_str()).collect();
    assert_eq!(wrong, ["empty", "a", "", "line\nbreak"]);
    assert!(report.errors[1].message.contains("twice"), "{report:?}");
}

#[tokio::test]
async fn vectors_of_another_model_are_refused_with_both_names() {
    let (dir, rag, _) = rag();
    rag.create("base", &NewBase::default()).await.unwrap();
    let place =
        crate::rag::knowledge_base::Place { uri: dir.path().join("rag").display().to_string(), ..Default::default() };
    let other = Rag::new(place, Models::default());
    let error = other.base("base").await.unwrap().ingest(vec![document("a", "", "One.")], &|_| {}).await.unwrap_err();
    assert!(
        matches!(&error, RagError::Model { expected, found, .. } if expected == "word-counts" && found == "none"),
        "{error}"
    );
}

use crate::rag::knowledge_base::{Models, Rag};

#[tokio::test]
async fn chinese_text_has_no_vector_of_an_english_model_and_is_found_by_its_words() {
    let (_dir, rag, embed) = rag();
    let base = rag.create("base", &NewBase::default()).await.unwrap();
    base.ingest(vec![document("zh", "猫", "猫会发出呼噜声。"), document("en", "Cats", "Cats purr.")], &|_| {})
        .await
        .unwrap();
    assert_eq!(embed.texts(), 1);
    let search = crate::rag::retrieve::Search { query: "猫为什么呼噜".into(), top_k: 5, ..Default::default() };
    let found = base.search(&search).await.unwrap();
    assert_eq!(found.candidates.iter().map(|c| c.passage.document.as_str()).collect::<Vec<_>>(), ["zh"]);
    assert_eq!(embed.texts(), 1, "the question is not embedded either");
}

/// Has the name of the model that made a base's vectors, and never answers.
struct Silent;

#[async_trait::async_trait]
impl crate::rag::embed::Embed for Silent {
    fn model(&self) -> &str {
        "word-counts"
    }

    async fn dimensions(&self) -> Result<usize, RagError> {
        Ok(16)
    }

    fn reads(&self, _language: crate::rag::terms::Language) -> bool {
        true
    }

    async fn embed(&self, _texts: Vec<String>) -> Result<Vec<Vec<f32>>, RagError> {
        std::future::pending().await
    }
}

#[tokio::test]
async fn a_question_is_answered_by_words_when_the_embedding_model_never_answers() {
    let (dir, rag, _) = rag();
    let base = rag.create("base", &NewBase::default()).await.unwrap();
    base.ingest(vec![document("a", "", "Cats purr.")], &|_| {}).await.unwrap();
    let place =
        crate::rag::knowledge_base::Place { uri: dir.path().join("rag").display().to_string(), ..Default::default() };
    let other = Rag::new(place, Models { embed: Some(Arc::new(Silent)), rerank: None });
    let base = other.base("base").await.unwrap();
    // From here on time runs as soon as nothing else does.
    tokio::time::pause();
    let search = crate::rag::retrieve::Search { query: "cats".into(), top_k: 5, ..Default::default() };
    let found = base.search(&search).await.unwrap();
    assert_eq!(found.candidates.len(), 1);
    assert!(found.trace.notes.iter().any(|note| note.starts_with("embed:")), "{:?}", found.trace.notes);
}

#[tokio::test]
async fn a_second_process_that_writes_is_told_to_wait() {
    let (dir, rag, embed) = rag();
    let base = rag.create("base", &NewBase::default()).await.unwrap();
    let lock = exclusive(base.lock_file.as_deref().unwrap(), "base").unwrap();
    let other = reopened(dir.path(), embed).base("base").await.unwrap();
    let error = other.ingest(vec![document("a", "", "One.")], &|_| {}).await.unwrap_err();
    assert!(matches!(error, RagError::Busy(_)), "{error}");
    drop(lock);
    other.ingest(vec![document("a", "", "One.")], &|_| {}).await.unwrap();
}

/// Names the folder in which the killed process of the next test writes.
const KILLED: &str = "WEIRGATE_TEST_INGEST_DIR";

const N_DOCUMENTS: usize = 1_500;

fn many() -> Vec<NewDocument> {
    (0..N_DOCUMENTS).map(|n| document(&format!("d{n:04}"), "", &format!("Document number {n} says {n}."))).collect()
}

/// Not a test of its own: the process that `an_ingest_that_was_killed_loses_and_doubles_nothing` kills.
#[tokio::test]
async fn ingest_until_killed() {
    let Some(dir) = std::env::var_os(KILLED).map(PathBuf::from) else { return };
    let rag = reopened(&dir, Arc::new(WordCounts::default()));
    let base = rag.base_or_new("base").await.unwrap();
    let progress = |progress: Progress| {
        use std::io::Write;
        writeln!(std::io::stdout(), "chunks {}", progress.chunks).unwrap();
    };
    base.ingest(many(), &progress).await.unwrap();
}

#[tokio::test]
async fn an_ingest_that_was_killed_loses_and_doubles_nothing() {
    use std::io::{BufRead, BufReader};
    let dir = tempfile::tempdir().unwrap();
    for kill_after in 1..=2 {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "--nocapture", "rag::ingest::tests::ingest_until_killed"])
            .env(KILLED, dir.path())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines().map_while(Result::ok);
        let mut commits = lines.filter(|line| line.starts_with("chunks"));
        // Killed right after a commit was told, while the next batch is on its way.
        for _ in 0..kill_after {
            commits.next();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        let rag = reopened(dir.path(), Arc::new(WordCounts::default()));
        let (documents, chunks) = rag.base("base").await.unwrap().table().size(&Filter::default()).await.unwrap();
        assert!(documents >= BATCH_CHUNKS && documents == chunks, "{documents} documents, {chunks} chunks");
    }
    let rag = reopened(dir.path(), Arc::new(WordCounts::default()));
    let base = rag.base("base").await.unwrap();
    let report = base.ingest(many(), &|_| {}).await.unwrap();
    assert_eq!(report.added + report.unchanged, N_DOCUMENTS);
    assert!(report.unchanged >= BATCH_CHUNKS);
    assert_eq!(base.table().size(&Filter::default()).await.unwrap(), (N_DOCUMENTS, N_DOCUMENTS));
    let mut ids = std::collections::HashSet::new();
    base.table().each_text(&mut |id, _, _| assert!(ids.insert(id.to_owned()), "{id} is there twice")).await.unwrap();
    assert_eq!(ids.len(), N_DOCUMENTS);
}

/// Rows of a file, as its reader gives them.
fn rows(source: &str, keys: &[&str]) -> Vec<NewDocument> {
    let row = |key: &&str| {
        let NewDocument { document, .. } = document("", key, "A row.");
        NewDocument::of_source(source, Document { key: (*key).to_owned(), ..document }, None)
    };
    keys.iter().map(row).collect()
}

/// They stayed, and were found for ever.
#[tokio::test]
async fn rows_that_are_no_longer_in_their_file_go_and_nothing_else() {
    let (_dir, rag, _) = rag();
    let base = rag.create("base", &NewBase::default()).await.unwrap();
    let ids = async || -> Vec<String> {
        let documents = base.table().documents(&Filter::everything()).await.unwrap();
        documents.into_iter().map(|document| document.id).collect()
    };
    let beside = || vec![document("csv/n.csv.md", "", "A."), document("csv/n", "", "B.")];
    base.ingest(beside(), &|_| {}).await.unwrap();
    base.ingest(rows("csv/n.csv", &["1", "2", "3"]), &|_| {}).await.unwrap();
    let report = base.ingest(rows("csv/n.csv", &["1"]), &|_| {}).await.unwrap();
    assert_eq!((counts(&report), report.removed), ((0, 0, 1), 2));
    assert_eq!(ids().await, ["csv/n", "csv/n.csv.md", "csv/n.csv/1"]);
    let removed = base.remove(&["csv/n.csv".to_owned(), "csv".to_owned()], &Filter::everything()).await.unwrap();
    assert_eq!((removed.documents, removed.missing), (vec!["csv/n.csv/1".to_owned()], vec!["csv".to_owned()]));
    assert_eq!(ids().await, ["csv/n", "csv/n.csv.md"]);
}

/// Regression: of several at once some failed in the middle, and two had both made it.
#[tokio::test]
async fn one_of_many_makes_a_base() {
    let (_dir, rag, _) = rag();
    let new = NewBase::default();
    let made = futures_util::future::join_all((0..4).map(|_| rag.create("base", &new))).await;
    assert_eq!(made.iter().filter(|one| one.is_ok()).count(), 1);
    assert!(made.iter().flat_map(|one| one.as_ref().err()).all(|error| matches!(error, RagError::Exists(_))));
    let found = futures_util::future::join_all((0..4).map(|_| rag.base_or_new("other"))).await;
    assert!(found.iter().all(Result::is_ok));
}

/// Regression: what was ingested meanwhile brought the deleted base back, or left it broken.
#[tokio::test]
async fn a_base_that_is_deleted_stays_deleted() {
    let (_dir, rag, _) = rag();
    let base = rag.create("base", &NewBase::default()).await.unwrap();
    let documents = |n: usize| (0..20).map(|i| document(&format!("{n}-{i}"), "", "Some text.")).collect();
    let ingests = futures_util::future::join_all((0..3).map(|n| base.ingest(documents(n), &|_| {})));
    let (ingested, removed) = tokio::join!(ingests, rag.remove("base"));
    removed.unwrap();
    for outcome in ingested {
        assert!(matches!(outcome, Ok(_) | Err(RagError::UnknownBase { .. })), "{outcome:?}");
    }
    assert!(rag.names().await.unwrap().is_empty());
    let again = rag.create("base", &NewBase::default()).await.unwrap();
    assert_eq!(again.table().size(&Filter::everything()).await.unwrap(), (0, 0));
    assert!(matches!(base.ingest(documents(9), &|_| {}).await, Err(RagError::UnknownBase { .. })));
}

/// Regression: the second one's document took the place of the first one's.
#[tokio::test]
async fn tenants_neither_replace_nor_remove_each_others_documents() {
    let (_dir, rag, _) = rag();
    let base = rag.create("base", &NewBase::default()).await.unwrap();
    let of = |tenant: &str, text: &str| NewDocument { tenant: Some(tenant.to_owned()), ..document("doc", "", text) };
    base.ingest(vec![of("a", "Mine.")], &|_| {}).await.unwrap();
    let report = base.ingest(vec![of("b", "Yours.")], &|_| {}).await.unwrap();
    assert!(report.errors[0].message.contains("another tenant"), "{report:?}");
    let filter = |tenant: &str| Filter { tenant: Some(tenant.to_owned()), ..Filter::default() };
    assert_eq!(base.remove(&["doc".to_owned()], &filter("b")).await.unwrap().missing, ["doc"]);
    assert!(!base.table().remove_chunk("doc#0", &filter("b")).await.unwrap());
    assert_eq!(base.remove(&["doc".to_owned()], &filter("a")).await.unwrap().documents, ["doc"]);
}

/// The first process' handle looked at a table that was gone, and wrote into the one that followed.
#[tokio::test]
async fn a_base_that_another_process_made_anew_is_seen() {
    let (dir, rag, embed) = rag();
    let access = NewBase { consumers: vec!["ann".into()], ..NewBase::default() };
    rag.create("base", &access).await.unwrap();
    rag.base("base").await.unwrap().ingest(vec![document("a", "", "Old.")], &|_| {}).await.unwrap();
    let other = reopened(dir.path(), embed.clone());
    assert_eq!(other.base("base").await.unwrap().settings().await.unwrap().access.consumers, ["ann"]);
    other.remove("base").await.unwrap();
    assert!(matches!(rag.base("base").await, Err(RagError::UnknownBase { .. })));
    other.create("base", &NewBase { chunk_size: Some(100), ..NewBase::default() }).await.unwrap();
    let base = rag.base("base").await.unwrap();
    assert_eq!(
        (base.table().layout().chunk_size, base.table().size(&Filter::everything()).await.unwrap()),
        (100, (0, 0))
    );
    base.ingest(vec![document("a", "", "New.")], &|_| {}).await.unwrap();
    // The other sees it before it writes itself.
    let report = other.base("base").await.unwrap().ingest(vec![document("a", "", "New.")], &|_| {}).await.unwrap();
    assert_eq!(counts(&report), (0, 0, 1));
}

/// A creation that a full disk ended could be neither repeated nor removed.
#[tokio::test]
async fn a_folder_without_a_table_is_no_knowledge_base() {
    let (dir, rag, _) = rag();
    rag.create("whole", &NewBase::default()).await.unwrap();
    std::fs::create_dir_all(dir.path().join("rag/half.lance/_versions")).unwrap();
    assert_eq!(rag.names().await.unwrap(), ["whole"]);
    rag.create("half", &NewBase::default()).await.unwrap();
    assert_eq!(rag.names().await.unwrap(), ["half", "whole"]);
}

#[tokio::test]
async fn a_small_base_that_changes_often_does_not_fill_the_disk_with_files() {
    let (dir, rag, _) = rag();
    let base = rag.create("base", &NewBase { model: Some("none".into()), ..NewBase::default() }).await.unwrap();
    for n in 0..=COMMITS_UNTIL_MAINTENANCE + 1 {
        base.ingest(vec![document("a", "", &format!("Text {n}."))], &|_| {}).await.unwrap();
    }
    let files = std::fs::read_dir(dir.path().join("rag/base.lance/data")).unwrap().count();
    let rows = base.table().size(&Filter::everything()).await.unwrap();
    assert_eq!(rows, (1, 1));
    assert!(base.n_commits.load(Relaxed) < 10, "{files} files");
}

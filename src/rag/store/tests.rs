use std::collections::BTreeMap;

use super::*;

fn layout(dimensions: usize) -> Layout {
    Layout { model: "test".into(), dimensions, chunk_size: 800, chunk_overlap: 80 }
}

async fn store() -> (tempfile::TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(dir.path().to_str().unwrap(), &HashMap::new()).await.unwrap();
    (dir, store)
}

fn row(document: &str, index: u32, terms: &str, vector: Option<[f32; 2]>) -> Row {
    let passage = Passage {
        id: format!("{document}#{index}"),
        document: document.into(),
        index,
        n_chunks: 1,
        title: format!("Title of {document}"),
        text: terms.to_uppercase(),
        hash: "h".into(),
        ..Passage::default()
    };
    Row { passage, terms: terms.into(), vector: vector.map(Vec::from), tenant: None }
}

/// Ids of what was found, best first.
async fn ids(table: &Table, hits: &[Hit]) -> Vec<String> {
    let rows: Vec<u64> = hits.iter().map(|hit| hit.row).collect();
    let mut read: HashMap<u64, Passage> = table.read(&rows, &Filter::everything()).await.unwrap().into_iter().collect();
    rows.iter().map(|row| read.remove(row).unwrap().id).collect()
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

#[tokio::test]
async fn passages_are_found_by_meaning_and_by_words() {
    let (_dir, store) = store().await;
    let table = store.create("base", &layout(2), "{}").await.unwrap();
    assert!(table.dense(&[1.0, 0.0], 3, &Filter::default()).await.unwrap().is_empty());
    assert!(table.lexical("cat", 3, &Filter::default()).await.unwrap().is_empty());
    let rows = [
        row("a", 0, "cat dog", Some([1.0, 0.0])),
        row("b", 0, "dog dog dog", Some([0.6, 0.8])),
        row("c", 0, "fish", None),
    ];
    table.replace(&names(&["a", "b", "c"]), &rows, true).await.unwrap();
    table.maintain().await.unwrap();
    let dense = table.dense(&[2.0, 0.0], 3, &Filter::default()).await.unwrap();
    assert_eq!(ids(&table, &dense).await, ["a#0", "b#0"], "a passage without a vector is not found by meaning");
    assert!((dense[0].score - 1.0).abs() < 1e-5 && (dense[1].score - 0.6).abs() < 1e-5, "{dense:?}");
    assert_eq!(table.read(&[dense[0].row], &Filter::default()).await.unwrap()[0].1, rows[0].passage);
    let lexical = table.lexical("dog", 3, &Filter::default()).await.unwrap();
    assert_eq!(ids(&table, &lexical).await, ["b#0", "a#0"]);
    assert_eq!(table.lexical("fish cat", 3, &Filter::default()).await.unwrap().len(), 2);
    let terms = table.terms(&[lexical[0].row, lexical[1].row]).await.unwrap();
    assert_eq!((terms.len(), terms[&lexical[0].row].as_str()), (2, "dog dog dog"));
    assert!(table.terms(&[]).await.unwrap().is_empty());
    assert!(table.lexical("  ", 3, &Filter::default()).await.unwrap().is_empty());
    let error = table.dense(&[1.0], 3, &Filter::default()).await.unwrap_err().to_string();
    assert!(error.contains("\"test\"") && error.contains("2"), "{error}");
}

#[tokio::test]
async fn rows_that_are_not_indexed_yet_are_found_too() {
    let (_dir, store) = store().await;
    let table = store.create("base", &layout(2), "{}").await.unwrap();
    table.replace(&names(&["a"]), &[row("a", 0, "cat", Some([1.0, 0.0]))], true).await.unwrap();
    table.ensure_words().await.unwrap();
    table.replace(&names(&["b"]), &[row("b", 0, "cat cat", Some([1.0, 0.1]))], true).await.unwrap();
    assert_eq!(table.lexical("cat", 3, &Filter::default()).await.unwrap().len(), 2);
    assert_eq!(table.dense(&[1.0, 0.0], 3, &Filter::default()).await.unwrap().len(), 2);
}

#[tokio::test]
async fn a_document_is_replaced_whole_and_removed_whole() {
    let (_dir, store) = store().await;
    let table = store.create("base", &layout(2), "{}").await.unwrap();
    let rows = [row("a", 0, "one", None), row("a", 1, "two", None), row("b", 0, "three", None)];
    table.replace(&names(&["a", "b"]), &rows, true).await.unwrap();
    let version = table.version().await.unwrap();
    table.replace(&names(&["a"]), &[row("a", 0, "four", None)], false).await.unwrap();
    assert!(table.version().await.unwrap() > version);
    let chunks = table.chunks(&Filter::default(), 0, 10).await.unwrap();
    let texts: Vec<&str> = chunks.iter().map(|passage| passage.text.as_str()).collect();
    assert_eq!(texts, ["FOUR", "THREE"]);
    assert_eq!(table.size(&Filter::default()).await.unwrap(), (2, 2));
    assert_eq!(table.chunks(&Filter::default(), 1, 10).await.unwrap().len(), 1);
    table.remove(&names(&["a", "unknown"])).await.unwrap();
    assert_eq!(table.stored().await.unwrap().keys().collect::<Vec<_>>(), ["b"]);
    assert!(table.remove_chunk("b#0", &Filter::everything()).await.unwrap());
    assert!(!table.remove_chunk("b#0", &Filter::everything()).await.unwrap());
    assert_eq!(table.size(&Filter::default()).await.unwrap(), (0, 0));
}

#[tokio::test]
async fn a_document_without_its_first_chunk_is_still_listed() {
    let (_dir, store) = store().await;
    let table = store.create("base", &layout(2), "{}").await.unwrap();
    table.replace(&names(&["a"]), &[row("a", 0, "one", None), row("a", 1, "two", None)], true).await.unwrap();
    table.remove_chunk("a#0", &Filter::everything()).await.unwrap();
    let documents = table.documents(&Filter::default()).await.unwrap();
    assert_eq!(
        documents.iter().map(|document| (document.id.as_str(), document.chunks)).collect::<Vec<_>>(),
        [("a", 1)]
    );
}

#[tokio::test]
async fn tenants_and_metadata_are_conditions_of_the_query() {
    let (_dir, store) = store().await;
    let table = store.create("base", &layout(0), "{}").await.unwrap();
    let mut rows = vec![row("open", 0, "cat", None), row("ours", 0, "cat", None), row("theirs", 0, "cat", None)];
    rows[1].tenant = Some("us".into());
    rows[2].tenant = Some("o'them".into());
    rows[1].passage.metadata = BTreeMap::from([("lang".into(), "a\"b".into()), ("x".into(), "\"lang\":\"c\"".into())]);
    table.replace(&names(&["open", "ours", "theirs"]), &rows, true).await.unwrap();
    table.maintain().await.unwrap();
    let found = async |tenant: Option<&str>, lang: Option<&str>| {
        let metadata = lang.map(|lang| ("lang".to_owned(), lang.to_owned())).into_iter().collect();
        let filter = Filter { tenant: tenant.map(str::to_owned), metadata, ..Filter::default() };
        let hits = table.lexical("cat", 9, &filter).await.unwrap();
        let mut found = ids(&table, &hits).await;
        found.sort();
        found
    };
    assert_eq!(found(None, None).await, ["open#0"]);
    assert_eq!(found(Some("us"), None).await, ["open#0", "ours#0"]);
    assert_eq!(found(Some("o'them"), None).await, ["open#0", "theirs#0"]);
    assert_eq!(found(Some("us"), Some("a\"b")).await, ["ours#0"]);
    assert!(found(Some("us"), Some("c")).await.is_empty(), "a value that looks like a member is none");
    let ours = table.lexical("cat", 9, &Filter { tenant: Some("us".into()), ..Filter::default() }).await.unwrap();
    let rows: Vec<u64> = ours.iter().map(|hit| hit.row).collect();
    assert_eq!(table.read(&rows, &Filter::default()).await.unwrap().len(), 1, "a row number opens nothing");
    assert!(found(Some("us' OR 'a'='a"), None).await == ["open#0"]);
}

#[tokio::test]
async fn settings_and_layout_stay_with_the_table() {
    let (dir, store) = store().await;
    let table = store.create("base", &layout(2), "{}").await.unwrap();
    assert_eq!(table.settings().await.unwrap().as_deref(), Some("{}"));
    table.set_settings("{\"a\":1}".into()).await.unwrap();
    let again = Store::open(dir.path().to_str().unwrap(), &HashMap::new()).await.unwrap();
    let table = again.table("base").await.unwrap();
    assert_eq!((table.layout(), table.settings().await.unwrap().as_deref()), (&layout(2), Some("{\"a\":1}")));
    assert!(matches!(again.create("base", &layout(2), "{}").await, Err(RagError::Exists(_))));
    assert_eq!(again.names().await.unwrap(), ["base"]);
    again.remove("base").await.unwrap();
    assert!(again.names().await.unwrap().is_empty());
    let error = again.table("base").await.err().unwrap().to_string();
    assert!(error.contains("\"base\"") && error.contains("ingest"), "{error}");
}

#[tokio::test]
async fn names_that_are_no_folders_are_refused() {
    let (_dir, store) = store().await;
    for name in ["", "../x", "a/b", ".hidden", "a b", "知识"] {
        assert!(matches!(store.create(name, &layout(2), "{}").await, Err(RagError::Name(_))), "{name}");
        assert!(matches!(store.table(name).await, Err(RagError::Name(_))), "{name}");
    }
}

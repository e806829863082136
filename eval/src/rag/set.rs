//! A retrieval set: passages, questions and judgements, read from a folder with `corpus.jsonl.gz`, `queries.jsonl` and `qrels.tsv`.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use flate2::read::MultiGzDecoder;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::metrics::Gains;
use super::text::{estimate_tokens, normalize_answers};

/// Answers of more words than this are explanations: no passage contains them literally.
const MAX_SHORT_ANSWER_TOKENS: usize = 12;

/// A passage as it is ingested. Analysis fields of the file (`src`) are no input to retrieval and are not sent.
#[derive(Serialize, Clone, Debug, PartialEq)]
pub struct Document {
    pub id: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    pub title: String,
    pub text: String,
}

#[derive(Clone, Debug)]
pub struct Query {
    pub id: String,
    pub question: String,
    pub answers: Vec<String>,
    /// Normalised; empty where the set's answers are none that a passage could contain.
    pub answer_strings: Vec<String>,
    /// Sentences of the gold passage that an annotator took the answer from.
    pub supporting_sentences: Vec<String>,
    /// Whether the documents do not answer it; None where the set does not say.
    pub is_unanswerable: Option<bool>,
    pub gold: Gains,
}

pub struct RagSet {
    /// As in `summary.json`: `nq`, `nq:same_article`, `hotpotqa:pool500`.
    pub key: String,
    pub knowledge_base: String,
    pub documents: Vec<Document>,
    pub queries: Vec<Query>,
}

/// Which part of a set is measured. `--set DIR,src=NAME,where=FIELD` says so for one set, the flags for all.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct SetChoice {
    pub folder: PathBuf,
    /// Keep the passages whose `src` is this.
    pub source: Option<String>,
    /// Keep the queries where this field is true or greater than zero.
    pub condition: Option<String>,
}

/// What applies to every set of a run.
#[derive(Clone, Debug, Default)]
pub struct Reading<'a> {
    pub queries: Option<&'a Path>,
    pub qrels: Option<&'a Path>,
    /// Folders whose passages are added as distractors.
    pub extra: &'a [PathBuf],
    pub limit: Option<usize>,
    pub knowledge_base_prefix: &'a str,
}

impl SetChoice {
    pub fn parse(text: &str, source: Option<&str>, condition: Option<&str>) -> Result<SetChoice> {
        let mut parts = text.split(',');
        let mut choice = SetChoice {
            folder: PathBuf::from(parts.next().unwrap_or_default()),
            source: source.map(str::to_string),
            condition: condition.map(str::to_string),
        };
        for part in parts {
            match part.split_once('=') {
                Some(("src", value)) => choice.source = Some(value.to_string()).filter(|value| !value.is_empty()),
                Some(("where", value)) => choice.condition = Some(value.to_string()).filter(|value| !value.is_empty()),
                _ => bail!("--set {text:?}: {part:?} is neither src=NAME nor where=FIELD"),
            }
        }
        Ok(choice)
    }

    pub fn load(&self, reading: &Reading<'_>) -> Result<RagSet> {
        let folder = &self.folder;
        let name = folder_name(folder)?;
        let mut documents = self.documents(&folder.join("corpus.jsonl.gz"))?;
        let mut knowledge_base = format!("{}{name}", reading.knowledge_base_prefix);
        knowledge_base.extend(self.source.iter().map(|source| format!("-{source}")));
        let mut key = name;
        key.extend([&self.source, &self.condition].into_iter().flatten().map(|part| format!(":{part}")));
        for extra in reading.extra {
            let extra_name = folder_name(extra)?;
            let unfiltered = SetChoice::default();
            documents.extend(unfiltered.documents(&extra.join("corpus.jsonl.gz"))?);
            knowledge_base += &format!("-{extra_name}");
            key += &format!("+{extra_name}");
        }
        let ids = distinct_ids(&documents).with_context(|| format!("set {key}"))?;
        let default_qrels = folder.join("qrels.tsv");
        let gold = read_qrels(reading.qrels.unwrap_or(&default_qrels))?;
        let default_queries = folder.join("queries.jsonl");
        let mut queries = self.queries(reading.queries.unwrap_or(&default_queries), gold)?;
        queries.truncate(reading.limit.unwrap_or(usize::MAX));
        for query in &queries {
            if let Some(absent) = query.gold.keys().find(|document| !ids.contains(document.as_str())) {
                bail!("set {key}: query {:?} has the gold document {absent:?}, which is not in the corpus", query.id);
            }
        }
        let has_gold = queries.iter().any(|query| !query.gold.is_empty() || query.is_unanswerable.is_some());
        if !has_gold {
            bail!("set {key}: no query has a judgement; do the queries and qrels files belong together?");
        }
        Ok(RagSet { key, knowledge_base, documents, queries })
    }

    fn documents(&self, file: &Path) -> Result<Vec<Document>> {
        #[derive(Deserialize)]
        struct Row {
            id: String,
            #[serde(default)]
            title: Option<String>,
            text: String,
            #[serde(default)]
            src: Option<String>,
        }
        let rows: Vec<Row> = read_json_lines(file)?;
        let is_wanted = |row: &Row| self.source.is_none() || self.source == row.src;
        let documents: Vec<Document> = rows
            .into_iter()
            .filter(is_wanted)
            .map(|row| Document { id: row.id, title: row.title.unwrap_or_default(), text: row.text })
            .collect();
        if documents.is_empty() {
            bail!(
                "{}: no passage{}",
                file.display(),
                self.source.as_ref().map_or(String::new(), |s| format!(" with src {s:?}"))
            );
        }
        Ok(documents)
    }

    fn queries(&self, file: &Path, mut gold: HashMap<String, Gains>) -> Result<Vec<Query>> {
        #[derive(Deserialize)]
        struct Row {
            id: String,
            question: String,
            #[serde(default)]
            answers: Vec<String>,
            #[serde(default)]
            selected_sentences: Vec<String>,
            unanswerable: Option<bool>,
            #[serde(flatten)]
            fields: BTreeMap<String, Value>,
        }
        let is_set =
            |value: &Value| value.as_bool().unwrap_or_else(|| value.as_f64().is_some_and(|number| number > 0.0));
        let is_wanted = |row: &Row| match self.condition.as_deref() {
            None => true,
            Some("unanswerable") => row.unanswerable == Some(true),
            Some(field) => row.fields.get(field).is_some_and(is_set),
        };
        let rows: Vec<Row> = read_json_lines(file)?;
        let mut queries: Vec<Query> = rows
            .into_iter()
            .filter(is_wanted)
            .map(|row| Query {
                gold: gold.remove(&row.id).unwrap_or_default(),
                id: row.id,
                question: row.question,
                answer_strings: Vec::new(),
                answers: row.answers,
                supporting_sentences: row.selected_sentences,
                is_unanswerable: row.unanswerable,
            })
            .collect();
        if queries.is_empty() {
            let condition = self.condition.as_ref().map_or(String::new(), |field| format!(" whose {field:?} is set"));
            bail!("{}: no query{condition}", file.display());
        }
        if answers_are_strings(&queries) {
            for query in &mut queries {
                query.answer_strings = normalize_answers(&query.answers);
            }
        }
        Ok(queries)
    }
}

/// Whether passages can contain the answers: short ones, and not only yes, no and maybe.
fn answers_are_strings(queries: &[Query]) -> bool {
    let answers = || queries.iter().flat_map(|query| &query.answers);
    let n_short = answers().filter(|answer| estimate_tokens(answer) <= MAX_SHORT_ANSWER_TOKENS).count();
    let is_verdict = |answer: &String| ["yes", "no", "maybe"].contains(&answer.trim().to_lowercase().as_str());
    n_short * 2 > answers().count() && !answers().all(is_verdict)
}

fn folder_name(folder: &Path) -> Result<String> {
    // `nq/.` and `nq/` are `nq` as well.
    let name = folder.components().next_back().and_then(|part| part.as_os_str().to_str());
    name.filter(|name| name.chars().all(|c| c.is_ascii_alphanumeric() || "-_".contains(c)))
        .map(str::to_string)
        .with_context(|| {
            format!("--set {}: the folder's name becomes the set's; use letters, digits, '-', '_'", folder.display())
        })
}

fn distinct_ids(documents: &[Document]) -> Result<HashSet<&str>> {
    let mut ids = HashSet::new();
    for document in documents {
        if !ids.insert(document.id.as_str()) {
            bail!("the id {:?} stands twice in the corpus", document.id);
        }
    }
    Ok(ids)
}

/// The values of a file of JSON lines, gzipped if its name ends so.
pub fn read_json_lines<T: DeserializeOwned>(file: &Path) -> Result<Vec<T>> {
    let opened = std::fs::File::open(file).with_context(|| format!("{}: cannot be opened", file.display()))?;
    let reader: Box<dyn BufRead> = match file.extension().is_some_and(|extension| extension == "gz") {
        true => Box::new(BufReader::new(MultiGzDecoder::new(opened))),
        false => Box::new(BufReader::new(opened)),
    };
    let mut values = Vec::new();
    for (at, line) in reader.lines().enumerate() {
        let place = || format!("{}, line {}", file.display(), at + 1);
        let line = line.with_context(place)?;
        if !line.trim().is_empty() {
            values.push(serde_json::from_str(&line).with_context(place)?);
        }
    }
    Ok(values)
}

/// Judgements by query: `query-id`, `corpus-id`, `score`, by tabs; a header is allowed, and scores of zero mean irrelevant.
fn read_qrels(file: &Path) -> Result<HashMap<String, Gains>> {
    let text = std::fs::read_to_string(file).with_context(|| format!("{}: cannot be read", file.display()))?;
    let mut gold: HashMap<String, Gains> = HashMap::new();
    for (at, line) in text.lines().enumerate() {
        let fields: Vec<&str> = line.split('\t').collect();
        let (query, document, score) = match fields.as_slice() {
            [query, document, score] => (*query, *document, score.trim().parse::<i64>()),
            [query, _, document, score] => (*query, *document, score.trim().parse::<i64>()),
            _ if line.trim().is_empty() => continue,
            _ => bail!("{}, line {}: not query, document and score between tabs", file.display(), at + 1),
        };
        match score {
            Ok(score) if score > 0 => {
                let gain = u32::try_from(score).unwrap_or(u32::MAX);
                gold.entry(query.to_string()).or_default().insert(document.to_string(), gain);
            }
            Ok(_) => {}
            Err(_) if at == 0 => {}
            Err(_) => bail!("{}, line {}: the score is no whole number", file.display(), at + 1),
        }
    }
    Ok(gold)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::Compression;
    use flate2::write::GzEncoder;

    use super::*;

    fn folder(corpus: &str, queries: &str, qrels: &str) -> tempfile::TempDir {
        let root = tempfile::tempdir().unwrap();
        let folder = root.path().join("tiny");
        std::fs::create_dir(&folder).unwrap();
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        encoder.write_all(corpus.as_bytes()).unwrap();
        std::fs::write(folder.join("corpus.jsonl.gz"), encoder.finish().unwrap()).unwrap();
        std::fs::write(folder.join("queries.jsonl"), queries).unwrap();
        std::fs::write(folder.join("qrels.tsv"), qrels).unwrap();
        root
    }

    const CORPUS: &str = "{\"id\":\"a\",\"title\":\"A\",\"text\":\"one\",\"src\":\"p\"}\n{\"id\":\"b\",\"text\":\"two\",\"src\":\"q\"}\n";
    const QUERIES: &str = "{\"id\":\"1\",\"question\":\"first?\",\"answers\":[\"one\"],\"hard\":0}\n\
                           {\"id\":\"2\",\"question\":\"second?\",\"answers\":[\"two\"],\"hard\":2,\"unanswerable\":false}\n";
    const QRELS: &str = "query-id\tcorpus-id\tscore\n1\ta\t2\n2\ta\t1\n1\tb\t0\n";

    fn load(root: &tempfile::TempDir, options: &str) -> Result<RagSet> {
        let choice = SetChoice::parse(&format!("{}/tiny{options}", root.path().display()), None, None)?;
        choice.load(&Reading { knowledge_base_prefix: "eval-", ..Reading::default() })
    }

    #[test]
    fn a_set_is_read_whole_or_in_part() {
        let root = folder(CORPUS, QUERIES, QRELS);
        let whole = load(&root, "").unwrap();
        assert_eq!((whole.key.as_str(), whole.knowledge_base.as_str()), ("tiny", "eval-tiny"));
        assert_eq!((whole.documents.len(), whole.queries.len()), (2, 2));
        assert_eq!(whole.queries[0].gold, Gains::from([("a".to_string(), 2)]));
        assert_eq!(whole.queries[1].answer_strings, [" two "]);
        assert_eq!(whole.queries.iter().map(|query| query.is_unanswerable).collect::<Vec<_>>(), [None, Some(false)]);
        let part = load(&root, ",src=p,where=hard").unwrap();
        assert_eq!((part.key.as_str(), part.knowledge_base.as_str()), ("tiny:p:hard", "eval-tiny-p"));
        assert_eq!((part.documents.len(), part.queries[0].id.as_str()), (1, "2"));
    }

    #[test]
    fn errors_name_what_is_wrong() {
        let root = folder(CORPUS, QUERIES, "1\ta\tx\n1\ta\tx\n");
        for (root, options, part) in [
            (&root, "", "line 2: the score"),
            (&root, ",src=none", "no passage with src \"none\""),
            (&root, ",only=x", "neither src=NAME"),
            (&folder(CORPUS, QUERIES, "1\tz\t1\n"), "", "\"z\", which is not in the corpus"),
            (&folder(CORPUS, QUERIES, QRELS), ",where=soft", "whose \"soft\" is set"),
            (&folder(&CORPUS.repeat(2), QUERIES, QRELS), "", "\"a\" stands twice"),
            (&folder(CORPUS, "{\"id\":", QRELS), "", "queries.jsonl, line 1"),
            (&folder(CORPUS, "{\"id\":\"9\",\"question\":\"?\"}", QRELS), "", "no query has a judgement"),
        ] {
            let error = format!("{:#}", load(root, options).err().unwrap());
            assert!(error.contains(part), "{error}");
        }
    }

    #[test]
    fn verdicts_and_explanations_are_no_answer_strings() {
        let long = "because ".repeat(20);
        for (answers, expected) in
            [(vec!["yes", "no"], false), (vec!["yes", "Reno"], true), (vec![long.as_str()], false), (vec![], false)]
        {
            let query = Query {
                id: String::new(),
                question: String::new(),
                answers: answers.iter().map(|answer| (*answer).to_string()).collect(),
                answer_strings: Vec::new(),
                supporting_sentences: Vec::new(),
                is_unanswerable: None,
                gold: Gains::new(),
            };
            assert_eq!(answers_are_strings(&[query]), expected, "{answers:?}");
        }
    }
}

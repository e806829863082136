//! `weirgate rag`: knowledge bases from the command line, without a running gateway.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;

use clap::{Args, Subcommand};
use serde_json::json;

use super::output::{complain, say, say_json, table};
use super::rag_calibrate::{self, Questions, Wanted};
use super::rag_ingest::{ingest, show_report};
use super::{CliError, Places};
use crate::config::settings::Settings;
use crate::infer::{Library, Manifest, SENTENCE_MODEL, SentenceEmbedder};
use crate::rag::RagError;
use crate::rag::api;
use crate::rag::ask::{Ask, AskSteps, Listener};
use crate::rag::cross_encoder::CrossEncoderScore;
use crate::rag::embed::SentenceModel;
use crate::rag::knowledge_base::{Access, Models, NewAccess, NewBase, Rag};
use crate::rag::retrieve::{Search, Steps};
use crate::rag::store::Filter;
use crate::server::knowledge;
use crate::server::outside::{embedding, outside, web_client};

#[derive(Args)]
pub struct RagArgs {
    #[command(flatten)]
    places: Places,
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Store files, folders and pages in a knowledge base; makes the base if there is none. What has not changed costs nothing.
    Ingest {
        base: String,
        /// Files, folders with everything in them, and addresses (http, https): text, Markdown, HTML, PDF, DOCX, CSV, TSV, JSON, JSONL.
        #[arg(required = true, value_name = "PATH|URL")]
        sources: Vec<OsString>,
        /// Whose documents these are; nobody else's searches find them.
        #[arg(long)]
        tenant: Option<String>,
        /// Characters in a chunk, when the base is made.
        #[arg(long)]
        chunk_size: Option<usize>,
        /// Characters that a chunk repeats of the one before it, when the base is made.
        #[arg(long)]
        chunk_overlap: Option<usize>,
        #[arg(long)]
        json: bool,
    },
    /// Find passages.
    Search {
        base: String,
        query: String,
        #[arg(long, default_value_t = 5)]
        top_k: usize,
        #[arg(long)]
        tenant: Option<String>,
        #[arg(long)]
        json: bool,
    },
    /// Answer with citations, or say that the documents do not answer. In the words of the model of config.toml, if there is one.
    Ask {
        base: String,
        question: String,
        #[arg(long)]
        tenant: Option<String>,
        /// Steps to switch, as in the JSON interface: `{"web": true, "decompose": true}`.
        #[arg(long, value_name = "JSON")]
        steps: Option<String>,
        /// The documents' own sentences, whatever model is configured.
        #[arg(long)]
        extractive: bool,
        #[arg(long)]
        json: bool,
    },
    /// Find from which score on a passage answers, from labelled questions or made ones; searches then judge what they found.
    Calibrate {
        base: String,
        /// JSONL with `id` and `question`.
        #[arg(long, value_name = "FILE", requires = "qrels")]
        queries: Option<PathBuf>,
        /// Lines of question id, document id and score (above 0 is relevant), separated by tabs.
        #[arg(long, value_name = "FILE", requires = "queries")]
        qrels: Option<PathBuf>,
        /// Without labelled questions: make so many from passages of the base, with the language model where one is configured.
        #[arg(long, value_name = "N", conflicts_with = "queries", default_value_t = 200)]
        synthetic: usize,
        /// Share of the passages judged correct that should be.
        #[arg(long, default_value_t = 0.95)]
        precision: f64,
        /// Share of the relevant passages that may be judged incorrect.
        #[arg(long, default_value_t = 0.05)]
        max_lost: f64,
        #[arg(long)]
        json: bool,
    },
    /// Knowledge bases, or the documents of one.
    List {
        base: Option<String>,
        #[arg(long)]
        json: bool,
    },
    /// Change who may see a knowledge base; what is left out stays.
    Access {
        base: String,
        /// Name of a consumer that may search it; once for each.
        #[arg(long = "consumer", value_name = "NAME", conflicts_with = "everybody")]
        consumers: Vec<String>,
        /// All consumers may.
        #[arg(long)]
        everybody: bool,
        /// Whose it is.
        #[arg(long, conflicts_with = "no_tenant")]
        tenant: Option<String>,
        /// It belongs to all.
        #[arg(long)]
        no_tenant: bool,
        #[arg(long)]
        json: bool,
    },
    /// Delete documents of a knowledge base, or the whole base where none is named.
    Remove {
        base: String,
        documents: Vec<String>,
        /// Needed to delete a whole base.
        #[arg(long)]
        all: bool,
    },
}

pub fn run(args: &RagArgs) -> Result<(), CliError> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(CliError::failed)?;
    runtime.block_on(act(args))
}

async fn act(args: &RagArgs) -> Result<(), CliError> {
    let settings = args.places.settings()?;
    let place = knowledge::place(&settings);
    let needs_model = !matches!(args.action, Action::List { .. } | Action::Access { .. } | Action::Remove { .. });
    let models = if needs_model { models(&settings) } else { Models::default() };
    let own = SocketAddr::new(settings.listen.bind, settings.listen.http_port);
    let rag = Rag::new(place, models).with_outside(outside(&settings, own).map_err(CliError::Usage)?);
    match &args.action {
        Action::Ingest { base, sources, tenant, chunk_size, chunk_overlap, json } => {
            let new = NewBase { chunk_size: *chunk_size, chunk_overlap: *chunk_overlap, ..NewBase::default() };
            let report = ingest(&rag, base, &new, sources, tenant.as_deref(), web_client().as_ref()).await?;
            show_report(&report, *json)
        }
        Action::Search { base, query, top_k, tenant, json } => {
            let filter = Filter { tenant: tenant.clone(), ..Filter::default() };
            let search =
                Search { query: query.clone(), top_k: *top_k, filter, steps: Steps::default(), ..Search::default() };
            show_found(&rag, base, &search, *json).await
        }
        Action::Ask { base, question, tenant, steps, extractive, json } => {
            let named = steps.as_deref().map_or(Ok(serde_json::Map::new()), serde_json::from_str);
            let named = named.map_err(|error| CliError::Usage(format!("--steps: {error}")))?;
            let (steps, further) = api::steps(named).map_err(|error| CliError::Usage(format!("--{error}")))?;
            let filter = Filter { tenant: tenant.clone(), ..Filter::default() };
            let search = Search { query: question.clone(), top_k: SOURCES, filter, steps, ..Search::default() };
            let further = AskSteps { generate: further.generate && !extractive, ..further };
            ask(&rag, base, &Ask { steps: further, ..Ask::new(search) }, *json).await
        }
        Action::Calibrate { base, queries, qrels, synthetic, precision, max_lost, json } => {
            let questions = match (queries, qrels) {
                (Some(queries), Some(qrels)) => Questions::Labelled { queries, qrels },
                _ => Questions::Synthetic(*synthetic),
            };
            let wanted = Wanted { base, questions, precision: *precision, max_lost: *max_lost };
            rag_calibrate::run(&rag, &wanted, *json).await
        }
        Action::List { base: Some(base), json } => list_documents(&rag, base, *json).await,
        Action::List { base: None, json } => list_bases(&rag, *json).await,
        Action::Access { base, consumers, everybody, tenant, no_tenant, json } => {
            if consumers.iter().any(|name| name.trim().is_empty()) {
                return Err(CliError::Usage("--consumer: a name is empty; --everybody admits all".to_owned()));
            }
            let consumers = (*everybody || !consumers.is_empty()).then(|| consumers.clone());
            let tenant = (*no_tenant || tenant.is_some()).then(|| tenant.clone());
            access(&rag, base, NewAccess { consumers, tenant }, *json).await
        }
        Action::Remove { base, documents, all } => remove(&rag, base, documents, *all).await,
    }
}

/// The models at hand. One that is missing is told, and what it is for goes without it.
fn models(settings: &Settings) -> Models {
    let library = Library::new(&settings.models_dir);
    let rerank = CrossEncoderScore::find(&library, None)
        .inspect_err(|error| complain(&format!("{error}. Until then passages are not read again beside the question")))
        .ok();
    if let Some(embed) = embedding(settings) {
        return Models { embed: Some(embed), rerank };
    }
    let loaded = Manifest::shipped().model(SENTENCE_MODEL).and_then(|model| {
        library.verify(model)?;
        SentenceEmbedder::load(&library.folder(model))
    });
    match loaded {
        Ok(embedder) => Models { embed: Some(Arc::new(SentenceModel::loaded(Arc::new(embedder)))), rerank },
        Err(error) => {
            complain(&format!("{error}. Until then passages are found by their words alone"));
            Models::default()
        }
    }
}

async fn show_found(rag: &Rag, base: &str, search: &Search, as_json: bool) -> Result<(), CliError> {
    let base = rag.base(base).await.map_err(CliError::failed)?;
    let found = base.search(search).await.map_err(CliError::failed)?;
    if as_json {
        let results = found.candidates.iter().map(|c| {
            json!({"id": c.passage.id, "document": c.passage.document, "title": c.passage.title, "header": c.passage.header,
                "text": c.passage.text, "score": c.score, "scores": c.scores})
        });
        say_json(&json!({"results": results.collect::<Vec<_>>(), "trace": found.trace}));
        return Ok(());
    }
    for note in &found.trace.notes {
        complain(note);
    }
    for (place, candidate) in (1..).zip(&found.candidates) {
        let passage = &candidate.passage;
        say(&format!("{place}. {:.4}  {}  {}", candidate.score, passage.id, passage.header));
        say(&format!("   {}", passage.text.replace('\n', "\n   ")));
    }
    if found.candidates.is_empty() {
        say("nothing was found");
    }
    Ok(())
}

/// Passages that an answer is made of.
const SOURCES: usize = 5;

async fn ask(rag: &Rag, base: &str, ask: &Ask, json: bool) -> Result<(), CliError> {
    let base = rag.base(base).await.map_err(CliError::failed)?;
    let asked = base.answer(ask, &Listener::default()).await.map_err(CliError::failed)?;
    if json {
        say_json(&api::shown_answer(&asked));
        return Ok(());
    }
    for note in &asked.trace.notes {
        complain(note);
    }
    say(&asked.answer.text);
    let mut cited: Vec<usize> =
        asked.answer.sentences.iter().flat_map(|s| s.evidence.iter().map(|evidence| evidence.source)).collect();
    cited.sort_unstable();
    cited.dedup();
    for source in cited {
        if let Some(candidate) = asked.sources.get(source) {
            say(&format!("[{}] {}  {}", source + 1, candidate.passage.id, candidate.passage.header));
        }
    }
    Ok(())
}

async fn list_bases(rag: &Rag, json: bool) -> Result<(), CliError> {
    let mut rows = vec![["knowledge base", "documents", "chunks", "model"].map(str::to_owned).to_vec()];
    let mut data = Vec::new();
    for name in rag.names().await.map_err(CliError::failed)? {
        let opened = async {
            let base = rag.base(&name).await?;
            let size = base.table().size(&Filter::everything()).await?;
            Ok::<_, RagError>((base, size))
        };
        let (base, (documents, chunks)) = match opened.await {
            Ok(opened) => opened,
            Err(error) => {
                // The others can be seen all the same.
                complain(&format!("{name}: {error}"));
                data.push(json!({"name": name, "error": error.to_string()}));
                continue;
            }
        };
        let model = base.table().layout().model.clone();
        data.push(json!({"name": name, "documents": documents, "chunks": chunks, "model": model}));
        rows.push(vec![name, documents.to_string(), chunks.to_string(), model]);
    }
    if json {
        say_json(&data);
    } else {
        table(&rows);
    }
    Ok(())
}

async fn list_documents(rag: &Rag, base: &str, json: bool) -> Result<(), CliError> {
    let base = rag.base(base).await.map_err(CliError::failed)?;
    let documents = base.table().documents(&Filter::everything()).await.map_err(CliError::failed)?;
    if json {
        say_json(&documents);
        return Ok(());
    }
    let mut rows = vec![["document", "chunks", "title"].map(str::to_owned).to_vec()];
    rows.extend(documents.into_iter().map(|document| vec![document.id, document.chunks.to_string(), document.title]));
    table(&rows);
    Ok(())
}

async fn access(rag: &Rag, name: &str, new: NewAccess, json: bool) -> Result<(), CliError> {
    let base = rag.base(name).await.map_err(CliError::failed)?;
    let Access { consumers, tenant } = base.change_access(new).await.map_err(CliError::failed)?;
    if json {
        say_json(&json!({"name": name, "consumers": consumers, "tenant": tenant}));
        return Ok(());
    }
    let consumers = if consumers.is_empty() { "everybody".to_owned() } else { consumers.join(", ") };
    let whose = tenant.map_or(String::new(), |tenant| format!(", of the tenant {tenant} alone"));
    say(&format!("{name} may be seen by {consumers}{whose}"));
    Ok(())
}

async fn remove(rag: &Rag, base: &str, documents: &[String], all: bool) -> Result<(), CliError> {
    if documents.is_empty() {
        if !all {
            return Err(CliError::Usage(format!(
                "this would delete the whole knowledge base \"{base}\"; add --all if that is meant"
            )));
        }
        rag.remove(base).await.map_err(CliError::failed)?;
        say(&format!("deleted {base}"));
        return Ok(());
    }
    let base = rag.base(base).await.map_err(CliError::failed)?;
    let removed = base.remove(documents, &Filter::everything()).await.map_err(CliError::failed)?;
    say(&format!("deleted {} documents", removed.documents.len()));
    let missing = removed.missing;
    if missing.is_empty() {
        return Ok(());
    }
    Err(CliError::Failed(format!("not in the knowledge base: {}", missing.join(", "))))
}

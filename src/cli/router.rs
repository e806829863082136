//! `weirgate router train|list|promote|rollback|seed`; `eval` is in `router_eval`.
//!
//! Works on the database directly; a running gateway takes a promoted version over within a second.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use indicatif::{ProgressBar, ProgressStyle};
use serde_json::json;

use super::output::{complain, say, say_json, table};
use super::router_eval::{self, EvalArgs, pairs, read_labelled};
use super::{CliError, Places, flywheel};
use crate::config::model::{Gateway, PluginUse};
use crate::config::{Folder, compile};
use crate::infer::{Embedder, Library, Manifest, SENTENCE_MODEL, SentenceEmbedder};
use crate::learning::learner::{self, Learned, learn};
use crate::learning::live::Setup;
use crate::plugins::ai::semantic_router::config::Config;
use crate::plugins::registry::{BuiltIns, Scope};
use crate::routing::Seed;

#[derive(Args)]
pub struct RouterArgs {
    #[command(flatten)]
    places: Places,
    #[command(subcommand)]
    action: Action,
}

#[derive(Subcommand)]
enum Action {
    /// Train a new version on recorded outcomes; it is promoted if the gate finds it better.
    Train {
        #[arg(long, default_value = "default")]
        router: String,
        /// Promote whatever the gate says.
        #[arg(long)]
        force: bool,
        #[arg(long)]
        json: bool,
    },
    /// All versions with their metrics.
    List {
        #[arg(long)]
        router: Option<String>,
        #[arg(long)]
        json: bool,
    },
    /// Let a version serve.
    Promote { version: i64 },
    /// Let the version before serve again.
    Rollback {
        #[arg(long, default_value = "default")]
        router: String,
    },
    /// Domain accuracy, decision time and stability under typos, on labelled questions (JSON lines with question and domain).
    Eval(EvalArgs),
    /// Train the cold-start seed from labelled questions.
    Seed {
        #[arg(long, value_name = "FILE")]
        questions: PathBuf,
        #[arg(long, value_name = "FILE")]
        out: PathBuf,
        #[arg(long, default_value_t = 1)]
        seed: u64,
    },
}

pub fn run(args: &RouterArgs) -> Result<(), CliError> {
    match &args.action {
        Action::Train { router, force, json } => train(&args.places, router, *force, *json),
        Action::List { router, json } => list(&args.places, router.as_deref(), *json),
        Action::Promote { version } => {
            let promoted = learner::promote(&flywheel::open(&args.places)?, *version).map_err(CliError::failed)?;
            say(&format!("version {} of router {} serves", promoted.id, promoted.router));
            Ok(())
        }
        Action::Rollback { router } => {
            let back = learner::rollback(&flywheel::open(&args.places)?, router).map_err(CliError::failed)?;
            say(&match back {
                Some(version) => format!("version {} of router {router} serves again", version.id),
                None => {
                    format!("no version of router {router} serves; the shipped seed decides, as before the first one")
                }
            });
            Ok(())
        }
        Action::Eval(eval) => router_eval::run(&args.places, eval),
        Action::Seed { questions, out, seed } => {
            let rows = read_labelled(questions)?;
            let bytes = Seed::train(&pairs(&rows), *seed).to_bytes();
            std::fs::write(out, &bytes).map_err(|error| CliError::Failed(format!("{}: {error}", out.display())))?;
            say(&format!("{} questions, {} bytes in {}", rows.len(), bytes.len(), out.display()));
            Ok(())
        }
    }
}

fn train(places: &Places, router: &str, force: bool, json: bool) -> Result<(), CliError> {
    let setup = setup(places, router)?;
    let store = flywheel::open(places)?;
    let bar = ProgressBar::new(0);
    if let Ok(style) = ProgressStyle::with_template("training {bar:30} {pos}/{len} {msg} {elapsed}") {
        bar.set_style(style);
    }
    let embedder = setup.embeds.then(|| embedder(places)).transpose().unwrap_or_else(|error| {
        complain(&format!("training without embeddings: {error}"));
        None
    });
    let embedder = embedder.as_ref().map(|embedder| embedder as &dyn Embedder);
    let learned = learn(&store, router, &setup, embedder, force, &mut |progress| {
        bar.set_length(u64::try_from(progress.total).unwrap_or(0));
        bar.set_position(u64::try_from(progress.done).unwrap_or(0));
        bar.set_message(format!("{:?}", progress.family));
    })
    .map_err(CliError::failed)?;
    bar.finish_and_clear();
    if json {
        say_json(&json!({
            "version": learned.version,
            "promoted": learned.is_promoted,
            "n_rows": learned.n_rows,
            "n_held_out": learned.n_held_out,
            "verdict": learned.verdict,
            "report": learned.report,
        }));
    } else {
        report(&learned);
    }
    Ok(())
}

/// The sentence model of `models_dir`.
///
/// # Errors
/// Its files are missing or not what they should be.
pub fn embedder(places: &Places) -> Result<SentenceEmbedder, CliError> {
    let library = Library::new(places.settings()?.models_dir);
    let model = Manifest::shipped().model(SENTENCE_MODEL).map_err(CliError::failed)?;
    library.verify(model).map_err(CliError::failed)?;
    SentenceEmbedder::load(&library.folder(model)).map_err(CliError::failed)
}

/// Every semantic-router configuration of a folder, with the object it is in; those with problems are left out.
pub fn configured(gateway: &Gateway) -> impl Iterator<Item = (&PluginUse, Config)> {
    let uses = gateway.plugins.iter().filter(|plugin| plugin.plugin == "semantic-router");
    uses.flat_map(|plugin| {
        let global = plugin.global.as_ref();
        let n_rules = plugin.rules.len();
        let of_rules = plugin.rules.iter().map(move |rule| Scope { global, rule: Some(&rule.config), n_rules });
        let own = global.map(|_| Scope { global, rule: None, n_rules });
        let read = own.into_iter().chain(of_rules).map(|scope| Config::read(&scope));
        read.filter(|(_, problems)| problems.is_empty()).map(move |(config, _)| (plugin, config)).collect::<Vec<_>>()
    })
}

/// What the plugin of that router is configured with.
pub fn setup(places: &Places, router: &str) -> Result<Setup, CliError> {
    let settings = places.settings()?;
    let listing = Folder::new(&settings.config_dir).read().map_err(|error| CliError::Usage(error.to_string()))?;
    let gateway = compile(&listing.objects, &BuiltIns).gateway;
    let found = configured(&gateway).find(|(_, config)| config.router == router);
    let Some((_, config)) = found else {
        let dir = settings.config_dir.display();
        return Err(CliError::Usage(format!(
            "no semantic-router plugin in {dir} names the router \"{router}\"; check --config-dir and --router"
        )));
    };
    Ok(config.setup())
}

fn report(learned: &Learned) {
    let report = &learned.report;
    let row = |name: String, measured: &crate::routing::Measured| {
        vec![
            name,
            format!("{:.4}", measured.utility),
            format!("{:.4}", measured.utility_se),
            format!("{:.3}", measured.score),
            format!("{:.0}", measured.latency_ms),
            format!("{:.6}", measured.cost_usd),
        ]
    };
    let mut rows = vec![["cross-validation", "utility", "± se", "score", "ms", "USD"].map(str::to_owned).to_vec()];
    rows.extend(report.families.iter().map(|(family, measured)| {
        let chosen = if *family == report.chosen { " (chosen)" } else { "" };
        row(format!("{family:?}{chosen}"), measured)
    }));
    rows.push(row(format!("best single: {}", report.best_single.0), &report.best_single.1));
    rows.push(row("random".into(), &report.random));
    rows.push(row("oracle".into(), &report.oracle));
    table(&rows);
    let outcome = if learned.is_promoted { "promoted" } else { "not promoted" };
    say(&format!(
        "version {}: {} rows, gate on {} held-out questions: {outcome} ({})",
        learned.version, learned.n_rows, learned.n_held_out, learned.verdict.reason
    ));
}

fn list(places: &Places, router: Option<&str>, json: bool) -> Result<(), CliError> {
    let versions = flywheel::open(places)?.list_versions(router).map_err(CliError::failed)?;
    if versions.is_empty() {
        let of = router.map_or_else(String::new, |name| format!(" of router \"{name}\""));
        complain(&format!("there is no version{of} yet; the shipped seed decides"));
    }
    if json {
        say_json(&versions);
        return Ok(());
    }
    let mut rows = vec![
        ["version", "router", "state", "family", "rows", "utility", "score", "gain", "created"]
            .map(str::to_owned)
            .to_vec(),
    ];
    for version in &versions {
        let chosen = version.metrics["families"].as_array().and_then(|families| {
            families.iter().find(|family| family[0] == version.metrics["chosen"]).map(|family| family[1].clone())
        });
        let measured = |key: &str| {
            chosen.as_ref().and_then(|chosen| chosen[key].as_f64()).map_or("-".into(), |value| format!("{value:.4}"))
        };
        let gain = version.verdict.as_ref().and_then(|verdict| verdict["gain"].as_f64());
        rows.push(vec![
            version.id.to_string(),
            version.router.clone(),
            version.state.as_str().to_owned(),
            version.family.clone(),
            version.n_rows.to_string(),
            measured("utility"),
            measured("score"),
            gain.map_or("-".into(), |gain| format!("{gain:+.4}")),
            jiff::Timestamp::from_millisecond(version.created_at_ms).map_or("-".into(), |at| format!("{at:.0}")),
        ]);
    }
    table(&rows);
    Ok(())
}

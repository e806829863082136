//! `weirgate validate [DIR]`: everything `serve` would refuse or warn about, without starting anything.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use clap::Args;
use serde_json::json;

use super::output::{say, say_json};
use super::{CliError, Places, router};
use crate::config::model::Gateway;
use crate::config::{Folder, Listing, Problem, Severity, compile};
use crate::infer::{Library, Manifest, SENTENCE_MODEL, State};
use crate::plugins::registry::{self, BuiltIns, Scope};
use crate::proxy::client_identity::unusable_identities;
use crate::proxy::snapshot::services_at_admin;
use crate::proxy::tls::Certificates;
use crate::server::{self, certificate_faults};

#[derive(Args)]
pub struct ValidateArgs {
    /// The configuration folder; default is that of config.toml.
    dir: Option<PathBuf>,
    #[command(flatten)]
    places: Places,
    /// One JSON object instead of lines.
    #[arg(long)]
    json: bool,
    /// Succeed where `serve` would: also with parts that cannot be used, for which requests get a 503.
    #[arg(long)]
    lenient: bool,
}

pub fn run(args: &ValidateArgs) -> Result<(), CliError> {
    let (settings, mut problems) = args.places.read_settings();
    // A setting that cannot be read says more than what a default in its place would.
    if let (true, Err(message)) = (problems.is_empty(), server::check(&settings)) {
        let file = args.places.config.clone().unwrap_or_else(|| "config.toml".into());
        problems.push(of_place(file, message));
    }
    let dir = args.dir.clone().unwrap_or_else(|| settings.config_dir.clone());
    let library = Library::new(settings.models_dir.clone());
    let listing = Folder::new(&dir).read().unwrap_or_else(|error| {
        problems.push(of_place(dir.clone(), error.to_string()));
        Listing::default()
    });
    let compiled = compile(&listing.objects, &BuiltIns);
    problems.extend(listing.problems);
    problems.extend(compiled.problems);
    problems.extend(Certificates::load(&compiled.gateway.certificates).1);
    problems.extend(unusable_identities(&compiled.gateway));
    let ordered = compiled.gateway.https.as_ref();
    problems.extend(certificate_faults(&compiled.gateway.certificates, ordered, SystemTime::now()));
    problems.extend(services_at_admin(&settings, &compiled.gateway));
    problems.extend(unusable_files(&compiled.gateway, &settings.data_dir));
    problems.extend(missing_models(&compiled.gateway, &library));
    problems.extend(missing_providers(&compiled.gateway));
    problems.sort_by_key(|problem| problem.severity);
    let n_errors = problems.iter().filter(|problem| problem.is_fault()).count();
    let gateway = &compiled.gateway;
    let (n_routes, n_services, n_plugins) = (gateway.routes.len(), gateway.services.len(), gateway.plugins.len());
    if args.json {
        say_json(&json!({
            "valid": n_errors == 0,
            "objects": listing.objects.len(),
            "routes": n_routes,
            "services": n_services,
            "plugins": n_plugins,
            "problems": problems,
        }));
    } else {
        for problem in &problems {
            say(&problem.to_string());
        }
        let n_warnings = problems.len() - n_errors;
        say(&format!(
            "{}: {} objects, {n_routes} routes, {n_services} services, {n_plugins} plugins; {n_errors} errors, {n_warnings} warnings",
            dir.display(),
            listing.objects.len()
        ));
    }
    let goes_live = !problems.iter().any(Problem::is_error);
    if n_errors == 0 || (args.lenient && goes_live) {
        return Ok(());
    }
    let effect = if goes_live { "would go live without what is named above" } else { "would not go live" };
    Err(CliError::Usage(format!("{n_errors} errors; this configuration {effect}")))
}

fn of_place(file: PathBuf, message: String) -> Problem {
    Problem { severity: Severity::Error, file, line: None, object: None, field: None, message, hint: None }
}

/// What plugins say of the files they read, where the rest of their configuration is right.
pub fn unusable_files(gateway: &Gateway, data_dir: &Path) -> Vec<Problem> {
    let mut problems = Vec::new();
    for plugin in &gateway.plugins {
        let rules = plugin.rules.iter().map(|rule| (&rule.path, Some(&rule.config)));
        let global = plugin.global.iter().map(|_| (&plugin.global_path, None));
        for (at, rule) in global.chain(rules) {
            let scope = Scope { global: plugin.global.as_ref(), rule, n_rules: plugin.rules.len() };
            for found in registry::check_files(&plugin.plugin, &scope, data_dir) {
                let severity = found.severity.max(Severity::Outage);
                let problem = Problem::error(&plugin.object, &format!("{at}.{}", found.field), found.message);
                problems.push(Problem { severity, ..problem });
            }
        }
    }
    problems
}

/// Candidates of routers whose provider is no service: asked for, they are answered with 503.
fn missing_providers(gateway: &Gateway) -> Vec<Problem> {
    let is_known = |name: &str| {
        let hosts = [name.to_owned(), format!("llm-{name}.internal.dns"), format!("llm-{name}.internal.static")];
        hosts.iter().any(|host| gateway.services.contains_key(host))
    };
    let mut problems = Vec::new();
    for (plugin, config) in router::configured(gateway) {
        for candidate in config.candidates.iter().filter(|one| !one.provider.is_empty() && !is_known(&one.provider)) {
            let message = format!(
                "candidate `{}` names the provider `{}`, which is no service here",
                candidate.model, candidate.provider
            );
            let mut problem = Problem::error(&plugin.object, "candidates", message);
            problem.severity = Severity::Warning;
            problem.hint = Some("what is routed to it gets a 503; name a service host or the id of a provider".into());
            problems.push(problem);
        }
    }
    problems
}

/// A router that asks for embeddings while the model's files are not there decides without them: a warning.
fn missing_models(gateway: &Gateway, library: &Library) -> Option<Problem> {
    let (plugin, _) = router::configured(gateway).find(|(_, config)| config.setup().embeds)?;
    let model = Manifest::shipped().model(SENTENCE_MODEL).ok()?;
    let what = match library.glance(model) {
        State::Present => return None,
        State::Missing { file } => format!("the model it needs is missing: {}", file.display()),
        State::Corrupt { what, .. } => what,
    };
    let mut problem = Problem::error(&plugin.object, "embedding", what);
    problem.severity = Severity::Warning;
    problem.hint = Some("`weirgate models fetch` installs it; until then it decides without embeddings".into());
    Some(problem)
}

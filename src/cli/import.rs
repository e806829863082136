//! `weirgate import DIR`: what becomes of a Higress configuration folder here, object by object. Starts nothing, and changes
//! nothing in the folder.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};

use clap::{Args, ValueEnum};
use serde::Serialize;

use super::output::{say, say_json};
use super::validate::unusable_files;
use super::{CliError, Places};
use crate::config::{Folder, Gateway, Problem, RawObject, compile, flattened, replace};
use crate::plugins::compatibility;
use crate::plugins::registry::{self, BuiltIns};
use crate::proxy::tls::{Certificates, unusable_identities};

#[derive(Args)]
pub struct ImportArgs {
    /// The data folder of a Higress standalone installation; default is the configuration folder of config.toml.
    dir: Option<PathBuf>,
    #[command(flatten)]
    places: Places,
    /// Write a copy of the folder to this place, in which every object is in the namespace higress-system, and report on that
    /// copy. Higress standalone ignores `metadata.namespace`; this gateway honours it.
    #[arg(long, value_name = "NEW_DIR")]
    flatten: Option<PathBuf>,
    /// Form of the report.
    #[arg(long, value_enum, default_value = "md")]
    report: Form,
}

#[derive(Clone, Copy, ValueEnum)]
enum Form {
    Html,
    Md,
    Json,
}

pub fn run(args: &ImportArgs) -> Result<(), CliError> {
    let settings = args.places.settings()?;
    let mut dir = args.dir.clone().unwrap_or(settings.config_dir);
    if let Some(copy) = &args.flatten {
        flatten(&dir, copy)?;
        dir.clone_from(copy);
    }
    let listing = Folder::new(&dir).read().map_err(|error| CliError::Usage(error.to_string()))?;
    if listing.objects.is_empty() && listing.problems.iter().all(|problem| !problem.is_fault()) {
        let told: Vec<String> = listing.problems.iter().map(ToString::to_string).collect();
        return Err(CliError::Usage(
            format!("{} has no object to import\n{}", dir.display(), told.join("\n")).trim_end().to_owned(),
        ));
    }
    let compiled = compile(&listing.objects, &BuiltIns);
    let mut problems = listing.problems;
    problems.extend(compiled.problems);
    problems.extend(Certificates::load(&compiled.gateway.certificates).1);
    problems.extend(unusable_identities(&compiled.gateway));
    problems.extend(unusable_files(&compiled.gateway, &settings.data_dir));
    let report = Report::of(&listing.objects, &compiled.gateway, &problems);
    match args.report {
        Form::Json => say_json(&report),
        Form::Md => say(report.markdown().trim_end()),
        Form::Html => say(report.html().trim_end()),
    }
    match report.count(Verdict::Refused) {
        0 => Ok(()),
        refused => Err(CliError::Usage(format!("{refused} objects have errors; this configuration would not go live"))),
    }
}

fn flatten(dir: &Path, copy: &Path) -> Result<(), CliError> {
    let is_empty = std::fs::read_dir(copy).map(|mut entries| entries.next().is_none()).unwrap_or(true);
    if !is_empty {
        return Err(CliError::Usage(format!("{} is not empty; name a new folder for the copy", copy.display())));
    }
    let files = flattened(&mut Folder::new(dir)).map_err(|error| CliError::Usage(error.to_string()))?;
    replace(copy, &files, dir)
        .map_err(|(file, error)| CliError::Failed(format!("{} cannot be written: {error}", file.display())))
}

/// How much of an object works.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
enum Verdict {
    /// Has an error: the folder would not go live.
    Refused,
    /// Cannot be used: requests it is for get a 503.
    Unavailable,
    /// Has no effect.
    Ignored,
    /// Works, except for what is noted.
    Partly,
    /// Works in another way, which is noted.
    Differently,
    Native,
}

impl Verdict {
    const ALL: [Verdict; 6] = [
        Verdict::Refused,
        Verdict::Unavailable,
        Verdict::Ignored,
        Verdict::Partly,
        Verdict::Differently,
        Verdict::Native,
    ];

    fn title(self) -> &'static str {
        match self {
            Verdict::Refused => "Errors: the folder would not go live",
            Verdict::Unavailable => "Cannot be used: requests concerned get a 503, settings keep their defaults",
            Verdict::Ignored => "Not supported: no effect",
            Verdict::Partly => "Partly supported",
            Verdict::Differently => "Supported, with differences",
            Verdict::Native => "Supported",
        }
    }
}

#[derive(Serialize)]
struct Report {
    routes: usize,
    services: usize,
    plugins: usize,
    /// The worst first, then by file.
    objects: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    verdict: Verdict,
    /// `Ingress higress-system/demo`, or the file where it could not be read.
    object: String,
    file: String,
    notes: Vec<String>,
}

impl Report {
    fn of(objects: &[RawObject], gateway: &Gateway, problems: &[Problem]) -> Report {
        let mut rows: Vec<Row> = Vec::new();
        for object in objects {
            let own: Vec<&Problem> = problems.iter().filter(|problem| problem.file == object.origin.file).collect();
            let mut notes: Vec<String> = own.iter().map(|problem| note(problem)).collect();
            let plugin = gateway.plugins.iter().find(|plugin| plugin.object == object.origin);
            let differences = plugin
                .and_then(|plugin| registry::find(&plugin.plugin))
                .map_or(&[][..], |spec| compatibility::differences(spec.name));
            notes.extend(differences.iter().map(|difference| (*difference).to_owned()));
            let is_off = object.origin.kind == "WasmPlugin" && plugin.is_none() && own.is_empty();
            if is_off {
                notes.push("is switched off".to_owned());
            }
            let is_unknown_plugin = plugin.is_some_and(|plugin| registry::find(&plugin.plugin).is_none());
            let verdict = if own.iter().any(|problem| problem.is_error()) {
                Verdict::Refused
            } else if own.iter().any(|problem| problem.is_fault()) {
                Verdict::Unavailable
            } else if is_off || is_unknown_plugin || own.iter().any(|problem| problem.field.is_none()) {
                Verdict::Ignored
            } else if !own.is_empty() {
                Verdict::Partly
            } else if !differences.is_empty() {
                Verdict::Differently
            } else {
                Verdict::Native
            };
            let file = object.origin.file.display().to_string();
            rows.push(Row { verdict, object: object.origin.to_string(), file, notes });
        }
        // Files that are no objects at all.
        for problem in problems.iter().filter(|problem| objects.iter().all(|object| object.origin.file != problem.file))
        {
            let file = problem.file.display().to_string();
            let verdict = if problem.is_error() { Verdict::Refused } else { Verdict::Ignored };
            rows.push(Row { verdict, object: file.clone(), file, notes: vec![note(problem)] });
        }
        rows.sort_by(|a, b| (a.verdict, &a.file).cmp(&(b.verdict, &b.file)));
        let (routes, services, plugins) = (gateway.routes.len(), gateway.services.len(), gateway.plugins.len());
        Report { routes, services, plugins, objects: rows }
    }

    fn count(&self, verdict: Verdict) -> usize {
        self.objects.iter().filter(|row| row.verdict == verdict).count()
    }

    /// One line on the whole.
    fn summary(&self) -> String {
        let counts = Verdict::ALL.map(|verdict| format!("{} {verdict:?}", self.count(verdict)).to_lowercase());
        format!(
            "{} objects ({}): {} routes, {} services, {} plugins",
            self.objects.len(),
            counts.join(", "),
            self.routes,
            self.services,
            self.plugins
        )
    }

    /// The rows of each verdict that has any.
    fn sections(&self) -> impl Iterator<Item = (Verdict, Vec<&Row>)> {
        let of = |verdict| self.objects.iter().filter(|row| row.verdict == verdict).collect::<Vec<_>>();
        Verdict::ALL.map(|verdict| (verdict, of(verdict))).into_iter().filter(|(_, rows)| !rows.is_empty())
    }

    fn markdown(&self) -> String {
        let mut text = format!("# Import report\n\n{}\n", self.summary());
        for (verdict, rows) in self.sections() {
            // Writing to a String does not fail.
            let _ = write!(text, "\n## {}\n\n", verdict.title());
            for row in rows {
                let _ = writeln!(text, "- {} (`{}`)", row.object, row.file);
                for note in &row.notes {
                    let _ = writeln!(text, "  - {}", note.replace('\n', " "));
                }
            }
        }
        text
    }

    fn html(&self) -> String {
        let mut text = format!(
            "<!doctype html>\n<html lang=\"en\">\n<head><meta charset=\"utf-8\"><title>Import report</title>\n\
             <style>body{{font:15px/1.5 sans-serif;max-width:60em;margin:2em auto;padding:0 1em}}code{{color:#555}}</style></head>\n\
             <body>\n<h1>Import report</h1>\n<p>{}</p>\n",
            escaped(&self.summary())
        );
        for (verdict, rows) in self.sections() {
            let _ = write!(text, "<h2>{}</h2>\n<ul>\n", escaped(verdict.title()));
            for row in rows {
                let _ = write!(text, "<li>{} <code>{}</code>", escaped(&row.object), escaped(&row.file));
                let notes: String = row.notes.iter().map(|note| format!("<li>{}</li>", escaped(note))).collect();
                let _ =
                    if notes.is_empty() { writeln!(text, "</li>") } else { writeln!(text, "<ul>{notes}</ul></li>") };
            }
            text.push_str("</ul>\n");
        }
        text.push_str("</body>\n</html>\n");
        text
    }
}

/// A problem without its place, which the row has.
fn note(problem: &Problem) -> String {
    let field = problem.field.as_ref().map(|field| format!("`{field}` ")).unwrap_or_default();
    let hint = problem.hint.as_ref().map(|hint| format!("; {hint}")).unwrap_or_default();
    format!("{field}{}{hint}", problem.message)
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

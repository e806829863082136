//! The report as Markdown and as a page.

use std::fmt::Write as _;

use super::verdict::{Report, Row, Verdict};
use crate::config::Problem;

const STYLE: &str = "\
:root{color-scheme:light dark}\
body{font:15px/1.5 system-ui,sans-serif;max-width:60em;margin:2em auto;padding:0 1em;overflow-wrap:anywhere}\
code{font-size:.9em;opacity:.8}\
li{margin:.2em 0}\
ul ul{margin-bottom:.6em}\
.error::before{content:\"error \";color:#c22;font-weight:600}\
.warning::before{content:\"warning \";color:#b60;font-weight:600}\
nav a{margin-right:1em}";

impl Report<'_> {
    /// One line on the whole.
    fn summary(&self) -> String {
        let counts = Verdict::ALL.map(|verdict| (self.count(verdict), verdict.word()));
        let counts: Vec<String> =
            counts.iter().filter(|(n, _)| *n > 0).map(|(n, word)| format!("{n} {word}")).collect();
        format!(
            "{} objects ({}); {} routes, {} services, {} plugins",
            self.objects.len(),
            counts.join(", "),
            self.routes,
            self.services,
            self.plugins
        )
    }

    /// The rows of each verdict that has any.
    fn sections(&self) -> impl Iterator<Item = (Verdict, Vec<&Row<'_>>)> {
        let of = |verdict| self.objects.iter().filter(|row| row.verdict == verdict).collect::<Vec<_>>();
        Verdict::ALL.map(|verdict| (verdict, of(verdict))).into_iter().filter(|(_, rows)| !rows.is_empty())
    }

    // Writing to a String does not fail.
    pub fn markdown(&self) -> String {
        let mut text = format!("# Import report for `{}`\n\n{}\n", self.folder, self.summary());
        for (verdict, rows) in self.sections() {
            let _ = write!(text, "\n## {}\n\n", verdict.title());
            for row in rows {
                let _ = writeln!(text, "- {} (`{}`)", row.object, row.file);
                for problem in &row.problems {
                    let _ = writeln!(text, "  - {}: {}", severity(problem), told(problem).replace('\n', " "));
                }
                for note in &row.notes {
                    let _ = writeln!(text, "  - {}", note.replace('\n', " "));
                }
            }
        }
        text
    }

    pub fn html(&self) -> String {
        let mut text = format!(
            "<!doctype html>\n<html lang=\"en\">\n<head><meta charset=\"utf-8\">\
             <meta name=\"viewport\" content=\"width=device-width,initial-scale=1\">\
             <title>Import report</title>\n<style>{STYLE}</style></head>\n\
             <body>\n<h1>Import report for {}</h1>\n<p>{}</p>\n<nav>",
            marked(&format!("`{}`", self.folder)),
            marked(&self.summary())
        );
        for (verdict, rows) in self.sections() {
            let _ = write!(text, "<a href=\"#{verdict:?}\">{} ({})</a>", marked(verdict.title()), rows.len());
        }
        text.push_str("</nav>\n");
        for (verdict, rows) in self.sections() {
            let _ = write!(text, "<h2 id=\"{verdict:?}\">{}</h2>\n<ul>\n", marked(verdict.title()));
            for row in rows {
                let _ = write!(text, "<li>{} <code>{}</code>", marked(&row.object), marked(&row.file));
                let problems = row.problems.iter();
                let problems =
                    problems.map(|one| format!("<li class=\"{}\">{}</li>", severity(one), marked(&told(one))));
                let notes = row.notes.iter().map(|note| format!("<li>{}</li>", marked(note)));
                let inner: String = problems.chain(notes).collect();
                let _ =
                    if inner.is_empty() { writeln!(text, "</li>") } else { writeln!(text, "<ul>{inner}</ul></li>") };
            }
            text.push_str("</ul>\n");
        }
        text.push_str("</body>\n</html>\n");
        text
    }
}

fn severity(problem: &Problem) -> &'static str {
    if problem.is_fault() { "error" } else { "warning" }
}

/// A problem without its file and object, which the row has.
fn told(problem: &Problem) -> String {
    let line = problem.line.map(|line| format!("line {line}: ")).unwrap_or_default();
    let field = problem.field.as_ref().map(|field| format!("`{field}` ")).unwrap_or_default();
    let hint = problem.hint.as_ref().map(|hint| format!("; {hint}")).unwrap_or_default();
    format!("{line}{field}{}{hint}", problem.message)
}

/// As HTML, with what stands between backticks as code.
fn marked(text: &str) -> String {
    let escaped = text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;");
    let parts: Vec<&str> = escaped.split('`').collect();
    let is_paired = parts.len() % 2 == 1;
    let code = |(place, part): (usize, &&str)| match place % 2 {
        1 => format!("<code>{part}</code>"),
        _ => (*part).to_owned(),
    };
    if is_paired { parts.iter().enumerate().map(code).collect() } else { escaped }
}

//! Problems found in the configuration, and the collector that keeps all of them.
//!
//! Every stage reports here instead of stopping at the first fault. An error means that the new configuration must not go
//! live; an outage that a part of it does not work while the rest is served; a warning that something written in it has no
//! effect or will not work.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::path::{Path, PathBuf};

use serde::Serialize;

use super::model::ObjectRef;

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// The configuration is not whole: the one before it keeps serving.
    Error,
    /// Requests that this part is for get a 503 (or pass without it, if it is a plugin that says `FAIL_OPEN`), settings keep
    /// their defaults; at a start everything else goes live. A change that brings one is refused, and to `weirgate validate`
    /// it is an error.
    Outage,
    /// The configuration works without this part.
    Warning,
}

/// One fault: where it is, what it is, what to do.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize)]
pub struct Problem {
    pub severity: Severity,
    /// Relative to the configuration folder.
    #[serde(serialize_with = "as_displayed")]
    pub file: PathBuf,
    /// 1-based, where a parser knows it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u64>,
    /// `Ingress higress-system/demo`; `None` if the file could not be read as an object.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
    /// Dotted path such as `spec.rules[0].http.paths[1].backend`; `None` means the whole object.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub field: Option<String>,
    pub message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// A name may be of bytes that are no text.
fn as_displayed<S: serde::Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&path.display())
}

impl Problem {
    /// An error in one field of an object; `field` may be empty.
    pub fn error(object: &ObjectRef, field: &str, message: impl Into<String>) -> Self {
        Self {
            severity: Severity::Error,
            file: object.file.clone(),
            line: None,
            object: Some(object.to_string()),
            field: (!field.is_empty()).then(|| field.to_owned()),
            message: message.into(),
            hint: None,
        }
    }

    /// Whether the configuration must not go live.
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }

    /// Whether something will not work that was meant to.
    pub fn is_fault(&self) -> bool {
        self.severity < Severity::Warning
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Error | Severity::Outage => "error",
            Severity::Warning => "warning",
        };
        write!(f, "{severity}: {}", self.file.display())?;
        if let Some(line) = self.line {
            write!(f, ":{line}")?;
        }
        if let Some(object) = &self.object {
            write!(f, ": {object}")?;
        }
        if let Some(field) = &self.field {
            write!(f, ": {field}")?;
        }
        write!(f, ": {}", self.message)?;
        if let Some(hint) = &self.hint {
            write!(f, " ({hint})")?;
        }
        Ok(())
    }
}

/// Collects problems while objects are compiled; shared by reference, hence the cell.
#[derive(Debug, Default)]
pub(super) struct Report {
    problems: RefCell<Vec<Problem>>,
    n_faults: Cell<usize>,
}

impl Report {
    /// For an object that is of use only as a whole: a fault in it keeps the configuration from going live.
    pub fn on<'a>(&'a self, object: &'a ObjectRef) -> ObjectReport<'a> {
        ObjectReport { report: self, object, fault: Severity::Error }
    }

    /// For an object whose reader takes what has a fault out of service, and nothing else.
    pub fn on_parts_of<'a>(&'a self, object: &'a ObjectRef) -> ObjectReport<'a> {
        ObjectReport { report: self, object, fault: Severity::Outage }
    }

    pub fn add(&self, problem: Problem) {
        self.n_faults.update(|n| n + usize::from(problem.is_fault()));
        self.problems.borrow_mut().push(problem);
    }

    /// Errors first, then by file; within a file in the order found.
    pub fn into_problems(self) -> Vec<Problem> {
        let mut problems = self.problems.into_inner();
        problems.sort_by(|a, b| (a.severity, &a.file).cmp(&(b.severity, &b.file)));
        problems
    }
}

/// A [`Report`] together with the object that is being read.
#[derive(Debug, Clone, Copy)]
pub(super) struct ObjectReport<'a> {
    report: &'a Report,
    pub object: &'a ObjectRef,
    /// What [`ObjectReport::error`] means for the configuration.
    fault: Severity,
}

/// What is being read of an object, from [`ObjectReport::part`] on.
#[derive(Debug, Clone, Copy)]
pub(super) struct Part<'a> {
    report: &'a Report,
    /// There had been before.
    n_faults: usize,
}

impl Part<'_> {
    /// Whether it has no fault so far.
    pub fn is_whole(self) -> bool {
        self.report.n_faults.get() == self.n_faults
    }
}

impl<'a> ObjectReport<'a> {
    /// Begins a part that is taken out of service if it has a fault.
    pub fn part(&self) -> Part<'a> {
        Part { report: self.report, n_faults: self.report.n_faults.get() }
    }

    pub fn error(&self, field: &str, message: impl Into<String>) {
        self.add(self.fault, field, message.into(), None);
    }

    pub fn error_hint(&self, field: &str, message: impl Into<String>, hint: impl Into<String>) {
        self.add(self.fault, field, message.into(), Some(hint.into()));
    }

    /// For a part whose fault must keep everything from going live: a guess in its place would open what other parts close.
    pub fn of_the_whole(self) -> Self {
        Self { fault: Severity::Error, ..self }
    }

    pub fn warn(&self, field: &str, message: impl Into<String>) {
        self.add(Severity::Warning, field, message.into(), None);
    }

    pub fn warn_hint(&self, field: &str, message: impl Into<String>, hint: impl Into<String>) {
        self.add(Severity::Warning, field, message.into(), Some(hint.into()));
    }

    pub fn add(&self, severity: Severity, field: &str, message: String, hint: Option<String>) {
        self.report.add(Problem { severity, hint, ..Problem::error(self.object, field, message) });
    }
}

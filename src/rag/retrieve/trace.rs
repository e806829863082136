//! What a search did, step by step, with times.

use std::fmt::Display;
use std::future::Future;
use std::time::Instant;

use serde::Serialize;

/// The steps of one search in order.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Trace {
    pub steps: Vec<TraceStep>,
    /// What was left out, and why.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub notes: Vec<String>,
    /// The whole search in milliseconds.
    pub ms: f64,
    #[serde(skip)]
    started: Option<Instant>,
}

#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TraceStep {
    pub name: &'static str,
    pub ms: f64,
    /// Passages after the step, where that says something.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub candidates: Option<usize>,
}

impl Trace {
    pub fn begin() -> Trace {
        Trace { started: Some(Instant::now()), ..Trace::default() }
    }

    pub async fn timed<T>(&mut self, name: &'static str, step: impl Future<Output = T>) -> T {
        let started = Instant::now();
        let done = step.await;
        self.push(name, started);
        done
    }

    pub fn timed_sync<T>(&mut self, name: &'static str, step: impl FnOnce() -> T) -> T {
        let started = Instant::now();
        let done = step();
        self.push(name, started);
        done
    }

    /// Says how many passages the last step left.
    pub fn count(&mut self, n_candidates: usize) {
        if let Some(step) = self.steps.last_mut() {
            step.candidates = Some(n_candidates);
        }
    }

    pub fn note(&mut self, what: impl Display) {
        self.notes.push(what.to_string());
    }

    /// The steps and notes of a search that is a part of this one.
    pub fn take_in(&mut self, part: &Trace) {
        self.steps.extend_from_slice(&part.steps);
        self.notes.extend(part.notes.iter().filter(|note| !self.notes.contains(note)).cloned().collect::<Vec<_>>());
    }

    pub fn end(mut self) -> Trace {
        self.ms = self.started.map_or(0.0, milliseconds);
        self
    }

    fn push(&mut self, name: &'static str, started: Instant) {
        self.steps.push(TraceStep { name, ms: milliseconds(started), candidates: None });
    }
}

fn milliseconds(since: Instant) -> f64 {
    (since.elapsed().as_secs_f64() * 1e6).round() / 1e3
}

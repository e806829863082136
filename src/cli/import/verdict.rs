//! What becomes of each object, from what the compiler made of it: not only whether something is wrong in it, but whether its routes
//! answer and its plugin works.

use std::collections::HashSet;
use std::path::Path;

use serde::Serialize;

use super::parts::{Parts, State, parts};
use crate::config::model::{Destination, Route};
use crate::config::{Gateway, INERT_KINDS, Problem, RawObject, SYSTEM_NAMESPACE, is_of_folder};
use crate::plugins::{compatibility, registry};

/// How much of an object works.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Has an error: the folder would not go live.
    Refused,
    /// Nothing of it works.
    Unavailable,
    /// Has no effect.
    Ignored,
    /// Works, except for what is noted.
    Partly,
    /// Works in another way, which is noted.
    Differently,
    Native,
    /// Has no effect on traffic in Higress either, or is switched off.
    Unneeded,
}

impl Verdict {
    pub const ALL: [Verdict; 7] = [
        Verdict::Refused,
        Verdict::Unavailable,
        Verdict::Ignored,
        Verdict::Partly,
        Verdict::Differently,
        Verdict::Native,
        Verdict::Unneeded,
    ];

    pub fn title(self) -> &'static str {
        match self {
            Verdict::Refused => "Errors: the folder would not go live",
            Verdict::Unavailable => "Does not work: its requests get a 503 if nothing else is noted",
            Verdict::Ignored => "Not supported: no effect",
            Verdict::Partly => "Works in part",
            Verdict::Differently => "Works, with differences",
            Verdict::Native => "Works",
            Verdict::Unneeded => "Switched off, or not about traffic",
        }
    }

    /// A word for the summary.
    pub fn word(self) -> &'static str {
        match self {
            Verdict::Refused => "with errors",
            Verdict::Unavailable => "do not work",
            Verdict::Ignored => "not supported",
            Verdict::Partly => "in part",
            Verdict::Differently => "with differences",
            Verdict::Native => "work",
            Verdict::Unneeded => "not needed",
        }
    }
}

#[derive(Serialize)]
pub struct Report<'p> {
    /// The folder that was read.
    pub folder: String,
    pub routes: usize,
    pub services: usize,
    pub plugins: usize,
    /// The worst first, then by file.
    pub objects: Vec<Row<'p>>,
}

#[derive(Serialize)]
pub struct Row<'p> {
    pub verdict: Verdict,
    /// `Ingress higress-system/demo`, or the file where it could not be read.
    pub object: String,
    pub file: String,
    /// What is wrong in it.
    pub problems: Vec<&'p Problem>,
    /// What else there is to know: differences, and effects of other objects.
    pub notes: Vec<String>,
}

impl<'p> Report<'p> {
    /// `unsent` are services that get no requests.
    pub fn of(
        dir: &Path,
        objects: &[RawObject],
        gateway: &Gateway,
        unsent: &HashSet<&str>,
        problems: &'p [Problem],
    ) -> Report<'p> {
        let judge = Judge { objects, gateway, unsent, problems, plugins: parts(gateway, problems) };
        let mut rows: Vec<Row<'_>> = objects.iter().map(|object| judge.row(object)).collect();
        // Files that are no objects at all.
        for problem in problems.iter().filter(|problem| objects.iter().all(|object| object.origin.file != problem.file))
        {
            let file = problem.file.display().to_string();
            let verdict = if problem.is_error() { Verdict::Refused } else { Verdict::Ignored };
            rows.push(Row { verdict, object: file.clone(), file, problems: vec![problem], notes: Vec::new() });
        }
        rows.sort_by(|a, b| (a.verdict, &a.file).cmp(&(b.verdict, &b.file)));
        let (routes, services, plugins) = (gateway.routes.len(), gateway.services.len(), gateway.plugins.len());
        Report { folder: dir.display().to_string(), routes, services, plugins, objects: rows }
    }

    pub fn count(&self, verdict: Verdict) -> usize {
        self.objects.iter().filter(|row| row.verdict == verdict).count()
    }
}

struct Judge<'a, 'p> {
    objects: &'a [RawObject],
    gateway: &'a Gateway,
    unsent: &'a HashSet<&'a str>,
    problems: &'p [Problem],
    plugins: Vec<Parts<'a>>,
}

impl<'p> Judge<'_, 'p> {
    fn row(&self, object: &RawObject) -> Row<'p> {
        let problems: Vec<&Problem> =
            self.problems.iter().filter(|problem| problem.file == object.origin.file).collect();
        let mut notes = Vec::new();
        let verdict = if problems.iter().any(|problem| problem.is_error()) {
            Verdict::Refused
        } else {
            match object.origin.kind.as_str() {
                "Ingress" | "HTTPRoute" | "GRPCRoute" => self.of_routes(object, &problems, &mut notes),
                "WasmPlugin" => self.of_plugin(object, &problems, &mut notes),
                "ConfigMap" if !matches!(object.origin.name.as_str(), "higress-config" | "higress-https") => {
                    notes.push("is the console's own; the gateway does not read it".to_owned());
                    Verdict::Unneeded
                }
                kind if INERT_KINDS.contains(&kind) => Verdict::Unneeded,
                _ if problems.iter().any(|problem| problem.is_fault()) => Verdict::Unavailable,
                _ if problems.iter().any(|problem| problem.field.is_none()) => Verdict::Ignored,
                _ if !problems.is_empty() => Verdict::Partly,
                _ => Verdict::Native,
            }
        };
        let verdict = if self.is_elsewhere(object) {
            notes.push(format!(
                "is in the namespace {}, which counts here; Higress standalone reads it as {SYSTEM_NAMESPACE}/{}, \
                 and `--flatten` writes a copy that is read so",
                object.origin.namespace, object.origin.name
            ));
            verdict.min(Verdict::Differently)
        } else {
            verdict
        };
        let file = object.origin.file.display().to_string();
        Row { verdict, object: object.origin.to_string(), file, problems, notes }
    }

    fn is_elsewhere(&self, object: &RawObject) -> bool {
        !INERT_KINDS.contains(&object.origin.kind.as_str())
            && !matches!(object.origin.namespace.as_str(), "" | SYSTEM_NAMESPACE)
    }

    /// By what requests get: of the object's routes, how many answer.
    fn of_routes(&self, object: &RawObject, problems: &[&Problem], notes: &mut Vec<String>) -> Verdict {
        let own = || self.gateway.routes.iter().filter(|route| route.origin == object.origin);
        let (mut n_routes, mut n_dead) = (0, 0);
        for route in own() {
            n_routes += 1;
            let is_dead = route.is_closed() || self.is_refused(route, notes) || !self.has_service(route);
            n_dead += usize::from(is_dead);
        }
        let canaries = self.gateway.routes.iter().flat_map(|route| &route.canaries);
        let n_canaries = canaries.filter(|canary| canary.origin == object.origin).count();
        let hosts = object.value["spec"]["rules"].as_array().into_iter().flatten();
        let mut hosts = hosts.filter_map(|rule| rule["host"].as_str());
        let passes = hosts.any(|host| self.gateway.passthrough.contains_key(host));
        self.note_certificates(object, notes);
        match (n_routes, n_dead) {
            (0, _) if n_canaries == 0 && !passes => {
                let has_fault = problems.iter().any(|problem| problem.is_fault());
                notes.push("makes no route; what it was for is answered by other routes, or with 404".to_owned());
                if has_fault { Verdict::Unavailable } else { Verdict::Ignored }
            }
            (1.., dead) if dead == n_routes => Verdict::Unavailable,
            _ if n_dead > 0 || !problems.is_empty() || !notes.is_empty() => Verdict::Partly,
            _ => Verdict::Native,
        }
    }

    fn has_service(&self, route: &Route) -> bool {
        let is_known = |to: &Destination| {
            let service = self.gateway.services.get(&to.service).filter(|_| !self.unsent.contains(to.service.as_str()));
            service.is_some_and(|service| service.port(to.port).is_some())
        };
        // Services of registries are known only to a running gateway.
        let may_come = |to: &Destination| !self.gateway.registries.is_empty() && !is_of_folder(&to.service);
        route.admission.redirect.is_some() || route.destinations.iter().any(|to| is_known(to) || may_come(to))
    }

    /// Whether a plugin that cannot be used answers for all of it.
    fn is_refused(&self, route: &Route, notes: &mut Vec<String>) -> bool {
        let refusing = self.plugins.iter().find_map(|parts| Some((parts.plugin, parts.refusing(route)?)));
        let Some((plugin, field)) = refusing else { return false };
        let note = format!("{} cannot be used where it applies ({field}), so requests get a 503", plugin.object);
        if !notes.contains(&note) {
            notes.push(note);
        }
        true
    }

    fn note_certificates(&self, object: &RawObject, notes: &mut Vec<String>) {
        let names = object.value["spec"]["tls"].as_array().into_iter().flatten();
        for name in names.filter_map(|entry| entry["secretName"].as_str()) {
            let (namespace, name) = name.split_once('/').unwrap_or((&object.origin.namespace, name));
            let mut secrets = self.objects.iter().map(|object| &object.origin);
            let secret = secrets.find(|o| o.kind == "Secret" && o.namespace == namespace && o.name == name);
            let is_broken = |problem: &Problem| secret.is_some_and(|secret| problem.file == secret.file);
            if self.problems.iter().any(|problem| problem.is_fault() && is_broken(problem)) {
                notes.push(format!(
                    "its certificate, Secret {namespace}/{name}, cannot be used: TLS for its hosts fails"
                ));
            }
        }
    }

    fn of_plugin(&self, object: &RawObject, problems: &[&Problem], notes: &mut Vec<String>) -> Verdict {
        let Some(parts) = self.plugins.iter().find(|parts| parts.plugin.object == object.origin) else {
            let has_problem = !problems.is_empty();
            if !has_problem {
                notes.push("is switched off".to_owned());
            }
            return if has_problem { Verdict::Unavailable } else { Verdict::Unneeded };
        };
        let states: Vec<State> = parts.states().collect();
        let has = |state: State| states.contains(&state);
        let Some(spec) = registry::find(&parts.plugin.plugin) else {
            return if has(State::Refuses) { Verdict::Unavailable } else { Verdict::Ignored };
        };
        let differences = compatibility::differences(spec.name);
        notes.extend(differences.iter().map(|difference| (*difference).to_owned()));
        if has(State::LetsPass) {
            notes.push("requests pass without the parts that cannot be used (FAIL_OPEN)".to_owned());
        }
        if !has(State::Works) && (has(State::Refuses) || has(State::LetsPass) || !problems.is_empty()) {
            Verdict::Unavailable
        } else if has(State::Refuses) || has(State::LetsPass) || !problems.is_empty() {
            Verdict::Partly
        } else if differences.is_empty() {
            Verdict::Native
        } else {
            Verdict::Differently
        }
    }
}

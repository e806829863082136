//! Ingress annotations, one file per group. Each group reads its own keys and fills its part of the route; a value that
//! Higress ignores is ignored here too, with a warning.
//!
//! Prefixes as in Higress `pkg/ingress/kube/annotations/parser.go`: `nginx.ingress.kubernetes.io/` is read first where a
//! key allows both, then `higress.io/`.

mod backend;
mod canary;
mod cors;
mod destination;
mod downstream;
mod fallback;
mod headers;
mod load_balance;
mod matching;
mod mirror;
mod rate_limit;
mod redirect;
mod retry;
mod rewrite;
mod sources;
mod timeout;
mod unsupported;

use std::borrow::Cow;
use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::fields::Fields;
use super::higress::draft::RouteState;
use super::model::{CanaryTakes, Cors, HeaderControl, LoadBalance, RateLimit, RetryPolicy};
use super::problem::{ObjectReport, Part};
use super::suggest::{did_you_mean, nearest};

pub(super) use backend::{BackendRule, SecretRule};
pub(super) use destination::Target;
pub(super) use downstream::DownstreamRule;
pub(super) use fallback::FallbackRule;
pub(super) use matching::{Matches, reason};
pub(super) use mirror::{MirrorRule, MirrorTarget};
pub(super) use redirect::Redirects;
pub(super) use rewrite::RewriteRule;
pub(super) use sources::Sources;

const HIGRESS: &str = "higress.io/";
const NGINX: &str = "nginx.ingress.kubernetes.io/";

/// What the annotations of one Ingress say, all groups together.
#[derive(Debug)]
pub(super) struct IngressOptions {
    /// Of the routes, as far as annotations have a say.
    pub state: RouteState,
    /// `None` without the annotation; an empty list if it is wrong, which has been reported.
    pub destination: Option<Vec<Target>>,
    pub matches: Matches,
    pub retry: RetryPolicy,
    pub rewrite: RewriteRule,
    pub timeout: Option<Duration>,
    /// Path of the annotation and name of an Http2Rpc.
    pub rpc: Option<(String, String)>,
    /// The Ingress takes part of the requests of another.
    pub canary: Option<CanaryTakes>,
    pub cors: Option<Cors>,
    pub fallback: Option<FallbackRule>,
    pub header_control: HeaderControl,
    pub mirror: Option<MirrorRule>,
    pub rate_limit: Option<RateLimit>,
    pub redirects: Redirects,
    pub sources: Sources,
    pub backend: BackendRule,
    pub load_balance: Option<LoadBalance>,
    pub downstream: DownstreamRule,
}

impl IngressOptions {
    pub fn read(annotations: &Annotations<'_>) -> Self {
        let part = annotations.report.part();
        let (matches, canary) = (matching::read(annotations), canary::read(annotations));
        let is_placed = annotations.are_whole && part.is_whole();
        let mut options = Self {
            state: RouteState::Whole,
            destination: destination::read(annotations),
            matches,
            retry: retry::read(annotations),
            rewrite: rewrite::read(annotations),
            timeout: timeout::read(annotations),
            rpc: annotations
                .higress("rpc-destination-name")
                .filter(|(_, name)| !name.trim().is_empty())
                .map(|(key, name)| (annotations.path_of(&key), name.trim().to_owned())),
            canary,
            cors: cors::read(annotations),
            fallback: fallback::read(annotations),
            header_control: headers::read(annotations),
            mirror: mirror::read(annotations),
            rate_limit: rate_limit::read(annotations),
            redirects: redirect::read(annotations),
            sources: sources::read(annotations),
            backend: backend::read(annotations),
            load_balance: load_balance::read(annotations),
            downstream: downstream::read(annotations),
        };
        unsupported::read(annotations);
        annotations.finish();
        options.state = match is_placed {
            false => RouteState::Unplaced,
            true if !part.is_whole() => RouteState::Closed,
            true => RouteState::Whole,
        };
        options
    }
}

/// The annotations of one Ingress, and which of them somebody understood.
pub(super) struct Annotations<'a> {
    values: BTreeMap<&'a str, Cow<'a, str>>,
    /// Those of the two prefixes, by prefix and the rest of their name: some hundred names are asked for, of the few that there are.
    short: Vec<(&'static str, &'a str, &'a str)>,
    known: RefCell<BTreeSet<String>>,
    /// `metadata.annotations`, or `annotations` in the flat form.
    path: String,
    report: ObjectReport<'a>,
    /// `false` if some are no text, and their values lost.
    are_whole: bool,
}

impl<'a> Annotations<'a> {
    /// Those of an object, in `metadata` or, in the flat form, in the whole; `part` began before that was opened.
    pub fn read(owner: &mut Fields<'a>, part: Part<'_>) -> Self {
        let (path, report) = (owner.path_of("annotations"), owner.report());
        let values: BTreeMap<&str, Cow<'_, str>> = owner.text_map("annotations").into_iter().collect();
        let of = |name: &'a str| {
            [HIGRESS, NGINX].into_iter().find_map(|prefix| Some((prefix, name.strip_prefix(prefix)?, name)))
        };
        let short = values.keys().filter_map(|name| of(name)).collect();
        Self { values, short, known: RefCell::default(), path, report, are_whole: part.is_whole() }
    }

    /// Key with prefix, and value, of `higress.io/<key>` only.
    fn higress(&self, key: &str) -> Option<(String, &str)> {
        self.lookup(HIGRESS, key)
    }

    /// Key with prefix, and value, of either prefix; one that says nothing does not hide the other.
    fn either(&self, key: &str) -> Option<(String, &str)> {
        let nginx = self.lookup(NGINX, key);
        let higress = self.lookup(HIGRESS, key);
        match (&nginx, &higress) {
            (Some((_, text)), Some(_)) if text.trim().is_empty() => higress,
            _ => nginx.or(higress),
        }
    }

    fn lookup(&self, prefix: &str, key: &str) -> Option<(String, &str)> {
        let (.., name) = self.short.iter().find(|(of, short, _)| *short == key && *of == prefix)?;
        let value = self.values.get(name)?;
        self.known.borrow_mut().insert((*name).to_owned());
        Some(((*name).to_owned(), value.as_ref()))
    }

    /// Parses the value of an annotation; one that does not parse has no effect, as in Higress, and is named. Then nginx' prefix
    /// does not hide Higress' own.
    fn parse<T>(&self, found: Option<(String, &str)>, expected: &str, parse: impl Fn(&str) -> Option<T>) -> Option<T> {
        let (key, text) = found?;
        let parsed = parse(text.trim());
        if parsed.is_some() {
            return parsed;
        }
        self.warn(&key, format!("must be {expected}, not \"{text}\"; it has no effect"));
        let own = key.strip_prefix(NGINX).and_then(|key| self.higress(key));
        own.and_then(|own| self.parse(Some(own), expected, parse))
    }

    fn flag(&self, found: Option<(String, &str)>) -> bool {
        self.boolean(found).unwrap_or(false)
    }

    fn boolean(&self, found: Option<(String, &str)>) -> Option<bool> {
        self.parse(found, "true or false", |text| match text {
            "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
            "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
            _ => None,
        })
    }

    fn all(&self) -> impl Iterator<Item = (&str, &str)> {
        self.values.iter().map(|(key, value)| (*key, value.as_ref()))
    }

    /// All annotations with the prefix `higress.io/`, by their short keys.
    fn all_higress(&self) -> impl Iterator<Item = (&str, &str)> {
        self.values.iter().filter_map(|(key, value)| Some((key.strip_prefix(HIGRESS)?, value.as_ref())))
    }

    fn mark_known(&self, key: String) {
        self.known.borrow_mut().insert(key);
    }

    fn warn(&self, key: &str, message: impl Into<String>) {
        self.report.warn(&self.path_of(key), message);
    }

    fn error(&self, key: &str, message: impl Into<String>) {
        self.report.error(&self.path_of(key), message);
    }

    fn path_of(&self, key: &str) -> String {
        format!("{}[{key}]", self.path)
    }

    /// Warns where the rest of a name is one of ours and its prefix is nearly so, as `higres.io/`, or missing.
    fn misspelt_prefix(&self, key: &str) {
        let (prefix, short) = key.rsplit_once('/').unwrap_or(("", key));
        let is_condition = ["exact-match-", "prefix-match-", "regex-match-"].iter().any(|kind| short.starts_with(kind));
        let is_near = prefix.is_empty()
            || ["higress", "nginx"].iter().any(|name| prefix.contains(name))
            || nearest(prefix, [HIGRESS, NGINX].map(|ours| ours.trim_end_matches('/'))).is_some();
        if is_near && (is_condition || unsupported::ALL_KEYS.contains(&short)) {
            let message = format!("is not read: its prefix is neither `{HIGRESS}` nor `{NGINX}`");
            self.report.warn_hint(&self.path_of(key), message, format!("did you mean `{HIGRESS}{short}`?"));
        }
    }

    /// Warns about annotations of Higress or nginx that nobody understood. Those of others are none of our business.
    fn finish(&self) {
        let known = self.known.borrow();
        for key in self.values.keys().filter(|key| !known.contains(**key)) {
            let Some(short) = key.strip_prefix(HIGRESS).or_else(|| key.strip_prefix(NGINX)) else {
                self.misspelt_prefix(key);
                continue;
            };
            let hint = did_you_mean(short, unsupported::ALL_KEYS.iter().copied());
            let message = "is not an annotation this gateway knows and has no effect".to_owned();
            self.report.add(super::Severity::Warning, &self.path_of(key), message, hint);
        }
    }
}

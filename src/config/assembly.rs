//! Routes and certificates of all objects together: the older wins where two want the same, canaries join their routes.

use std::collections::{BTreeMap, HashMap};

use super::Severity;
use super::higress::draft::{Draft, Ingress};
use super::higress::envoy_filter::RouteFilter;
use super::higress::gateway_api::GatewayApi;
use super::higress::https::Https;
use super::higress::ingress;
use super::higress::secret::Secrets;
use super::link::{Services, link};
use super::model::{Canary, CanaryTakes, Certificate, Destination, HostMatch, ObjectRef, PathMatch, Route, TlsOptions};
use super::problem::{ObjectReport, Report};
use super::source::RawObject;

/// Ingresses that are read on two threads; fewer take milliseconds.
const MANY: usize = 500;

pub(super) struct Assembly<'a> {
    services: &'a Services,
    report: &'a Report,
    routes: Vec<Route>,
    certificates: Vec<Certificate>,
    /// By host, of objects that bring no certificate for it.
    demands: Vec<(String, TlsOptions, ObjectReport<'a>)>,
    passthrough: Vec<(HostMatch, ObjectReport<'a>)>,
    first_of: HashMap<RouteKey, usize>,
    certified: HashMap<String, usize>,
}

/// What all objects come to.
pub(super) struct Assembled {
    /// In order of creation.
    pub routes: Vec<Route>,
    /// One per secret and options instead of one per host.
    pub certificates: Vec<Certificate>,
    pub passthrough: BTreeMap<String, Destination>,
}

impl<'a> Assembly<'a> {
    pub fn new(services: &'a Services, report: &'a Report) -> Assembly<'a> {
        Assembly {
            services,
            report,
            routes: Vec::new(),
            certificates: Vec::new(),
            demands: Vec::new(),
            passthrough: Vec::new(),
            first_of: HashMap::new(),
            certified: HashMap::new(),
        }
    }

    pub fn ingresses(&mut self, mut objects: Vec<&'a RawObject>, secrets: &Secrets, https: &Https) {
        objects.sort_by_key(|object| ingress::creation_order(object));
        self.routes.reserve(objects.len());
        self.first_of.reserve(objects.len());
        let mut canaries: Vec<(Draft, CanaryTakes, ObjectReport<'_>)> = Vec::new();
        for (object, ingress) in objects.iter().zip(self.read(&objects, secrets, https)) {
            let report_on = self.report.on(&object.origin);
            self.passthrough.extend(ingress.passthrough.into_iter().map(|host| (host, report_on)));
            self.demands.extend(ingress.demands.into_iter().map(|(host, options)| (host, options, report_on)));
            for draft in ingress.routes {
                match &ingress.canary {
                    Some(takes) => canaries.push((draft, takes.clone(), report_on)),
                    None => self.route(draft, report_on),
                }
            }
            for certificate in ingress.certificates {
                self.certificate(certificate, "spec.tls", report_on);
            }
        }
        for (draft, takes, report_on) in canaries {
            self.canary(draft, takes, report_on);
        }
    }

    /// Each object by itself; many of them on two threads, because a change is waited for.
    fn read(&self, objects: &[&'a RawObject], secrets: &Secrets, https: &Https) -> Vec<Ingress> {
        let read = |objects: &[&RawObject], report: &Report| -> Vec<Ingress> {
            objects.iter().map(|object| ingress::read(object, secrets, https, report)).collect()
        };
        if objects.len() < MANY {
            return read(objects, self.report);
        }
        let (first, second) = objects.split_at(objects.len() / 2);
        let (mut all, (rest, problems)) = std::thread::scope(|scope| {
            let second = scope.spawn(|| {
                let report = Report::default();
                let read = read(second, &report);
                (read, report.into_problems())
            });
            let first = read(first, self.report);
            (first, second.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        });
        all.extend(rest);
        problems.into_iter().for_each(|problem| self.report.add(problem));
        all
    }

    pub fn gateway_api(&mut self, objects: GatewayApi) {
        for (origin, drafts) in objects.routes {
            for draft in drafts {
                self.route(draft, self.report.on(&origin));
            }
        }
        for (origin, certificates) in objects.certificates {
            for certificate in certificates {
                self.certificate(certificate, "spec.listeners", self.report.on(&origin));
            }
        }
    }

    /// Gives routes what an object says about their errors.
    pub fn reentries(&mut self, filters: Vec<RouteFilter>, report: ObjectReport<'_>) {
        for RouteFilter { route: name, reentry } in filters {
            let mut n_found = 0;
            for route in self.routes.iter_mut().filter(|route| route.name == name) {
                route.reentry = Some(reentry.clone());
                n_found += 1;
            }
            if n_found == 0 {
                report.warn("spec.configPatches", format!("name the route `{name}`, which there is not"));
            }
        }
    }

    pub fn finish(mut self) -> Assembled {
        for (host, options, report) in std::mem::take(&mut self.demands) {
            match self.certified.get(&host).and_then(|at| self.certificates.get_mut(*at)) {
                Some(certificate) => tighten(certificate, &options, report),
                None => report.warn(
                    "",
                    format!("asks for client certificates, versions or ciphers of TLS, but `{host}` has no certificate; it has no effect"),
                ),
            }
        }
        let passed = |(host, report)| pass_through(host, &self.routes, report);
        let passthrough = self.passthrough.into_iter().filter_map(passed).collect();
        Assembled { passthrough, certificates: merge(self.certificates), routes: self.routes }
    }

    fn route(&mut self, draft: Draft, report: ObjectReport<'_>) {
        let key = route_key(&draft.route);
        match self.first_of.get(&key).and_then(|first| self.routes.get(*first)) {
            // A second default backend for `*` is no mistake: each Ingress brings one.
            Some(_) if draft.route.is_default_backend => {}
            Some(first) => report.warn(
                &draft.field,
                format!("this host, path and conditions are taken by the older {}; the route is ignored", first.origin),
            ),
            None => {
                if let Some(route) = link(draft, self.services, report) {
                    self.first_of.insert(key, self.routes.len());
                    self.routes.push(route);
                }
            }
        }
    }

    fn certificate(&mut self, certificate: Certificate, field: &str, report: ObjectReport<'_>) {
        let host = certificate.hosts.first().cloned().unwrap_or_default();
        match self.certified.get(&host).and_then(|first| self.certificates.get_mut(*first)) {
            Some(first) => {
                tighten(first, &certificate.options, report);
                if first.secret != certificate.secret {
                    let other = &certificate.secret;
                    let message =
                        format!("`{host}` already has the certificate of {}; {other} is not used", first.secret);
                    report.warn(field, message);
                }
            }
            None => {
                self.certified.insert(host, self.certificates.len());
                self.certificates.push(certificate);
            }
        }
    }

    /// Gives a canary its part of a route. Those that look at the request come before those that take a share.
    fn canary(&mut self, draft: Draft, takes: CanaryTakes, report: ObjectReport<'_>) {
        let base = self.first_of.get(&route_key(&draft.route)).and_then(|first| self.routes.get_mut(*first));
        let Some(base) = base else {
            return report.warn_hint(
                &draft.field,
                "is a canary of nothing: no other Ingress has this host, path and conditions; it has no effect",
                "give both Ingresses the same host, path, path type and match annotations",
            );
        };
        // The route keeps what a canary with a fault was to take.
        let linked = link(draft, self.services, report).filter(|canary| !canary.is_closed() && !base.is_closed());
        let Some(linked) = linked else { return };
        let Route { name, origin, destinations, header_control, rpc, .. } = linked;
        // The share of a route's requests is still the route's in plugin rules.
        let name = if matches!(takes, CanaryTakes::Share { .. }) { base.name.clone() } else { name };
        base.canaries.push(Canary { name, origin, takes, destinations, header_control, rpc });
        base.canaries.sort_by_key(|canary| matches!(canary.takes, CanaryTakes::Share { .. }));
    }
}

/// The service of a host's root path gets the TLS connections to the host.
fn pass_through(host: HostMatch, routes: &[Route], report: ObjectReport<'_>) -> Option<(String, Destination)> {
    let root = PathMatch::Prefix("/".to_owned());
    let owner = routes.iter().find(|route| route.host == host && route.path == root && !route.is_default_backend);
    let destination = owner.and_then(|route| route.destinations.first()).cloned();
    let name = match host {
        HostMatch::Any => "*".to_owned(),
        HostMatch::Exact(name) => name,
        HostMatch::Suffix(suffix) => format!("*{suffix}"),
    };
    if destination.is_none() {
        report.warn("", format!("ssl-passthrough has no effect: `{name}` has no path `/` to take the service from"));
    }
    destination.map(|destination| (name, destination))
}

/// TLS is negotiated before anything tells which route is asked for: what one object asks of a host's clients, all of them meet.
fn tighten(certificate: &mut Certificate, options: &TlsOptions, report: ObjectReport<'_>) {
    if !certificate.options.tighten(options) {
        let message = format!(
            "what it asks of TLS for `{}` contradicts another object, so that nobody could connect",
            certificate.hosts.join(", ")
        );
        report.add(
            Severity::Outage,
            "",
            message,
            Some("give the objects of a host the same annotations about TLS".into()),
        );
    }
}

/// One entry per secret and options instead of one per host.
fn merge(certificates: Vec<Certificate>) -> Vec<Certificate> {
    let mut merged: Vec<Certificate> = Vec::new();
    let mut position: HashMap<(ObjectRef, String), usize> = HashMap::new();
    for certificate in certificates {
        let key = (certificate.secret.clone(), format!("{:?}", certificate.options));
        match position.get(&key).and_then(|i| merged.get_mut(*i)) {
            Some(first) => first.hosts.extend(certificate.hosts),
            None => {
                position.insert(key, merged.len());
                merged.push(certificate);
            }
        }
    }
    merged
}

type RouteKey = (HostMatch, bool, String);

/// Two routes with the same key take the same requests.
fn route_key(route: &Route) -> RouteKey {
    let (kind, path) = match &route.path {
        PathMatch::Exact(path) => ("=", path.as_str()),
        PathMatch::Prefix(path) => ("^", path.as_str()),
        PathMatch::Regex(pattern) => ("~", pattern.as_str()),
    };
    let mut methods = route.methods.clone();
    methods.sort_unstable();
    let kind = if route.is_app_root() { "app-root" } else { kind };
    let conditions = format!("{kind}{path} {methods:?} {:?} {:?}", route.headers, route.queries);
    (route.host.clone(), route.is_default_backend, conditions)
}

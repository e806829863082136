//! HTTPRoute and GRPCRoute: one route for each host the parents allow, rule and match. All rules share the object's name,
//! which is what plugins match; GRPCRoutes have `GRPC/` before it.

use std::collections::BTreeMap;
use std::time::Duration;

use super::GROUP;
use super::filters;
use super::gateway::{Child, Gateways, Parent, Scheme};
use super::grants::{End, Grants};
use super::matches::{self, Match};
use crate::config::annotations::Target;
use crate::config::fields::Fields;
use crate::config::higress::draft::{Draft, RouteState, TargetRef};
use crate::config::higress::ingress::{host_match, route_name};
use crate::config::higress::{service, skip_common};
use crate::config::model::{
    Admission, HeaderControl, HeaderMatch, HostMatch, ObjectRef, Protocol, RetryOn, RetryPolicy, Rewrite, Route,
    StringMatch, UpstreamPolicy,
};
use crate::config::problem::{ObjectReport, Report};
use crate::config::source::RawObject;

/// Group of Higress' extension: a service of a registry by its host.
const REGISTRY_GROUP: &str = "networking.higress.io";

pub(super) fn read(object: &RawObject, gateways: &Gateways, grants: &Grants, report: &Report) -> Vec<Draft> {
    let report = report.on_parts_of(&object.origin);
    let mut fields = Fields::new(&object.value, "", report);
    skip_common(&mut fields);
    let Some(mut spec) = fields.object("spec") else {
        report.error("spec", "is missing");
        return Vec::new();
    };
    fields.finish();
    let reader = Reader { origin: &object.origin, grants, report };
    let hosts = reader.hosts(&mut spec);
    let mut places = reader.places(&mut spec, gateways, hosts.as_deref().unwrap_or_default());
    if hosts.is_none() {
        places.clear();
    }
    let mut drafts = Vec::new();
    for rule in spec.objects("rules") {
        drafts.extend(reader.rule(rule, &places));
    }
    spec.inert(&["useDefaultGateways"]);
    spec.finish();
    drafts
}

struct Reader<'a> {
    origin: &'a ObjectRef,
    grants: &'a Grants,
    report: ObjectReport<'a>,
}

/// The hosts a route is there for, each with the scheme if not for both.
type Places = Vec<(HostMatch, Option<Scheme>)>;

impl Reader<'_> {
    /// Those that are hosts; none at all stand for every host. `None` if no written one can be used.
    fn hosts(&self, spec: &mut Fields<'_>) -> Option<Vec<HostMatch>> {
        let part = self.report.part();
        let field = spec.path_of("hostnames");
        let written = spec.texts("hostnames");
        let host = |host: &String| {
            let found = if host.is_empty() { Err("must not be empty".to_owned()) } else { host_match(host) };
            found.map_err(|message| self.report.error(&field, message)).ok()
        };
        let hosts: Vec<HostMatch> = written.iter().filter_map(host).collect();
        (!hosts.is_empty() || part.is_whole()).then_some(hosts)
    }

    fn places(&self, spec: &mut Fields<'_>, gateways: &Gateways, hosts: &[HostMatch]) -> Places {
        let child = Child { kind: &self.origin.kind, namespace: &self.origin.namespace, hosts };
        let mut schemes: BTreeMap<HostMatch, Vec<Scheme>> = BTreeMap::new();
        let parents = spec.objects("parentRefs");
        if parents.is_empty() {
            self.report.warn("spec.parentRefs", "names no Gateway, so the route has no effect");
        }
        for mut parent in parents {
            let part = self.report.part();
            let path = parent.path().to_owned();
            let is_gateway =
                parent.text("group").unwrap_or(GROUP) == GROUP && parent.text("kind").unwrap_or("Gateway") == "Gateway";
            let namespace = parent.text("namespace").unwrap_or(&self.origin.namespace).to_owned();
            let name = parent.required_text("name").map(str::to_owned);
            let section = parent.text("sectionName").map(str::to_owned);
            let port = parent.port("port");
            parent.finish();
            let Some(name) = name.filter(|_| part.is_whole()) else { continue };
            if !is_gateway {
                self.report.warn(&path, "is no Gateway; this parent has no effect");
                continue;
            }
            let parent = Parent { namespace: &namespace, name: &name, section: section.as_deref(), port };
            match gateways.attach(&parent, child) {
                Ok(found) => found.into_iter().for_each(|(host, scheme)| schemes.entry(host).or_default().push(scheme)),
                Err(reason) => self.report.warn(&path, format!("does not take the route: {reason}")),
            }
        }
        let only = |schemes: Vec<Scheme>| {
            let first = schemes.first().copied();
            first.filter(|first| schemes.iter().all(|other| other == first))
        };
        schemes.into_iter().map(|(host, schemes)| (host, only(schemes))).collect()
    }

    /// A match with a fault is left out; a fault elsewhere closes the rule.
    fn rule(&self, mut rule: Fields<'_>, places: &Places) -> Vec<Draft> {
        let part = self.report.part();
        let is_grpc = self.origin.kind == "GRPCRoute";
        // gRPC is HTTP/2 by definition, whatever the service says of itself.
        let policy = UpstreamPolicy { protocol: is_grpc.then_some(Protocol::Http2), ..UpstreamPolicy::default() };
        let written = rule.objects("matches");
        let mut found: Vec<Match> = Vec::new();
        if written.is_empty() && part.is_whole() {
            found.push(Match::everything());
        }
        for fields in written {
            let part = self.report.part();
            let read = if is_grpc { matches::grpc(fields) } else { matches::http(fields) };
            found.extend(read.filter(|_| part.is_whole()));
        }
        let part = self.report.part();
        let backends = Backends { origin: self.origin, grants: self.grants, report: self.report };
        let filters = filters::read(&mut rule, &backends);
        let field = rule.path_of("backendRefs");
        let targets: Vec<TargetRef> =
            rule.objects("backendRefs").into_iter().filter_map(|it| backends.read(it)).collect();
        let (timeout, per_try) = rule.object("timeouts").map(timeouts).unwrap_or_default();
        let retry = retry(&mut rule, per_try);
        rule.inert(&["name"]);
        rule.unsupported(&["sessionPersistence"]);
        let is_whole = part.is_whole();
        if targets.is_empty() && filters.redirect.is_none() && is_whole {
            self.report.warn(&field, "names no service; requests are answered with 503");
        }
        rule.finish();
        let mut drafts = Vec::new();
        for taken in &found {
            let changes = filters.for_match(&taken.path).map_err(|(field, message)| self.report.error(&field, message));
            for (host, scheme) in places {
                let (path, redirect) = changes.clone().unwrap_or_default();
                let mut route = self.route(taken, host, *scheme, timeout, &retry);
                route.rewrite = Rewrite { host: filters.host.clone(), path };
                route.header_control = filters.headers.clone();
                route.admission.redirect = redirect;
                drafts.push(Draft {
                    // A redirect needs no destination.
                    targets: if route.admission.redirect.is_some() { Vec::new() } else { targets.clone() },
                    route,
                    state: if is_whole && changes.is_ok() { RouteState::Whole } else { RouteState::Closed },
                    field: field.clone(),
                    policy: policy.clone(),
                    fallback: None,
                    mirror: filters.mirror.clone(),
                    rpc: None,
                });
            }
        }
        drafts
    }

    /// Without what filters change.
    fn route(
        &self,
        taken: &Match,
        host: &HostMatch,
        scheme: Option<Scheme>,
        timeout: Option<Duration>,
        retry: &RetryPolicy,
    ) -> Route {
        let name = route_name(self.origin);
        let mut headers = taken.headers.clone();
        if let Some(scheme) = scheme {
            let value = match scheme {
                Scheme::Http => "http",
                Scheme::Https => "https",
            };
            headers.push(HeaderMatch { name: ":scheme".to_owned(), value: StringMatch::Exact(value.to_owned()) });
        }
        Route {
            name: if self.origin.kind == "GRPCRoute" { format!("GRPC/{name}") } else { name },
            origin: self.origin.clone(),
            host: host.clone(),
            path: taken.path.clone(),
            ignore_path_case: false,
            methods: taken.methods.clone(),
            headers,
            queries: taken.queries.clone(),
            is_default_backend: false,
            destinations: Vec::new(),
            canaries: Vec::new(),
            fallback: None,
            mirror: None,
            reentry: None,
            timeout,
            retry: retry.clone(),
            rewrite: Rewrite::default(),
            header_control: HeaderControl::default(),
            admission: Admission::default(),
            rpc: None,
        }
    }
}

/// References to services.
pub(super) struct Backends<'a> {
    origin: &'a ObjectRef,
    grants: &'a Grants,
    report: ObjectReport<'a>,
}

impl Backends<'_> {
    /// `None` if it is no reference at all. One that is not allowed leads to no service, so that its share of the requests
    /// is refused and not given to the others.
    pub fn read(&self, mut backend: Fields<'_>) -> Option<TargetRef> {
        let path = backend.path().to_owned();
        let (group, kind) = (backend.text("group").unwrap_or_default(), backend.text("kind").unwrap_or("Service"));
        let namespace = backend.text("namespace").unwrap_or(&self.origin.namespace).to_owned();
        let name = backend.required_text("name");
        let port = backend.port("port");
        let weight = backend.integer::<u32>("weight").unwrap_or(1);
        let has_filters = backend.list("filters").next().is_some();
        backend.finish();
        let name = name?;
        let host = match (group, kind) {
            _ if has_filters => {
                let message = "filters of a single backend are not supported; requests to it are answered with 503";
                self.report.warn_hint(&format!("{path}.filters"), message, "write them for the rule");
                String::new()
            }
            (REGISTRY_GROUP, "Service") => name.to_owned(),
            ("", "Service") => {
                let from = End { group: GROUP, kind: &self.origin.kind, namespace: &self.origin.namespace };
                let to = End { group: "", kind: "Service", namespace: &namespace };
                if port.is_none() {
                    self.report.error(&format!("{path}.port"), "is missing");
                }
                if self.grants.allow(from, to, name) {
                    service::host(name, &namespace)
                } else {
                    self.report.warn_hint(
                        &path,
                        format!("no ReferenceGrant in {namespace} allows the use of its Service {name}; requests to it are answered with 503"),
                        "add one, or move the route",
                    );
                    String::new()
                }
            }
            _ => {
                self.report
                    .warn(&path, format!("{kind} of `{group}` is no backend; requests to it are answered with 503"));
                String::new()
            }
        };
        Some(TargetRef::Registry(Target { host, port, weight, tls: None }))
    }
}

/// Those of the whole request and of one try; zero means none.
fn timeouts(mut fields: Fields<'_>) -> (Option<Duration>, Option<Duration>) {
    let request = duration(&mut fields, "request");
    let backend = duration(&mut fields, "backendRequest");
    fields.finish();
    (request, backend)
}

/// Zero means none.
fn duration(fields: &mut Fields<'_>, key: &'static str) -> Option<Duration> {
    fields.duration(key).filter(|duration| !duration.is_zero())
}

fn retry(rule: &mut Fields<'_>, per_try_timeout: Option<Duration>) -> RetryPolicy {
    let mut policy = RetryPolicy { per_try_timeout, ..RetryPolicy::default() };
    let Some(mut retry) = rule.object("retry") else { return policy };
    let report = retry.report();
    let mut codes: Vec<u16> = Vec::new();
    for (path, code) in retry.list("codes") {
        match code.as_u64().and_then(|code| u16::try_from(code).ok()).filter(|code| (100..600).contains(code)) {
            Some(code) => codes.push(code),
            None => report.error(&path, "must be a status between 100 and 599"),
        }
    }
    policy.attempts = retry.integer("attempts").unwrap_or(policy.attempts);
    policy.on = [RetryOn::ConnectFailure, RetryOn::RefusedStream].into();
    policy.on.extend(codes.into_iter().map(RetryOn::Status));
    retry.unsupported(&["backoff"]);
    retry.finish();
    policy
}

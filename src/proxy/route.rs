//! Which route takes a request: host first, then path in Higress' order, then conditions.
//!
//! Order inside a host: the root of an application (`app-root`), Exact before Prefix before regular expression, longer paths first, the bare `/` and default
//! backends last; for one path, routes that name methods come first (fewer methods earlier), then more headers, then more
//! query conditions, then the older object. Exact paths and prefixes are hash lookups, so the cost does not grow with the
//! number of routes.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use pingora_http::RequestHeader;

use super::arm::{Arm, Destination, arms};
use super::limit::{Limiter, Limiters};
use super::upstream::Upstream;
use crate::config::model::{self, Gateway, HeaderMatch, HostMatch, PathMatch, QueryMatch, RetryPolicy, Route};

/// A route with its live parts.
pub struct RouteEntry {
    pub route: Route,
    /// The route's own destinations come last; see [`Arm::choose`].
    pub arms: Vec<Arm>,
    pub fallback: Option<Destination>,
    pub limiter: Option<Arc<Limiter>>,
    pub timeout: Option<Duration>,
    /// Place among all routes: the older the smaller.
    order: usize,
}

impl RouteEntry {
    pub fn retry(&self) -> &RetryPolicy {
        &self.route.retry
    }
}

/// All routes, ready to match.
#[derive(Default)]
pub struct RouteTable {
    exact: HashMap<String, HostRoutes>,
    /// Longest suffix first.
    suffixes: Vec<(String, HostRoutes)>,
    any: HostRoutes,
    n_routes: usize,
    look_at_headers: bool,
    limiters: Limiters,
}

#[derive(Default)]
struct HostRoutes {
    exact: PathMap,
    prefixes: PathMap,
    regexes: Vec<Arc<RouteEntry>>,
    plain_roots: Vec<Arc<RouteEntry>>,
    default_backends: Vec<Arc<RouteEntry>>,
}

/// Routes by path; those that ignore case are kept under the lower-case path, and under each other spelling that a route has.
#[derive(Default)]
struct PathMap {
    as_written: HashMap<String, Vec<Arc<RouteEntry>>>,
    folded: HashMap<String, Vec<Arc<RouteEntry>>>,
}

impl RouteTable {
    /// `upstream` finds the live upstream of a destination; rate limits of `before` go on.
    pub fn build(
        gateway: &Gateway,
        before: &RouteTable,
        upstream: impl Fn(&crate::config::model::Destination) -> Option<Arc<Upstream>>,
    ) -> RouteTable {
        let mut table = RouteTable { n_routes: gateway.routes.len(), ..RouteTable::default() };
        let mut suffixes: HashMap<String, HostRoutes> = HashMap::new();
        for (order, route) in gateway.routes.iter().enumerate() {
            let live = |destination: &model::Destination| Destination::new(destination, upstream(destination));
            let entry = Arc::new(RouteEntry {
                arms: arms(route, live),
                fallback: route.fallback.as_ref().map(|fallback| live(&fallback.destination)),
                limiter: table.limiters.of(route, &before.limiters),
                timeout: route.timeout.or(gateway.settings.route_timeout),
                route: route.clone(),
                order,
            });
            table.look_at_headers |= n_headers(route) > 0 || entry.arms.iter().any(Arm::looks_at_headers);
            let host = match &route.host {
                HostMatch::Any => &mut table.any,
                HostMatch::Exact(host) => table.exact.entry(host.clone()).or_default(),
                HostMatch::Suffix(suffix) => suffixes.entry(suffix.clone()).or_default(),
            };
            host.insert(entry);
        }
        table.suffixes = suffixes.into_iter().collect();
        table.suffixes.sort_by(|(a, _), (b, _)| b.len().cmp(&a.len()).then_with(|| a.cmp(b)));
        table.hosts_mut().for_each(HostRoutes::sort);
        table
    }

    /// Whether what a plugin writes into a header may lead to another route or destination.
    pub fn look_at_headers(&self) -> bool {
        self.look_at_headers
    }

    pub fn len(&self) -> usize {
        self.n_routes
    }

    pub fn is_empty(&self) -> bool {
        self.n_routes == 0
    }

    /// `host` without port, lower case. A less specific host takes what no route of a more specific one does.
    pub fn find(&self, host: &str, head: &RequestHeader) -> Option<&Arc<RouteEntry>> {
        let suffixes = self.suffixes.iter().filter(|(suffix, _)| host.ends_with(suffix.as_str()));
        let mut hosts = self.exact.get(host).into_iter().chain(suffixes.map(|(_, routes)| routes)).chain([&self.any]);
        hosts.find_map(|routes| routes.find(host, head))
    }

    fn hosts_mut(&mut self) -> impl Iterator<Item = &mut HostRoutes> {
        self.exact.values_mut().chain(self.suffixes.iter_mut().map(|(_, routes)| routes)).chain([&mut self.any])
    }
}

impl HostRoutes {
    fn insert(&mut self, entry: Arc<RouteEntry>) {
        let route = &entry.route;
        let conditioned = n_headers(route) > 0 || !route.queries.is_empty() || !route.methods.is_empty();
        match &route.path {
            _ if route.is_default_backend => self.default_backends.push(entry),
            PathMatch::Prefix(path) if path == "/" && !conditioned => self.plain_roots.push(entry),
            PathMatch::Exact(path) => self.exact.insert(path.clone(), entry),
            PathMatch::Prefix(path) => self.prefixes.insert(path.clone(), entry),
            PathMatch::Regex(_) => self.regexes.push(entry),
        }
    }

    fn sort(&mut self) {
        self.exact.sort();
        self.prefixes.sort();
        // Stable: routes come in creation order.
        self.regexes.sort_by_key(|entry| {
            let length = match &entry.route.path {
                PathMatch::Regex(pattern) => pattern.as_str().len(),
                PathMatch::Exact(path) | PathMatch::Prefix(path) => path.len(),
            };
            (std::cmp::Reverse(length), rank(entry))
        });
    }

    fn find(&self, host: &str, head: &RequestHeader) -> Option<&Arc<RouteEntry>> {
        let path = head.uri.path();
        let accepts = |entry: &&Arc<RouteEntry>| conditions_hold(&entry.route, host, head);
        if let Some(found) = self.exact.at(path).find(accepts) {
            return Some(found);
        }
        let mut prefix = path;
        loop {
            if let Some(found) = self.prefixes.at(prefix).find(accepts) {
                return Some(found);
            }
            match prefix.rfind('/') {
                Some(0) if prefix.len() > 1 => prefix = "/",
                Some(cut) if cut > 0 => prefix = &prefix[..cut],
                _ => break,
            }
        }
        let by_regex =
            |entry: &&Arc<RouteEntry>| matches!(&entry.route.path, PathMatch::Regex(pattern) if pattern.is_match(path));
        self.regexes.iter().filter(by_regex).chain(&self.plain_roots).chain(&self.default_backends).find(accepts)
    }
}

impl PathMap {
    fn insert(&mut self, path: String, entry: Arc<RouteEntry>) {
        if entry.route.ignore_path_case {
            self.folded.entry(path.to_ascii_lowercase()).or_default().push(entry);
        } else {
            self.as_written.entry(path).or_default().push(entry);
        }
    }

    fn sort(&mut self) {
        if !self.folded.is_empty() {
            for (path, routes) in &mut self.as_written {
                routes.extend(self.folded.get(&path.to_ascii_lowercase()).into_iter().flatten().cloned());
            }
        }
        for routes in self.as_written.values_mut().chain(self.folded.values_mut()) {
            routes.sort_by_key(|entry| (rank(entry), entry.order));
        }
    }

    fn at(&self, path: &str) -> impl Iterator<Item = &Arc<RouteEntry>> {
        let folded = || self.folded.get(&path.to_ascii_lowercase()).filter(|_| !self.folded.is_empty());
        self.as_written.get(path).or_else(folded).into_iter().flatten()
    }
}

/// Conditions on headers. That on the scheme says at which listener the route is, and makes it no more specific.
fn n_headers(route: &Route) -> usize {
    route.headers.iter().filter(|condition| condition.name != ":scheme").count()
}

/// Sort key among routes of one path; smaller comes first.
fn rank(entry: &Arc<RouteEntry>) -> (bool, usize, std::cmp::Reverse<usize>, std::cmp::Reverse<usize>) {
    let route = &entry.route;
    let methods = if route.methods.is_empty() { usize::MAX } else { route.methods.len() };
    let (headers, queries) = (std::cmp::Reverse(n_headers(route)), std::cmp::Reverse(route.queries.len()));
    (!route.is_app_root(), methods, headers, queries)
}

fn conditions_hold(route: &Route, host: &str, head: &RequestHeader) -> bool {
    (route.methods.is_empty() || route.methods.iter().any(|method| method == head.method.as_str()))
        && route.headers.iter().all(|condition| header_holds(condition, host, head))
        && route.queries.iter().all(|condition| query_holds(condition, head.uri.query().unwrap_or_default()))
}

/// Whether a condition on a header, or pseudo header, holds.
pub fn header_holds(condition: &HeaderMatch, host: &str, head: &RequestHeader) -> bool {
    let matches = |value: &str| condition.value.is_match(value);
    match condition.name.as_str() {
        ":authority" => matches(host),
        ":method" => matches(head.method.as_str()),
        // `hygiene` says in this header how the client came.
        ":scheme" => head.headers.get("x-forwarded-proto").is_some_and(|value| value.to_str().is_ok_and(matches)),
        ":path" => matches(head.uri.path_and_query().map_or("/", |path| path.as_str())),
        name => head.headers.get_all(name).iter().any(|value| matches(&String::from_utf8_lossy(value.as_bytes()))),
    }
}

fn query_holds(condition: &QueryMatch, query: &str) -> bool {
    query.split('&').any(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        name == condition.name && condition.value.is_match(value)
    })
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;

    use super::*;
    use crate::config::model::{ObjectRef, Pattern, StringMatch};

    fn route(name: &str, host: HostMatch, path: PathMatch) -> Route {
        let origin = ObjectRef {
            kind: "Ingress".into(),
            namespace: "higress-system".into(),
            name: name.into(),
            file: PathBuf::from("ingresses/x.yaml"),
        };
        Route {
            name: name.into(),
            origin,
            host,
            path,
            ignore_path_case: false,
            methods: vec![],
            headers: vec![],
            queries: vec![],
            is_default_backend: false,
            destinations: vec![model::Destination {
                service: "a.static".into(),
                port: None,
                weight: 1,
                tls: None,
                policy: model::UpstreamPolicy::default(),
            }],
            canaries: vec![],
            fallback: None,
            mirror: None,
            reentry: None,
            timeout: None,
            retry: RetryPolicy::default(),
            rewrite: model::Rewrite::default(),
            header_control: model::HeaderControl::default(),
            admission: model::Admission::default(),
            rpc: None,
        }
    }

    fn check(routes: Vec<Route>, host: &str, path: &str, headers: &[(&'static str, &str)], expected: Option<&str>) {
        let table = RouteTable::build(&Gateway { routes, ..Gateway::default() }, &RouteTable::default(), |_| None);
        let mut head = RequestHeader::build("GET", path.as_bytes(), None).unwrap();
        for (name, value) in headers {
            head.insert_header(*name, *value).unwrap();
        }
        assert_eq!(table.find(host, &head).map(|entry| entry.route.name.as_str()), expected, "{host}{path}");
    }

    fn prefix(path: &str) -> PathMatch {
        PathMatch::Prefix(path.into())
    }

    #[test]
    fn the_most_specific_host_with_a_route_wins() {
        let routes = || {
            vec![
                route("any", HostMatch::Any, prefix("/")),
                route("wild", HostMatch::Suffix(".a.com".into()), prefix("/")),
                route("wilder", HostMatch::Suffix(".b.a.com".into()), prefix("/")),
                route("exact", HostMatch::Exact("x.a.com".into()), prefix("/only")),
            ]
        };
        check(routes(), "x.a.com", "/only", &[], Some("exact"));
        check(routes(), "x.a.com", "/else", &[], Some("wild"));
        check(routes(), "y.a.com", "/", &[], Some("wild"));
        check(routes(), "y.b.a.com", "/", &[], Some("wilder"));
        check(routes(), "a.com", "/", &[], Some("any"));
    }

    #[test]
    fn paths_are_tried_exact_then_longest_prefix_then_regex_then_root() {
        let routes = || {
            vec![
                route("root", HostMatch::Any, prefix("/")),
                route("regex", HostMatch::Any, PathMatch::Regex(Pattern::full("/v[0-9]+/.*").unwrap())),
                route("v1", HostMatch::Any, prefix("/v1")),
                route("chat", HostMatch::Any, prefix("/v1/chat")),
                route("exact", HostMatch::Any, PathMatch::Exact("/v1/chat".into())),
            ]
        };
        check(routes(), "h", "/v1/chat", &[], Some("exact"));
        check(routes(), "h", "/v1/chat/completions?x=1", &[], Some("chat"));
        check(routes(), "h", "/v1/chatter", &[], Some("v1"));
        check(routes(), "h", "/v2/chat", &[], Some("regex"));
        check(routes(), "h", "/", &[], Some("root"));
        check(routes(), "h", "/v1/", &[], Some("v1"));
    }

    #[test]
    fn more_conditions_come_first_for_one_path() {
        let mut with_header = route("with-header", HostMatch::Any, prefix("/v1"));
        with_header.headers = vec![HeaderMatch { name: "x-model".into(), value: StringMatch::Prefix("qwen".into()) }];
        let routes = || vec![route("plain", HostMatch::Any, prefix("/v1")), with_header.clone()];
        check(routes(), "h", "/v1/x", &[("x-model", "qwen-max")], Some("with-header"));
        check(routes(), "h", "/v1/x", &[("x-model", "gpt")], Some("plain"));
        check(routes(), "h", "/v1/x", &[], Some("plain"));
    }

    #[test]
    fn the_scheme_keeps_routes_apart_and_counts_for_nothing_else() {
        let mut tls = route("tls", HostMatch::Any, prefix("/"));
        tls.headers = vec![HeaderMatch { name: ":scheme".into(), value: StringMatch::Exact("https".into()) }];
        let regex = route("regex", HostMatch::Any, PathMatch::Regex(Pattern::full("/v[0-9]+").unwrap()));
        let routes = || vec![tls.clone(), regex.clone()];
        check(routes(), "h", "/v1", &[("x-forwarded-proto", "https")], Some("regex"));
        check(routes(), "h", "/x", &[("x-forwarded-proto", "https")], Some("tls"));
        check(routes(), "h", "/x", &[("x-forwarded-proto", "http")], None);
    }

    #[test]
    fn case_is_ignored_only_where_asked() {
        let mut folded = route("folded", HostMatch::Any, prefix("/Api"));
        folded.ignore_path_case = true;
        check(vec![folded], "h", "/aPI/x", &[], Some("folded"));
        check(vec![route("strict", HostMatch::Any, prefix("/Api"))], "h", "/api/x", &[], None);
    }

    /// Routes as written came first, whatever the others asked for.
    #[test]
    fn routes_that_ignore_case_keep_their_place_among_the_others() {
        let mut folded = route("folded", HostMatch::Any, prefix("/Api"));
        folded.ignore_path_case = true;
        folded.headers = vec![HeaderMatch { name: "x-m".into(), value: StringMatch::Exact("q".into()) }];
        let routes = || vec![route("strict", HostMatch::Any, prefix("/api")), folded.clone()];
        check(routes(), "h", "/api", &[("x-m", "q")], Some("folded"));
        check(routes(), "h", "/api", &[], Some("strict"));
        check(routes(), "h", "/API", &[("x-m", "q")], Some("folded"));
        check(routes(), "h", "/API", &[], None);
    }
}

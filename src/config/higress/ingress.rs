//! Ingress: hosts and paths to routes, TLS entries to certificates (Higress `ingressv1/controller.go`). The flat form, a
//! file without `apiVersion` and `kind`, has the fields of `spec` and `metadata` at the top level.

mod tls;

use serde_json::Value;

use super::draft::{BackendPort, Draft, FallbackDraft, Ingress, RouteState, SideTarget, TargetRef};
use super::https::Https;
use super::secret::Secrets;
use super::{service, skip_metadata};
use crate::config::SYSTEM_NAMESPACE;
use crate::config::annotations::{Annotations, IngressOptions, MirrorTarget, Target, reason};
use crate::config::fields::Fields;
use crate::config::model::{Admission, HostMatch, ObjectRef, PathMatch, Rewrite, Route, UpstreamPolicy};
use crate::config::problem::{ObjectReport, Part, Report};
use crate::config::source::RawObject;

/// Order among Ingresses: the older one wins (Higress `SortIngressByCreationTime`). An object without a time is oldest.
pub(in crate::config) fn creation_order(object: &RawObject) -> (&str, &str, &str) {
    let created = match object.value.pointer("/metadata/creationTimestamp") {
        None | Some(Value::Null) => "",
        Some(Value::String(time)) => time,
        // No time at all comes after every time.
        Some(_) => "~",
    };
    (created, &object.origin.namespace, &object.origin.name)
}

pub(in crate::config) fn read(object: &RawObject, secrets: &Secrets, https: &Https, report: &Report) -> Ingress {
    let report = report.on_parts_of(&object.origin);
    let part = report.part();
    let mut top = Fields::new(&object.value, "", report);
    let is_flat = object.value.get("apiVersion").is_none()
        && object.value.get("kind").is_none()
        && object.value.get("spec").is_none();
    top.inert(&["apiVersion", "kind", "status"]);
    if is_flat {
        let options = IngressOptions::read(&Annotations::read(&mut top, part));
        top.inert(&["labels", "metadata"]);
        let origin = &object.origin;
        return Reader { origin, options, annotations: "annotations", secrets, https, report }.spec(top);
    }
    let mut metadata = top.object("metadata").unwrap_or_else(|| Fields::new(&Value::Null, "metadata", report));
    skip_metadata(&mut metadata);
    metadata.inert(&["labels"]);
    let options = IngressOptions::read(&Annotations::read(&mut metadata, part));
    metadata.finish();
    let spec = top.object("spec");
    top.finish();
    match spec {
        Some(spec) => {
            let (origin, annotations) = (&object.origin, "metadata.annotations");
            Reader { origin, options, annotations, secrets, https, report }.spec(spec)
        }
        None => {
            report.error("spec", "is missing");
            Ingress::default()
        }
    }
}

struct Reader<'a> {
    origin: &'a ObjectRef,
    options: IngressOptions,
    /// Dotted path of the annotations.
    annotations: &'static str,
    secrets: &'a Secrets,
    https: &'a Https,
    report: ObjectReport<'a>,
}

impl Reader<'_> {
    fn spec(&self, mut spec: Fields<'_>) -> Ingress {
        // With the gateway's default of no class every Ingress is taken, whatever its class.
        spec.inert(&["ingressClassName"]);
        let mut tls = tls::entries(&mut spec);
        let mut ingress = Ingress::default();
        let mut hosts = vec![HostMatch::Any];
        let mut has_backends = false;
        for mut rule in spec.objects("rules") {
            let Some((written, host)) = self.host(&mut rule) else {
                rule.inert(&["http"]);
                rule.finish();
                has_backends = true;
                continue;
            };
            self.certificate(written, &host, &mut tls, &mut ingress);
            if let Some(mut http) = rule.object("http") {
                ingress.routes.extend(self.app_root(&host));
                for path in http.objects("paths") {
                    has_backends = true;
                    ingress.routes.extend(self.path(path, &host));
                }
                http.finish();
            }
            if !hosts.contains(&host) {
                hosts.push(host);
            }
            rule.finish();
        }
        if let Some(backend) = spec.object("defaultBackend") {
            has_backends = true;
            ingress.routes.extend(self.default_backend(backend, &hosts));
        }
        if !has_backends {
            self.report.warn(spec.path(), "has neither a path nor a default backend, so the Ingress has no effect");
        }
        for entry in tls.iter().filter(|entry| !entry.is_used) {
            self.report.warn(&entry.path, "names no host of a rule, so its certificate is not used");
        }
        spec.finish();
        ingress.canary = self.options.canary.clone();
        if self.options.downstream.is_passthrough && self.options.state == RouteState::Whole {
            hosts.retain(|host| *host != HostMatch::Any);
            ingress.passthrough = hosts;
        }
        ingress
    }

    /// As written and as it is matched; `None` if it is no host, which has been reported.
    fn host<'b>(&self, rule: &mut Fields<'b>) -> Option<(&'b str, HostMatch)> {
        let part = self.report.part();
        let written = rule.text("host").unwrap_or_default();
        let found = host_match(written).map_err(|message| self.report.error(&rule.path_of("host"), message)).ok();
        // What is no text would be every host.
        found.filter(|_| part.is_whole()).map(|host| (written, host))
    }

    /// Sends requests for exactly `/` to the application's own root.
    fn app_root(&self, host: &HostMatch) -> Option<Draft> {
        let redirect = self.options.redirects.app_root.clone()?;
        let mut route = self.route(host.clone(), PathMatch::Exact("/".to_owned()), Rewrite::default(), false);
        route.admission.redirect = Some(redirect);
        let field = self.annotation("app-root");
        let (policy, state) = (UpstreamPolicy::default(), self.options.state);
        Some(Draft { route, state, field, targets: Vec::new(), policy, rpc: None, fallback: None, mirror: None })
    }

    /// `None` if it can have no requests, which has been reported.
    fn path(&self, mut fields: Fields<'_>, host: &HostMatch) -> Option<Draft> {
        let part = self.report.part();
        let written = fields.text("path").filter(|path| !path.is_empty()).unwrap_or("/");
        let kind = fields.text("pathType");
        let path_field = fields.path_of("path");
        if !matches!(kind, None | Some("Exact" | "Prefix" | "ImplementationSpecific")) {
            let message = format!("`{}` is not a path type", kind.unwrap_or_default());
            let hint = "one of Exact, Prefix, ImplementationSpecific";
            self.report.error_hint(&fields.path_of("pathType"), message, hint);
        }
        // Going on with what has a fault shows what else is wrong.
        let path = self.path_match(written, kind).unwrap_or_else(|message| {
            self.report.error(&path_field, message);
            PathMatch::Exact(written.to_owned())
        });
        let is_placed = part.is_whole();
        let rewrite = self.options.rewrite.apply(&path).unwrap_or_else(|error| {
            self.report.error(&path_field, format!("cannot be rewritten: {}", reason(&error)));
            Rewrite::default()
        });
        let (backend, field) = (fields.object("backend"), fields.path_of("backend"));
        if backend.is_none() {
            self.report.error(&field, "is missing");
        }
        fields.finish();
        let targets = backend.and_then(|backend| self.backend(backend));
        let mut draft = self.draft(self.route(host.clone(), path, rewrite, false), field, targets, part)?;
        if !is_placed {
            draft.state = RouteState::Unplaced;
        }
        Some(draft)
    }

    fn path_match(&self, written: &str, kind: Option<&str>) -> Result<PathMatch, String> {
        let written = match kind {
            None if !self.options.rewrite.needs_path_as_written() => {
                let path = written.strip_suffix(".*").unwrap_or(written);
                path.strip_suffix("/*").unwrap_or(path)
            }
            _ => written,
        };
        if self.options.rewrite.is_regex(written) {
            let pattern = self.options.rewrite.path_regex(written);
            return pattern
                .map(PathMatch::Regex)
                .map_err(|error| format!("is not a regular expression: {}", reason(&error)));
        }
        if !written.is_empty() && !written.starts_with('/') {
            return Err(format!("`{written}` must start with a slash"));
        }
        Ok(match kind {
            Some("Exact") => PathMatch::Exact(written.to_owned()),
            _ => match written.strip_suffix('/').unwrap_or(written) {
                "" => PathMatch::Prefix("/".to_owned()),
                prefix => PathMatch::Prefix(prefix.to_owned()),
            },
        })
    }

    fn default_backend(&self, backend: Fields<'_>, hosts: &[HostMatch]) -> Vec<Draft> {
        let part = self.report.part();
        let field = backend.path().to_owned();
        let path = PathMatch::Prefix("/".to_owned());
        let targets = self.backend(backend);
        let Ok(rewrite) = self.options.rewrite.apply(&path) else { return Vec::new() };
        let draft = |host: &HostMatch| {
            let route = self.route(host.clone(), path.clone(), rewrite.clone(), true);
            self.draft(route, field.clone(), targets.clone(), part)
        };
        hosts.iter().filter_map(draft).collect()
    }

    /// The route that a part of the object describes. `None` if it has no target without having a fault; that has been reported.
    fn draft(&self, route: Route, field: String, targets: Option<Vec<TargetRef>>, part: Part<'_>) -> Option<Draft> {
        let state = match self.options.state {
            RouteState::Whole if !part.is_whole() => RouteState::Closed,
            of_annotations => of_annotations,
        };
        let targets = if state == RouteState::Whole { targets? } else { targets.unwrap_or_default() };
        let own = &self.origin.namespace;
        let fallback = self.options.fallback.as_ref().map(|rule| {
            let namespace = rule.namespace.as_ref().unwrap_or(own);
            let target = TargetRef::Backend { host: service::host(&rule.name, namespace), port: BackendPort::First };
            FallbackDraft {
                target: SideTarget { field: self.annotation(&rule.key), target, per_million: 1_000_000 },
                service: format!("{namespace}/{}", rule.name),
                statuses: rule.statuses.clone(),
            }
        });
        let mirror = self.options.mirror.as_ref().map(|rule| {
            let target = match &rule.target {
                MirrorTarget::Host { host, port } => {
                    TargetRef::Registry(Target { host: host.clone(), port: Some(*port), weight: 100, tls: None })
                }
                MirrorTarget::Service { namespace, name, port } => TargetRef::Backend {
                    host: service::host(name, namespace.as_ref().unwrap_or(own)),
                    port: port.map_or(BackendPort::First, BackendPort::Number),
                },
            };
            SideTarget { field: self.annotation(&rule.key), target, per_million: rule.percent * 10_000 }
        });
        let (policy, rpc) = (self.upstream_policy(), self.options.rpc.clone());
        Some(Draft { route, state, field, targets, policy, rpc, fallback, mirror })
    }

    fn annotation(&self, key: &str) -> String {
        format!("{}[{key}]", self.annotations)
    }

    fn route(&self, host: HostMatch, path: PathMatch, rewrite: Rewrite, is_default_backend: bool) -> Route {
        let options = &self.options;
        Route {
            name: route_name(self.origin),
            origin: self.origin.clone(),
            host,
            path,
            ignore_path_case: options.rewrite.ignore_case,
            methods: options.matches.methods.clone(),
            headers: options.matches.headers.clone(),
            queries: options.matches.queries.clone(),
            is_default_backend,
            destinations: Vec::new(),
            canaries: Vec::new(),
            fallback: None,
            mirror: None,
            reentry: None,
            timeout: options.timeout,
            retry: options.retry.clone(),
            rewrite,
            header_control: options.header_control.clone(),
            admission: Admission {
                allowed_sources: options.sources.allowed.clone(),
                denied_sources: options.sources.denied.clone(),
                cors: options.cors.clone(),
                rate_limit: options.rate_limit,
                https_only: options.redirects.https_only,
                redirect: options.redirects.url.clone(),
            },
            rpc: None,
        }
    }

    /// `None` if the backend is of no use, which has been reported.
    fn backend(&self, mut backend: Fields<'_>) -> Option<Vec<TargetRef>> {
        let path = backend.path().to_owned();
        let service = backend.object("service");
        let resource = backend.object("resource");
        backend.finish();
        if let Some(service) = service {
            if self.options.destination.is_some() {
                self.report.warn_hint(
                    &path,
                    "names a service, so the annotation higress.io/destination has no effect",
                    "to use the annotation, name the resource McpBridge `default` instead",
                );
            }
            return self.service(service).map(|target| vec![target]);
        }
        let Some(resource) = resource else {
            self.report.error(&path, "names neither a service nor a resource");
            return None;
        };
        let resource_path = self.resource(resource)?;
        match &self.options.destination {
            // What is wrong with it has been said.
            Some(targets) if targets.is_empty() => None,
            Some(targets) => Some(targets.iter().cloned().map(TargetRef::Registry).collect()),
            None => {
                self.report.warn_hint(
                    &resource_path,
                    "names the McpBridge, but no service of it; the path is left out",
                    "add the annotation higress.io/destination, for example `llm-qwen.internal.dns:443`",
                );
                None
            }
        }
    }

    fn service(&self, mut service: Fields<'_>) -> Option<TargetRef> {
        let name = service.required_text("name");
        let port = match service.object("port") {
            Some(port) => backend_port(port),
            None => {
                self.report.error(&service.path_of("port"), "is missing");
                None
            }
        };
        service.finish();
        let port = port?;
        Some(TargetRef::Backend { host: service::host(name?, &self.origin.namespace), port })
    }

    /// Only the McpBridge `default` makes sense as a resource.
    fn resource(&self, mut resource: Fields<'_>) -> Option<String> {
        let path = resource.path().to_owned();
        let found = (resource.text("apiGroup"), resource.text("kind"), resource.text("name"));
        resource.finish();
        if found == (Some("networking.higress.io"), Some("McpBridge"), Some("default")) {
            return Some(path);
        }
        let message = "is not the McpBridge `default` of the group networking.higress.io; the path is left out";
        self.report.warn(&path, message);
        None
    }
}

fn backend_port(mut port: Fields<'_>) -> Option<BackendPort> {
    let is_empty = port.value("number").is_none() && port.value("name").is_none();
    let number = port.port("number").map(BackendPort::Number);
    let name = port.text("name").filter(|name| !name.is_empty()).map(|name| BackendPort::Name(name.to_owned()));
    if is_empty && port.is_mapping() {
        port.report().error(port.path(), "needs a number or a name");
    }
    port.finish();
    number.or(name)
}

pub(super) fn route_name(origin: &ObjectRef) -> String {
    if origin.namespace == SYSTEM_NAMESPACE {
        origin.name.clone()
    } else {
        format!("{}/{}", origin.namespace, origin.name)
    }
}

pub(super) fn host_match(written: &str) -> Result<HostMatch, String> {
    if written.is_empty() || written == "*" {
        return Ok(HostMatch::Any);
    }
    let lower = written.to_ascii_lowercase();
    let (name, is_wildcard) = match lower.strip_prefix('*') {
        Some(suffix) if suffix.starts_with('.') => (suffix, true),
        Some(_) => return Err(format!("`{written}` must have a dot after the asterisk")),
        None => (lower.as_str(), false),
    };
    if name.contains(['*', '/', ':']) || name.contains(char::is_whitespace) {
        return Err(format!("`{written}` is not a host name"));
    }
    Ok(if is_wildcard { HostMatch::Suffix(name.to_owned()) } else { HostMatch::Exact(name.to_owned()) })
}

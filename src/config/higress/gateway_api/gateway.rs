//! GatewayClass and Gateway: which listeners there are, which routes may attach to them, and their certificates.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::Value;

use super::GROUP;
use super::grants::Grants;
use crate::config::fields::Fields;
use crate::config::higress::ingress::host_match;
use crate::config::higress::secret::Secrets;
use crate::config::higress::skip_common;
use crate::config::model::{Certificate, HostMatch, ObjectRef};
use crate::config::problem::{ObjectReport, Report};
use crate::config::source::RawObject;

/// Gateways of classes with this controller are ours, and those of the class that Higress makes itself.
const CONTROLLER: &str = "higress.io/gateway-controller";
const OWN_CLASS: &str = "higress";

#[derive(Debug, Default)]
pub(super) struct Gateways {
    /// By namespace and name.
    listeners: BTreeMap<(String, String), Vec<Listener>>,
    /// Labels of namespaces.
    labels: BTreeMap<String, BTreeMap<String, String>>,
}

#[derive(Debug)]
struct Listener {
    name: String,
    port: u16,
    scheme: Scheme,
    hostname: HostMatch,
    namespaces: Namespaces,
    kinds: Vec<String>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Scheme {
    Http,
    Https,
}

#[derive(Debug)]
enum Namespaces {
    None,
    Same,
    All,
    Selector(Vec<Requirement>),
}

/// One condition on a label.
#[derive(Debug)]
enum Requirement {
    In(String, Vec<String>),
    NotIn(String, Vec<String>),
    Exists(String),
    DoesNotExist(String),
}

/// Where a route wants to attach.
#[derive(Debug)]
pub(super) struct Parent<'a> {
    pub namespace: &'a str,
    pub name: &'a str,
    pub section: Option<&'a str>,
    pub port: Option<u16>,
}

/// Who wants to attach.
#[derive(Debug, Clone, Copy)]
pub(super) struct Child<'a> {
    pub kind: &'a str,
    pub namespace: &'a str,
    /// Empty means all the listener has.
    pub hosts: &'a [HostMatch],
}

impl Gateways {
    pub fn read(
        objects: &[&RawObject],
        secrets: &Secrets,
        grants: &Grants,
        report: &Report,
    ) -> (Gateways, Vec<(ObjectRef, Vec<Certificate>)>) {
        let of_kind = |kind: &'static str| objects.iter().copied().filter(move |object| object.origin.kind == kind);
        let classes: BTreeMap<&str, bool> =
            of_kind("GatewayClass").map(|object| (object.origin.name.as_str(), is_our_class(object, report))).collect();
        let labels = of_kind("Namespace").map(|object| (object.origin.name.clone(), labels(object))).collect();
        let mut gateways = Gateways { labels, ..Gateways::default() };
        let mut certificates = Vec::new();
        for object in of_kind("Gateway") {
            let reader = Reader { object, secrets, grants, report: report.on_parts_of(&object.origin) };
            let key = (object.origin.namespace.clone(), object.origin.name.clone());
            if let Some((listeners, own)) = reader.read(&classes) {
                gateways.listeners.insert(key, listeners);
                certificates.push((object.origin.clone(), own));
            }
        }
        (gateways, certificates)
    }

    /// The hosts for which the route is there, each with the schemes. `Err` says why there are none.
    pub fn attach(&self, parent: &Parent<'_>, child: Child<'_>) -> Result<Vec<(HostMatch, Scheme)>, String> {
        let key = (parent.namespace.to_owned(), parent.name.to_owned());
        let Some(listeners) = self.listeners.get(&key) else {
            return Err(format!("there is no Gateway {}/{}", parent.namespace, parent.name));
        };
        let is_named = |listener: &&Listener| {
            parent.section.is_none_or(|section| section == listener.name)
                && parent.port.is_none_or(|port| port == listener.port)
        };
        let mut named = listeners.iter().filter(is_named).peekable();
        if named.peek().is_none() {
            return Err(format!("the Gateway {}/{} has no such listener", parent.namespace, parent.name));
        }
        let mut allowing = named.filter(|listener| self.allows(listener, parent, child)).peekable();
        if allowing.peek().is_none() {
            return Err(format!("no listener of {}/{} allows this route", parent.namespace, parent.name));
        }
        let found: Vec<(HostMatch, Scheme)> = allowing
            .flat_map(|listener| {
                let own = [HostMatch::Any];
                let hosts = if child.hosts.is_empty() { &own } else { child.hosts };
                let common = hosts.iter().filter_map(|host| common(host, &listener.hostname));
                common.map(|host| (host, listener.scheme)).collect::<Vec<_>>()
            })
            .collect();
        if found.is_empty() {
            return Err(format!("no host is one of a listener of {}/{}", parent.namespace, parent.name));
        }
        Ok(found)
    }

    fn allows(&self, listener: &Listener, parent: &Parent<'_>, child: Child<'_>) -> bool {
        let is_kind = listener.kinds.iter().any(|kind| kind == child.kind);
        is_kind
            && match &listener.namespaces {
                Namespaces::None => false,
                Namespaces::Same => parent.namespace == child.namespace,
                Namespaces::All => true,
                Namespaces::Selector(requirements) => {
                    let none = BTreeMap::new();
                    let labels = self.labels.get(child.namespace).unwrap_or(&none);
                    requirements.iter().all(|requirement| requirement.holds(labels, child.namespace))
                }
            }
    }
}

impl Requirement {
    fn holds(&self, labels: &BTreeMap<String, String>, namespace: &str) -> bool {
        // Kubernetes gives every namespace its name as a label.
        let value = |key: &str| match key {
            "kubernetes.io/metadata.name" => Some(namespace),
            key => labels.get(key).map(String::as_str),
        };
        let is_one = |key: &str, values: &[String]| value(key).is_some_and(|it| values.iter().any(|other| other == it));
        match self {
            Requirement::In(key, values) => is_one(key, values),
            Requirement::NotIn(key, values) => !is_one(key, values),
            Requirement::Exists(key) => value(key).is_some(),
            Requirement::DoesNotExist(key) => value(key).is_none(),
        }
    }
}

/// The hosts that are both; the narrower of the two, if it lies in the other.
fn common(a: &HostMatch, b: &HostMatch) -> Option<HostMatch> {
    use HostMatch::{Any, Exact, Suffix};
    match (a, b) {
        (Any, other) | (other, Any) => Some(other.clone()),
        (Exact(a), Exact(b)) => (a == b).then(|| Exact(a.clone())),
        (Exact(name), Suffix(suffix)) | (Suffix(suffix), Exact(name)) => {
            name.ends_with(suffix.as_str()).then(|| Exact(name.clone()))
        }
        (Suffix(a), Suffix(b)) => {
            let (long, short) = if a.len() >= b.len() { (a, b) } else { (b, a) };
            long.ends_with(short.as_str()).then(|| Suffix(long.clone()))
        }
    }
}

fn is_our_class(object: &RawObject, report: &Report) -> bool {
    let mut fields = Fields::new(&object.value, "", report.on_parts_of(&object.origin));
    skip_common(&mut fields);
    let mut is_ours = false;
    if let Some(mut spec) = fields.object("spec") {
        is_ours = spec.required_text("controllerName") == Some(CONTROLLER);
        spec.inert(&["description"]);
        spec.unsupported(&["parametersRef"]);
        spec.finish();
    }
    fields.finish();
    is_ours
}

fn labels(object: &RawObject) -> BTreeMap<String, String> {
    let labels = object.value.pointer("/metadata/labels").and_then(Value::as_object);
    let text = |(key, value): (&String, &Value)| Some((key.clone(), value.as_str()?.to_owned()));
    labels.into_iter().flatten().filter_map(text).collect()
}

pub(super) struct Reader<'a> {
    pub object: &'a RawObject,
    pub secrets: &'a Secrets,
    pub grants: &'a Grants,
    pub report: ObjectReport<'a>,
}

impl Reader<'_> {
    /// `None` if the Gateway is another controller's.
    fn read(&self, classes: &BTreeMap<&str, bool>) -> Option<(Vec<Listener>, Vec<Certificate>)> {
        let mut fields = Fields::new(&self.object.value, "", self.report);
        skip_common(&mut fields);
        let (mut listeners, mut certificates) = (Vec::new(), Vec::new());
        let mut is_ours = false;
        if let Some(mut spec) = fields.object("spec") {
            let class = spec.required_text("gatewayClassName").unwrap_or_default();
            is_ours = classes.get(class).copied().unwrap_or(class == OWN_CLASS);
            if !is_ours {
                self.report.warn_hint(
                    "spec.gatewayClassName",
                    format!("`{class}` is not a class of this gateway; the Gateway has no effect"),
                    format!("add a GatewayClass of that name whose controllerName is {CONTROLLER}"),
                );
            }
            let mut names = BTreeSet::new();
            for listener in spec.objects("listeners") {
                let path = listener.path_of("name");
                let mut own = Vec::new();
                let Some(listener) = self.listener(listener, &mut own) else { continue };
                if !names.insert(listener.name.clone()) {
                    self.report.error(&path, format!("`{}` is already the name of a listener above", listener.name));
                    continue;
                }
                certificates.append(&mut own);
                listeners.push(listener);
            }
            // The process' own settings say where it listens.
            spec.inert(&["addresses"]);
            spec.unsupported(&["allowedListeners", "backendTLS", "infrastructure"]);
            // Asks the clients of all listeners for certificates, among others.
            if spec.value("tls").is_some() {
                let message = "is not supported; there is no TLS for the hosts of this Gateway";
                self.report.warn_hint("spec.tls", message, "write frontendValidation for each listener");
                certificates.iter_mut().for_each(|certificate| certificate.options.is_closed = true);
            }
            spec.finish();
        }
        fields.finish();
        is_ours.then_some((listeners, certificates))
    }

    /// `None` if it has a fault or is of no use, which has been reported.
    fn listener(&self, mut fields: Fields<'_>, certificates: &mut Vec<Certificate>) -> Option<Listener> {
        let part = self.report.part();
        let name = fields.required_text("name").map(str::to_owned);
        if fields.value("port").is_none() {
            self.report.error(&fields.path_of("port"), "is missing");
        }
        let port = fields.port("port");
        let hostname = match host_match(fields.text("hostname").unwrap_or_default()) {
            Ok(host) => Some(host),
            Err(message) => {
                self.report.error(&fields.path_of("hostname"), message);
                None
            }
        };
        let protocol_field = fields.path_of("protocol");
        let scheme = match fields.required_text("protocol") {
            Some("HTTP") => Some(Scheme::Http),
            Some("HTTPS") => Some(Scheme::Https),
            Some(other) => {
                self.report.warn(
                    &protocol_field,
                    format!("listeners of protocol {other} are not supported; it has no effect"),
                );
                None
            }
            None => None,
        };
        let (namespaces, kinds) = self.allowed(&mut fields);
        let tls_field = fields.path_of("tls");
        let tls = fields.object("tls");
        fields.finish();
        match (scheme, tls) {
            (Some(Scheme::Https), Some(tls)) => self.certificates(tls, hostname.as_ref()?, certificates),
            (Some(Scheme::Https), None) => {
                self.report.warn(&tls_field, "is missing, so the listener has no certificate of its own");
            }
            (_, Some(_)) => self.report.warn(&tls_field, "has no effect on a listener of this protocol"),
            (_, None) => {}
        }
        if !part.is_whole() {
            return None;
        }
        Some(Listener { name: name?, port: port?, scheme: scheme?, hostname: hostname?, namespaces, kinds })
    }

    fn allowed(&self, fields: &mut Fields<'_>) -> (Namespaces, Vec<String>) {
        let all_kinds = || vec!["HTTPRoute".to_owned(), "GRPCRoute".to_owned()];
        let Some(mut allowed) = fields.object("allowedRoutes") else { return (Namespaces::Same, all_kinds()) };
        let mut namespaces = Namespaces::Same;
        if let Some(mut fields) = allowed.object("namespaces") {
            let field = fields.path_of("from");
            let selector = fields.object("selector");
            namespaces = match fields.text("from") {
                None | Some("Same") => Namespaces::Same,
                Some("All") => Namespaces::All,
                Some("Selector") => {
                    if selector.is_none() {
                        self.report.error(&fields.path_of("selector"), "is missing");
                    }
                    Namespaces::Selector(selector.map(|it| self.selector(it)).unwrap_or_default())
                }
                Some("None") => Namespaces::None,
                Some(other) => {
                    self.report.error_hint(
                        &field,
                        format!("`{other}` is no choice"),
                        "one of All, Same, Selector, None",
                    );
                    Namespaces::Same
                }
            };
            fields.finish();
        }
        let mut kinds = Vec::new();
        let mut is_limited = false;
        for mut kind in allowed.objects("kinds") {
            is_limited = true;
            let group = kind.text("group").unwrap_or(GROUP);
            if let Some(name) = kind.required_text("kind").filter(|_| group == GROUP) {
                kinds.push(name.to_owned());
            }
            kind.finish();
        }
        allowed.finish();
        (namespaces, if is_limited { kinds } else { all_kinds() })
    }

    fn selector(&self, mut selector: Fields<'_>) -> Vec<Requirement> {
        let labels = selector.text_map("matchLabels").into_iter();
        let mut requirements: Vec<Requirement> =
            labels.map(|(key, value)| Requirement::In(key.to_owned(), vec![value.into_owned()])).collect();
        for mut expression in selector.objects("matchExpressions") {
            let key = expression.required_text("key").unwrap_or_default().to_owned();
            let values = expression.texts("values");
            let field = expression.path_of("operator");
            match expression.required_text("operator") {
                Some("In") => requirements.push(Requirement::In(key, values)),
                Some("NotIn") => requirements.push(Requirement::NotIn(key, values)),
                Some("Exists") => requirements.push(Requirement::Exists(key)),
                Some("DoesNotExist") => requirements.push(Requirement::DoesNotExist(key)),
                Some(other) => self.report.error(&field, format!("`{other}` is no operator")),
                None => {}
            }
            expression.finish();
        }
        selector.finish();
        requirements
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_in_common() {
        let host = |text: &str| host_match(text).unwrap();
        for (a, b, expected) in [
            ("", "a.com", Some("a.com")),
            ("*.a.com", "x.a.com", Some("x.a.com")),
            ("*.a.com", "x.y.a.com", Some("x.y.a.com")),
            ("*.a.com", "a.com", None),
            ("*.a.com", "*.x.a.com", Some("*.x.a.com")),
            ("*.a.com", "*.b.com", None),
            ("a.com", "b.com", None),
        ] {
            assert_eq!(common(&host(a), &host(b)), expected.map(host), "{a} {b}");
            assert_eq!(common(&host(b), &host(a)), expected.map(host), "{b} {a}");
        }
    }
}

//! `mirror-target-service`, `mirror-target-fqdn` with `-port`, `mirror-percentage`: a copy of the traffic for another
//! service (Higress `annotations/mirror.go`). The name of a registry's service counts before that of a Kubernetes service.

use super::Annotations;
use super::fallback::service_name;

const DEFAULT_FQDN_PORT: u16 = 80;

#[derive(Debug)]
pub(in crate::config) struct MirrorRule {
    /// Key of the annotation, for messages.
    pub key: String,
    pub target: MirrorTarget,
    pub percent: u32,
}

#[derive(Debug)]
pub(in crate::config) enum MirrorTarget {
    /// Of any registry, by its full name.
    Host { host: String, port: u16 },
    /// Of Kubernetes; `None` is its first port.
    Service { namespace: Option<String>, name: String, port: Option<u16> },
}

pub(super) fn read(annotations: &Annotations<'_>) -> Option<MirrorRule> {
    let percent = annotations.parse(annotations.either("mirror-percentage"), "a number from 0 to 100", |text| {
        text.parse().ok().filter(|percent| *percent <= 100)
    });
    let port = annotations.parse(annotations.either("mirror-target-fqdn-port"), "a port", |text| {
        text.parse().ok().filter(|port| *port > 0)
    });
    let host = annotations.either("mirror-target-fqdn").filter(|(_, host)| !host.trim().is_empty());
    let service = annotations.either("mirror-target-service");
    let percent = percent.unwrap_or(100);
    if let Some((key, host)) = host {
        let target = MirrorTarget::Host { host: host.trim().to_owned(), port: port.unwrap_or(DEFAULT_FQDN_PORT) };
        return Some(MirrorRule { key, target, percent });
    }
    let (key, text) = service?;
    let Some((namespace, name, port)) = service_name(text) else {
        let expected = "`service`, `namespace/service` or either with `:port`";
        annotations.warn(&key, format!("must be {expected}, not \"{text}\"; it has no effect"));
        return None;
    };
    Some(MirrorRule { key, target: MirrorTarget::Service { namespace, name, port }, percent })
}

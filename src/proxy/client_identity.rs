//! The certificates that the gateway shows to upstreams, and the authorities it checks theirs by.

use std::hash::{DefaultHasher, Hash, Hasher};
use std::sync::Arc;

use pingora_core::protocols::tls::CaType;
use pingora_core::utils::tls::{CertKey, WrappedX509, parse_x509};
use rustls_pki_types::PrivateKeyDer;
use rustls_pki_types::pem::PemObject;

use super::tls::{chain, parse};
use super::upstream::tls_policies;
use crate::config::model::{Gateway, Identity, Shown};
use crate::config::{Problem, Severity};

/// A certificate shown to upstreams, and the authorities that may have signed theirs; one of them or both.
#[derive(Clone)]
pub struct ClientIdentity {
    pub certificate: Option<Arc<CertKey>>,
    pub authorities: Option<Arc<CaType>>,
    /// Differs between identities.
    pub group: u64,
}

impl ClientIdentity {
    /// # Errors
    /// The Secret holds something that cannot be used: an outage of what is spoken to with it.
    pub fn load(identity: &Identity) -> Result<ClientIdentity, Box<Problem>> {
        let fault = |(field, message): (&str, String)| {
            let hint = Some("until then requests to the services that it is for get a 503".to_owned());
            Box::new(Problem { severity: Severity::Outage, hint, ..Problem::error(&identity.secret, field, &message) })
        };
        let certificate = match &identity.shown {
            None => None,
            Some(Shown { chain, key }) => {
                parse(chain, key.expose()).map_err(fault)?;
                let of_chain = raw(chain).map_err(|message| fault(("data.tls.crt", message)))?;
                let key = PrivateKeyDer::from_pem_slice(key.expose().as_bytes())
                    .map_err(|error| fault(("data.tls.key", format!("is not a PEM private key: {error}"))))?;
                Some(Arc::new(CertKey::new(of_chain, key.secret_der().to_vec())))
            }
        };
        let authorities = match &identity.ca {
            None => None,
            Some(pem) => {
                let certificates = raw(pem).map_err(|message| fault(("data.ca.crt", message)))?;
                let wrapped = certificates.into_iter().map(|raw| WrappedX509::new(raw, parse_x509));
                Some(wrapped.collect::<Vec<_>>().into())
            }
        };
        let mut hasher = DefaultHasher::new();
        (identity.shown.as_ref().map(|shown| &shown.chain), &identity.ca).hash(&mut hasher);
        Ok(ClientIdentity { certificate, authorities, group: hasher.finish() })
    }
}

/// An outage for every Secret that is to be shown to upstreams, or to check them, and cannot be used.
pub fn unusable_identities(gateway: &Gateway) -> Vec<Problem> {
    let of_routes =
        gateway.routes.iter().flat_map(|route| &route.destinations).map(|to| (&to.service, to.port, &to.policy));
    let of_routes = of_routes.filter_map(|(service, port, policy)| {
        let service = gateway.services.get(service)?;
        Some((Some(policy), service, service.port(port)?))
    });
    let of_services = gateway.services.values();
    let of_services = of_services.flat_map(|service| service.ports.iter().map(move |port| (None, service, port)));
    let identities = of_routes.chain(of_services).filter_map(|(policy, service, port)| {
        tls_policies(policy, service, port).find_map(|tls| tls.identity.as_ref())
    });
    let mut problems = Vec::new();
    for problem in identities.filter_map(|identity| ClientIdentity::load(identity).err()) {
        if !problems.contains(&*problem) {
            problems.push(*problem);
        }
    }
    problems
}

/// DER certificates that pingora's type takes: it panics on what its parser refuses.
fn raw(pem: &str) -> Result<Vec<Vec<u8>>, String> {
    let certificates = chain(pem)?.into_iter().map(|certificate| certificate.as_ref().to_vec());
    certificates
        .map(|raw| match x509_parser::parse_x509_certificate(&raw) {
            Ok(_) => Ok(raw),
            Err(error) => Err(format!("holds a certificate that cannot be read: {error}")),
        })
        .collect()
}

//! `trafficPolicy.tls`: whether a service is spoken to over TLS, whatever its registry says. Certificates come from a Secret, as
//! everywhere here; Istio's paths of files are not read.

use crate::config::fields::Fields;
use crate::config::higress::secret::Secrets;
use crate::config::model::{Identity, TlsMode, TlsPolicy};

/// `namespace` is that of the rule, in which Secrets are looked up.
pub(super) fn read(mut fields: Fields<'_>, secrets: &Secrets, namespace: &str) -> Option<TlsMode> {
    let report = fields.report();
    let mode = fields.required_text("mode");
    let sni = fields.text("sni").filter(|sni| !sni.is_empty()).map(str::to_owned);
    let verify = fields.boolean("insecureSkipVerify").map(|skips| !skips);
    let path = fields.path_of("credentialName");
    let named = fields.text("credentialName").filter(|name| !name.is_empty());
    let identity = named.and_then(|name| identity(name, secrets, namespace));
    for key in ["caCertificates", "clientCertificate", "privateKey"] {
        if fields.value(key).is_some() {
            let hint =
                "put what is in the file into a Secret (tls.crt, tls.key, ca.crt) and name that in credentialName";
            report.warn_hint(&fields.path_of(key), "has no effect: no files are read but those of the folder", hint);
        }
    }
    fields.unsupported(&["caCrl", "subjectAltNames"]);
    let is_mutual = match mode? {
        "DISABLE" => {
            fields.finish();
            return Some(TlsMode::Off);
        }
        "SIMPLE" => false,
        "MUTUAL" => true,
        other => {
            let message = format!("`{other}` is not a way to speak TLS here");
            report.error_hint(&fields.path_of("mode"), message, "one of DISABLE, SIMPLE, MUTUAL");
            return None;
        }
    };
    fields.finish();
    if named.is_some() && identity.is_none() {
        report.error(&path, "names no Secret with a certificate (tls.crt, tls.key) or authorities (ca.crt)");
    } else if is_mutual && identity.as_ref().is_none_or(|identity| identity.shown.is_none()) {
        report.error(&path, "must name a Secret with tls.crt and tls.key, because the mode is MUTUAL");
    }
    Some(TlsMode::On(TlsPolicy { sni, verify, identity }))
}

/// The Secret `[namespace/]name`, if there is something in it.
fn identity(written: &str, secrets: &Secrets, namespace: &str) -> Option<Identity> {
    let (namespace, name) = written.split_once('/').unwrap_or((namespace, written));
    secrets.get(namespace, name)?.identity()
}

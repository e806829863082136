//! Secret: `data` (base64) and `stringData` (clear, wins over `data` as in Kubernetes). Values never appear in messages.

use std::collections::BTreeMap;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;

use super::skip_common;
use crate::base::secret::Secret as Hidden;
use crate::config::fields::Fields;
use crate::config::model::{Identity, ObjectRef, Shown};
use crate::config::problem::Report;
use crate::config::source::RawObject;

/// Keys under which a Secret may hold authorities.
pub(in crate::config) const CA_KEYS: &[&str] = &["ca.crt", "cacert"];
/// What the name of a Secret with authorities alone ends in, beside that of the certificate.
pub(in crate::config) const CA_SUFFIX: &str = "-cacert";

/// All secrets by namespace and name, then by key.
#[derive(Default)]
pub(in crate::config) struct Secrets {
    by_name: BTreeMap<(String, String), Secret>,
}

pub(in crate::config) struct Secret {
    origin: ObjectRef,
    values: BTreeMap<String, Vec<u8>>,
}

impl Secret {
    pub fn origin(&self) -> &ObjectRef {
        &self.origin
    }

    /// `None` if the key is missing or its value is not text.
    pub fn text(&self, key: &str) -> Option<&str> {
        std::str::from_utf8(self.values.get(key)?).ok()
    }

    /// What an upstream is shown and known by; authorities alone are enough. `None` if there is neither.
    pub fn identity(&self) -> Option<Identity> {
        let ca = CA_KEYS.iter().find_map(|key| self.text(key)).map(str::to_owned);
        let pair = self.text("tls.crt").zip(self.text("tls.key"));
        let shown = pair.map(|(chain, key)| Shown { chain: chain.to_owned(), key: Hidden::new(key) });
        let is_usable = shown.is_some() || ca.is_some();
        is_usable.then(|| Identity { secret: self.origin.clone(), shown, ca })
    }
}

impl Secrets {
    pub fn read<'a>(objects: impl Iterator<Item = &'a RawObject>, report: &Report) -> Self {
        let mut secrets = Self::default();
        for object in objects {
            let name = (object.origin.namespace.clone(), object.origin.name.clone());
            secrets.by_name.insert(name, read(object, report));
        }
        secrets
    }

    pub fn get(&self, namespace: &str, name: &str) -> Option<&Secret> {
        self.by_name.get(&(namespace.to_owned(), name.to_owned()))
    }
}

fn read(object: &RawObject, report: &Report) -> Secret {
    let report = report.on_parts_of(&object.origin);
    let mut fields = Fields::new(&object.value, "", report);
    skip_common(&mut fields);
    fields.inert(&["immutable", "type"]);
    let mut secret = Secret { origin: object.origin.clone(), values: BTreeMap::new() };
    for (key, text) in fields.text_map("data") {
        // Files written by hand often wrap the text.
        let compact: String = text.split_ascii_whitespace().collect();
        match STANDARD.decode(compact) {
            Ok(value) => drop(secret.values.insert(key.to_owned(), value)),
            Err(_) => report.error_hint(
                &format!("data[{key}]"),
                "is not base64",
                "encode it (`base64 -w0`), or put the clear text under stringData",
            ),
        }
    }
    for (key, text) in fields.text_map("stringData") {
        secret.values.insert(key.to_owned(), text.into_owned().into_bytes());
    }
    fields.finish();
    secret
}

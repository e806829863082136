//! Who may see a knowledge base.

use serde::{Deserialize, Deserializer, Serialize};

/// Who may see a knowledge base. Nobody is excluded by an empty one.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Access {
    /// Names of the consumers that may search it; empty means all.
    #[serde(default)]
    pub consumers: Vec<String>,
    /// The tenant it belongs to; none means all.
    #[serde(default)]
    pub tenant: Option<String>,
}

/// Whom a knowledge base is for from now on; what is left out stays.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewAccess {
    pub consumers: Option<Vec<String>>,
    /// `Some(None)`, `null` in JSON: it belongs to all.
    #[serde(default, deserialize_with = "given")]
    pub tenant: Option<Option<String>>,
}

/// A member that is there, `null` or not.
fn given<'de, D: Deserializer<'de>>(value: D) -> Result<Option<Option<String>>, D::Error> {
    Option::deserialize(value).map(Some)
}

/// Who asks. The operator of the process may see everything.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Caller {
    Operator,
    Consumer { name: Option<String>, tenant: Option<String> },
}

impl Access {
    /// Whether this caller may see the knowledge base at all.
    pub fn admits(&self, caller: &Caller) -> bool {
        let Caller::Consumer { name, tenant } = caller else { return true };
        let is_ours = self.tenant.is_none() || self.tenant == *tenant;
        let is_named = self.consumers.is_empty() || name.as_ref().is_some_and(|name| self.consumers.contains(name));
        is_ours && is_named
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn access_is_by_tenant_and_consumer() {
        let caller = |name: Option<&str>, tenant: Option<&str>| Caller::Consumer {
            name: name.map(str::to_owned),
            tenant: tenant.map(str::to_owned),
        };
        let open = Access::default();
        assert!(open.admits(&caller(None, None)));
        let named = Access { consumers: vec!["ann".into()], tenant: Some("us".into()) };
        assert!(named.admits(&Caller::Operator));
        assert!(named.admits(&caller(Some("ann"), Some("us"))));
        assert!(!named.admits(&caller(Some("ann"), None)));
        assert!(!named.admits(&caller(Some("ann"), Some("them"))));
        assert!(!named.admits(&caller(Some("bob"), Some("us"))));
        assert!(!named.admits(&caller(None, Some("us"))));
    }
}

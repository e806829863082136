//! ReferenceGrant: a namespace allows others to refer to what is in it. Without a grant a reference across namespaces is
//! none.

use crate::config::fields::Fields;
use crate::config::higress::skip_common;
use crate::config::problem::Report;
use crate::config::source::RawObject;

#[derive(Debug, Default)]
pub(super) struct Grants {
    grants: Vec<Grant>,
}

#[derive(Debug)]
struct Grant {
    namespace: String,
    /// Group, kind and namespace of objects that may refer.
    from: Vec<(String, String, String)>,
    /// Group, kind and name of what they may refer to; no name means any.
    to: Vec<(String, String, Option<String>)>,
}

/// One end of a reference.
#[derive(Debug, Clone, Copy)]
pub(super) struct End<'a> {
    pub group: &'a str,
    pub kind: &'a str,
    pub namespace: &'a str,
}

impl Grants {
    pub fn read<'a>(objects: impl Iterator<Item = &'a RawObject>, report: &Report) -> Grants {
        Grants { grants: objects.filter_map(|object| grant(object, report)).collect() }
    }

    /// Whether `from` may refer to the object of this name.
    pub fn allow(&self, from: End<'_>, to: End<'_>, name: &str) -> bool {
        from.namespace == to.namespace
            || self.grants.iter().filter(|grant| grant.namespace == to.namespace).any(|grant| {
                let is_from = |(group, kind, namespace): &(String, String, String)| {
                    group == from.group && kind == from.kind && namespace == from.namespace
                };
                let is_to = |(group, kind, only): &(String, String, Option<String>)| {
                    group == to.group && kind == to.kind && only.as_ref().is_none_or(|only| only == name)
                };
                grant.from.iter().any(is_from) && grant.to.iter().any(is_to)
            })
    }
}

/// `None` if it has a fault, so that it allows nothing that was not meant.
fn grant(object: &RawObject, report: &Report) -> Option<Grant> {
    let report = report.on_parts_of(&object.origin);
    let part = report.part();
    let mut fields = Fields::new(&object.value, "", report);
    skip_common(&mut fields);
    let mut grant = Grant { namespace: object.origin.namespace.clone(), from: Vec::new(), to: Vec::new() };
    if let Some(mut spec) = fields.object("spec") {
        for mut from in spec.objects("from") {
            let group = from.text("group").unwrap_or_default().to_owned();
            let (kind, namespace) = (from.required_text("kind"), from.required_text("namespace"));
            if let (Some(kind), Some(namespace)) = (kind, namespace) {
                grant.from.push((group, kind.to_owned(), namespace.to_owned()));
            }
            from.finish();
        }
        for mut to in spec.objects("to") {
            let group = to.text("group").unwrap_or_default().to_owned();
            let name = to.text("name").filter(|name| !name.is_empty()).map(str::to_owned);
            if let Some(kind) = to.required_text("kind") {
                grant.to.push((group, kind.to_owned(), name));
            }
            to.finish();
        }
        spec.finish();
    }
    fields.finish();
    (part.is_whole()).then_some(grant)
}

//! `filters` of a rule: header changes, redirect, rewrite, mirror.

use http::uri::PathAndQuery;

use super::route::Backends;
use crate::config::fields::Fields;
use crate::config::header_change::{self, Refusal, check_removal, check_value};
use crate::config::higress::draft::SideTarget;
use crate::config::higress::ingress::host_match;
use crate::config::model::{
    HeaderControl, HeaderOperations, HostMatch, PathMatch, PathRewrite, Redirect, RedirectPort,
};
use crate::config::problem::ObjectReport;

/// What the filters of a rule ask for together.
#[derive(Debug, Default)]
pub(super) struct Filters {
    pub headers: HeaderControl,
    pub redirect: Option<RedirectFilter>,
    pub host: Option<String>,
    pub path: Option<NewPath>,
    pub mirror: Option<SideTarget>,
}

#[derive(Debug, Clone)]
pub(super) struct RedirectFilter {
    scheme: Option<String>,
    host: Option<String>,
    port: Option<u16>,
    path: Option<NewPath>,
    status: u16,
}

/// A path whose meaning depends on what the match took.
#[derive(Debug, Clone)]
pub(super) enum NewPath {
    Full(String),
    Prefix { to: String, field: String },
}

impl Filters {
    /// What becomes of the path, or of the whole request. `Err`: as of [`NewPath::for_match`].
    pub fn for_match(&self, path: &PathMatch) -> Result<(Option<PathRewrite>, Option<Redirect>), (String, String)> {
        let new = self.path.as_ref().map(|new| new.for_match(path)).transpose()?;
        let redirect = self.redirect.as_ref().map(|filter| filter.for_match(path)).transpose()?;
        Ok((new, redirect))
    }
}

impl NewPath {
    /// `Err` if there is no prefix that could be replaced: the field, and why.
    fn for_match(&self, path: &PathMatch) -> Result<PathRewrite, (String, String)> {
        match (self, path) {
            (Self::Full(to), _) => Ok(PathRewrite::Full(to.clone())),
            (Self::Prefix { to, .. }, PathMatch::Prefix(from)) => {
                Ok(PathRewrite::Prefix { from: from.clone(), to: to.clone(), ignore_case: false })
            }
            (Self::Prefix { field, .. }, _) => {
                Err((field.clone(), "needs a match of type PathPrefix, whose prefix is replaced".to_owned()))
            }
        }
    }
}

impl RedirectFilter {
    fn for_match(&self, path: &PathMatch) -> Result<Redirect, (String, String)> {
        Ok(Redirect {
            scheme: self.scheme.clone(),
            authority: self.host.clone(),
            port: match (self.port, &self.scheme) {
                (Some(port), _) => RedirectPort::Number(port),
                (None, Some(_)) => RedirectPort::OfScheme,
                (None, None) => RedirectPort::Kept,
            },
            path: self.path.as_ref().map(|new| new.for_match(path)).transpose()?,
            status: self.status,
        })
    }
}

pub(super) fn read(rule: &mut Fields<'_>, backends: &Backends<'_>) -> Filters {
    let mut filters = Filters::default();
    for mut filter in rule.objects("filters") {
        let report = filter.report();
        let (path, type_field) = (filter.path().to_owned(), filter.path_of("type"));
        match filter.required_text("type") {
            Some("RequestHeaderModifier") => {
                if let Some(operations) = body(&mut filter, "requestHeaderModifier") {
                    merge(&mut filters.headers.request, operations);
                }
            }
            Some("ResponseHeaderModifier") => {
                if let Some(operations) = body(&mut filter, "responseHeaderModifier") {
                    merge(&mut filters.headers.response, operations);
                }
            }
            Some("RequestRedirect") => filters.redirect = body(&mut filter, "requestRedirect").map(redirect),
            Some("URLRewrite") => {
                if let Some(mut rewrite) = body(&mut filter, "urlRewrite") {
                    filters.host = hostname(&mut rewrite);
                    filters.path = rewrite.object("path").and_then(new_path);
                    rewrite.finish();
                }
            }
            Some("RequestMirror") => {
                let mirror = body(&mut filter, "requestMirror").and_then(|fields| mirror(fields, backends));
                if filters.mirror.is_some() {
                    report.warn(&path, "is a second mirror of this rule; the first counts");
                } else {
                    filters.mirror = mirror;
                }
            }
            // The specification: a request must not be served without a filter that was written for it.
            Some(other) => report.error(&type_field, format!("{other} is not a filter of this gateway")),
            None => {}
        }
        filter.inert(&[
            "cors",
            "extensionRef",
            "requestHeaderModifier",
            "requestMirror",
            "requestRedirect",
            "responseHeaderModifier",
            "urlRewrite",
        ]);
        filter.finish();
    }
    filters
}

/// What the filter of a type is told to do.
fn body<'a>(filter: &mut Fields<'a>, key: &'static str) -> Option<Fields<'a>> {
    let found = filter.object(key);
    if found.is_none() {
        filter.report().error(&filter.path_of(key), "is missing");
    }
    found
}

fn hostname(fields: &mut Fields<'_>) -> Option<String> {
    let name = fields.text("hostname")?;
    if !matches!(host_match(name), Ok(HostMatch::Exact(_))) {
        fields.report().error(&fields.path_of("hostname"), format!("`{name}` is not a host name"));
    }
    Some(name.to_owned())
}

fn merge(operations: &mut HeaderOperations, mut fields: Fields<'_>) {
    operations.update.extend(pairs(&mut fields, "set"));
    let (single, add) = pairs(&mut fields, "add").into_iter().partition(|(name, _)| header_change::is_single(name));
    operations.update.extend::<Vec<_>>(single);
    operations.add.extend::<Vec<_>>(add);
    for name in fields.texts("remove") {
        if is_good(&check_removal(&name), &fields.path_of("remove"), fields.report()) {
            operations.remove.push(name);
        }
    }
    fields.finish();
}

fn pairs(fields: &mut Fields<'_>, key: &'static str) -> Vec<(String, String)> {
    let read = |mut pair: Fields<'_>| {
        let (field, report) = (pair.path().to_owned(), pair.report());
        let name = pair.required_text("name").map(str::to_owned);
        let value = pair.text("value").unwrap_or_default().to_owned();
        pair.finish();
        let name = name?;
        is_good(&check_value(&name, &value), &field, report).then_some((name, value))
    };
    fields.objects(key).into_iter().filter_map(read).collect()
}

fn is_good(checked: &Result<(), Refusal>, field: &str, report: ObjectReport<'_>) -> bool {
    match checked {
        Ok(()) => {}
        Err(Refusal::NoHeader(message)) => report.error(field, message),
        Err(Refusal::WithoutEffect(message)) => report.warn(field, message),
    }
    checked.is_ok()
}

fn redirect(mut fields: Fields<'_>) -> RedirectFilter {
    let status_field = fields.path_of("statusCode");
    let status = fields.integer::<u16>("statusCode").unwrap_or(302);
    if ![301, 302, 303, 307, 308].contains(&status) {
        fields.report().error_hint(&status_field, format!("{status} is no redirect"), "one of 301, 302, 303, 307, 308");
    }
    let redirect = RedirectFilter {
        scheme: fields.text("scheme").filter(|scheme| !scheme.is_empty()).map(str::to_ascii_lowercase),
        host: hostname(&mut fields),
        port: fields.port("port"),
        path: fields.object("path").and_then(new_path),
        status,
    };
    fields.finish();
    redirect
}

fn new_path(mut fields: Fields<'_>) -> Option<NewPath> {
    let (field, type_field) = (fields.path_of("replacePrefixMatch"), fields.path_of("type"));
    let full = fields.text("replaceFullPath").map(str::to_owned);
    let prefix = fields.text("replacePrefixMatch").map(str::to_owned);
    if let Some(path) = full.as_ref().filter(|path| !path.starts_with('/') || path.parse::<PathAndQuery>().is_err()) {
        fields.report().error(&fields.path_of("replaceFullPath"), format!("`{path}` is not a path"));
    }
    // In place of the whole prefix nothing may stand, and what stands there is a path, with its slash or without.
    let is_path = |path: &&String| format!("/{}", path.trim_start_matches('/')).parse::<PathAndQuery>().is_ok();
    if let Some(path) = prefix.as_ref().filter(|path| !is_path(path)) {
        fields.report().error(&field, format!("`{path}` is not a path"));
    }
    let new = match fields.required_text("type") {
        Some("ReplaceFullPath") => Some(NewPath::Full(full.unwrap_or_else(|| "/".to_owned()))),
        Some("ReplacePrefixMatch") => Some(NewPath::Prefix { to: prefix.unwrap_or_default(), field }),
        Some(other) => {
            fields.report().error_hint(
                &type_field,
                format!("`{other}` is no way to change a path"),
                "one of ReplaceFullPath, ReplacePrefixMatch",
            );
            None
        }
        None => None,
    };
    fields.finish();
    new
}

fn mirror(mut fields: Fields<'_>, backends: &Backends<'_>) -> Option<SideTarget> {
    let field = fields.path_of("backendRef");
    let target = fields.object("backendRef").and_then(|backend| backends.read(backend));
    let percent = fields.integer::<u32>("percent");
    if percent.is_some_and(|percent| percent > 100) {
        fields.report().error(&fields.path_of("percent"), "must be a percentage between 0 and 100");
    }
    let fraction = fields.object("fraction").map(|mut fraction| {
        let numerator = fraction.integer::<u32>("numerator").unwrap_or(0);
        let denominator = fraction.integer::<u32>("denominator").unwrap_or(100).max(1);
        fraction.finish();
        u32::try_from(u64::from(numerator) * 1_000_000 / u64::from(denominator)).unwrap_or(u32::MAX)
    });
    fields.finish();
    let per_million =
        percent.map(|percent| percent.saturating_mul(10_000)).or(fraction).unwrap_or(1_000_000).min(1_000_000);
    Some(SideTarget { field, target: target?, per_million })
}

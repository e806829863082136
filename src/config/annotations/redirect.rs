//! `app-root`, `temporal-redirect`, `permanent-redirect` with `-code`, `ssl-redirect`, `force-ssl-redirect` (Higress
//! `annotations/redirect.go`). A redirect to a URL counts before that to https, the temporal one before the permanent.

use super::Annotations;
use super::rewrite::is_path;
use crate::config::model::{PathRewrite, Redirect, RedirectPort};

const TEMPORAL: u16 = 302;
const PERMANENT: u16 = 301;

#[derive(Debug, Default)]
pub(in crate::config) struct Redirects {
    /// Path that requests for exactly `/` are sent to.
    pub app_root: Option<Redirect>,
    pub url: Option<Redirect>,
    pub https_only: bool,
}

pub(super) fn read(annotations: &Annotations<'_>) -> Redirects {
    let url = |key: &str, status: u16| {
        annotations
            .parse(annotations.either(key), "a URL that begins with http:// or https://", |text| to_url(text, status))
    };
    let code = annotations.parse(annotations.either("permanent-redirect-code"), "a status from 300 to 308", |text| {
        text.parse().ok().filter(|code| (300..=308).contains(code))
    });
    let temporal = url("temporal-redirect", TEMPORAL);
    let permanent = url("permanent-redirect", code.unwrap_or(PERMANENT));
    let ssl = annotations.flag(annotations.either("ssl-redirect"));
    let force_ssl = annotations.flag(annotations.either("force-ssl-redirect"));
    let app_root = annotations.parse(annotations.either("app-root"), "a path that begins with a slash", |text| {
        let path = is_path(text).then(|| text.to_owned())?;
        Some(Redirect {
            scheme: None,
            authority: None,
            port: RedirectPort::Kept,
            path: Some(PathRewrite::Full(path)),
            status: TEMPORAL,
        })
    });
    Redirects { app_root, url: temporal.or(permanent), https_only: ssl || force_ssl }
}

fn to_url(text: &str, status: u16) -> Option<Redirect> {
    let (scheme, rest) = text.split_once("://").filter(|(scheme, _)| matches!(*scheme, "http" | "https"))?;
    let uri: http::Uri = text.parse().ok()?;
    let authority = uri.authority()?.to_string();
    // Without a path the one of the request stays, and `Uri` would show a slash.
    let path = rest.find('/').map(|at| PathRewrite::Full(rest[at..].to_owned()));
    let port = RedirectPort::Kept;
    Some(Redirect { scheme: Some(scheme.to_owned()), authority: Some(authority), port, path, status })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls() {
        let parts = |text: &str| to_url(text, 302).map(|it| (it.authority.unwrap(), it.path));
        assert_eq!(parts("http://bar.com"), Some(("bar.com".into(), None)));
        assert_eq!(
            parts("https://bar.com:8443/x?y=1"),
            Some(("bar.com:8443".into(), Some(PathRewrite::Full("/x?y=1".into()))))
        );
        for wrong in ["bar.com", "tcp://bar.com", "http://", "http:///x", "/x"] {
            assert_eq!(parts(wrong), None, "{wrong}");
        }
    }
}

//! What a matched route asks of a request. Before plugins see it: an allowed address, a token of its rate limit; preflight
//! requests are answered. After them: whether it is to be sent elsewhere, because in Envoy that is the router's doing.
//!
//! Entered wherever a route is matched, so that a plugin that selects another route cannot lead past that route's gate.

use std::borrow::Cow;
use std::net::IpAddr;

use http::header::LOCATION;
use ipnet::IpNet;
use pingora_http::RequestHeader;

use super::context::Context;
use super::hygiene::authority;
use super::upstream::host_only;
use super::{cors, outgoing, respond};
use crate::config::model::{Admission, Redirect, RedirectPort};
use crate::llm::error::ErrorKind;
use crate::plugins::Reply;

/// Redirects to https keep method and body.
const HTTPS_STATUS: u16 = 308;

/// Matches the route and passes its gate. Without a route [`Context::unrouted`] is the answer, unless a plugin changes the
/// request so that one takes it: plugins run without a route too, as in Envoy.
///
/// # Errors
/// The answer to give instead of going on.
pub fn enter(ctx: &mut Context, head: &RequestHeader) -> Result<(), Reply> {
    ctx.unrouted = ctx.match_route(head).err();
    if ctx.unrouted.is_some() {
        return Ok(());
    }
    let Some(entry) = ctx.route.clone() else { return Ok(()) };
    let admission = &entry.route.admission;
    if !may_come_from(admission, ctx.state.client_ip) {
        let message = format!("Route \"{}\" does not take requests from your address.", ctx.state.route);
        return Err(respond::error(ErrorKind::Forbidden, message, "rbac_access_denied"));
    }
    if let Some(reply) = admission.cors.as_ref().and_then(|cors| cors::preflight(cors, head)) {
        return Err(reply);
    }
    if !ctx.is_within_rate_limit() {
        let message = format!("Route \"{}\" has had too many requests. Wait, then retry.", ctx.state.route);
        return Err(respond::error(ErrorKind::RateLimited, message, "local_rate_limited"));
    }
    Ok(())
}

/// The redirect to answer with, if the route has one for this request.
pub fn redirect(ctx: &Context, head: &RequestHeader) -> Option<Reply> {
    let admission = &ctx.route.as_ref()?.route.admission;
    let (status, location) = location(admission, head, ctx.state.is_tls)?;
    let mut reply = Reply::new(status, "direct_response").header(LOCATION, &location);
    outgoing::finish_reply(&mut reply, ctx);
    Some(reply)
}

fn may_come_from(admission: &Admission, ip: Option<IpAddr>) -> bool {
    let within = |networks: &[IpNet]| ip.is_some_and(|ip| networks.iter().any(|network| network.contains(&ip)));
    admission.allowed_sources.as_deref().is_none_or(within) && !within(&admission.denied_sources)
}

/// Status and URL of the redirect, if the request is to be sent elsewhere. As in Higress a redirect to a URL leaves out the
/// one to https; the one of the application's root does not.
fn location(admission: &Admission, head: &RequestHeader, is_tls: bool) -> Option<(u16, String)> {
    let authority = authority(head).unwrap_or_default();
    let to_https = admission.https_only && !is_tls;
    match &admission.redirect {
        Some(redirect) if !redirect.is_app_root() || !to_https => {
            Some((redirect.status, redirected(redirect, authority, head, is_tls)))
        }
        _ if to_https => {
            let path = head.uri.path_and_query().map_or("/", |path| path.as_str());
            // The port of plain HTTP would not speak TLS.
            Some((HTTPS_STATUS, format!("https://{}{path}", host_only(authority))))
        }
        _ => None,
    }
}

fn redirected(redirect: &Redirect, authority: &str, head: &RequestHeader, is_tls: bool) -> String {
    let scheme = redirect.scheme.as_deref().unwrap_or(if is_tls { "https" } else { "http" });
    let authority = redirect.authority.as_deref().unwrap_or(authority);
    let authority = match redirect.port {
        RedirectPort::Kept => Cow::Borrowed(authority),
        RedirectPort::OfScheme => Cow::Borrowed(host_only(authority)),
        RedirectPort::Number(port) if matches!((scheme, port), ("http", 80) | ("https", 443)) => {
            Cow::Borrowed(host_only(authority))
        }
        RedirectPort::Number(port) => Cow::Owned(format!("{}:{port}", host_only(authority))),
    };
    let path = head.uri.path();
    let path = redirect.path.as_ref().map_or(Cow::Borrowed(path), |new| Cow::Owned(outgoing::rewritten(path, new)));
    match head.uri.query() {
        Some(query) if !path.contains('?') => format!("{scheme}://{authority}{path}?{query}"),
        _ => format!("{scheme}://{authority}{path}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::model::PathRewrite;

    fn head(path: &str) -> RequestHeader {
        let mut head = RequestHeader::build("GET", path.as_bytes(), None).unwrap();
        head.insert_header("host", "a.com:8080").unwrap();
        head
    }

    #[test]
    fn redirects() {
        let url = |path: Option<&str>| Redirect {
            scheme: Some("http".into()),
            authority: Some("b.com".into()),
            port: RedirectPort::Kept,
            path: path.map(|path| PathRewrite::Full(path.to_owned())),
            status: 301,
        };
        let root = Redirect {
            scheme: None,
            authority: None,
            path: Some(PathRewrite::Full("/foo".into())),
            status: 302,
            ..url(None)
        };
        let moved = |port| Redirect {
            scheme: Some("https".into()),
            authority: None,
            port,
            path: Some(PathRewrite::Prefix { from: "/x".into(), to: "/new".into(), ignore_case: false }),
            status: 308,
        };
        for (redirect, https_only, is_tls, expected) in [
            (None, false, false, None),
            (None, true, true, None),
            (None, true, false, Some((308, "https://a.com/x?y=1"))),
            (Some(url(None)), true, false, Some((301, "http://b.com/x?y=1"))),
            (Some(url(Some("/z"))), false, true, Some((301, "http://b.com/z?y=1"))),
            (Some(url(Some("/z?q"))), false, true, Some((301, "http://b.com/z?q"))),
            (Some(root.clone()), false, false, Some((302, "http://a.com:8080/foo?y=1"))),
            (Some(root), true, false, Some((308, "https://a.com/x?y=1"))),
            (Some(moved(RedirectPort::OfScheme)), false, false, Some((308, "https://a.com/new?y=1"))),
            (Some(moved(RedirectPort::Number(8443))), false, false, Some((308, "https://a.com:8443/new?y=1"))),
        ] {
            let admission = Admission { redirect, https_only, ..Admission::default() };
            let found = location(&admission, &head("/x?y=1"), is_tls);
            assert_eq!(found, expected.map(|(status, url)| (status, url.to_owned())), "{admission:?}");
        }
    }

    #[test]
    fn sources() {
        let networks = |texts: &[&str]| texts.iter().map(|text| text.parse().unwrap()).collect::<Vec<IpNet>>();
        let ip = |text: &str| Some(text.parse().unwrap());
        let admission = Admission {
            allowed_sources: Some(networks(&["10.0.0.0/8", "::1/128"])),
            denied_sources: networks(&["10.1.0.0/16"]),
            ..Admission::default()
        };
        for (address, expected) in
            [(ip("10.2.3.4"), true), (ip("10.1.3.4"), false), (ip("11.0.0.1"), false), (ip("::1"), true), (None, false)]
        {
            assert_eq!(may_come_from(&admission, address), expected, "{address:?}");
        }
        assert!(may_come_from(&Admission::default(), None));
    }
}

//! A copy of a request for the service that the route's mirror names. Nobody waits for it or looks at its answer.

use std::sync::Arc;
use std::time::Duration;

use http::Version;
use http::header::{CONNECTION, EXPECT, HOST, TE, TRAILER, TRANSFER_ENCODING, UPGRADE};
use pingora_error::Result;
use pingora_http::RequestHeader;
use pingora_proxy::Session;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::context::Context;
use super::hygiene::authority;
use super::outgoing;
use super::service::Gateway;
use crate::config::model::Mirror;
use crate::plugins::{Destination, HttpCall};

/// For the whole copy.
const LIMIT: Duration = Duration::from_secs(15);

/// Memory that copies in flight may take, and what the least of them counts as; both KiB.
const ROOM: u32 = 64 * 1024;
const LEAST: u32 = 16;

/// Keeps copies for a service that does not answer from piling up.
#[derive(Clone)]
pub struct Room(Arc<Semaphore>);

impl Default for Room {
    fn default() -> Room {
        Room(Arc::new(Semaphore::new(ROOM as usize)))
    }
}

impl Room {
    /// A place for a copy with a body of `n_bytes`; `None` if there are too many.
    fn place(&self, n_bytes: usize) -> Option<OwnedSemaphorePermit> {
        let kib = u32::try_from(n_bytes / 1024).unwrap_or(ROOM).saturating_add(LEAST).min(ROOM);
        self.0.clone().try_acquire_many_owned(kib).ok()
    }
}

/// Whether the body has to be read because a copy of it is to be sent.
pub fn wants_body(session: &mut Session, ctx: &Context) -> bool {
    due(session, ctx).is_some() && !session.is_body_empty()
}

/// Sends the copy, if this request is one of those that are mirrored.
pub fn send(gateway: &Gateway, session: &Session, ctx: &Context) {
    let Some(mirror) = due(session, ctx) else { return };
    let head = match copy(session.req_header(), ctx) {
        Ok(head) => head,
        Err(error) => return tracing::warn!(route = %ctx.state.route, %error, "A request cannot be mirrored"),
    };
    let to = Destination::Service { host: mirror.destination.service.clone(), port: mirror.destination.port };
    let body = ctx.state.body.clone().unwrap_or_default();
    let Some(place) = gateway.mirrors.place(body.len()) else {
        gateway.metrics.mirror_shed.inc();
        return;
    };
    let call = HttpCall { to, head, body, timeout: LIMIT, is_question: false, may_cut: false };
    let (exchange, snapshot, route) = (gateway.exchange.clone(), ctx.snapshot.clone(), ctx.state.route.clone());
    gateway.tasks.spawn(async move {
        if let Err(error) = exchange.http(&snapshot, call).await {
            tracing::debug!(%route, error, "A mirrored request got no answer");
        }
        drop(place);
    });
}

fn due<'a>(session: &Session, ctx: &'a Context) -> Option<&'a Mirror> {
    let mirror = ctx.route.as_ref()?.route.mirror.as_ref()?;
    let is_drawn = ctx.state.id.sample("mirror") * 1e6 < f64::from(mirror.per_million);
    // What follows an upgrade is a conversation, which cannot be copied.
    (is_drawn && !session.req_header().headers.contains_key(UPGRADE)).then_some(mirror)
}

/// The head as the upstream gets it, with the host marked as Envoy marks it.
fn copy(head: &RequestHeader, ctx: &Context) -> Result<RequestHeader> {
    let mut head = head.clone();
    outgoing::prepare(&mut head, ctx)?;
    for name in [CONNECTION, EXPECT, TE, TRAILER, TRANSFER_ENCODING] {
        head.remove_header(&name);
    }
    let host = shadow(authority(&head).unwrap_or_default());
    head.insert_header(HOST, host)?;
    let path = head.uri.path_and_query().map_or("/", |path| path.as_str()).to_owned();
    head.set_raw_path(path.as_bytes())?;
    head.set_version(Version::HTTP_11);
    Ok(head)
}

/// `a.com:80` to `a.com-shadow:80`.
fn shadow(authority: &str) -> String {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => format!("{host}-shadow:{port}"),
        _ => format!("{authority}-shadow"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn copies_in_flight_are_bounded_in_number_and_in_size() {
        let room = Room::default();
        let small: Vec<_> = std::iter::from_fn(|| room.place(0)).collect();
        assert_eq!(small.len(), 4096);
        drop(small);
        let large: Vec<_> = std::iter::from_fn(|| room.place(10 << 20)).collect();
        assert_eq!(large.len(), 6);
        drop(large);
        assert!(room.place(1 << 40).is_some(), "whatever is admitted can be copied when nothing else is");
    }

    #[test]
    fn hosts_are_marked() {
        for (authority, expected) in
            [("a.com", "a.com-shadow"), ("a.com:80", "a.com-shadow:80"), ("[::1]", "[::1]-shadow")]
        {
            assert_eq!(shadow(authority), expected);
        }
    }
}

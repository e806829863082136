//! Noticing that a client leaves while it waits for its answer.

use pingora_error::{Error, ErrorType};
use pingora_proxy::Session;

/// How the access log calls it.
pub const LEFT: &str = "downstream_remote_disconnect";

/// Ends when the client has left. One that sends its next request early has not; the connection is closed after the answer to
/// this one, because what follows on it was read away here.
pub async fn departure(session: &mut Session) -> Box<Error> {
    loop {
        match session.as_downstream_mut().read_body_or_idle(true).await {
            Err(error) if *error.etype() == ErrorType::ConnectError => session.set_keepalive(None),
            Err(error) => return error.into_down(),
            Ok(_) => return Error::new_down(ErrorType::ConnectionClosed),
        }
    }
}

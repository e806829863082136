//! Noticing that a client leaves while it waits for its answer.

use pingora_error::{Error, ErrorType};
use pingora_proxy::Session;

/// How the access log calls it.
pub const LEFT: &str = "downstream_remote_disconnect";

/// Ends when the client has left. One that sends its next request early has not.
pub async fn departure(session: &mut Session) -> Box<Error> {
    match session.as_downstream_mut().read_body_or_idle(true).await {
        Err(error) => error.into_down(),
        Ok(_) => Error::new_down(ErrorType::ConnectionClosed),
    }
}

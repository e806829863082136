//! Stands in the chain for a plugin that this program does not have, or that cannot do what it is configured for, where
//! requests must not pass without it: they get a 503, as from Envoy when a plugin with FAIL_CLOSE fails.

use async_trait::async_trait;

use super::{Flow, Plugin, Reply, Request};
use crate::llm::error::{ApiError, ErrorKind};

pub struct Unavailable {
    /// The configuration object, which the process log and `weirgate validate` say more about.
    pub object: String,
}

#[async_trait]
impl Plugin for Unavailable {
    async fn on_request_headers(&self, _request: &mut Request<'_>) -> Flow {
        let text = format!("{} cannot be used by this gateway; its log says why.", self.object);
        let error = ApiError::new(ErrorKind::NoUpstream, text);
        Flow::respond(Reply::new(error.status, "plugin_unavailable").json(error.to_json()))
    }
}

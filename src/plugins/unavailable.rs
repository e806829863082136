//! Stands in the chain for a plugin that this program does not have, or that cannot do what it is configured for, where
//! requests must not pass without it: they get a 503, as from Envoy when a plugin with FAIL_CLOSE fails.

use async_trait::async_trait;
use serde_json::Value;

use super::{Flow, Plugin, Reply, Request};
use crate::llm::error::{ApiError, ErrorKind};

pub struct Unavailable {
    /// The configuration object, which the process log and `weirgate validate` say more about.
    object: String,
    /// Names that its configuration may have for credentials in queries: clients send them all the same.
    parameters: Vec<String>,
}

impl Unavailable {
    pub fn new(object: String, config: &Value) -> Unavailable {
        let mut parameters = vec!["access_token".to_owned(), "client_secret".to_owned()];
        names(config, &mut parameters);
        Unavailable { object, parameters }
    }
}

/// What stands under the keys by which plugins name places of credentials.
fn names(config: &Value, found: &mut Vec<String>) {
    match config {
        Value::Object(map) => {
            for (key, value) in map {
                let lists = matches!(key.as_str(), "keys" | "from_params").then(|| value.as_array()).flatten();
                found.extend(lists.into_iter().flatten().filter_map(Value::as_str).map(str::to_owned));
                names(value, found);
            }
        }
        Value::Array(elements) => elements.iter().for_each(|element| names(element, found)),
        _ => {}
    }
}

#[async_trait]
impl Plugin for Unavailable {
    fn secret_parameters(&self) -> Vec<String> {
        self.parameters.clone()
    }

    async fn on_request_headers(&self, _request: &mut Request<'_>) -> Flow {
        let text = format!("{} cannot be used by this gateway; its log says why.", self.object);
        let error = ApiError::new(ErrorKind::NoUpstream, text);
        Flow::respond(Reply::new(error.status, "plugin_unavailable").json(error.to_json()))
    }
}

//! Stands in the chain for a plugin that this program does not have, or that cannot do what it is configured for, where
//! requests must not pass without it: they get a 503, as from Envoy when a plugin with FAIL_CLOSE fails.

use async_trait::async_trait;
use serde_json::Value;

use super::config::flag;
use super::{Flow, Plugin, Reply, Request};
use crate::config::model::{FailStrategy, PluginUse};
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

/// Whether requests get a 503 where a configuration keeps its plugin from working, or else pass without it. What is no mistake
/// (`is_wrong`), but something that this gateway cannot do, would work in Higress: `FAIL_OPEN` was not said for that.
pub fn closes(plugin: &PluginUse, rule: Option<&Value>, is_wrong: bool) -> bool {
    // What checks nobody outside of its rules must not shut them out when it is out of work.
    let is_for_rules =
        || plugin.global.as_ref().and_then(|config| config.get("global_auth")).and_then(flag) == Some(false);
    (plugin.fail_strategy == FailStrategy::FailClose || !is_wrong) && (rule.is_some() || !is_for_rules())
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

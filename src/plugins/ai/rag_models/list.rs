//! `GET /v1/models` with the knowledge bases among the models, whoever else answers it.

use bytes::Bytes;
use http::header::CONTENT_TYPE;
use pingora_http::ResponseHeader;
use serde_json::{Value, json};

use super::PREFIX;
use crate::plugins::Reply;

/// Noted for the answer: the models of this caller.
#[derive(Clone)]
pub struct Models(pub Vec<String>);

const PATH: &str = "/v1/models";

pub fn is_list(path: &str) -> bool {
    path.trim_end_matches('/').ends_with(PATH)
}

/// The model of `GET /v1/models/rag/…`; clients may encode the slash.
pub fn asked_for(path: &str) -> Option<String> {
    let (_, name) = path.split_once("/v1/models/")?;
    let name = percent_encoding::percent_decode_str(name).decode_utf8().ok()?;
    name.starts_with(PREFIX).then(|| name.into_owned())
}

pub fn one(model: &str) -> Reply {
    Reply::new(200, "rag-models.model").json(Bytes::from(described(model).to_string()))
}

/// Adds the models to a list. Where nobody has one, these are the list.
pub fn extend(models: &Models, head: &mut ResponseHeader, body: &mut Bytes) {
    let mut list = match head.status.as_u16() {
        200 => serde_json::from_slice(body).unwrap_or(Value::Null),
        _ => json!({"object": "list", "data": []}),
    };
    // What is no list of models is not ours to change.
    let Some(data) = list.get_mut("data").and_then(Value::as_array_mut) else { return };
    data.extend(models.0.iter().map(|model| described(model)));
    *body = Bytes::from(list.to_string());
    // 200 is a status, and the value header text.
    let _ = head.set_status(200);
    let _ = head.insert_header(CONTENT_TYPE, "application/json");
}

fn described(model: &str) -> Value {
    json!({"id": model, "object": "model", "created": 0, "owned_by": "weirgate"})
}

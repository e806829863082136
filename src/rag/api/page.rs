//! Lists in OpenAI's shape, a page at a time.

use serde_json::{Value, json};

use super::{ApiRequest, ApiResponse, ok};
use crate::rag::RagError;

/// Entries of a page, unless asked for fewer, and at most.
const MAX_PAGE: usize = 10_000;

/// The page of `data`, which comes oldest first, that the request asks for: the newest first unless `order` is asc; up to `limit` entries, from the
/// one behind the id `after`, or the last ones in front of the id `before`.
///
/// # Errors
/// `limit` is no number from 1, `order` neither asc nor desc, or there is no entry with the id `after` or `before`.
pub fn page(request: &ApiRequest, mut data: Vec<Value>) -> Result<ApiResponse, RagError> {
    let limit = request.query_number("limit", MAX_PAGE)?.min(MAX_PAGE);
    if limit == 0 {
        return Err(RagError::Invalid("limit=0: it is a number from 1".to_owned()));
    }
    data.sort_by_key(|entry| entry["created_at"].as_i64());
    match request.query_field("order").as_deref() {
        Some("asc") => {}
        None | Some("desc") => data.reverse(),
        Some(other) => return Err(RagError::Invalid(format!("order={other}: it is asc or desc"))),
    }
    let place = |name: &str, data: &[Value]| match request.query_field(name) {
        None => Ok(None),
        Some(id) => match data.iter().position(|entry| entry["id"] == *id) {
            None => Err(RagError::Invalid(format!("{name}={id}: the list has no such entry"))),
            at => Ok(at),
        },
    };
    if let Some(at) = place("after", &data)? {
        data.drain(..=at);
    }
    let has_more = if let Some(at) = place("before", &data)? {
        data.truncate(at);
        let n_more = data.len().saturating_sub(limit);
        data.drain(..n_more);
        n_more > 0
    } else {
        data.len() > limit
    };
    data.truncate(limit);
    let id = |entry: Option<&Value>| entry.map(|entry| entry["id"].clone());
    let (first, last) = (id(data.first()), id(data.last()));
    ok(json!({"object": "list", "data": data, "first_id": first, "last_id": last, "has_more": has_more}))
}

/// Files of the status that the request wants (`filter`).
///
/// # Errors
/// There is no such status.
pub fn of_status(request: &ApiRequest, mut files: Vec<Value>) -> Result<Vec<Value>, RagError> {
    if let Some(wanted) = request.query_field("filter") {
        if !["in_progress", "completed", "failed", "cancelled"].contains(&wanted.as_str()) {
            let message = format!("filter={wanted}: it is in_progress, completed, failed or cancelled");
            return Err(RagError::Invalid(message));
        }
        files.retain(|file| file["status"] == *wanted);
    }
    Ok(files)
}

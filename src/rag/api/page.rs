//! Lists in OpenAI's shape, a page at a time.

use serde_json::{Value, json};

use super::{ApiRequest, ApiResponse, ok};
use crate::rag::RagError;

/// Entries of a page, unless asked for fewer, and at most.
const MAX_PAGE: usize = 10_000;

/// The page of `data` that the request asks for: up to `limit` entries, from the one behind the id `after`.
///
/// # Errors
/// `limit` is no number from 1, or there is no entry with the id `after`.
pub fn page(request: &ApiRequest, mut data: Vec<Value>) -> Result<ApiResponse, RagError> {
    let limit = request.query_number("limit", MAX_PAGE)?.min(MAX_PAGE);
    if limit == 0 {
        return Err(RagError::Invalid("limit=0: it is a number from 1".to_owned()));
    }
    if let Some(after) = request.query_field("after") {
        let at = data.iter().position(|entry| entry["id"] == *after);
        let at = at.ok_or_else(|| RagError::Invalid(format!("after={after}: the list has no such entry")))?;
        data.drain(..=at);
    }
    let has_more = data.len() > limit;
    data.truncate(limit);
    let id = |entry: Option<&Value>| entry.map(|entry| entry["id"].clone());
    let (first, last) = (id(data.first()), id(data.last()));
    ok(json!({"object": "list", "data": data, "first_id": first, "last_id": last, "has_more": has_more}))
}

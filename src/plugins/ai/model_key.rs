//! `modelKey`: where a body names its model. A member at the top, or as in Higress a path through objects and lists.

use std::borrow::Cow;

use bytes::Bytes;

use crate::llm::error::ApiError;
use crate::llm::json::quote;
use crate::llm::request::peek_field;
use crate::llm::splice::{Edit, splice};
use crate::plugins::config::Fields;
use crate::plugins::transform::json_edit;

pub struct ModelKey {
    path: String,
    /// Whether `path` is the name of a member: one pass over the bytes finds and changes it, whatever else is there.
    is_name: bool,
}

impl ModelKey {
    pub fn read(fields: &mut Fields<'_>) -> ModelKey {
        let path = fields.string("modelKey").unwrap_or("model").to_owned();
        let is_name = path.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"_-".contains(&byte));
        ModelKey { is_name, path }
    }

    /// As it is written; the name of the part in a multipart body.
    pub fn as_str(&self) -> &str {
        &self.path
    }

    /// The model's name, `None` where there is no text.
    ///
    /// # Errors
    /// The body is not JSON.
    pub fn get<'a>(&self, body: &'a [u8]) -> Result<Option<Cow<'a, str>>, ApiError> {
        // Reads to the end, so the body is known to be JSON.
        let at_top = peek_field(body, &self.path)?;
        if self.is_name {
            return Ok(at_top);
        }
        let text = std::str::from_utf8(body).unwrap_or_default();
        let found = gjson::get(text, &self.path);
        Ok((found.kind() == gjson::Kind::String).then(|| found.str().to_owned().into()))
    }

    /// The body with another name; `None` if there cannot be one, as where the path leads through a number.
    pub fn set(&self, body: &Bytes, model: &str) -> Option<Bytes> {
        if self.is_name {
            return splice(body, &[Edit::set_string(self.path.as_str(), model)]).ok();
        }
        let text = std::str::from_utf8(body).ok()?;
        json_edit::set(text, &self.path, &quote(model)).ok().map(Bytes::from)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[track_caller]
    fn check(key: &str, body: &'static str, model: Option<&str>, changed: Option<&str>) {
        let config = json!({"modelKey": key});
        let key = ModelKey::read(&mut Fields::of(&config, ""));
        let body = Bytes::from_static(body.as_bytes());
        assert_eq!(key.get(&body).unwrap().as_deref(), model);
        assert_eq!(key.set(&body, "new").as_deref(), changed.map(str::as_bytes));
    }

    #[test]
    fn a_name_and_paths() {
        check("model", r#"{"x":1, "model":"old"}"#, Some("old"), Some(r#"{"x":1, "model":"new"}"#));
        check("a.model", r#"{"a": {"model":"old","y":1.0}}"#, Some("old"), Some(r#"{"a": {"model":"new","y":1.0}}"#));
        check("list.0.m", r#"{"list":[{"m":"old"}]}"#, Some("old"), Some(r#"{"list":[{"m":"new"}]}"#));
        check(r"a\.b", r#"{"a.b":"old"}"#, Some("old"), Some(r#"{"a.b":"new"}"#));
        check("a.model", r#"{"a":{"model":7}}"#, None, Some(r#"{"a":{"model":"new"}}"#));
        check("a.model", r#"{"a":7}"#, None, None);
    }

    #[test]
    fn what_is_not_json_is_an_error_for_both() {
        for key in ["model", "a.model"] {
            let config = json!({"modelKey": key});
            assert!(ModelKey::read(&mut Fields::of(&config, "")).get(b"{]").is_err(), "{key}");
        }
    }
}

//! A chat request as a view over the client's bytes.
//!
//! [`ChatRequest::parse`] walks the body once, checks what the gateway itself relies on (`model`, `messages` and their
//! roles, `stream`) and remembers where things stand. Everything else is the provider's to judge: unknown fields, message
//! contents and tools are neither checked nor copied, and [`ChatRequest::body`] is what the client sent, byte for byte.
//!
//! A member that stands twice counts as its last occurrence, as in most JSON readers; [`splice`](super::splice) changes
//! all of them, so that gateway and provider can't disagree on what a name means.

use std::borrow::Cow;
use std::ops::Range;

use bytes::Bytes;

use super::error::{ApiError, ErrorKind, body_text};
use super::json::{Cursor, JsonError, Kind, unquote};
use super::tokens::estimate_tokens;

/// Roles of chat messages that OpenAI's API defines, current and former.
const ROLES: [&str; 6] = ["system", "developer", "user", "assistant", "tool", "function"];

/// A valid chat completions request. Cheap to clone.
#[derive(Debug, Clone)]
pub struct ChatRequest {
    body: Bytes,
    model: String,
    messages: Messages,
    stream: bool,
    wants_usage: bool,
    has_tools: bool,
}

/// Where the messages stand in the body, and what one pass over them showed.
#[derive(Debug, Clone, Default)]
struct Messages {
    span: Range<usize>,
    n_messages: usize,
    n_turns: usize,
    /// Content of the last message that has some, and of the last such message of the user.
    last: Option<Range<usize>>,
    last_user: Option<Range<usize>>,
}

impl ChatRequest {
    /// Reads a chat request. Copies nothing but the model's name.
    ///
    /// # Errors
    /// `invalid_utf8`, `invalid_json` (also for nesting deeper than 127), `invalid_type`, `invalid_value`, `missing_model`,
    /// `missing_messages`, `empty_messages`; all with status 400 and, where there is one, the field as `param`.
    pub fn parse(body: &Bytes) -> Result<ChatRequest, ApiError> {
        body_text(body)?;
        let mut cursor = Cursor::new(body);
        if cursor.kind()? != Kind::Object {
            cursor.value()?;
            cursor.end()?;
            return Err(ApiError::new(
                ErrorKind::InvalidType,
                "The request body must be a JSON object with `model` and `messages`.",
            ));
        }
        // Each field keeps the verdict on its last occurrence.
        let mut model = Ok(None);
        let mut messages = None;
        let mut stream = Ok(false);
        let mut wants_usage = false;
        let mut has_tools = false;
        cursor.object(|cursor, key| {
            match key.text().as_ref() {
                "model" => model = string(cursor, "model")?,
                "messages" => messages = Some(read_messages(cursor)?),
                "stream" => stream = boolean(cursor, "stream")?,
                "stream_options" => wants_usage = includes_usage(cursor)?,
                "tools" | "functions" => has_tools |= !is_empty(cursor)?,
                _ => return cursor.value().map(drop),
            }
            Ok(())
        })?;
        cursor.end()?;

        let model = model?.filter(|model| !model.is_empty()).ok_or_else(|| {
            let message = "The request names no model. Set `model` to one of those that GET /v1/models lists.";
            ApiError::new(ErrorKind::MissingModel, message).with_param("model")
        })?;
        let messages = messages.unwrap_or_else(|| {
            let message =
                "The request has no `messages`. Send a list such as [{\"role\":\"user\",\"content\":\"Hello\"}].";
            Err(ApiError::new(ErrorKind::MissingMessages, message).with_param("messages"))
        })?;
        Ok(ChatRequest {
            body: body.clone(),
            model: model.into_owned(),
            messages,
            stream: stream?,
            wants_usage,
            has_tools,
        })
    }

    /// The body as the client sent it.
    pub fn body(&self) -> &Bytes {
        &self.body
    }

    /// The model the client asked for.
    pub fn model(&self) -> &str {
        &self.model
    }

    /// Whether the client wants the answer as a stream of events.
    pub fn stream(&self) -> bool {
        self.stream
    }

    /// Whether the client asked for usage at the end of the stream (`stream_options.include_usage`).
    pub fn wants_usage(&self) -> bool {
        self.wants_usage
    }

    /// Whether tools (or, in the old form, functions) are offered to the model.
    pub fn has_tools(&self) -> bool {
        self.has_tools
    }

    pub fn n_messages(&self) -> usize {
        self.messages.n_messages
    }

    /// Messages of the user: 1 in a fresh conversation.
    pub fn n_turns(&self) -> usize {
        self.messages.n_turns
    }

    /// The messages as written, a slice of the body.
    pub fn messages_json(&self) -> &str {
        // The body was UTF-8 when it was parsed, and the span ends at brackets.
        std::str::from_utf8(&self.body[self.messages.span.clone()]).unwrap_or_default()
    }

    /// The same as [`ChatRequest::messages_json`], shared with the body: for records that outlive the request.
    pub fn messages(&self) -> Bytes {
        self.body.slice(self.messages.span.clone())
    }

    /// What the user said last: the text of the last user message, text parts joined by line breaks. Without a user
    /// message the last message that has content; empty if that has no text (an image alone).
    pub fn last_user_text(&self) -> Cow<'_, str> {
        let content = self.messages.last_user.as_ref().or(self.messages.last.as_ref());
        content.map_or(Cow::Borrowed(""), |span| content_text(&self.body[span.clone()]))
    }

    /// Prompt tokens by [`estimate_tokens`], with four per message for the frame around it.
    pub fn estimate_prompt_tokens(&self) -> u64 {
        let text = &self.body[self.messages.span.clone()];
        let mut tokens = 4 * self.messages.n_messages as u64;
        // The text was valid when it was parsed.
        let _ = Cursor::new(text).array(|cursor| {
            let message = read_message(cursor)?;
            tokens += message.content.map_or(0, |span| estimate_tokens(&content_text(&text[span])));
            Ok(())
        });
        tokens
    }
}

/// The top-level string member `key` of any JSON object; of several, the last. `None` if there is no such member, it is not
/// a string, or the body is not an object.
///
/// # Errors
/// `invalid_utf8` or `invalid_json`: the whole body is checked, because a later member of the same name would win.
pub fn peek_field<'a>(body: &'a [u8], key: &str) -> Result<Option<Cow<'a, str>>, ApiError> {
    body_text(body)?;
    let mut cursor = Cursor::new(body);
    let mut found = None;
    if cursor.kind()? == Kind::Object {
        cursor.object(|cursor, member| {
            let is_string = cursor.kind()? == Kind::String;
            let raw = cursor.raw()?;
            if member.text() == key {
                found = is_string.then(|| unquote(raw));
            }
            Ok(())
        })?;
    } else {
        cursor.value()?;
    }
    cursor.end()?;
    Ok(found)
}

/// The text of a message's `content`, given as JSON: a string as it is, text parts joined by line breaks, else empty.
pub fn content_text(content: &[u8]) -> Cow<'_, str> {
    let mut cursor = Cursor::new(content);
    match cursor.kind() {
        Ok(Kind::String) => unquote(content.trim_ascii()),
        Ok(Kind::Array) => {
            let mut texts = Vec::new();
            // Content that is not valid ends early; what was read of it stands.
            let _ = cursor.array(|cursor| {
                if cursor.kind()? != Kind::Object {
                    return cursor.value().map(drop);
                }
                cursor.object(|cursor, key| {
                    let is_text = key.text() == "text" && cursor.kind()? == Kind::String;
                    let raw = cursor.raw()?;
                    if is_text {
                        texts.push(unquote(raw));
                    }
                    Ok(())
                })?;
                Ok(())
            });
            if texts.len() == 1 { texts.swap_remove(0) } else { Cow::Owned(texts.join("\n")) }
        }
        _ => Cow::Borrowed(""),
    }
}

/// A value that may be of the wrong type: broken JSON is the outer error, the wrong type the inner one.
type Checked<T> = Result<Result<T, ApiError>, JsonError>;

fn string<'a>(cursor: &mut Cursor<'a>, field: &str) -> Checked<Option<Cow<'a, str>>> {
    let kind = cursor.kind()?;
    let raw = cursor.raw()?;
    Ok(match kind {
        Kind::String => Ok(Some(unquote(raw))),
        Kind::Null => Ok(None),
        _ => Err(ApiError::wrong_type(field, "a string")),
    })
}

fn boolean(cursor: &mut Cursor<'_>, field: &str) -> Checked<bool> {
    let kind = cursor.kind()?;
    let raw = cursor.raw()?;
    Ok(match kind {
        Kind::Bool => Ok(raw == b"true"),
        Kind::Null => Ok(false),
        _ => Err(ApiError::wrong_type(field, "true or false")),
    })
}

fn includes_usage(cursor: &mut Cursor<'_>) -> Result<bool, JsonError> {
    let mut includes = false;
    if cursor.kind()? != Kind::Object {
        cursor.value()?;
        return Ok(false);
    }
    cursor.object(|cursor, key| {
        let raw = cursor.raw()?;
        if key.text() == "include_usage" {
            includes = raw == b"true";
        }
        Ok(())
    })?;
    Ok(includes)
}

/// Whether the value is null or a list without elements.
fn is_empty(cursor: &mut Cursor<'_>) -> Result<bool, JsonError> {
    let kind = cursor.kind()?;
    let raw = cursor.raw()?;
    Ok(match kind {
        Kind::Null => true,
        Kind::Array => raw[1..raw.len() - 1].trim_ascii().is_empty(),
        _ => false,
    })
}

fn read_messages(cursor: &mut Cursor<'_>) -> Checked<Messages> {
    if cursor.kind()? != Kind::Array {
        cursor.value()?;
        return Ok(Err(ApiError::wrong_type("messages", "a list of message objects")));
    }
    let mut messages = Messages::default();
    let mut wrong = None;
    messages.span = cursor.array(|cursor| {
        let at = messages.n_messages;
        messages.n_messages += 1;
        if cursor.kind()? != Kind::Object {
            wrong.get_or_insert_with(|| ApiError::wrong_type(&format!("messages[{at}]"), "an object"));
            return cursor.value().map(drop);
        }
        let message = read_message(cursor)?;
        if message.is_content_wrong {
            let field = format!("messages[{at}].content");
            wrong.get_or_insert_with(|| ApiError::wrong_type(&field, "a string, a list of parts or null"));
        }
        match message.role {
            Some(Ok(role)) if ROLES.contains(&role.as_ref()) => {
                if role == "user" {
                    messages.n_turns += 1;
                    messages.last_user = message.content.clone().or(messages.last_user.take());
                }
            }
            role => drop(wrong.get_or_insert_with(|| wrong_role(at, role))),
        }
        messages.last = message.content.or(messages.last.take());
        Ok(())
    })?;
    Ok(match wrong {
        Some(error) => Err(error),
        None if messages.n_messages == 0 => {
            let message = "`messages` is empty, so there is nothing to answer. Send at least one message.";
            Err(ApiError::new(ErrorKind::EmptyMessages, message).with_param("messages"))
        }
        None => Ok(messages),
    })
}

struct Message<'a> {
    /// The error is a role that is not a string.
    role: Option<Result<Cow<'a, str>, ()>>,
    /// Where the content stands, unless it is absent or null.
    content: Option<Range<usize>>,
    /// It is of a type that no API knows for it.
    is_content_wrong: bool,
}

fn read_message<'a>(cursor: &mut Cursor<'a>) -> Result<Message<'a>, JsonError> {
    let mut message = Message { role: None, content: None, is_content_wrong: false };
    cursor.object(|cursor, key| {
        let kind = cursor.kind()?;
        match key.text().as_ref() {
            "role" if kind == Kind::String => message.role = Some(Ok(unquote(cursor.raw()?))),
            "role" => {
                cursor.value()?;
                message.role = Some(Err(()));
            }
            "content" => {
                let (span, is_wrong) = match kind {
                    Kind::Array => parts(cursor)?,
                    Kind::String | Kind::Null => (cursor.value()?, false),
                    Kind::Bool | Kind::Number | Kind::Object => (cursor.value()?, true),
                };
                message.content = (kind != Kind::Null).then_some(span);
                message.is_content_wrong = is_wrong;
            }
            _ => return cursor.value().map(drop),
        }
        Ok(())
    })?;
    Ok(message)
}

/// Where a list of parts stands, and whether something in it is no part, or has a text that is none. Parts of kinds we do not know are
/// the provider's matter.
fn parts(cursor: &mut Cursor<'_>) -> Result<(Range<usize>, bool), JsonError> {
    let mut is_wrong = false;
    let span = cursor.array(|cursor| {
        if cursor.kind()? != Kind::Object {
            is_wrong = true;
            return cursor.value().map(drop);
        }
        cursor.object(|cursor, key| {
            is_wrong |= key.text() == "text" && matches!(cursor.kind()?, Kind::Bool | Kind::Number);
            cursor.value().map(drop)
        })?;
        Ok(())
    })?;
    Ok((span, is_wrong))
}

fn wrong_role(at: usize, role: Option<Result<Cow<'_, str>, ()>>) -> ApiError {
    let field = format!("messages[{at}].role");
    match role {
        Some(Ok(role)) => {
            // A role may be as long as the body; the message must not be.
            let role: String = role.chars().take(40).collect();
            let message = format!("`{field}` is \"{role}\", which is not a role. Use one of {}.", ROLES.join(", "));
            ApiError::new(ErrorKind::InvalidValue, message).with_param(field)
        }
        Some(Err(())) => ApiError::wrong_type(&field, "a string"),
        None => {
            let message = format!("`messages[{at}]` has no role. Set it to one of {}.", ROLES.join(", "));
            ApiError::new(ErrorKind::InvalidValue, message).with_param(field)
        }
    }
}

#[cfg(test)]
mod tests;

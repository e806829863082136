//! The parts of answers that are observed, in all the shapes they come in.
//!
//! One set of borrowed structs reads OpenAI chat completions, completions and responses, Anthropic messages, and the usage
//! of Gemini: their member names do not collide. Reading is lenient: a member of an unexpected type counts as absent,
//! because a provider's oddity must cost one field and not the whole record. It is written by hand, not derived, because
//! it runs for every event of every stream.

use std::borrow::Cow;

use crate::llm::json::{Cursor, JsonError, Kind, unquote};

/// Reads a JSON document into `T`; fails only if it is not JSON.
pub fn read<'a, T: Read<'a>>(document: &'a [u8]) -> Result<T, JsonError> {
    let mut cursor = Cursor::new(document);
    let mut value = T::default();
    value.read(&mut cursor)?;
    cursor.end()?;
    Ok(value)
}

/// What can be filled from the value at a cursor. Stays as it is if the value has another type.
pub trait Read<'a>: Default {
    fn read(&mut self, cursor: &mut Cursor<'a>) -> Result<(), JsonError>;
}

/// Declares structs that are read from JSON objects, each field from the member named behind it.
macro_rules! wire {
    ($(
        $(#[$meta:meta])*
        struct $name:ident $(<$life:lifetime>)? { $($(#[$field_meta:meta])* $field:ident: $type:ty = $key:literal,)* }
    )*) => {$(
        $(#[$meta])*
        #[derive(Debug, Default)]
        pub struct $name $(<$life>)? { $($(#[$field_meta])* pub $field: $type,)* }

        impl<'a> Read<'a> for $name $(<$life>)? {
            fn read(&mut self, cursor: &mut Cursor<'a>) -> Result<(), JsonError> {
                if cursor.kind()? != Kind::Object {
                    return cursor.value().map(drop);
                }
                cursor.object(|cursor, key| match key.raw() {
                    $($key => self.$field.read(cursor),)*
                    _ => cursor.value().map(drop),
                })?;
                Ok(())
            }
        }
    )*};
}

wire! {
    /// A whole answer, or one event of a stream.
    struct Wire<'a> {
        id: Text<'a> = b"id",
        model: Text<'a> = b"model",
        model_version: Text<'a> = b"modelVersion",
        /// Anthropic and the responses API name each event here.
        kind: Text<'a> = b"type",
        choices: First<Choice<'a>> = b"choices",
        usage: Option<Usage<'a>> = b"usage",
        usage_metadata: Option<GeminiUsage> = b"usageMetadata",
        error: OneOf<'a, ErrorBody<'a>> = b"error",
        code: Text<'a> = b"code",
        /// Anthropic `message_start`; a plain string in some error events.
        message: OneOf<'a, Inner<'a>> = b"message",
        response: Option<Inner<'a>> = b"response",
        /// A string in the responses API, an object in Anthropic's.
        delta: OneOf<'a, Delta<'a>> = b"delta",
        index: Count = b"index",
        content_block: Option<Block<'a>> = b"content_block",
        output_index: Count = b"output_index",
        item: Option<Block<'a>> = b"item",
        /// A whole Anthropic message.
        content: Vec<Block<'a>> = b"content",
        stop_reason: Text<'a> = b"stop_reason",
        /// A whole answer of the responses API.
        output: Vec<Block<'a>> = b"output",
        status: Text<'a> = b"status",
    }

    struct Choice<'a> {
        index: Count = b"index",
        delta: Option<Delta<'a>> = b"delta",
        message: Option<Delta<'a>> = b"message",
        text: Text<'a> = b"text",
        finish_reason: Text<'a> = b"finish_reason",
        /// Moonshot puts the usage of a stream here.
        usage: Option<Usage<'a>> = b"usage",
    }

    /// A message or a piece of one; the second half is Anthropic's.
    struct Delta<'a> {
        content: Text<'a> = b"content",
        reasoning_content: Text<'a> = b"reasoning_content",
        reasoning: Text<'a> = b"reasoning",
        refusal: Text<'a> = b"refusal",
        tool_calls: Vec<ToolPiece<'a>> = b"tool_calls",
        text: Text<'a> = b"text",
        thinking: Text<'a> = b"thinking",
        partial_json: Text<'a> = b"partial_json",
        stop_reason: Text<'a> = b"stop_reason",
    }

    struct ToolPiece<'a> {
        index: Count = b"index",
        id: Text<'a> = b"id",
        function: Function<'a> = b"function",
    }

    struct Function<'a> {
        name: Text<'a> = b"name",
        arguments: Text<'a> = b"arguments",
    }

    /// Anthropic's message inside `message_start`, the responses API's response inside its events.
    struct Inner<'a> {
        id: Text<'a> = b"id",
        model: Text<'a> = b"model",
        usage: Option<Usage<'a>> = b"usage",
        error: OneOf<'a, ErrorBody<'a>> = b"error",
        status: Text<'a> = b"status",
    }

    /// A content block (Anthropic) or an output item (responses API), as far as both say the same.
    struct Block<'a> {
        kind: Text<'a> = b"type",
        id: Text<'a> = b"id",
        call_id: Text<'a> = b"call_id",
        name: Text<'a> = b"name",
        text: Text<'a> = b"text",
        thinking: Text<'a> = b"thinking",
        /// Text parts, joined.
        content: Text<'a> = b"content",
        summary: Text<'a> = b"summary",
        arguments: Text<'a> = b"arguments",
        input: RawObject<'a> = b"input",
    }

    struct ErrorBody<'a> {
        message: Text<'a> = b"message",
        kind: Text<'a> = b"type",
        code: Text<'a> = b"code",
        param: Text<'a> = b"param",
    }

    struct Usage<'a> {
        prompt_tokens: Count = b"prompt_tokens",
        completion_tokens: Count = b"completion_tokens",
        total_tokens: Count = b"total_tokens",
        input_tokens: Count = b"input_tokens",
        output_tokens: Count = b"output_tokens",
        cache_creation_input_tokens: Count = b"cache_creation_input_tokens",
        cache_read_input_tokens: Count = b"cache_read_input_tokens",
        /// DeepSeek's and Moonshot's places for what OpenAI has in the details.
        prompt_cache_hit_tokens: Count = b"prompt_cache_hit_tokens",
        cached_tokens: Count = b"cached_tokens",
        prompt_tokens_details: RawObject<'a> = b"prompt_tokens_details",
        completion_tokens_details: RawObject<'a> = b"completion_tokens_details",
        input_tokens_details: RawObject<'a> = b"input_tokens_details",
        output_tokens_details: RawObject<'a> = b"output_tokens_details",
    }

    struct UsageDetails {
        cached_tokens: Count = b"cached_tokens",
        reasoning_tokens: Count = b"reasoning_tokens",
    }

    struct GeminiUsage {
        prompt: Count = b"promptTokenCount",
        candidates: Count = b"candidatesTokenCount",
        total: Count = b"totalTokenCount",
        thoughts: Count = b"thoughtsTokenCount",
        cached: Count = b"cachedContentTokenCount",
    }

    struct Part<'a> {
        text: Text<'a> = b"text",
    }
}

/// A string. A list counts as the texts of its parts, a number as its digits (error codes); all else as absent.
#[derive(Debug, Default)]
pub struct Text<'a>(pub Option<Cow<'a, str>>);

impl Text<'_> {
    /// The text, unless it is absent or empty.
    pub fn filled(&self) -> Option<&str> {
        self.0.as_deref().filter(|text| !text.is_empty())
    }
}

impl<'a> Read<'a> for Text<'a> {
    fn read(&mut self, cursor: &mut Cursor<'a>) -> Result<(), JsonError> {
        self.0 = match cursor.kind()? {
            Kind::String | Kind::Number => Some(unquote(cursor.raw()?)),
            Kind::Array => {
                let mut parts: Vec<Part<'a>> = Vec::new();
                parts.read(cursor)?;
                let texts: String = parts.iter().filter_map(|part| part.text.filled()).collect();
                Some(texts.into())
            }
            _ => {
                cursor.value()?;
                None
            }
        };
        Ok(())
    }
}

/// A count of something; absent if it is not a number of zero or more.
#[derive(Debug, Default, Clone, Copy)]
pub struct Count(pub Option<u64>);

impl<'a> Read<'a> for Count {
    fn read(&mut self, cursor: &mut Cursor<'a>) -> Result<(), JsonError> {
        let is_number = cursor.kind()? == Kind::Number;
        let digits = unquote(cursor.raw()?);
        let whole = || digits.parse::<f64>().ok().filter(|x| (0.0..9e15).contains(x)).map(|x| x as u64);
        self.0 = if is_number { digits.parse().ok().or_else(whole) } else { None };
        Ok(())
    }
}

/// An object as it stands in the document, not read any further.
#[derive(Debug, Default, Clone, Copy)]
pub struct RawObject<'a>(pub Option<&'a [u8]>);

impl<'a> RawObject<'a> {
    pub fn text(&self) -> Option<Cow<'a, str>> {
        self.0.map(String::from_utf8_lossy)
    }
}

impl<'a> Read<'a> for RawObject<'a> {
    fn read(&mut self, cursor: &mut Cursor<'a>) -> Result<(), JsonError> {
        let is_object = cursor.kind()? == Kind::Object;
        let raw = cursor.raw()?;
        self.0 = is_object.then_some(raw);
        Ok(())
    }
}

impl<'a, T: Read<'a>> Read<'a> for Option<T> {
    fn read(&mut self, cursor: &mut Cursor<'a>) -> Result<(), JsonError> {
        if cursor.kind()? == Kind::Object { self.insert(T::default()).read(cursor) } else { cursor.value().map(drop) }
    }
}

impl<'a, T: Read<'a>> Read<'a> for Vec<T> {
    fn read(&mut self, cursor: &mut Cursor<'a>) -> Result<(), JsonError> {
        self.clear();
        if cursor.kind()? != Kind::Array {
            return cursor.value().map(drop);
        }
        cursor.array(|cursor| {
            let mut item = T::default();
            item.read(cursor)?;
            self.push(item);
            Ok(())
        })?;
        Ok(())
    }
}

/// The first element of a list. Later ones are further alternatives of an answer, which are not observed.
#[derive(Debug)]
pub struct First<T>(pub Option<T>);

impl<T> Default for First<T> {
    fn default() -> Self {
        First(None)
    }
}

impl<'a, T: Read<'a>> Read<'a> for First<T> {
    fn read(&mut self, cursor: &mut Cursor<'a>) -> Result<(), JsonError> {
        self.0 = None;
        if cursor.kind()? != Kind::Array {
            return cursor.value().map(drop);
        }
        cursor.array(|cursor| if self.0.is_none() { self.0.read(cursor) } else { cursor.value().map(drop) })?;
        Ok(())
    }
}

/// A string or an object, by the event's type.
#[derive(Debug, Default)]
pub enum OneOf<'a, T> {
    #[default]
    None,
    Text(Cow<'a, str>),
    Object(T),
}

impl<'a, T: Read<'a>> Read<'a> for OneOf<'a, T> {
    fn read(&mut self, cursor: &mut Cursor<'a>) -> Result<(), JsonError> {
        *self = match cursor.kind()? {
            Kind::String => OneOf::Text(unquote(cursor.raw()?)),
            Kind::Object => {
                let mut object = T::default();
                object.read(cursor)?;
                OneOf::Object(object)
            }
            _ => {
                cursor.value()?;
                OneOf::None
            }
        };
        Ok(())
    }
}

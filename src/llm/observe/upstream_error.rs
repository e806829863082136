//! Errors of providers, from every place they put them.

use super::wire::{ErrorBody, OneOf, Text, Wire, read};

/// An error object of a provider.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UpstreamError {
    pub message: String,
    /// `error.type`
    pub kind: Option<String>,
    pub code: Option<String>,
    pub param: Option<String>,
}

impl UpstreamError {
    /// Reads the error out of a provider's error body. `None` if it is not JSON or holds no error.
    pub fn parse(body: &[u8]) -> Option<UpstreamError> {
        let wire: Wire<'_> = read(body).ok()?;
        error_of(&wire).or_else(|| match &wire.message {
            OneOf::Text(message) => Some(UpstreamError {
                message: message.to_string(),
                code: wire.code.0.as_deref().map(str::to_owned),
                ..UpstreamError::default()
            }),
            _ => None,
        })
    }

    /// The error in the data of an `error` event, whatever its form.
    pub(super) fn of_event(data: &[u8]) -> UpstreamError {
        UpstreamError::parse(data).unwrap_or_else(|| UpstreamError {
            message: String::from_utf8_lossy(data).into_owned(),
            ..UpstreamError::default()
        })
    }
}

/// The error in an answer, wherever the provider put it.
pub fn error_of(wire: &Wire<'_>) -> Option<UpstreamError> {
    let inside = wire.response.as_ref().map(|response| &response.error);
    [Some(&wire.error), inside].into_iter().flatten().find_map(error_body).or_else(|| {
        // The responses API has message and code beside the type.
        let is_error = wire.kind.0.as_deref() == Some("error");
        is_error.then(|| UpstreamError {
            message: if let OneOf::Text(message) = &wire.message { message.to_string() } else { String::new() },
            code: wire.code.0.as_deref().map(str::to_owned),
            ..UpstreamError::default()
        })
    })
}

fn error_body(error: &OneOf<'_, ErrorBody<'_>>) -> Option<UpstreamError> {
    let owned = |text: &Text<'_>| text.filled().map(str::to_owned);
    match error {
        OneOf::None => None,
        OneOf::Text(message) => Some(UpstreamError { message: message.to_string(), ..UpstreamError::default() }),
        OneOf::Object(body) => Some(UpstreamError {
            message: owned(&body.message).unwrap_or_default(),
            kind: owned(&body.kind),
            code: owned(&body.code),
            param: owned(&body.param),
        }),
    }
}

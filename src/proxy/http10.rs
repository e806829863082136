//! Answers for HTTP/1.0 clients, which know no chunks: the end of the connection is that of the answer.
//!
//! A module in pingora's sense, as pingora says `chunked` of an answer without a length after everybody else has seen its head.

use std::any::Any;

use async_trait::async_trait;
use http::Version;
use http::header::{CONTENT_LENGTH, TRANSFER_ENCODING};
use pingora_core::modules::http::{HttpModule, HttpModuleBuilder, Module, ModuleBuilder};
use pingora_error::Result;
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::Session;

use super::respond;

/// The module, once for each request.
pub fn module() -> ModuleBuilder {
    Box::new(Builder)
}

struct Builder;

impl HttpModuleBuilder for Builder {
    fn init(&self) -> Module {
        Box::new(Unchunked::default())
    }
}

/// Has the answer say that its end is that of the connection, where it has no length.
pub fn end_with_answer(session: &mut Session, head: &ResponseHeader) {
    let has_length = head.headers.contains_key(CONTENT_LENGTH) || respond::is_bare(head.status);
    if session.req_header().version == Version::HTTP_10 && !has_length {
        session.set_keepalive(None);
    }
}

#[derive(Default)]
struct Unchunked {
    is_for_client: bool,
}

#[async_trait]
impl HttpModule for Unchunked {
    async fn request_header_filter(&mut self, request: &mut RequestHeader) -> Result<()> {
        self.is_for_client = request.version == Version::HTTP_10;
        Ok(())
    }

    async fn response_header_filter(&mut self, response: &mut ResponseHeader, _end_of_stream: bool) -> Result<()> {
        if self.is_for_client {
            response.remove_header(&TRANSFER_ENCODING);
        }
        Ok(())
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}

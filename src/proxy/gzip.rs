//! Compression of answers as the ConfigMap `higress-config` asks for it (`gzip`), with the conditions of Envoy's compressor.
//!
//! A module in pingora's sense: it sees every answer last, whichever path wrote it. Each piece is flushed, so that an event stream
//! stays one; pingora's own compression keeps pieces back until it has enough of them, and knows neither lengths nor types.

use std::any::Any;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use flate2::{Compress, Compression, FlushCompress, Status};
use http::header::{
    ACCEPT_ENCODING, CACHE_CONTROL, CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, ETAG,
    TRANSFER_ENCODING, VARY,
};
use http::{HeaderMap, HeaderName, Method, Version};
use pingora_core::modules::http::{HttpModule, HttpModuleBuilder, Module, ModuleBuilder};
use pingora_error::Result;
use pingora_http::{RequestHeader, ResponseHeader};
use pingora_proxy::Session;

use crate::config::model::Gzip as Settings;

/// The module, once for each request.
pub fn module() -> ModuleBuilder {
    Box::new(Builder)
}

/// Says how this request's answer may be compressed. Called before anything is answered; without it nothing is compressed.
pub fn configure(session: &mut Session, settings: Option<&Arc<Settings>>) {
    if let Some(gzip) = session.downstream_modules_ctx.get_mut::<Gzip>()
        && gzip.client_can_read
    {
        gzip.settings = settings.cloned();
    }
}

struct Builder;

impl HttpModuleBuilder for Builder {
    fn init(&self) -> Module {
        Box::new(Gzip::default())
    }
}

#[derive(Default)]
struct Gzip {
    settings: Option<Arc<Settings>>,
    /// HTTP/1.1 or later, and a method whose answers have bodies: others are not asked for their encodings.
    client_can_read: bool,
    client_accepts: bool,
    encoder: Option<Encoder>,
}

#[async_trait]
impl HttpModule for Gzip {
    /// Runs before plugins, which may take `accept-encoding` away from the upstream.
    async fn request_header_filter(&mut self, request: &mut RequestHeader) -> Result<()> {
        self.client_can_read = request.version >= Version::HTTP_11 && request.method != Method::HEAD;
        self.client_accepts = self.client_can_read && accepts_gzip(&request.headers);
        Ok(())
    }

    async fn response_header_filter(&mut self, response: &mut ResponseHeader, end_of_stream: bool) -> Result<()> {
        let Some(settings) = &self.settings else { return Ok(()) };
        if response.status.is_informational() || !settings.takes(response) {
            return Ok(());
        }
        if self.client_accepts && !end_of_stream {
            self.encoder = Some(Encoder::new(settings));
            response.remove_header(&CONTENT_LENGTH);
            // A strong tag names other bytes than these.
            if response.headers.get(ETAG).is_some_and(|tag| !tag.as_bytes().starts_with(b"W/")) {
                response.remove_header(&ETAG);
            }
            response.insert_header(CONTENT_ENCODING, "gzip")?;
            // HTTP/2 writes no such header.
            response.insert_header(TRANSFER_ENCODING, "chunked")?;
        }
        // Caches must know that there is another form even if this client did not get it.
        if !lists(&response.headers, &VARY, "accept-encoding") {
            response.append_header(VARY, "Accept-Encoding")?;
        }
        Ok(())
    }

    fn response_body_filter(&mut self, body: &mut Option<Bytes>, end_of_stream: bool) -> Result<()> {
        let Some(encoder) = &mut self.encoder else { return Ok(()) };
        let piece = body.take().unwrap_or_default();
        if end_of_stream {
            *body = Some(encoder.encode(&piece, FlushCompress::Finish));
            self.encoder = None;
        } else if !piece.is_empty() {
            *body = Some(encoder.encode(&piece, FlushCompress::Sync));
        }
        Ok(())
    }

    fn response_done_filter(&mut self) -> Result<Option<Bytes>> {
        Ok(self.encoder.take().map(|mut encoder| encoder.encode(&[], FlushCompress::Finish)))
    }

    fn as_any(&self) -> &dyn Any {
        self
    }

    fn as_any_mut(&mut self) -> &mut dyn Any {
        self
    }
}

impl Settings {
    /// Whether an answer with this head is one to compress, for a client that can read it.
    fn takes(&self, response: &ResponseHeader) -> bool {
        let headers = &response.headers;
        let text = |name: &HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
        let length = text(&CONTENT_LENGTH).and_then(|length| length.parse::<u64>().ok());
        let kind = text(&CONTENT_TYPE).unwrap_or_default().split(';').next().unwrap_or_default().trim();
        let is_bare = matches!(response.status.as_u16(), 101 | 204 | 304);
        !is_bare
            && length.is_none_or(|length| length >= self.min_content_length)
            && self.content_types.iter().any(|own| own.eq_ignore_ascii_case(kind))
            && !headers.contains_key(CONTENT_ENCODING)
            && !headers.contains_key(CONTENT_RANGE)
            && !lists(headers, &CACHE_CONTROL, "no-transform")
            && !(self.disable_on_etag_header && headers.contains_key(ETAG))
    }
}

/// Whether a header's comma-separated list has `wanted`.
fn lists(headers: &HeaderMap, name: &HeaderName, wanted: &str) -> bool {
    let values = headers.get_all(name).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).any(|entry| entry.trim().eq_ignore_ascii_case(wanted))
}

/// `gzip` by name, or else any (`*`), unless its weight is zero.
fn accepts_gzip(headers: &HeaderMap) -> bool {
    let (mut by_name, mut by_star) = (None, None);
    let values = headers.get_all(ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    for entry in values.flat_map(|value| value.split(',')) {
        let (coding, parameters) = entry.split_once(';').unwrap_or((entry, ""));
        let weight = parameters.split(';').find_map(|parameter| parameter.trim().strip_prefix("q="));
        let is_wanted = weight.and_then(|weight| weight.trim().parse::<f32>().ok()).is_none_or(|weight| weight > 0.0);
        match coding.trim() {
            coding if coding.eq_ignore_ascii_case("gzip") => by_name = Some(is_wanted),
            "*" => by_star = Some(is_wanted),
            _ => {}
        }
    }
    by_name.or(by_star).unwrap_or(false)
}

struct Encoder {
    compress: Compress,
    chunk_size: usize,
}

impl Encoder {
    fn new(settings: &Settings) -> Encoder {
        let compress = Compress::new_gzip(Compression::new(settings.level), settings.window_bits);
        Encoder { compress, chunk_size: settings.chunk_size }
    }

    /// `input` compressed, with all of it in the result.
    fn encode(&mut self, input: &[u8], flush: FlushCompress) -> Bytes {
        let mut output = Vec::with_capacity(self.chunk_size);
        let before = self.compress.total_in();
        loop {
            let consumed = usize::try_from(self.compress.total_in() - before).unwrap_or(input.len());
            let status = self.compress.compress_vec(&input[consumed.min(input.len())..], &mut output, flush);
            // Room left over means that nothing is kept back. Compressing into memory has no errors but wrong use.
            let is_done = match status {
                Ok(Status::StreamEnd) | Err(_) => true,
                Ok(_) => flush != FlushCompress::Finish && output.len() < output.capacity(),
            };
            if is_done {
                return output.into();
            }
            output.reserve(self.chunk_size);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn head(headers: &[(&'static str, &str)]) -> ResponseHeader {
        let mut head = ResponseHeader::build(200, None).unwrap();
        for (name, value) in headers {
            head.append_header(*name, *value).unwrap();
        }
        head
    }

    fn unzipped(bytes: &[u8]) -> Vec<u8> {
        let mut text = Vec::new();
        // A stream that is still open ends early for the decoder, which then has given all it got.
        let _ = flate2::read::GzDecoder::new(bytes).read_to_end(&mut text);
        text
    }

    #[test]
    fn which_answers_are_compressed() {
        let settings = Settings { min_content_length: 100, ..Settings::default() };
        let json = ("content-type", "Application/JSON; charset=utf-8");
        for (headers, expected) in [
            (vec![json, ("content-length", "100")], true),
            (vec![json], true),
            (vec![json, ("content-length", "99")], false),
            (vec![("content-type", "image/png")], false),
            (vec![], false),
            (vec![json, ("content-encoding", "br")], false),
            (vec![json, ("cache-control", "public, no-transform")], false),
            (vec![json, ("etag", "\"x\"")], false),
            (vec![json, ("content-range", "bytes 0-1/2")], false),
        ] {
            assert_eq!(settings.takes(&head(&headers)), expected, "{headers:?}");
        }
        let tagged = head(&[json, ("etag", "\"x\"")]);
        assert!(Settings { disable_on_etag_header: false, ..settings }.takes(&tagged));
    }

    #[test]
    fn which_clients_get_it() {
        for (sent, expected) in [
            (&["gzip"][..], true),
            (&["*"], true),
            (&["br, GZIP;q=0.5"], true),
            (&["br", "gzip"], true),
            (&["gzip;q=0, *"], false),
            (&["*;q=0"], false),
            (&["br, identity"], false),
            (&[], false),
        ] {
            let mut headers = HeaderMap::new();
            for value in sent {
                headers.append(ACCEPT_ENCODING, value.parse().unwrap());
            }
            assert_eq!(accepts_gzip(&headers), expected, "{sent:?}");
        }
    }

    #[test]
    fn each_piece_can_be_read_when_it_comes() {
        let mut encoder = Encoder::new(&Settings::default());
        let mut wire = Vec::new();
        let mut text = Vec::new();
        // Longer than window, chunk and output buffer, and hard to compress.
        let noise: Vec<u8> = (0..20_000_u32).flat_map(|i| (i.wrapping_mul(2_654_435_761)).to_le_bytes()).collect();
        for piece in [&b"data: 1\n\n"[..], b"data: 2\n\n", &noise, b"end"] {
            wire.extend_from_slice(&encoder.encode(piece, FlushCompress::Sync));
            text.extend_from_slice(piece);
            assert_eq!(unzipped(&wire), text);
        }
        wire.extend_from_slice(&encoder.encode(&[], FlushCompress::Finish));
        let mut whole = Vec::new();
        flate2::read::GzDecoder::new(&wire[..]).read_to_end(&mut whole).unwrap();
        assert_eq!(whole, text);
    }

    #[test]
    fn a_whole_answer_is_compressed_in_one_piece() {
        let mut gzip = Gzip { settings: Some(Arc::default()), client_accepts: true, ..Gzip::default() };
        let mut head = head(&[("content-type", "text/plain"), ("content-length", "4000"), ("vary", "Origin")]);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(gzip.response_header_filter(&mut head, false)).unwrap();
        assert_eq!(
            (&head.headers["content-encoding"], head.headers.get_all("vary").iter().count()),
            (&"gzip".parse().unwrap(), 2)
        );
        assert!(!head.headers.contains_key("content-length"));
        let mut body = Some(Bytes::from(vec![b'a'; 4000]));
        gzip.response_body_filter(&mut body, true).unwrap();
        assert_eq!(unzipped(&body.unwrap()), vec![b'a'; 4000]);
        assert_eq!(gzip.response_done_filter().unwrap(), None);
    }
}

//! Any bytes as the body of a chat request: read, looked at, and changed in one place without touching the rest.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use weirgate_fuzz::llm::request::{ChatRequest, content_text, peek_field};
use weirgate_fuzz::llm::splice::{Edit, splice};

fuzz_target!(|bytes: &[u8]| {
    content_text(bytes);
    let _ = peek_field(bytes, "model");
    let body = Bytes::copy_from_slice(bytes);
    let Ok(request) = ChatRequest::parse(&body) else { return };
    request.last_user_text();
    request.estimate_prompt_tokens();
    request.messages();
    let changed = splice(&body, &[Edit::set_string("model", "other")]).expect("a chat request has one model");
    let again = ChatRequest::parse(&changed).expect("a change of the model leaves a request");
    assert_eq!(again.model(), "other");
    assert_eq!(again.messages_json(), request.messages_json());
});

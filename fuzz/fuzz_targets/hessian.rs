//! Any bytes as the answer of a Dubbo service.
#![no_main]

use libfuzzer_sys::fuzz_target;
use serde_json::Value;
use weirgate_fuzz::rpc::dubbo::{HEAD_BYTES, Head, response};
use weirgate_fuzz::rpc::hessian::{Number, Reader, Writer};

/// What is read of a value that was written.
fn again(value: &Value) -> Value {
    let mut writer = Writer::default();
    writer.value(value, Number::Long);
    Reader::new(&writer.into_bytes()).value().expect("what we write, we read")
}

fuzz_target!(|bytes: &[u8]| {
    let mut reader = Reader::new(bytes);
    while !reader.is_at_end() {
        let Ok(value) = reader.value() else { break };
        // The first time, a map loses the class that Dubbo's generic values name in it.
        let once = again(&value);
        assert_eq!(again(&once), once);
    }
    if let Some((head, body)) = bytes.split_first_chunk::<HEAD_BYTES>()
        && let Some(head) = Head::read(*head)
    {
        let _ = response(head, body);
    }
});

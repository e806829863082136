//! Any bytes as a stream of events: the cut of the pieces does not matter.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weirgate_fuzz::llm::sse::SseParser;

fn events(pieces: &[&[u8]]) -> Vec<String> {
    let mut found = Vec::new();
    let mut parser = SseParser::new(4096);
    for piece in pieces {
        if parser.push(piece, &mut |event| found.push(format!("{event:?}"))).is_err() {
            return vec!["too large".to_owned()];
        }
    }
    let rest = parser.finish(&mut |event| found.push(format!("{event:?}")));
    found.push(format!("{rest:?}"));
    found
}

fuzz_target!(|input: (u16, &[u8])| {
    let (cut, bytes) = input;
    let (first, second) = bytes.split_at(usize::from(cut) % (bytes.len() + 1));
    assert_eq!(events(&[bytes]), events(&[first, second]));
});

//! Any bytes as the head of a request: the cut of the pieces does not matter, and what is accepted is unambiguous.
#![no_main]

use libfuzzer_sys::fuzz_target;
use weirgate_fuzz::proxy::framing::{Lines, check};

fuzz_target!(|input: (u16, &[u8])| {
    let (cut, bytes) = input;
    let whole = Lines::default().end(bytes);
    let mut lines = Lines::default();
    let cut = usize::from(cut) % (bytes.len() + 1);
    let pieces = match lines.end(&bytes[..cut]) {
        Ok(None) => lines.end(bytes),
        found => found,
    };
    assert_eq!(whole, pieces);
    let Ok(Some(end)) = whole else { return };
    let head = &bytes[..end];
    if check(head).is_err() {
        return;
    }
    let text: Vec<String> =
        head[..end - 4].split(|b| *b == b'\n').map(|line| String::from_utf8_lossy(line).to_ascii_lowercase()).collect();
    let n = |name: &str| text.iter().skip(1).filter(|line| line.starts_with(name)).count();
    assert!(n("content-length:") + n("transfer-encoding:") <= 1 && n("host:") <= 1);
    assert!(!head.contains(&0) && head.iter().filter(|b| **b == b'\r').count() == head.iter().filter(|b| **b == b'\n').count());
});

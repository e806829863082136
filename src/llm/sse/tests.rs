use proptest::prelude::*;

use super::*;
use crate::llm::error::ErrorKind;

const FRAMING: &[u8] = include_bytes!("../fixtures/streams/framing.sse");

type Owned = (String, String, String);

fn owned(event: SseEvent<'_>) -> Owned {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (text(event.event), text(event.data), text(event.id))
}

/// The events of `chunks`, what was left, and what each push settled.
fn parse<'c>(chunks: impl IntoIterator<Item = &'c [u8]>) -> (Vec<Owned>, Option<Incomplete>, Vec<usize>) {
    let mut parser = SseParser::new(1 << 20);
    let mut events = Vec::new();
    let mut settled = Vec::new();
    for chunk in chunks {
        settled.push(parser.push(chunk, &mut |event| events.push(owned(event))).unwrap());
    }
    let left = parser.finish(&mut |event| events.push(owned(event)));
    (events, left, settled)
}

fn event(event: &str, data: &str, id: &str) -> Owned {
    (event.to_owned(), data.to_owned(), id.to_owned())
}

#[test]
fn framing_follows_the_standard() {
    let (events, left, settled) = parse([FRAMING]);
    let expected =
        [event("one", "a\nb\n c", "1"), event("", "\n", "1"), event("", "last 你", "1"), event("two", "[DONE]", "")];
    assert_eq!(events, expected);
    assert_eq!(left, None);
    assert_eq!(settled, [FRAMING.len()]);
}

#[test]
fn a_stream_cut_anywhere_gives_the_same_events() {
    let streams: [&[u8]; 5] = [
        FRAMING,
        include_bytes!("../fixtures/streams/chat.sse"),
        include_bytes!("../fixtures/streams/tools.sse"),
        include_bytes!("../fixtures/streams/anthropic.sse"),
        include_bytes!("../fixtures/streams/responses_api.sse"),
    ];
    for stream in streams {
        let whole = parse([stream]);
        assert!(whole.0.len() >= 4);
        for at in 0..=stream.len() {
            let (head, tail) = stream.split_at(at);
            let (events, left, settled) = parse([head, tail]);
            assert_eq!((&events, left), (&whole.0, whole.1), "cut at {at}");
            assert_eq!(settled[1], tail.len(), "cut at {at}");
        }
        let bytewise = parse(stream.chunks(1));
        assert_eq!((bytewise.0, bytewise.1), (whole.0, whole.1));
    }
}

#[test]
fn settled_bytes_never_end_inside_an_event() {
    let stream = b"data: 1\r\n\r\n: note\ndata: 2\n\nevent: x\ndata: 3";
    let (_, left, settled) = parse([&stream[..]]);
    assert_eq!(settled, [b"data: 1\r\n\r\n: note\ndata: 2\n\n".len()]);
    assert_eq!(left, Some(Incomplete { n_bytes: 8 }));
    // The LF of a CR LF that was cut apart belongs to the event before it.
    assert_eq!(parse([&b"data: 1\r\n\r"[..], b"\n", b"data"]).2, [10, 1, 0]);
    assert_eq!(parse([&b"data: 1\r"[..], b"\n", b"\r\n"]).2, [0, 0, 2]);
}

#[test]
fn the_last_event_may_lack_its_empty_line() {
    for (stream, n_events, left) in [
        (&b"data: 1\n\ndata: [DONE]"[..], 2, true),
        (b"data: 1\n\ndata: [DONE]\n", 2, true),
        (b"data: 1\n\ndata: [DONE]\n\n", 2, false),
        (b"data: 1\n\n: bye", 1, true),
        (b"data: 1\n\nevent: x\n", 1, true),
        (b"", 0, false),
    ] {
        let (events, incomplete, _) = parse([stream]);
        assert_eq!((events.len(), incomplete.is_some()), (n_events, left), "{}", String::from_utf8_lossy(stream));
    }
}

#[test]
fn memory_is_bounded_by_the_largest_event() {
    for stream in [&b"data: 12345678"[..], b"data: 1234\ndata: 5678\n", b"event: 12345678901\n", b": 1234567890123"] {
        let mut parser = SseParser::new(10);
        let error = stream.chunks(3).find_map(|chunk| parser.push(chunk, &mut |_| {}).err());
        assert_eq!(error, Some(EventTooLarge { max_event_bytes: 10 }), "{}", String::from_utf8_lossy(stream));
        // Nor is it a matter of how the bytes were cut.
        assert!(SseParser::new(10).push(&[stream, b"\n"].concat(), &mut |_| {}).is_err());
    }
    let mut parser = SseParser::new(10);
    let mut n_events = 0;
    for _ in 0..1000 {
        parser.push(b"data: 123\n\n", &mut |_| n_events += 1).unwrap();
    }
    assert_eq!(n_events, 1000);
}

#[test]
fn a_cut_stream_ends_with_an_error_the_client_sees() {
    let error = ApiError::new(ErrorKind::UpstreamCut, "line one\nline two");
    let (events, left, _) = parse([&b"data: {\"half\":"[..], &error_event(&error, None, true)]);
    assert_eq!((events.len(), left), (2, None));
    let body: serde_json::Value = serde_json::from_str(&events[1].1).unwrap();
    assert_eq!(body["error"]["code"], "upstream_cut");
    assert_eq!(body["error"]["message"], "line one\nline two");
    assert!(error_event(&error, None, false).starts_with(b"data: {"));
    let event = error_event(&error, Some(Api::AnthropicMessages), false);
    assert!(
        event.starts_with(b"event: error\ndata: {\"type\":\"error\",")
            || event.starts_with(b"event: error\ndata: {\"error\":")
    );
    let (events, _, _) = parse([&event[..]]);
    let body: serde_json::Value = serde_json::from_str(&events[0].1).unwrap();
    assert_eq!((&body["type"], &body["error"]["type"]), (&"error".into(), &"api_error".into()));
}

proptest! {
    #[test]
    fn any_bytes_parse_the_same_however_they_are_cut(
        lines in prop::collection::vec(prop::sample::select(vec![
            "data: x", "data:", "data", "event: e", "id: 7", ": c", "", "", "\u{feff}", "data: 你\0", "x:y",
        ]), 0..24),
        ends in prop::collection::vec(prop::sample::select(vec!["\n", "\r\n", "\r"]), 24),
        cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
    ) {
        let stream: String = lines.iter().zip(&ends).flat_map(|(line, end)| [*line, *end]).collect();
        let stream = stream.as_bytes();
        let whole = parse([stream]);
        let mut at: Vec<usize> = cuts.iter().map(|cut| cut.index(stream.len() + 1)).collect();
        at.extend([0, stream.len()]);
        at.sort_unstable();
        let parts = parse(at.windows(2).map(|pair| &stream[pair[0]..pair[1]]));
        prop_assert_eq!((whole.0, whole.1), (parts.0, parts.1));
    }

    #[test]
    fn settled_prefixes_hold_whole_events(stream in "(data: [a-z]{0,3}|event: e|: c|)(\r\n|\n|\r)", n in 1_usize..9) {
        // What is settled, parsed alone, leaves nothing open.
        let stream = stream.repeat(n);
        let settled = parse([stream.as_bytes()]).2[0];
        prop_assert_eq!(parse([&stream.as_bytes()[..settled]]).1, None);
    }
}

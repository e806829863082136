use super::*;
use proptest::prelude::*;
use serde::de::IgnoredAny;

fn check(text: &str) -> Result<Range<usize>, JsonError> {
    let mut cursor = Cursor::new(text.as_bytes());
    let range = cursor.value()?;
    cursor.end()?;
    Ok(range)
}

#[test]
fn values_and_their_ranges() {
    for (text, range) in [
        (" {} ", 1..3),
        ("[ ]", 0..3),
        (r#"{"a":[1,{"b":null}],"c":"\u00e9\"x"}"#, 0..36),
        ("\n-0.5e+10\t", 1..9),
        ("1e999", 0..5),
        ("\"\\ud800\"", 0..8),
        ("true", 0..4),
    ] {
        assert_eq!(check(text), Ok(range), "{text}");
    }
}

#[test]
fn what_is_not_json_says_where_and_why() {
    for (text, offset, reason) in [
        ("", 0, "the text ends where a value is expected"),
        ("{\"a\":1,}", 7, "expected a member name in double quotes"),
        ("{\"a\" 1}", 5, "expected ':' after the member name"),
        ("[1 2]", 3, "expected ',' or ']' after a value"),
        ("[1", 2, "the text ends inside a value"),
        ("\"abc", 0, "a string that never ends, beginning"),
        ("\"a\u{0}\"", 2, "an unescaped control character in a string"),
        ("\u{0}", 0, "expected a value"),
        (r#""\x""#, 1, "an invalid escape in a string"),
        ("01", 1, "unexpected text after the value"),
        ("1.", 2, "expected a digit"),
        ("nul", 0, "expected true, false or null"),
        ("{} {}", 3, "unexpected text after the value"),
        ("\u{feff}{}", 0, "expected a value"),
    ] {
        assert_eq!(check(text), Err(JsonError { offset, reason }), "{text:?}");
    }
}

#[test]
fn depth_is_bounded_where_serde_json_bounds_it() {
    let nested = |n: usize| "[".repeat(n) + &"]".repeat(n);
    assert!(check(&nested(127)).is_ok());
    assert!(serde_json::from_str::<serde_json::Value>(&nested(127)).is_ok());
    assert_eq!(check(&nested(128)).map_err(|error| error.reason), Err("nested more than 127 levels deep"));
    assert!(serde_json::from_str::<serde_json::Value>(&nested(128)).is_err());
    assert!(check(&nested(1_000_000)).is_err());
    // The bound counts the levels a caller has already entered.
    let mut cursor = Cursor::new(b"[[1]]");
    cursor.depth = MAX_DEPTH - 1;
    assert!(cursor.array(|inner| inner.value().map(drop)).is_err());
}

#[test]
fn strings_decode_as_serde_json_decodes_them() {
    for quoted in [r#""plain""#, r#""\"\\\/\b\f\n\r\t""#, r#""\u4f60\u597d é""#, r#""\ud83d\ude00!""#, r#""""#] {
        assert_eq!(unquote(quoted.as_bytes()), serde_json::from_str::<String>(quoted).unwrap(), "{quoted}");
    }
    assert!(matches!(unquote(br#""plain""#), Cow::Borrowed("plain")));
    assert_eq!(unquote(br#""a\ud83dz\udc00\ud83d\u0041""#), "a\u{fffd}z\u{fffd}\u{fffd}A");
}

fn json_text() -> impl Strategy<Value = String> {
    let leaf = prop_oneof![
        Just("null".to_owned()),
        any::<f64>().prop_filter("JSON has no infinities", |x| x.is_finite()).prop_map(|x| x.to_string()),
        any::<String>().prop_map(|s| quote(&s)),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(|items| format!("[{}]", items.join(" ,"))),
            prop::collection::vec((any::<String>(), inner), 0..4).prop_map(|members| {
                let members: Vec<_> = members.into_iter().map(|(k, v)| format!("{} : {v}", quote(&k))).collect();
                format!("{{\n{}}}", members.join(","))
            }),
        ]
    })
}

proptest! {
    #[test]
    fn accepts_what_serde_json_accepts(text in json_text(), at in any::<prop::sample::Index>(), byte in any::<char>()) {
        prop_assert_eq!(check(&text).map(|range| range.len()), Ok(text.len()));
        // One character changed: both must agree whether it is still JSON.
        let at = at.index(text.chars().count());
        let broken: String = text.chars().enumerate().map(|(i, c)| if i == at { byte } else { c }).collect();
        prop_assert_eq!(check(&broken).is_ok(), serde_json::from_str::<IgnoredAny>(&broken).is_ok(), "{}", broken);
    }

    #[test]
    fn any_string_survives_quoting(text in any::<String>()) {
        let quoted = quote(&text);
        prop_assert_eq!(unquote(quoted.as_bytes()), text);
    }
}

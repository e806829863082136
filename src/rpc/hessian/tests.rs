//! Golden bytes from the specification's examples, both ways; and no input that breaks the reader.

use proptest::prelude::*;
use serde_json::{Value, json};

use super::*;

fn written(write: impl FnOnce(&mut Writer)) -> Vec<u8> {
    let mut writer = Writer::default();
    write(&mut writer);
    writer.into_bytes()
}

fn read(bytes: &[u8]) -> Value {
    let mut reader = Reader::new(bytes);
    let value = reader.value().unwrap_or_else(|error| panic!("{bytes:02x?}: {error}"));
    assert!(reader.is_at_end(), "{bytes:02x?}");
    value
}

#[test]
fn whole_numbers_have_the_specified_forms() {
    let cases: &[(i32, &[u8])] = &[
        (0, b"\x90"),
        (-16, b"\x80"),
        (47, b"\xbf"),
        (48, b"\xc8\x30"),
        (-2048, b"\xc0\x00"),
        (-256, b"\xc7\x00"),
        (2047, b"\xcf\xff"),
        (-262_144, b"\xd0\x00\x00"),
        (262_143, b"\xd7\xff\xff"),
        (262_144, b"I\x00\x04\x00\x00"),
        (i32::MIN, b"I\x80\x00\x00\x00"),
    ];
    for (value, bytes) in cases {
        assert_eq!(written(|writer| writer.int(*value)), *bytes, "{value}");
        assert_eq!(read(bytes), json!(value));
    }
    let cases: &[(i64, &[u8])] = &[
        (0, b"\xe0"),
        (-8, b"\xd8"),
        (15, b"\xef"),
        (16, b"\xf8\x10"),
        (-2048, b"\xf0\x00"),
        (-256, b"\xf7\x00"),
        (2047, b"\xff\xff"),
        (-262_144, b"\x38\x00\x00"),
        (262_143, b"\x3f\xff\xff"),
        (262_144, b"\x59\x00\x04\x00\x00"),
        (300_000_000_000, b"L\x00\x00\x00\x45\xd9\x64\xb8\x00"),
    ];
    for (value, bytes) in cases {
        assert_eq!(written(|writer| writer.long(*value)), *bytes, "{value}");
        assert_eq!(read(bytes), json!(value));
    }
}

#[test]
fn doubles_have_the_specified_forms() {
    let cases: &[(f64, &[u8])] = &[
        (0.0, b"\x5b"),
        (1.0, b"\x5c"),
        (-128.0, b"\x5d\x80"),
        (127.0, b"\x5d\x7f"),
        (-32768.0, b"\x5e\x80\x00"),
        (32767.0, b"\x5e\x7f\xff"),
        (12.25, b"D\x40\x28\x80\x00\x00\x00\x00\x00"),
    ];
    for (value, bytes) in cases {
        assert_eq!(written(|writer| writer.double(*value)), *bytes, "{value}");
        assert_eq!(read(bytes), json!(value));
    }
    assert_eq!(read(b"\x5f\x00\x00\x2f\xda"), json!(12.25), "thousandths, which are read only");
    assert_eq!(read(&written(|writer| writer.double(-0.0))).as_f64().unwrap().to_bits(), (-0.0f64).to_bits());
    assert_eq!(read(&written(|writer| writer.double(f64::NAN))), Value::Null);
}

#[test]
fn strings_count_utf_16_units() {
    for (text, bytes) in [
        ("", &b"\x00"[..]),
        ("hello", b"\x05hello"),
        ("\u{c3}", b"\x01\xc3\x83"),
        ("\u{4e2d}", b"\x01\xe4\xb8\xad"),
        ("\u{1f600}", b"\x02\xed\xa0\xbd\xed\xb8\x80"),
    ] {
        assert_eq!(written(|writer| writer.string(text)), bytes, "{text}");
        assert_eq!(read(bytes), text);
    }
    assert_eq!(read(b"\x01\xf0\x9f\x98\x80").as_str().map(str::len), Some(4), "plain UTF-8 of some writers");
    assert!(written(|writer| writer.string(&"x".repeat(32))).starts_with(b"\x30\x20x"));
    assert!(written(|writer| writer.string(&"x".repeat(1024))).starts_with(b"S\x04\x00x"));
    for text in ["y".repeat(100_000), format!("{}\u{1f600}{}", "z".repeat(0x7fff), "z".repeat(10))] {
        let bytes = written(|writer| writer.string(&text));
        assert_eq!((bytes[0], read(&bytes)), (b'R', json!(text)));
    }
}

#[test]
fn lists_maps_and_objects_are_read_in_every_form() {
    for (bytes, expected) in [
        (&b"\x57\x90\x91Z"[..], json!([0, 1])),
        (b"\x58\x92\x90\x91", json!([0, 1])),
        (b"\x7a\x90\x91", json!([0, 1])),
        (b"\x72\x04[int\x90\x91", json!([0, 1])),
        (b"V\x04[int\x92\x90\x91", json!([0, 1])),
        (b"\x55\x04[int\x90\x91Z", json!([0, 1])),
        // The second list refers to the first one's type.
        (b"\x7a\x71\x04[int\x90\x71\x90\x91", json!([[0], [1]])),
        (b"H\x91\x03fee\x01a\x90Z", json!({"1": "fee", "a": 0})),
        (b"M\x03Car\x05colorNZ", json!({"color": null})),
        // What generic answers add to say which class a map was.
        (b"H\x05class\x03Car\x01a\x90Z", json!({"a": 0})),
        (
            b"C\x0bexample.Car\x92\x05color\x05model\x60\x03red\x08corvette",
            json!({"class": "example.Car", "color": "red", "model": "corvette"}),
        ),
        (b"C\x03Car\x91\x01aO\x90\x91", json!({"class": "Car", "a": 1})),
        // One map twice, and a list in itself.
        (b"\x7aH\x01a\x90ZQ\x91", json!([{"a": 0}, {"a": 0}])),
        (b"\x79\x51\x90", json!([null])),
        (b"\x4a\x00\x00\x00\xd0\x4b\x92\x84\xb8", json!(894_621_091_000_i64)),
        (b"\x4b\x00\xe3\x83\x8f", json!(894_621_060_000_i64)),
        (b"\x23\x01\x02\x03", json!([1, 2, 3])),
        (b"A\x00\x01\x01\x22\x02\x03", json!([1, 2, 3])),
    ] {
        assert_eq!(read(bytes), expected, "{bytes:02x?}");
    }
}

#[test]
fn what_is_broken_or_endless_is_refused() {
    for bytes in [
        &b""[..],
        b"I\x00",
        b"\x05hel",
        b"\x57\x90",
        b"H\x01a",
        b"\x01\xff",
        b"\x58I\x7f\xff\xff\xff",
        b"\x60",
        b"Q\x95",
        b"\x40",
    ] {
        assert!(Reader::new(bytes).value().is_err(), "{bytes:02x?}");
    }
    assert_eq!(Reader::new(&b"\x57".repeat(100_000)).value(), Err(Unreadable::TooLarge));
    // Each list holds the one before it ten times.
    let mut bomb = b"\x57\x7a\x90\x91".to_vec();
    for place in 1..40 {
        bomb.push(0x57);
        (0..10).for_each(|_| bomb.extend([0x51, 0x90 + place]));
        bomb.push(b'Z');
    }
    assert_eq!(Reader::new(&bomb).value(), Err(Unreadable::TooLarge));
}

proptest! {
    #[test]
    fn json_survives_the_way_there_and_back(value in json_value()) {
        for number in [Number::Int, Number::Long] {
            prop_assert_eq!(&read(&written(|writer| writer.value(&value, number))), &value);
        }
    }

    #[test]
    fn no_bytes_break_the_reader(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
        let _ = Reader::new(&bytes).value();
    }
}

fn json_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        (-1e9..1e9).prop_map(|number: f64| json!(number)),
        ".{0,40}".prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 32, 6, |inner| {
        prop_oneof![
            proptest::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            proptest::collection::hash_map("k.{0,8}", inner, 0..6).prop_map(|map| json!(map)),
        ]
    })
}

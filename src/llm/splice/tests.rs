use proptest::prelude::*;
use serde_json::{Map, Value, json};

use super::*;
use crate::llm::error::ErrorKind;

fn check(body: &str, edits: &[Edit<'_>], expected: &str) {
    let spliced = splice(&Bytes::copy_from_slice(body.as_bytes()), edits).unwrap();
    assert_eq!(std::str::from_utf8(&spliced).unwrap(), expected);
}

#[test]
fn a_member_is_replaced_where_it_stands() {
    check(r#"{ "model" : "a" , "x":1.50 }"#, &[Edit::set_string("model", "b\"")], r#"{ "model" : "b\"" , "x":1.50 }"#);
    check(r#"{"m\u006fdel":"a"}"#, &[Edit::set("model", "1")], r#"{"m\u006fdel":1}"#);
    check(r#"{"o":{"a":1,"b":2},"z":[]}"#, &[Edit::set("o.b", "3")], r#"{"o":{"a":1,"b":3},"z":[]}"#);
}

#[test]
fn equal_members_are_all_changed() {
    check(
        r#"{"model":"a","x":0,"model":"b"}"#,
        &[Edit::set_string("model", "c")],
        r#"{"model":"c","x":0,"model":"c"}"#,
    );
    check(r#"{"model":"a","x":0,"model":"b"}"#, &[Edit::remove("model")], r#"{"x":0}"#);
}

#[test]
fn absent_members_are_added_at_the_end() {
    check("{}", &[Edit::set("a", "1")], r#"{"a":1}"#);
    check("{ \n}", &[Edit::set("a.b", "1"), Edit::set("a.c", "2")], "{\"a\":{\"b\":1,\"c\":2} \n}");
    check("{\"x\":1\n}", &[Edit::set("a", "1"), Edit::set("b", "2")], "{\"x\":1,\"a\":1,\"b\":2\n}");
    check(r#"{"o":null}"#, &[Edit::default("o.a", "1")], r#"{"o":{"a":1}}"#);
    check(r#"{"o":{ }}"#, &[Edit::set("o.a", "1")], r#"{"o":{"a":1 }}"#);
}

#[test]
fn a_default_only_fills_a_gap() {
    let edit = [Edit::default("stream_options.include_usage", "true")];
    check(r#"{"stream":true}"#, &edit, r#"{"stream":true,"stream_options":{"include_usage":true}}"#);
    check(r#"{"stream_options":{"x":1}}"#, &edit, r#"{"stream_options":{"x":1,"include_usage":true}}"#);
    check(r#"{"stream_options":{"include_usage":false}}"#, &edit, r#"{"stream_options":{"include_usage":false}}"#);
}

#[test]
fn removal_takes_the_separator_along() {
    for (body, expected) in [
        (r#"{"a":1}"#, "{}"),
        (r#"{ "a":1 , "b":2 }"#, r#"{  "b":2 }"#),
        (r#"{"b":2 ,"a":1}"#, r#"{"b":2}"#),
        (r#"{"b":2,"a":1,"c":3}"#, r#"{"b":2,"c":3}"#),
        (r#"{"a":1,"a":2,"b":2}"#, r#"{"b":2}"#),
        (r#"{"b":2}"#, r#"{"b":2}"#),
    ] {
        check(body, &[Edit::remove("a")], expected);
    }
    check(r#"{"a":1}"#, &[Edit::remove("a"), Edit::set("b", "2")], r#"{"b":2}"#);
    check(r#"{"a":1,"c":3}"#, &[Edit::remove("a"), Edit::set("b", "2")], r#"{"c":3,"b":2}"#);
}

#[test]
fn edits_that_meet_apply_in_turn() {
    check("{}", &[Edit::set("a", "{\"x\":1}"), Edit::set("a.b", "2"), Edit::remove("a.x")], r#"{"a":{"b":2}}"#);
    check("{}", &[Edit::set("a", "1"), Edit::set("a", "2")], r#"{"a":2}"#);
    check(r#"{"a":1}"#, &[Edit::remove("a"), Edit::set("a.b", "2")], r#"{"a":{"b":2}}"#);
}

#[test]
fn nothing_to_change_returns_the_same_memory() {
    let body = Bytes::from_static(b"{\"model\": \"a\"}");
    for edits in
        [vec![], vec![Edit::set_string("model", "a")], vec![Edit::remove("x")], vec![Edit::default("model", "1")]]
    {
        assert_eq!(splice(&body, &edits).unwrap().as_ptr(), body.as_ptr());
    }
}

#[test]
fn what_cannot_be_changed_is_an_error() {
    let set = [Edit::set("a.b", "1")];
    let error = |body: &'static [u8]| splice(&Bytes::from_static(body), &set).unwrap_err();
    assert_eq!(error(b"[]"), SpliceError::NotAnObject(String::new()));
    assert_eq!(error(b"{\"a\":[]}"), SpliceError::NotAnObject("a".to_owned()));
    assert_eq!(ApiError::from(error(b"{\"a\":5}")).param.as_deref(), Some("a"));
    assert_eq!(ApiError::from(error(b"{\"a\":{}")).kind, ErrorKind::InvalidJson);
    // Whether strings are UTF-8 is not checked again; they pass.
    assert_eq!(
        splice(&Bytes::from_static(b"{\"x\":\"\xff\"}"), &set).unwrap().as_ref(),
        b"{\"x\":\"\xff\",\"a\":{\"b\":1}}"
    );
    let deep = splice(&Bytes::from_static(b"{\"a\":{\"b\":1}}"), &[Edit::set("a.b.c", "1")]).unwrap_err();
    assert_eq!(deep, SpliceError::NotAnObject("a.b".to_owned()));
}

/// What an edit means, on a parsed value.
fn apply_to_value(object: &mut Map<String, Value>, edit: &Edit<'_>) {
    let segments: Vec<&str> = edit.path().split('.').collect();
    let Some((last, parents)) = segments.split_last() else { return };
    let mut object = object;
    if matches!(edit, Edit::Remove(_)) {
        for parent in parents {
            match object.get_mut(*parent) {
                Some(Value::Object(inner)) => object = inner,
                _ => return,
            }
        }
        object.remove(*last);
        return;
    }
    for parent in parents {
        let inner = object.entry(*parent).or_insert(Value::Null);
        if inner.is_null() {
            *inner = json!({});
        }
        object = inner.as_object_mut().unwrap();
    }
    match edit {
        Edit::Set(_, value) => drop(object.insert(last.to_string(), serde_json::from_str(value).unwrap())),
        Edit::Default(_, value) if !object.contains_key(*last) => {
            object.insert(last.to_string(), serde_json::from_str(value).unwrap());
        }
        _ => {}
    }
}

fn edit() -> impl Strategy<Value = Edit<'static>> {
    let path = prop::sample::select(vec!["a", "b", "c", "o.a", "o.b", "o.p.a", "n.a", "n"]);
    let value = prop::sample::select(vec!["1", "\"s\"", "{\"a\":7}", "null", "{ }"]);
    (path, value, 0..3).prop_map(|(path, value, which)| match which {
        0 => Edit::set(path, value),
        1 => Edit::default(path, value),
        _ => Edit::remove(path),
    })
}

proptest! {
    #[test]
    fn splicing_means_what_editing_the_value_means(
        members in prop::collection::btree_map("[abcdo]", prop::sample::select(vec!["1.50", "[ {} ]", "\"\\u00e9\"", "null"]), 0..5),
        inner in prop::collection::btree_map("[abp]", prop::sample::select(vec!["2", "{\"a\": 1 }", "{}"]), 0..4),
        edits in prop::collection::vec(edit(), 1..4),
        space in prop::sample::select(vec!["", " ", "\n\t"]),
    ) {
        let object = |members: Vec<(String, String)>| {
            let members: Vec<_> = members.iter().map(|(k, v)| format!("{space}\"{k}\"{space}:{space}{v}{space}")).collect();
            format!("{{{}}}", members.join(","))
        };
        let to_vec = |map: std::collections::BTreeMap<String, &str>| map.into_iter().map(|(k, v)| (k, v.to_owned())).collect::<Vec<_>>();
        let mut all = to_vec(members);
        all.retain(|(key, _)| key != "o");
        all.push(("o".to_owned(), object(to_vec(inner))));
        all.push(("untouched".to_owned(), "[1.0,  \"\\u0041\"]".to_owned()));
        let body = object(all);

        let mut expected: Map<String, Value> = serde_json::from_str(&body).unwrap();
        match splice(&Bytes::from(body.clone()), &edits) {
            Ok(spliced) => {
                for edit in &edits {
                    apply_to_value(&mut expected, edit);
                }
                let text = std::str::from_utf8(&spliced).unwrap();
                prop_assert_eq!(serde_json::from_str::<Map<String, Value>>(text).unwrap(), expected, "{} -> {}", body, text);
                let untouched = format!("{space}\"untouched\"{space}:{space}[1.0,  \"\\u0041\"]");
                prop_assert!(text.contains(&untouched));
            }
            Err(error) => {
                // Only a path through a value that is no object can fail here.
                prop_assert!(matches!(error, SpliceError::NotAnObject(_)), "{}", error);
            }
        }
    }
}

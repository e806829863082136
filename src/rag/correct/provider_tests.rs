use super::*;

fn provider(json: &str) -> Provider {
    serde_json::from_str(json).unwrap()
}

fn answer(status: u16, body: &str) -> WebResponse {
    WebResponse { status, content_type: "application/json".into(), body: body.as_bytes().to_vec() }
}

const JSON: &str = r#"{"provider":"json","url":"http://host/find?text={query}&n={count}","results_path":"data.hits",
    "title":"doc.name","url_path":"doc.href","text":"parts.0","headers":[{"name":"x-key","value":"k"}]}"#;

#[test]
fn requests_as_each_engine_wants_them() {
    let timeout = Duration::from_secs(3);
    for (settings, url, header, body) in [
        (
            r#"{"provider":"searxng","base_url":"http://searx.local:8080/"}"#,
            "http://searx.local:8080/search?q=C%2B%2B%20%26%20%E7%BD%91%E5%85%B3&format=json",
            None,
            None,
        ),
        (
            r#"{"provider":"bing","key":"k"}"#,
            "https://api.bing.microsoft.com/v7.0/search?q=C%2B%2B%20%26%20%E7%BD%91%E5%85%B3&count=5",
            Some(("ocp-apim-subscription-key", "k")),
            None,
        ),
        (
            r#"{"provider":"brave","key":"k"}"#,
            "https://api.search.brave.com/res/v1/web/search?q=C%2B%2B%20%26%20%E7%BD%91%E5%85%B3&count=5",
            Some(("x-subscription-token", "k")),
            None,
        ),
        (
            r#"{"provider":"google","key":"a b","engine":"e:1"}"#,
            "https://www.googleapis.com/customsearch/v1?key=a%20b&cx=e%3A1&num=5&q=C%2B%2B%20%26%20%E7%BD%91%E5%85%B3",
            None,
            None,
        ),
        (
            r#"{"provider":"tavily","key":"k"}"#,
            "https://api.tavily.com/search",
            Some(("authorization", "Bearer k")),
            Some(r#"{"query":"C++ & 网关","max_results":5}"#),
        ),
        (
            r#"{"provider":"serper","key":"k"}"#,
            "https://google.serper.dev/search",
            Some(("x-api-key", "k")),
            Some(r#"{"q":"C++ & 网关","num":5}"#),
        ),
        (JSON, "http://host/find?text=C%2B%2B%20%26%20%E7%BD%91%E5%85%B3&n=5", Some(("x-key", "k")), None),
    ] {
        let request = provider(settings).request("C++ & 网关", 5, timeout).unwrap();
        assert_eq!(request.url, url);
        assert_eq!(request.body.as_deref(), body, "{settings}");
        assert_eq!(request.method, if body.is_some() { Method::Post } else { Method::Get });
        if let Some((name, value)) = header {
            assert!(request.headers.contains(&(name.into(), Secret::new(value))), "{settings}");
        }
        assert_eq!(request.reach, Reach::Configured, "an engine may be in the own network");
    }
}

#[test]
fn a_question_brings_no_placeholders() {
    let request = provider(JSON).request("{count} {query}", 5, Duration::from_secs(1)).unwrap();
    assert_eq!(request.url, "http://host/find?text=%7Bcount%7D%20%7Bquery%7D&n=5");
    let tavily = provider(r#"{"provider":"tavily","key":"k"}"#);
    let request = tavily.request("{count} \"{query}\"", 5, Duration::from_secs(1)).unwrap();
    assert_eq!(request.body.unwrap(), r#"{"query":"{count} \"{query}\"","max_results":5}"#);
}

#[test]
fn answers_as_each_engine_gives_them() {
    let page = |title: &str, url: &str, text: &str| WebPage { title: title.into(), url: url.into(), text: text.into() };
    let expected = [page("A & B", "https://a.org/?x=1&y=2", "some text 3 < 4")];
    for (settings, body) in [
        (
            r#"{"provider":"searxng","base_url":"http://s"}"#,
            r#"{"results":[{"title":"A &amp; B","url":"https://a.org/?x=1&y=2","content":"some <b>text</b> 3 < 4"}]}"#,
        ),
        (
            r#"{"provider":"bing","key":"k"}"#,
            r#"{"webPages":{"value":[{"name":"A & B","url":"https://a.org/?x=1&y=2","snippet":"some text 3 &lt; 4"}]}}"#,
        ),
        (
            r#"{"provider":"brave","key":"k"}"#,
            r#"{"web":{"results":[{"title":"A & B","url":"https://a.org/?x=1&y=2","description":"<strong>some</strong> text 3 < 4"}]}}"#,
        ),
        (
            r#"{"provider":"google","key":"k","engine":"e"}"#,
            r#"{"items":[{"title":"A & B","link":"https://a.org/?x=1&y=2","snippet":"some text 3 < 4"}]}"#,
        ),
        (
            r#"{"provider":"tavily","key":"k"}"#,
            r#"{"results":[{"title":"A & B","url":"https://a.org/?x=1&y=2","content":"some text 3 < 4"}]}"#,
        ),
        (
            r#"{"provider":"serper","key":"k"}"#,
            r#"{"organic":[{"title":"A & B","link":"https://a.org/?x=1&y=2","snippet":"some text 3 < 4"}]}"#,
        ),
        (
            JSON,
            r#"{"data":{"hits":[{"doc":{"name":"A & B","href":"https://a.org/?x=1&y=2"},"parts":["some text 3 < 4"]}]}}"#,
        ),
    ] {
        assert_eq!(provider(settings).pages(&answer(200, body)).unwrap(), expected, "{settings}");
    }
}

#[test]
fn nothing_found_is_no_error() {
    assert_eq!(provider(r#"{"provider":"bing","key":"k"}"#).pages(&answer(200, r#"{"_type":"x"}"#)), Ok(vec![]));
    assert_eq!(provider(r#"{"provider":"google","key":"k","engine":"e"}"#).pages(&answer(200, "{}")), Ok(vec![]));
}

#[test]
fn errors_say_what_to_do() {
    let searxng = provider(r#"{"provider":"searxng","base_url":"http://s"}"#);
    let brave = provider(r#"{"provider":"brave","key":"k-secret"}"#);
    for (provider, response, expected) in [
        (&searxng, answer(403, ""), "search.formats"),
        (&brave, answer(401, ""), "Brave answered 401: the API key"),
        (&brave, answer(429, ""), "quota"),
        (&brave, answer(500, ""), "out of order"),
        (&brave, answer(200, "<html>"), "not JSON"),
        (&brave, answer(200, r#"{"web":{"results":7}}"#), "no list at \"web.results\""),
        (&brave, answer(200, r#"{"error":"bad plan"}"#), "it says: bad plan"),
        (&provider(JSON), answer(200, "{}"), "no list at \"data.hits\""),
    ] {
        let error = provider.pages(&response).unwrap_err();
        assert!(error.contains(expected), "{error}");
        assert!(!error.contains("k-secret"), "{error}");
    }
}

#[test]
fn settings_are_checked() {
    for (settings, expected) in [
        (r#"{"provider":"searxng","base_url":"searx"}"#, "must begin with"),
        (r#"{"provider":"bing","key":""}"#, "`key` is empty"),
        (r#"{"provider":"google","key":"k","engine":""}"#, "cx"),
        (r#"{"provider":"json","url":"http://h","results_path":"","title":"t","text":"x"}"#, "{query}"),
        (r#"{"provider":"json","url":"http://h/{query}","results_path":"","title":"","text":""}"#, "both empty"),
    ] {
        let error = provider(settings).request("q", 1, Duration::from_secs(1)).unwrap_err();
        assert!(error.contains(expected), "{error}");
    }
}

#[test]
fn paths_are_names_and_positions() {
    let value = serde_json::json!({"a": [{"b": 1}, {"b": 2}], "c": null});
    for (path, expected) in
        [("a.1.b", Some(2.into())), ("", Some(value.clone())), ("a.2", None), ("c.x", None), ("a.x", None)]
    {
        assert_eq!(at_path(&value, path).cloned(), expected, "{path}");
    }
}

#[test]
fn keys_never_show() {
    for settings in
        [JSON, r#"{"provider":"tavily","key":"k-secret"}"#, r#"{"provider":"google","key":"k-secret","engine":"e"}"#]
    {
        let provider = provider(settings);
        let request = provider.request("q", 1, Duration::from_secs(1)).unwrap();
        let shown = format!("{provider:?} {request:?} {}", serde_json::to_string(&provider).unwrap());
        assert!(!shown.contains("k-secret"), "{shown}");
    }
}

proptest::proptest! {
    #[test]
    fn any_answer_can_be_read(text in "(\\PC|[<>&;/a]){0,60}", body in "[\\[\\]{}:,\"a0-9]{0,40}") {
        let _ = plain(&text);
        let _ = provider(JSON).pages(&answer(200, &body));
    }
}

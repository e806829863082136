//! Rules of the kinds the reference documents, and a small rule set in place of the Core Rule Set.

use http::HeaderValue;
use http::header::LOCATION;
use serde_json::{Value, json};

use super::*;
use crate::plugins::HttpAnswer;
use crate::plugins::testing::{Exchange, answer, built, problem_fields};

/// Status of the refusal.
fn refused(config: &Value, method: &str, path: &str, headers: &[(&'static str, &str)], body: &str) -> Option<u16> {
    let mut exchange = Exchange::new(method, path, headers).with_body(body.to_owned());
    if !body.is_empty() {
        exchange.head.insert_header("content-length", body.len().to_string()).unwrap();
    }
    exchange.state.client_ip = Some("10.0.0.7".parse().unwrap());
    let reply = exchange.run(&built(&SPEC, config))?;
    assert_eq!((reply.details.as_str(), reply.body.len()), ("waf", 0));
    Some(reply.status)
}

#[test]
fn the_documented_example_works() {
    let config = json!({"useCRS": false, "secRules": [
        "SecDebugLogLevel 3",
        "SecRuleEngine On",
        "SecAction \"id:100,phase:1,pass\"",
        "SecRule REQUEST_URI \"@streq /admin\" \"id:101,phase:1,t:lowercase,deny\"",
        "SecRule REQUEST_BODY \"@rx maliciouspayload\" \"id:102,phase:2,t:lowercase,deny\"",
    ]});
    for (method, path, body, expected) in [
        ("GET", "/admin", "", Some(403)),
        ("GET", "/ADMIN", "", Some(403)),
        ("GET", "/admins", "", None),
        ("POST", "/", "a MaliciousPayload", Some(403)),
        ("POST", "/", "a good payload", None),
    ] {
        assert_eq!(refused(&config, method, path, &[], body), expected, "{method} {path} {body}");
    }
}

#[test]
fn operators_variables_and_actions_decide() {
    let (json_type, form) =
        ([("content-type", "application/json")], [("content-type", "application/x-www-form-urlencoded")]);
    for (rule, path, headers, body, expected) in [
        (
            "SecRule ARGS:q \"@contains ../\" \"id:1,phase:1,t:urlDecodeUni,deny,status:400\"",
            "/?q=..%2fetc",
            &[][..],
            "",
            Some(400),
        ),
        ("SecRule ARGS \"@rx (?i)union\\s+select\" \"id:1,phase:2,deny\"", "/", &form, "x=1+UNION+SELECT", Some(403)),
        ("SecRule ARGS \"@detectSQLi\" \"id:1,phase:2,deny\"", "/?id=1'%20OR%20'1'='1", &[], "", Some(403)),
        (
            "SecRule ARGS \"@detectXSS\" \"id:1,phase:2,deny\"",
            "/",
            &json_type,
            r#"{"a": "<script>alert(1)</script>"}"#,
            Some(403),
        ),
        (
            "SecRule REQUEST_HEADERS:User-Agent \"@pm sqlmap nikto\" \"id:1,phase:1,deny\"",
            "/",
            &[("user-agent", "x nikto y")],
            "",
            Some(403),
        ),
        ("SecRule REMOTE_ADDR \"@ipMatch 10.0.0.0/8\" \"id:1,phase:1,deny\"", "/", &[], "", Some(403)),
        // A brace that repeats nothing, as the Core Rule Set has them.
        ("SecRule ARGS \"@rx (?:^|[;{]|{)id\" \"id:1,phase:1,deny\"", "/?a=%7Bid", &[], "", Some(403)),
        ("SecRule REQUEST_METHOD \"!@streq POST\" \"id:1,phase:1,deny\"", "/", &[], "", None),
        (
            "SecRule REQUEST_URI \"@beginsWith /old\" \"id:1,phase:1,redirect:https://a.com/new,status:302\"",
            "/old/x",
            &[],
            "",
            Some(302),
        ),
        ("SecRule REQUEST_URI \"@contains x\" \"id:1,phase:1,pass,log\"", "/x", &[], "", None),
        (
            "SecRule REQUEST_URI \"@contains x\" \"id:1,phase:1,chain,deny,status:409\"\nSecRule ARGS:a \"@eq 2\" \"t:none\"",
            "/x?a=2",
            &[],
            "",
            Some(409),
        ),
        (
            "SecRule REQUEST_URI \"@contains x\" \"id:1,phase:1,chain,deny\"\nSecRule ARGS:a \"@eq 2\" \"t:none\"",
            "/x?a=3",
            &[],
            "",
            None,
        ),
        ("SecRule REQUEST_URI \"@contains x\" \"id:1,phase:1,deny\"\nSecRuleEngine DetectionOnly", "/x", &[], "", None),
    ] {
        assert_eq!(refused(&json!({"secRules": [rule]}), "POST", path, headers, body), expected, "{rule}");
    }
}

#[test]
fn rules_of_phase_two_run_without_a_body_too() {
    let config = json!({"secRules": ["SecRule ARGS:a \"@streq b\" \"id:1,phase:2,deny\""]});
    assert_eq!(refused(&config, "GET", "/?a=b", &[], ""), Some(403));
    assert_eq!(refused(&config, "GET", "/?a=c", &[], ""), None);
}

#[test]
fn rules_that_say_something_are_in_the_log_whether_they_block_or_not() {
    let config = json!({"secRules": [
        "SecAction \"id:1,phase:1,pass,nolog\"",
        "SecRule ARGS \"@contains x\" \"id:2,phase:1,pass,msg:'an x'\"",
        "SecRule REQUEST_BODY \"@contains y\" \"id:3,phase:2,deny,msg:'a y'\"",
        "SecRule REQUEST_BODY \"@contains y\" \"id:4,phase:2,deny,msg:'again'\"",
    ]});
    let mut detecting = config.clone();
    detecting["secRules"].as_array_mut().unwrap().push(json!("SecRuleEngine DetectionOnly"));
    for (config, path, body, expected) in [
        (&config, "/?a=x", "", json!(["2"])),
        (&config, "/?a=x", "y", json!(["2", "3"])),
        (&detecting, "/?a=z", "y", json!(["3", "4"])),
        (&config, "/", "z", Value::Null),
    ] {
        let mut exchange = Exchange::new("POST", path, &[]).with_body(body);
        exchange.head.insert_header("content-length", body.len().to_string()).unwrap();
        exchange.run(&built(&SPEC, config));
        let logged = exchange.state.log.get(LOG_FIELD).cloned().unwrap_or_default();
        assert_eq!(logged, expected, "{path} {body}");
    }
}

#[test]
fn a_rule_set_is_read_from_its_folder() {
    let folder = tempfile::tempdir().unwrap();
    let crs = folder.path().join("crs");
    let config = Config { use_crs: true, own: vec!["SecRuleRemoveById 2".into()] };
    let FieldProblem { field, message, .. } = config.compile(folder.path()).err().unwrap();
    assert_eq!(field, "useCRS");
    assert!(message.contains(&crs.display().to_string()), "{message}");

    std::fs::create_dir_all(crs.join("rules")).unwrap();
    let setup = "SecDefaultAction \"phase:1,log,pass\"\nSecAction \"id:9,phase:1,pass,nolog,setvar:tx.limit=5\"\n";
    std::fs::write(crs.join("crs-setup.conf"), setup).unwrap();
    std::fs::write(crs.join("rules/agents.data"), "sqlmap\nnikto\n").unwrap();
    let rules = "SecRule REQUEST_HEADERS:User-Agent \"@pmFromFile agents.data\" \"id:1,phase:1,pass,nolog,setvar:tx.score=+5\"\n\
        SecRule REQUEST_URI \"@contains /two\" \"id:2,phase:1,deny\"\n\
        SecRule TX:SCORE \"@ge %{tx.limit}\" \"id:4,phase:2,deny,status:406\"\n";
    std::fs::write(crs.join("rules/REQUEST-1.conf"), rules).unwrap();
    let leaks = "SecRule RESPONSE_BODY \"@contains secret\" \"id:6,phase:4,deny\"\n";
    std::fs::write(crs.join("rules/RESPONSE-950.conf"), leaks).unwrap();
    // As in version 3.3, which the engine cannot read.
    let late = "SecRule &TX:'/WEB_ATTACK/' \"@ge 1\" \"id:5,phase:5,pass\"\n";
    std::fs::write(crs.join("rules/RESPONSE-980.conf"), late).unwrap();
    let plugin: Arc<dyn Plugin> = Arc::new(Waf::new(config.compile(folder.path()).unwrap()));
    for (path, agent, expected) in [("/", "nikto", Some(406)), ("/", "curl", None), ("/two", "curl", None)] {
        let reply = Exchange::new("GET", path, &[("user-agent", agent)]).run(&plugin);
        assert_eq!(reply.map(|reply| reply.status), expected, "{path} {agent}");
    }
    let mut exchange = Exchange::new("GET", "/", &[]);
    assert!(exchange.run(&plugin).is_none());
    let upstream = answer(200, &[("content-type", "text/plain")], "a secret");
    assert_eq!(exchange.answered(&plugin, upstream).head.status.as_u16(), 403);
}

#[test]
fn problems_name_their_field() {
    let config = json!({"useCRS": "yes", "secRules": [
        "SecRule REQUEST_URI \"@contains x\" \"id:1,phase:1,deny\"",
        "SecRule REQUEST_URI \"@nonsense x\" \"id:2,phase:1,deny\"",
        "SecHashEngine On",
        "SecRuleUpdateActionById 1 \"pass\"",
        "SecAuditLog /dev/null",
        true,
    ]});
    let unreadable = json!({"secRules": ["SecRule ARGS \"@rx (\" \"id:1,phase:2,deny\""]});
    assert_eq!(problem_fields(&SPEC, &unreadable), ["secRules[0]"]);
    let found = problem_fields(&SPEC, &config);
    assert_eq!(found, ["useCRS", "secRules[5]", "secRules[1]", "secRules[2]", "secRules[3]"]);
}

/// Regression: what ModSecurity's recommended configuration has put the plugin out of work.
#[test]
fn quoted_ids_and_limits_are_read() {
    let config = json!({"secRules": ["SecRequestBodyLimit 13107200", "SecResponseBodyLimit 524288",
        "SecRule REQUEST_URI \"@contains x\" \"id:'200000',phase:1,redirect:'https://a.com/'\""]});
    assert!(problem_fields(&SPEC, &config).is_empty());
    let reply = Exchange::new("GET", "/x", &[]).run(&built(&SPEC, &config)).unwrap();
    assert_eq!(reply.headers, [(LOCATION, HeaderValue::from_static("https://a.com/"))]);
}

/// Status and body that the client gets, and the rules that are logged, of an answer of the upstream.
fn answered(config: &Value, upstream: HttpAnswer) -> (u16, String, Value) {
    let mut exchange = Exchange::new("GET", "/", &[]);
    let plugin = built(&SPEC, config);
    assert!(exchange.run(&plugin).is_none());
    let HttpAnswer { head, body } = exchange.answered(&plugin, upstream);
    plugin.on_log(&mut exchange.request());
    let logged = exchange.state.log.get(LOG_FIELD).cloned().unwrap_or_default();
    (head.status.as_u16(), String::from_utf8(body.to_vec()).unwrap(), logged)
}

#[test]
fn answers_are_inspected() {
    let access = "SecResponseBodyAccess On";
    let secret = "SecRule RESPONSE_BODY \"@contains secret\" \"id:1,phase:4,deny,status:502,msg:'leak'\"";
    let html = [("content-type", "text/html; charset=utf-8"), ("x-key", "v")];
    let json_type = [("content-type", "application/json")];
    let cases = [
        (&[access, secret][..], 200, &html[..], 502),
        (&[access, secret, "SecResponseBodyMimeType application/json"], 200, &html, 200),
        (&[access, secret, "SecResponseBodyMimeType application/json"], 200, &json_type, 502),
        (&[access, secret], 200, &json_type, 200),
        (&[secret], 200, &html, 200),
        (&[access, secret, "SecRuleEngine DetectionOnly"], 200, &html, 200),
        (&["SecRule RESPONSE_STATUS \"@rx ^5\" \"id:1,phase:3,deny,msg:'leak'\""], 500, &html, 403),
        (&["SecRule RESPONSE_STATUS \"@rx ^5\" \"id:1,phase:4,deny,msg:'leak'\""], 200, &html, 200),
        (&["SecRule RESPONSE_HEADERS:X-Key \"@streq v\" \"id:1,phase:3,deny,status:410,msg:'leak'\""], 200, &html, 410),
    ];
    for (rules, status, headers, expected) in cases {
        let (got, body, logged) = answered(&json!({"secRules": rules}), answer(status, headers, "a secret"));
        assert_eq!((got, body.is_empty()), (expected, expected >= 400), "{rules:?}");
        let is_told = expected >= 400 || rules.len() == 3 && rules[2].ends_with("DetectionOnly");
        assert_eq!(logged, if is_told { json!(["1"]) } else { Value::Null }, "{rules:?}");
    }
}

#[test]
fn rules_of_phase_five_are_in_the_log_and_refuse_nothing() {
    let rule = "SecRule RESPONSE_STATUS \"@streq 200\" \"id:7,phase:5,deny,msg:'seen'\"";
    assert_eq!(answered(&json!({"secRules": [rule]}), answer(200, &[], "a")), (200, "a".into(), json!(["7"])));
}

/// The second forgot what the first was still to do.
#[test]
fn two_firewalls_on_one_request_both_see_its_body() {
    let of =
        |word: &str| json!({"secRules": [format!("SecRule REQUEST_BODY \"@contains {word}\" \"id:1,phase:2,deny\"")]});
    let (first, second) = (built(&SPEC, &of("one")), built(&SPEC, &of("two")));
    let mut exchange = Exchange::new("POST", "/", &[("content-length", "3")]).with_body("one");
    let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
    runtime.block_on(async {
        for plugin in [&first, &second] {
            let mut request = Request::of(plugin, &mut exchange.head, &mut exchange.state);
            assert!(matches!(plugin.on_request_headers(&mut request).await, Flow::Continue));
        }
        for (plugin, refuses) in [(&first, true), (&second, false)] {
            let mut request = Request::of(plugin, &mut exchange.head, &mut exchange.state);
            let flow = plugin.on_request_body(&mut request).await;
            assert_eq!(matches!(flow, Flow::Respond(_)), refuses);
        }
    });
}

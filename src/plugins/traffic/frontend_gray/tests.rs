//! Who gets which version, where it is looked for, and what becomes of its pages.

use expect_test::{Expect, expect};
use serde_json::{Value, json};

use super::*;
use crate::plugins::testing::{Exchange, answer, built, problem_fields};

fn by_user() -> Value {
    json!({
        "grayKey": "userid",
        "rules": [
            {"name": "inner", "grayKeyValue": ["1", 2]},
            {"name": "beta", "grayKeyValue": ["3"], "grayTagKey": "level", "grayTagValue": ["l3", "l5"]},
        ],
        "baseDeployment": {"version": "base"},
        "grayDeployments": [
            {"name": "off", "version": "never"},
            {"name": "inner", "version": "gray", "enabled": true, "backendVersion": "b1"},
            {"name": "beta", "version": "beta", "enabled": true},
        ],
        "skippedPaths": ["/api/**"],
    })
}

/// Version and path that go upstream.
fn upstream(config: &Value, path: &str, headers: &[(&'static str, &str)]) -> (Option<String>, String) {
    let mut exchange = Exchange::new("GET", path, headers);
    assert!(exchange.run(&built(&SPEC, config)).is_none());
    (exchange.header("x-higress-tag").map(str::to_owned), exchange.head.uri.to_string())
}

#[test]
fn users_get_the_version_of_their_rule() {
    for (path, headers, expected) in [
        ("/", &[("cookie", "userid=1")][..], Some("gray")),
        ("/", &[("cookie", "userid=2")], Some("gray")),
        ("/", &[("userid", "3")], Some("beta")),
        ("/", &[("cookie", "userid=9; level=l5")], Some("beta")),
        ("/", &[("cookie", "userid=9; level=l4")], Some("base")),
        ("/", &[], Some("base")),
        ("/a.js", &[("cookie", "userid=1; x-higress-tag=beta")], Some("beta")),
        ("/a.js", &[("cookie", "userid=1; x-higress-tag=gone")], Some("gray")),
        ("/page", &[("cookie", "userid=1; x-higress-tag=beta")], Some("gray")),
        ("/api/users", &[("cookie", "userid=1")], None),
    ] {
        assert_eq!(upstream(&by_user(), path, headers).0.as_deref(), expected, "{path} {headers:?}");
    }
    let mut config = by_user();
    config["graySubKey"] = json!("user.id");
    let encoded = [("cookie", "userid=%7B%22user%22%3A%7B%22id%22%3A1%7D%7D")];
    assert_eq!(upstream(&config, "/", &encoded).0.as_deref(), Some("gray"));
}

#[test]
fn requests_of_no_version_are_left_alone() {
    let headers = [("cookie", "userid=1"), ("x-skip", "1")];
    for (more, path, expected) in [
        (json!({}), "/api/users", None),
        (json!({"includePathPrefixes": ["/api/"], "indexPaths": ["/none"]}), "/api/users", Some("gray")),
        (json!({"skippedPathPrefixes": ["/app"]}), "/app/x", None),
        (json!({"skippedPathPrefixes": ["/app"]}), "/apps", Some("gray")),
        (json!({"skippedPathPrefixes": ["/app"]}), "/api/users", Some("gray")),
        (json!({"skippedByHeaders": {"x-skip": 1}}), "/a.js", None),
        (json!({"skippedByHeaders": {"x-skip": 1}}), "/", Some("gray")),
        (json!({"skippedByHeaders": {"x-skip": 2}}), "/a.js", Some("gray")),
    ] {
        let mut config = by_user();
        config.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        assert_eq!(upstream(&config, path, &headers).0.as_deref(), expected, "{more} {path}");
    }
}

#[test]
fn a_weight_splits_users_by_their_number() {
    let config = json!({"baseDeployment": {"version": "base"},
        "grayDeployments": [{"name": "g", "version": "gray", "enabled": true, "weight": 40}]});
    let plugin = built(&SPEC, &config);
    let mut n_gray = 0;
    for number in 0..500 {
        let cookie = format!("x-higress-uid=user{number}");
        let versions: Vec<_> = (0..2).map(|_| upstream(&config, "/", &[("cookie", &cookie)]).0.unwrap()).collect();
        assert_eq!(versions[0], versions[1], "the same user");
        n_gray += usize::from(versions[0] == "gray");
    }
    assert!((150..250).contains(&n_gray), "{n_gray}");
    // A new user is given the number the version was chosen by.
    let mut exchange = Exchange::new("GET", "/", &[]);
    exchange.run(&plugin);
    let version = exchange.header("x-higress-tag").unwrap().to_owned();
    let answered = exchange.answered(&plugin, answer(200, &[], "<body></body>"));
    let cookies: Vec<&str> =
        answered.head.headers.get_all("set-cookie").iter().map(|value| value.to_str().unwrap()).collect();
    let number = cookies.iter().find(|cookie| cookie.starts_with("x-higress-uid=")).unwrap().split(';').next().unwrap();
    assert_eq!(upstream(&config, "/", &[("cookie", number)]).0.unwrap(), version);
}

#[test]
fn pages_and_files_are_rewritten_to_their_version() {
    let mut config = by_user();
    config["rewrite"] = json!({"host": "oss.com",
        "indexRouting": {"/app1": "/mfe/app1/{version}/index.html", "/": "/mfe/{version}/index.html"},
        "fileRouting": {"/": "/mfe/{version}", "/app1": "/mfe/app1/{version}"}});
    let gray = [("cookie", "userid=1")];
    for (path, expected) in [
        ("/app1/x?q=1", "/mfe/app1/gray/index.html?q=1"),
        ("/other", "/mfe/gray/index.html"),
        ("/app1/js/a.js", "/mfe/app1/gray/js/a.js"),
        ("/js//a.js", "/mfe/gray/js/a.js"),
    ] {
        assert_eq!(upstream(&config, path, &gray).1, expected, "{path}");
    }
    let mut exchange = Exchange::new("GET", "/", &[("host", "own.com")]);
    exchange.run(&built(&SPEC, &config));
    assert_eq!(exchange.header("host"), Some("oss.com"));
}

#[test]
fn versions_may_depend_on_the_path() {
    let config = json!({"baseDeployment": {"version": "base", "versionPredicates": {"/a": "a1", "/a/b": "b1"}}, "grayDeployments": [
        {"name": "g", "version": "gray", "enabled": true, "weight": 0}], "rules": [{"name": "g"}]});
    for (path, expected) in [("/a/x.js", "a1"), ("/a/b/x.js", "b1"), ("/c.js", "base"), ("/a", "base")] {
        assert_eq!(upstream(&config, path, &[]).0.as_deref(), Some(expected), "{path}");
    }
}

/// Runs a page through the plugin and shows what the client gets.
fn check(config: &Value, path: &str, status: u16, page: &str, expected: &Expect) {
    expected.assert_eq(&shown(config, path, status, page));
}

fn shown(config: &Value, path: &str, status: u16, page: &str) -> String {
    let plugin = built(&SPEC, config);
    let mut exchange = Exchange::new("GET", path, &[("cookie", "userid=1; x-higress-uid=u")]);
    exchange.run(&plugin);
    let answered = exchange.answered(&plugin, answer(status, &[("content-type", "text/html")], page));
    let mut told = vec![answered.status().to_string()];
    told.extend(answered.head.headers.iter().map(|(name, value)| format!("{name}: {}", value.to_str().unwrap())));
    told.push(String::from_utf8(answered.body.to_vec()).unwrap());
    told.join("\n")
}

#[test]
fn pages_get_cookies_and_injections() {
    let mut config = by_user();
    config["storeMaxAge"] = json!(60);
    config["uniqueGrayTag"] = json!("x-higress-uid");
    config["indexPaths"] = json!(["/index/**"]);
    config["injection"] = json!({"globalConfig": {"enabled": true, "value": "{ a: 1 }"}, "head": ["<h1>"],
        "body": {"first": ["<f>"], "last": ["<l>"]}});
    let page = "<head></head><body>{version}</body>";
    check(
        &config,
        "/",
        200,
        page,
        &expect![[r#"
        200
        content-type: text/html
        cache-control: no-cache, no-store, max-age=0, must-revalidate
        set-cookie: x-higress-tag=gray; Max-Age=60; Path=/; HttpOnly; Secure
        set-cookie: x-higress-uid=u; Max-Age=60; Path=/; HttpOnly; Secure
        set-cookie: x-mse-tag=b1; Max-Age=60; Path=/; HttpOnly; Secure
        <head><script>var HIGRESS_CONSOLE_CONFIG = {
        FEATURE_STATUS:{"beta":false,"inner":true},
          a: 1  
        }
        </script>
        <h1>
        </head><body>
        <f>gray<l>
        </body>"#]],
    );
    check(
        &config,
        "/a.js",
        200,
        "{version}",
        &expect![[r#"
        200
        content-type: text/html
        {version}"#]],
    );
    check(
        &config,
        "/index/a.js",
        200,
        "{version}",
        &expect![[r#"
        200
        content-type: text/html
        cache-control: no-cache, no-store, max-age=0, must-revalidate
        {version}"#]],
    );
    check(
        &config,
        "/",
        500,
        "{version}",
        &expect![[r#"
        500
        content-type: text/html
        {version}"#]],
    );
}

#[test]
fn cookies_and_variables_have_the_names_they_are_given() {
    let mut config = by_user();
    config["backendGrayTag"] = json!("x-backend");
    // `shown` has a cookie of this name.
    config["uniqueGrayTag"] = json!("userid");
    config["injection"] = json!({"globalConfig": {"enabled": true, "key": "CONF", "featureKey": "FLAGS"}});
    let shown = shown(&config, "/", 200, "<head></head>");
    for line in [
        "set-cookie: userid=1; Max-Age=31536000; Path=/; HttpOnly; Secure",
        "set-cookie: x-backend=b1; Max-Age=31536000; Path=/; HttpOnly; Secure",
        "<head><script>var CONF = {",
        "FLAGS:{\"beta\":false,\"inner\":true},",
    ] {
        assert!(shown.lines().any(|own| own == line), "{line}\n{shown}");
    }
    assert!(!shown.contains("x-mse-tag") && !shown.contains("x-higress-uid"), "{shown}");
}

#[test]
fn index_paths_are_pages_where_a_manifest_is_the_entry() {
    let mut config = by_user();
    config["indexPaths"] = json!(["/index/**"]);
    check(
        &config,
        "/index/page",
        200,
        "{version}",
        &expect![[r#"
        200
        content-type: text/html
        cache-control: no-cache, no-store, max-age=0, must-revalidate
        {version}"#]],
    );
    config["useManifestAsEntry"] = json!(true);
    check(
        &config,
        "/index/page",
        200,
        "{version}",
        &expect![[r#"
        200
        content-type: text/html
        cache-control: no-cache, no-store, max-age=0, must-revalidate
        set-cookie: x-higress-tag=gray; Max-Age=31536000; Path=/; HttpOnly; Secure
        set-cookie: x-mse-tag=b1; Max-Age=31536000; Path=/; HttpOnly; Secure
        gray"#]],
    );
}

#[test]
fn a_missing_page_may_be_replaced_and_the_local_storage_key_is_copied() {
    let mut config = by_user();
    config["html"] = json!("<body>own {version}</body>");
    check(
        &config,
        "/missing",
        404,
        "not found",
        &expect![[r#"
        200
        content-type: text/html
        cache-control: no-cache, no-store, max-age=0, must-revalidate
        set-cookie: x-higress-tag=gray; Max-Age=31536000; Path=/; HttpOnly; Secure
        set-cookie: x-mse-tag=b1; Max-Age=31536000; Path=/; HttpOnly; Secure
        <body>
        own gray
        </body>"#]],
    );
    config["localStorageGrayKey"] = json!("userid");
    let plugin = built(&SPEC, &config);
    let mut exchange = Exchange::new("GET", "/", &[]);
    exchange.run(&plugin);
    let answered = exchange.answered(&plugin, answer(200, &[], ""));
    let page = String::from_utf8(answered.body.to_vec()).unwrap();
    assert!(page.starts_with("<body>\n<script>") && page.contains("})(\"userid\");"), "{page}");
}

#[test]
fn problems_name_their_field() {
    let config = json!({
        "grayDeployments": [{"name": "x", "enabled": true}, {"name": "y", "enabled": true, "weight": 101}],
        "injection": {"globalConfig": {"key": "a b"}},
        "indexPaths": ["/[a"],
        "rules": [{"nme": "x"}],
    });
    let found = problem_fields(&SPEC, &config);
    assert_eq!(
        found,
        [
            "indexPaths[0]",
            "rules[0].nme",
            "grayDeployments[0].name",
            "grayDeployments[1].weight",
            "injection.globalConfig.key",
        ]
    );
}

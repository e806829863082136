use std::time::Duration;

use bytes::Bytes;
use http::HeaderName;
use serde_json::{Value, json};

use super::*;
use crate::llm::error::ErrorKind;
use table::{NOT_YET, TYPES};

fn provider(config: &Value) -> Provider {
    Provider::parse(config).unwrap_or_else(|errors| panic!("{config}: {errors:?}"))
}

fn errors(config: &Value) -> Vec<String> {
    Provider::parse(config).map(drop).unwrap_err().into_iter().map(|error| error.field).collect()
}

fn of_type(kind: &str, mut more: Value) -> Provider {
    more["type"] = kind.into();
    more["id"] = "p".into();
    if more.get("apiTokens").is_none() {
        more["apiTokens"] = json!(["sk-1"]);
    }
    provider(&more)
}

fn prepare(provider: &Provider, path: &str, body: &str) -> ProviderRequest {
    let value: Value = serde_json::from_str(body).unwrap_or_default();
    let request = ClientRequest {
        path_and_query: path,
        body: &Bytes::copy_from_slice(body.as_bytes()),
        model: value["model"].as_str().unwrap_or_default(),
        stream: value["stream"] == true,
    };
    provider.prepare(request, Some("sk-1")).unwrap()
}

const CHAT: &str = r#"{"model":"gpt-3","messages":[{"role":"user","content":"hi"}],"x":1.0}"#;

/// Host, path of a chat request, authorization: as Higress' end-to-end cases and provider list have them.
#[test]
fn every_type_goes_to_its_place() {
    let own = |kind: &str| match kind {
        "cloudflare" => json!({"cloudflareAccountId": "acc"}),
        "ollama" => json!({"ollamaServerHost": "10.0.0.5", "ollamaServerPort": 11434}),
        _ => json!({}),
    };
    let v1 = "/v1/chat/completions";
    let expected = [
        ("ai360", "api.360.cn", v1, "sk-1"),
        ("baichuan", "api.baichuan-ai.com", v1, "Bearer sk-1"),
        ("baidu", "qianfan.baidubce.com", "/v2/chat/completions", "Bearer sk-1"),
        ("cloudflare", "api.cloudflare.com", "/client/v4/accounts/acc/ai/v1/chat/completions", "Bearer sk-1"),
        ("deepseek", "api.deepseek.com", v1, "Bearer sk-1"),
        ("doubao", "ark.cn-beijing.volces.com", "/api/v3/chat/completions", "Bearer sk-1"),
        ("fireworks", "api.fireworks.ai", v1, "Bearer sk-1"),
        ("galadriel", "api.galadriel.com", v1, "Bearer sk-1"),
        ("generic", "", v1, "Bearer sk-1"),
        ("github", "models.inference.ai.azure.com", "/chat/completions", "sk-1"),
        ("grok", "api.x.ai", v1, "Bearer sk-1"),
        ("groq", "api.groq.com", "/openai/v1/chat/completions", "Bearer sk-1"),
        ("hunyuan", "api.hunyuan.cloud.tencent.com", v1, "Bearer sk-1"),
        ("longcat", "api.longcat.chat", v1, "Bearer sk-1"),
        ("minimax", "api.minimax.chat", "/v1/text/chatcompletion_v2", "Bearer sk-1"),
        ("mistral", "api.mistral.ai", v1, "Bearer sk-1"),
        ("moonshot", "api.moonshot.cn", v1, "Bearer sk-1"),
        ("ollama", "10.0.0.5:11434", v1, ""),
        ("openai", "api.openai.com", v1, "Bearer sk-1"),
        ("openrouter", "openrouter.ai", "/api/v1/chat/completions", "Bearer sk-1"),
        ("qwen", "dashscope.aliyuncs.com", "/compatible-mode/v1/chat/completions", "Bearer sk-1"),
        ("stepfun", "api.stepfun.com", v1, "Bearer sk-1"),
        ("together-ai", "api.together.xyz", v1, "Bearer sk-1"),
        ("vllm", "vllm-service.cluster.local", v1, "Bearer sk-1"),
        ("yi", "api.lingyiwanwu.com", v1, "Bearer sk-1"),
        ("zhipuai", "open.bigmodel.cn", "/api/paas/v4/chat/completions", "Bearer sk-1"),
    ];
    assert_eq!(expected.len(), TYPES.len());
    for (kind, host, path, authorization) in expected {
        let sent = prepare(&of_type(kind, own(kind)), v1, CHAT);
        assert_eq!(sent.host.as_deref().unwrap_or_default(), host, "{kind}");
        assert_eq!(sent.path, path, "{kind}");
        let set = sent.headers_set.iter().find(|(name, _)| name == "authorization").map_or("", |(_, value)| value);
        assert_eq!(set, authorization, "{kind}");
        assert_eq!(sent.body, CHAT, "{kind} leaves the body alone");
    }
}

#[test]
fn other_apis_follow_the_prefix_or_the_table() {
    for (kind, path, expected) in [
        ("groq", "/ai/v1/responses?a=b", "/openai/v1/responses?a=b"),
        ("openai", "/v1/files/f/content", "/v1/files/f/content"),
        ("openai", "/llm/v1/unknown/api?x", "/v1/unknown/api?x"),
        ("openai", "/health", "/health"),
        ("qwen", "/v1/reranks", "/compatible-api/v1/reranks"),
        ("qwen", "/v1/messages", "/apps/anthropic/v1/messages"),
        ("deepseek", "/v1/messages", "/anthropic/v1/messages"),
        ("generic", "/any/v1/chat/completions", "/any/v1/chat/completions"),
        ("vllm", "/v1/rerank", "/v1/rerank"),
    ] {
        assert_eq!(prepare(&of_type(kind, json!({})), path, "{}").path, expected, "{kind}");
    }
    let request = ClientRequest { path_and_query: "/v1/embeddings", body: &Bytes::new(), model: "", stream: false };
    let error = of_type("grok", json!({})).prepare(request, None).unwrap_err();
    assert_eq!((error.kind, error.status), (ErrorKind::UnsupportedApi, 404));
    assert!(error.message.contains("grok") && error.message.contains("/v1/embeddings"));
}

#[test]
fn custom_urls_move_host_and_path() {
    for (url, host, chat, embeddings) in [
        ("http://127.0.0.1:9001/v1", "127.0.0.1:9001", "/v1/chat/completions", "/v1/embeddings"),
        ("https://llm.example.com", "llm.example.com", "/chat/completions", "/embeddings"),
        ("https://a.example/api/v3/", "a.example", "/api/v3/chat/completions", "/api/v3/embeddings"),
        ("https://a.example/api/v3/chat/completions", "a.example", "/api/v3/chat/completions", "/api/v3/embeddings"),
        ("https://a.example/x/completions?v=1", "a.example", "/x/completions?v=1", "/x/embeddings"),
        ("https://a.example/e/embeddings", "a.example", "/e/chat/completions", "/e/embeddings"),
    ] {
        for (kind, field) in [("openai", "openaiCustomUrl"), ("vllm", "vllmCustomUrl")] {
            let provider = of_type(kind, json!({field: url}));
            let sent = prepare(&provider, "/v1/chat/completions", CHAT);
            assert_eq!((sent.host.as_deref(), sent.path.as_str()), (Some(host), chat), "{url}");
            assert_eq!(prepare(&provider, "/v1/embeddings", "{}").path, embeddings, "{url}");
        }
    }
    let provider = of_type("openai", json!({"openaiCustomUrl": "https://a.example/c/completions?v=1"}));
    assert_eq!(prepare(&provider, "/v1/completions?w=2", "{}").path, "/c/completions?v=1&w=2");
}

#[test]
fn addresses_say_where_to_connect() {
    let addresses = |config: Value| {
        let provider = provider(&config);
        let show = |address: &Address| format!("{} {} {}", address.tls, address.host, address.port);
        provider.config().endpoint.addresses.iter().map(show).collect::<Vec<_>>()
    };
    let urls = json!({
        "type": "openai",
        "openaiCustomUrl": "http://10.0.0.1:9001/v1",
        "openaiExtraCustomUrls": ["https://10.0.0.2/v1", "10.0.0.3:80/v1", "http://[::1]:7/v1"],
    });
    assert_eq!(addresses(urls), ["false 10.0.0.1 9001", "true 10.0.0.2 443", "false 10.0.0.3 80", "false ::1 7"]);
    assert_eq!(addresses(json!({"type": "openai"})), ["true api.openai.com 443"]);
    assert_eq!(
        addresses(json!({"type": "ollama", "ollamaServerHost": "h", "ollamaServerPort": 11434})),
        ["false h 11434"]
    );
    assert_eq!(
        errors(&json!({"type": "openai", "openaiCustomUrl": "ftp://x", "openaiExtraCustomUrls": ["", "http://h:x/"]})),
        ["openaiCustomUrl", "openaiExtraCustomUrls[0]", "openaiExtraCustomUrls[1]"]
    );
}

#[test]
fn base_paths_and_domains() {
    let path = |more: Value, path: &str| prepare(&of_type("openai", more), path, "{}").path;
    let remove = json!({"basePath": "/ai", "protocol": "original"});
    assert_eq!(path(remove.clone(), "/ai/x/y?q"), "/x/y?q");
    assert_eq!(path(remove.clone(), "/aix/y"), "/aix/y");
    assert_eq!(path(remove, "/ai"), "/");
    let prepend = json!({"basePath": "/proxy/", "basePathHandling": "prepend"});
    assert_eq!(path(prepend, "/v1/models"), "/proxy/v1/models");
    assert_eq!(path(json!({"providerBasePath": "/api/ai"}), "/v1/models"), "/api/ai/v1/models");
    assert_eq!(
        path(json!({"capabilities": {"openai/v1/retrievevideo": "/vid/{video_id}/x"}}), "/v1/videos/7"),
        "/vid/7/x"
    );

    let moved = of_type("openai", json!({"providerDomain": "proxy.example.com"}));
    assert_eq!(prepare(&moved, "/v1/models", "").host.as_deref(), Some("proxy.example.com"));
    assert_eq!(moved.config().endpoint.addresses[0].host, "api.openai.com");
    assert_eq!(
        prepare(&of_type("zhipuai", json!({"zhipuCodePlanMode": true})), "/v1/chat/completions", CHAT).path,
        "/api/coding/paas/v4/chat/completions"
    );
}

#[test]
fn only_what_must_change_changes() {
    let provider = of_type("qwen", json!({"modelMapping": {"gpt-*": "qwen-max", "*": "qwen-plus"}}));
    let body = r#"{ "x": 1.0, "model": "gpt-3", "stream": true, "messages": [{"role": "developer", "content": "developer"}] }"#;
    let sent = prepare(&provider, "/v1/chat/completions", body);
    let expected = r#"{ "x": 1.0, "model": "qwen-max", "stream": true, "messages": [{"role": "system", "content": "developer"}],"stream_options":{"include_usage":true} }"#;
    assert_eq!(sent.body, expected);
    assert_eq!(sent.sent_model, "qwen-max");
    assert!(sent.headers_set.iter().any(|(name, value)| name == "accept" && value == "text/event-stream"));

    let quiet = of_type("qwen", json!({"disableStreamUsageStats": true}));
    let body = r#"{"model":"m","stream":true,"messages":[{"role":"user","content":"developer"}]}"#;
    let bytes = Bytes::from_static(body.as_bytes());
    let request = ClientRequest { path_and_query: "/v1/chat/completions", body: &bytes, model: "m", stream: true };
    assert_eq!(quiet.prepare(request, None).unwrap().body.as_ptr(), bytes.as_ptr());
    // A router's choice replaces what the body says.
    let chosen = provider.prepare(ClientRequest { model: "other", ..request }, None).unwrap();
    assert!(chosen.body.starts_with(br#"{"model":"qwen-plus""#));
}

#[test]
fn bodies_without_a_model_pass_untouched() {
    let provider =
        of_type("openai", json!({"modelMapping": {"*": "x"}, "customSettings": [{"name": "seed", "value": 1}]}));
    for (path, body) in
        [("/v1/images/edits", "--boundary\r\n"), ("/v1/files", "{}"), ("/v1/models", ""), ("/v1/new", CHAT)]
    {
        assert_eq!(prepare(&provider, path, body).body, body, "{path}");
    }
    assert_eq!(
        prepare(&of_type("generic", json!({"modelMapping": {"*": "x"}})), "/v1/chat/completions", CHAT).body,
        CHAT
    );
}

#[test]
fn settings_of_the_operator_are_applied() {
    let settings = json!({"customSettings": [
        {"name": "max_tokens", "value": 100},
        {"name": "temperature", "value": 0, "overwrite": false},
        {"name": "x.deep", "value": {"a": null}, "mode": "raw"},
        {"name": "top_k", "value": 4},
    ], "responseJsonSchema": {"type": "json_object"}});
    let provider = of_type("openai", settings);
    let body = r#"{"model":"m","max_tokens":5,"temperature":1}"#;
    let expected = r#"{"model":"m","max_tokens":100,"temperature":1,"response_format":{"type":"json_object"},"x":{"deep":{"a":null}}}"#;
    assert_eq!(prepare(&provider, "/v1/chat/completions", body).body, expected);
    assert_eq!(provider.config().unsupported.len(), 1);
    assert!(provider.config().unsupported[0].contains("`top_k`"));
    let doubao = of_type("doubao", json!({}));
    let body = r#"{"model":"m","tool_choice":"auto","input":"x"}"#;
    assert_eq!(prepare(&doubao, "/v1/responses", body).body, r#"{"model":"m","input":"x"}"#);
    assert_eq!(
        prepare(&doubao, "/v1/images/generations", r#"{"model":"m"}"#).body,
        r#"{"model":"m","watermark":false}"#
    );
}

#[test]
fn the_clients_credentials_stay_with_the_gateway() {
    let request = ClientRequest { path_and_query: "/v1/models", body: &Bytes::new(), model: "", stream: false };
    let removes = |sent: &ProviderRequest, name| sent.headers_remove.contains(&HeaderName::from_static(name));
    let with = of_type("openai", json!({})).prepare(request, Some("sk-1")).unwrap();
    assert!(removes(&with, "x-api-key") && removes(&with, "x-hi-original-auth") && removes(&with, "accept-encoding"));
    // A provider without tokens is meant to get the client's.
    let without = of_type("openai", json!({"apiTokens": []})).prepare(request, None).unwrap();
    assert!(!removes(&without, "x-api-key") && without.headers_set.is_empty());
    assert!(removes(&without, "x-hi-original-auth"));
}

#[test]
fn policies_have_higress_defaults() {
    let provider = of_type(
        "openai",
        json!({
            "firstByteTimeout": 1500,
            "failover": {"enabled": true, "cooldownDuration": 60000},
            "retryOnFailure": {"enabled": true, "retryOnStatus": [429, "5.*"]},
        }),
    );
    let config = provider.config();
    assert_eq!(config.first_byte_timeout, Some(Duration::from_millis(1500)));
    let failover = config.failover.as_ref().unwrap();
    assert_eq!((failover.failure_threshold, failover.success_threshold), (3, 1));
    assert_eq!(failover.health_check_interval, Duration::from_secs(5));
    assert_eq!(failover.cooldown, Some(Duration::from_secs(60)));
    assert!(failover.failover_on.matches(401) && !failover.failover_on.matches(302));
    let retry = config.retry.as_ref().unwrap();
    assert_eq!((retry.max_retries, retry.timeout), (1, Duration::from_secs(30)));
    assert!(retry.retry_on.matches(429) && retry.retry_on.matches(503) && !retry.retry_on.matches(400));
    let off = of_type("openai", json!({"failover": {"enabled": false}, "retryOnFailure": {}}));
    assert!(off.config().failover.is_none() && off.config().retry.is_none());
}

#[test]
fn all_problems_are_reported_with_their_field() {
    let broken = json!({
        "type": "openai",
        "id": 7,
        "apiTokens": ["ok", "bad\ntoken", ""],
        "protocol": "http",
        "modelMapping": {"~(": "x", "a": 1},
        "customSettings": [{"value": 1}, {"name": "x", "mode": "both", "value": 1, "why": 0}],
        "failover": {"enabled": true, "failoverOnStatus": ["4("], "failureTreshold": 3},
        "retryOnFailure": {"maxRetries": -1},
        "capabilities": {"embeddings": "relative"},
        "basePathHandling": "strip",
        "providerDomain": "https://x/y",
        "streming": true,
    });
    let expected = [
        "protocol",
        "modelMapping.a",
        "modelMapping",
        "id",
        "apiTokens[1]",
        "apiTokens[2]",
        "customSettings[0].name",
        "customSettings[1].mode",
        "failover.failoverOnStatus",
        "failover.enabled",
        "retryOnFailure.maxRetries",
        "capabilities.embeddings",
        "basePathHandling",
        "providerDomain",
    ];
    assert_eq!(errors(&broken), expected);
    assert_eq!(errors(&json!({})), ["type"]);
    assert_eq!(errors(&json!({"type": "claud"})), ["type"]);
    assert_eq!(errors(&json!({"type": "groq"})), ["apiTokens"]);
    assert_eq!(errors(&json!({"type": "cloudflare", "apiTokens": ["t"]})), ["cloudflareAccountId"]);
    assert_eq!(errors(&json!([])), [""]);
    for kind in NOT_YET {
        let error = &Provider::parse(&json!({"type": kind})).map(drop).unwrap_err()[0];
        assert!(error.message.contains("Higress knows"), "{error}");
        assert_eq!(error.kind, FieldErrorKind::Unsupported);
    }
}

#[test]
fn secrets_never_show() {
    let config = json!({"type": "openai", "apiTokens": ["sk-secret"]});
    assert!(!format!("{:?}", provider(&config)).contains("sk-secret"));
    for config in [
        json!({"type": "openai", "apiTokens": "sk-secret"}),
        json!({"type": "openai", "apiTokens": ["sk-secret\u{1}"]}),
    ] {
        let errors = Provider::parse(&config).map(drop).unwrap_err();
        assert!(!format!("{errors:?}").contains("sk-secret"), "{errors:?}");
    }
}

#[test]
fn what_higress_has_and_we_have_not_is_a_warning() {
    let provider = of_type(
        "openai",
        json!({
            "contextCleanupCommands": ["clear"],
            "mergeConsecutiveMessages": false,
            "azureServiceUrl": "https://x",
            "qwenDomain": "y",
            "reasoningContentMode": "concat",
            "openaiCustomServiceName": "svc",
            "timeout": 1000,
        }),
    );
    let fields: Vec<_> =
        provider.config().unsupported.iter().map(|warning| warning.split(':').next().unwrap_or_default()).collect();
    assert_eq!(fields, ["reasoningContentMode", "contextCleanupCommands", "azureServiceUrl", "qwenDomain"]);
}

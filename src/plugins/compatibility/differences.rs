//! The table of deliberate differences. Wherever a plugin and its namesake behave differently and someone could notice,
//! there is a line, with the reason where it is not obvious.

/// Of authentication plugins that Higress has as Go ports.
const EMPTY_ALLOW: &str = "a rule with an empty `allow` lets nobody pass, as in the C++ plugin; the Go port refuses that configuration and goes on without the plugin";

const NO_ES512: &str = "ES512 is not known, because the cryptography library has no P-521";

const LONG_EXPRESSIONS: &str = "expressions may be longer than 100 instructions";

const LISTS_WITHOUT_BLOCK_URLS: &str =
    "`block_exact_urls` and `block_regexp_urls` work without `block_urls`; Higress silently ignores them then";

/// Of plugins that Higress does not have.
const OURS: &[&str] = &["Higress has no plugin of this name"];

/// By name of the plugin.
pub(super) const DIFFERENCES: &[(&str, &[&str])] = &[
    (
        "ai-proxy",
        &[
            "calls to providers whose bodies need translation (`azure`, `bedrock`, `claude`, `cohere`, `coze`, `deepl`, `dify`, `gemini`, `kling`, `spark`, `triton`, `vertex`) get a 503, because this version cannot translate them; the other providers of the pool work",
            "requests in Anthropic's form (`/v1/messages`) reach only providers that have that API themselves, for the same reason; Higress translates them",
            "`qwen` is called in its OpenAI-compatible mode, `minimax` as `v2`, `hunyuan` with tokens only; `qwenEnableCompatible: false` has no effect, and with another `minimaxApiType` calls get a 503",
            "`context`, `contextCleanupCommands`, `mergeConsecutiveMessages`, `promoteThinkingOnEmpty`, `hiclawMode`, `logUpstreamErrorResponseBody`, `moonshotFileId`, `qwenFileIds`, `qwenEnableSearch` and a `reasoningContentMode` other than `passthrough` have no effect; the log names them",
            "a provider's `timeout` has no effect, because it bounds only the fetching of a context file",
            "single fields that Higress changes stay as they are: the usage of a `moonshot` stream inside the choice, `reasoning_max_tokens` for `openrouter`, `reasoning_effort` for `zhipuai`; `qwen` gets no `preserve_thinking`",
            "the client's credential does not reach the provider; Higress sends it along in `X-HI-ORIGINAL-AUTH`",
            "keys of `modelMapping` with patterns are tried in a fixed order (the longest prefix first, then expressions as written); Higress tries them in any order",
            "expressions of `retryOnStatus` and `failoverOnStatus` must match from the first digit on, so that `4.*` does not mean 504; in Higress they match anywhere",
            "errors have a status that fits and OpenAI's error object as body; Higress answers 500 with a text",
            "a chat request that no provider could read is refused with 400 (details `ai-proxy.bad_request`)",
        ],
    ),
    (
        "ai-rag",
        &[
            "searches this gateway's own knowledge bases (`knowledgeBase`); with `dashscope` and `dashvector` alone requests pass without documents, and a warning says how to store them here",
            "`threshold` is the lowest score a passage may have; in Higress the highest",
            "no span tag `rag_docs`",
        ],
    ),
    (
        "ai-statistics",
        &[
            "attributes are not written to spans (`apply_to_span` and `trace_span_key` have no effect), because the trace id is in the same log line",
            "attributes with `as_separate_log_field` are in `ai_log` like the others",
            "`apply_to_log` and `enable_content_types` have no effect",
            "the label `ai_model` of the metrics is the model that the provider named, else `UNKNOWN`, so that clients cannot make up values; Higress takes the model of the request",
        ],
    ),
    (
        "basic-auth",
        &[
            "passwords may contain a colon with `encrypted`, too; Higress refuses them",
            "hashes in crypt's DES form are refused when the configuration is read, because they keep eight characters only and all of them can be tried within hours",
        ],
    ),
    (
        "bot-detect",
        &[LONG_EXPRESSIONS, "the details are `bot-detect.denied` or `bot-detect.crawler`; Higress leaves them empty"],
    ),
    (
        "cache-control",
        &["`expires` that is neither a number nor `epoch` or `max` is a configuration error; Higress takes it for 0"],
    ),
    (
        "cluster-key-rate-limit",
        &[
            "without `redis` the counters are kept in this process",
            "with several counters the quota headers are those of the one with the fewest requests left; in Higress of the one with the smallest share left",
        ],
    ),
    (
        "cors",
        &[
            "`*` in `allow_origins` together with `allow_credentials` is a configuration error, because browsers refuse it; Higress logs it and ignores one of the two",
        ],
    ),
    (
        "custom-response",
        &[
            "takes the fields of both Higress plugins, the C++ and the Go one",
            "without body and configured type there is no `content-type`; the Go plugin sends an empty one",
            "the log details are `custom-response`, as in the Go plugin; the C++ one leaves them empty",
        ],
    ),
    (
        "de-graphql",
        &[
            "a value that does not fit its type is sent as a string, which the GraphQL server refuses with a reason; Higress pastes it into the JSON",
            "if the service does not answer the client gets a 502 with details `de-graphql.failed`",
            "answers over 1 MiB fail",
            "hop-by-hop headers are not passed on",
        ],
    ),
    (
        "ext-auth",
        &[
            "the path is not cleaned (`//`, `..`) before the service sees it, so that it judges what the upstream gets",
            "`allowed_properties` may name what exists here (`route_name`, `cluster_name`, both also with `xds.` in front, `source.address`, `request.id`, `mse_consumer`); others are a configuration error",
        ],
    ),
    (
        "frontend-gray",
        &[
            "`storeMaxAge` counts; Higress ignores its value",
            "a rewritten path keeps its query",
            "the number handed out to a new user is the one the version was chosen by; Higress makes up two",
            "the header `x-higress-tag` is set; Higress adds it to what the client sent",
            "a deployment without rule and weight goes to nobody, which a warning says; in Higress it ends the plugin",
        ],
    ),
    (
        "geo-ip",
        &[
            "the table of addresses does not ship with the gateway, because its data has an owner; it is read from `database`, or from `geo-ip.xdb` or `geo-ip.txt` in the data folder",
            "headers `X-Higress-Geo-*` that the client sent are removed",
            "the properties `geo-*` do not exist; what reads them has to use the headers",
        ],
    ),
    (
        "go-basic-auth",
        &[
            "passwords may contain a colon; the Go port refuses them",
            "a `credential` may be given in base64, as in the C++ plugin",
            EMPTY_ALLOW,
        ],
    ),
    (
        "go-bot-detect",
        &[
            "the details are `bot-detect.denied`, `.crawler` or `.no_agent`; in the Go port `bot-detect.blocked`",
            "the built-in names of crawlers are those of the C++ plugin; the Go port has a few others",
        ],
    ),
    (
        "go-jwt-auth",
        &[
            "takes `jwks_uri`, too; shared secrets (`oct`) in a fetched set are left out",
            "claims that are lists or objects make no header; the Go port writes them in Go's own notation",
            NO_ES512,
            EMPTY_ALLOW,
        ],
    ),
    ("go-key-auth", &[EMPTY_ALLOW]),
    (
        "go-request-block",
        &[
            LISTS_WITHOUT_BLOCK_URLS,
            "the details of headers are `request-block.header`, of bodies `request-block.body`; in the Go port both are `request-block.body_blocked`",
        ],
    ),
    (
        "gw-error-format",
        &[
            "the gateway's own errors have other texts than Envoy's; a rule matches if it names ours or the one Envoy has for that error",
            "the content type follows the new body unless `set_header` names one, because our errors are JSON",
        ],
    ),
    (
        "hmac-auth",
        &["a `Content-MD5` is compared for a request without a body, too, so that cutting the body off is noticed"],
    ),
    (
        "hmac-auth-apisix",
        &[
            "with `validate_request_body` a request whose body no header announces is checked, too",
            "an empty `allow` lets nobody pass; Higress takes it for none given",
        ],
    ),
    ("http-call", &["a call that cannot be sent lets the request pass; Higress leaves it waiting"]),
    (
        "ip-restriction",
        &[
            "an address that cannot be read is refused with the details `key-auth.empty_ip`; in Higress `key-auth.get_ip_failed`",
            "without `allow` and `deny` nothing is restricted; in Higress that is a configuration error",
        ],
    ),
    (
        "jsonrpc-converter",
        &[
            "numeric ids are copied too",
            "`x-envoy-jsonrpc-error` is removed like the other headers",
            "the answer's headers exist once its body is complete, so plugins that look at heads only do not see them",
        ],
    ),
    (
        "jwt-auth",
        &[
            "`keep_token: false` takes tokens out of parameters and cookies, too; Higress leaves them there",
            "a claim that is missing makes no header; Higress adds an empty one",
            "takes `remote_jwks`, as the Go port does, and `jwks_uri`; shared secrets (`oct`) in a fetched set are left out",
            NO_ES512,
        ],
    ),
    (
        "key-auth",
        &["the reason of a refusal is also in the body on paths of model APIs and below `/v1/`, whose clients show it"],
    ),
    (
        "key-rate-limit",
        &[
            "an interval begins with the key's first request; in Higress with a timer of the worker",
            "several rate fields of one key are a configuration error; Higress takes the shortest interval",
            "parameters are decoded before they are compared with keys",
        ],
    ),
    (
        "log-request-response",
        &[
            "the fields `request_headers`, `request_body`, `response_headers` and `response_body` are in the access log without a format being configured",
            "the credential by which the consumer was recognised is written as `***`",
            "`contentTypes` are compared with the whole media type; in Higress a part of it is enough",
            "bodies of compressed answers are not logged",
        ],
    ),
    (
        "nginx-rewrite-compatible",
        &[
            "a variable without prefix reaches the upstream with `pass_to_upstream` only; the Envoy property has no reader here",
        ],
    ),
    (
        "oauth",
        &[
            "a method other than GET and POST at the token path is checked like any request; Higress lets it through unchecked",
            "a rule's `allow` works; Higress takes every rule for one with consumers of its own",
            "the answer with the token has `Cache-Control: no-store`, as RFC 6749 (section 5.1) asks",
            "`auth_header_name`, the name in Higress' documents, is read besides `auth_header`",
        ],
    ),
    (
        "oidc",
        &[
            "PKCE (S256) and nonce are always used",
            "an absolute `rd` must be in `whitelist_domains`",
            "endpoints of the provider on other hosts than the issuer's are called directly",
            "`service_name` may be left out: the issuer is then called at its own URL",
            "a session of Higress is not read; users log in once more",
            "the only `provider` is `oidc`",
            "401 also for what a browser says is no page (`Sec-Fetch-Mode` other than `navigate`) and for WebSockets; Higress looks at `Accept` alone",
        ],
    ),
    (
        "opa",
        &[
            "the agent is asked once, with the body where there is one; Higress asks without it first and with it again, so that a policy over the body never says yes",
            "no answer is a 502; Higress leaves the request waiting where the call cannot be sent",
        ],
    ),
    ("rag-models", OURS),
    (
        "replay-protection",
        &[
            "without `redis` the nonces are kept in this process",
            "the answers have the details `replay-protection.missing_header`, `.invalid_nonce` and `.replayed`",
        ],
    ),
    (
        "request-block",
        &[
            LISTS_WITHOUT_BLOCK_URLS,
            LONG_EXPRESSIONS,
            "the details are `request-block.url`, `.header` or `.body`; Higress leaves them empty",
            "a body over `limits.max_body_bytes` is refused; in Higress one over 32 MiB passes unseen",
            "an empty element of a list is a configuration error, because it would block every request",
        ],
    ),
    (
        "request-validation",
        &[
            "a schema that cannot be used is a configuration error; in Higress every request passes then",
            "references to other documents are configuration errors, because nothing is fetched",
        ],
    ),
    (
        "response-cache",
        &[
            "without Redis answers are kept in the gateway's memory (64 MiB, least recently used go first)",
            "event streams and the gateway's own errors are not kept",
        ],
    ),
    ("semantic-router", OURS),
    (
        "simple-jwt-auth",
        &[
            "a configuration without `token_headers` or `token_secret_key` is an error when it is read; Higress refuses every request then",
            "HS384 and HS512 are accepted besides HS256",
        ],
    ),
    ("sni-misdirect", &["names are compared without regard to case"]),
    (
        "traffic-editor",
        &[
            "takes the field names of Higress' documents (`source` and `target` of a rename, `substr`) besides those of its code (`newName`, `part`)",
            "conditions about the answer are a configuration error, because they are decided before there is one",
        ],
    ),
    ("traffic-tag", &["a group without conditions is a configuration error; in Higress it never matches"]),
    (
        "transformer",
        &[
            "files of a multipart form are kept; Higress drops them when it writes the form again",
            "JSON bodies keep their spelling except where a rule changes them; Higress writes them anew with line breaks",
            "an empty key is a configuration error; Higress ignores it or gives the body up",
        ],
    ),
    (
        "waf",
        &[
            "the rule engine is the crate `zentinel-modsec`; in Higress it is Coraza",
            "bodies of requests are inspected without `SecRequestBodyAccess`",
            "the rule set's file 980 (correlation, for the audit log) is not read",
            "the Core Rule Set does not ship with the gateway; it is read from `crs/` in the data folder",
            "directives that have no effect here are configuration errors, except those about logs, temporary files and limits",
            "`waf_rules` of the access log has the ids of the rules with a message that matched, also of requests that pass",
        ],
    ),
];

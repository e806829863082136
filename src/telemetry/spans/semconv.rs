//! Attribute names: those of the OpenTelemetry semantic conventions, and our own below `weirgate.`.
//!
//! `proxy` uses them when it builds spans; the values are the caller's.

// --- HTTP, on both kinds of span
pub const HTTP_REQUEST_METHOD: &str = "http.request.method";
pub const HTTP_RESPONSE_STATUS_CODE: &str = "http.response.status_code";
pub const HTTP_ROUTE: &str = "http.route";
/// Without the query.
pub const URL_PATH: &str = "url.path";
/// Server span: the host the client asked for. Client span: the host that was called.
pub const SERVER_ADDRESS: &str = "server.address";
pub const CLIENT_ADDRESS: &str = "client.address";
/// `1.1` or `2`.
pub const NETWORK_PROTOCOL_VERSION: &str = "network.protocol.version";

// --- model calls
pub const GEN_AI_OPERATION_NAME: &str = "gen_ai.operation.name";
/// The value of `gen_ai.operation.name` for chat completions.
pub const GEN_AI_OPERATION_CHAT: &str = "chat";
pub const GEN_AI_REQUEST_MODEL: &str = "gen_ai.request.model";
pub const GEN_AI_RESPONSE_MODEL: &str = "gen_ai.response.model";
/// A list: one reason per choice.
pub const GEN_AI_RESPONSE_FINISH_REASONS: &str = "gen_ai.response.finish_reasons";
pub const GEN_AI_USAGE_INPUT_TOKENS: &str = "gen_ai.usage.input_tokens";
pub const GEN_AI_USAGE_OUTPUT_TOKENS: &str = "gen_ai.usage.output_tokens";

// --- ours
pub const WEIRGATE_ROUTE: &str = "weirgate.route";
pub const WEIRGATE_SERVICE: &str = "weirgate.service";
pub const WEIRGATE_CONSUMER: &str = "weirgate.consumer";
/// The id of the routing decision, as in the answer header.
pub const WEIRGATE_DECISION: &str = "weirgate.decision";

//! The provider types, as data: where each lives, how it wants to be authenticated, which paths it has.
//!
//! Facts are those of Higress' `ai-proxy` (v2.2.4, August 2026). Every type here speaks OpenAI's protocol, so bytes pass
//! through and only host, path, credential and single fields differ. A type that needs translation gets its own
//! [`Adapter`], and its row here names it.

use super::api::Api;

/// How requests and answers are converted for a provider.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Adapter {
    /// Not at all: client and provider speak the same protocol.
    OpenAi,
}

/// How a provider is told who pays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Auth {
    /// `Authorization: Bearer <token>`
    Bearer,
    /// `Authorization: <token>`
    Bare,
    /// Not at all.
    None,
}

/// One provider type.
#[derive(Debug)]
pub struct ProviderType {
    pub name: &'static str,
    pub adapter: Adapter,
    /// Host of the public service. Empty: the configuration says (or the client's host stays).
    pub host: &'static str,
    /// What stands in place of `/v1`. `{field}` is replaced by that configuration field.
    pub prefix: &'static str,
    pub auth: Auth,
    pub tokens_required: bool,
    /// What it can do; empty: no check, everything passes.
    pub apis: &'static [Api],
    /// Paths that do not follow from the prefix.
    pub paths: &'static [(Api, &'static str)],
    /// Configuration fields of this type only.
    pub fields: &'static [&'static str],
    /// Those of them it can't do without.
    pub required_fields: &'static [&'static str],
    /// What Higress does for this type and this version does not; told to the operator at load.
    pub differences: &'static [&'static str],
}

impl ProviderType {
    pub fn by_name(name: &str) -> Option<&'static ProviderType> {
        TYPES.iter().find(|kind| kind.name == name)
    }

    /// The provider's path for this API as far as the table says, placeholders unresolved.
    pub(super) fn fixed_path(&self, api: Api) -> Option<&'static str> {
        self.paths.iter().find(|(known, _)| *known == api).map(|(_, path)| *path)
    }

    pub(super) fn supports(&self, api: Api) -> bool {
        self.apis.is_empty() || self.apis.contains(&api)
    }
}

/// What most rows have.
const LIKE_OPENAI: ProviderType = ProviderType {
    name: "",
    adapter: Adapter::OpenAi,
    host: "",
    prefix: "/v1",
    auth: Auth::Bearer,
    tokens_required: true,
    apis: CHAT,
    paths: &[],
    fields: &[],
    required_fields: &[],
    differences: &[],
};

const CHAT: &[Api] = &[Api::ChatCompletions];
const CHAT_EMBEDDINGS: &[Api] = &[Api::ChatCompletions, Api::Embeddings];
const CHAT_MODELS: &[Api] = &[Api::ChatCompletions, Api::Models];
const CHAT_EMBEDDINGS_MODELS: &[Api] = &[Api::ChatCompletions, Api::Embeddings, Api::Models];

/// Types of Higress that need a translation this version does not have.
pub const NOT_YET: [&str; 12] =
    ["azure", "bedrock", "claude", "cohere", "coze", "deepl", "dify", "gemini", "kling", "spark", "triton", "vertex"];

/// In alphabetical order.
pub const TYPES: [ProviderType; 26] = [
    ProviderType { name: "ai360", host: "api.360.cn", auth: Auth::Bare, apis: CHAT_EMBEDDINGS, ..LIKE_OPENAI },
    ProviderType { name: "baichuan", host: "api.baichuan-ai.com", apis: CHAT_EMBEDDINGS, ..LIKE_OPENAI },
    ProviderType { name: "baidu", host: "qianfan.baidubce.com", prefix: "/v2", apis: CHAT_EMBEDDINGS, ..LIKE_OPENAI },
    ProviderType {
        name: "cloudflare",
        host: "api.cloudflare.com",
        prefix: "/client/v4/accounts/{cloudflareAccountId}/ai/v1",
        fields: &["cloudflareAccountId"],
        required_fields: &["cloudflareAccountId"],
        ..LIKE_OPENAI
    },
    ProviderType {
        name: "deepseek",
        host: "api.deepseek.com",
        apis: &[Api::ChatCompletions, Api::Models, Api::AnthropicMessages],
        paths: &[(Api::AnthropicMessages, "/anthropic/v1/messages")],
        ..LIKE_OPENAI
    },
    ProviderType {
        name: "doubao",
        host: "ark.cn-beijing.volces.com",
        prefix: "/api/v3",
        apis: &[Api::ChatCompletions, Api::Embeddings, Api::ImageGenerations, Api::Responses],
        fields: &["doubaoDomain"],
        ..LIKE_OPENAI
    },
    ProviderType {
        name: "fireworks",
        host: "api.fireworks.ai",
        apis: &[Api::ChatCompletions, Api::Completions, Api::Models],
        ..LIKE_OPENAI
    },
    ProviderType { name: "galadriel", host: "api.galadriel.com", ..LIKE_OPENAI },
    ProviderType { name: "generic", tokens_required: false, apis: &[], fields: &["genericHost"], ..LIKE_OPENAI },
    ProviderType {
        name: "github",
        host: "models.inference.ai.azure.com",
        prefix: "",
        auth: Auth::Bare,
        apis: CHAT_EMBEDDINGS,
        ..LIKE_OPENAI
    },
    ProviderType { name: "grok", host: "api.x.ai", ..LIKE_OPENAI },
    ProviderType {
        name: "groq",
        host: "api.groq.com",
        prefix: "/openai/v1",
        apis: &[Api::ChatCompletions, Api::Responses],
        ..LIKE_OPENAI
    },
    ProviderType {
        name: "hunyuan",
        host: "api.hunyuan.cloud.tencent.com",
        apis: CHAT_EMBEDDINGS,
        differences: &["only token authentication is available; hunyuanAuthId and hunyuanAuthKey are not"],
        ..LIKE_OPENAI
    },
    ProviderType { name: "longcat", host: "api.longcat.chat", apis: CHAT_EMBEDDINGS_MODELS, ..LIKE_OPENAI },
    ProviderType {
        name: "minimax",
        host: "api.minimax.chat",
        paths: &[(Api::ChatCompletions, "/v1/text/chatcompletion_v2")],
        fields: &["minimaxApiType"],
        ..LIKE_OPENAI
    },
    ProviderType { name: "mistral", host: "api.mistral.ai", apis: CHAT_EMBEDDINGS, ..LIKE_OPENAI },
    ProviderType {
        name: "moonshot",
        host: "api.moonshot.cn",
        apis: CHAT_MODELS,
        differences: &["usage of a stream is recorded, but stays where Moonshot puts it, inside the choice"],
        ..LIKE_OPENAI
    },
    ProviderType {
        name: "ollama",
        auth: Auth::None,
        tokens_required: false,
        apis: &[],
        fields: &["ollamaServerHost", "ollamaServerPort"],
        required_fields: &["ollamaServerHost", "ollamaServerPort"],
        ..LIKE_OPENAI
    },
    ProviderType {
        name: "openai",
        host: "api.openai.com",
        tokens_required: false,
        apis: &[],
        fields: &["openaiCustomUrl", "openaiExtraCustomUrls", "openaiCustomServiceName", "openaiCustomServicePort"],
        ..LIKE_OPENAI
    },
    ProviderType {
        name: "openrouter",
        host: "openrouter.ai",
        prefix: "/api/v1",
        apis: &[Api::ChatCompletions, Api::Completions],
        differences: &["reasoning_max_tokens is sent as it is, not as reasoning.max_tokens"],
        ..LIKE_OPENAI
    },
    ProviderType {
        name: "qwen",
        host: "dashscope.aliyuncs.com",
        prefix: "/compatible-mode/v1",
        apis: &[
            Api::ChatCompletions,
            Api::Completions,
            Api::Embeddings,
            Api::Responses,
            Api::Files,
            Api::RetrieveFile,
            Api::RetrieveFileContent,
            Api::Batches,
            Api::RetrieveBatch,
            Api::CancelBatch,
            Api::Conversations,
            Api::Reranks,
            Api::AnthropicMessages,
        ],
        paths: &[(Api::Reranks, "/compatible-api/v1/reranks"), (Api::AnthropicMessages, "/apps/anthropic/v1/messages")],
        fields: &["qwenDomain", "qwenEnableCompatible", "qwenEnableSearch"],
        ..LIKE_OPENAI
    },
    ProviderType { name: "stepfun", host: "api.stepfun.com", ..LIKE_OPENAI },
    ProviderType { name: "together-ai", host: "api.together.xyz", ..LIKE_OPENAI },
    ProviderType {
        name: "vllm",
        host: "vllm-service.cluster.local",
        tokens_required: false,
        apis: &[
            Api::ChatCompletions,
            Api::Completions,
            Api::Models,
            Api::Embeddings,
            Api::Rerank,
            Api::AnthropicMessages,
            Api::AnthropicCountTokens,
            Api::Responses,
            Api::AudioTranscriptions,
            Api::AudioTranslations,
        ],
        fields: &["vllmCustomUrl", "vllmExtraCustomUrls", "vllmServerHost"],
        ..LIKE_OPENAI
    },
    ProviderType { name: "yi", host: "api.lingyiwanwu.com", ..LIKE_OPENAI },
    ProviderType {
        name: "zhipuai",
        host: "open.bigmodel.cn",
        prefix: "/api/paas/v4",
        apis: CHAT_EMBEDDINGS,
        fields: &["zhipuDomain", "zhipuCodePlanMode"],
        differences: &["reasoning_effort is sent as it is, not as thinking"],
        ..LIKE_OPENAI
    },
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rows_are_sorted_unique_and_consistent() {
        assert!(TYPES.windows(2).all(|pair| pair[0].name < pair[1].name));
        assert!(NOT_YET.windows(2).all(|pair| pair[0] < pair[1]));
        for kind in &TYPES {
            assert!(!NOT_YET.contains(&kind.name), "{}", kind.name);
            assert!(kind.required_fields.iter().all(|field| kind.fields.contains(field)), "{}", kind.name);
            assert!(kind.paths.iter().all(|(api, _)| kind.supports(*api)), "{}", kind.name);
            assert!(
                kind.prefix.is_empty() || kind.prefix.starts_with('/') && !kind.prefix.ends_with('/'),
                "{}",
                kind.name
            );
        }
    }
}

//! Which API a request path means, and what that API's bodies hold.

/// An API of a model provider. Names in configuration and logs are those of Higress' `ai-proxy`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Api {
    ChatCompletions,
    Completions,
    Embeddings,
    AudioSpeech,
    AudioTranscriptions,
    AudioTranslations,
    Realtime,
    ImageGenerations,
    ImageVariations,
    ImageEdits,
    Batches,
    Files,
    Models,
    FineTuningJobs,
    Responses,
    Videos,
    AnthropicCountTokens,
    AnthropicMessages,
    AnthropicComplete,
    Rerank,
    Reranks,
    Conversations,
    RetrieveBatch,
    CancelBatch,
    RetrieveFile,
    RetrieveFileContent,
    RetrieveVideo,
    RetrieveVideoContent,
    VideoRemix,
    RetrieveFineTuningJob,
    FineTuningJobEvents,
    FineTuningJobCheckpoints,
    CancelFineTuningJob,
    ResumeFineTuningJob,
    PauseFineTuningJob,
    FineTuningCheckpointPermissions,
    DeleteFineTuningCheckpointPermission,
    GeminiGenerateContent,
    GeminiStreamGenerateContent,
}

/// Fixed paths in the order they are tried, with the name in configuration. All begin with `/v1`.
const FIXED: [(Api, &str, &str); 22] = [
    (Api::ChatCompletions, "/chat/completions", "openai/v1/chatcompletions"),
    (Api::Completions, "/completions", "openai/v1/completions"),
    (Api::Embeddings, "/embeddings", "openai/v1/embeddings"),
    (Api::AudioSpeech, "/audio/speech", "openai/v1/audiospeech"),
    (Api::AudioTranscriptions, "/audio/transcriptions", "openai/v1/audiotranscription"),
    (Api::AudioTranslations, "/audio/translations", "openai/v1/audiotranslation"),
    (Api::Realtime, "/realtime", "openai/v1/realtime"),
    (Api::ImageGenerations, "/images/generations", "openai/v1/imagegeneration"),
    (Api::ImageVariations, "/images/variations", "openai/v1/imagevariation"),
    (Api::ImageEdits, "/images/edits", "openai/v1/imageedit"),
    (Api::Batches, "/batches", "openai/v1/batches"),
    (Api::Files, "/files", "openai/v1/files"),
    (Api::Models, "/models", "openai/v1/models"),
    (Api::FineTuningJobs, "/fine_tuning/jobs", "openai/v1/fine-tuningjobs"),
    (Api::Responses, "/responses", "openai/v1/responses"),
    (Api::Videos, "/videos", "openai/v1/videos"),
    (Api::AnthropicCountTokens, "/messages/count_tokens", "anthropic/v1/messages/count_tokens"),
    (Api::AnthropicMessages, "/messages", "anthropic/v1/messages"),
    (Api::AnthropicComplete, "/complete", "anthropic/v1/complete"),
    (Api::Rerank, "/rerank", "cohere/v1/rerank"),
    (Api::Reranks, "/reranks", "qwen/v1/rerank"),
    (Api::Conversations, "/conversations", "qwen/v1/conversations"),
];

/// A path that was recognised.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Recognised<'a> {
    pub api: Api,
    /// What follows `/v1` (for Gemini: the whole path), without the query.
    pub tail: &'a str,
    /// The id in the path, of a file, batch, video or job.
    pub id: Option<&'a str>,
}

/// The API that `path` (with or without a query) means. Only the end of the path counts, whatever prefix a route has.
pub fn recognise(path: &str) -> Option<Recognised<'_>> {
    let path = path.split_once('?').map_or(path, |(path, _)| path);
    if let Some(tail) = v1_tail(path) {
        let fixed = FIXED.iter().find(|(_, fixed, _)| tail == *fixed).map(|(api, _, _)| (*api, None));
        if let Some((api, id)) = fixed.or_else(|| with_id(tail)) {
            return Some(Recognised { api, tail, id });
        }
    }
    let (_, model_and_method) = path.rsplit_once("/models/")?;
    let (_, method) = model_and_method.split_once(':')?;
    let api = match method {
        "generateContent" => Api::GeminiGenerateContent,
        "streamGenerateContent" => Api::GeminiStreamGenerateContent,
        _ => return None,
    };
    Some(Recognised { api, tail: path, id: None })
}

/// What follows the last `/v1` segment of a path without query, from its slash on.
pub fn v1_tail(path: &str) -> Option<&str> {
    path.rfind("/v1/").map(|at| &path[at + "/v1".len()..])
}

fn with_id(tail: &str) -> Option<(Api, Option<&str>)> {
    let segments: Vec<&str> = tail[1..].split('/').collect();
    let (api, id) = match segments[..] {
        ["batches", id] => (Api::RetrieveBatch, id),
        ["batches", id, "cancel"] => (Api::CancelBatch, id),
        ["files", id] => (Api::RetrieveFile, id),
        ["files", id, "content"] => (Api::RetrieveFileContent, id),
        ["videos", id] => (Api::RetrieveVideo, id),
        ["videos", id, "content"] => (Api::RetrieveVideoContent, id),
        ["videos", id, "remix"] => (Api::VideoRemix, id),
        ["fine_tuning", "jobs", id] => (Api::RetrieveFineTuningJob, id),
        ["fine_tuning", "jobs", id, "events"] => (Api::FineTuningJobEvents, id),
        ["fine_tuning", "jobs", id, "checkpoints"] => (Api::FineTuningJobCheckpoints, id),
        ["fine_tuning", "jobs", id, "cancel"] => (Api::CancelFineTuningJob, id),
        ["fine_tuning", "jobs", id, "resume"] => (Api::ResumeFineTuningJob, id),
        ["fine_tuning", "jobs", id, "pause"] => (Api::PauseFineTuningJob, id),
        ["fine_tuning", "checkpoints", id, "permissions"] => (Api::FineTuningCheckpointPermissions, id),
        ["fine_tuning", "checkpoints", id, "permissions", _] => (Api::DeleteFineTuningCheckpointPermission, id),
        _ => return None,
    };
    (!id.is_empty()).then_some((api, Some(id)))
}

impl Api {
    pub fn is_anthropic(self) -> bool {
        matches!(self, Self::AnthropicMessages | Self::AnthropicComplete | Self::AnthropicCountTokens)
    }

    /// The API an entry of `capabilities` names: Higress' name, or its last part.
    pub fn from_capability(name: &str) -> Option<Api> {
        let videos = [
            (Api::RetrieveVideo, "openai/v1/retrievevideo"),
            (Api::RetrieveVideoContent, "openai/v1/retrievevideocontent"),
            (Api::VideoRemix, "openai/v1/videoremix"),
        ];
        let fixed = FIXED.iter().map(|(api, _, name)| (*api, *name));
        fixed
            .chain(videos)
            .find(|(_, full)| *full == name || full.strip_prefix("openai/v1/") == Some(name))
            .map(|(api, _)| api)
    }

    /// Whether the JSON body names a model, and is therefore rewritten for the provider.
    pub fn has_model_in_body(self) -> bool {
        matches!(
            self,
            Api::ChatCompletions
                | Api::Completions
                | Api::Embeddings
                | Api::ImageGenerations
                | Api::ImageEdits
                | Api::ImageVariations
                | Api::AudioSpeech
                | Api::FineTuningJobs
                | Api::Responses
                | Api::Videos
                | Api::VideoRemix
                | Api::AnthropicMessages
                | Api::AnthropicCountTokens
                | Api::AnthropicComplete
                | Api::Rerank
                | Api::Reranks
        )
    }

    /// Whether a call asked twice is answered twice and nothing else: nothing is stored, begun or ended by it.
    pub fn is_question(self) -> bool {
        matches!(
            self,
            Api::ChatCompletions
                | Api::Completions
                | Api::Embeddings
                | Api::AnthropicMessages
                | Api::AnthropicComplete
                | Api::AnthropicCountTokens
                | Api::Rerank
                | Api::Reranks
                | Api::GeminiGenerateContent
                | Api::GeminiStreamGenerateContent
        )
    }

    /// Whether what one call stores is asked for by another, so that a consumer must keep meeting the same account.
    pub fn is_stateful(self) -> bool {
        matches!(
            self,
            Api::Responses
                | Api::Files
                | Api::RetrieveFile
                | Api::RetrieveFileContent
                | Api::Batches
                | Api::RetrieveBatch
                | Api::CancelBatch
                | Api::FineTuningJobs
                | Api::RetrieveFineTuningJob
                | Api::FineTuningJobEvents
                | Api::FineTuningJobCheckpoints
                | Api::CancelFineTuningJob
                | Api::ResumeFineTuningJob
                | Api::PauseFineTuningJob
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_recognised_by_their_end() {
        for (path, api, tail, id) in [
            ("/v1/chat/completions", Api::ChatCompletions, "/chat/completions", None),
            ("/ai/openai/v1/chat/completions?x=/v1/models", Api::ChatCompletions, "/chat/completions", None),
            ("/v1/completions", Api::Completions, "/completions", None),
            ("/v1/messages/count_tokens", Api::AnthropicCountTokens, "/messages/count_tokens", None),
            ("/v1/messages", Api::AnthropicMessages, "/messages", None),
            ("/v1/files/f-1/content", Api::RetrieveFileContent, "/files/f-1/content", Some("f-1")),
            ("/v1/batches/b/cancel", Api::CancelBatch, "/batches/b/cancel", Some("b")),
            ("/v1/fine_tuning/jobs/j/pause", Api::PauseFineTuningJob, "/fine_tuning/jobs/j/pause", Some("j")),
            (
                "/x/v1beta/models/gemini-pro:streamGenerateContent?alt=sse",
                Api::GeminiStreamGenerateContent,
                "/x/v1beta/models/gemini-pro:streamGenerateContent",
                None,
            ),
        ] {
            assert_eq!(recognise(path), Some(Recognised { api, tail, id }), "{path}");
        }
    }

    #[test]
    fn other_paths_are_not() {
        for path in [
            "/",
            "/v1",
            "/v1/",
            "/v2/chat/completions",
            "/v1/chat",
            "/v1/models/gpt-4o",
            "/v1/files/",
            "/models/x:embed",
        ] {
            assert_eq!(recognise(path), None, "{path}");
        }
        assert_eq!(v1_tail("/a/v1/unknown/thing"), Some("/unknown/thing"));
    }

    #[test]
    fn capabilities_go_by_either_name() {
        assert_eq!(Api::from_capability("openai/v1/chatcompletions"), Some(Api::ChatCompletions));
        assert_eq!(Api::from_capability("chatcompletions"), Some(Api::ChatCompletions));
        assert_eq!(Api::from_capability("cohere/v1/rerank"), Some(Api::Rerank));
        assert_eq!(Api::from_capability("retrievevideo"), Some(Api::RetrieveVideo));
        assert_eq!(Api::from_capability("telepathy"), None);
    }
}

//! `rag-models`: knowledge bases as models. A chat with the model `rag/<knowledge base>` is answered from its documents. Default phase,
//! priority 870, so that a request for a knowledge base reaches no router of models.
//!
//! Ours, not Higress'. Who asks is the consumer that an authentication plugin named; a base that this consumer may not see does not exist
//! for it. The answer has OpenAI's shape, whole or streamed, with its sources as `annotations` and in the member `weirgate`.

mod chat;
mod list;

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::StreamExt;
use http::Method;
use parking_lot::Mutex;
use pingora_http::ResponseHeader;
use serde_json::{Map, Value};

use self::chat::{Chat, Told};
use super::{chat_request, is_json};
use crate::config::model::Phase;
use crate::llm::error::{ApiError, ErrorKind};
use crate::llm::provider::Api;
use crate::llm::request::ChatRequest;
use crate::plugins::config::{FieldProblem, Fields, is_usable};
use crate::plugins::registry::{BuildResult, PluginSpec, Scope};
use crate::plugins::rules::Family;
use crate::plugins::{BodyStream, Flow, Host, Plugin, Reply, Request};
use crate::rag::RagError;
use crate::rag::api;
use crate::rag::ask::{Ask, AskSteps, Event, Events};
use crate::rag::knowledge_base::Caller;
use crate::rag::retrieve::{Search, Steps};

pub const SPEC: PluginSpec = PluginSpec {
    name: "rag-models",
    phase: Phase::Unspecified,
    priority: 870,
    family: Family::Go,
    summary: "Answers chats with the model rag/<knowledge base> from its documents, with citations",
    build,
    check: |scope| Config::read(scope).1,
};

/// What the name of a knowledge base has before it as a model.
const PREFIX: &str = "rag/";

struct Config {
    /// Bases that are models here; all if empty.
    bases: Vec<String>,
    top_k: usize,
    steps: Steps,
    further: AskSteps,
    /// Tokens of the passages that a model is shown, as estimated.
    max_tokens: usize,
    path_suffixes: Vec<String>,
}

impl Config {
    fn read(scope: &Scope<'_>) -> (Config, Vec<FieldProblem>) {
        let value = scope.alone();
        let mut fields = Fields::of(&value, "");
        let top_k = fields.count("topK").unwrap_or(5);
        if !(1..=50).contains(&top_k) {
            fields.problem("topK", format!("{top_k}: it is 1 to 50"));
        }
        let max_tokens = fields.count("maxTokens").unwrap_or(3_000);
        if max_tokens < 1 {
            fields.problem("maxTokens", format!("{max_tokens}: it is at least 1"));
        }
        let named: Map<String, Value> = fields.object("steps").and_then(Value::as_object).cloned().unwrap_or_default();
        let (steps, further) = api::steps(named).unwrap_or_else(|error| {
            fields.problem("steps", error.to_string());
            Default::default()
        });
        let path_suffixes =
            fields.strings("enableOnPathSuffix").unwrap_or_else(|| vec!["/chat/completions".to_owned()]);
        let config = Config {
            bases: fields.strings("knowledgeBases").unwrap_or_default(),
            top_k: usize::try_from(top_k).unwrap_or(5),
            steps,
            further,
            max_tokens: usize::try_from(max_tokens).unwrap_or(3_000),
            path_suffixes,
        };
        (config, fields.finish())
    }

    fn admits(&self, base: &str) -> bool {
        self.bases.is_empty() || self.bases.iter().any(|known| known == base)
    }
}

fn build(scope: &Scope<'_>, host: &Arc<dyn Host>) -> BuildResult {
    let (config, problems) = Config::read(scope);
    if is_usable(&problems) { Ok(Some(Arc::new(RagModels { config, host: host.clone() }))) } else { Err(problems) }
}

struct RagModels {
    config: Config,
    host: Arc<dyn Host>,
}

#[async_trait]
impl Plugin for RagModels {
    async fn on_request_headers(&self, request: &mut Request<'_>) -> Flow {
        if request.head.method != Method::GET {
            return Flow::Continue;
        }
        if list::is_list(request.path()) {
            let models = self.models(caller(request)).await;
            request.state.notes.insert(list::Models(models));
        } else if let Some(model) = list::asked_for(request.path()) {
            let is_there = self.models(caller(request)).await.contains(&model);
            return Flow::respond(if is_there { list::one(&model) } else { error_reply(&unknown(&model)) });
        }
        Flow::Continue
    }

    fn wants_body(&self, request: &Request<'_>) -> bool {
        let is_chat = self.config.path_suffixes.iter().any(|suffix| request.path().ends_with(suffix.as_str()));
        request.head.method == Method::POST && is_chat && (is_json(request) || request.content_type().is_none())
    }

    async fn on_request_body(&self, request: &mut Request<'_>) -> Flow {
        // A body that is no chat request is somebody else's to judge.
        let Some(Ok(chat)) = chat_request(request) else { return Flow::Continue };
        let Some(base) = chat.model().strip_prefix(PREFIX) else { return Flow::Continue };
        let llm = request.state.llm_mut();
        llm.api = Some(Api::ChatCompletions);
        llm.requested_model = chat.model().to_owned();
        llm.stream = chat.stream();
        if !self.config.admits(base) {
            return Flow::respond(error_reply(&unknown(chat.model())));
        }
        let ask = match self.ask(&chat) {
            Ok(ask) => ask,
            Err(error) => return Flow::respond(error_reply(&error)),
        };
        let answer = Chat::new(&request.state.id.to_string(), &chat);
        request.state.notes.insert(answer.told.clone());
        let (host, base, caller) = (self.host.clone(), base.to_owned(), caller(request));
        Flow::Later(Box::pin(async move {
            let told = |error: RagError| error_reply(&told(error, chat.model()));
            match host.ask_documents(&base, ask, caller).await {
                Ok(events) if chat.stream() => streamed(events, answer).await.unwrap_or_else(told),
                Ok(events) => whole(events, &answer).await.unwrap_or_else(told),
                Err(error) => told(error),
            }
        }))
    }

    /// The list of models may be an upstream's.
    fn may_hold_answer(&self, request: &Request<'_>) -> bool {
        request.state.notes.get::<list::Models>().is_some_and(|models| !models.0.is_empty())
    }

    fn wants_response_body(&self, request: &Request<'_>, response: &ResponseHeader) -> bool {
        self.may_hold_answer(request) && matches!(response.status.as_u16(), 200 | 404)
    }

    async fn on_response_body(&self, request: &mut Request<'_>, response: &mut ResponseHeader, body: &mut Bytes) {
        if let Some(models) = request.state.notes.get::<list::Models>() {
            list::extend(models, response, body);
        }
    }

    /// Tells the plugins that count model calls what this one came to.
    fn on_log(&self, request: &mut Request<'_>) {
        let Some(told) = request.state.notes.get::<Arc<Mutex<Told>>>().cloned() else { return };
        let told = told.lock();
        if told.has_begun {
            request.state.llm_mut().attempts.push(told.answered());
        }
    }
}

impl RagModels {
    /// Models that this caller may ask; none where they cannot be read, which the log tells.
    async fn models(&self, caller: Caller) -> Vec<String> {
        let bases = self.host.knowledge_bases(caller).await.unwrap_or_else(|error| {
            tracing::warn!(%error, "The list of models lacks the knowledge bases");
            Vec::new()
        });
        bases.into_iter().filter(|base| self.config.admits(base)).map(|base| format!("{PREFIX}{base}")).collect()
    }

    /// What the documents are asked for.
    fn ask(&self, chat: &ChatRequest) -> Result<Ask, ApiError> {
        let (question, turns) = chat::conversation(chat)?;
        let search =
            Search { query: question, top_k: self.config.top_k, steps: self.config.steps, ..Search::default() };
        Ok(Ask { turns, steps: self.config.further, max_tokens: self.config.max_tokens, ..Ask::new(search) })
    }
}

/// Whatever goes wrong before the first word is an error with a status.
async fn streamed(mut events: Events, answer: Chat) -> Result<Reply, RagError> {
    let first = events.next().await;
    answer.told.lock().has_begun = true;
    if let Some(Event::End(Err(error))) = first {
        return Err(error);
    }
    let pieces = answer.pieces(futures_util::stream::iter(first).chain(events));
    let reply = Reply::new(200, "rag-models.stream").stream(BodyStream::new(pieces));
    let reply = reply.header(http::header::CONTENT_TYPE, "text/event-stream");
    Ok(reply.header(http::header::CACHE_CONTROL, "no-cache"))
}

async fn whole(mut events: Events, answer: &Chat) -> Result<Reply, RagError> {
    while let Some(event) = events.next().await {
        answer.told.lock().has_begun = true;
        if let Event::End(end) = event {
            return Ok(Reply::new(200, "rag-models.answer").json(answer.whole(&*end?)));
        }
    }
    Err(RagError::Unavailable("the gateway is stopping".to_owned()))
}

fn caller(request: &Request<'_>) -> Caller {
    Caller::Consumer { name: request.state.consumer.clone(), tenant: None }
}

fn unknown(model: &str) -> ApiError {
    let message = format!("There is no model \"{model}\". GET /v1/models lists those that you may ask.");
    ApiError::new(ErrorKind::ModelNotFound, message).with_param("model")
}

/// What a client is told; places on this machine are for the log.
fn told(error: RagError, model: &str) -> ApiError {
    match error {
        RagError::UnknownBase { .. } | RagError::Name(_) | RagError::Forbidden(_) => unknown(model),
        RagError::Invalid(message) => ApiError::new(ErrorKind::InvalidValue, message).with_param("messages"),
        RagError::Cut(_) => ApiError::new(ErrorKind::UpstreamCut, error.to_string()),
        RagError::Unavailable(_) => {
            ApiError::new(ErrorKind::Overloaded, format!("{model} cannot answer now: {error}. Retry later."))
        }
        error => {
            tracing::error!(model, %error, "A knowledge base cannot answer");
            let message =
                format!("{model} cannot answer: its documents cannot be searched. The gateway's log says why.");
            ApiError::new(ErrorKind::Internal, message)
        }
    }
}

fn error_reply(error: &ApiError) -> Reply {
    super::error_reply(error, &format!("rag-models.{}", error.kind.code()))
}

#[cfg(test)]
mod tests;

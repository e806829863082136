//! `waf`: a web application firewall with ModSecurity rules. AUTHZ phase, priority 330.
//!
//! The rule engine is the crate `zentinel-modsec`, which runs the OWASP Core Rule Set (its authors measure 4,806 of the rule
//! set's 5,184 regression cases). `rules` says which directives a configuration may use. Phase 1 runs when the head is there,
//! phase 2 when the body is, or at once if none comes; phase 3 on the head of the answer, phase 4 on its body, or right behind
//! phase 3 where the body is not inspected; phase 5 at the end, for the log. A rule that interrupts answers with its status and no
//! body. Which rules matched is in the access log, also of requests that pass (`SecRuleEngine DetectionOnly`).
//!
//! Differences from Higress: bodies of requests are inspected without `SecRequestBodyAccess`; the Core Rule Set does not ship with
//! the gateway but is read from `crs/` in the data folder (`crs-setup.conf`, `rules/REQUEST-*.conf` and `rules/RESPONSE-95*.conf`);
//! directives that have no effect here are configuration errors, except those about logs, temporary files and limits.

mod rules;

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use http::header::{CONTENT_TYPE, LOCATION};
use http::{HeaderValue, Version};
use parking_lot::Mutex;
use pingora_http::ResponseHeader;
use serde_json::Value;
use zentinel_modsec::engine::phase::Phase as RulePhase;
use zentinel_modsec::engine::ruleset::RuleEngineMode;
use zentinel_modsec::variables::MutableCollection;
use zentinel_modsec::{CompiledRuleset, Intervention, Transaction};

use crate::config::model::Phase;
use crate::plugins::config::{FieldProblem, Fields, is_usable};
use crate::plugins::registry::{BuildResult, PluginSpec, Scope};
use crate::plugins::rules::Family;
use crate::plugins::{Flow, Host, Plugin, Reply, Request, parts};

use rules::Compiled;

pub const SPEC: PluginSpec = PluginSpec {
    name: "waf",
    phase: Phase::Authz,
    priority: 330,
    family: Family::Go,
    summary: "Web application firewall with ModSecurity rules",
    build,
    check: |scope| Config::read(scope).1,
};

/// Status of a rule that blocks and names none.
const DEFAULT_STATUS: u16 = 403;

/// Bytes of a body from which on it is looked at elsewhere than on the request's own thread.
const LONG_BODY: usize = 16 * 1024;

/// Field of the access log with the ids of the rules that matched.
const LOG_FIELD: &str = "waf_rules";

struct Config {
    use_crs: bool,
    /// Rules written in the configuration, one directive or more an element.
    own: Vec<String>,
}

impl Config {
    fn read(scope: &Scope<'_>) -> (Config, Vec<FieldProblem>) {
        let value = scope.alone();
        let mut fields = Fields::of(&value, "");
        let use_crs = fields.boolean("useCRS").unwrap_or(false);
        let own = fields.strings("secRules").unwrap_or_default();
        for (index, message) in rules::problems(&own) {
            fields.problem(&format!("secRules[{index}]"), message);
        }
        (Config { use_crs, own }, fields.finish())
    }

    fn compile(&self, data_dir: &Path) -> Result<Compiled, FieldProblem> {
        let crs = match self.use_crs {
            true => {
                rules::core_rule_set(&data_dir.join("crs")).map_err(|message| FieldProblem::error("useCRS", message))?
            }
            false => String::new(),
        };
        let text = format!("{crs}{}", self.own.join("\n"));
        Compiled::of(&text).map_err(|error| FieldProblem::error("secRules", error.to_string()))
    }
}

struct Waf {
    rules: Arc<CompiledRuleset>,
    /// By rule; the engine itself answers with one status for all.
    statuses: HashMap<String, u16>,
    /// Rules that say something. The others only prepare and count.
    telling: HashSet<String>,
    /// Media types of answers whose bodies are inspected.
    inspected: Vec<String>,
}

impl Waf {
    fn new(compiled: Compiled) -> Waf {
        let Compiled { rules, inspected, dead } = compiled;
        if !dead.is_empty() {
            let ids: Vec<&str> = dead.iter().map(|(id, _)| id.as_str()).collect();
            let rules = ids.join(", ");
            tracing::warn!(rules, "waf: these rules have expressions that are not understood, and match nothing");
        }
        let inspected = if rules.rules_for_phase(RulePhase::ResponseBody).is_empty() { Vec::new() } else { inspected };
        Waf { statuses: rules::statuses(&rules), telling: rules::telling(&rules), inspected, rules: Arc::new(rules) }
    }
}

/// What building says of the rule set in the data folder.
pub fn check_files(scope: &Scope<'_>, data_dir: &Path) -> Vec<FieldProblem> {
    let (config, problems) = Config::read(scope);
    if is_usable(&problems) { config.compile(data_dir).err().into_iter().collect() } else { Vec::new() }
}

/// The engine's view of a request that rules are still to be run on.
type Open = Arc<Mutex<Transaction>>;

fn build(scope: &Scope<'_>, host: &Arc<dyn Host>) -> BuildResult {
    let (config, problems) = Config::read(scope);
    if !is_usable(&problems) {
        return Err(problems);
    }
    let rules = config.compile(host.data_dir()).map_err(|problem| vec![problem])?;
    let is_active = rules.rules.rule_count() > 0 && rules.rules.engine_mode() != RuleEngineMode::Off;
    Ok(is_active.then(|| Arc::new(Waf::new(rules)) as Arc<dyn Plugin>))
}

#[async_trait]
impl Plugin for Waf {
    async fn on_request_headers(&self, request: &mut Request<'_>) -> Flow {
        request.state.notes.remove::<Open>();
        let mut transaction = self.begin(request);
        let waits = self.wants_body(request);
        let ran = transaction.process_request_headers().and_then(|()| match waits || transaction.has_intervention() {
            true => Ok(()),
            false => transaction.process_request_body(),
        });
        let flow = self.decide(&transaction, ran);
        self.log(request, &transaction);
        if matches!(flow, Flow::Continue) && (waits || self.has_rules_for_answers()) {
            request.state.notes.insert(Arc::new(Mutex::new(transaction)));
        }
        flow
    }

    fn wants_body(&self, request: &Request<'_>) -> bool {
        parts::may_have_body(request) && !self.rules.rules_for_phase(RulePhase::RequestBody).is_empty()
    }

    async fn on_request_body(&self, request: &mut Request<'_>) -> Flow {
        let Some(open) = request.state.notes.remove::<Open>() else { return Flow::Continue };
        let body = request.state.body.clone().unwrap_or_default();
        let is_long = body.len() > LONG_BODY;
        let (of_task, run) = (open.clone(), move |open: &Open, body: &[u8]| {
            let mut transaction = open.lock();
            transaction.append_request_body(body).and_then(|()| transaction.process_request_body())
        });
        let ran = match is_long {
            false => run(&open, &body),
            // A megabyte takes a second, in which this thread's other requests would wait.
            true => tokio::task::spawn_blocking(move || run(&of_task, &body)).await.unwrap_or_else(|error| {
                tracing::error!(%error, "waf could not look at a body");
                Ok(())
            }),
        };
        let transaction = open.lock();
        self.log(request, &transaction);
        let flow = self.decide(&transaction, ran);
        drop(transaction);
        if matches!(flow, Flow::Continue) && self.has_rules_for_answers() {
            request.state.notes.insert(open);
        }
        flow
    }

    fn may_hold_answer(&self, request: &Request<'_>) -> bool {
        !self.inspected.is_empty() && request.state.notes.get::<Open>().is_some()
    }

    fn replace_answer(&self, request: &Request<'_>, response: &ResponseHeader) -> Option<Reply> {
        let mut transaction = request.state.notes.get::<Open>()?.lock();
        transaction.tx_mut().set(rules::RESPONSE_STATUS.to_owned(), response.status.as_u16().to_string());
        for (name, value) in &response.headers {
            // Only stored.
            let _ = transaction.add_response_header(name.as_str(), &String::from_utf8_lossy(value.as_bytes()));
        }
        let ran = transaction.process_response_headers().and_then(|()| match self.is_inspected(response) {
            true => Ok(()),
            false => transaction.process_response_body(),
        });
        match self.decide(&transaction, ran) {
            Flow::Respond(reply) => Some(*reply),
            Flow::Continue | Flow::Later(_) => None,
        }
    }

    fn on_response_headers(&self, request: &mut Request<'_>, _response: &mut ResponseHeader) {
        if let Some(open) = request.state.notes.get::<Open>().cloned() {
            self.log(request, &open.lock());
        }
    }

    fn wants_response_body(&self, request: &Request<'_>, response: &ResponseHeader) -> bool {
        let open = request.state.notes.get::<Open>();
        open.is_some_and(|open| self.is_inspected(response) && !open.lock().has_intervention())
    }

    async fn on_response_body(&self, request: &mut Request<'_>, response: &mut ResponseHeader, body: &mut Bytes) {
        let Some(open) = request.state.notes.get::<Open>().cloned() else { return };
        let mut transaction = open.lock();
        let ran = transaction.append_response_body(body).and_then(|()| transaction.process_response_body());
        self.log(request, &transaction);
        if let Flow::Respond(reply) = self.decide(&transaction, ran) {
            request.state.details.clone_from(&reply.details);
            let mut head = response.clone();
            if head.set_status(reply.status).is_ok() {
                let names: Vec<_> = head.headers.keys().cloned().collect();
                names.iter().for_each(|name| drop(head.remove_header(name)));
                for (name, value) in reply.headers {
                    // The name is a header's.
                    let _ = head.append_header(name, value);
                }
                *response = head;
                *body = reply.body;
            }
        }
    }

    fn on_log(&self, request: &mut Request<'_>) {
        let Some(open) = request.state.notes.remove::<Open>() else { return };
        let mut transaction = open.lock();
        if let Err(error) = transaction.process_logging() {
            tracing::warn!(%error, "waf could not run the rules for the log");
        }
        self.log(request, &transaction);
    }
}

impl Waf {
    fn has_rules_for_answers(&self) -> bool {
        let late = [RulePhase::ResponseHeaders, RulePhase::ResponseBody, RulePhase::Logging];
        late.into_iter().any(|phase| !self.rules.rules_for_phase(phase).is_empty())
    }

    /// Whether phase 4 waits for the body of this answer.
    fn is_inspected(&self, response: &ResponseHeader) -> bool {
        let media = response.headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let media = media.map(|value| value.split(';').next().unwrap_or(value).trim());
        media.is_some_and(|media| self.inspected.iter().any(|known| known.eq_ignore_ascii_case(media)))
    }

    /// A transaction that knows the head.
    fn begin(&self, request: &Request<'_>) -> Transaction {
        let mut transaction = Transaction::new(self.rules.clone(), DEFAULT_STATUS);
        if let Some(ip) = request.state.client_ip {
            // The port is not kept; rules about it see 0.
            transaction.set_client_addr(&ip.to_canonical().to_string(), 0);
        }
        transaction.set_server_name(&request.state.host);
        let protocol = match request.head.version {
            Version::HTTP_10 => "HTTP/1.0",
            Version::HTTP_2 => "HTTP/2.0",
            _ => "HTTP/1.1",
        };
        // Setting these only stores them; what is wrong with them is found by rules.
        let _ = transaction.process_uri(parts::path_and_query(request), request.head.method.as_str(), protocol);
        for (name, value) in &request.head.headers {
            let _ = transaction.add_request_header(name.as_str(), &String::from_utf8_lossy(value.as_bytes()));
        }
        transaction
    }

    fn refusal(&self, intervention: &Intervention) -> Reply {
        // Of a chain it is the first rule that has the id and the actions.
        let rule = intervention.metadata.first().and_then(|metadata| metadata.id.as_deref()).unwrap_or_default();
        let status = self.statuses.get(rule).copied().unwrap_or(intervention.status);
        tracing::info!(rule, status, phase = intervention.phase.number(), "waf refused a request or its answer");
        let mut reply = Reply::new(status, "waf");
        let url = intervention.url.as_deref().map(|url| url.trim_matches('\''));
        if let Some(url) = url.and_then(|url| HeaderValue::from_str(url).ok()) {
            reply.headers.push((LOCATION, url));
        }
        reply
    }

    fn log(&self, request: &mut Request<'_>, transaction: &Transaction) {
        let mut seen = HashSet::new();
        let matched = transaction.matched_rules().iter();
        let told: Vec<Value> = matched
            .filter(|rule| self.telling.contains(*rule) && seen.insert(*rule))
            .map(|rule| Value::from(rule.as_str()))
            .collect();
        if !told.is_empty() {
            request.state.log.insert(LOG_FIELD.to_owned(), Value::Array(told));
        }
    }

    /// What the engine cannot process passes, as in Higress.
    fn decide(&self, transaction: &Transaction, ran: zentinel_modsec::Result<()>) -> Flow {
        if let Err(error) = ran {
            tracing::warn!(%error, "waf could not process a request or its answer, which passes");
        }
        match transaction.intervention() {
            Some(intervention) if self.rules.engine_mode() == RuleEngineMode::On => {
                Flow::respond(self.refusal(intervention))
            }
            _ => Flow::Continue,
        }
    }
}

#[cfg(test)]
mod tests;

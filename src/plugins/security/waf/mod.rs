//! `waf`: a web application firewall with ModSecurity rules. AUTHZ phase, priority 330.
//!
//! The rule engine is the crate `zentinel-modsec`, which runs the OWASP Core Rule Set (its authors measure 4,806 of the rule
//! set's 5,184 regression cases). `rules` says which directives a configuration may use. Phase 1 runs when the head is there,
//! phase 2 when the body is, or at once if none comes. A rule that interrupts answers with its status and no body. Which rules
//! matched is in the access log, also of requests that pass (`SecRuleEngine DetectionOnly`).
//!
//! Differences from Higress: rules of the phases 3 to 5 are not run (inline ones are a configuration error), so answers are not
//! inspected; bodies are inspected without `SecRequestBodyAccess`; the Core Rule Set does not ship with the gateway but is read
//! from `crs/` in the data folder (`crs-setup.conf` and `rules/REQUEST-*.conf`); directives that have no effect here are configuration
//! errors, except those about logs, temporary files and limits.

mod rules;

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use http::header::LOCATION;
use http::{HeaderValue, Version};
use parking_lot::Mutex;
use serde_json::Value;
use zentinel_modsec::engine::phase::Phase as RulePhase;
use zentinel_modsec::engine::ruleset::RuleEngineMode;
use zentinel_modsec::{CompiledRuleset, Intervention, Transaction};

use crate::config::model::Phase;
use crate::plugins::config::{FieldProblem, Fields, is_usable};
use crate::plugins::registry::{BuildResult, PluginSpec, Scope};
use crate::plugins::rules::Family;
use crate::plugins::{Flow, Host, Plugin, Reply, Request, parts};

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

    fn compile(&self, data_dir: &Path) -> Result<CompiledRuleset, FieldProblem> {
        let crs = match self.use_crs {
            true => {
                rules::core_rule_set(&data_dir.join("crs")).map_err(|message| FieldProblem::error("useCRS", message))?
            }
            false => String::new(),
        };
        let text = format!("{crs}{}", self.own.join("\n"));
        CompiledRuleset::from_string(&text).map_err(|error| FieldProblem::error("secRules", error.to_string()))
    }
}

struct Waf {
    rules: Arc<CompiledRuleset>,
    /// By rule; the engine itself answers with one status for all.
    statuses: HashMap<String, u16>,
    /// Rules that say something. The others only prepare and count.
    telling: HashSet<String>,
}

impl Waf {
    fn new(rules: CompiledRuleset) -> Waf {
        Waf { statuses: rules::statuses(&rules), telling: rules::telling(&rules), rules: Arc::new(rules) }
    }
}

/// The engine's view of a request whose body is still to come.
#[derive(Clone)]
struct Open(Arc<Mutex<Option<Transaction>>>);

fn build(scope: &Scope<'_>, host: &Arc<dyn Host>) -> BuildResult {
    let (config, problems) = Config::read(scope);
    if !is_usable(&problems) {
        return Err(problems);
    }
    let rules = config.compile(host.data_dir()).map_err(|problem| vec![problem])?;
    let is_active = rules.rule_count() > 0 && rules.engine_mode() != RuleEngineMode::Off;
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
        if waits && matches!(flow, Flow::Continue) {
            request.state.notes.insert(Open(Arc::new(Mutex::new(Some(transaction)))));
        } else {
            self.log(request, &transaction);
        }
        flow
    }

    fn wants_body(&self, request: &Request<'_>) -> bool {
        parts::may_have_body(request) && !self.rules.rules_for_phase(RulePhase::RequestBody).is_empty()
    }

    async fn on_request_body(&self, request: &mut Request<'_>) -> Flow {
        let open = request.state.notes.remove::<Open>();
        let Some(mut transaction) = open.and_then(|Open(transaction)| transaction.lock().take()) else {
            return Flow::Continue;
        };
        let body = request.state.body.as_deref().unwrap_or_default();
        let ran = transaction.append_request_body(body).and_then(|()| transaction.process_request_body());
        self.log(request, &transaction);
        self.decide(&transaction, ran)
    }
}

impl Waf {
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
        tracing::info!(rule, status, "waf refused a request");
        let mut reply = Reply::new(status, "waf");
        if let Some(url) = intervention.url.as_deref().and_then(|url| HeaderValue::from_str(url).ok()) {
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

    /// A request that the engine cannot process passes, as in Higress.
    fn decide(&self, transaction: &Transaction, ran: zentinel_modsec::Result<()>) -> Flow {
        if let Err(error) = ran {
            tracing::warn!(%error, "waf could not process a request, which passes");
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

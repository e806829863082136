//! The plugin chain of a snapshot, and how a request runs through it.
//!
//! Order: phase (AUTHN, AUTHZ, STATS, unspecified), then priority (higher first), then name and namespace; the model has
//! the plugins sorted already. Plugins run one after another, body included, because a plugin that rewrites the body or
//! selects another route must be seen by all that follow.

use std::sync::Arc;

use futures_util::future::BoxFuture;
use pingora_error::Result;
use pingora_proxy::Session;

use super::context::Context;
use super::departure::{LEFT, departure};
use super::snapshot::Snapshot;
use super::{body, gate};
use crate::config::model::{ObjectRef, PluginRule};
use crate::llm::provider::Provider;
use crate::plugins::rules::{Family, Place, matches};
use crate::plugins::{CredentialPlace, Flow, Plugin, Reply, Request};

/// All plugins of a snapshot, in order.
#[derive(Default)]
pub struct Chain {
    pub entries: Vec<ChainEntry>,
    /// See [`Plugin::secret_parameters`].
    pub secret_parameters: Vec<CredentialPlace>,
}

/// One WasmPlugin object, built.
pub struct ChainEntry {
    pub family: Family,
    pub object: ObjectRef,
    /// Where no rule matches; `None` makes the plugin inert there.
    pub global: Option<Arc<dyn Plugin>>,
    pub rules: Vec<BuiltRule>,
}

pub struct BuiltRule {
    /// `config` of this rule is already part of `plugin`.
    pub rule: PluginRule,
    pub plugin: Option<Arc<dyn Plugin>>,
}

impl ChainEntry {
    /// The configuration that applies at `place`; the first matching rule wins.
    pub fn at(&self, place: Place<'_>) -> Option<&Arc<dyn Plugin>> {
        match self.rules.iter().find(|built| matches(&built.rule, self.family, place)) {
            Some(built) => built.plugin.as_ref(),
            None => self.global.as_ref(),
        }
    }
}

impl ChainEntry {
    /// Every built instance.
    pub fn plugins(&self) -> impl Iterator<Item = &Arc<dyn Plugin>> {
        self.global.iter().chain(self.rules.iter().filter_map(|built| built.plugin.as_ref()))
    }
}

impl Chain {
    pub fn new(entries: Vec<ChainEntry>) -> Chain {
        let plugins = entries.iter().flat_map(ChainEntry::plugins);
        let mut names: Vec<String> = plugins.flat_map(|plugin| plugin.secret_parameters()).collect();
        names.sort_unstable();
        names.dedup();
        Chain { entries, secret_parameters: names.into_iter().map(CredentialPlace::Query).collect() }
    }

    /// The model provider configured for a service, if any plugin names one there.
    pub fn provider_at(&self, place: Place<'_>) -> Option<&Arc<Provider>> {
        self.entries.iter().find_map(|entry| entry.at(place).and_then(|plugin| plugin.provider()))
    }

    /// All model providers, wherever they are configured for.
    pub fn providers(&self) -> impl Iterator<Item = &Provider> {
        self.entries.iter().flat_map(ChainEntry::plugins).filter_map(|plugin| plugin.provider()).map(AsRef::as_ref)
    }
}

/// Lets those plugins treat a refusal of the route's own limits that are there for that, also if the chain has not come to them.
pub fn join_refusal(ctx: &mut Context, refusal: &Reply) {
    if refusal.status < 400 {
        return;
    }
    let snapshot: Arc<Snapshot> = ctx.snapshot.clone();
    let plugins = snapshot.chain.entries.iter().filter_map(|entry| entry.at(ctx.place()));
    let has_run = |plugin: &&Arc<dyn Plugin>| ctx.ran.iter().any(|ran| Arc::ptr_eq(ran, plugin));
    let treating: Vec<_> = plugins.filter(|plugin| plugin.treats_refusals() && !has_run(plugin)).cloned().collect();
    ctx.ran.extend(treating);
}

/// Runs the request half of the chain. `Some` is an answer to give now.
///
/// # Errors
/// Reading the body failed because the client went away; there is nobody to answer.
pub async fn run(session: &mut Session, ctx: &mut Context) -> Result<Option<Reply>> {
    let snapshot: Arc<Snapshot> = ctx.snapshot.clone();
    for entry in &snapshot.chain.entries {
        let Some(plugin) = entry.at(ctx.place()) else { continue };
        ctx.ran.push(plugin.clone());
        let mut request = Request::of(plugin, session.req_header_mut(), &mut ctx.state);
        match plugin.on_request_headers(&mut request).await {
            Flow::Continue => {}
            Flow::Respond(reply) => return Ok(Some(*reply)),
            Flow::Later(reply) => return Ok(Some(reply.await)),
        }
        if plugin.wants_body(&request) {
            if request.state.body.is_none() {
                match body::read(session, ctx).await? {
                    Ok(bytes) => ctx.state.body = Some(bytes),
                    Err(reply) => return Ok(Some(reply)),
                }
            }
            let mut request = Request::of(plugin, session.req_header_mut(), &mut ctx.state);
            match plugin.on_request_body(&mut request).await {
                Flow::Continue => {}
                Flow::Respond(reply) => return Ok(Some(*reply)),
                Flow::Later(reply) => return unless_left(session, ctx, reply).await.map(Some),
            }
        }
        let is_told = std::mem::take(&mut ctx.state.told_upstream) && snapshot.routes.look_at_headers();
        if (std::mem::take(&mut ctx.state.reroute) || is_told)
            && let Err(reply) = gate::enter(ctx, session.req_header())
        {
            join_refusal(ctx, &reply);
            return Ok(Some(reply));
        }
    }
    Ok(None)
}

/// The answer, unless the client goes first.
async fn unless_left(session: &mut Session, ctx: &mut Context, reply: BoxFuture<'static, Reply>) -> Result<Reply> {
    tokio::select! {
        biased;
        reply = reply => Ok(reply),
        gone = departure(session) => {
            ctx.state.details = LEFT.into();
            Err(gone)
        }
    }
}

/// Whether a plugin that ran may hold this request's answer back.
pub fn may_hold_answer(session: &mut Session, ctx: &mut Context) -> bool {
    let mut may_hold = |plugin: &Arc<dyn Plugin>| {
        plugin.may_hold_answer(&Request::of(plugin, session.req_header_mut(), &mut ctx.state))
    };
    ctx.ran.iter().any(&mut may_hold)
}

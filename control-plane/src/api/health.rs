//! `/healthz`, `/readyz` with the state of every source, and `/metrics`.

use std::collections::BTreeMap;
use std::path::PathBuf;

use axum::Json;
use axum::extract::State;
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};
use prometheus::{Encoder, TextEncoder};
use serde::Serialize;

use super::Context;
use crate::mesh::{ConsulStatus, GatewayStatus, Identities, RefusedEndpoint, RefusedEndpoints};
use crate::model::EndpointSource;
use crate::source::Health;
use crate::source::filter_module::Content;
use crate::source::gateway_rules::Refusal;
use crate::source::policy::PolicySource;

/// Answer of `/readyz`; 200 when `ready`, else 503.
#[derive(Serialize)]
struct Report {
    /// Whether proxies can be given all they need: every source has been heard, now or in an earlier run, and there is a
    /// filter module.
    ready: bool,
    /// Why it is not: `stopping`, `sources` (one has never been heard), `filter_module`.
    reasons: Vec<&'static str>,
    /// Whether the process is ending.
    stopping: bool,
    policy: PolicyState,
    filter_module: ModuleState,
    #[serde(skip_serializing_if = "Option::is_none")]
    game_gateway: Option<GatewayState>,
    #[serde(skip_serializing_if = "Option::is_none")]
    mesh: Option<MeshState>,
    #[serde(skip_serializing_if = "Option::is_none")]
    consul: Option<ConsulState>,
    /// Endpoints that sources name and that are left out, the first hundred; a source that names such is `degraded`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    refused_endpoints: Vec<RefusedEndpoint>,
    /// Connected proxies.
    proxies: usize,
    /// Of them, those that keep resources which are not known here, since a source was never heard; `/v1/proxies` says why.
    held_proxies: i64,
}

#[derive(Serialize)]
struct PolicyState {
    /// `starting`: none is known yet, so nothing is served; `never_put`: the store is there and none was ever put in it;
    /// `ok`; `degraded`: the last good one serves.
    state: &'static str,
    /// Why it is not `ok`.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<String>,
    /// Where it is kept: `embedded` or `consul`.
    store: &'static str,
    /// Where what our datacenter has differently stands.
    #[serde(skip_serializing_if = "Option::is_none")]
    overlay: Option<String>,
    /// 0 = nothing has been applied yet.
    version: u64,
    etag: String,
    listeners: usize,
    services: usize,
    routes: usize,
}

#[derive(Serialize)]
struct ModuleState {
    /// `ok`; `degraded`: the last good one is served; `missing`: there never was a good one.
    state: &'static str,
    /// Of what is served; empty = nothing.
    sha256: String,
    /// Where it was read.
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<PathBuf>,
    /// A short name for what is wrong, as in `realmgate_filter_module_refusals_total`.
    #[serde(skip_serializing_if = "Option::is_none")]
    reason: Option<&'static str>,
    /// What is wrong, and where.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
}

#[derive(Serialize)]
struct GatewayState {
    #[serde(flatten)]
    health: Health,
    /// Rules that are served.
    rules: usize,
    /// Whether the rules key was never there: proxies that come with rules keep them.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    never_there: bool,
    /// Why Redis has not told anything yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// Which key that is, and what to do.
    #[serde(skip_serializing_if = "Option::is_none")]
    missing: Option<String>,
    /// Rules that are refused, each with its key and reason; the first hundred.
    refused: Vec<Refusal>,
}

#[derive(Serialize)]
struct MeshState {
    /// Empty = nothing was heard of an authority yet.
    trust_domain: String,
    /// Roots that are believed; two while one follows another.
    roots: usize,
    /// Services that have a certificate.
    services: Vec<String>,
}

#[derive(Serialize)]
struct ConsulState {
    #[serde(flatten)]
    health: Health,
    /// Why it is still starting.
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<String>,
    /// Our datacenter; empty until it is known.
    datacenter: String,
    /// Every datacenter, and whether the last question about it was answered.
    datacenters: BTreeMap<String, bool>,
    instances: usize,
    intentions: usize,
    leaves: usize,
}

/// Enough to see what is wrong, bounded whatever Redis holds.
const REFUSALS_SHOWN: usize = 100;

pub(super) async fn live() -> &'static str {
    "ok\n"
}

pub(super) async fn ready(State(context): State<Context>) -> Response {
    let stopping = *context.stopping.borrow();
    let module = context.module.content();
    let heard = context.compiler.compiled().borrow().is_some();
    let lacking = [(stopping, "stopping"), (!heard, "sources"), (!module.is_known(), "filter_module")];
    let reasons: Vec<_> = lacking.into_iter().filter_map(|(lacks, reason)| lacks.then_some(reason)).collect();
    let refused = context.refused_endpoints.borrow().clone();
    let report = Report {
        ready: reasons.is_empty(),
        reasons,
        stopping,
        policy: policy_state(&context.policy, left_out(&refused, EndpointSource::Policy)),
        filter_module: module_state(&module),
        game_gateway: context.gateway.as_ref().map(|gateway| {
            let mut state = gateway_state(gateway);
            degrade(&mut state.health, left_out(&refused, EndpointSource::GameGateway));
            state
        }),
        mesh: context.identities.as_ref().map(|identities| mesh_state(&identities.borrow())),
        consul: context.consul.as_ref().map(|consul| {
            let mut state = consul_state(consul);
            degrade(&mut state.health, left_out(&refused, EndpointSource::Consul));
            state
        }),
        refused_endpoints: refused.list.iter().take(REFUSALS_SHOWN).cloned().collect(),
        proxies: context.proxies.connected(),
        held_proxies: context.proxies.held(),
    };
    let status = if report.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (status, Json(report)).into_response()
}

fn module_state(content: &Content) -> ModuleState {
    ModuleState {
        state: match (&content.problem, content.is_known()) {
            (None, _) => "ok",
            (Some(_), true) => "degraded",
            (Some(_), false) => "missing",
        },
        sha256: content.sha256.clone(),
        path: content.path.clone(),
        reason: content.problem.as_ref().map(|problem| problem.reason),
        error: content.problem.as_ref().map(|problem| problem.message.clone()),
    }
}

/// What is said of a source that names endpoints which are none.
fn left_out(refused: &RefusedEndpoints, source: EndpointSource) -> Option<String> {
    let first = refused.list.iter().find(|of| of.source == source.label())?;
    // The list ends somewhere.
    let more = match refused.counts.get(&source) {
        Some(all @ 2..) => format!(", and {} more", all - 1),
        _ => String::new(),
    };
    Some(format!("endpoints are left out: {}: {}{more}", first.place, first.error))
}

fn degrade(health: &mut Health, left_out: Option<String>) {
    if let (Health::Ok, Some(reason)) = (&health, left_out) {
        *health = Health::Degraded { reason };
    }
}

fn policy_state(source: &PolicySource, left_out: Option<String>) -> PolicyState {
    let current = source.current();
    let stored = current.stored.as_ref();
    PolicyState {
        state: match (current.known, &current.problem) {
            (false, _) => "starting",
            (true, Some(_)) => "degraded",
            (true, None) if current.never_put() => "never_put",
            (true, None) if left_out.is_some() => "degraded",
            (true, None) => "ok",
        },
        reason: current
            .problem
            .clone()
            .or_else(|| current.never_put().then(|| source.never_put()))
            .or(left_out),
        store: source.store(),
        overlay: current.overlay.as_ref().map(|overlay| overlay.key.clone()),
        version: stored.map_or(0, |s| s.info.version),
        etag: stored.map_or_else(String::new, |s| s.info.etag.clone()),
        listeners: current.policy.listeners.len(),
        services: current.policy.services.len(),
        routes: current.policy.routes.len(),
    }
}

fn gateway_state(status: &GatewayStatus) -> GatewayState {
    let health = status.health.borrow().clone();
    let rules = status.rules.borrow().clone();
    let refused = rules.refused.iter().take(REFUSALS_SHOWN).cloned().collect();
    let trouble = status.trouble.borrow().clone();
    let error = Some(trouble).filter(|trouble| !trouble.is_empty());
    let missing = (rules.unheard && health != Health::Starting).then(|| status.never_there.to_string());
    GatewayState { health, rules: rules.rules.len(), never_there: rules.unheard, missing, error, refused }
}

fn mesh_state(identities: &Identities) -> MeshState {
    MeshState {
        trust_domain: identities.trust_domain.clone(),
        roots: identities.roots.len(),
        services: identities.leaves.keys().cloned().collect(),
    }
}

fn consul_state(status: &ConsulStatus) -> ConsulState {
    let catalog = status.catalog.borrow().clone();
    let heard = |name: &String| (name.clone(), !catalog.unheard.contains(name));
    let waits = status.waits.borrow().clone();
    ConsulState {
        error: Some(waits).filter(|waits| !waits.is_empty()),
        health: status.health.borrow().clone(),
        datacenter: catalog.local.clone(),
        datacenters: catalog.datacenters.keys().chain(&catalog.unheard).map(heard).collect(),
        instances: catalog.instances.values().map(|instances| instances.len()).sum(),
        intentions: status.intentions.borrow().list.len(),
        leaves: status.identities.borrow().leaves.len(),
    }
}

pub(super) async fn metrics(State(context): State<Context>) -> Response {
    context.problems.show(&context.proxies.proxies(), &context.module.content(), context.has_routes());
    let encoder = TextEncoder::new();
    let mut text = Vec::new();
    match encoder.encode(&context.metrics.gather(), &mut text) {
        Ok(()) => ([(CONTENT_TYPE, encoder.format_type().to_owned())], text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

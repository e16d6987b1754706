//! The HTTP listener on which an edge answers load balancers and Prometheus itself.

use envoy_types::pb::envoy::config::common::mutation_rules::v3::{HeaderMutation, header_mutation};
use envoy_types::pb::envoy::config::core::v3::{
    DataSource, HttpProtocolOptions, TypedExtensionConfig, data_source,
};
use envoy_types::pb::envoy::config::listener::v3::{Filter, FilterChain, Listener, filter};
use envoy_types::pb::envoy::config::route::v3::{
    DirectResponseAction, Route, RouteConfiguration, RouteMatch, VirtualHost, route, route_match,
};
use envoy_types::pb::envoy::extensions::filters::http::header_mutation::v3::{
    HeaderMutation as HeaderMutations, Mutations,
};
use envoy_types::pb::envoy::extensions::filters::http::health_check::v3::HealthCheck;
use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter,
    http_connection_manager::{CodecType, RouteSpecifier, ServerHeaderTransformation},
    http_filter,
};
use envoy_types::pb::google::protobuf::BoolValue;
use ipnet::IpNet;
use prost::{Message, Name};
use std::net::SocketAddr;

use super::{connections, edge_metrics, envoy, shape};
use crate::xds::Resource;

/// The listener's name, in statistics too.
pub const NAME: &str = "realmgate-health";

/// Load balancers and Prometheus, each some times over, and more than that is none of them.
const CONNECTIONS: u64 = 256;

/// How long a request may be on its way to us; it has no body.
const REQUEST_MS: u64 = 5_000;

/// How long a connection may be silent before it asks; each carries one request.
const SILENT_MS: u64 = 5_000;

/// How long a scrape may not be taken.
const STALLED_MS: u64 = 10_000;

/// How long a whole request with its answer may take. Prometheus gives up after 10 s by default, and never after more than the
/// time between two scrapes, a minute by default.
const WHOLE_MS: u64 = 60_000;

/// What Envoy would tell of itself, and of who answered for it. `date` stays, which HTTP asks for.
const HEADERS_NOT_TOLD: [&str; 5] = [
    "server",
    "x-envoy-immediate-health-check-fail",
    "x-envoy-upstream-healthchecked-cluster",
    "x-envoy-upstream-service-time",
    "x-content-type-options",
];

/// The ECDS name of what answers there. Listener names have no slash.
const EXTENSION: &str = "realmgate-health/http";

/// How long a new Envoy waits for that before it answers by itself that it is not ready.
const PATIENCE_MS: u64 = 1_000;

/// What an edge answers at `/ready`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Readiness {
    /// 200, unless it is draining.
    Ready,
    /// 503 with this word.
    Not(&'static str),
}

impl Readiness {
    /// What a policy makes of an edge whose filters are all in force.
    pub(super) const fn of(listeners: usize, has_routes: bool) -> Self {
        match (listeners, has_routes) {
            (0, _) => Self::Not("no_listener"),
            (_, false) => Self::Not("no_routes"),
            (_, true) => Self::Ready,
        }
    }
}

/// What an edge says that never had a filter which it could use: why, only the control plane knows.
const NO_FILTER: Readiness = Readiness::Not("no_filter");

/// The listener itself never changes: what it answers comes by ECDS, and until that is there it says that it is not ready.
/// It stands beside Envoy's bound on all connections, so that players who fill that leave it reachable, and has its own.
pub(super) fn listener(listen: SocketAddr) -> Listener {
    let bound = Filter {
        name: "envoy.filters.network.connection_limit".to_owned(),
        config_type: Some(filter::ConfigType::TypedConfig(envoy::any(&connections::limit(
            NAME,
            CONNECTIONS,
        )))),
    };
    let answers = shape::last_slot(EXTENSION, &manager(NO_FILTER, &[]), PATIENCE_MS);
    Listener {
        filter_chains: vec![FilterChain { filters: vec![bound, answers], ..FilterChain::default() }],
        bypass_overload_manager: true,
        ..shape::listener(NAME, listen)
    }
}

/// The ECDS resource. That an edge is ready it is told last, once all its filters are in force, and that stays said while it
/// refuses newer ones: it then serves on with its last good ones.
pub(super) fn extension(readiness: Readiness, metrics_clients: &[IpNet]) -> Resource {
    let extension = TypedExtensionConfig {
        name: EXTENSION.to_owned(),
        typed_config: Some(envoy::any(&manager(readiness, metrics_clients))),
    };
    let resource = Resource::new(EXTENSION, &extension);
    if readiness == Readiness::Ready { resource.last() } else { resource }
}

/// `/health` says that Envoy lives, `/ready` that it takes players: it has filters and routes and is not draining (the
/// health check filter answers 503 once the admin's `/healthcheck/fail` was called), `/metrics` passes some of
/// Envoy's Prometheus statistics on to these clients.
fn manager(readiness: Readiness, metrics_clients: &[IpNet]) -> HttpConnectionManager {
    let mut routes = vec![respond("/health", 200, "ok\n")];
    let mut http_filters = vec![http_filter("envoy.filters.http.header_mutation", &tells_nothing_more())];
    if !metrics_clients.is_empty() {
        routes.push(edge_metrics::route());
        http_filters.push(http_filter("envoy.filters.http.rbac", &edge_metrics::guard(metrics_clients)));
    }
    match readiness {
        Readiness::Ready => {
            http_filters.push(http_filter("envoy.filters.http.health_check", &health_check()));
        }
        Readiness::Not(word) => routes.push(respond("/ready", 503, &format!("{word}\n"))),
    }
    let last = Router { suppress_envoy_headers: true, ..Router::default() };
    http_filters.push(http_filter("envoy.filters.http.router", &last));
    HttpConnectionManager {
        stat_prefix: "realmgate_health".to_owned(),
        // Over HTTP/2 one connection would carry many requests at once.
        codec_type: CodecType::Http1.into(),
        server_header_transformation: ServerHeaderTransformation::PassThrough.into(),
        route_specifier: Some(RouteSpecifier::RouteConfig(RouteConfiguration {
            name: NAME.to_owned(),
            virtual_hosts: vec![VirtualHost {
                name: NAME.to_owned(),
                domains: vec!["*".to_owned()],
                routes,
                ..VirtualHost::default()
            }],
            ..RouteConfiguration::default()
        })),
        http_filters,
        request_headers_timeout: Some(envoy::duration(REQUEST_MS)),
        request_timeout: Some(envoy::duration(REQUEST_MS)),
        stream_idle_timeout: Some(envoy::duration(STALLED_MS)),
        common_http_protocol_options: Some(HttpProtocolOptions {
            idle_timeout: Some(envoy::duration(SILENT_MS)),
            max_stream_duration: Some(envoy::duration(WHOLE_MS)),
            // A connection keeps the filter that it began with: who asks again over the same one would hear the old answer.
            max_requests_per_connection: Some(envoy::uint32(1)),
            ..HttpProtocolOptions::default()
        }),
        ..HttpConnectionManager::default()
    }
}

/// It stands first, and so hears of every answer last.
fn tells_nothing_more() -> HeaderMutations {
    let remove =
        |name: &str| HeaderMutation { action: Some(header_mutation::Action::Remove(name.to_owned())) };
    let response_mutations = HEADERS_NOT_TOLD.into_iter().map(remove).collect();
    HeaderMutations {
        mutations: Some(Mutations { response_mutations, ..Mutations::default() }),
        ..HeaderMutations::default()
    }
}

fn health_check() -> HealthCheck {
    HealthCheck {
        pass_through_mode: Some(BoolValue { value: false }),
        headers: vec![edge_metrics::header(":path", "/ready")],
        ..HealthCheck::default()
    }
}

fn http_filter<M: Message + Name>(name: &str, config: &M) -> HttpFilter {
    HttpFilter {
        name: name.to_owned(),
        config_type: Some(http_filter::ConfigType::TypedConfig(envoy::any(config))),
        ..HttpFilter::default()
    }
}

fn respond(path: &str, status: u32, body: &str) -> Route {
    let body = DataSource {
        specifier: Some(data_source::Specifier::InlineString(body.to_owned())),
        ..DataSource::default()
    };
    let response = DirectResponseAction { status, body: Some(body), ..DirectResponseAction::default() };
    at(path, route::Action::DirectResponse(response))
}

fn at(path: &str, action: route::Action) -> Route {
    Route {
        r#match: Some(RouteMatch {
            path_specifier: Some(route_match::PathSpecifier::Path(path.to_owned())),
            ..RouteMatch::default()
        }),
        action: Some(action),
        ..Route::default()
    }
}

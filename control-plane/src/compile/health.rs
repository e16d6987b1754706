//! The HTTP listener on which an edge answers load balancers and Prometheus itself.

use envoy_types::pb::envoy::config::core::v3::{DataSource, HttpProtocolOptions, data_source};
use envoy_types::pb::envoy::config::listener::v3::{Filter, FilterChain, Listener, filter};
use envoy_types::pb::envoy::config::route::v3::{
    DirectResponseAction, HeaderMatcher, Route, RouteAction, RouteConfiguration, RouteMatch, VirtualHost,
    header_matcher::HeaderMatchSpecifier, route, route_action, route_match,
};
use envoy_types::pb::envoy::extensions::filters::http::health_check::v3::HealthCheck;
use envoy_types::pb::envoy::extensions::filters::http::router::v3::Router;
use envoy_types::pb::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter, http_connection_manager, http_filter,
};
use envoy_types::pb::envoy::r#type::matcher::v3::{StringMatcher, string_matcher};
use envoy_types::pb::google::protobuf::BoolValue;
use prost::{Message, Name};
use std::net::SocketAddr;

use super::{connections, envoy, shape};

/// The listener's name, in statistics too.
pub const NAME: &str = "realmgate-health";

/// The cluster of the bootstrap that is Envoy's own admin interface.
const ADMIN_CLUSTER: &str = "realmgate-admin";

/// Load balancers and Prometheus, each some times over, and more than that is none of them.
const CONNECTIONS: u64 = 256;

/// How long a request may be on its way to us; it has no body.
const REQUEST_MS: u64 = 5_000;

/// How long a connection may be silent, or a scrape not be taken. Prometheus asks once a minute by default.
const IDLE_MS: u64 = 120_000;

/// `/health` says that Envoy lives, `/ready` that it takes players: it has routes and is not draining (the
/// health check filter answers 503 once the admin's `/healthcheck/fail` was called), `/metrics` passes
/// Envoy's Prometheus statistics on.
pub(super) fn listener(listen: SocketAddr, has_routes: bool) -> Listener {
    let mut routes = vec![respond("/health", 200, "ok\n"), forward("/metrics", "/stats/prometheus")];
    let mut http_filters = Vec::new();
    if has_routes {
        http_filters.push(http_filter("envoy.filters.http.health_check", &readiness()));
    } else {
        routes.push(respond("/ready", 503, "no routes\n"));
    }
    http_filters.push(http_filter("envoy.filters.http.router", &Router::default()));
    let manager = HttpConnectionManager {
        stat_prefix: "realmgate_health".to_owned(),
        route_specifier: Some(http_connection_manager::RouteSpecifier::RouteConfig(RouteConfiguration {
            name: "realmgate-health".to_owned(),
            virtual_hosts: vec![VirtualHost {
                name: "realmgate-health".to_owned(),
                domains: vec!["*".to_owned()],
                routes,
                ..VirtualHost::default()
            }],
            ..RouteConfiguration::default()
        })),
        http_filters,
        request_headers_timeout: Some(envoy::duration(REQUEST_MS)),
        request_timeout: Some(envoy::duration(REQUEST_MS)),
        stream_idle_timeout: Some(envoy::duration(IDLE_MS)),
        common_http_protocol_options: Some(HttpProtocolOptions {
            idle_timeout: Some(envoy::duration(IDLE_MS)),
            ..HttpProtocolOptions::default()
        }),
        ..HttpConnectionManager::default()
    };
    let chain = FilterChain {
        filters: vec![
            network_filter("envoy.filters.network.connection_limit", &connections::limit(NAME, CONNECTIONS)),
            network_filter("envoy.filters.network.http_connection_manager", &manager),
        ],
        ..FilterChain::default()
    };
    Listener {
        filter_chains: vec![chain],
        // Players who fill the edge do not keep its load balancer out, which has a bound of its own.
        ignore_global_conn_limit: true,
        ..shape::listener(NAME, listen)
    }
}

fn network_filter<M: Message + Name>(name: &str, config: &M) -> Filter {
    Filter { name: name.to_owned(), config_type: Some(filter::ConfigType::TypedConfig(envoy::any(config))) }
}

fn readiness() -> HealthCheck {
    HealthCheck {
        pass_through_mode: Some(BoolValue { value: false }),
        headers: vec![HeaderMatcher {
            name: ":path".to_owned(),
            header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(StringMatcher {
                match_pattern: Some(string_matcher::MatchPattern::Exact("/ready".to_owned())),
                ..StringMatcher::default()
            })),
            ..HeaderMatcher::default()
        }],
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

fn forward(path: &str, to: &str) -> Route {
    let action = RouteAction {
        cluster_specifier: Some(route_action::ClusterSpecifier::Cluster(ADMIN_CLUSTER.to_owned())),
        prefix_rewrite: to.to_owned(),
        ..RouteAction::default()
    };
    at(path, route::Action::Route(action))
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

//! What an edge answers at `/metrics`: those of Envoy's statistics that are documented, to those who may read them.

use envoy_types::pb::envoy::config::rbac::v3::{
    Permission, Policy, Principal, Rbac as Rules, permission, principal, rbac::Action,
};
use envoy_types::pb::envoy::config::route::v3::{
    HeaderMatcher, Route, RouteAction, RouteMatch, header_matcher::HeaderMatchSpecifier, route, route_action,
    route_match,
};
use envoy_types::pb::envoy::extensions::filters::http::rbac::v3::Rbac;
use envoy_types::pb::envoy::r#type::matcher::v3::{PathMatcher, StringMatcher, path_matcher, string_matcher};
use ipnet::IpNet;

use super::envoy;

/// The cluster of the bootstrap that is Envoy's own admin interface.
const ADMIN_CLUSTER: &str = "realmgate-admin";

const PATH: &str = "/metrics";

/// Of a cluster Envoy has some 120 statistics, 19 KB as text. These are those that docs/metrics.md has, or that say why a player
/// did not get through; all that is no cluster's stays.
const OF_CLUSTERS: &str = "membership_(healthy|total)|lb_healthy_panic|outlier_detection\\.ejections_(active|enforced_total)\
    |upstream_cx_(active|total|connect_ms|connect_fail|connect_timeout|connect_attempts_exceeded|overflow|none_healthy\
    |rx_bytes_total|tx_bytes_total)|upstream_rq_pending_overflow|ssl\\.(handshake|connection_error|fail_[a-z_]+)\
    |endpoint\\..*\\.(cx_active|cx_total|cx_connect_fail|healthy)";

/// The admin interface's path. Counters that are still 0 are among them (no `usedonly`): Prometheus sees nothing grow that begins
/// with its first event, and alerts are on such.
fn statistics() -> String {
    let wanted = format!("^([^c]|c[^l]|cluster_|cluster\\..*\\.({OF_CLUSTERS})$)");
    let encoded = percent_encoding::utf8_percent_encode(&wanted, percent_encoding::NON_ALPHANUMERIC);
    format!("/stats/prometheus?filter={encoded}")
}

/// Passes a scrape on to the admin interface. A query would stand behind ours there, so none is taken.
pub(super) fn route() -> Route {
    let action = RouteAction {
        cluster_specifier: Some(route_action::ClusterSpecifier::Cluster(ADMIN_CLUSTER.to_owned())),
        prefix_rewrite: statistics(),
        ..RouteAction::default()
    };
    Route {
        r#match: Some(RouteMatch {
            headers: vec![header(":method", "GET"), header(":path", PATH)],
            path_specifier: Some(route_match::PathSpecifier::Path(PATH.to_owned())),
            ..RouteMatch::default()
        }),
        action: Some(route::Action::Route(action)),
        ..Route::default()
    }
}

/// A header that is this and nothing else.
pub(super) fn header(name: &str, value: &str) -> HeaderMatcher {
    HeaderMatcher {
        name: name.to_owned(),
        header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(exact(value))),
        ..HeaderMatcher::default()
    }
}

fn exact(value: &str) -> StringMatcher {
    StringMatcher {
        match_pattern: Some(string_matcher::MatchPattern::Exact(value.to_owned())),
        ..StringMatcher::default()
    }
}

/// Turns away who asks for metrics from elsewhere. By the other end of the connection: what headers claim counts for nothing.
pub(super) fn guard(clients: &[IpNet]) -> Rbac {
    let path = PathMatcher { rule: Some(path_matcher::Rule::Path(exact(PATH))) };
    let from =
        |net: &IpNet| Principal { identifier: Some(principal::Identifier::DirectRemoteIp(envoy::cidr(net))) };
    let anybody = principal::Set { ids: clients.iter().map(from).collect() };
    let anybody = Principal { identifier: Some(principal::Identifier::OrIds(anybody)) };
    let elsewhere = Principal { identifier: Some(principal::Identifier::NotId(Box::new(anybody))) };
    let policy = Policy {
        permissions: vec![Permission { rule: Some(permission::Rule::UrlPath(path)) }],
        principals: vec![elsewhere],
        ..Policy::default()
    };
    Rbac {
        rules: Some(Rules {
            action: Action::Deny.into(),
            policies: [("metrics".to_owned(), policy)].into(),
            ..Rules::default()
        }),
        ..Rbac::default()
    }
}

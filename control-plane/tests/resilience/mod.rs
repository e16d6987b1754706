//! Golden clusters: strategies, and what holds when endpoints fail.

use envoy_types::pb::envoy::config::cluster::v3::Cluster;
use envoy_types::pb::envoy::config::cluster::v3::cluster::LbPolicy;
use envoy_types::pb::envoy::config::core::v3::HealthCheck;
use envoy_types::pb::envoy::config::core::v3::health_check::{HealthChecker, Payload, payload};
use envoy_types::pb::google::protobuf::{Duration, UInt32Value};
use prost::Message;
use realmgate_control_plane::compile::compile;
use realmgate_control_plane::source::gateway_rules::GatewayRules;
use realmgate_control_plane::xds::{ResourceType, Scope, Snapshot};

use super::{accepted_by_envoy, mesh, rules};

/// A service for each thing that can be said, and one that says nothing.
const RESILIENT: &str = r#"
listeners: [{name: edge, bind: "127.0.0.1:7000", connect_attempts: 5, connect_backoff: {base: 50ms, max: 2s}}]
services:
  - {name: defaults, endpoints: ["10.1.0.1:1", "10.1.0.2:1"]}
  - {name: single, endpoints: ["10.1.0.1:1"]}
  - {name: named, dns: {host: game.example.com, port: 7}}
  - name: strict
    endpoints: ["10.1.0.1:1", "10.1.0.2:1"]
    connections: {connect_timeout: 500ms, max: 1000, max_pending: 100, keepalive: 60s}
    outlier_detection: {consecutive_failures: 3, failure_percent: 20, min_connections: 10, interval: 1s,
      ejection_time: 5s, max_ejection_time: 1m, max_ejection_percent: 50}
    health_check: {}
    panic_threshold: 0
  - name: never-ejected
    endpoints: ["10.1.0.1:1", "10.1.0.2:1"]
    outlier_detection: {consecutive_failures: 0, failure_percent: 0}
  - name: in-a-row
    endpoints: ["10.1.0.1:1", "10.1.0.2:1"]
    outlier_detection: {failure_percent: 0}
  - name: pinged
    endpoints: ["10.1.0.1:1", "10.1.0.2:1"]
    health_check: {interval: 2s, timeout: 500ms, unhealthy_threshold: 2, healthy_threshold: 1,
      check: {ping: {message_id: 77, body: "00ff", reply_body: "00ff"}}}
  - name: pinged-old
    endpoints: ["10.1.0.1:1", "10.1.0.2:1"]
    framing: server
    health_check: {check: {ping: {message_id: 77, reply_message_id: 78}}}
  - name: pinged-traced
    endpoints: ["10.1.0.1:1", "10.1.0.2:1"]
    framing: server-traced
    health_check: {check: {ping: {message_id: 77}}}
  - name: bytes
    endpoints: ["10.1.0.1:1", "10.1.0.2:1"]
    health_check: {check: {bytes: {send: "50494e47", expect: ["504f", "4e47"]}}}
routes:
  - name: all
    server_type: 200
    to: [{service: defaults}, {service: single}, {service: named}, {service: strict}, {service: never-ejected},
      {service: in-a-row}, {service: pinged}, {service: pinged-old}, {service: pinged-traced}, {service: bytes}]
  - {name: ring, server_type: 1, strategy: ring_hash, to: [{service: strict}]}
  - {name: maglev, server_type: 2, strategy: maglev, to: [{service: strict}]}
  - {name: least, server_type: 3, strategy: least_request, to: [{service: strict}]}
  - {name: instance, server_type: 4, strategy: consistent_hash, to: [{service: strict}]}
  - {name: realm, server_type: 5, strategy: realm_based, to: [{service: strict}]}
"#;

#[test]
fn services_compile_to_these_clusters() {
    let snapshot = compile(&mesh(RESILIENT, GatewayRules::default()), &Scope::default());
    insta::assert_snapshot!("resilience", clusters(&snapshot));
    accepted_by_envoy(&snapshot);
}

#[test]
fn rules_of_the_old_gateway_have_the_defaults() {
    let snapshot = compile(&mesh("{}", rules()), &Scope::default());
    insta::assert_snapshot!("gateway_rules_resilience", clusters(&snapshot));
}

fn clusters(snapshot: &Snapshot) -> String {
    let resources = snapshot.of(ResourceType::Cluster);
    resources.iter().map(|r| describe(&Cluster::decode(r.body()).unwrap())).collect()
}

fn describe(cluster: &Cluster) -> String {
    let lb = cluster.common_lb_config.clone().unwrap();
    let mut lines = vec![
        cluster.name.clone(),
        format!("{:?}, connect_timeout {}", cluster.lb_policy(), time(cluster.connect_timeout.as_ref())),
        format!(
            "panic below {} %, health merged for {}",
            lb.healthy_panic_threshold.unwrap().value,
            time(lb.update_merge_window.as_ref())
        ),
    ];
    assert_ne!(cluster.lb_policy(), LbPolicy::Random);
    for breaker in &cluster.circuit_breakers.as_ref().unwrap().thresholds {
        let (connections, pending) =
            (breaker.max_connections.as_ref(), breaker.max_pending_requests.as_ref());
        assert_eq!(breaker.max_requests.as_ref(), connections);
        lines.push(format!("breaker: connections {}, pending {}", number(connections), number(pending)));
    }
    if let Some(options) = &cluster.upstream_connection_options {
        let keepalive = options.tcp_keepalive.as_ref().unwrap();
        lines.push(format!(
            "keepalive after {} s, every {} s, {} times",
            number(keepalive.keepalive_time.as_ref()),
            number(keepalive.keepalive_interval.as_ref()),
            number(keepalive.keepalive_probes.as_ref())
        ));
    }
    if let Some(outliers) = &cluster.outlier_detection {
        assert!(outliers.split_external_local_origin_errors);
        assert_eq!(number(outliers.enforcing_local_origin_success_rate.as_ref()), "0");
        lines.push(format!(
            "outliers: {} in a row (enforced {} %), {} % of {} from {} hosts (enforced {} %), every {}, out for {} to {}, \
             at most {} %",
            number(outliers.consecutive_local_origin_failure.as_ref()),
            number(outliers.enforcing_consecutive_local_origin_failure.as_ref()),
            number(outliers.failure_percentage_threshold.as_ref()),
            number(outliers.failure_percentage_request_volume.as_ref()),
            number(outliers.failure_percentage_minimum_hosts.as_ref()),
            number(outliers.enforcing_failure_percentage_local_origin.as_ref()),
            time(outliers.interval.as_ref()),
            time(outliers.base_ejection_time.as_ref()),
            time(outliers.max_ejection_time.as_ref()),
            number(outliers.max_ejection_percent.as_ref()),
        ));
    }
    lines.extend(cluster.health_checks.iter().map(describe_check));
    lines.join("\n  ") + "\n"
}

fn describe_check(check: &HealthCheck) -> String {
    let Some(HealthChecker::TcpHealthCheck(tcp)) = &check.health_checker else { panic!("{check:?}") };
    assert_eq!(check.no_traffic_interval, check.interval);
    assert_eq!(check.reuse_connection.as_ref().map(|reuse| reuse.value), Some(false));
    let send: Vec<_> = tcp.send.iter().map(hex).collect();
    let receive: Vec<_> = tcp.receive.iter().map(hex).collect();
    format!(
        "check every {} (within {} %) for {}, down after {}, up after {}: send {send:?}, receive {receive:?}",
        time(check.interval.as_ref()),
        check.interval_jitter_percent,
        time(check.timeout.as_ref()),
        number(check.unhealthy_threshold.as_ref()),
        number(check.healthy_threshold.as_ref()),
    )
}

fn hex(payload: &Payload) -> &str {
    match &payload.payload {
        Some(payload::Payload::Text(text)) => text,
        other => panic!("{other:?}"),
    }
}

fn number(value: Option<&UInt32Value>) -> String {
    value.map_or("none".to_owned(), |number| number.value.to_string())
}

fn time(value: Option<&Duration>) -> String {
    value.map_or("none".to_owned(), |time| format!("{}.{:03} s", time.seconds, time.nanos / 1_000_000))
}

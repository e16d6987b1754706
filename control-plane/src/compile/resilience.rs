//! What holds when endpoints fail, in Envoy's words: timeouts, circuit breakers, outlier detection, health checks,
//! panic.

use envoy_types::pb::envoy::config::cluster::v3::cluster::CommonLbConfig;
use envoy_types::pb::envoy::config::cluster::v3::{
    CircuitBreakers, Cluster, OutlierDetection as EnvoyOutlierDetection, TrackClusterStats,
    UpstreamConnectionOptions, circuit_breakers::Thresholds,
};
use envoy_types::pb::envoy::config::core::v3::{
    HealthCheck as EnvoyHealthCheck, TcpKeepalive,
    health_check::{HealthChecker, Payload, TcpHealthCheck, payload},
};
use envoy_types::pb::envoy::r#type::v3::Percent;
use envoy_types::pb::google::protobuf::BoolValue;
use realmgate_filter::config::Framing;
use realmgate_wire::{ClientHeader, HeaderBytes, ServerHeader, ServerId, TraceContext};

use super::envoy;
use crate::model::{Check, CheckTimes, Connections, HealthCheck, Hex, OutlierDetection, Ping, Service};

/// A service's own, or the defaults for the rules of the old gateway.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Resilience {
    connections: Connections,
    /// None where there never is another endpoint.
    outlier_detection: Option<OutlierDetection>,
    /// With what the game servers speak.
    health_check: Option<(HealthCheck, CheckTimes, Framing)>,
    panic_threshold: u32,
    /// Whether an endpoint that is found dead loses its connections.
    closes_connections: bool,
}

impl Default for Resilience {
    fn default() -> Self {
        Self {
            connections: Connections::default(),
            outlier_detection: Some(OutlierDetection::default()),
            health_check: None,
            panic_threshold: Service::DEFAULT_PANIC_THRESHOLD,
            closes_connections: false,
        }
    }
}

impl Resilience {
    pub(super) fn of(service: &Service) -> Self {
        let failover = service.failover();
        // Edges find out by themselves, whatever Consul says and whether it can be asked. Any server stands a
        // connection; a ping has to be one that it answers.
        let check = service.health_check.clone().or_else(|| failover.map(|_| HealthCheck::default()));
        Self {
            connections: service.connections.clone(),
            outlier_detection: Some(service.outlier_detection.clone()).filter(OutlierDetection::is_on),
            health_check: check.map(|check| {
                let times = check.times(failover);
                (check, times, service.framing)
            }),
            panic_threshold: service.panic_threshold(),
            closes_connections: failover.is_some_and(|failover| failover.close_connections),
        }
    }

    /// The same for a cluster that stands for one endpoint and will never have another: its players have nowhere else
    /// to go, and it is spared 4.5 KB of statistics. A service that has one endpoint today may have two tomorrow, by
    /// EDS alone.
    pub(super) fn of_one_endpoint(&self) -> Self {
        Self { outlier_detection: None, ..self.clone() }
    }

    /// Whether there are checks, which say nothing and hear nothing.
    pub(super) fn only_connects(&self) -> bool {
        matches!(&self.health_check, Some((HealthCheck { check: Check::Tcp, .. }, ..)))
    }

    /// Puts it into `cluster`.
    pub(super) fn apply(&self, cluster: &mut Cluster) {
        cluster.connect_timeout = Some(envoy::duration(self.connections.connect_timeout.as_millis()));
        cluster.circuit_breakers = Some(circuit_breakers(&self.connections));
        cluster.upstream_connection_options = keepalive(&self.connections);
        cluster.outlier_detection = self.outlier_detection.as_ref().map(outlier_detection);
        let health_checks = self.health_check.iter();
        cluster.health_checks =
            health_checks.map(|(check, times, framing)| health_check(check, *times, *framing)).collect();
        cluster.close_connections_on_host_health_failure = self.closes_connections;
        // Otherwise an endpoint that is taken out gets players for as long as its check succeeds.
        cluster.ignore_health_on_host_removal = self.health_check.is_some();
        // Who is connected to which endpoint and which is ejected, in Prometheus: read off the endpoints when it asks, so
        // it takes no memory.
        cluster.track_cluster_stats =
            Some(TrackClusterStats { per_endpoint_stats: true, ..TrackClusterStats::default() });
        cluster.common_lb_config = Some(CommonLbConfig {
            healthy_panic_threshold: Some(Percent { value: self.panic_threshold.into() }),
            // Connections are closed at once. Players who come back at once, before the load balancers heard, would be
            // sent to the same endpoint, and nothing would end that connection.
            update_merge_window: Some(envoy::duration(if self.closes_connections {
                0
            } else {
                MERGE_WINDOW_MS
            })),
            ..CommonLbConfig::default()
        });
    }
}

/// How long a change of endpoints' health may wait for others before the load balancers hear of it. Envoy's second is a
/// second of players sent to a server that is known to be dead; without any, each of a thousand endpoints of a service
/// that goes down would build its hash tables anew.
const MERGE_WINDOW_MS: u64 = 100;

/// Every connection counts as a request too: its bound must not be the lower one.
fn circuit_breakers(connections: &Connections) -> CircuitBreakers {
    let thresholds = Thresholds {
        max_connections: Some(envoy::uint32(connections.max)),
        max_pending_requests: Some(envoy::uint32(connections.max_pending)),
        max_requests: Some(envoy::uint32(connections.max)),
        ..Thresholds::default()
    };
    CircuitBreakers { thresholds: vec![thresholds], ..CircuitBreakers::default() }
}

/// Between two questions, and how many go unanswered: as in the old gateway's language.
const KEEPALIVE_INTERVAL_S: u32 = 15;
const KEEPALIVE_PROBES: u32 = 9;

fn keepalive(connections: &Connections) -> Option<UpstreamConnectionOptions> {
    let seconds = u32::try_from(connections.keepalive.as_millis() / 1000).ok().filter(|&s| s > 0)?;
    let keepalive = TcpKeepalive {
        keepalive_time: Some(envoy::uint32(seconds)),
        keepalive_interval: Some(envoy::uint32(KEEPALIVE_INTERVAL_S)),
        keepalive_probes: Some(envoy::uint32(KEEPALIVE_PROBES)),
    };
    Some(UpstreamConnectionOptions { tcp_keepalive: Some(keepalive), ..UpstreamConnectionOptions::default() })
}

/// Of Envoy's three kinds of errors a `tcp_proxy` reports one, local origin: a connection that was refused, timed out or
/// stood. Split from the others, a success counts a row of failures from 0 again.
fn outlier_detection(outliers: &OutlierDetection) -> EnvoyOutlierDetection {
    let number = |value| Some(envoy::uint32(value));
    let (percent, enforcing) =
        if outliers.failure_percent > 0 { (outliers.failure_percent, 100) } else { (100, 0) };
    EnvoyOutlierDetection {
        split_external_local_origin_errors: true,
        consecutive_local_origin_failure: number(outliers.consecutive_failures),
        enforcing_consecutive_local_origin_failure: number(100),
        // On by default, this one compares an endpoint with the others: of five and more it ejects whichever is worse than
        // the rest, be it by five failures in five thousand.
        enforcing_local_origin_success_rate: number(0),
        failure_percentage_threshold: number(percent),
        enforcing_failure_percentage_local_origin: number(enforcing),
        // Envoy's 5 would leave small services out.
        failure_percentage_minimum_hosts: number(2),
        failure_percentage_request_volume: number(outliers.min_connections),
        interval: Some(envoy::duration(outliers.interval.as_millis())),
        base_ejection_time: Some(envoy::duration(outliers.ejection_time.as_millis())),
        max_ejection_time: Some(envoy::duration(outliers.max_ejection_time.as_millis())),
        max_ejection_percent: number(outliers.max_ejection_percent),
        ..EnvoyOutlierDetection::default()
    }
}

fn health_check(check: &HealthCheck, times: CheckTimes, framing: Framing) -> EnvoyHealthCheck {
    let (send, receive) = match &check.check {
        Check::Tcp => (None, Vec::new()),
        Check::Ping(ping) => (Some(ping_bytes(ping, framing)), reply_bytes(ping, framing)),
        Check::Bytes(bytes) => {
            let expect = bytes.expect.iter().map(|part| part.bytes().to_vec());
            (Some(bytes.send.bytes().to_vec()), expect.collect())
        }
    };
    let tcp = TcpHealthCheck {
        send: send.map(payload),
        receive: receive.into_iter().map(payload).collect(),
        ..TcpHealthCheck::default()
    };
    let interval = envoy::duration(times.interval.as_millis());
    EnvoyHealthCheck {
        timeout: Some(envoy::duration(times.timeout.as_millis())),
        interval: Some(interval),
        // Envoy's 60 s would leave a service without players unwatched, and its first player on a dead server.
        no_traffic_interval: Some(interval),
        // Edges that started together do not check together for ever.
        interval_jitter_percent: 10,
        unhealthy_threshold: Some(envoy::uint32(times.unhealthy_threshold)),
        healthy_threshold: Some(envoy::uint32(times.healthy_threshold)),
        // To a game server a connection is a player: one that stayed would be a player for ever.
        reuse_connection: Some(BoolValue { value: false }),
        health_checker: Some(HealthChecker::TcpHealthCheck(tcp)),
        ..EnvoyHealthCheck::default()
    }
}

fn payload(bytes: Vec<u8>) -> Payload {
    Payload { payload: Some(payload::Payload::Text(hex::encode(bytes))) }
}

/// The session of a ping: no player's, whose ids are never 0.
const NO_SESSION: i64 = 0;

/// The ping as the service's servers read it. Its server id is 0: the connection is with the server that is meant.
fn ping_bytes(ping: &Ping, framing: Framing) -> Vec<u8> {
    let body = ping.body.bytes();
    // Longer bodies are refused with the policy.
    let body_len = u16::try_from(body.len()).unwrap_or(u16::MAX);
    let header = ClientHeader { body_len, message_id: ping.message_id, server_id: ServerId(0) };
    let mut bytes = match framing {
        Framing::Client => header.to_bytes().to_vec(),
        Framing::Server => HeaderBytes::of_session(NO_SESSION, None).of_message(header).to_vec(),
        Framing::ServerTraced => {
            // W3C allows no trace of zeros.
            let trace = TraceContext::of_session(NO_SESSION, 1, 1);
            HeaderBytes::of_session(NO_SESSION, Some(trace)).of_message(header).to_vec()
        }
    };
    bytes.extend_from_slice(body);
    bytes
}

/// The parts of the reply that are known: its message id, with its length in front where the body is known, and the
/// body. What lies between (server id, session) is the server's.
fn reply_bytes(ping: &Ping, framing: Framing) -> Vec<Vec<u8>> {
    let message_id = ping.reply_message_id.unwrap_or(ping.message_id);
    let body_len = ping.reply_body.as_ref().map(|body| u16::try_from(body.bytes().len()).unwrap_or(u16::MAX));
    let length = body_len.unwrap_or(0);
    // Both framings begin with the length and the message id, of two or of four bytes.
    let (header, size) = match framing {
        Framing::Client => {
            let header = ClientHeader { body_len: length, message_id, server_id: ServerId(0) };
            (header.to_bytes().to_vec(), 2)
        }
        Framing::Server | Framing::ServerTraced => {
            let header = ServerHeader::reply(message_id.into(), length, NO_SESSION);
            (header.to_bytes().as_slice().to_vec(), 4)
        }
    };
    let known = if body_len.is_some() { 0..2 * size } else { size..2 * size };
    let header = header.get(known).unwrap_or_default().to_vec();
    let body = ping.reply_body.as_ref().map(Hex::bytes).filter(|body| !body.is_empty());
    std::iter::once(header).chain(body.map(<[u8]>::to_vec)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ping(reply_body: Option<&str>) -> Ping {
        Ping {
            message_id: 0x1234,
            body: "aabb".parse().unwrap(),
            reply_message_id: Some(0x5678),
            reply_body: reply_body.map(|body| body.parse().unwrap()),
        }
    }

    #[test]
    fn a_ping_is_a_message_in_the_framing_of_its_service() {
        let bytes = |framing| hex::encode(ping_bytes(&ping(None), framing));
        assert_eq!(bytes(Framing::Client), "0200341200000000aabb");
        let session = "0000000000000000";
        assert_eq!(bytes(Framing::Server), format!("0b0000003412000000000000{session}01{session}aabb"));
        let trace = "00000000000000000000000000000001";
        assert_eq!(
            bytes(Framing::ServerTraced),
            format!(
                "230000003412000000000000{session}01{session}{trace}{session_1}aabb",
                session_1 = "0000000000000001"
            )
        );
    }

    #[test]
    fn of_a_reply_what_is_known_must_come() {
        let parts =
            |body, framing| reply_bytes(&ping(body), framing).iter().map(hex::encode).collect::<Vec<_>>();
        assert_eq!(parts(None, Framing::Client), ["7856"]);
        assert_eq!(parts(Some(""), Framing::Client), ["00007856"]);
        assert_eq!(parts(Some("0102ff"), Framing::Client), ["03007856", "0102ff"]);
        for framing in [Framing::Server, Framing::ServerTraced] {
            // Replies are in the plain framing, whatever the question was in: 9 bytes and the body.
            assert_eq!(parts(None, framing), ["78560000"]);
            assert_eq!(parts(Some("0102ff"), framing), ["0c00000078560000", "0102ff"]);
        }
    }
}

//! What is counted, and under which names.
//!
//! Envoy's own list of statistics puts `wasmcustom.` in front; its Prometheus output shows the names as they
//! are, without `envoy_`, too. The ABI knows no labels, so a reason is part of the name.

use crate::host::Way;
use crate::session::Refusal;
use crate::translate::Fault;

/// A counter or gauge of the filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Metric {
    /// Connections given a cluster.
    Routed,
    /// Connections closed by the filter before they had a cluster, by reason.
    Refused(Refusal),
    /// Clients that left before their header was whole: port scans, health probes, lost players.
    ClientGone,
    /// Gauge: connections whose header is not whole yet.
    AwaitingHeader,
    /// Configurations that were not taken.
    ConfigRejected,
    /// Gauge: connections that have a cluster and are open.
    SessionsActive,
    /// Sessions closed by the filter, by reason.
    SessionClosed(Fault),
    /// Connections let in although they could not be counted to their address.
    Uncounted,
    /// Messages to game servers, where their framing is not the client's.
    MessagesToServer,
    /// Messages to clients, likewise.
    MessagesToClient,
    /// Connections of a sidecar that were closed because an intention no longer allows them.
    IntentionClosed,
}

impl Metric {
    /// Every metric, in the order of [`Metric::index`].
    pub const ALL: [Self; 19] = [
        Self::Routed,
        Self::Refused(Refusal::NoRoute),
        Self::Refused(Refusal::MessageTooLarge),
        Self::Refused(Refusal::HeaderTimeout),
        Self::Refused(Refusal::HostError),
        Self::Refused(Refusal::ConnectionsPerIp),
        Self::Refused(Refusal::NewConnectionsPerIp),
        Self::Uncounted,
        Self::ClientGone,
        Self::AwaitingHeader,
        Self::ConfigRejected,
        Self::SessionsActive,
        Self::SessionClosed(Fault::MessageTooLarge),
        Self::SessionClosed(Fault::ReplyTooShort),
        Self::SessionClosed(Fault::ReplyTooLarge),
        Self::SessionClosed(Fault::HostError),
        Self::MessagesToServer,
        Self::MessagesToClient,
        Self::IntentionClosed,
    ];

    /// Place in [`Metric::ALL`].
    #[must_use]
    pub const fn index(self) -> usize {
        match self {
            Self::Routed => 0,
            Self::Refused(Refusal::NoRoute) => 1,
            Self::Refused(Refusal::MessageTooLarge) => 2,
            Self::Refused(Refusal::HeaderTimeout) => 3,
            Self::Refused(Refusal::HostError) => 4,
            Self::Refused(Refusal::ConnectionsPerIp) => 5,
            Self::Refused(Refusal::NewConnectionsPerIp) => 6,
            Self::Uncounted => 7,
            Self::ClientGone => 8,
            Self::AwaitingHeader => 9,
            Self::ConfigRejected => 10,
            Self::SessionsActive => 11,
            Self::SessionClosed(Fault::MessageTooLarge) => 12,
            Self::SessionClosed(Fault::ReplyTooShort) => 13,
            Self::SessionClosed(Fault::ReplyTooLarge) => 14,
            Self::SessionClosed(Fault::HostError) => 15,
            Self::MessagesToServer => 16,
            Self::MessagesToClient => 17,
            Self::IntentionClosed => 18,
        }
    }

    /// Messages that go this way.
    #[must_use]
    pub const fn messages(way: Way) -> Self {
        match way {
            Way::ToServer => Self::MessagesToServer,
            Way::ToClient => Self::MessagesToClient,
        }
    }

    /// Name as defined at the host.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Routed => "realmgate_connections_routed_total",
            Self::Refused(Refusal::NoRoute) => "realmgate_connections_refused_no_route_total",
            Self::Refused(Refusal::MessageTooLarge) => {
                "realmgate_connections_refused_message_too_large_total"
            }
            Self::Refused(Refusal::HeaderTimeout) => "realmgate_connections_refused_header_timeout_total",
            Self::Refused(Refusal::ConnectionsPerIp) => {
                "realmgate_connections_refused_connections_per_ip_total"
            }
            Self::Refused(Refusal::NewConnectionsPerIp) => {
                "realmgate_connections_refused_new_connections_per_ip_total"
            }
            Self::Uncounted => "realmgate_connections_uncounted_total",
            Self::Refused(Refusal::HostError) => "realmgate_connections_refused_host_error_total",
            Self::ClientGone => "realmgate_connections_client_gone_total",
            Self::AwaitingHeader => "realmgate_connections_awaiting_header",
            Self::ConfigRejected => "realmgate_config_rejected_total",
            Self::SessionsActive => "realmgate_sessions_active",
            Self::SessionClosed(Fault::MessageTooLarge) => {
                "realmgate_sessions_closed_message_too_large_total"
            }
            Self::SessionClosed(Fault::ReplyTooShort) => "realmgate_sessions_closed_reply_too_short_total",
            Self::SessionClosed(Fault::ReplyTooLarge) => "realmgate_sessions_closed_reply_too_large_total",
            Self::SessionClosed(Fault::HostError) => "realmgate_sessions_closed_host_error_total",
            Self::MessagesToServer => "realmgate_messages_to_server_total",
            Self::MessagesToClient => "realmgate_messages_to_client_total",
            Self::IntentionClosed => "realmgate_connections_closed_by_intention_total",
        }
    }

    /// Whether it goes up and down.
    #[must_use]
    pub const fn is_gauge(self) -> bool {
        matches!(self, Self::AwaitingHeader | Self::SessionsActive)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indices_and_names_agree() {
        for (i, metric) in Metric::ALL.into_iter().enumerate() {
            assert_eq!(metric.index(), i);
            assert_ne!(metric.is_gauge(), metric.name().ends_with("_total"));
            if let Metric::Refused(reason) = metric {
                assert_eq!(metric.name(), format!("realmgate_connections_refused_{}_total", reason.label()));
            }
            if let Metric::SessionClosed(reason) = metric {
                assert_eq!(metric.name(), format!("realmgate_sessions_closed_{}_total", reason.label()));
            }
        }
    }
}

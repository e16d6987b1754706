//! One connection: `AwaitHeader -> Routed | Closed`.

use std::cell::Cell;
use std::fmt::Write as _;

use realmgate_wire::{ClientHeader, Parsed};

use crate::host::{Host, HostError};
use crate::route::{Decision, Router};
use crate::telemetry::Metric;

/// Property that says why the filter closed a connection, as a [label](Refusal::label) or `client_gone`.
pub const CLOSE_REASON: &str = "realmgate.close_reason";

/// Property that holds the first header as `type/world/instance`, in decimal.
pub const HEADER: &str = "realmgate.header";

/// Label of a client that left before its header was whole. Not a refusal: nobody was turned away.
pub const CLIENT_GONE: &str = "client_gone";

/// Why a connection was closed by the filter.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Refusal {
    /// No route takes this server type, world and instance.
    NoRoute,
    /// The header announces a body above `max_message_bytes`.
    MessageTooLarge,
    /// The header was not whole in time.
    HeaderTimeout,
    /// The host refused a call that the connection cannot do without.
    HostError,
}

impl Refusal {
    /// Short stable name, used in metrics and access logs.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::NoRoute => "no_route",
            Self::MessageTooLarge => "message_too_large",
            Self::HeaderTimeout => "header_timeout",
            Self::HostError => "host_error",
        }
    }
}

/// What the host does with the bytes that it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Keep them and wait for more.
    Wait,
    /// Let them, and all that follow, through.
    Pass,
    /// Keep them: the connection is being closed.
    Closed,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
enum State {
    #[default]
    AwaitHeader,
    Routed,
    Closed,
}

/// The state of one connection. Shared between the connection and the queue of deadlines.
#[derive(Debug, Default)]
pub struct Session {
    state: Cell<State>,
}

impl Session {
    /// Whether the header is not whole yet.
    #[must_use]
    pub fn is_waiting(&self) -> bool {
        self.state.get() == State::AwaitHeader
    }

    /// What stands without looking at bytes: the answer for a connection that is settled.
    #[must_use]
    pub fn settled(&self) -> Option<Verdict> {
        match self.state.get() {
            State::AwaitHeader => None,
            State::Routed => Some(Verdict::Pass),
            State::Closed => Some(Verdict::Closed),
        }
    }

    /// Looks at `input`, all bytes since the connection began or the first [`ClientHeader::LEN`] of them.
    ///
    /// `decision` is scratch space, reused to spare allocations.
    pub fn on_data(
        &self,
        input: &[u8],
        end_of_stream: bool,
        router: &Router,
        decision: &mut Decision,
        host: &mut impl Host,
    ) -> Verdict {
        if let Some(verdict) = self.settled() {
            return verdict;
        }
        let header = match ClientHeader::parse(input) {
            Parsed::Complete(header) => header,
            Parsed::Incomplete(_) if end_of_stream => {
                self.on_gone(host);
                return self.close(CLIENT_GONE, host);
            }
            Parsed::Incomplete(_) => return Verdict::Wait,
        };
        let id = header.server_id;
        let text = &mut decision.cluster;
        text.clear();
        // Writing to a string never fails.
        let _ = write!(text, "{}/{}/{}", id.server_type(), id.world(), id.instance());
        // The access log would miss it, the player would not.
        let _ = host.set_property(HEADER, text);

        let limit = router.max_message_bytes();
        if limit > 0 && u32::from(header.body_len) > limit {
            return self.refuse(Refusal::MessageTooLarge, host);
        }
        match decide(header, router, decision, host) {
            Ok(true) => {
                self.state.set(State::Routed);
                host.count(Metric::AwaitingHeader, -1);
                host.count(Metric::Routed, 1);
                Verdict::Pass
            }
            Ok(false) => self.refuse(Refusal::NoRoute, host),
            Err(error) => {
                router.warn_once(&error, host);
                self.refuse(Refusal::HostError, host)
            }
        }
    }

    /// Closes a connection whose header was not whole in time.
    pub fn on_timeout(&self, host: &mut impl Host) {
        if self.is_waiting() {
            self.refuse(Refusal::HeaderTimeout, host);
        }
    }

    /// Notes that the client left; counts only where it left before its header was whole.
    pub fn on_gone(&self, host: &mut impl Host) {
        if self.is_waiting() {
            host.count(Metric::ClientGone, 1);
            self.on_end(host);
        }
    }

    /// Notes that the connection ended, whoever ended it.
    pub fn on_end(&self, host: &mut impl Host) {
        if self.is_waiting() {
            host.count(Metric::AwaitingHeader, -1);
        }
        self.state.set(State::Closed);
    }

    fn refuse(&self, reason: Refusal, host: &mut impl Host) -> Verdict {
        host.count(Metric::Refused(reason), 1);
        self.on_end(host);
        self.close(reason.label(), host)
    }

    fn close(&self, label: &str, host: &mut impl Host) -> Verdict {
        self.state.set(State::Closed);
        // Neither failure leaves anything to do: the connection is already going, and counted.
        let _ = host.set_property(CLOSE_REASON, label);
        let _ = host.close();
        Verdict::Closed
    }
}

/// Finds the route and tells the host; `false` = no route.
fn decide(
    header: ClientHeader,
    router: &Router,
    decision: &mut Decision,
    host: &mut impl Host,
) -> Result<bool, HostError> {
    let Some(route) = router.find(header.server_id) else { return Ok(false) };
    let source_ip = if router.wants_source_ip(route) {
        // Without an address the split falls back to chance; the player gets through.
        host.source_address(&mut decision.source_address).ok()
    } else {
        None
    };
    let address = std::mem::take(&mut decision.source_address);
    router.settle(
        route,
        header.server_id,
        source_ip.map(|()| ip_of(&address)),
        || host.random(),
        decision,
    );
    decision.source_address = address;
    if let Some(key) = decision.hash_key() {
        host.set_hash_key(key)?;
    }
    host.choose_cluster(&decision.cluster)?;
    Ok(true)
}

/// The IP of `ip:port` or `[ip]:port`; an address of another shape is taken whole.
fn ip_of(address: &str) -> &str {
    if let Some(inner) = address.strip_prefix('[') {
        return inner.split_once(']').map_or(address, |(ip, _)| ip);
    }
    match address.split_once(':') {
        // A second colon: an IPv6 address without a port.
        Some((ip, port)) if !port.contains(':') => ip,
        _ => address,
    }
}

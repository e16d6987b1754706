//! One connection: `AwaitHeader -> Routed | Closed`.

use std::cell::{Cell, RefCell};
use std::fmt::Write as _;

use realmgate_wire::{ClientHeader, Parsed, TraceContext};

use crate::host::{Host, HostError, Way};
use crate::route::{Decision, Router};
use crate::telemetry::Metric;
use crate::translate::{Fault, Messages, Translation};

/// Property that says why the filter closed a connection, as a label of a [`Refusal`] or [`Fault`], or `client_gone`.
pub const CLOSE_REASON: &str = "realmgate.close_reason";

/// Property that holds the first header as `type/world/instance`, in decimal.
pub const HEADER: &str = "realmgate.header";

/// Property that holds the session id in decimal, where the framing carries one.
pub const SESSION_ID: &str = "realmgate.session_id";

/// Property that holds the trace id in hexadecimal, where the framing carries one.
pub const TRACE_ID: &str = "realmgate.trace_id";

/// Property that holds the numbers of messages `to the server/to the client` when the session ends, where its
/// framing is not the client's.
pub const MESSAGES: &str = "realmgate.messages";

/// Label of a client that left before its header was whole. Not a refusal: nobody was turned away.
pub const CLIENT_GONE: &str = "client_gone";

/// Why a connection was closed by the filter before it had a cluster.
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
    /// Let them, and all that follow, through; [translated](Session::translate) where the session says so.
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
    /// Only where the framing is not the client's: others have no memory to spare for it.
    translation: RefCell<Option<Box<Translation>>>,
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

    /// Whether data has to be [translated](Self::translate) before it passes.
    #[must_use]
    pub fn translates(&self) -> bool {
        self.translation.try_borrow().is_ok_and(|translation| translation.is_some())
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
        match decide(header, router, decision, host).and_then(|found| {
            if found {
                self.begin(router, decision, host)?;
            }
            Ok(found)
        }) {
            Ok(true) => {
                self.state.set(State::Routed);
                host.count(Metric::AwaitingHeader, -1);
                host.count(Metric::Routed, 1);
                host.count(Metric::SessionsActive, 1);
                Verdict::Pass
            }
            Ok(false) => self.refuse(Refusal::NoRoute, host),
            Err(error) => {
                router.warn_once(&error, host);
                self.refuse(Refusal::HostError, host)
            }
        }
    }

    /// Makes the translation that the destination needs, if any.
    fn begin(&self, router: &Router, decision: &Decision, host: &mut impl Host) -> Result<(), HostError> {
        if decision.framing.is_client() {
            return Ok(());
        }
        let session_id = host.session_id()?;
        // Neither is worth a player: the access log would miss it.
        let _ = host.set_property(SESSION_ID, &session_id.to_string());
        let trace = || {
            let trace = TraceContext::of_session(session_id, host.random(), host.random());
            let _ = host.set_property(TRACE_ID, &format!("{:032x}", u128::from_be_bytes(trace.trace_id)));
            trace
        };
        let translation = Translation::new(decision.framing, router.max_message_bytes(), session_id, trace);
        if let Ok(mut place) = self.translation.try_borrow_mut() {
            *place = translation.map(Box::new);
        }
        Ok(())
    }

    /// Translates the data that the host has on its way, `size` bytes. `out` is scratch space. The verdict is
    /// [`Verdict::Pass`], or [`Verdict::Closed`] where the data makes no sense.
    pub fn translate(&self, way: Way, size: usize, out: &mut Vec<u8>, host: &mut impl Host) -> Verdict {
        if self.state.get() != State::Routed {
            return Verdict::Closed;
        }
        // Nobody else has it borrowed: the host's calls do not come back here.
        let passed = match self.translation.try_borrow_mut() {
            Ok(mut place) => {
                place.as_mut().map_or(Ok(0), |translation| translation.pass(way, size, out, host))
            }
            Err(_) => Err(Fault::HostError),
        };
        match passed {
            Ok(count) => {
                host.count(Metric::messages(way), i64::try_from(count).unwrap_or(i64::MAX));
                Verdict::Pass
            }
            Err(fault) => {
                host.count(Metric::SessionClosed(fault), 1);
                self.on_end(host);
                self.close(fault.label(), host)
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
        match self.state.replace(State::Closed) {
            State::AwaitHeader => host.count(Metric::AwaitingHeader, -1),
            State::Routed => {
                host.count(Metric::SessionsActive, -1);
                // Taken, so that a connection that is slow to go keeps no memory.
                if let Ok(Some(translation)) = self.translation.try_borrow_mut().map(|mut place| place.take())
                {
                    let Messages { to_server, to_client } = translation.messages();
                    let _ = host.set_property(MESSAGES, &format!("{to_server}/{to_client}"));
                }
            }
            State::Closed => {}
        }
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
    // Lent out while the decision is written.
    let mut address = std::mem::take(&mut decision.source_address);
    // Without an address the split falls back to chance; the player gets through.
    let known = router.wants_source_ip(route) && host.source_address(&mut address).is_ok();
    let source_ip = known.then(|| ip_of(&address));
    router.settle(route, header.server_id, source_ip, || host.random(), decision);
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

//! One connection: `AwaitHeader -> Routed | Closed`.

use std::cell::{Cell, OnceCell, RefCell};
use std::rc::Rc;

use realmgate_wire::{ClientHeader, Parsed, ServerId, TraceContext};

use crate::access_log::{Ending, Identity, Record};
use crate::host::{Host, HostError, UpstreamFailure, Way};
use crate::limits::Address;
use crate::limits::address::ip_of;
use crate::route::{Decision, Router};
use crate::telemetry::Metric;
use crate::translate::{Fault, Messages, Translation};

/// Why a connection was closed by the filter before it had a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Refusal {
    /// No route takes this server type, world and instance.
    NoRoute,
    /// The header announces a body above `max_message_bytes`.
    MessageTooLarge,
    /// The header was not whole in time.
    HeaderTimeout,
    /// The client's address has `connections_per_ip` open.
    ConnectionsPerIp,
    /// The client's address had its `new_connections_per_ip_per_second`.
    NewConnectionsPerIp,
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
            Self::ConnectionsPerIp => "connections_per_ip",
            Self::NewConnectionsPerIp => "new_connections_per_ip",
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
    /// Where it counts as an open connection.
    counted: Cell<Option<Address>>,
    /// Only where the framing is not the client's: others have no memory to spare for it.
    translation: RefCell<Option<Box<Translation>>>,
    // The rest is for the access log.
    /// The client's address as it may be shown, where the proxy does not show it.
    client: Option<Rc<str>>,
    server_id: Cell<Option<ServerId>>,
    route: OnceCell<Rc<str>>,
    identity: Cell<Option<Identity>>,
    /// Where the first end of the stream came from.
    ended: Cell<Option<Way>>,
}

impl Session {
    /// A connection that is let in; it counts as one of this address, and its client is shown so in the access log.
    #[must_use]
    pub fn of(counted: Option<Address>, client: Option<Rc<str>>) -> Self {
        Self { counted: Cell::new(counted), client, ..Self::default() }
    }

    /// A connection that is turned away before a byte of it is read.
    #[must_use]
    pub fn refused(reason: Refusal, client: Option<Rc<str>>, host: &mut impl Host) -> Self {
        // It never awaited its header, for which it would leave a count.
        let session = Self { state: Cell::new(State::Closed), client, ..Self::default() };
        session.refuse(reason, host);
        session
    }

    /// Where it counts, for the one who takes that back.
    #[must_use]
    pub fn take_counted(&self) -> Option<Address> {
        self.counted.take()
    }

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
                return close(host);
            }
            Parsed::Incomplete(_) => return Verdict::Wait,
        };
        self.server_id.set(Some(header.server_id));
        let limit = router.max_message_bytes();
        if limit > 0 && u32::from(header.body_len) > limit {
            return self.refuse(Refusal::MessageTooLarge, host);
        }
        match self.decide(header, router, decision, host).and_then(|found| {
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

    /// Names the session where anybody will see it, and makes the translation that the destination needs, if any.
    fn begin(&self, router: &Router, decision: &Decision, host: &mut impl Host) -> Result<(), HostError> {
        if decision.framing.is_client() && !router.is_logged() {
            return Ok(());
        }
        let session_id = match host.session_id() {
            Ok(id) => id,
            // Only the access log would have shown it.
            Err(_) if decision.framing.is_client() => return Ok(()),
            Err(error) => return Err(error),
        };
        let trace = TraceContext::of_session(session_id, host.random(), host.random());
        self.identity.set(Some(Identity { session_id, trace }));
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
                self.finish(Ending::Fault(fault), host);
                close(host)
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
            self.finish(Ending::ClientGone, host);
        }
    }

    /// Notes that nothing more comes from one side.
    pub fn on_end_of_stream(&self, way: Way) {
        if self.ended.get().is_none() {
            self.ended.set(Some(way));
        }
    }

    /// Notes that the connection ended.
    pub fn on_end(&self, by_client: bool, host: &mut impl Host) {
        if self.settled() == Some(Verdict::Closed) {
            return;
        }
        let ending = match self.ended.get() {
            Some(Way::ToServer) => Ending::Client,
            Some(Way::ToClient) => Ending::Server,
            None if by_client => Ending::Client,
            None => match host.upstream_failure() {
                None => Ending::Proxy,
                Some(failure) if failure.flags & UpstreamFailure::RESET > 0 => Ending::Server,
                Some(failure) => Ending::Failed(failure),
            },
        };
        self.finish(ending, host);
    }

    /// Leaves the counts of a connection that ended, and tells nobody.
    pub fn on_lost(&self, host: &mut impl Host) {
        self.leave(host);
    }

    fn refuse(&self, reason: Refusal, host: &mut impl Host) -> Verdict {
        host.count(Metric::Refused(reason), 1);
        self.finish(Ending::Refused(reason), host);
        close(host)
    }

    /// Leaves the counts, and tells the access log.
    fn finish(&self, ending: Ending, host: &mut impl Host) {
        let messages = self.leave(host);
        let record = Record {
            client: self.client.clone(),
            server_id: self.server_id.get(),
            route: self.route.get().cloned(),
            identity: self.identity.get(),
            messages,
            ending,
        };
        host.log(&record);
    }

    /// Leaves the counts; gives the messages where they were counted.
    fn leave(&self, host: &mut impl Host) -> Option<Messages> {
        match self.state.replace(State::Closed) {
            State::AwaitHeader => host.count(Metric::AwaitingHeader, -1),
            State::Routed => host.count(Metric::SessionsActive, -1),
            State::Closed => {}
        }
        // Taken, so that a connection that is slow to go keeps no memory.
        let translation = self.translation.try_borrow_mut().ok()?.take()?;
        Some(translation.messages())
    }

    /// Finds the route and tells the host; `false` = no route.
    fn decide(
        &self,
        header: ClientHeader,
        router: &Router,
        decision: &mut Decision,
        host: &mut impl Host,
    ) -> Result<bool, HostError> {
        let Some(route) = router.find(header.server_id) else { return Ok(false) };
        let _ = self.route.set(route.name());
        // Lent out while the decision is written.
        let mut address = std::mem::take(&mut decision.source_address);
        // Without an address the split falls back to chance; the player gets through.
        let known = route.wants_source_ip() && host.source_address(&mut address).is_ok();
        let source_ip = known.then(|| ip_of(&address));
        route.settle(header.server_id, source_ip, || host.random(), decision);
        decision.source_address = address;
        if let Some(key) = decision.hash_key() {
            host.set_hash_key(key)?;
        }
        host.choose_cluster(&decision.cluster)?;
        Ok(true)
    }
}

/// A failure leaves nothing to do: the connection is already going, and counted.
fn close(host: &mut impl Host) -> Verdict {
    let _ = host.close();
    Verdict::Closed
}

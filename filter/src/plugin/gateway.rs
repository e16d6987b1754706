//! [`Gateway`] behind the ABI: a root context for each configuration of a listener, and its connections.

use std::cell::RefCell;
use std::rc::Rc;

use realmgate_wire::ClientHeader;

use super::abi::{self, Action, Buffer, Level};
use super::counts::TELL_MS;
use super::envoy::Envoy;
use super::{shared, vm};
use crate::gateway::Gateway;
use crate::host::Way;
use crate::limits::SharedTable;
use crate::session::{Session, Verdict};

/// A root context.
pub(super) struct Root {
    /// `None` only if the default configuration were invalid.
    gateway: Option<Gateway>,
    envoy: Envoy,
}

impl Root {
    pub(super) fn new(context: u32) -> Self {
        Self { gateway: Gateway::new().ok(), envoy: Envoy::new(vm::entropy() ^ u64::from(context)) }
    }
}

/// Works with a root context's gateway, which is always there: nobody else works with it meanwhile.
pub(super) fn with<T>(
    root: &RefCell<Root>,
    otherwise: T,
    work: impl FnOnce(&mut Gateway, &mut Envoy) -> T,
) -> T {
    match root.try_borrow_mut().as_deref_mut() {
        Ok(Root { gateway: Some(gateway), envoy }) => work(gateway, envoy),
        _ => otherwise,
    }
}

/// Takes a configuration of this size; gives how many milliseconds there are to be between ticks, `None` = refused.
pub(super) fn configure(root: &RefCell<Root>, size: usize, table: &SharedTable) -> Option<u32> {
    with(root, None, |gateway, envoy| {
        gateway.count_in(&shared::plugin_name(), Rc::clone(table));
        let json = abi::buffer(Buffer::PluginConfiguration, 0, size).unwrap_or_default();
        if let Err(error) = gateway.configure(&json, envoy) {
            abi::log(Level::Error, &format!("realmgate: configuration refused: {error}"));
            return None;
        }
        envoy.is_logged = gateway.is_logged();
        Some(gateway.tick_period_ms().map_or(TELL_MS, |period| period.min(TELL_MS)))
    })
}

/// A connection of a root context, which it keeps alive: whatever order they are deleted in, it leaves its counts.
pub(super) struct Connection {
    context: u32,
    pub(super) root: u32,
    session: Option<Rc<Session>>,
    of: Rc<RefCell<Root>>,
}

impl Connection {
    pub(super) const fn new(context: u32, root: u32, of: Rc<RefCell<Root>>) -> Self {
        Self { context, root, session: None, of }
    }

    pub(super) fn open(&mut self) {
        if self.session.is_none() {
            self.session = with(&self.of, None, |gateway, envoy| Some(gateway.open(self.context, envoy)));
        }
    }

    pub(super) fn downstream_data(&mut self, size: usize, end_of_stream: bool) -> Action {
        let Some(session) = &self.session else { return Action::Pause };
        if end_of_stream {
            session.on_end_of_stream(Way::ToServer);
        }
        let verdict = match session.settled() {
            Some(Verdict::Pass) if session.translates() => self.translate(session, Way::ToServer, size),
            Some(verdict) => verdict,
            None if size < ClientHeader::LEN && !end_of_stream => Verdict::Wait,
            None => self.route(session, size, end_of_stream),
        };
        action(verdict)
    }

    pub(super) fn upstream_data(&mut self, size: usize) -> Action {
        let Some(session) = &self.session else { return Action::Pause };
        match session.settled() {
            Some(Verdict::Pass) if session.translates() => {
                action(self.translate(session, Way::ToClient, size))
            }
            Some(Verdict::Pass) => Action::Continue,
            // What a server sends after its session was closed must not reach the client untranslated.
            _ => Action::Pause,
        }
    }

    /// The end of the server's stream, where its bytes are not seen, too.
    pub(super) fn upstream_close(&self) {
        if let Some(session) = &self.session {
            session.on_end_of_stream(Way::ToClient);
        }
    }

    /// Leaves the counts; again, it changes nothing.
    pub(super) fn end(&mut self, by_client: bool) {
        if let Some(session) = self.session.take() {
            with(&self.of, (), |gateway, envoy| gateway.end(&session, by_client, envoy));
        }
    }

    fn route(&self, session: &Session, size: usize, end_of_stream: bool) -> Verdict {
        with(&self.of, Verdict::Wait, |gateway, envoy| {
            let input = abi::buffer(Buffer::DownstreamData, 0, ClientHeader::LEN).unwrap_or_default();
            match gateway.data(session, &input, end_of_stream, envoy) {
                Verdict::Pass if session.translates() => {
                    gateway.translate(session, Way::ToServer, size, envoy)
                }
                verdict => verdict,
            }
        })
    }

    fn translate(&self, session: &Session, way: Way, size: usize) -> Verdict {
        with(&self.of, Verdict::Wait, |gateway, envoy| gateway.translate(session, way, size, envoy))
    }
}

/// Also where nothing is left of a chunk: it may be the last.
const fn action(verdict: Verdict) -> Action {
    match verdict {
        Verdict::Pass => Action::Continue,
        Verdict::Wait | Verdict::Closed => Action::Pause,
    }
}

//! The contexts of a VM, and the events that Envoy tells them.
//!
//! Envoy may tell of any context at any time: it closes a connection in the middle of a read's events and then goes on with
//! them, and a context that it has deleted may hear of its server's end. An event for a context that is not here changes
//! nothing, and lets no byte pass.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::collections::hash_map::{Entry, HashMap};
use std::rc::Rc;

use foldhash::fast::FixedState;

use super::abi::{self, Action, Level};
use super::{counts, gateway, guard, shared};
use crate::guard::{Guard, ROOT_ID, TICK_MS};
use crate::limits::SharedTable;
use crate::ticker::{Ticker, Timer};

thread_local! {
    static VM: RefCell<Contexts> = RefCell::default();
}

/// All there are in a VM.
#[derive(Default)]
struct Contexts {
    roots: BTreeMap<u32, Root>,
    connections: HashMap<u32, Connection, FixedState>,
    ticker: Ticker,
    /// What the connections of all root contexts count in: a new configuration does not start from 0.
    table: SharedTable,
    /// The connections that all of its root contexts guard.
    guard: Guard,
}

/// A plugin configuration: one for each listener and change, several may share a VM.
enum Root {
    Gateway(Rc<RefCell<gateway::Root>>),
    Guard,
}

enum Connection {
    OfGateway(gateway::Connection),
    Guarded { root: u32 },
}

impl Connection {
    const fn root(&self) -> u32 {
        match self {
            Self::OfGateway(connection) => connection.root,
            Self::Guarded { root } => *root,
        }
    }
}

/// Runs an event, or does nothing: Envoy does not call back while it is called, so nobody else has the contexts.
fn with<T>(otherwise: T, event: impl FnOnce(&mut Contexts) -> T) -> T {
    VM.with(|vm| match vm.try_borrow_mut() {
        Ok(mut vm) => event(&mut vm),
        Err(_) => otherwise,
    })
}

/// Envoy calls this once per VM, before anything else.
pub(super) fn on_start() {
    // A trap alone would not say what it was about.
    std::panic::set_hook(Box::new(|panic| abi::log(Level::Critical, &panic.to_string())));
}

pub(super) fn on_create(context: u32, root: u32) {
    with((), |vm| if root == 0 { vm.create_root(context) } else { vm.create_connection(context, root) });
}

/// Whether the configuration was taken.
pub(super) fn on_configure(root: u32, size: usize) -> bool {
    with(false, |vm| {
        let period = match vm.roots.get(&root) {
            Some(Root::Gateway(root)) => gateway::configure(root, size, &vm.table),
            Some(Root::Guard) => guard::configure(&mut vm.guard, size).then_some(TICK_MS),
            None => None,
        };
        counts::introduce();
        // A configuration that was refused gets no ticks.
        counts::tell();
        let Some(period) = period else { return false };
        let timer = vm.ticker.begin(root, period);
        vm.set(timer);
        vm.wake_for(root);
        true
    })
}

pub(super) fn on_tick(root: u32) {
    with((), |vm| {
        let Some(elapsed) = vm.ticker.elapsed_ms(root) else { return };
        for root in vm.gateways() {
            gateway::with(root, (), |gateway, envoy| gateway.tick(elapsed, envoy));
        }
        // For all of them: they count in one table.
        if let Some(root) = vm.gateways().next() {
            gateway::with(root, (), |gateway, envoy| gateway.beat(envoy));
        }
        guard::look(&mut vm.guard);
        // Where something was counted there is more to come: setting the timer for each would be two calls more.
        if !counts::tell() && !vm.waits() {
            let timer = vm.ticker.rest();
            vm.set(timer);
        }
    });
}

pub(super) fn on_new_connection(context: u32) -> Action {
    with(Action::Pause, |vm| match vm.connections.get_mut(&context) {
        Some(Connection::OfGateway(connection)) => {
            connection.open();
            let root = connection.root;
            vm.wake_for(root);
            // Holds back tcp_proxy, which would choose its cluster now.
            Action::Pause
        }
        Some(Connection::Guarded { .. }) => Action::Continue,
        None => {
            // Nobody would ever close it.
            let _ = abi::close();
            Action::Pause
        }
    })
}

pub(super) fn on_downstream_data(context: u32, size: usize, end_of_stream: bool) -> Action {
    with(Action::Pause, |vm| vm.event(context, |connection| connection.downstream_data(size, end_of_stream)))
}

pub(super) fn on_upstream_data(context: u32, size: usize) -> Action {
    with(Action::Pause, |vm| vm.event(context, |connection| connection.upstream_data(size)))
}

// This and the next come only where an access log wants to know, on Envoys that can restrict them.
pub(super) fn on_downstream_close(context: u32, by_client: bool) {
    with((), |vm| {
        vm.event(context, |connection| {
            connection.end(by_client);
            Action::Pause
        });
    });
}

pub(super) fn on_upstream_close(context: u32) {
    with((), |vm| {
        if let Some(Connection::OfGateway(connection)) = vm.connections.get(&context) {
            connection.upstream_close();
        }
    });
}

/// The one event that comes at every end of a connection: the ABI's `done` and `log` would be two more calls for each.
pub(super) fn on_delete(context: u32) {
    with((), |vm| match vm.connections.remove(&context) {
        Some(connection) => vm.end(context, connection),
        None => vm.end_root(context),
    });
}

impl Contexts {
    fn create_root(&mut self, root: u32) {
        self.roots.entry(root).or_insert_with(|| match &*shared::root_id() {
            ROOT_ID => Root::Guard,
            _ => Root::Gateway(Rc::new(RefCell::new(gateway::Root::new(root)))),
        });
    }

    fn create_connection(&mut self, context: u32, root: u32) {
        let connection = match self.roots.get(&root) {
            Some(Root::Gateway(gateway)) => {
                Connection::OfGateway(gateway::Connection::new(context, root, Rc::clone(gateway)))
            }
            Some(Root::Guard) => Connection::Guarded { root },
            None => return,
        };
        let is_guarded = matches!(connection, Connection::Guarded { .. });
        let Entry::Vacant(place) = self.connections.entry(context) else { return };
        place.insert(connection);
        counts::begin();
        if is_guarded {
            self.guard.begin(context);
            self.wake_for(root);
        }
    }

    /// An event of a connection; data of those that are only guarded passes.
    fn event(&mut self, context: u32, event: impl FnOnce(&mut gateway::Connection) -> Action) -> Action {
        match self.connections.get_mut(&context) {
            Some(Connection::OfGateway(connection)) => {
                let action = event(connection);
                let root = connection.root;
                self.wake_for(root);
                action
            }
            Some(Connection::Guarded { .. }) => Action::Continue,
            None => Action::Pause,
        }
    }

    fn end(&mut self, context: u32, connection: Connection) {
        let root = connection.root();
        match connection {
            Connection::OfGateway(mut connection) => connection.end(false),
            Connection::Guarded { .. } => self.guard.end(context),
        }
        counts::end();
        self.wake_for(root);
    }

    fn end_root(&mut self, root: u32) {
        if self.roots.remove(&root).is_some() {
            self.ticker.end(root).into_iter().for_each(|timer| self.set(timer));
        }
    }

    fn gateways(&self) -> impl Iterator<Item = &RefCell<gateway::Root>> {
        self.roots.values().filter_map(|root| match root {
            Root::Gateway(gateway) => Some(&**gateway),
            Root::Guard => None,
        })
    }

    /// Has ticks come, where something happened that wants them.
    fn wake_for(&mut self, root: u32) {
        if !self.ticker.is_awake() && (counts::are_untold() || self.guard.waits()) {
            let timer = self.ticker.wake(root);
            self.set(timer);
        }
    }

    /// Whether time has to pass for anybody.
    fn waits(&self) -> bool {
        let counts = self.table.try_borrow().is_ok_and(|table| table.counts());
        self.guard.waits()
            || self.gateways().any(|root| counts || gateway::with(root, false, |gateway, _| gateway.waits()))
    }

    /// Sets a timer, under whatever context the event is. Without one it is tried again at the next event.
    fn set(&mut self, timer: Option<Timer>) {
        let Some(Timer { root, period_ms }) = timer else { return };
        if abi::select(root).and_then(|()| abi::set_tick_period(period_ms)).is_err() && period_ms > 0 {
            self.ticker.rest();
        }
    }
}

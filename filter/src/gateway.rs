//! One plugin configuration with the connections under it: what a root context is to Envoy.

use std::rc::Rc;

use crate::config::FilterConfig;
use crate::host::{Host, Way};
use crate::limits::{Deadlines, Gate, SharedTable, tick_period_ms};
use crate::route::{Decision, Router};
use crate::session::{Session, Verdict};
use crate::telemetry::Metric;
use crate::validate::ConfigError;

/// Routes the connections of one listener by its current configuration.
#[derive(Debug)]
pub struct Gateway {
    router: Rc<Router>,
    deadlines: Deadlines,
    gate: Gate,
    decision: Decision,
    /// Scratch space of translations.
    out: Vec<u8>,
}

impl Gateway {
    /// A gateway without routes, which refuses all until it is configured.
    ///
    /// # Errors
    /// None in practice: the default configuration is valid.
    pub fn new() -> Result<Self, ConfigError> {
        let router = Rc::new(Router::new(&FilterConfig::default())?);
        Ok(Self {
            router,
            deadlines: Deadlines::default(),
            gate: Gate::default(),
            decision: Decision::default(),
            out: Vec::new(),
        })
    }

    /// Counts connections as those of this listener, where the worker's other configurations do.
    pub fn count_in(&mut self, listener: &str, table: SharedTable) {
        self.gate.count_in(listener, table);
    }

    /// Takes a new configuration. Routed connections are not touched; those that wait are decided by it.
    ///
    /// # Errors
    /// [`ConfigError`] when it is not valid: counted, and the old one stays.
    pub fn configure(&mut self, json: &[u8], host: &mut impl Host) -> Result<(), ConfigError> {
        match FilterConfig::from_json(json).and_then(|config| Ok((Router::new(&config)?, config))) {
            Ok((router, config)) => {
                self.router = Rc::new(router);
                self.gate.configure(&config);
                Ok(())
            }
            Err(error) => {
                host.count(Metric::ConfigRejected, 1);
                Err(error)
            }
        }
    }

    /// Whether anybody reads the access log.
    #[must_use]
    pub fn is_logged(&self) -> bool {
        self.router.is_logged()
    }

    /// How often [`Self::tick`] is to be called at least, while anything [waits](Self::waits) or is counted in the table;
    /// `None` = now and then, to forget what is over.
    #[must_use]
    pub fn tick_period_ms(&self) -> Option<u32> {
        [tick_period_ms(self.router.header_timeout_ms()), self.gate.beat_ms()].into_iter().flatten().min()
    }

    /// A connection begins. One that is over a limit comes back closed.
    pub fn open(&mut self, connection: u32, host: &mut impl Host) -> Rc<Session> {
        let client = self.router.shown_client(host);
        let counted = match self.gate.admit(host) {
            Ok(counted) => counted,
            Err(reason) => return Rc::new(Session::refused(reason, client, host)),
        };
        let session = Rc::new(Session::of(counted, client));
        host.count(Metric::AwaitingHeader, 1);
        self.deadlines.enter(connection, Rc::clone(&session));
        session
    }

    /// Bytes of a connection, from its beginning; see [`Session::on_data`].
    pub fn data(
        &mut self,
        session: &Session,
        input: &[u8],
        end_of_stream: bool,
        host: &mut impl Host,
    ) -> Verdict {
        session.on_data(input, end_of_stream, &self.router, &mut self.decision, host)
    }

    /// Data of a connection that [translates](Session::translates), `size` bytes; see [`Session::translate`].
    pub fn translate(&mut self, session: &Session, way: Way, size: usize, host: &mut impl Host) -> Verdict {
        session.translate(way, size, &mut self.out, host)
    }

    /// A connection ended, by its client or by somebody on this side. Where nobody reads the access log the host need
    /// not know by whom: of those that wait, it was the client.
    pub fn end(&mut self, session: &Session, by_client: bool, host: &mut impl Host) {
        self.gate.release(session, host);
        match (session.is_waiting(), self.is_logged()) {
            (true, is_logged) if by_client || !is_logged => session.on_gone(host),
            (_, true) => session.on_end(by_client, host),
            (_, false) => session.on_lost(host),
        }
    }

    /// Lets `elapsed_ms` pass and closes those whose header took too long.
    pub fn tick(&mut self, elapsed_ms: u32, host: &mut impl Host) {
        self.deadlines.advance(elapsed_ms);
        while let Some((connection, session)) = self.deadlines.expired(self.router.header_timeout_ms()) {
            // One that the host no longer knows is only crossed out.
            if host.select(connection).is_ok() {
                session.on_timeout(host);
            } else {
                session.on_lost(host);
                self.gate.release(&session, host);
            }
        }
    }

    /// Shows the other workers that this one lives; to be called at a tick of any gateway that counts in the same table.
    pub fn beat(&self, host: &mut impl Host) {
        self.gate.beat(host);
    }

    /// Whether a connection may come to have waited for too long: until then [`Self::tick`] has to be called.
    #[must_use]
    pub fn waits(&self) -> bool {
        self.router.header_timeout_ms() > 0 && !self.deadlines.is_empty()
    }

    /// Connections that are remembered because they may wait, for tests of memory.
    #[must_use]
    pub fn remembered(&self) -> usize {
        self.deadlines.len()
    }
}

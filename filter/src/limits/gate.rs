//! Whether a new connection is let in: the limits of one configuration, over the table of its worker.

use std::cell::{Cell, RefCell};
use std::rc::Rc;

use super::bucket::Answer;
use super::{Address, AddressLimits, Listener, Table};
use crate::config::FilterConfig;
use crate::host::{Host, HostError};
use crate::session::{Refusal, Session};
use crate::telemetry::Metric;

/// The table of a worker: all its configurations count in one.
pub type SharedTable = Rc<RefCell<Table>>;

/// Milliseconds between a worker's signs of life, about; see [`super::workers`].
const BEAT_MS: u32 = 1000;

/// The limits of a configuration.
#[derive(Debug, Default)]
pub struct Gate {
    limits: AddressLimits,
    listener: Listener,
    table: SharedTable,
    /// Scratch space.
    address: String,
    warned: Cell<bool>,
}

impl Gate {
    /// Counts as connections of this listener, in this table.
    pub fn count_in(&mut self, listener: &str, table: SharedTable) {
        (self.listener, self.table) = (Listener::named(listener), table);
    }

    /// Takes the limits of a new configuration; what is counted stays.
    pub fn configure(&mut self, config: &FilterConfig) {
        self.limits = AddressLimits::of(config);
        self.warned.set(false);
    }

    /// How often [`Self::beat`] is to be called; `None` = never.
    #[must_use]
    pub fn beat_ms(&self) -> Option<u32> {
        self.limits.any().then_some(BEAT_MS)
    }

    /// Lets a new connection in, and says where it counts as open: to be [released](Self::release) when it ends.
    ///
    /// Whoever cannot be counted is let in: no fault of this side turns players away.
    ///
    /// # Errors
    /// [`Refusal`]: the limit that the client is over.
    pub fn admit(&mut self, host: &mut impl Host) -> Result<Option<Address>, Refusal> {
        if !self.limits.any() {
            return Ok(None);
        }
        match self.ask(host) {
            // No IP, no limit per IP.
            Ok(None | Some((Answer::Passed, _))) => Ok(None),
            Ok(Some((Answer::Counted, address))) => Ok(Some(address)),
            Ok(Some((Answer::TooMany, _))) => Err(Refusal::ConnectionsPerIp),
            Ok(Some((Answer::TooFast, _))) => Err(Refusal::NewConnectionsPerIp),
            Ok(Some((Answer::Uncounted, _))) => {
                host.count(Metric::Uncounted, 1);
                Ok(None)
            }
            Err(error) => {
                host.count(Metric::Uncounted, 1);
                self.warn_once(&error, host);
                Ok(None)
            }
        }
    }

    fn ask(&mut self, host: &mut impl Host) -> Result<Option<(Answer, Address)>, HostError> {
        host.source_address(&mut self.address)?;
        let Some(address) = Address::parse(&self.address, self.listener) else { return Ok(None) };
        let answer = self.with_table(|table| table.admit(address, self.limits, host))?;
        Ok(Some((answer, address)))
    }

    /// Takes back a connection that was counted, once.
    pub fn release(&self, session: &Session, host: &mut impl Host) {
        let Some(address) = session.take_counted() else { return };
        if let Err(error) = self.with_table(|table| table.release(address, host)) {
            self.warn_once(&error, host);
        }
    }

    /// Shows the other workers that this one lives.
    pub fn beat(&self, host: &mut impl Host) {
        if let Err(error) = self.with_table(|table| table.beat(host)) {
            self.warn_once(&error, host);
        }
    }

    fn with_table<T>(&self, work: impl FnOnce(&mut Table) -> Result<T, HostError>) -> Result<T, HostError> {
        match self.table.try_borrow_mut() {
            Ok(mut table) => work(&mut table),
            // The host does not call back while it is called.
            Err(_) => Err(HostError { call: "the table of addresses", reason: "in use".to_owned() }),
        }
    }

    fn warn_once(&self, error: &HostError, host: &mut impl Host) {
        if !self.warned.replace(true) {
            host.warn(&format!("{error}; connections are not counted (reported once per configuration)"));
        }
    }
}

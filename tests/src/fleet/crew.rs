//! All proxies together: connects them, and waits for what they have in common.

use std::cell::RefCell;
use std::fmt::Display;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use envoy_types::pb::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::catalogue::{Catalogue, Kind};
use super::connection::Session;
use super::moment;
use super::proxy::{Proxy, Watched};
use super::reader::Piece;
use super::settings::Settings;
use super::tally::{Acknowledged, Tally, Traffic, nanoseconds};
use crate::Failure;

/// Until a connection that could not be made is tried again.
const RETRY: Duration = Duration::from_millis(100);

/// A fleet. Lives in a [`tokio::task::LocalSet`].
#[derive(Debug)]
pub struct Crew {
    shared: Rc<Shared>,
    members: JoinSet<()>,
    /// Told when all shall connect anew.
    again: watch::Sender<()>,
}

#[derive(Debug)]
struct Shared {
    settings: Settings,
    token: Option<String>,
    catalogue: RefCell<Catalogue>,
    tally: RefCell<Tally>,
    changed: Notify,
}

impl Crew {
    /// A fleet without proxies.
    pub fn new(settings: Settings) -> Result<Self, Failure> {
        let read = |path| std::fs::read_to_string(path).map_err(Failure::because("cannot read the token"));
        let token = settings.token_file.as_ref().map(read).transpose()?;
        let shared = Shared {
            token: token.map(|token| token.trim().to_owned()),
            settings,
            catalogue: RefCell::default(),
            tally: RefCell::default(),
            changed: Notify::new(),
        };
        Ok(Self { shared: Rc::new(shared), members: JoinSet::new(), again: watch::Sender::new(()) })
    }

    /// Adds proxies, of which so many may be on their way to be in sync at once.
    pub fn connect(&mut self, count: usize, at_once: usize) {
        self.shared.tally.borrow_mut().traffic = Traffic::default();
        let gate = Arc::new(Semaphore::new(at_once.max(1)));
        for number in self.members.len()..self.members.len() + count {
            let member = Member {
                shared: Rc::clone(&self.shared),
                number,
                proxy: Proxy::default(),
                synced: None,
                seen: 0,
                due: false,
                permit: None,
            };
            self.members.spawn_local(member.live(Arc::clone(&gate), self.again.subscribe()));
        }
    }

    /// Makes all connect anew at once, with what they have.
    pub fn reconnect(&self) {
        let mut tally = self.shared.tally.borrow_mut();
        tally.round += 1;
        tally.synced = 0;
        self.again.send_replace(());
    }

    /// Ends all connections and forgets the proxies.
    pub async fn disconnect(&mut self) {
        self.members.shutdown().await;
        *self.shared.tally.borrow_mut() = Tally::default();
    }

    /// How many proxies there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.members.len()
    }

    /// Waits until all are in sync; the moment when the last came to be.
    pub async fn synced(&self, patience: Duration) -> Result<u64, Failure> {
        self.wait("are in sync", patience, |tally| tally.synced).await?;
        Ok(nanoseconds(self.shared.tally.borrow().last_sync))
    }

    /// From now on, waits for a change of this resource, or of any of its type.
    pub fn watch(&self, kind: Kind, name: Option<&str>) {
        let name = name.map(|name| self.shared.catalogue.borrow_mut().name(kind, name));
        let watched = name.map_or(Watched::Kind(kind), |name| Watched::Resource(kind, name));
        self.shared.tally.borrow_mut().watch(watched);
    }

    /// From now on, waits for any change.
    pub fn watch_any(&self) {
        self.shared.tally.borrow_mut().watch(Watched::Any);
    }

    /// Waits until all have acknowledged the change.
    pub async fn acknowledged(&self, patience: Duration) -> Result<Acknowledged, Failure> {
        self.wait("have acknowledged the change", patience, |tally| tally.moments.len()).await?;
        Ok(self.shared.tally.borrow().acknowledged())
    }

    /// What was received since the last watch or connect.
    #[must_use]
    pub fn traffic(&self) -> Traffic {
        self.shared.tally.borrow().traffic
    }

    async fn wait(
        &self,
        what: impl Display,
        patience: Duration,
        count: impl Fn(&Tally) -> usize,
    ) -> Result<(), Failure> {
        let all = self.members.len();
        let done = async {
            while count(&self.shared.tally.borrow()) < all {
                self.shared.changed.notified().await;
            }
        };
        timeout(patience, done).await.map_err(|_| {
            let tally = self.shared.tally.borrow();
            let (done, losses) = (count(&tally), tally.losses);
            let latest = if losses == 0 { String::new() } else { format!(", the latest: {}", tally.last_loss) };
            Failure::new(format!(
                "only {done} of {all} proxies {what} after {patience:?}; {losses} connections were lost{latest}"
            ))
        })
    }
}

/// One proxy of the fleet.
#[derive(Debug)]
pub(super) struct Member {
    shared: Rc<Shared>,
    number: usize,
    proxy: Proxy,
    /// The round in which it came to be in sync on this connection.
    synced: Option<u64>,
    /// The number of the last change that it has acknowledged.
    seen: u64,
    /// Whether the acknowledgement of the change waits to be written.
    due: bool,
    /// Held on the way to the first sync.
    permit: Option<OwnedSemaphorePermit>,
}

impl Member {
    async fn live(mut self, gate: Arc<Semaphore>, mut again: watch::Receiver<()>) {
        loop {
            if !self.proxy.is_synced() && self.permit.is_none() {
                self.permit = Arc::clone(&gate).acquire_owned().await.ok();
            }
            let lost = tokio::select! {
                failure = self.connected() => Some(failure),
                told = again.changed() => if told.is_ok() { None } else { return },
            };
            self.out_of_sync();
            let Some(failure) = lost else { continue };
            self.shared.lost(&failure);
            let told = tokio::select! {
                told = again.changed() => told,
                () = self.shared.settings.pause(self.number) => Ok(()),
            };
            if told.is_err() {
                return;
            }
        }
    }

    /// Connects, however often that takes, and serves; why the connection was lost.
    async fn connected(&mut self) -> Failure {
        let shared = Rc::clone(&self.shared);
        loop {
            match Session::open(shared.settings.address, self.number, shared.token.as_deref()).await {
                Ok(mut session) => {
                    let failure = session.serve(self).await;
                    if session.heard() {
                        return failure;
                    }
                    self.out_of_sync();
                    shared.lost(&failure);
                }
                Err(failure) => shared.lost(&failure),
            }
            tokio::time::sleep(RETRY).await;
        }
    }

    fn out_of_sync(&mut self) {
        self.due = false;
        let mut tally = self.shared.tally.borrow_mut();
        if self.synced.take() == Some(tally.round) {
            tally.synced -= 1;
        }
    }

    /// What it says on a new stream.
    pub(super) fn hello(&mut self) -> Vec<[Bytes; 2]> {
        self.proxy.hello(self.shared.settings.node(self.number), &mut self.shared.catalogue.borrow_mut())
    }

    /// Counts what has arrived.
    pub(super) fn received(&self, bytes: usize) {
        self.shared.tally.borrow_mut().traffic.bytes += bytes as u64;
    }

    /// Takes a piece of a response; what is to be said then.
    pub(super) fn take(&mut self, piece: Piece<'_>) -> Vec<DeltaDiscoveryRequest> {
        let watched = {
            let mut tally = self.shared.tally.borrow_mut();
            match &piece {
                Piece::Resource(resource) => {
                    tally.traffic.resources += 1;
                    tally.traffic.resource_bytes += resource.body.len() as u64;
                }
                Piece::End => tally.traffic.messages += 1,
                _ => {}
            }
            tally.watched.filter(|_| self.seen != tally.watch)
        };
        let Some(outcome) = self.proxy.take(piece, &mut self.shared.catalogue.borrow_mut(), watched) else {
            return Vec::new();
        };
        self.due |= outcome.watched;
        outcome.requests
    }

    /// All that it had to say has been written, as far as the connection takes it.
    pub(super) fn sent(&mut self) {
        if !self.due && (self.synced.is_some() || !self.proxy.is_synced()) {
            return;
        }
        let now = moment();
        let mut tally = self.shared.tally.borrow_mut();
        if std::mem::take(&mut self.due) {
            self.seen = tally.watch;
            tally.moments.push(now);
        }
        if self.synced.is_none() && self.proxy.is_synced() {
            self.synced = Some(tally.round);
            self.permit = None;
            tally.synced += 1;
            tally.last_sync = now;
        }
        self.shared.changed.notify_one();
    }
}

impl Shared {
    fn lost(&self, failure: &Failure) {
        let mut tally = self.tally.borrow_mut();
        tally.losses += 1;
        tally.last_loss = failure.to_string();
    }
}

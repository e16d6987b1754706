//! What a stream knows of the connection it came on, carried as an extension of its HTTP request.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::{Instant, timeout_at};

use super::credential::{Credential, Warrant};
use super::drain::Turn;
use crate::connections::Place;
use crate::xds::budget::Account;

/// The other end of a connection.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    /// Where it connects from.
    pub(crate) address: SocketAddr,
    /// What let it in.
    pub(crate) credential: Credential,
    /// Ends the connection at once, for a proxy that takes nothing and leaves nothing.
    pub(crate) cut: Cut,
    /// When it is to go because the process ends: its streams then end with `UNAVAILABLE`.
    pub(crate) turn: Turn,
}

impl Peer {
    /// Lets a connection go whose stream was not let in, or not any more. A certificate is its connection's: on this one the proxy
    /// could never show another.
    pub(crate) fn let_go(&self) {
        if self.credential.is_of_connection() {
            self.cut.go();
        }
    }
}

/// Cuts a connection off. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cut(Arc<Link>);

#[derive(Debug, Default)]
struct Link {
    cut: Notify,
    go: Notify,
    /// Told when a stream was let in, and when one is gone.
    streams: Arc<Notify>,
    admitted: AtomicBool,
    /// The credentials of its streams, for as long as these last.
    warrants: Mutex<Vec<Weak<Warrant>>>,
    /// Kept for as long as a stream is here that was let in.
    place: Weak<Place>,
    /// What its streams have us keep.
    account: Account,
}

impl Cut {
    /// Of the connection that has this place and this account.
    pub(super) fn of(place: &Arc<Place>, account: Account) -> Self {
        Self(Arc::new(Link { place: Arc::downgrade(place), account, ..Link::default() }))
    }

    /// What the connection's streams have us keep.
    pub(crate) fn account(&self) -> &Account {
        &self.0.account
    }

    /// Closes the connection without another byte.
    pub(crate) fn cut(&self) {
        self.0.cut.notify_one();
    }

    /// Completes once it is to be cut.
    pub(super) async fn asked(&self) {
        self.0.cut.notified().await;
    }

    /// Has no further stream opened on the connection.
    pub(super) fn go(&self) {
        self.0.go.notify_one();
    }

    /// Completes once no further stream is to be opened on it.
    pub(super) async fn told_to_go(&self) {
        self.0.go.notified().await;
    }

    /// Notes that a request was let in.
    pub(super) fn admit(&self, credential: &Credential) {
        self.0.admitted.store(true, Ordering::Relaxed);
        if let Some(place) = self.0.place.upgrade() {
            place.settle();
        }
        // No code panics with the lock held.
        let mut warrants = self.0.warrants.lock().unwrap_or_else(PoisonError::into_inner);
        warrants.retain(|warrant| warrant.strong_count() > 0);
        warrants.push(Arc::downgrade(credential.warrant()));
        self.0.streams.notify_one();
    }

    /// For the credential of a stream of this connection, which tells here that the stream is gone.
    pub(super) fn streams_change(&self) -> &Arc<Notify> {
        &self.0.streams
    }

    /// Completes when there was no stream for so long; others may take the place meanwhile. `until`: when the first has to be here.
    /// What was let in once is no reason to stay: its credential may be one that is taken back.
    pub(super) async fn unused(&self, mut until: Instant, patience: Duration) {
        loop {
            if self.streams().is_empty() {
                if let Some(place) = self.0.place.upgrade() {
                    place.wait();
                }
                if timeout_at(until, self.0.streams.notified()).await.is_err() {
                    return;
                }
            } else {
                self.0.streams.notified().await;
            }
            until = Instant::now() + patience;
        }
    }

    /// Whether any request was let in.
    pub(super) fn admitted(&self) -> bool {
        self.0.admitted.load(Ordering::Relaxed)
    }

    /// Whether a stream is there whose credential holds no more.
    pub(super) fn is_overstayed(&self) -> bool {
        self.streams().iter().any(|warrant| warrant.check().is_err())
    }

    /// Whether a stream is there whose credential holds.
    pub(super) fn is_of_use(&self) -> bool {
        self.streams().iter().any(|warrant| warrant.check().is_ok())
    }

    fn streams(&self) -> Vec<Arc<Warrant>> {
        let warrants = self.0.warrants.lock().unwrap_or_else(PoisonError::into_inner);
        warrants.iter().filter_map(Weak::upgrade).collect()
    }
}

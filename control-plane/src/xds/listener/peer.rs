//! What a stream knows of the connection it came on, carried as an extension of its HTTP request.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use tokio::sync::Notify;

use super::drain::Turn;
use super::identity::{Identity, Mismatch};
use crate::connections::Place;
use crate::xds::Scope;
use crate::xds::budget::Account;

/// The other end of a connection.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    /// Where it connects from.
    pub(crate) address: SocketAddr,
    /// Who it has proved to be; none where nobody has to.
    pub(crate) identity: Option<Identity>,
    /// Ends the connection at once, for a proxy that takes nothing and leaves nothing.
    pub(crate) cut: Cut,
    /// When it is to go because the process ends: its streams then end with `UNAVAILABLE`.
    pub(crate) turn: Turn,
    pub(super) edge_service: Arc<str>,
}

impl Peer {
    /// Whether it may be what its node claims.
    pub(crate) fn may_be(&self, scope: &Scope) -> Result<(), Mismatch> {
        self.identity.as_ref().map_or(Ok(()), |identity| identity.may_be(scope, &self.edge_service))
    }
}

/// Cuts a connection off. Cheap to clone.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cut(Arc<Link>);

#[derive(Debug, Default)]
struct Link {
    cut: Notify,
    admitted: AtomicBool,
    /// Kept once a request was let in.
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

    /// Notes that a request was let in.
    pub(super) fn admit(&self) {
        if !self.0.admitted.swap(true, Ordering::Relaxed)
            && let Some(place) = self.0.place.upgrade()
        {
            place.settle();
        }
    }

    /// Whether any request was let in.
    pub(super) fn admitted(&self) -> bool {
        self.0.admitted.load(Ordering::Relaxed)
    }
}

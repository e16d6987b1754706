//! What a stream knows of the connection it came on, carried as an extension of its HTTP request.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use tokio::sync::Notify;

use super::credential::{Credential, Held};
use super::drain::Turn;

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
    /// Takes the end of a stream whose credential is gone. A certificate is its connection's: on this one the proxy could
    /// never show another.
    pub(crate) fn revoked(&self) {
        if self.credential.is_of_connection() {
            self.cut.0.go.notify_one();
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
    admitted: AtomicBool,
    /// The credentials of its streams, for as long as these last.
    held: Mutex<Vec<Weak<Held>>>,
}

impl Cut {
    /// Closes the connection without another byte.
    pub(crate) fn cut(&self) {
        self.0.cut.notify_one();
    }

    /// Completes once it is to be cut.
    pub(super) async fn asked(&self) {
        self.0.cut.notified().await;
    }

    /// Completes once no further stream is to be opened on it.
    pub(super) async fn told_to_go(&self) {
        self.0.go.notified().await;
    }

    /// Notes that a request was let in.
    pub(super) fn admit(&self, credential: &Credential) {
        self.0.admitted.store(true, Ordering::Relaxed);
        // No code panics with the lock held.
        let mut held = self.0.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.retain(|held| held.strong_count() > 0);
        held.push(Arc::downgrade(credential.held()));
    }

    /// Whether any request was let in.
    pub(super) fn admitted(&self) -> bool {
        self.0.admitted.load(Ordering::Relaxed)
    }

    /// Whether a stream is there whose credential holds no more.
    pub(super) fn is_overstayed(&self) -> bool {
        let held = self.0.held.lock().unwrap_or_else(PoisonError::into_inner);
        held.iter().filter_map(Weak::upgrade).any(|held| held.check().is_err())
    }
}

//! Places for connections at a listener: so many, and never all of them for those who only hold them.

mod places;
mod source;

use std::io::{Error, ErrorKind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use tokio::sync::Notify;

pub(crate) use places::Bounds;
use places::{Number, Table};
pub(crate) use source::Source;

/// Whether only the connection that was to be taken in is at fault: it is gone already. Anything else is what the system lacks, file
/// descriptors mostly.
pub(crate) fn is_of_one_connection(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::ConnectionAborted
            | ErrorKind::ConnectionReset
            | ErrorKind::ConnectionRefused
            | ErrorKind::Interrupted
    )
}

/// The places of one listener. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Places(Arc<Mutex<Table<Arc<Notify>>>>);

/// A connection's place, free again when it is dropped.
#[derive(Debug)]
pub(crate) struct Place {
    places: Places,
    number: Number,
    lost: Arc<Notify>,
}

/// Every place is taken by somebody who has a right to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Full;

impl Places {
    pub(crate) fn new(bounds: Bounds) -> Self {
        Self(Arc::new(Mutex::new(Table::new(bounds))))
    }

    /// A place for a connection that comes from there; another one may have to make room.
    pub(crate) fn enter(&self, source: Source) -> Result<Place, Full> {
        let lost = Arc::new(Notify::new());
        let (number, gives_way) =
            self.table().enter(source, Arc::clone(&lost), Instant::now()).ok_or(Full)?;
        if let Some(other) = &gives_way {
            other.notify_one();
        }
        Ok(Place { places: self.clone(), number, lost })
    }

    /// A poisoned lock means a panic in between; what is counted then is right to one connection.
    fn table(&self) -> MutexGuard<'_, Table<Arc<Notify>>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Place {
    /// It has shown that it is entitled to it: nobody takes it any more, and its source is known from now on.
    pub(crate) fn settle(&self) {
        self.places.table().settle(self.number);
    }

    /// It holds it for nothing: others may take it.
    pub(crate) fn wait(&self) {
        self.places.table().wait(self.number, Instant::now());
    }

    /// Completes when another connection was given the place. May be dropped and called again.
    pub(crate) async fn lost(&self) {
        self.lost.notified().await;
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.places.table().leave(self.number);
    }
}

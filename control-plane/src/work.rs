//! Work that takes long: off the threads that serve, so much at a time, and only for as long as somebody waits for it.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use tokio::sync::Semaphore;
use tokio::task::spawn_blocking;
use tokio::time::timeout;

use crate::model::Effort;

/// What is worked on at a time. The largest document takes a second of a processor, and some tens of megabytes.
const AT_WORK: usize = 2;
/// Those that may wait for it, and how long.
const IN_QUEUE: usize = 16;
const PATIENCE: Duration = Duration::from_secs(5);
/// Longest work on one: many times what the largest document takes, on a machine that does much else.
const LONGEST: Duration = Duration::from_secs(30);

/// Why there was no outcome.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unfinished {
    /// Others came first.
    #[error("the control plane is busy with others of this kind; try again in a few seconds")]
    Busy,
    /// It took too long.
    #[error("this takes longer than {} s; try again when the machine is less busy", LONGEST.as_secs())]
    TooLong,
    /// The process is stopping.
    #[error("the control plane is stopping")]
    Stopping,
    /// We are at fault.
    #[error("the control plane failed at this; its log has the reason")]
    Failed,
}

/// Where one kind of work is done.
#[derive(Debug)]
pub(crate) struct Work {
    places: Arc<Semaphore>,
    queue: Semaphore,
}

/// Says when it is dropped that nobody waits any more.
struct Waiting(Arc<AtomicBool>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

impl Default for Work {
    fn default() -> Self {
        Self { places: Arc::new(Semaphore::new(AT_WORK)), queue: Semaphore::new(AT_WORK + IN_QUEUE) }
    }
}

impl Work {
    /// Does this when there is a place. When the future is dropped the work ends at its next step; its place is free then.
    pub(crate) async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Effort<'_>) -> T + Send + 'static,
    ) -> Result<T, Unfinished> {
        let _queued = self.queue.try_acquire().map_err(|_| Unfinished::Busy)?;
        let place = timeout(PATIENCE, Arc::clone(&self.places).acquire_owned()).await;
        // The semaphore is never closed.
        let Ok(Ok(place)) = place else { return Err(Unfinished::Busy) };
        let left = Arc::new(AtomicBool::new(false));
        let _waiting = Waiting(Arc::clone(&left));
        let done = spawn_blocking(move || {
            let _place = place;
            let until = Instant::now() + LONGEST;
            work(&Effort::until(&|| left.load(Ordering::Relaxed) || Instant::now() > until))
        });
        done.await.map_err(|error| {
            if !error.is_panic() {
                return Unfinished::Stopping;
            }
            tracing::error!(%error, "work failed");
            Unfinished::Failed
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc;

    use super::*;

    /// Work that is only ended.
    fn endless(
        started: mpsc::Sender<()>,
        ended: mpsc::Sender<u64>,
    ) -> impl FnOnce(&Effort<'_>) + Send + 'static {
        move |effort| {
            started.send(()).unwrap();
            while effort.step().is_ok() {}
            ended.send(effort.steps()).unwrap();
        }
    }

    #[tokio::test]
    async fn a_fault_is_none_of_the_client_and_its_place_is_free() {
        let work = Work::default();
        for _ in 0..=AT_WORK {
            assert_eq!(work.run(|_| -> u8 { panic!("a fault") }).await, Err(Unfinished::Failed));
        }
        assert_eq!(work.run(|_| 7).await, Ok(7));
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn so_many_at_a_time_and_ended_when_nobody_waits() {
        let work = Arc::new(Work::default());
        let ((begin, at_work), (end, ended)) = (mpsc::channel(), mpsc::channel());
        let mut clients = tokio::task::JoinSet::new();
        for _ in 0..AT_WORK + IN_QUEUE {
            let (work, begin, end) = (Arc::clone(&work), begin.clone(), end.clone());
            clients.spawn(async move { work.run(endless(begin, end)).await });
        }
        while work.queue.available_permits() > 0 {
            tokio::task::yield_now().await;
        }
        assert_eq!(work.run(|_| ()).await, Err(Unfinished::Busy), "no room in the queue");
        tokio::task::block_in_place(|| (0..AT_WORK).for_each(|_| at_work.recv().unwrap()));
        assert!(at_work.try_recv().is_err(), "more than {AT_WORK} at a time");
        drop((begin, end));
        clients.shutdown().await;
        // Clients leave one after the other: one that waited may have had its turn before it left, too.
        let (begun_later, over) =
            tokio::task::block_in_place(|| (at_work.iter().count(), ended.iter().count()));
        assert_eq!(AT_WORK + begun_later, over, "whatever has begun is ended");
        assert_eq!(work.run(|_| 7).await, Ok(7), "what was left has given its places back");
    }
}

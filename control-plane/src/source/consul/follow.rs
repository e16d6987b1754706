//! Following one thing by blocking queries, whatever becomes of Consul.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};

use super::client::{Answer, Client};
use super::error::ConsulError;
use super::index::{self, Index};
use super::parts::{Part, Parts};
use super::rights::Right;
use crate::source::backoff::Backoff;

/// How long a question to our own datacenter waits for a change.
pub(in crate::source) const WAIT: Duration = Duration::from_mins(5);

/// What every task of the source has.
#[derive(Clone, Debug)]
pub(super) struct Context {
    pub(super) client: Arc<Client>,
    pub(super) parts: Arc<Parts>,
}

/// A blocking query that is asked again and again.
#[derive(Debug)]
pub(in crate::source) struct Query {
    path: String,
    wait: Duration,
    index: Index,
    rest_until: Instant,
}

impl Query {
    pub(in crate::source) fn new(path: String, wait: Duration) -> Self {
        Self { path, wait, index: Index::default(), rest_until: Instant::now() }
    }

    /// The next answer, and whether something may have changed since the last. Must not be cancelled for less than
    /// giving up the query.
    pub(in crate::source) async fn next(&mut self, client: &Client) -> Result<(Answer, bool), ConsulError> {
        sleep_until(self.rest_until).await;
        let result = if self.index == Index::default() {
            // A server that has just started answers from what it has read of its log so far: of the first answer it has to
            // make sure that it is whole.
            let sign = if self.path.contains('?') { '&' } else { '?' };
            client.wait(&format!("{}{sign}consistent", self.path), self.index, self.wait).await
        } else {
            client.wait(&self.path, self.index, self.wait).await
        };
        match result {
            Ok(answer) => {
                let changed = self.index.take(answer.index());
                self.rest_until = Instant::now() + index::rest(answer.took);
                Ok((answer, changed))
            }
            Err(error) => {
                self.index = Index::default();
                Err(error)
            }
        }
    }
}

impl Context {
    /// Gives every new answer to `take` for ever; what it refuses is kept back as a loss is, and so is an answer for which the
    /// token lacks what `rights` tells of it.
    pub(super) async fn follow(
        &self,
        part: Part,
        path: &str,
        rights: impl Fn(&Answer) -> Result<Vec<Right>, ConsulError> + Send,
        mut take: impl FnMut(&Answer) -> Result<(), ConsulError> + Send,
    ) {
        let mut query = Query::new(path.to_owned(), WAIT);
        let mut backoff = Backoff::new();
        loop {
            let taken = match query.next(&self.client).await {
                Ok((answer, true)) => match rights(&answer) {
                    Ok(rights) => self.client.may_read(path, "", &rights).await.and_then(|()| take(&answer)),
                    Err(error) => Err(error),
                },
                Ok((_, false)) => Ok(()),
                Err(error) => Err(error),
            };
            match taken {
                Ok(()) => {
                    backoff.reset();
                    self.parts.ok(&part);
                }
                Err(error) => {
                    self.parts.lost(&part, &error);
                    sleep(backoff.wait()).await;
                    query = Query::new(path.to_owned(), WAIT);
                }
            }
        }
    }
}

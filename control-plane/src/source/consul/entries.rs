//! Configuration entries of services, two kinds, joined by name.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use serde_json::Value;

use super::answer::entries::{self, Refused};
use super::catalog::Published;
use super::client::Answer;
use super::error::ConsulError;
use super::follow::Context;
use super::metrics::Metrics;
use super::parts::Part;
use super::rights;
use crate::mesh::catalog::{Resolver, ServiceEntries, ServiceSubset};

/// The kinds that are followed.
pub(super) const KINDS: [&str; 2] = ["service-resolver", "service-splitter"];

#[derive(Debug, Default)]
struct State {
    resolvers: BTreeMap<String, Resolver>,
    splitters: BTreeMap<String, Vec<(u32, ServiceSubset)>>,
    refused: BTreeMap<&'static str, BTreeSet<Refused>>,
}

/// Takes the entries of one kind; gives those that it refuses.
type Take = fn(&mut State, &Answer) -> Result<Vec<Refused>, ConsulError>;

/// Follows all kinds for ever.
pub(super) async fn follow(context: Context, published: Arc<Published>, metrics: Arc<Metrics>) {
    let known = Arc::clone(&published.subscribe().borrow().entries);
    let state = Mutex::new(State::of(&known));
    let kind = |kind: &'static str, is_in: fn(&ServiceEntries) -> bool, take: Take| {
        let (state, published, metrics) = (&state, &published, &metrics);
        let taken = move |answer: &Answer| {
            let mut state = state.lock().unwrap_or_else(PoisonError::into_inner);
            let refused = take(&mut state, answer)?;
            state.report(kind, refused, metrics);
            let entries = Arc::new(state.joined());
            published.change(|catalog| catalog.entries = entries);
            Ok(())
        };
        let context = &context;
        let rights = move |answer: &Answer| {
            let known = published.current();
            let known = known.entries.iter().filter(|(_, entries)| is_in(entries)).map(|(name, _)| name);
            Ok(rights::of_entries(known, &entries::names(answer)?))
        };
        async move {
            let path = format!("/v1/config/{kind}");
            context.follow(Part::Entries(kind), &path, rights, taken).await;
        }
    };
    let [resolver, splitter] = KINDS;
    tokio::join!(
        kind(
            resolver,
            |known| known.resolver.is_some(),
            |state, answer| take(answer, &mut state.resolvers, entries::resolver)
        ),
        kind(
            splitter,
            |known| !known.splitter.is_empty(),
            |state, answer| take(answer, &mut state.splitters, entries::splitter)
        ),
    );
}

fn take<T: Clone>(
    answer: &Answer,
    known: &mut BTreeMap<String, T>,
    read: fn(Value) -> Result<T, String>,
) -> Result<Vec<Refused>, ConsulError> {
    let (now, refused) = entries::read(answer, known, read)?;
    *known = now;
    Ok(refused)
}

impl State {
    fn of(entries: &BTreeMap<String, ServiceEntries>) -> Self {
        let mut state = Self::default();
        for (name, entry) in entries {
            state.resolvers.extend(entry.resolver.clone().map(|resolver| (name.clone(), resolver)));
            if !entry.splitter.is_empty() {
                state.splitters.insert(name.clone(), entry.splitter.clone());
            }
        }
        state
    }

    fn joined(&self) -> BTreeMap<String, ServiceEntries> {
        let mut entries: BTreeMap<String, ServiceEntries> = BTreeMap::new();
        for (name, resolver) in &self.resolvers {
            entries.entry(name.clone()).or_default().resolver = Some(resolver.clone());
        }
        for (name, splits) in &self.splitters {
            entries.entry(name.clone()).or_default().splitter.clone_from(splits);
        }
        entries
    }

    /// Logs and counts the refusals that were not there before.
    fn report(&mut self, kind: &'static str, refused: Vec<Refused>, metrics: &Metrics) {
        let refused: BTreeSet<_> = refused.into_iter().collect();
        let before = self.refused.insert(kind, refused.clone()).unwrap_or_default();
        let appeared: Vec<_> = refused.difference(&before).collect();
        for one in &appeared {
            tracing::warn!(
                kind,
                name = one.name,
                problem = one.problem,
                "a configuration entry cannot be used; its last good one is served, if there was one"
            );
        }
        metrics.entries(self.refused.values().map(BTreeSet::len).sum(), appeared.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_known_is_taken_apart_and_put_together_again() {
        let entries = BTreeMap::from([
            ("a".to_owned(), ServiceEntries { resolver: Some(Resolver::default()), splitter: Vec::new() }),
            (
                "b".to_owned(),
                ServiceEntries { resolver: None, splitter: vec![(10_000, ServiceSubset::default())] },
            ),
        ]);
        assert_eq!(State::of(&entries).joined(), entries);
    }
}

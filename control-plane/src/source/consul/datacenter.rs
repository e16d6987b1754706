//! The instances of one datacenter: two blocking queries say that something changed, then what may have changed is read.

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::stream;
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use tokio::sync::watch;
use tokio::time::{Instant, sleep, sleep_until};

use super::answer::checks::{Checks, Touched};
use super::answer::instances;
use super::catalog::Published;
use super::client::{Answer, Client};
use super::error::ConsulError;
use super::follow::{Context, Query, WAIT};
use super::index;
use super::metrics::Metrics;
use super::parts::Part;
use super::resolve::Names;
use super::rights;
use crate::mesh::catalog::{Instance, Lookup};
use crate::source::backoff::Backoff;

/// How long the small question waits: a datacenter whose servers are cut off without a word is known to be within this and
/// the time of an answer.
const SMALL_WAIT: Duration = Duration::from_secs(10);
/// Everything is read again this often, for what no index tells: the address of a node, a host name.
const ALL_AGAIN: Duration = Duration::from_mins(5);
/// Readings at a time; the client bounds those of all datacenters together.
const AT_ONCE: usize = 16;

/// One datacenter and what is known of it.
pub(super) struct Datacenter {
    context: Context,
    published: Arc<Published>,
    metrics: Arc<Metrics>,
    names: Arc<Names>,
    part: Part,
    name: String,
    local: bool,
    wanted: watch::Receiver<BTreeSet<Lookup>>,
    known: BTreeMap<Lookup, Known>,
    /// What Consul refused at the last reading; asked again with the next small answer.
    refused: BTreeMap<Lookup, ConsulError>,
}

/// What one lookup told, to find it again when a check changes.
#[derive(Debug, Default, PartialEq, Eq)]
struct Known {
    services: BTreeSet<String>,
    nodes: BTreeSet<String>,
    refused: BTreeSet<String>,
}

/// A reading of one lookup.
struct Read {
    instances: Arc<[Instance]>,
    known: Known,
}

impl Datacenter {
    pub(super) fn new(
        context: Context,
        published: Arc<Published>,
        metrics: Arc<Metrics>,
        names: Arc<Names>,
        part: Part,
        wanted: watch::Receiver<BTreeSet<Lookup>>,
    ) -> Self {
        let (name, local) = match &part {
            Part::Catalog { datacenter, local } => (datacenter.clone(), *local),
            _ => (String::new(), true),
        };
        context.parts.expect(part.clone());
        Self {
            context,
            published,
            metrics,
            names,
            part,
            name,
            local,
            wanted,
            known: BTreeMap::new(),
            refused: BTreeMap::new(),
        }
    }

    /// Follows it for ever.
    pub(super) async fn run(mut self) {
        let mut backoff = Backoff::new();
        loop {
            let Err(error) = self.follow(&mut backoff).await;
            self.published.heard(&self.name, false);
            self.context.parts.lost(&self.part, &error);
            sleep(backoff.wait()).await;
        }
    }

    async fn follow(&mut self, backoff: &mut Backoff) -> Result<Infallible, ConsulError> {
        let client = Arc::clone(&self.context.client);
        let datacenter = encoded(&self.name);
        let services = Query::new(format!("/v1/catalog/services?dc={datacenter}"), SMALL_WAIT);
        let checks = Query::new(format!("/v1/health/state/any?dc={datacenter}"), WAIT);
        // The indexes first: what changes after them wakes the queries, what changed before is in the readings.
        let (services, _) = ask(services, &client).await?;
        let (checks, (answer, _)) = ask(checks, &client).await?;
        let mut seen = Checks::read(&answer)?;
        let mut services = pin!(ask(services, &client));
        let mut checks = pin!(ask(checks, &client));
        let mut due = self.wanted.borrow_and_update().clone();
        let mut all_due = false;
        let mut all_read = Instant::now();
        let mut all_after = Instant::now();
        loop {
            let all = due.len() == self.wanted.borrow().len();
            let began = Instant::now();
            self.read(std::mem::take(&mut due)).await?;
            if all {
                all_read = Instant::now();
                all_after = all_read + index::rest(all_read - began);
            }
            // Only now: a datacenter without a leader answers some questions too.
            backoff.reset();
            self.published.heard(&self.name, true);
            match self.refused.values().next() {
                None => self.context.parts.ok(&self.part),
                Some(error) => self.context.parts.partly(&self.part, error),
            }
            while due.is_empty() {
                tokio::select! {
                    result = &mut services => {
                        let (query, (answer, changed)) = result?;
                        services.set(ask(query, &client));
                        // A datacenter has one service at least, Consul: the token lost its rights, as the readings will say.
                        let nothing = answer.body.trim_ascii() == b"{}";
                        all_due |= changed || nothing || all_read.elapsed() >= ALL_AGAIN;
                        due.extend(self.refused.keys().cloned());
                    }
                    result = &mut checks => {
                        let (query, (answer, changed)) = result?;
                        if changed {
                            let now = Checks::read(&answer)?;
                            due = self.touched(&seen.touched(&now));
                            seen = now;
                        }
                        checks.set(ask(query, &client));
                    }
                    result = self.wanted.changed() => {
                        if result.is_err() {
                            return std::future::pending().await;
                        }
                        due = self.newly_wanted();
                    }
                    () = sleep_until(all_after), if all_due => {
                        all_due = false;
                        due.clone_from(&self.wanted.borrow());
                    }
                }
            }
        }
    }

    /// The lookups that may have changed with these checks.
    fn touched(&self, touched: &Touched) -> BTreeSet<Lookup> {
        self.wanted
            .borrow()
            .iter()
            .filter(|lookup| may_change(lookup, self.known.get(lookup), touched))
            .cloned()
            .collect()
    }

    /// What is wanted now and was not; what is no longer wanted is forgotten.
    fn newly_wanted(&mut self) -> BTreeSet<Lookup> {
        let wanted = self.wanted.borrow_and_update().clone();
        self.known.retain(|lookup, _| wanted.contains(lookup));
        self.refused.retain(|lookup, _| wanted.contains(lookup));
        wanted.into_iter().filter(|lookup| !self.known.contains_key(lookup)).collect()
    }

    /// Reads these and publishes them together. What Consul refuses keeps its last good instances; any other failure is
    /// one of all.
    async fn read(&mut self, due: BTreeSet<Lookup>) -> Result<(), ConsulError> {
        self.refused.retain(|lookup, _| !due.contains(lookup));
        let this = &*self;
        let read_one = |lookup: Lookup| async move {
            let read = this.read_one(&lookup).await;
            (lookup, read)
        };
        let mut readings = stream::iter(due.into_iter().map(read_one)).buffer_unordered(AT_ONCE);
        let mut good = Vec::new();
        let mut refused = BTreeMap::new();
        while let Some((lookup, read)) = readings.next().await {
            match read {
                Ok(read) => good.push((lookup, read)),
                Err(error) if error.is_answer() => {
                    refused.insert(lookup, error);
                }
                Err(error) => return Err(error),
            }
        }
        drop(readings);
        self.refused.extend(refused);
        let wanted = self.wanted.borrow().clone();
        let mut published = BTreeMap::new();
        for (lookup, read) in good.into_iter().filter(|(lookup, _)| wanted.contains(lookup)) {
            self.report(&lookup, &read.known);
            self.known.insert(lookup.clone(), read.known);
            published.insert(lookup, read.instances);
        }
        if !published.is_empty() {
            self.published.change(|catalog| catalog.instances.extend(published));
            self.published.count(&self.name);
        }
        Ok(())
    }

    async fn read_one(&self, lookup: &Lookup) -> Result<Read, ConsulError> {
        let answer = self.context.client.get(&path(lookup)).await?;
        let (named, refused) = instances::read(&answer, !self.local)?;
        let mut known = Known { refused: refused.into_iter().collect(), ..Known::default() };
        let mut instances = Vec::with_capacity(named.len());
        for one in named {
            known.nodes.insert(one.node.clone());
            known.services.insert(one.service);
            let Some(address) = self.names.address(&one.host).await else {
                known.refused.insert(format!("{} at {}: `{}` has no address", one.id, one.node, one.host));
                continue;
            };
            let (port, weight, health) = (one.port, one.weight, one.health);
            instances.push(Instance { id: one.id, node: one.node, address, port, weight, health });
        }
        // Consul shuffles what it tells.
        instances.sort_unstable();
        let before = self.published.current().instances.get(lookup).cloned().unwrap_or_default();
        let services = self.known.get(lookup).into_iter().flat_map(|known| &known.services);
        let services: BTreeSet<_> = services.chain([&lookup.service]).map(String::as_str).collect();
        let rights = rights::of_instances(services.into_iter(), &before, &instances);
        self.context.client.may_read(&answer.path, &encoded(&self.name), &rights).await?;
        Ok(Read { instances: instances.into(), known })
    }

    /// Tells of refusals that were not there before.
    fn report(&self, lookup: &Lookup, now: &Known) {
        let before = self.known.get(lookup).map(|known| &known.refused);
        for refused in now.refused.iter().filter(|one| !before.is_some_and(|before| before.contains(*one))) {
            self.metrics.refusal("instance");
            tracing::warn!(
                service = lookup.service,
                datacenter = lookup.datacenter,
                refused,
                "an instance cannot be used"
            );
        }
    }
}

/// The next answer of a query, and the query for the one after it.
async fn ask(mut query: Query, client: &Client) -> Result<(Query, (Answer, bool)), ConsulError> {
    let next = query.next(client).await?;
    Ok((query, next))
}

/// Whether a change of checks may change what a lookup tells.
fn may_change(lookup: &Lookup, known: Option<&Known>, touched: &Touched) -> bool {
    // The name that Consul gives to sidecars that are not told another.
    let sidecar = || format!("{}-sidecar-proxy", lookup.service);
    let by_name = touched.services.contains(&lookup.service)
        || lookup.sidecars && touched.services.contains(&sidecar());
    by_name
        || known.is_none_or(|known| {
            !known.services.is_disjoint(&touched.services) || !known.nodes.is_disjoint(&touched.nodes)
        })
}

fn path(lookup: &Lookup) -> String {
    let kind = if lookup.sidecars { "connect" } else { "service" };
    let mut path =
        format!("/v1/health/{kind}/{}?dc={}", encoded(&lookup.service), encoded(&lookup.datacenter));
    if !lookup.filter.is_empty() {
        path.push_str("&filter=");
        path.push_str(&encoded(&lookup.filter));
    }
    path
}

fn encoded(text: &str) -> String {
    utf8_percent_encode(text, NON_ALPHANUMERIC).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lookup(service: &str, sidecars: bool) -> Lookup {
        Lookup { datacenter: "aws".to_owned(), service: service.to_owned(), sidecars, filter: String::new() }
    }

    #[test]
    fn a_lookup_is_read_again_when_a_check_of_its_own_changed() {
        let set = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect::<BTreeSet<_>>();
        let known = Known { services: set(&["odd-name"]), nodes: set(&["n1"]), refused: BTreeSet::new() };
        let services = |names: &[&str]| Touched { services: set(names), nodes: BTreeSet::new() };
        let chat = lookup("chat", false);
        assert!(may_change(&chat, Some(&known), &services(&["chat"])));
        assert!(!may_change(&chat, Some(&known), &services(&["battle", "chat-sidecar-proxy"])));
        assert!(may_change(&lookup("chat", true), Some(&known), &services(&["chat-sidecar-proxy"])));
        assert!(may_change(&chat, Some(&known), &services(&["odd-name"])));
        let node = Touched { services: BTreeSet::new(), nodes: set(&["n1"]) };
        assert!(may_change(&chat, Some(&known), &node));
        assert!(may_change(&chat, None, &services(&["battle"])), "never read");
    }

    #[test]
    fn names_and_filters_cannot_leave_their_place() {
        let mut odd = lookup("a/../b?x", true);
        odd.filter = "Service.Meta.zone == \"a&b\"".to_owned();
        assert_eq!(
            path(&odd),
            "/v1/health/connect/a%2F%2E%2E%2Fb%3Fx?dc=aws&filter=Service%2EMeta%2Ezone%20%3D%3D%20%22a%26b%22"
        );
    }
}

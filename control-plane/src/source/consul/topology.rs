//! Which datacenters there are, and how far.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::sleep;

use super::answer::topology;
use super::catalog::Published;
use super::error::ConsulError;
use super::follow::Context;
use super::parts::Part;
use crate::mesh::catalog::Datacenter;
use crate::source::backoff::Backoff;

/// Consul gives no blocking query for either; its servers compare their clocks about as often.
const EVERY: Duration = Duration::from_secs(10);
/// A round trip that differs by less is the same: every change makes a new mesh.
const LEAST_CHANGE: Duration = Duration::from_millis(1);

/// Asks for ever.
pub(super) async fn follow(context: Context, published: Arc<Published>, local: String) {
    let mut backoff = Backoff::new();
    loop {
        match ask(&context, &local).await {
            Ok((names, trips)) => {
                publish(&published, names, &trips, &local);
                backoff.reset();
                context.parts.ok(&Part::Datacenters);
                sleep(EVERY).await;
            }
            Err(error) => {
                context.parts.lost(&Part::Datacenters, &error);
                sleep(backoff.wait()).await;
            }
        }
    }
}

async fn ask(
    context: &Context,
    local: &str,
) -> Result<(Vec<String>, BTreeMap<String, Duration>), ConsulError> {
    let names = topology::datacenters(&context.client.get("/v1/catalog/datacenters").await?)?;
    let coordinates = context.client.get("/v1/coordinate/datacenters").await?;
    Ok((names, topology::round_trips(&coordinates, local)?))
}

fn publish(published: &Published, names: Vec<String>, trips: &BTreeMap<String, Duration>, local: &str) {
    published.change(|catalog| {
        catalog.datacenters = datacenters(&catalog.datacenters, names, trips, local);
    });
}

/// The datacenters now.
fn datacenters(
    before: &BTreeMap<String, Datacenter>,
    names: Vec<String>,
    trips: &BTreeMap<String, Duration>,
    local: &str,
) -> BTreeMap<String, Datacenter> {
    let datacenter = |name: String| {
        let trip = if name == local { Some(Duration::ZERO) } else { trips.get(&name).copied() };
        let rtt = settled(before.get(&name).and_then(|known| known.rtt), trip);
        (name, Datacenter { rtt })
    };
    names.into_iter().map(datacenter).collect()
}

/// The latest round trip, or the one before where it differs by less than a tenth or a millisecond.
fn settled(before: Option<Duration>, now: Option<Duration>) -> Option<Duration> {
    let (Some(old), Some(new)) = (before, now) else { return now.or(before) };
    let least = LEAST_CHANGE.max(old / 10);
    Some(if old.abs_diff(new) < least { old } else { new })
}

#[cfg(test)]
mod tests {
    use super::super::metrics::Metrics;
    use super::*;
    use crate::mesh::catalog::Catalog;

    #[test]
    fn a_trembling_round_trip_is_no_change() {
        let ms = |n| Some(Duration::from_millis(n));
        assert_eq!(settled(None, ms(5)), ms(5));
        assert_eq!(settled(ms(50), ms(54)), ms(50));
        assert_eq!(settled(ms(50), ms(55)), ms(55));
        assert_eq!(settled(ms(2), Some(Duration::from_micros(2900))), ms(2));
        assert_eq!(settled(ms(5), None), ms(5), "servers that say nothing for a while are as far as before");
    }

    #[test]
    fn datacenters_come_and_go() {
        let far = Datacenter { rtt: Some(Duration::from_millis(9)) };
        let before = BTreeMap::from([("azure".to_owned(), far.clone()), ("gone".to_owned(), far.clone())]);
        let names = ["aws", "azure", "new"].map(str::to_owned).to_vec();
        let now = datacenters(&before, names, &BTreeMap::new(), "aws");
        assert_eq!(now.keys().collect::<Vec<_>>(), ["aws", "azure", "new"]);
        assert_eq!(now["aws"].rtt, Some(Duration::ZERO));
        assert_eq!(now["azure"], far);
    }

    #[test]
    fn one_that_is_asked_about_and_not_listed_is_a_change_only_once() {
        let metrics = Arc::new(Metrics::register(&prometheus::Registry::new()).unwrap());
        let published = Published::new(Catalog::default(), metrics);
        let mut catalogs = published.subscribe();
        let round = || {
            published.heard("left", false);
            publish(&published, vec!["aws".to_owned()], &BTreeMap::new(), "aws");
        };
        round();
        let catalog = catalogs.borrow_and_update().clone();
        assert!(catalog.unheard.contains("left") && !catalog.datacenters.contains_key("left"));
        round();
        assert!(!catalogs.has_changed().unwrap());
        published.heard("left", true);
        assert!(catalogs.borrow().unheard.is_empty());
    }
}

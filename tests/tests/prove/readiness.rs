//! An edge whose way to the filter module is missing for half a minute heals by itself, on every Envoy.

use std::time::Duration;

use realmgate_tests::readiness::heals;

/// Longer than Envoy remembers a failed fetch (10 s), and than it waits for its first filters (15 s).
const OUTAGE: Duration = Duration::from_secs(30);

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: make prove runs it"]
async fn envoy_1_37_heals() {
    heals(Some("1.37"), OUTAGE).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: make prove runs it"]
async fn envoy_1_38_heals() {
    heals(Some("1.38"), OUTAGE).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: make prove runs it"]
async fn envoy_1_39_heals() {
    heals(Some("1.39"), OUTAGE).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: make prove runs it"]
async fn the_newest_envoy_heals() {
    heals(None, OUTAGE).await;
}

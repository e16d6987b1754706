//! Servers and players who end in every way, for minutes.

use std::time::Duration;

use realmgate_tests::endings;

/// For each version of Envoy.
const TIME: Duration = Duration::from_mins(1);

#[tokio::test(flavor = "multi_thread")]
#[ignore = "takes minutes: make prove runs it"]
async fn endings_spare_the_others_for_a_minute() {
    for version in [None, Some("1.37"), Some("1.38"), Some("1.39")] {
        endings::soak(version, TIME).await;
    }
}

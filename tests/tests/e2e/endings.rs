//! Servers and players who end in every way harm nobody else, on every Envoy: `make prove` goes on for longer.

use std::time::Duration;

use realmgate_tests::endings;

#[tokio::test(flavor = "multi_thread")]
async fn every_end_spares_the_others() {
    endings::soak(None, Duration::ZERO).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_end_spares_the_others_in_envoy_1_37() {
    endings::soak(Some("1.37"), Duration::ZERO).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_end_spares_the_others_in_envoy_1_38() {
    endings::soak(Some("1.38"), Duration::ZERO).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_end_spares_the_others_in_envoy_1_39() {
    endings::soak(Some("1.39"), Duration::ZERO).await;
}

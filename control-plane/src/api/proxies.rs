//! `/v1/proxies`: who is connected, and what each has acknowledged or refused.

use axum::Json;
use axum::extract::State;
use serde::Serialize;

use super::Context;
use crate::xds::ProxyStatus;

/// Answer of `GET /v1/proxies`.
#[derive(Serialize)]
pub(super) struct Proxies {
    proxies: Vec<ProxyStatus>,
}

pub(super) async fn list(State(context): State<Context>) -> Json<Proxies> {
    Json(Proxies { proxies: context.proxies.proxies() })
}

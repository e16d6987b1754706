//! `/v1/proxies`: who is connected, what each has acknowledged or refused, and what is wrong with it.

use axum::Json;
use axum::extract::State;
use serde::Serialize;

use super::Context;
use super::problems::{Problem, problems};
use crate::xds::ProxyStatus;

/// Answer of `GET /v1/proxies`.
#[derive(Serialize)]
pub(super) struct Proxies {
    proxies: Vec<Proxy>,
}

#[derive(Serialize)]
struct Proxy {
    #[serde(flatten)]
    status: ProxyStatus,
    /// Empty while all is well.
    problems: Vec<Problem>,
}

pub(super) async fn list(State(context): State<Context>) -> Json<Proxies> {
    let module = context.module.content();
    let has_routes = context.has_routes();
    let proxies = context.proxies.proxies().into_iter().map(|status| {
        let problems = problems(&status, &module, has_routes(&status.scope));
        Proxy { status, problems }
    });
    Json(Proxies { proxies: proxies.collect() })
}

//! `/v1/proxies`: who is connected, what each has acknowledged or refused, and what is wrong with it.

use axum::extract::State;
use axum::response::Response;
use serde::Serialize;

use super::Context;
use super::error::ApiError;
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

pub(super) async fn list(State(context): State<Context>) -> Result<Response, ApiError> {
    let asked = context.clone();
    let write = move || {
        let module = asked.module.content();
        let has_routes = asked.has_routes();
        let proxies = asked.proxies.proxies().into_iter().map(|status| {
            let problems = problems(&status, &module, has_routes(&status.scope));
            Proxy { status, problems }
        });
        serde_json::to_vec(&Proxies { proxies: proxies.collect() })
    };
    context.written(write).await
}

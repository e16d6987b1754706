//! `/v1/explain`: which route, cluster and endpoints a message gets, and why.

use std::net::IpAddr;

use axum::Json;
use axum::extract::{Query, State};
use axum::http::StatusCode;
use realmgate_wire::ServerId;
use serde::Deserialize;

use super::Context;
use super::error::ApiError;
use crate::compile::{self, Explanation, Question};

/// The header's fields, and where the message comes from.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ExplainQuery {
    pub(super) server_type: u8,
    #[serde(default)]
    pub(super) world: u16,
    #[serde(default)]
    pub(super) instance: u8,
    #[serde(default)]
    pub(super) source_ip: Option<IpAddr>,
    /// Default: the first listener.
    #[serde(default)]
    pub(super) listener: Option<String>,
    /// The edge's. Default: the control plane's.
    #[serde(default)]
    pub(super) datacenter: String,
}

pub(super) async fn explain(
    State(context): State<Context>,
    query: Result<Query<ExplainQuery>, axum::extract::rejection::QueryRejection>,
) -> Result<Json<Explanation>, ApiError> {
    let Query(query) = query.map_err(|e| ApiError::bad_request(e.body_text()))?;
    answer(&context, query).await.map(Json)
}

pub(super) async fn answer(context: &Context, query: ExplainQuery) -> Result<Explanation, ApiError> {
    if query.world > ServerId::MAX_WORLD {
        return Err(ApiError::bad_request(format!("world: {} is above 32767", query.world)));
    }
    let Some(mesh) = context.compiler.compiled().borrow().clone() else {
        return Err(ApiError::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "unavailable",
            "not all sources have been heard yet; /readyz names them",
        ));
    };
    let listener = match query.listener {
        Some(name) if mesh.listeners(&[]).any(|l| l.name == name) => name,
        Some(name) => {
            let message = format!("there is no listener `{name}`");
            return Err(ApiError::new(StatusCode::NOT_FOUND, "not_found", message));
        }
        None => mesh.listeners(&[]).next().map(|l| l.name.clone()).unwrap_or_default(),
    };
    let server_id = ServerId::new(query.server_type, query.world, query.instance, false);
    let question = Question { server_id, listener, source_ip: query.source_ip, datacenter: query.datacenter };
    // All routes of the listener are gone through.
    Ok(context.reading.run(move |_| compile::explain(&mesh, &question)).await?)
}

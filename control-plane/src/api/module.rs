//! `/v1/filter/<sha256>.wasm`: the filter module for proxies that have no file of it.

use axum::body::Body;
use axum::extract::{Path, State};
use axum::http::StatusCode;
use axum::http::header::CONTENT_TYPE;
use axum::response::{IntoResponse, Response};

use super::Context;
use super::error::ApiError;

/// Named by its hash, so that a proxy never gets another module than the one it was told of.
pub(super) async fn download(
    State(context): State<Context>,
    Path(file): Path<String>,
) -> Result<Response, ApiError> {
    let module = context.module.content();
    if module.sha256.is_empty() || file != format!("{}.wasm", module.sha256) {
        let message = format!("no module `{file}` here; the current one is `{}.wasm`", module.sha256);
        return Err(ApiError::new(StatusCode::NOT_FOUND, "not_found", message));
    }
    Ok(([(CONTENT_TYPE, "application/wasm")], Body::from(module.bytes.clone())).into_response())
}

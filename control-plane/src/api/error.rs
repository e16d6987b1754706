//! How the API says no: a status, a stable word, a sentence, and the problems of a document.

use std::fmt;

use axum::Json;
use axum::http::header::RETRY_AFTER;
use axum::http::{HeaderValue, StatusCode, Uri};
use axum::response::{IntoResponse, Response};
use serde::Serialize;
use tonic::Code;

use crate::model::{self, Problem};
use crate::source::policy::{ApplyError, Unfinished};
use crate::source::policy_store::{PutError, Unconfirmed};

/// When what is unavailable may be there again, in seconds.
const RETRY_SECONDS: &str = "2";

/// A refused request.
#[derive(Debug, Serialize)]
pub(super) struct ApiError {
    #[serde(skip)]
    status: StatusCode,
    /// Stable: `invalid_policy`, `empty`, `mass_removal`, `conflict`, `too_large`, `bad_request`, `not_found`, `wrong_host`,
    /// `foreign_origin`, `busy`, `unavailable`, `internal`.
    error: &'static str,
    /// For people.
    message: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    problems: Vec<Problem>,
    /// What would be taken away.
    #[serde(skip_serializing_if = "Option::is_none")]
    mass_removal: Option<Box<Unconfirmed>>,
}

impl ApiError {
    pub(super) fn new(status: StatusCode, error: &'static str, message: impl Into<String>) -> Self {
        Self { status, error, message: message.into(), problems: Vec::new(), mass_removal: None }
    }

    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "bad_request", message)
    }

    pub(super) fn is_too_large(&self) -> bool {
        self.status == StatusCode::PAYLOAD_TOO_LARGE
    }

    /// A body that is longer than any document may be.
    pub(super) fn too_large() -> Self {
        let why = format!("the document has more than {} bytes, which is the most", model::MAX_BYTES);
        Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", why)
    }

    /// A body that could not be read.
    pub(super) fn body(status: StatusCode, why: &str) -> Self {
        if status == StatusCode::PAYLOAD_TOO_LARGE {
            return Self::too_large();
        }
        Self::bad_request(why)
    }

    pub(super) fn invalid_policy(problems: Vec<Problem>) -> Self {
        let message = format!("the policy has {} problem(s); nothing was changed", problems.len());
        let error = if model::is_empty(&problems) { "empty" } else { "invalid_policy" };
        Self { problems, ..Self::new(StatusCode::UNPROCESSABLE_ENTITY, error, message) }
    }

    /// A fault of ours.
    pub(super) fn internal(error: &dyn fmt::Display) -> Self {
        tracing::error!(%error, "cannot answer");
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", error.to_string())
    }

    /// The same may work in a moment.
    pub(super) fn busy(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "busy", message)
    }

    fn unconfirmed(unconfirmed: Unconfirmed) -> Self {
        let message = format!("mass_removal: {unconfirmed}; nothing was changed");
        Self {
            mass_removal: Some(Box::new(unconfirmed)),
            ..Self::new(StatusCode::CONFLICT, "mass_removal", message)
        }
    }
}

impl ApiError {
    /// The same in gRPC's words.
    pub(super) const fn code(&self) -> Code {
        match self.status {
            StatusCode::BAD_REQUEST | StatusCode::UNPROCESSABLE_ENTITY | StatusCode::PAYLOAD_TOO_LARGE => {
                Code::InvalidArgument
            }
            StatusCode::NOT_FOUND => Code::NotFound,
            StatusCode::PRECONDITION_FAILED | StatusCode::CONFLICT => Code::FailedPrecondition,
            StatusCode::SERVICE_UNAVAILABLE => Code::Unavailable,
            _ => Code::Internal,
        }
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)?;
        self.problems.iter().try_for_each(|problem| write!(f, "; {problem}"))
    }
}

impl From<Unfinished> for ApiError {
    fn from(why: Unfinished) -> Self {
        match why {
            Unfinished::Failed => Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", why.to_string()),
            Unfinished::Busy | Unfinished::TooLong | Unfinished::Stopping => Self::busy(why.to_string()),
        }
    }
}

impl From<ApplyError> for ApiError {
    fn from(error: ApplyError) -> Self {
        match error {
            ApplyError::Invalid(problems) => Self::invalid_policy(problems),
            ApplyError::Unfinished(why) => why.into(),
            ApplyError::Store(PutError::Unconfirmed(unconfirmed)) => Self::unconfirmed(unconfirmed),
            ApplyError::Store(error @ PutError::Conflict { .. }) => {
                Self::new(StatusCode::PRECONDITION_FAILED, "conflict", error.to_string())
            }
            ApplyError::Store(error @ PutError::TooLarge { .. }) => {
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", error.to_string())
            }
            ApplyError::Store(PutError::Store(error)) if error.is_unavailable() => {
                tracing::warn!(%error, "cannot store the policy");
                Self::new(StatusCode::SERVICE_UNAVAILABLE, "unavailable", error.to_string())
            }
            ApplyError::Store(error) => {
                tracing::error!(%error, "cannot store the policy");
                Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", error.to_string())
            }
        }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let is_unavailable = self.status == StatusCode::SERVICE_UNAVAILABLE;
        let again = is_unavailable.then_some([(RETRY_AFTER, HeaderValue::from_static(RETRY_SECONDS))]);
        (self.status, again, Json(self)).into_response()
    }
}

pub(super) async fn not_found(uri: Uri) -> ApiError {
    ApiError::new(StatusCode::NOT_FOUND, "not_found", format!("there is nothing at {}", uri.path()))
}

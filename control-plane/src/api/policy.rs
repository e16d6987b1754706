//! `/v1/policy`: read the policy, replace it, or see what replacing it would do.

use std::sync::Arc;

use axum::Json;
use axum::body::Bytes;
use axum::extract::rejection::{BytesRejection, QueryRejection};
use axum::extract::{Query, State};
use axum::http::header::ETAG;
use axum::http::{HeaderMap, HeaderValue, StatusCode};
use axum::response::{IntoResponse, Response};
use serde::{Deserialize, Serialize};

use super::Context;
use super::applied::{self, Applied};
use super::conditions;
use super::error::ApiError;
use crate::model::{self, Duration, Policy};
use crate::source::policy_store::{NewPolicy, Precondition, StoredPolicy, Unconfirmed};

/// Changes that are named in the log.
const MAX_LOGGED: usize = 20;

/// `GET /v1/policy`.
#[derive(Serialize)]
struct Shown<'a> {
    /// From 1; 0 = nothing has been applied yet.
    version: u64,
    etag: &'a str,
    author: &'a str,
    /// Unix seconds.
    updated: u64,
    policy: &'a Policy,
    /// The document as it was given.
    text: &'a str,
    /// Where what our datacenter has differently stands; `policy` has it only if `effective` was asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    overlay: Option<&'a str>,
}

/// Query of `GET /v1/policy`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct ShowQuery {
    /// `policy` as it serves here, with the overlay of our datacenter.
    #[serde(default)]
    effective: bool,
}

/// Query of `PUT /v1/policy`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct PutQuery {
    /// Validate and compare only.
    #[serde(default)]
    dry_run: bool,
    /// Confirms that much is taken away.
    #[serde(default)]
    force: bool,
    /// Who is writing, for the history.
    #[serde(default)]
    author: Option<String>,
    /// Why, for the history.
    #[serde(default)]
    message: String,
    /// `applied`: answer when every connected proxy has acknowledged the policy, or with 202 when the time is
    /// over or one refuses it. The policy is in force all the same.
    #[serde(default)]
    wait: Option<Wait>,
    /// How long to wait at most, up to 60s.
    #[serde(default = "PutQuery::default_timeout")]
    timeout: Duration,
}

impl PutQuery {
    const fn default_timeout() -> Duration {
        Duration::from_secs(5)
    }
}

/// What to wait for.
#[derive(Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Wait {
    Applied,
}

/// Longest wait: a connection that hangs longer is taken for dead by load balancers.
const LONGEST_WAIT: Duration = Duration::from_secs(60);

/// What is asked for.
pub(super) struct Change {
    pub(super) text: String,
    pub(super) dry_run: bool,
    pub(super) forced: bool,
    pub(super) expected: Precondition,
    pub(super) author: Option<String>,
    pub(super) message: String,
}

/// Answer of `PUT /v1/policy`.
#[derive(Serialize)]
pub(super) struct Outcome {
    pub(super) version: u64,
    pub(super) etag: String,
    dry_run: bool,
    pub(super) changed: bool,
    pub(super) changes: Vec<String>,
    /// What it says that nobody should want.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
    /// Why it would have to be confirmed; of a dry run alone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) mass_removal: Option<Unconfirmed>,
    #[serde(skip_serializing_if = "Option::is_none")]
    applied: Option<Applied>,
}

impl Outcome {
    fn of(stored: Option<&StoredPolicy>, changed: bool, differences: Vec<String>, policy: &Policy) -> Self {
        Self {
            version: stored.map_or(0, |s| s.info.version),
            etag: stored.map_or_else(String::new, |s| s.info.etag.clone()),
            dry_run: false,
            changed,
            changes: differences,
            warnings: model::warnings(policy),
            mass_removal: None,
            applied: None,
        }
    }
}

pub(super) async fn show(
    State(context): State<Context>,
    query: Result<Query<ShowQuery>, QueryRejection>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let Query(query) = query.map_err(|e| ApiError::bad_request(e.body_text()))?;
    let current = context.policy.current();
    let stored = current.stored.as_ref();
    let etag = stored.map_or("", |s| &s.info.etag);
    // The etag is of the stored document, and says nothing of an overlay.
    if current.overlay.is_none() && conditions::is_known(&headers, etag)? {
        return Ok((StatusCode::NOT_MODIFIED, etag_header(etag).map(|tag| [(ETAG, tag)]), ()).into_response());
    }
    let tag = etag_header(etag);
    let shown = context.written(move || {
        let stored = current.stored.as_ref();
        serde_json::to_vec(&Shown {
            version: stored.map_or(0, |s| s.info.version),
            etag: stored.map_or("", |s| &s.info.etag),
            author: stored.map_or("", |s| &s.info.author),
            updated: stored.map_or(0, |s| s.info.time),
            policy: if query.effective { &current.policy } else { &current.written },
            text: stored.map_or("", |s| &s.text),
            overlay: current.overlay.as_ref().map(|overlay| overlay.key.as_str()),
        })
    });
    Ok((tag.map(|tag| [(ETAG, tag)]), shown.await?).into_response())
}

pub(super) async fn put(
    State(context): State<Context>,
    query: Result<Query<PutQuery>, QueryRejection>,
    headers: HeaderMap,
    body: Result<Bytes, BytesRejection>,
) -> Result<Response, ApiError> {
    let text = text_of(body.map_err(|e| ApiError::body(e.status(), &e.body_text()))?.into())?;
    let Query(query) = query.map_err(|e| ApiError::bad_request(e.body_text()))?;
    let waits = matches!((query.wait, query.dry_run), (Some(Wait::Applied), false));
    let waiting = if waits { Some(applied::Waiting::enter()?) } else { None };
    let current = context.policy.current();
    let expected = conditions::of_write(&headers, current.stored.as_ref().map_or("", |s| &s.info.etag))?;
    let change = Change {
        text,
        dry_run: query.dry_run,
        forced: query.force,
        expected,
        author: query.author,
        message: query.message,
    };
    let mut answer = self::change(&context, change).await?;
    let mut status = StatusCode::OK;
    if let Some(_waiting) = waiting {
        let policy = Arc::clone(&context.policy.current().policy);
        let applied = applied::wait(&context, &policy, query.timeout.min(LONGEST_WAIT).get()).await;
        if !applied.is_complete() {
            status = StatusCode::ACCEPTED;
        }
        answer.applied = Some(applied);
    }
    let etag = etag_header(&answer.etag);
    Ok((status, etag.map(|tag| [(ETAG, tag)]), Json(answer)).into_response())
}

/// Puts a document in force, or says what that would do.
pub(super) async fn change(context: &Context, change: Change) -> Result<Outcome, ApiError> {
    let answer = if change.dry_run {
        let stored = context.policy.current().stored.clone();
        let would = context.policy.check(change.text).await?;
        Outcome {
            dry_run: true,
            mass_removal: would.unconfirmed.filter(|_| !change.forced),
            ..Outcome::of(stored.as_deref(), would.changed, would.changes, &would.policy)
        }
    } else {
        let author = change.author.unwrap_or_else(|| "api".to_owned());
        let new = NewPolicy { text: change.text, author, message: change.message };
        let applied = if change.forced {
            context.policy.force(new, change.expected).await
        } else {
            context.policy.apply(new, change.expected).await
        }?;
        Outcome::of(Some(&applied.stored), applied.changed, applied.changes, &applied.policy)
    };
    if !answer.dry_run {
        // The answer has them all; a first policy of thousands of services would be a line of its own kind.
        let shown = answer.changes.get(..MAX_LOGGED).unwrap_or(&answer.changes);
        let more = answer.changes.len() - shown.len();
        tracing::info!(version = answer.version, changes = ?shown, more, "policy applied");
    }
    Ok(answer)
}

fn text_of(body: Vec<u8>) -> Result<String, ApiError> {
    String::from_utf8(body).map_err(|error| {
        let at = error.utf8_error().valid_up_to();
        ApiError::bad_request(format!("the document is not UTF-8 from byte {at} on; nothing was changed"))
    })
}

fn etag_header(etag: &str) -> Option<HeaderValue> {
    (!etag.is_empty()).then(|| HeaderValue::from_str(&format!("\"{etag}\"")).ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_text_is_refused_in_the_words_of_the_api() {
        assert_eq!(text_of(b"{}".to_vec()).unwrap(), "{}");
        let error = text_of(b"a: \xff".to_vec()).unwrap_err();
        assert!(error.to_string().contains("not UTF-8 from byte 3"), "{error}");
        let answer = serde_json::to_value(&error).unwrap();
        assert_eq!(answer["error"], "bad_request");
        assert_eq!(error.into_response().status(), StatusCode::BAD_REQUEST);
    }
}

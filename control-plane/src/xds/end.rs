//! How a stream ends: by whom, with which status, and what is told of it.

use bytes::Bytes;
use http::HeaderMap;
use hyper::body::Frame;
use tonic::{Code, Status};

use super::bounds::StreamError;
use super::csds::StatusError;
use super::grpc::MAX_REQUEST_BYTES;
use super::listener::Refusal;
use super::node::NodeError;
use super::request::Malformed;
use super::scope::TooManyScopes;

/// Why a stream ends.
#[derive(Debug, thiserror::Error)]
pub(super) enum End {
    /// All is said.
    #[error("closed")]
    Closed,
    /// The connection broke.
    #[error(transparent)]
    Broken(Status),
    /// The process ends.
    #[error("the control plane is shutting down")]
    Stopping,
    /// We are at fault.
    #[error("the answer could not be made")]
    Internal,
    /// The client is at fault.
    #[error(transparent)]
    Fault(#[from] Fault),
}

/// What a client did, or did not do.
#[derive(Debug, thiserror::Error)]
pub(super) enum Fault {
    #[error("no request within 10 s")]
    Silent,
    #[error("took nothing for 30 s")]
    Stalled,
    #[error("a request of {0} bytes is larger than {MAX_REQUEST_BYTES}")]
    TooLarge(usize),
    #[error("compressed requests are not supported")]
    Compressed,
    #[error("the request ends within a message")]
    CutShort,
    #[error("the request cannot be decoded: {0}")]
    Malformed(#[from] Malformed),
    #[error(transparent)]
    Node(#[from] NodeError),
    #[error(transparent)]
    Credential(#[from] Refusal),
    #[error("not let in any more: {0}")]
    Revoked(Refusal),
    #[error(transparent)]
    Scopes(#[from] TooManyScopes),
    #[error(transparent)]
    Names(#[from] StreamError),
    #[error(transparent)]
    Status(#[from] StatusError),
}

impl Fault {
    /// A short name for metrics and logs.
    pub(super) const fn label(&self) -> &'static str {
        match self {
            Self::Silent => "silent",
            Self::Stalled => "stalled",
            Self::TooLarge(_) => "request_too_large",
            Self::Compressed => "compressed",
            Self::CutShort => "cut_short",
            Self::Malformed(_) => "malformed",
            Self::Node(error) => error.label(),
            Self::Credential(refusal) => refusal.label(),
            Self::Revoked(refusal) => refusal.revoked_label(),
            Self::Scopes(_) => "too_many_scopes",
            Self::Names(error) => error.label(),
            Self::Status(error) => error.label(),
        }
    }

    const fn code(&self) -> Code {
        match self {
            Self::Silent | Self::Stalled => Code::DeadlineExceeded,
            Self::TooLarge(_) | Self::Scopes(_) | Self::Names(_) | Self::Status(StatusError::TooLarge) => {
                Code::ResourceExhausted
            }
            Self::Compressed => Code::Unimplemented,
            Self::CutShort => Code::Internal,
            Self::Malformed(_) | Self::Node(_) | Self::Status(_) => Code::InvalidArgument,
            Self::Credential(refusal) => refusal.code(),
            Self::Revoked(_) => Code::Unauthenticated,
        }
    }
}

impl End {
    pub(super) fn status(&self) -> Status {
        match self {
            Self::Closed => Status::ok(""),
            Self::Broken(status) => status.clone(),
            Self::Stopping => Status::unavailable(self.to_string()),
            Self::Internal => Status::internal(self.to_string()),
            Self::Fault(fault) => Status::new(fault.code(), fault.to_string()),
        }
    }

    /// The last frame of the response.
    pub(super) fn trailers(&self) -> Frame<Bytes> {
        let status = self.status();
        let mut trailers = HeaderMap::new();
        if status.add_header(&mut trailers).is_err() {
            // Its text cannot stand in a header.
            let _ = Status::new(status.code(), "").add_header(&mut trailers);
        }
        Frame::trailers(trailers)
    }
}

//! Answers: refusals in words, as JSON.

use axum::Json;
use axum::response::{IntoResponse, Response};
use http::StatusCode;
use runner_manager_core::store::StoreError;
use serde::Serialize;

/// A request that was not done, and why.
#[derive(Debug)]
pub(crate) struct Refusal {
    status: StatusCode,
    error: String,
}

/// The body of every answer that is a refusal.
#[derive(Debug, Serialize)]
struct ErrorBody<'a> {
    /// What is wrong and what to do.
    error: &'a str,
}

impl Refusal {
    /// A refusal for a reason. The reason is for the one who asked: no secret, nothing about others.
    pub(crate) fn new(status: StatusCode, error: impl Into<String>) -> Self {
        Self { status, error: error.into() }
    }

    pub(crate) const fn status(&self) -> StatusCode {
        self.status
    }

    pub(crate) fn reason(&self) -> &str {
        &self.error
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        (self.status, Json(ErrorBody { error: &self.error })).into_response()
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        tracing::error!(error = &error as &dyn std::error::Error, "the store failed");
        Self::new(StatusCode::SERVICE_UNAVAILABLE, error.to_string())
    }
}

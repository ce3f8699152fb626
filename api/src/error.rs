//! The one error type: every refusal as `application/problem+json` (RFC 9457) with a stable code.

use std::error::Error;

use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use relevo_errors::chain;
use relevo_queue::QueueError;
use relevo_runs::RunError;
use relevo_runs::api_keys::ApiKeyError;
use relevo_runs::backup_requests::DeliverError;
use relevo_runs::console::SessionError;
use serde_json::{Map, Value, json};

/// How soon to come again after "unavailable", in seconds.
const UNAVAILABLE_RETRY_AFTER_SECONDS: u64 = 5;

/// Why a request was refused or failed.
#[derive(Debug)]
pub(crate) struct ApiError {
    status: StatusCode,
    code: &'static str,
    detail: String,
    fields: Map<String, Value>,
    retry_after_seconds: Option<u64>,
    source: Option<Box<dyn Error + Send + Sync>>,
}

impl ApiError {
    /// A refusal with a code that stays the same for ever, and a sentence that says what to do.
    pub(crate) fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        Self {
            status,
            code,
            detail: detail.into(),
            fields: Map::new(),
            retry_after_seconds: None,
            source: None,
        }
    }

    /// Adds a fact for machines.
    pub(crate) fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        self.fields.insert(name.to_owned(), value.into());
        self
    }

    /// Says when to come again.
    pub(crate) fn retry_after(mut self, seconds: u64) -> Self {
        self.retry_after_seconds = Some(seconds);
        self
    }

    /// 400: it cannot be read.
    pub(crate) fn bad_request(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, detail)
    }

    /// 404.
    pub(crate) fn not_found(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, code, detail)
    }

    /// 405.
    pub(crate) fn method_not_allowed() -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "method_not_allowed",
            "this address does not take this method; the header Allow says which it takes",
        )
    }

    /// 409: it does not fit how things stand.
    pub(crate) fn conflict(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::CONFLICT, code, detail)
    }

    /// 422: it can be read but means nothing that can be done.
    pub(crate) fn unprocessable(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::UNPROCESSABLE_ENTITY, code, detail)
    }

    /// 503: come again.
    pub(crate) fn unavailable(code: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, code, detail)
    }

    /// 500: what went wrong goes to the log, under an id that the answer names.
    pub(crate) fn internal(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        let mut error = Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "");
        error.source = Some(source.into());
        error
    }

    /// 503: the control plane's database does not answer; why goes to the log.
    pub(crate) fn database_unavailable(source: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        let mut error = Self::unavailable(
            "database_unavailable",
            "the control plane's database does not answer; nothing is known to have changed",
        );
        error.source = Some(source.into());
        error
    }
}

impl ApiError {
    /// 503: the control plane's database took too long; why goes to the log.
    fn database_busy(source: sqlx::Error) -> Self {
        let mut error = Self::unavailable(
            "database_busy",
            "the control plane's database is busy, or somebody has locked it; nothing is known to have changed",
        );
        error.source = Some(source.into());
        error
    }

    /// The code that stays the same for ever.
    pub(crate) fn code(&self) -> &'static str {
        self.code
    }

    /// Whether coming again may help.
    pub(crate) fn is_unavailable(&self) -> bool {
        self.status == StatusCode::SERVICE_UNAVAILABLE
    }

    /// The problem as it is answered. What went wrong inside goes to the log, under an id that the
    /// problem names.
    pub(crate) fn problem(self) -> Value {
        let mut detail = self.detail;
        if let Some(source) = &self.source {
            let id = format!("{:016x}", rand::random::<u64>());
            tracing::error!(
                error_id = id,
                code = self.code,
                error = chain(source.as_ref()),
                "a request failed"
            );
            if self.status == StatusCode::INTERNAL_SERVER_ERROR {
                detail = format!("something unexpected happened; the log names it as {id}");
            }
        }
        let mut problem = self.fields;
        problem.insert("type".to_owned(), json!(format!("urn:relevo:problem:{}", self.code)));
        problem.insert("title".to_owned(), json!(self.status.canonical_reason().unwrap_or("?")));
        problem.insert("status".to_owned(), json!(self.status.as_u16()));
        problem.insert("code".to_owned(), json!(self.code));
        problem.insert("detail".to_owned(), json!(detail));
        Value::Object(problem)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let status = self.status;
        let retry_after_seconds = self.retry_after_seconds.or_else(|| {
            (status == StatusCode::SERVICE_UNAVAILABLE).then_some(UNAVAILABLE_RETRY_AFTER_SECONDS)
        });
        let mut response = (status, self.problem().to_string()).into_response();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if let Some(seconds) = retry_after_seconds {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if status == StatusCode::UNAUTHORIZED {
            headers.insert(
                header::WWW_AUTHENTICATE,
                HeaderValue::from_static("Bearer realm=\"relevo\""),
            );
        }
        response
    }
}

impl From<sqlx::Error> for ApiError {
    fn from(error: sqlx::Error) -> Self {
        if is_busy(&error) {
            Self::database_busy(error)
        } else if is_unavailable(&error) {
            Self::database_unavailable(error)
        } else {
            Self::internal(error)
        }
    }
}

/// Whether the statement waited too long for a lock (55P03) or took too long (57014).
fn is_busy(error: &sqlx::Error) -> bool {
    let sqlx::Error::Database(error) = error else { return false };
    error.code().is_some_and(|code| ["55P03", "57014"].contains(&code.as_ref()))
}

/// Whether the database could not be reached or is not taking work, as against refusing this one
/// statement: shutting down or starting (class 57P), too many connections (class 53), a lost
/// connection (class 08), a server that only reads (25006).
fn is_unavailable(error: &sqlx::Error) -> bool {
    match error {
        sqlx::Error::Io(_)
        | sqlx::Error::Tls(_)
        | sqlx::Error::PoolTimedOut
        | sqlx::Error::PoolClosed
        | sqlx::Error::WorkerCrashed => true,
        // A server that goes away just when it is asked whether it speaks TLS.
        sqlx::Error::Protocol(text) => text.contains("SSLRequest"),
        sqlx::Error::Database(error) => error.code().is_some_and(|code| {
            ["57P", "53", "08", "25006"].iter().any(|class| code.starts_with(class))
        }),
        _ => false,
    }
}

impl From<QueueError> for ApiError {
    fn from(error: QueueError) -> Self {
        match error {
            QueueError::InvalidJob(reason) => Self::unprocessable("invalid_job", reason),
            QueueError::InvalidLimit(reason) => Self::unprocessable("invalid_limit", reason),
            QueueError::KeyContended { .. } => {
                Self::unavailable("key_contended", error.to_string())
            }
            QueueError::Database(error) => error.into(),
            other => Self::internal(other),
        }
    }
}

impl From<RunError> for ApiError {
    fn from(error: RunError) -> Self {
        match error {
            RunError::AlreadyActive { run } => {
                Self::conflict("run_active", error.to_string()).with("run_id", run.0)
            }
            RunError::NotFound(run) => {
                Self::not_found("run_not_found", error.to_string()).with("run_id", run.0)
            }
            RunError::Ended { run, state } => Self::conflict("run_ended", error.to_string())
                .with("run_id", run.0)
                .with("state", state.as_str()),
            RunError::UploadUnusable { .. } => Self::conflict("upload_unusable", error.to_string()),
            RunError::Database(error) => error.into(),
            RunError::Queue(error) => error.into(),
            other @ (RunError::Randomness(_) | RunError::Uploads(_)) => Self::internal(other),
        }
    }
}

impl From<ApiKeyError> for ApiError {
    fn from(error: ApiKeyError) -> Self {
        match error {
            ApiKeyError::Database(error) => error.into(),
            ApiKeyError::Name | ApiKeyError::NoScope => {
                Self::unprocessable("invalid_body", error.to_string())
            }
            other => Self::internal(other),
        }
    }
}

impl From<SessionError> for ApiError {
    fn from(error: SessionError) -> Self {
        match error {
            SessionError::Database(error) => error.into(),
            other => Self::internal(other),
        }
    }
}

impl From<DeliverError> for ApiError {
    fn from(error: DeliverError) -> Self {
        match error {
            // The request went away between two statements: as if it had never been.
            DeliverError::NotFound(_) => {
                Self::not_found("request_not_found", "no backup request is waiting for this")
            }
            DeliverError::OtherBackup { .. } => Self::conflict("other_backup", error.to_string()),
            DeliverError::Failed(error) => error.into(),
        }
    }
}

//! `/webhook/backup-ready`: the gateway says that a backup is there, or that it failed.
//!
//! The caller has no key. What counts is the token in the path, which only the gateway was told, or
//! on the bare path an id that a waiting request was promised; and the rule that a download must
//! come from the gateway that was asked. Deliveries repeat: the first is recorded durably before it
//! is answered, the others change nothing and get the same answer.

use axum::Json;
use axum::extract::{DefaultBodyLimit, Request, State};
use axum::response::{IntoResponse as _, Response};
use relevo_jobs::JobKind;
use relevo_runs::backup_requests::{
    self, Addressed, Delivered, Delivery, GATEWAY_JOB_ID_CHARS_MAX, Report, check_download_url,
    gateway_time,
};
use relevo_settings::BackupSource;
use secrecy::ExposeSecret as _;
use serde_json::{Map, Value, json};

use crate::app::App;
use crate::error::ApiError;
use crate::extract::{self, Named};
use crate::openapi::schema::{any_object, constant, object, string, word};
use crate::openapi::{Operation, Routes};

/// A delivery is a handful of short fields.
const BODY_BYTES_MAX: usize = 64 * 1_024;

/// With `bare_id` also the address without a token.
pub(super) fn routes(bare_id: bool) -> Routes {
    let secret = Operation::post(
        "/webhook/backup-ready/{token}",
        "deliverBackup",
        "The gateway says that a backup is ready, or failed",
    )
    .describe(
        "The token is the permission: it was made for one request and told to the gateway alone. \
         `job_id` for `backup_id`, `ready` for `completed` and `filesize_mb` for `file_size_mb` \
         mean the same; unknown fields are let pass.",
    );
    let routes = Routes::new("Webhook").add(delivery(secret), with_token);
    let routes = if bare_id {
        let bare_address = Operation::post(
            "/webhook/backup-ready",
            "deliverBackupById",
            "The same, known by the id that the gateway promised",
        );
        routes.add(delivery(bare_address), bare)
    } else {
        routes
    };
    routes.map(|router| router.layer(DefaultBodyLimit::max(BODY_BYTES_MAX)))
}

fn delivery(operation: Operation) -> Operation {
    let outcome = word(["accepted", "repeat", "too_late"]);
    operation
        .uses_database()
        .problem(400, "invalid_path")
        .lenient_body(any_object())
        .answer(
            200,
            "It is durable.",
            object([("ok", constant(true)), ("outcome", outcome), ("message", string())]),
        )
        .problem(404, "request_not_found")
        .problem(409, "other_backup")
        .problem(409, "source_not_configured")
        .problem(422, "invalid_delivery")
        .problem(422, "download_url_refused")
        .problem(503, "connection_unusable")
}

async fn with_token(
    State(app): State<App>,
    Named(token): Named<String>,
    request: Request,
) -> Result<Response, ApiError> {
    // Strangers learn nothing, not even whether what they sent could be read.
    let addressed =
        backup_requests::by_token(&app.pool, &token).await?.ok_or_else(request_not_found)?;
    let body = extract::bytes(request, &app).await?;
    let mut message = Message::parse(&body)?;
    // Gateways echo what they were sent, and the token is a permission.
    message.error = message.error.map(|error| error.replace(&token, "[token]"));
    take(&app, &addressed, message).await
}

async fn bare(State(app): State<App>, request: Request) -> Result<Response, ApiError> {
    let body = extract::bytes(request, &app).await?;
    let message = Message::parse(&body)?;
    let id = message.backup_id.as_deref().ok_or_else(request_not_found)?;
    let addressed =
        backup_requests::by_gateway_job_id(&app.pool, id).await?.ok_or_else(request_not_found)?;
    take(&app, &addressed, message).await
}

fn request_not_found() -> ApiError {
    ApiError::not_found("request_not_found", "no backup request is waiting for this")
}

async fn take(app: &App, addressed: &Addressed, message: Message) -> Result<Response, ApiError> {
    let connections = app.connections();
    let settings = app.settings();
    let source = settings.backup.get(&addressed.source).ok_or_else(|| {
        ApiError::conflict(
            "source_not_configured",
            format!("the source {:?} is not configured any more", addressed.source),
        )
    })?;
    let source = connections.resolve_source(&addressed.source, source).await.map_err(|error| {
        // The gateway may come again; what is wrong with the connection is the operator's to know.
        tracing::error!(
            error = &error as &dyn std::error::Error,
            "a delivery cannot be taken: its source cannot have its connection"
        );
        ApiError::unavailable(
            "connection_unusable",
            format!("a connection of the source {:?} cannot be used now", addressed.source),
        )
    })?;
    let backup_id = message.backup_id.clone();
    let report = match message.report(&source) {
        Ok(report) => report,
        Err(error) => {
            // The operator should see in the run's log what was refused, and why.
            backup_requests::log_refusal(&app.pool, addressed.run_id, &error.reason).await?;
            return Err(ApiError::unprocessable(error.code, error.reason));
        }
    };
    let delivered =
        backup_requests::deliver(&app.queue, addressed.request_id, backup_id.as_deref(), &report)
            .await?;
    let (outcome, message) = match delivered {
        Delivered::Download(job) => {
            count(app, JobKind::DownloadDump);
            tracing::info!(run = addressed.run_id.0, job = job.0, "the webhook delivered a backup");
            ("accepted", "the backup will be fetched")
        }
        Delivered::FollowUp(job) => {
            count(app, JobKind::BackupDeadline);
            tracing::warn!(run = addressed.run_id.0, job = job.0, "the webhook reported a failure");
            ("accepted", "the failure is noted")
        }
        Delivered::Repeat => ("repeat", "this was delivered before"),
        Delivered::TooLate => ("too_late", "nothing waits for this backup any more"),
    };
    Ok(Json(json!({"ok": true, "outcome": outcome, "message": message})).into_response())
}

fn count(app: &App, kind: JobKind) {
    app.count_built_in(kind);
}

/// What a gateway sends, in either spelling. Fields that are not known are let pass: the gateway
/// may learn new ones.
#[derive(Debug, PartialEq)]
struct Message {
    backup_id: Option<String>,
    status: String,
    download_url: Option<String>,
    filename: Option<String>,
    filesize_bytes: Option<i64>,
    filesize_mb: Option<f64>,
    expires_at: Option<String>,
    error: Option<String>,
}

/// Why a message that could be read means nothing that can be done.
struct Refused {
    code: &'static str,
    reason: String,
}

impl Message {
    fn parse(body: &[u8]) -> Result<Self, ApiError> {
        let fields: Map<String, Value> = serde_json::from_slice(body).map_err(|error| {
            ApiError::bad_request("malformed_json", format!("the body is no JSON object: {error}"))
        })?;
        let text = |names: &[&str]| {
            names.iter().find_map(|name| match fields.get(*name)? {
                Value::String(text) if !text.is_empty() => Some(text.clone()),
                Value::Number(number) => Some(number.to_string()),
                _ => None,
            })
        };
        let backup_id = text(&["backup_id", "job_id"]);
        let id_fits = |id: &String| {
            id.chars().count() <= GATEWAY_JOB_ID_CHARS_MAX && !id.chars().any(char::is_control)
        };
        if !backup_id.as_ref().is_none_or(id_fits) {
            return Err(ApiError::unprocessable(
                "invalid_delivery",
                format!(
                    "backup_id has at most {GATEWAY_JOB_ID_CHARS_MAX} characters, none of them a \
                     control character"
                ),
            ));
        }
        Ok(Self {
            backup_id,
            // Words, not names: `READY` is meant as `ready` is.
            status: text(&["status"]).unwrap_or_default().trim().to_ascii_lowercase(),
            download_url: text(&["download_url"]),
            filename: text(&["filename"]),
            filesize_bytes: text(&["filesize", "file_size"]).and_then(|text| text.parse().ok()),
            filesize_mb: text(&["file_size_mb", "filesize_mb"]).and_then(|text| text.parse().ok()),
            expires_at: text(&["expires_at"]),
            error: text(&["error", "message"]),
        })
    }

    /// What the message says about a request of `source`.
    fn report(self, source: &BackupSource) -> Result<Report, Refused> {
        match self.status.as_str() {
            "completed" | "ready" => {}
            "failed" | "error" => {
                let error = self.error.unwrap_or_else(|| "the gateway gave no reason".to_owned());
                let error = error.replace(source.api_key.expose_secret(), "[API key]");
                return Ok(Report::Failed { error });
            }
            other => {
                let other: String = other.chars().take(50).collect();
                return Err(Refused {
                    code: "invalid_delivery",
                    reason: format!("status is completed, ready or failed, not {other:?}"),
                });
            }
        }
        let download_url = self.download_url.ok_or_else(|| Refused {
            code: "invalid_delivery",
            reason: "a completed backup needs a download_url".to_owned(),
        })?;
        check_download_url(&source.gateway_url, &download_url)
            .map_err(|error| Refused { code: "download_url_refused", reason: error.to_string() })?;
        Ok(Report::Completed(Delivery {
            download_url,
            filename: self.filename,
            filesize_bytes: self.filesize_bytes,
            filesize_mb: self.filesize_mb,
            expires_at: self.expires_at.and_then(|text| gateway_time(&text, source.timezone)),
        }))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Message {
        Message::parse(text.as_bytes()).unwrap_or_else(|_| panic!("{text}"))
    }

    #[test]
    fn both_spellings_mean_the_same() {
        let new = parse(
            r#"{"backup_id": "b1", "status": "completed", "download_url": "https://gw/a",
                "expires_at": "2025-08-22 08:51:33", "file_size_mb": 378.61,
                "compression_ratio": "32.8%"}"#,
        );
        let old = parse(
            r#"{"job_id": "b1", "status": "completed", "download_url": "https://gw/a",
                "expires_at": "2025-08-22 08:51:33", "filesize_mb": "378.61"}"#,
        );
        assert_eq!(new, old);
        assert_eq!(new.filesize_mb, Some(378.61));
        assert_eq!(new.filesize_bytes, None);
    }

    #[test]
    fn what_is_no_object_is_refused() {
        for text in ["", "[]", "\"ok\"", "{", "{\"status\": }"] {
            assert!(Message::parse(text.as_bytes()).is_err(), "{text}");
        }
    }
}

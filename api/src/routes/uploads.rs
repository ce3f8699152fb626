//! `/uploads`: dumps that are sent here piece by piece.
//!
//! Announced by POST, appended to by PATCH from the offset that GET or HEAD tells, complete with the
//! last byte: then its run starts, unless its sender wants to start it. A piece that was answered is
//! on the disk; one that was not is asked for by the offset.

use std::io::ErrorKind;

use axum::Json;
use axum::extract::{DefaultBodyLimit, OriginalUri, Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode};
use axum::response::{IntoResponse as _, Response};
use relevo_runs::api_keys::Scope;
use relevo_runs::backup::{BackupMode, StartOptions};
use relevo_runs::control_plane;
use relevo_runs::uploads::{self, AppendError, FILENAME_CHARS_MAX, NewUpload, Store, Upload};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::backups::known_source;
use super::location;
use super::uploads_complete::complete;
use crate::app::App;
use crate::audited::Audited;
use crate::auth::{Caller, Enqueue, Read};
use crate::error::ApiError;
use crate::extract::{self, Body, Named, Params, limit_param, text_param};
use crate::openapi::schema::{
    boolean, count, described, id, input, integer, named, nullable, object, prose, query, string,
    text, time,
};
use crate::openapi::{Operation, Routes, list_of};
use crate::page::{LIMIT_DEFAULT, LIMIT_MAX, page};

/// The largest piece: it is held in memory until it is stored.
const PIECE_BYTES_MAX: usize = 8 << 20;

/// Where a piece begins, and in answers where the next one does.
const OFFSET: HeaderName = HeaderName::from_static("upload-offset");
/// How long the whole will be.
const LENGTH: HeaderName = HeaderName::from_static("upload-length");

pub(super) fn routes() -> Routes {
    let announce = Operation::post("/api/v1/uploads", "createUpload", "Announce a dump")
        .describe(
            "Then send it by PATCH, in pieces of at most 8 MiB. With its last byte its run starts, \
             unless `start` is false; `force` is passed on to it. An upload is given up 24 hours \
             after its last piece.",
        )
        .needs(Scope::Enqueue)
        .body(input(
            [
                ("source", text(1, 100)),
                ("filename", prose(1, FILENAME_CHARS_MAX)),
                ("total_bytes", integer(1, i64::MAX)),
            ],
            [
                ("sha256", described(string(), "Of the whole, 64 hexadecimal digits.")),
                ("start", boolean()),
                ("force", boolean()),
            ],
        ))
        .made(201, "It can be sent.", named("Upload"))
        .problem(404, "source_not_found")
        .problem(422, "invalid_upload")
        .problem(422, "upload_too_large")
        .problem(429, "too_many_uploads")
        .problem(507, "disk_full");
    let listed = Operation::get("/api/v1/uploads", "listUploads", "What is being handed over")
        .describe("An upload goes when its run has ended.")
        .needs(Scope::Read)
        .query([
            query("source", text(0, 500), "Only for this source."),
            query("before", id(), "Only below this id: `next_before` of the page before."),
            query("limit", integer(1, LIMIT_MAX.into()), "How many, 50 by default."),
        ])
        .answer(200, "A page.", list_of("uploads", "Upload"));
    let look = Operation::get("/api/v1/uploads/{id}", "getUpload", "How much of a dump is here")
        .describe("HEAD tells the same in the headers Upload-Offset and Upload-Length.")
        .needs(Scope::Enqueue)
        .answer(200, "The upload.", named("Upload"))
        .problem(404, "upload_not_found");
    let append =
        Operation::new(Method::PATCH, "/api/v1/uploads/{id}", "appendUpload", "Send a piece")
            .describe(
                "The body is the piece, at most 8 MiB; Upload-Offset says where it begins, which \
                 has to be where the last one ended. A piece without a byte, at the end, completes \
                 an upload whose last answer was lost.",
            )
            .needs(Scope::Enqueue)
            .header(json!({
                "name": "Upload-Offset", "in": "header", "required": true,
                "schema": integer(0, i64::MAX),
                "description": "Where the piece begins.",
            }))
            .binary_body()
            .answer(200, "It is stored.", named("Upload"))
            .problem(400, "invalid_offset")
            .problem(404, "upload_not_found")
            .problem(409, "upload_offset")
            .problem(409, "upload_busy")
            .problem(409, "upload_complete")
            .problem(409, "source_not_configured")
            .problem(422, "upload_too_long")
            .problem(422, "checksum_mismatch")
            .problem(507, "disk_full");
    let discard =
        Operation::new(Method::DELETE, "/api/v1/uploads/{id}", "deleteUpload", "Give an upload up")
            .needs(Scope::Enqueue)
            .empty(204, "It is gone.")
            .problem(404, "upload_not_found");
    Routes::new("Uploads")
        .add(listed, list)
        .add(announce, create)
        .add(look, show)
        .add(append, append_piece)
        .add(discard, delete)
        .map(|router| router.layer(DefaultBodyLimit::max(PIECE_BYTES_MAX)))
}

/// An upload as it is answered.
pub(crate) fn upload_schema() -> Value {
    object([
        ("id", id()),
        ("source", string()),
        ("filename", string()),
        ("total_bytes", count()),
        ("received_bytes", count()),
        ("created_at", time()),
        ("expires_at", described(time(), "When it is given up unless more of it arrives.")),
        ("completed_at", nullable(time())),
        ("run_id", described(nullable(id()), "The run that loads it.")),
        ("message", described(nullable(string()), "Why its run could not be started.")),
    ])
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Announcement {
    source: String,
    filename: String,
    total_bytes: i64,
    sha256: Option<String>,
    #[serde(default = "yes")]
    start: bool,
    #[serde(default)]
    force: bool,
}

const fn yes() -> bool {
    true
}

async fn create(
    caller: Caller<Enqueue>,
    State(app): State<App>,
    Body(wanted): Body<Announcement>,
) -> Result<Response, ApiError> {
    let actor = caller.actor();
    let source = known_source(&app, &wanted.source)?;
    let fits = |name: &str| {
        (1..=FILENAME_CHARS_MAX).contains(&name.chars().count())
            && !name.chars().any(|c| c.is_control() || c == '/')
    };
    if !fits(&wanted.filename) {
        return Err(invalid(format!(
            "filename has 1 to {FILENAME_CHARS_MAX} characters, no slash and no control character \
             among them"
        )));
    }
    let total_bytes = u64::try_from(wanted.total_bytes).unwrap_or(0);
    if total_bytes == 0 {
        return Err(invalid("total_bytes is at least 1".to_owned()));
    }
    if total_bytes > source.upload_max_mb << 20 {
        return Err(ApiError::unprocessable(
            "upload_too_large",
            format!(
                "a dump for this source has at most {} MB (upload_max_mb)",
                source.upload_max_mb
            ),
        ));
    }
    let sha256 = wanted.sha256.as_deref().map(digest).transpose()?;
    let store = store(&app).await?;
    let preparing = store.clone();
    blocking(move || preparing.prepare(total_bytes)).await?.map_err(|error| disk(&app, error))?;
    let options = StartOptions { mode: BackupMode::Auto, force: wanted.force, upload: None };
    let options = if wanted.start { json!(options) } else { json!({}) };
    let new = NewUpload {
        source: wanted.source,
        filename: wanted.filename,
        total_bytes: wanted.total_bytes,
        sha256,
        options,
        created_by: actor.label(),
    };
    let mut audited = Audited::begin(&app, actor).await?;
    let Some(upload) = uploads::create_in(&mut audited.tx, &new).await? else {
        return Err(ApiError::new(
            StatusCode::TOO_MANY_REQUESTS,
            "too_many_uploads",
            format!("{} uploads are under way; finish or delete some", uploads::OPEN_MAX),
        )
        .retry_after(60));
    };
    // A control plane that was restored gives numbers out again whose files may lie here still.
    blocking(move || store.remove(upload.id)).await?.map_err(ApiError::internal)?;
    let object = upload.id.to_string();
    audited.commit("upload.create", &object, None, Some(json!(upload))).await?;
    let shown = Json(Shown::of(&upload, 0));
    Ok((StatusCode::CREATED, location("uploads", upload.id), shown).into_response())
}

async fn show(
    _: Caller<Enqueue>,
    State(app): State<App>,
    Named(id): Named<i64>,
) -> Result<Response, ApiError> {
    let (upload, store) = (found(&app, id).await?, store(&app).await?);
    let measured = blocking(move || received_bytes(&store, &upload).map(|bytes| (upload, bytes)));
    let (upload, received) = measured.await?.map_err(ApiError::internal)?;
    Ok(answer(&upload, received, None))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct UploadParams {
    source: Option<String>,
    before: Option<i64>,
    limit: Option<u16>,
}

async fn list(
    _: Caller<Read>,
    State(app): State<App>,
    OriginalUri(uri): OriginalUri,
    Params(params): Params<UploadParams>,
) -> Result<Response, ApiError> {
    let limit = limit_param(params.limit, LIMIT_DEFAULT, LIMIT_MAX)?;
    let source = text_param("source", params.source)?;
    let found = newest(&app, source.as_deref(), params.before, limit).await?;
    let shown: Vec<Shown<'_>> =
        found.iter().map(|(upload, received)| Shown::of(upload, *received)).collect();
    Ok(page(&uri, "uploads", &shown, limit, |shown| shown.upload.id))
}

/// A page of uploads, each with how much of it has arrived.
pub(crate) async fn newest(
    app: &App,
    source: Option<&str>,
    before: Option<i64>,
    limit: u16,
) -> Result<Vec<(Upload, u64)>, ApiError> {
    let store = store(app).await?;
    let uploads = uploads::list(&app.pool, source, before, limit).await?;
    let measured = blocking(move || {
        let measured = uploads.into_iter().map(|upload| {
            let received = received_bytes(&store, &upload)?;
            Ok((upload, received))
        });
        measured.collect::<std::io::Result<_>>()
    });
    measured.await?.map_err(ApiError::internal)
}

/// How much of an upload has arrived. Blocks.
fn received_bytes(store: &Store, upload: &Upload) -> std::io::Result<u64> {
    // Its file goes with its run.
    if upload.run_id.is_some() {
        return Ok(u64::try_from(upload.total_bytes).unwrap_or(0));
    }
    store.received_bytes(upload.id)
}

async fn append_piece(
    caller: Caller<Enqueue>,
    State(app): State<App>,
    Named(id): Named<i64>,
    request: Request,
) -> Result<Response, ApiError> {
    let actor = caller.actor();
    let upload = found(&app, id).await?;
    let offset = offset(request.headers())?;
    let total_bytes = u64::try_from(upload.total_bytes).unwrap_or(0);
    let piece = extract::bytes(request, &app).await?;
    if upload.completed_at.is_some() {
        if offset == total_bytes && piece.is_empty() {
            return Ok(answer(&upload, total_bytes, None));
        }
        return Err(ApiError::conflict("upload_complete", "all of it is there"));
    }
    let store = store(&app).await?;
    let appending = store.clone();
    let appended = blocking(move || appending.append(id, offset, &piece, total_bytes)).await?;
    let received = appended.map_err(|error| match error {
        AppendError::Offset { received_bytes } => {
            ApiError::conflict("upload_offset", error.to_string())
                .with("received_bytes", received_bytes)
        }
        AppendError::Busy => ApiError::conflict("upload_busy", error.to_string()),
        AppendError::TooLong => ApiError::unprocessable("upload_too_long", error.to_string()),
        AppendError::Disk(error) => disk(&app, error),
    })?;
    if received < total_bytes {
        uploads::touch(&app.pool, id).await?;
        return Ok(answer(&upload, received, None));
    }
    let (upload, message) = complete(&app, actor, upload, store).await?;
    Ok(answer(&upload, received, message.as_deref()))
}

async fn delete(
    caller: Caller<Enqueue>,
    State(app): State<App>,
    Named(id): Named<i64>,
) -> Result<Response, ApiError> {
    let mut audited = Audited::begin(&app, caller.actor()).await?;
    if !uploads::delete_in(&mut audited.tx, id).await? {
        return Err(not_found());
    }
    audited.commit("upload.delete", &id.to_string(), None, None).await?;
    let store = store(&app).await?;
    // Should this fail, the next sweep does it.
    blocking(move || store.remove(id)).await?.map_err(ApiError::internal)?;
    Ok(StatusCode::NO_CONTENT.into_response())
}

/// An upload that is there.
pub(super) async fn found(app: &App, id: i64) -> Result<Upload, ApiError> {
    uploads::get(&app.pool, id).await?.ok_or_else(not_found)
}

fn not_found() -> ApiError {
    ApiError::not_found(
        "upload_not_found",
        "there is no such upload, or it has expired or was loaded",
    )
}

fn invalid(reason: String) -> ApiError {
    ApiError::unprocessable("invalid_upload", reason)
}

/// The disk's refusals.
fn disk(app: &App, error: std::io::Error) -> ApiError {
    if error.kind() != ErrorKind::StorageFull {
        return ApiError::internal(error);
    }
    ApiError::new(
        StatusCode::INSUFFICIENT_STORAGE,
        "disk_full",
        format!("there is too little room in the chunk store {}", app.settings().chunk_store.url),
    )
}

fn digest(text: &str) -> Result<[u8; 32], ApiError> {
    let wrong = || invalid("sha256 has 64 hexadecimal digits".to_owned());
    if text.len() != 64 || !text.is_ascii() {
        return Err(wrong());
    }
    let mut digest = [0; 32];
    for (byte, pair) in digest.iter_mut().zip(text.as_bytes().chunks(2)) {
        let pair = std::str::from_utf8(pair).map_err(|_| wrong())?;
        *byte = u8::from_str_radix(pair, 16).map_err(|_| wrong())?;
    }
    Ok(digest)
}

fn offset(headers: &HeaderMap) -> Result<u64, ApiError> {
    let value = headers.get(&OFFSET).and_then(|value| value.to_str().ok());
    value.and_then(|value| value.trim().parse().ok()).ok_or_else(|| {
        ApiError::bad_request(
            "invalid_offset",
            "the header Upload-Offset says at which byte the piece begins",
        )
    })
}

/// The files of uploads.
async fn store(app: &App) -> Result<Store, ApiError> {
    let identity = control_plane::identity(&app.pool).await?;
    Store::at(&app.settings().chunk_store.url, &identity.cluster_id)
        .ok_or_else(|| ApiError::internal(std::io::Error::other("chunk_store.url names no folder")))
}

/// Work that blocks, beside the requests.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T, ApiError> {
    tokio::task::spawn_blocking(work).await.map_err(ApiError::internal)
}

/// An upload as it is answered.
#[derive(Serialize)]
struct Shown<'a> {
    #[serde(flatten)]
    upload: &'a Upload,
    received_bytes: u64,
    /// Why its run could not be started.
    message: Option<&'a str>,
}

impl<'a> Shown<'a> {
    fn of(upload: &'a Upload, received_bytes: u64) -> Self {
        Self { upload, received_bytes, message: None }
    }
}

/// The upload, with the headers that HEAD shows.
fn answer(upload: &Upload, received_bytes: u64, message: Option<&str>) -> Response {
    let number = |n: u64| HeaderValue::from(n);
    let total_bytes = u64::try_from(upload.total_bytes).unwrap_or(0);
    let headers = [(OFFSET, number(received_bytes)), (LENGTH, number(total_bytes))];
    let shown = Shown { message, ..Shown::of(upload, received_bytes) };
    (headers, Json(shown)).into_response()
}

//! `POST /jobs` and `POST /jobs/batch`: enqueueing, one job or many.

use std::collections::BTreeSet;
use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode};
use axum::response::{IntoResponse as _, Response};
use chrono::{DateTime, Datelike as _, Utc};
use relevo_queue::{Enqueued, NewJob, OnDead, QueueError, UniqueScope};
use relevo_runs::api_keys::Scope;
use relevo_runs::{KindBook, PayloadError};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use serde_json::value::RawValue;
use sqlx::Acquire as _;

use super::{kinds, location};
use crate::app::App;
use crate::auth::{Caller, Enqueue, missing_scope};
use crate::error::ApiError;
use crate::extract::{self, Body};
use crate::limits::DepthLimit;
use crate::openapi::schema::{array, count, header, input, named, object, string, text};
use crate::openapi::{Operation, Routes};

/// How long a repeated idempotency key is recognised.
const IDEMPOTENCY_TTL: Duration = Duration::from_secs(24 * 3_600);
/// Set in front of callers' keys, so that none can meet a key of Relevo's own jobs.
const KEY_PREFIX: &str = "api/";
/// Jobs in one request.
const BATCH_JOBS_MAX: usize = 1_000;

pub(super) fn routes() -> Routes {
    let trace = || {
        let words = "W3C trace context, stored with the job; one that is malformed is ignored.";
        header("traceparent", string(), words)
    };
    let single = Operation::post("/api/v1/jobs", "enqueueJob", "Enqueue a job")
        .describe(
            "The job is durable when this is answered. `duplicate` means that an earlier job with \
             the same key was found, and nothing enqueued. The steps of runs and notifications \
             are Relevo's own: enqueueing one by hand needs the scope `operate` too, see `/kinds`. \
             Kinds that workers brought along are known from the start of the first such worker; \
             their payloads are checked by the schema that it published.",
        )
        .needs(Scope::Enqueue)
        .header(header("Idempotency-Key", text(1, 400), "As the field idempotency_key."))
        .header(trace())
        .body(named("NewJob"))
        .made(202, "Taken.", named("Enqueued"))
        .problem(400, "invalid_header")
        .problem(422, "unknown_kind")
        .problem(422, "invalid_payload")
        .problem(422, "invalid_job")
        .problem(429, "queue_full")
        .problem(503, "key_contended");
    let mut jobs = array(named("NewJob"));
    jobs["minItems"] = 1.into();
    jobs["maxItems"] = BATCH_JOBS_MAX.into();
    let batch = Operation::post("/api/v1/jobs/batch", "enqueueJobs", "Enqueue many jobs")
        .describe(
            "Every job is taken or refused by itself; those taken become durable together. \
             `results` has one entry per job, in their order. Look at `refused`: the status is \
             202 whatever became of the single jobs. Kinds that need the scope `operate` need it \
             here too.",
        )
        .needs(Scope::Enqueue)
        .header(trace())
        .body(input([("jobs", jobs)], []))
        .answer(
            202,
            "What became of each.",
            object([
                ("accepted", count()),
                ("refused", count()),
                ("results", array(named("EnqueueResult"))),
            ]),
        )
        .problem(422, "too_many_jobs")
        .problem(503, "key_contended");
    Routes::new("Jobs").add(single, enqueue).add(batch, enqueue_batch)
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EnqueueBody {
    kind: String,
    #[serde(default)]
    payload: Option<Box<RawValue>>,
    #[serde(default)]
    queue: Option<String>,
    #[serde(default)]
    priority: Option<i16>,
    #[serde(default)]
    run_at: Option<DateTime<Utc>>,
    #[serde(default)]
    delay_seconds: Option<u64>,
    #[serde(default)]
    idempotency_key: Option<String>,
    #[serde(default)]
    unique_key: Option<String>,
    #[serde(default)]
    unique_until: Option<UniqueScope>,
    #[serde(default)]
    ordering_key: Option<String>,
    #[serde(default)]
    on_dead: Option<OnDead>,
    #[serde(default)]
    limit_key: Option<String>,
}

async fn enqueue(
    caller: Caller<Enqueue>,
    State(app): State<App>,
    headers: HeaderMap,
    Body(mut body): Body<EnqueueBody>,
) -> Result<Response, ApiError> {
    body.idempotency_key = idempotency_key(body.idempotency_key.take(), &headers)?;
    let kinds = app.kinds.book_for(&body.kind).await?;
    let job = new_job(&caller, &kinds, body)?;
    app.depth_limit.check(&app.pool, &job.queue, app.settings().api.queue_depth_max).await?;
    let (queue, kind) = (job.queue.clone(), job.kind.clone());
    let enqueued = app.gathered.enqueue(job).await?;
    app.log_enqueued(&kind, enqueued.id, enqueued.duplicate);
    if !enqueued.duplicate {
        app.count_enqueued(&queue, &kind, kinds::queue_of(&kinds, &kind));
    }
    Ok((StatusCode::ACCEPTED, location("jobs", enqueued.id.0), Json(enqueued)).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BatchBody {
    jobs: Vec<Box<RawValue>>,
}

/// What became of one job of a batch.
#[derive(Serialize)]
#[serde(untagged)]
enum EnqueueResult {
    Taken(Enqueued),
    Refused { problem: Value },
}

#[derive(Serialize)]
struct BatchAnswer {
    accepted: usize,
    refused: usize,
    results: Vec<EnqueueResult>,
}

async fn enqueue_batch(
    caller: Caller<Enqueue>,
    State(app): State<App>,
    Body(body): Body<BatchBody>,
) -> Result<Response, ApiError> {
    if !(1..=BATCH_JOBS_MAX).contains(&body.jobs.len()) {
        return Err(ApiError::unprocessable(
            "too_many_jobs",
            format!("jobs has 1 to {BATCH_JOBS_MAX} entries, not {}", body.jobs.len()),
        ));
    }
    let kinds = app.kinds.book().await?;
    let read = |text: &RawValue| new_job(&caller, &kinds, extract::parse(text.get().as_bytes())?);
    let read: Vec<Result<NewJob, ApiError>> = body.jobs.iter().map(|text| read(text)).collect();
    let read = refuse_full_queues(&app, read).await?;
    let results = enqueue_all(&app, &kinds, read).await?;
    let accepted =
        results.iter().filter(|result| matches!(result, EnqueueResult::Taken(_))).count();
    let refused = results.len() - accepted;
    tracing::debug!(accepted, refused, "jobs enqueued over HTTP");
    Ok((StatusCode::ACCEPTED, Json(BatchAnswer { accepted, refused, results })).into_response())
}

async fn refuse_full_queues(
    app: &App,
    mut jobs: Vec<Result<NewJob, ApiError>>,
) -> Result<Vec<Result<NewJob, ApiError>>, ApiError> {
    let queues: BTreeSet<String> = jobs.iter().flatten().map(|job| job.queue.clone()).collect();
    let depth_max = app.settings().api.queue_depth_max;
    for queue in queues {
        if !app.depth_limit.is_full(&app.pool, &queue, depth_max).await? {
            continue;
        }
        for job in &mut jobs {
            if job.as_ref().is_ok_and(|job| job.queue == queue) {
                *job = Err(DepthLimit::refusal(depth_max));
            }
        }
    }
    Ok(jobs)
}

/// Enqueues what was read, in bulk; when the queue finds fault with some job, one by one in one
/// transaction, so that the others are not refused with it.
async fn enqueue_all(
    app: &App,
    kinds: &KindBook,
    read: Vec<Result<NewJob, ApiError>>,
) -> Result<Vec<EnqueueResult>, ApiError> {
    let fit: Vec<NewJob> = read.iter().flatten().cloned().collect();
    let enqueued = match app.queue.enqueue_many(&fit).await {
        Ok(enqueued) => enqueued.into_iter().map(Ok).collect(),
        Err(QueueError::InvalidJob(_)) => enqueue_each(app, &fit).await?,
        Err(error) => return Err(error.into()),
    };
    for (job, enqueued) in fit.iter().zip(&enqueued) {
        if let Ok(Enqueued { duplicate: false, .. }) = enqueued {
            app.count_enqueued(&job.queue, &job.kind, kinds::queue_of(kinds, &job.kind));
        }
    }
    let mut enqueued = enqueued.into_iter();
    let mut results = Vec::with_capacity(read.len());
    for read in read {
        // One answer per job that was fit.
        let result = match read {
            Ok(_) => match enqueued.next() {
                Some(result) => result,
                None => return Err(ApiError::internal("an enqueue answered for too few jobs")),
            },
            Err(error) => Err(error),
        };
        results.push(match result {
            Ok(enqueued) => EnqueueResult::Taken(enqueued),
            Err(error) => EnqueueResult::Refused { problem: error.problem() },
        });
    }
    Ok(results)
}

async fn enqueue_each(
    app: &App,
    jobs: &[NewJob],
) -> Result<Vec<Result<Enqueued, ApiError>>, ApiError> {
    let mut tx = app.pool.begin().await?;
    let mut results = Vec::with_capacity(jobs.len());
    for job in jobs {
        let mut savepoint = tx.begin().await?;
        match app.queue.enqueue_in(&mut savepoint, std::slice::from_ref(job)).await {
            Ok(enqueued) => {
                savepoint.commit().await?;
                results.extend(enqueued.into_iter().map(Ok));
            }
            Err(error @ QueueError::InvalidJob(_)) => {
                savepoint.rollback().await?;
                results.push(Err(error.into()));
            }
            Err(error) => return Err(error.into()),
        }
    }
    tx.commit().await?;
    Ok(results)
}

fn new_job(
    caller: &Caller<Enqueue>,
    kinds: &KindBook,
    body: EnqueueBody,
) -> Result<NewJob, ApiError> {
    // A step of a run steers it, whoever started it.
    let scope = kinds::scope_of(kinds, &body.kind);
    if !caller.key.allows(scope) {
        return Err(missing_scope(&format!("a job of the kind {}", body.kind), scope));
    }
    let empty = RawValue::from_string("{}".to_owned()).map_err(ApiError::internal)?;
    let payload = body.payload.unwrap_or(empty);
    let mut job = kinds.job(&body.kind, &payload).map_err(refuse_payload)?;
    if let Some(queue) = body.queue {
        job = job.queue(queue);
    }
    if let Some(priority) = body.priority {
        job = job.priority(priority);
    }
    match (body.run_at, body.delay_seconds) {
        (Some(_), Some(_)) => {
            return Err(ApiError::unprocessable(
                "invalid_body",
                "give run_at or delay_seconds, not both",
            ));
        }
        (Some(run_at), None) => {
            if !(2_000..=2_999).contains(&run_at.year()) {
                return Err(ApiError::unprocessable(
                    "invalid_body",
                    "run_at lies between the years 2000 and 2999",
                ));
            }
            job = job.run_at(run_at);
        }
        (None, Some(seconds)) => job = job.delay(Duration::from_secs(seconds)),
        (None, None) => {}
    }
    if let Some(key) = body.idempotency_key {
        job = job.idempotency_key(own_key("idempotency_key", &key)?, IDEMPOTENCY_TTL);
    }
    match (body.unique_key, body.unique_until) {
        (Some(key), until) => {
            job = job.unique(own_key("unique_key", &key)?, until.unwrap_or(UniqueScope::Finished));
        }
        (None, Some(_)) => {
            return Err(ApiError::unprocessable(
                "invalid_body",
                "unique_until says how long unique_key holds: give both",
            ));
        }
        (None, None) => {}
    }
    match (body.ordering_key, body.on_dead) {
        (Some(key), policy) => job = job.ordering_key(key, policy.unwrap_or(OnDead::Block)),
        (None, Some(_)) => {
            return Err(ApiError::unprocessable(
                "invalid_body",
                "on_dead says what becomes of the jobs behind ordering_key: give both",
            ));
        }
        (None, None) => {}
    }
    if let Some(limit) = body.limit_key {
        job = job.limit_key(limit);
    }
    Ok(job)
}

pub(super) fn refuse_payload(error: PayloadError) -> ApiError {
    match error {
        PayloadError::UnknownKind(unknown) => {
            ApiError::unprocessable("unknown_kind", unknown.to_string())
                .with("nearest", unknown.nearest)
        }
        PayloadError::Invalid { ref kind, .. } => {
            ApiError::unprocessable("invalid_payload", error.to_string())
                .with("kind", kind.as_str())
        }
    }
}

/// The key from the body or from the header `Idempotency-Key`; where both are given they must agree.
fn idempotency_key(body: Option<String>, headers: &HeaderMap) -> Result<Option<String>, ApiError> {
    let Some(header) = headers.get("idempotency-key") else { return Ok(body) };
    let header = header.to_str().map_err(|_| {
        ApiError::bad_request("invalid_header", "Idempotency-Key is not plain ASCII text")
    })?;
    match body {
        Some(body) if body != header => Err(ApiError::unprocessable(
            "invalid_body",
            "idempotency_key and the header Idempotency-Key differ",
        )),
        _ => Ok(Some(header.to_owned())),
    }
}

fn own_key(name: &str, key: &str) -> Result<String, ApiError> {
    let length_fits = (1..=400).contains(&key.chars().count());
    if length_fits && !key.chars().any(char::is_control) {
        return Ok(format!("{KEY_PREFIX}{key}"));
    }
    Err(ApiError::unprocessable(
        "invalid_body",
        format!("{name} has 1 to 400 characters, none of them a control character"),
    ))
}

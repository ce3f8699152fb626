//! `/dead-letters/retry` and `/dead-letters/discard`: all that match a filter, counted first.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use relevo_queue::{JobFilter, JobId, Queue, QueueError};
use relevo_runs::api_keys::Scope;
use relevo_runs::audit::Actor;
use serde::Deserialize;
use serde_json::json;
use sqlx::PgConnection;

use crate::app::App;
use crate::audited::Audited;
use crate::auth::{Caller, Operate};
use crate::error::ApiError;
use crate::extract::{Body, Params, text_param};
use crate::openapi::schema::{
    array, boolean, count, id, input, integer, nullable, object, query, text,
};
use crate::openapi::{Operation, Routes};

/// Jobs that one request may act on: it is one transaction.
pub(crate) const JOBS_MAX: u32 = 10_000;

pub(super) fn routes() -> Routes {
    let described = |operation: Operation| {
        operation
            .describe(
                "First with `dry_run=true`: `matching` says how many there are. Then with that \
                 number as `expected`: when another number matches by now, 409 `count_differs` \
                 and nothing is changed. At most 10,000 at once.",
            )
            .needs(Scope::Operate)
            .query([query("dry_run", boolean(), "Only count.")])
            .body(body())
            .answer(
                200,
                "Counted, or done: those of `changed` were, the others are still dead letters \
                 because another job holds their unique key.",
                object([("dry_run", boolean()), ("matching", count()), ("changed", count())]),
            )
            .problem(409, "count_differs")
            .problem(422, "expected_missing")
            .problem(422, "too_many_jobs")
    };
    let retried = described(Operation::post(
        "/api/v1/dead-letters/retry",
        "retryDeadLetters",
        "Run all matching dead letters again",
    ));
    let discarded = described(Operation::post(
        "/api/v1/dead-letters/discard",
        "discardDeadLetters",
        "Give all matching dead letters up for good",
    ));
    Routes::new("Dead letters").add(retried, retry).add(discarded, discard)
}

fn body() -> serde_json::Value {
    let mut kinds = array(text(1, 100));
    kinds["maxItems"] = 100.into();
    let filter = input(
        [],
        [
            ("kinds", kinds),
            ("queue", nullable(text(1, 100))),
            ("run_id", nullable(id())),
            ("before", nullable(id())),
        ],
    );
    input([("filter", filter)], [("expected", nullable(integer(0, JOBS_MAX.into())))])
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BulkParams {
    #[serde(default)]
    dry_run: bool,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BulkBody {
    filter: BulkFilter,
    #[serde(default)]
    expected: Option<u32>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct BulkFilter {
    #[serde(default)]
    kinds: Vec<String>,
    #[serde(default)]
    queue: Option<String>,
    #[serde(default)]
    run_id: Option<i64>,
    #[serde(default)]
    before: Option<i64>,
}

impl BulkFilter {
    fn read(self) -> Result<JobFilter, ApiError> {
        let name = |field: &str, name: Option<String>| {
            let fits = |name: &String| (1..=100).contains(&name.chars().count());
            match text_param(field, name) {
                Ok(name) if name.as_ref().is_none_or(fits) => Ok(name),
                _ => Err(ApiError::unprocessable(
                    "invalid_body",
                    format!(
                        "filter.{field}: a name has 1 to 100 characters, none of them a control \
                         character"
                    ),
                )),
            }
        };
        if self.kinds.len() > 100 {
            return Err(ApiError::unprocessable("invalid_body", "filter.kinds: at most 100"));
        }
        let kinds = self.kinds.into_iter().map(|kind| name("kinds", Some(kind)));
        Ok(JobFilter {
            kinds: kinds.filter_map(Result::transpose).collect::<Result<_, _>>()?,
            queue: name("queue", self.queue)?,
            run_id: self.run_id,
            before: self.before.map(JobId),
            ..JobFilter::default()
        })
    }
}

/// What is done to the locked dead letters.
pub(crate) trait Act {
    /// Its name in the audit log.
    const ACTION: &'static str;

    /// Does it; answers to how many.
    fn act(
        queue: &Queue,
        tx: &mut PgConnection,
        ids: &[JobId],
        by: &str,
    ) -> impl Future<Output = Result<u64, QueueError>> + Send;
}

/// They go back to work.
pub(crate) struct Retry;

impl Act for Retry {
    const ACTION: &'static str = "dead_letter.retry_many";

    async fn act(
        queue: &Queue,
        tx: &mut PgConnection,
        ids: &[JobId],
        _by: &str,
    ) -> Result<u64, QueueError> {
        queue.retry_dead_in(tx, ids).await
    }
}

/// They are given up for good.
pub(crate) struct Discard;

impl Act for Discard {
    const ACTION: &'static str = "dead_letter.discard_many";

    async fn act(
        queue: &Queue,
        tx: &mut PgConnection,
        ids: &[JobId],
        by: &str,
    ) -> Result<u64, QueueError> {
        queue.discard_many_dead_in(tx, ids, &format!("discarded by {by}")).await
    }
}

async fn retry(
    caller: Caller<Operate>,
    State(app): State<App>,
    Params(params): Params<BulkParams>,
    Body(body): Body<BulkBody>,
) -> Result<Response, ApiError> {
    run::<Retry>(&caller, &app, &params, body).await
}

async fn discard(
    caller: Caller<Operate>,
    State(app): State<App>,
    Params(params): Params<BulkParams>,
    Body(body): Body<BulkBody>,
) -> Result<Response, ApiError> {
    run::<Discard>(&caller, &app, &params, body).await
}

async fn run<A: Act>(
    caller: &Caller<Operate>,
    app: &App,
    params: &BulkParams,
    body: BulkBody,
) -> Result<Response, ApiError> {
    if body.expected.is_some_and(|expected| expected > JOBS_MAX) {
        return Err(ApiError::unprocessable(
            "invalid_body",
            format!("expected is at most {JOBS_MAX}"),
        ));
    }
    let filter = body.filter.read()?;
    if params.dry_run {
        let matching = app.queue.count_dead(&filter).await?;
        let answer = json!({"dry_run": true, "matching": matching, "changed": 0});
        return Ok(Json(answer).into_response());
    }
    let Some(expected) = body.expected else {
        return Err(ApiError::unprocessable(
            "expected_missing",
            "ask with ?dry_run=true first, then say in expected how many are meant",
        ));
    };
    let (matching, changed) = act_on_matching::<A>(app, caller.actor(), &filter, expected).await?;
    let answer = json!({"dry_run": false, "matching": matching, "changed": changed});
    Ok(Json(answer).into_response())
}

/// Does it to all that match, provided that they are as many as expected: how many matched, and how
/// many it was done to.
pub(crate) async fn act_on_matching<A: Act>(
    app: &App,
    actor: Actor,
    filter: &JobFilter,
    expected: u32,
) -> Result<(u32, u64), ApiError> {
    let by = actor.label();
    let mut audited = Audited::begin(app, actor).await?;
    // One more than may be, to see that there are too many.
    let ids = app.queue.lock_dead_in(&mut audited.tx, filter, JOBS_MAX + 1).await?;
    let matching = u32::try_from(ids.len()).unwrap_or(u32::MAX);
    if matching > JOBS_MAX {
        return Err(ApiError::unprocessable(
            "too_many_jobs",
            format!("more than {JOBS_MAX} match; narrow the filter, for instance by before"),
        ));
    }
    if matching != expected {
        return Err(ApiError::conflict(
            "count_differs",
            format!("{matching} match by now, not {expected}; nothing was changed"),
        )
        .with("matching", matching));
    }
    let changed = A::act(&app.queue, &mut audited.tx, &ids, &by).await?;
    if changed > 0 {
        let filter = json!({
            "kinds": filter.kinds, "queue": filter.queue, "run_id": filter.run_id,
            "before": filter.before,
        });
        let after = json!({"filter": filter, "matching": matching, "changed": changed});
        audited.commit(A::ACTION, "dead letters by filter", None, Some(after)).await?;
    }
    Ok((matching, changed))
}

//! `/dead-letters/retry` and `/dead-letters/discard`: all that match a filter, counted first.

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use relevo_queue::{JobFilter, JobId};
use relevo_runs::api_keys::Scope;
use relevo_runs::audit::Actor;
use relevo_runs::dead_letters::{self, Acted, BULK_MAX, BulkError, DeadLetterAction};
use serde::Deserialize;
use serde_json::json;

use crate::app::App;
use crate::audited::Audited;
use crate::auth::{Caller, Operate};
use crate::error::ApiError;
use crate::extract::{Body, Params, text_param};
use crate::openapi::schema::{
    array, boolean, count, id, input, integer, nullable, object, query, text,
};
use crate::openapi::{Operation, Routes};

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
    input([("filter", filter)], [("expected", nullable(integer(0, BULK_MAX.into())))])
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

/// What is done to dead letters.
#[derive(Clone, Copy)]
pub(crate) enum Act {
    /// They go back to work.
    Retry,
    /// They are given up for good.
    Discard,
}

async fn retry(
    caller: Caller<Operate>,
    State(app): State<App>,
    Params(params): Params<BulkParams>,
    Body(body): Body<BulkBody>,
) -> Result<Response, ApiError> {
    run(Act::Retry, &caller, &app, &params, body).await
}

async fn discard(
    caller: Caller<Operate>,
    State(app): State<App>,
    Params(params): Params<BulkParams>,
    Body(body): Body<BulkBody>,
) -> Result<Response, ApiError> {
    run(Act::Discard, &caller, &app, &params, body).await
}

async fn run(
    act: Act,
    caller: &Caller<Operate>,
    app: &App,
    params: &BulkParams,
    body: BulkBody,
) -> Result<Response, ApiError> {
    if body.expected.is_some_and(|expected| expected > BULK_MAX) {
        return Err(ApiError::unprocessable(
            "invalid_body",
            format!("expected is at most {BULK_MAX}"),
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
    let Acted { matching, changed } =
        act_on_matching(app, caller.actor(), act, &filter, expected).await?;
    let answer = json!({"dry_run": false, "matching": matching, "changed": changed});
    Ok(Json(answer).into_response())
}

/// Does it to all that match, provided that they are as many as expected.
pub(crate) async fn act_on_matching(
    app: &App,
    actor: Actor,
    act: Act,
    filter: &JobFilter,
    expected: u32,
) -> Result<Acted, ApiError> {
    let reason = format!("discarded by {}", actor.label());
    let mut audited = Audited::begin(app, actor).await?;
    let (name, action) = match act {
        Act::Retry => ("dead_letter.retry_many", DeadLetterAction::Retry),
        Act::Discard => ("dead_letter.discard_many", DeadLetterAction::Discard { reason: &reason }),
    };
    let acted =
        dead_letters::act_on_matching_in(&mut audited.tx, &app.queue, filter, expected, action)
            .await
            .map_err(refuse)?;
    if acted.changed > 0 {
        let filter = json!({
            "kinds": filter.kinds, "queue": filter.queue, "run_id": filter.run_id,
            "before": filter.before,
        });
        let after = json!({"filter": filter, "matching": acted.matching, "changed": acted.changed});
        audited.commit(name, "dead letters by filter", None, Some(after)).await?;
    }
    Ok(acted)
}

fn refuse(error: BulkError) -> ApiError {
    let text = error.to_string();
    match error {
        BulkError::TooMany => ApiError::unprocessable("too_many_jobs", text),
        BulkError::CountDiffers { matching, .. } => {
            ApiError::conflict("count_differs", text).with("matching", matching)
        }
        BulkError::Queue(error) => error.into(),
    }
}

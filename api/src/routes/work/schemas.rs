//! What `/work` takes and answers, as JSON Schema.

use relevo_queue::REMOTE_JOBS_MAX;
use serde_json::{Value, json};

use super::{DELAY_SECONDS_MAX, KINDS_MAX, QUEUES_MAX, SLOTS_MAX};
use crate::openapi::schema::{
    any_object, array, count, described, id, input, integer, nullable, object, prose, string, text,
    time, word,
};

/// Text of at most so many characters.
pub(super) fn short(length_max: u32) -> Value {
    json!({"type": "string", "maxLength": length_max})
}

/// What a worker says of itself.
pub(super) fn open() -> Value {
    let month = i64::from(DELAY_SECONDS_MAX);
    let kind = input(
        [("kind", text(1, 100)), ("summary", prose(1, 500))],
        [
            ("payload_version", integer(1, 100)),
            ("payload_schema", any_object()),
            ("queue", text(1, 100)),
            ("priority", integer(i16::MIN.into(), i16::MAX.into())),
            ("max_attempts", nullable(integer(1, i32::MAX.into()))),
            ("max_deaths", nullable(integer(1, i16::MAX.into()))),
            ("backoff_base_seconds", nullable(integer(1, month))),
            ("backoff_cap_seconds", nullable(integer(1, month))),
            ("timeout_seconds", nullable(integer(1, month))),
            ("unique_field", nullable(text(1, 100))),
            ("unique_until", nullable(word(["claimed", "finished"]))),
            ("ordering_field", nullable(text(1, 100))),
            ("limit_key", nullable(text(1, 100))),
        ],
    );
    let mut kinds = array(kind);
    kinds["minItems"] = 1.into();
    kinds["maxItems"] = KINDS_MAX.into();
    let mut queues = array(text(1, 100));
    queues["maxItems"] = QUEUES_MAX.into();
    input(
        [("name", text(1, 100)), ("kinds", kinds)],
        [
            ("host", text(0, 200)),
            ("pid", integer(0, i32::MAX.into())),
            ("slots", nullable(integer(1, SLOTS_MAX.into()))),
            ("lease_seconds", nullable(integer(5, 600))),
            ("queues", described(queues, "Those it takes from; all when there are none.")),
        ],
    )
}

/// What becomes of jobs.
pub(super) fn finish() -> Value {
    let outcome = ["completed", "retry", "snooze", "give_back", "cancelled", "failed"];
    let job = input(
        [("id", id()), ("epoch", id()), ("outcome", word(outcome))],
        [
            ("error", described(string(), "Why, for people.")),
            (
                "delay_seconds",
                described(
                    nullable(integer(0, DELAY_SECONDS_MAX.into())),
                    "Not before so long: needed to snooze; by the kind's backoff to retry.",
                ),
            ),
        ],
    );
    let mut jobs = array(job);
    jobs["minItems"] = 1.into();
    jobs["maxItems"] = REMOTE_JOBS_MAX.into();
    input([("session", id()), ("jobs", jobs)], [])
}

/// A claimed job as it is answered.
pub(crate) fn leased_job_schema() -> Value {
    object([
        ("id", id()),
        ("epoch", described(id(), "Names the lease with every word about the job.")),
        ("kind", string()),
        ("payload", any_object()),
        ("payload_version", count()),
        ("queue", string()),
        ("attempt", count()),
        ("max_attempts", count()),
        ("deaths", count()),
        ("batch_id", nullable(id())),
        ("run_id", nullable(id())),
        ("traceparent", nullable(string())),
        ("created_at", time()),
    ])
}

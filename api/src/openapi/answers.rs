//! What answers look like: the schemas under `#/components/schemas`.

use relevo_jobs::JobKind;
use relevo_queue::{JobState, OnDead, UniqueScope};
use relevo_runs::api_keys::Scope;
use relevo_runs::{LogLevel, RunState};
use relevo_settings::SourceKind;
use serde_json::{Map, Value, json};

use crate::routes;

use super::schema::{
    any_object, array, boolean, constant, count, described, id, input, named, nullable, object,
    prose, string, text, time, word,
};

/// The states of a job, in the order of its life.
const JOB_STATES: [JobState; 8] = [
    JobState::Scheduled,
    JobState::Waiting,
    JobState::Available,
    JobState::Running,
    JobState::Retryable,
    JobState::Completed,
    JobState::Cancelled,
    JobState::Dead,
];
const LOG_LEVELS: [LogLevel; 4] =
    [LogLevel::Debug, LogLevel::Info, LogLevel::Warn, LogLevel::Error];

/// The words for a job's state.
pub(crate) fn job_states() -> impl Iterator<Item = &'static str> {
    JOB_STATES.into_iter().map(JobState::as_str)
}

/// A page of a list: what it lists by name, and where it goes on.
pub(crate) fn list_of(name: &str, item: &str) -> Value {
    object([
        (name, array(named(item))),
        ("next", described(nullable(string()), "The address of the next page.")),
        ("next_before", described(nullable(id()), "The value of `before` for the next page.")),
    ])
}

/// Every named schema.
pub(super) fn components() -> Value {
    let mut schemas = Map::new();
    let fixed = [
        ("Problem", problem()),
        ("Enqueued", object([("id", id()), ("duplicate", boolean())])),
        ("EnqueueResult", enqueue_result()),
        ("Job", job()),
        ("Progress", progress()),
        ("Run", run()),
        ("RunEvent", run_event()),
        ("Queue", queue()),
        ("Limit", routes::limits::limit_schema()),
        ("LeasedJob", routes::work::leased_job_schema()),
        ("Kind", kind()),
        ("Schedule", schedule()),
        ("Source", source()),
        ("ApiKey", api_key()),
        ("AuditEntry", audit_entry()),
        ("Upload", routes::uploads::upload_schema()),
        ("Connection", routes::connections::connection_schema()),
        ("Trial", routes::connections::trial_schema()),
        ("Alert", routes::attention::alert_schema()),
        ("DoctorReport", routes::attention::report_schema()),
    ];
    schemas.extend(fixed.map(|(name, schema)| (name.to_owned(), schema)));
    let mut mapping = Map::new();
    let mut variants = Vec::new();
    for kind in JobKind::ALL {
        let payload = format!("{kind}Payload");
        schemas.insert(payload.clone(), payload_schema(kind));
        let job = format!("New{kind}Job");
        schemas.insert(job.clone(), new_job(kind, &payload));
        mapping.insert(kind.as_str().to_owned(), named(&job)["$ref"].clone());
        variants.push(named(&job));
    }
    schemas.insert(
        "NewJob".to_owned(),
        json!({"anyOf": [
            {"oneOf": variants, "discriminator": {"propertyName": "kind", "mapping": mapping}},
            named("NewPublishedJob"),
        ]}),
    );
    schemas.insert("NewPublishedJob".to_owned(), new_published_job());
    Value::Object(schemas)
}

/// A kind's own schema for its payload.
pub(crate) fn payload_schema(kind: JobKind) -> Value {
    // The constants are JSON, which a test of this module checks; a wrong one describes nothing.
    let mut schema: Value = serde_json::from_str(relevo_jobs::schema(kind)).unwrap_or_default();
    schema["description"] = json!(relevo_jobs::summary(kind));
    schema
}

/// A job of one kind as it is enqueued.
fn new_job(kind: JobKind, payload: &str) -> Value {
    let payload_schema = payload_schema(kind);
    let demands = ["required", "anyOf"];
    let empty_will_do = demands.iter().all(|word| payload_schema.get(word).is_none());
    job_to_enqueue(constant(kind.as_str()), named(payload), empty_will_do)
}

/// A job of a kind that a worker has published.
fn new_published_job() -> Value {
    let kind = json!({
        "type": "string",
        "pattern": "^[A-Za-z][A-Za-z0-9_.-]*$",
        "maxLength": 100,
        "not": {"enum": JobKind::ALL.map(JobKind::as_str)},
        "description": "A kind that `/kinds` lists with `built_in: false`.",
    });
    let words = "As the kind's `payload_schema` in `/kinds` says.";
    job_to_enqueue(kind, described(any_object(), words), true)
}

fn job_to_enqueue(kind: Value, payload: Value, empty_will_do: bool) -> Value {
    let seconds_max = 10 * 366 * 24 * 3_600;
    let mut schema = input(
        [("kind", kind)],
        [
            ("payload", if empty_will_do { nullable(payload) } else { payload }),
            ("queue", nullable(prose(1, 100))),
            ("priority", nullable(super::schema::integer(i16::MIN.into(), i16::MAX.into()))),
            (
                "run_at",
                described(
                    nullable(json!({
                        "type": "string", "format": "date-time", "pattern": "^2[0-9]{3}-",
                    })),
                    "Not before this time, between the years 2000 and 2999. Not together with \
                     delay_seconds.",
                ),
            ),
            ("delay_seconds", nullable(super::schema::integer(0, seconds_max))),
            (
                "idempotency_key",
                described(
                    nullable(text(1, 400)),
                    "For 24 hours the same key gives the same job. The header Idempotency-Key \
                     means the same.",
                ),
            ),
            (
                "unique_key",
                described(
                    nullable(text(1, 400)),
                    "While one job holds the key no second is enqueued.",
                ),
            ),
            (
                "unique_until",
                described(
                    nullable(word(
                        [UniqueScope::Claimed, UniqueScope::Finished].map(UniqueScope::as_str),
                    )),
                    "How long the key is held; only together with unique_key.",
                ),
            ),
            (
                "ordering_key",
                described(
                    nullable(prose(1, 500)),
                    "Jobs with the same key run one at a time, in the order in which they were \
                     enqueued.",
                ),
            ),
            (
                "on_dead",
                described(
                    nullable(word(OnDead::ALL.iter().map(|policy| policy.as_str()))),
                    "What its death means to those behind it: they wait (block, which it is when \
                     nothing is said) or go on (skip); only together with ordering_key.",
                ),
            ),
            (
                "limit_key",
                described(nullable(prose(1, 100)), "The limit it is under, see `/limits`."),
            ),
        ],
    );
    if !empty_will_do {
        schema["required"] = json!(["kind", "payload"]);
    }
    // Not both ways of waiting, and no length of holding without a key.
    schema["allOf"] = json!([
        {"not": {
            "required": ["run_at", "delay_seconds"],
            "properties": {"run_at": {"type": "string"}, "delay_seconds": {"type": "integer"}},
        }},
        {"if": {"required": ["unique_until"], "properties": {"unique_until": {"type": "string"}}},
         "then": {"required": ["unique_key"], "properties": {"unique_key": {"type": "string"}}}},
        {"if": {"required": ["on_dead"], "properties": {"on_dead": {"type": "string"}}},
         "then": {"required": ["ordering_key"],
                  "properties": {"ordering_key": {"type": "string"}}}},
    ]);
    schema
}

fn problem() -> Value {
    json!({
        "type": "object",
        "description": "Why a request was refused (RFC 9457). Some codes add fields.",
        "required": ["type", "title", "status", "code", "detail"],
        "properties": {
            "type": {"type": "string", "pattern": "^urn:relevo:problem:"},
            "title": string(),
            "status": {"type": "integer", "minimum": 400, "maximum": 599},
            "code": described(string(), "Never changes its meaning."),
            "detail": described(string(), "What to do, in a sentence."),
        },
    })
}

fn enqueue_result() -> Value {
    json!({
        "description": "Of one job of a batch: taken, or why not.",
        "oneOf": [named("Enqueued"), object([("problem", named("Problem"))])],
    })
}

fn job() -> Value {
    object([
        ("id", id()),
        ("kind", string()),
        ("queue", string()),
        ("state", word(job_states())),
        ("priority", super::schema::integer(i16::MIN.into(), i16::MAX.into())),
        ("payload", json!({"description": "The kind's arguments."})),
        ("payload_version", count()),
        ("attempt", described(count(), "Attempts begun.")),
        ("max_attempts", count()),
        ("deaths", described(count(), "Workers that died under it since its last progress.")),
        ("max_deaths", count()),
        ("run_at", time()),
        ("created_at", time()),
        ("claimed_at", nullable(time())),
        ("finished_at", nullable(time())),
        ("session_id", nullable(id())),
        ("lease_epoch", described(count(), "How often it was claimed.")),
        ("batch_id", nullable(id())),
        ("run_id", nullable(id())),
        ("unique_key", nullable(string())),
        ("ordering_key", described(nullable(string()), "Null once it is in the history.")),
        ("limit_key", described(nullable(string()), "Null once it is in the history.")),
        ("traceparent", nullable(string())),
        ("last_error", nullable(string())),
        ("cancel_requested", boolean()),
        ("cancel_reason", nullable(string())),
        ("progress", nullable(named("Progress"))),
    ])
}

fn progress() -> Value {
    object([
        ("done", count()),
        ("total", nullable(count())),
        ("unit", string()),
        ("message", string()),
        ("updated_at", time()),
    ])
}

fn run() -> Value {
    let mut run = object([
        ("id", id()),
        ("pipeline", string()),
        ("source", string()),
        ("state", word(RunState::ALL.map(RunState::as_str))),
        ("phase", string()),
        ("trigger", described(string(), "api:<key's name>, cli, or schedule:<name>.")),
        ("options", any_object()),
        ("created_at", time()),
        ("started_at", nullable(time())),
        ("finished_at", nullable(time())),
        ("updated_at", time()),
        ("progress", nullable(any_object())),
        ("stats", any_object()),
        ("certificate", described(nullable(any_object()), "What was moved and how verified.")),
        ("error", described(nullable(string()), "What happened and what to do.")),
        ("cancel_requested", boolean()),
        ("cleaned_at", nullable(time())),
        (
            "rolled_back_at",
            described(nullable(time()), "When the data from before it were put back."),
        ),
        ("rolled_back_by", nullable(string())),
    ]);
    // Only runs that were started within a trace have one.
    run["properties"]["traceparent"] = nullable(string());
    run
}

fn run_event() -> Value {
    object([
        ("id", id()),
        ("run_id", id()),
        ("at", time()),
        ("level", word(LOG_LEVELS.map(LogLevel::as_str))),
        ("message", string()),
        ("fields", any_object()),
    ])
}

fn queue() -> Value {
    object([
        ("queue", string()),
        ("scheduled", count()),
        ("waiting", described(count(), "Held back by an ordering key or a limit.")),
        ("available", count()),
        ("running", count()),
        ("retryable", count()),
        ("dead", count()),
        ("oldest_available", nullable(time())),
        ("paused", boolean()),
    ])
}

fn kind() -> Value {
    object([
        ("kind", string()),
        ("summary", string()),
        ("built_in", described(boolean(), "Of this build; others are published by workers.")),
        (
            "seen_at",
            described(nullable(time()), "When a worker last published it, to half a minute."),
        ),
        ("payload_version", count()),
        ("payload_schema", described(any_object(), "JSON Schema, draft 2020-12.")),
        ("queue", string()),
        ("priority", super::schema::integer(i16::MIN.into(), i16::MAX.into())),
        ("max_attempts", count()),
        ("max_deaths", count()),
        ("timeout_seconds", count()),
        (
            "unique_field",
            described(nullable(string()), "Jobs with the same value in it are the same job."),
        ),
        ("unique_until", nullable(word(["claimed", "finished"]))),
        (
            "ordering_field",
            described(nullable(string()), "Jobs with the same value in it run one at a time."),
        ),
        ("limit_key", described(nullable(string()), "The limit its jobs are under.")),
        ("scope", described(word(["enqueue", "operate"]), "What a key needs to enqueue it.")),
    ])
}

fn schedule() -> Value {
    let last_fire = object([
        ("slot", described(time(), "When it was meant to start.")),
        ("fired_at", time()),
        ("outcome", word(["started", "skipped"])),
        ("reason", nullable(string())),
        ("run_id", nullable(id())),
        ("job_id", nullable(id())),
    ]);
    object([
        ("name", string()),
        ("origin", word(["configuration", "operator"])),
        ("active", boolean()),
        ("rhythm", string()),
        ("timezone", string()),
        ("backup_source", nullable(string())),
        ("job_kind", nullable(string())),
        ("job_payload", nullable(any_object())),
        ("missed_runs", word(["once", "skip", "catch_up"])),
        ("missed_max_age_minutes", count()),
        ("jitter_seconds", count()),
        ("updated_at", time()),
        ("updated_by", string()),
        ("next_slots", array(time())),
        ("last_fire", nullable(last_fire)),
    ])
}

fn source() -> Value {
    let last_run = object([
        ("id", id()),
        ("state", word(RunState::ALL.map(RunState::as_str))),
        ("finished_at", nullable(time())),
    ]);
    object([
        ("name", string()),
        ("kind", word(SourceKind::ALL.map(SourceKind::as_str))),
        ("origin", described(string(), "What its dumps come from, without secrets.")),
        ("mode", string()),
        ("target", string()),
        ("target_schema", string()),
        ("timezone", string()),
        ("schedule_enabled", boolean()),
        ("last_run", nullable(last_run)),
    ])
}

fn api_key() -> Value {
    object([
        ("id", id()),
        ("name", string()),
        ("prefix", described(string(), "Its first, public digits.")),
        ("scopes", array(scopes())),
        ("created_at", time()),
        ("last_used_at", described(nullable(time()), "To the minute.")),
        ("revoked_at", nullable(time())),
        ("expires_at", described(nullable(time()), "The end of its overlap with a new key.")),
        ("replaces", described(nullable(id()), "The key in whose place it was made.")),
    ])
}

fn audit_entry() -> Value {
    object([
        ("id", id()),
        ("at", time()),
        ("api_key_id", nullable(id())),
        ("actor", string()),
        ("action", string()),
        ("object", string()),
        ("before", nullable(any_object())),
        ("after", nullable(any_object())),
    ])
}

/// The scopes of keys.
pub(crate) fn scopes() -> Value {
    word(Scope::ALL.map(Scope::as_str))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_has_a_schema_that_is_json() {
        for kind in JobKind::ALL {
            let schema = payload_schema(kind);
            assert_eq!(schema["type"], "object", "{kind}");
            assert_eq!(schema["additionalProperties"], false, "{kind}");
        }
    }
}

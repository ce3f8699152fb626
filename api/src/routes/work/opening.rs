//! Beginning as a worker: what it runs, and its session.

use std::time::Duration;

use axum::Json;
use axum::extract::State;
use axum::response::{IntoResponse as _, Response};
use relevo_jobs::{KindSpec, UniqueUntil};
use relevo_queue::RemoteWorker;
use relevo_runs::kinds as published;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::{KINDS_MAX, LEASE_SECONDS, QUEUES_MAX, SLOTS_MAX, owner, unfit};
use crate::app::App;
use crate::auth::{Caller, Work};
use crate::error::ApiError;
use crate::extract::Body;

/// A kind as its worker describes it, and as its session keeps it.
#[derive(Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub(super) struct KindBody {
    kind: String,
    summary: String,
    #[serde(default = "one")]
    payload_version: i16,
    #[serde(default = "any_payload")]
    payload_schema: Value,
    #[serde(default = "default_queue")]
    queue: String,
    #[serde(default)]
    priority: i16,
    #[serde(default)]
    max_attempts: Option<i32>,
    #[serde(default)]
    max_deaths: Option<i16>,
    #[serde(default)]
    backoff_base_seconds: Option<u32>,
    #[serde(default)]
    backoff_cap_seconds: Option<u32>,
    #[serde(default)]
    timeout_seconds: Option<u32>,
    #[serde(default)]
    unique_field: Option<String>,
    #[serde(default)]
    unique_until: Option<UniqueUntil>,
    #[serde(default)]
    ordering_field: Option<String>,
    #[serde(default)]
    limit_key: Option<String>,
}

fn one() -> i16 {
    1
}

fn any_payload() -> Value {
    json!({"type": "object"})
}

fn default_queue() -> String {
    relevo_jobs::Policy::OF_OWN_KINDS.queue.to_owned()
}

impl KindBody {
    /// The kind as everybody else is told of it.
    pub(super) fn spec(&self) -> KindSpec {
        let policy = relevo_jobs::Policy::OF_OWN_KINDS;
        let seconds = |given: Option<u32>, usual| {
            given.map_or(usual, |seconds| Duration::from_secs(seconds.into()))
        };
        KindSpec {
            name: self.kind.clone(),
            summary: self.summary.clone(),
            payload_version: self.payload_version,
            payload_schema: self.payload_schema.to_string(),
            queue: self.queue.clone(),
            priority: self.priority,
            max_attempts: self.max_attempts.unwrap_or(policy.max_attempts),
            max_deaths: self.max_deaths.unwrap_or(policy.max_deaths),
            backoff_base: seconds(self.backoff_base_seconds, policy.backoff_base),
            backoff_cap: seconds(self.backoff_cap_seconds, policy.backoff_cap),
            timeout: seconds(self.timeout_seconds, policy.timeout),
            progress_deadline: None,
            unique: self
                .unique_field
                .clone()
                .map(|field| (field, self.unique_until.unwrap_or(UniqueUntil::Finished))),
            order: self.ordering_field.clone().map(|field| (field, false)),
            limit_key: self.limit_key.clone(),
            internal: false,
        }
    }
}

#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct OpenBody {
    name: String,
    kinds: Vec<KindBody>,
    #[serde(default)]
    host: String,
    #[serde(default)]
    pid: u32,
    #[serde(default)]
    slots: Option<i32>,
    #[serde(default)]
    lease_seconds: Option<u16>,
    #[serde(default)]
    queues: Vec<String>,
}

pub(super) async fn open(
    caller: Caller<Work>,
    State(app): State<App>,
    Body(body): Body<OpenBody>,
) -> Result<Response, ApiError> {
    let slots = body.slots.unwrap_or(1);
    let lease_seconds = body.lease_seconds.unwrap_or(LEASE_SECONDS);
    let pid = i32::try_from(body.pid).map_err(|_| unfit("pid is a process id"))?;
    check_open(&body, slots, lease_seconds)?;
    let mut specs = Vec::with_capacity(body.kinds.len());
    for kind in &body.kinds {
        let spec = kind.spec();
        let refuse = |what: String| ApiError::unprocessable("invalid_kind", what);
        spec.check().map_err(|error| refuse(error.to_string()))?;
        published::check_schema(&spec.payload_schema)
            .map_err(|error| refuse(format!("the schema of {}: {error}", spec.name)))?;
        if specs.iter().any(|before: &KindSpec| before.name == spec.name) {
            return Err(refuse(format!("{} is there twice", spec.name)));
        }
        if has_nul(kind) {
            return Err(refuse(format!("{} holds a NUL, which cannot be stored", spec.name)));
        }
        specs.push(spec);
    }
    published::publish(&app.pool, &specs, &body.name).await?;
    let declared = json!({"kinds": body.kinds});
    let session = app
        .queue
        .open_remote(&RemoteWorker {
            owner: &owner(&caller),
            name: &body.name,
            host: &body.host,
            pid,
            queues: &body.queues,
            slots,
            lease_ttl: Duration::from_secs(lease_seconds.into()),
            declared: &declared,
        })
        .await?;
    tracing::info!(session = session.0, worker = body.name, by = caller.label(), "a worker begins");
    let answer = json!({
        "session": session, "lease_seconds": lease_seconds, "heartbeat_seconds": lease_seconds / 3,
    });
    Ok(Json(answer).into_response())
}

fn check_open(body: &OpenBody, slots: i32, lease_seconds: u16) -> Result<(), ApiError> {
    let fits = |text: &str, min: usize, max: usize| {
        (min..=max).contains(&text.chars().count()) && !text.chars().any(char::is_control)
    };
    if !fits(&body.name, 1, 100) || !fits(&body.host, 0, 200) {
        return Err(unfit("name has 1 to 100 characters, host at most 200, none to control"));
    }
    if body.queues.len() > QUEUES_MAX || !body.queues.iter().all(|queue| fits(queue, 1, 100)) {
        return Err(unfit("queues are at most 100 names of 1 to 100 characters"));
    }
    if !(1..=KINDS_MAX).contains(&body.kinds.len()) {
        return Err(unfit("kinds are 1 to 100"));
    }
    for kind in &body.kinds {
        let fields = [&kind.unique_field, &kind.ordering_field, &kind.limit_key];
        let names = fields.into_iter().flatten().chain([&kind.kind, &kind.queue]);
        if !names.into_iter().all(|name| fits(name, 1, 100)) {
            return Err(unfit(
                "names of kinds, queues, fields and limits have 1 to 100 characters",
            ));
        }
    }
    if !(1..=SLOTS_MAX).contains(&slots) {
        return Err(unfit("slots are 1 to 1,000"));
    }
    if !(5..=600).contains(&lease_seconds) {
        return Err(unfit("lease_seconds are 5 to 600"));
    }
    Ok(())
}

fn has_nul(kind: &KindBody) -> bool {
    // As JSON, so that keys and values at any depth are seen.
    serde_json::to_string(kind).map_or(true, |text| text.contains("\\u0000"))
}

//! `relevo.job_kind`: written by workers, read by everybody.

use std::time::Duration;

use chrono::{DateTime, Utc};
use relevo_jobs::{KindSpec, UniqueUntil};
use serde::Serialize;
use serde_json::Value;
use sqlx::postgres::PgRow;
use sqlx::types::Json;
use sqlx::{PgConnection, PgPool, Row as _};

/// The most kinds that are read: more come from a fault, not from people.
const KINDS_MAX: i64 = 1_000;

/// An older build leaves what a newer one says alone for as long as one of the newer runs; the same
/// thing said again is written every half minute only. Ordered, so that two workers wait for each
/// other in one direction.
const PUBLISH: &str = "-- publish_job_kinds
    INSERT INTO relevo.job_kind AS held
        (name, summary, payload_version, payload_schema, queue, priority, max_attempts, max_deaths,
         backoff_base_ms, backoff_cap_ms, timeout_ms, progress_deadline_ms, unique_field,
         unique_scope, ordering_field, ordering_skips_dead, limit_key, internal, published_by, seen_at)
    SELECT k.name, k.summary, k.payload_version, k.payload_schema, k.queue, k.priority,
           k.max_attempts, k.max_deaths, k.backoff_base_ms, k.backoff_cap_ms, k.timeout_ms,
           k.progress_deadline_ms, k.unique_field, k.unique_scope::relevo.unique_scope,
           k.ordering_field, k.ordering_skips_dead, k.limit_key, k.internal,
           $2, clock_timestamp()
    FROM jsonb_to_recordset($1)
             AS k(name text, summary text, payload_version smallint, payload_schema jsonb,
                  queue text, priority smallint, max_attempts integer, max_deaths smallint,
                  backoff_base_ms bigint, backoff_cap_ms bigint, timeout_ms bigint,
                  progress_deadline_ms bigint, unique_field text, unique_scope text,
                  ordering_field text, ordering_skips_dead boolean, limit_key text,
                  internal boolean)
    ORDER BY k.name COLLATE \"C\"
    ON CONFLICT (name) DO UPDATE
        SET summary = excluded.summary, payload_version = excluded.payload_version,
            payload_schema = excluded.payload_schema, queue = excluded.queue,
            priority = excluded.priority, max_attempts = excluded.max_attempts,
            max_deaths = excluded.max_deaths, backoff_base_ms = excluded.backoff_base_ms,
            backoff_cap_ms = excluded.backoff_cap_ms, timeout_ms = excluded.timeout_ms,
            progress_deadline_ms = excluded.progress_deadline_ms,
            unique_field = excluded.unique_field, unique_scope = excluded.unique_scope,
            ordering_field = excluded.ordering_field,
            ordering_skips_dead = excluded.ordering_skips_dead, limit_key = excluded.limit_key,
            internal = excluded.internal, published_by = excluded.published_by,
            seen_at = excluded.seen_at
        WHERE (excluded.payload_version >= held.payload_version
               OR held.seen_at < clock_timestamp() - interval '5 minutes')
          AND (held.seen_at < clock_timestamp() - interval '30 seconds'
               OR (excluded.summary, excluded.payload_version, excluded.payload_schema,
                   excluded.queue, excluded.priority, excluded.max_attempts, excluded.max_deaths,
                   excluded.backoff_base_ms, excluded.backoff_cap_ms, excluded.timeout_ms,
                   excluded.progress_deadline_ms, excluded.unique_field, excluded.unique_scope,
                   excluded.ordering_field, excluded.ordering_skips_dead, excluded.limit_key,
                   excluded.internal)
                  IS DISTINCT FROM
                  (held.summary, held.payload_version, held.payload_schema,
                   held.queue, held.priority, held.max_attempts, held.max_deaths,
                   held.backoff_base_ms, held.backoff_cap_ms, held.timeout_ms,
                   held.progress_deadline_ms, held.unique_field, held.unique_scope,
                   held.ordering_field, held.ordering_skips_dead, held.limit_key,
                   held.internal))";

const FORGET: &str = "-- forget_job_kinds
    DELETE FROM relevo.job_kind WHERE seen_at < clock_timestamp() - interval '90 days'";

const LIST: &str = "-- list_job_kinds
    SELECT name, summary, payload_version, payload_schema, queue, priority, max_attempts,
           max_deaths, backoff_base_ms, backoff_cap_ms, timeout_ms, progress_deadline_ms,
           unique_field, unique_scope::text, ordering_field, ordering_skips_dead, limit_key, internal,
           seen_at
    FROM relevo.job_kind ORDER BY name LIMIT $1";

/// A kind as the statement takes it.
#[derive(Serialize)]
struct Row<'a> {
    name: &'a str,
    summary: &'a str,
    payload_version: i16,
    payload_schema: Value,
    queue: &'a str,
    priority: i16,
    max_attempts: i32,
    max_deaths: i16,
    backoff_base_ms: i64,
    backoff_cap_ms: i64,
    timeout_ms: i64,
    progress_deadline_ms: Option<i64>,
    unique_field: Option<&'a str>,
    unique_scope: Option<&'static str>,
    ordering_field: Option<&'a str>,
    ordering_skips_dead: bool,
    limit_key: Option<&'a str>,
    internal: bool,
}

impl<'a> From<&'a KindSpec> for Row<'a> {
    fn from(spec: &'a KindSpec) -> Self {
        Self {
            name: &spec.name,
            summary: &spec.summary,
            payload_version: spec.payload_version,
            // Checked when the worker was put together.
            payload_schema: serde_json::from_str(&spec.payload_schema).unwrap_or_default(),
            queue: &spec.queue,
            priority: spec.priority,
            max_attempts: spec.max_attempts,
            max_deaths: spec.max_deaths,
            backoff_base_ms: milliseconds(spec.backoff_base),
            backoff_cap_ms: milliseconds(spec.backoff_cap),
            timeout_ms: milliseconds(spec.timeout),
            progress_deadline_ms: spec.progress_deadline.map(milliseconds),
            unique_field: spec.unique.as_ref().map(|(field, _)| field.as_str()),
            unique_scope: spec.unique.as_ref().map(|(_, until)| until.as_str()),
            ordering_field: spec.order.as_ref().map(|(field, _)| field.as_str()),
            ordering_skips_dead: spec.order.as_ref().is_some_and(|(_, skips_dead)| *skips_dead),
            limit_key: spec.limit_key.as_deref(),
            internal: spec.internal,
        }
    }
}

fn milliseconds(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX).max(1)
}

/// Makes kinds known to everybody, in the name of the worker `by`; those that nobody has published
/// for 90 days are forgotten. To be repeated every minute.
///
/// # Errors
/// Database errors.
pub async fn publish(pool: &PgPool, kinds: &[KindSpec], by: &str) -> Result<(), sqlx::Error> {
    let rows: Vec<Row<'_>> = kinds.iter().map(Row::from).collect();
    sqlx::query(PUBLISH).bind(Json(rows)).bind(by).execute(pool).await?;
    sqlx::query(FORGET).execute(pool).await?;
    Ok(())
}

/// What is published, with the time at which it last was.
pub(super) async fn list(
    connection: &mut PgConnection,
) -> Result<Vec<(KindSpec, DateTime<Utc>)>, sqlx::Error> {
    let rows = sqlx::query(LIST).bind(KINDS_MAX).fetch_all(connection).await?;
    rows.iter().map(decode).collect()
}

fn decode(row: &PgRow) -> Result<(KindSpec, DateTime<Utc>), sqlx::Error> {
    let schema: Json<Value> = row.try_get("payload_schema")?;
    let field: Option<String> = row.try_get("unique_field")?;
    let ordering_field: Option<String> = row.try_get("ordering_field")?;
    let skips_dead: bool = row.try_get("ordering_skips_dead")?;
    let until = match row.try_get::<Option<&str>, _>("unique_scope")? {
        Some("claimed") => UniqueUntil::Claimed,
        _ => UniqueUntil::Finished,
    };
    let time = |column: &str| row.try_get::<i64, _>(column).map(duration);
    let spec = KindSpec {
        name: row.try_get("name")?,
        summary: row.try_get("summary")?,
        payload_version: row.try_get("payload_version")?,
        payload_schema: schema.0.to_string(),
        queue: row.try_get("queue")?,
        priority: row.try_get("priority")?,
        max_attempts: row.try_get("max_attempts")?,
        max_deaths: row.try_get("max_deaths")?,
        backoff_base: time("backoff_base_ms")?,
        backoff_cap: time("backoff_cap_ms")?,
        timeout: time("timeout_ms")?,
        progress_deadline: row.try_get::<Option<i64>, _>("progress_deadline_ms")?.map(duration),
        unique: field.map(|field| (field, until)),
        order: ordering_field.map(|field| (field, skips_dead)),
        limit_key: row.try_get("limit_key")?,
        internal: row.try_get("internal")?,
    };
    Ok((spec, row.try_get("seen_at")?))
}

fn duration(milliseconds: i64) -> Duration {
    Duration::from_millis(milliseconds.unsigned_abs())
}

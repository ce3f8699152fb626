//! Figures that are read from the database, exported by the leader alone, so that sums over
//! processes are right.

use std::time::Duration;

use chrono::{DateTime, Utc};
use relevo_jobs::JobKind;
use relevo_notify::rules;
use relevo_queue::{QueueError, QueueStats};
use relevo_runs::{backup, kinds};
use sqlx::PgConnection;
use tokio_util::sync::CancellationToken;

use crate::SchedulerDeps;
use crate::upkeep::Step;

/// How often they are read: counting a long queue has its price.
const PAUSE: Duration = Duration::from_secs(30);

/// How long reading them may take.
const TIMEOUT: Duration = Duration::from_secs(30);

/// Reads them until `over`.
pub async fn run(deps: SchedulerDeps, over: CancellationToken) {
    let mut step = Step::new("figures", TIMEOUT);
    while !over.is_cancelled() {
        step.run(&deps.metrics, &over, read(&deps)).await;
        tokio::select! {
            () = over.cancelled() => {}
            () = tokio::time::sleep(PAUSE) => {}
        }
    }
}

async fn read(deps: &SchedulerDeps) -> Result<(), QueueError> {
    read_queues(deps, &deps.queue.stats().await?);
    read_unserved(deps).await?;
    let leader = &deps.metrics.leader;
    leader.set_worker_sessions(deps.queue.sessions().await?.len());
    read_runs(deps).await?;
    // One connection for the rest: a pool asks each one that comes back, which is a statement.
    let mut connection = deps.pool.acquire().await?;
    read_fires(deps, &mut connection).await?;
    read_server(deps, &mut connection).await?;
    Ok(())
}

/// What each queue holds; those of the built-in kinds are there at zero, too.
fn read_queues(deps: &SchedulerDeps, queues: &[QueueStats]) {
    const STATES: [&str; 5] = ["scheduled", "waiting", "available", "running", "retryable"];
    let leader = &deps.metrics.leader;
    // A queue that is empty and gone from the database must not keep its last figures.
    leader.queue_jobs.reset();
    leader.queue_paused.reset();
    leader.dead_letters_present.reset();
    leader.queue_oldest_available.reset();
    for kind in JobKind::ALL {
        let queue = relevo_jobs::policy(kind).queue;
        for state in STATES {
            leader.queue_jobs.with_label_values(&[queue, state]).set(0.0);
        }
        leader.queue_paused.with_label_values(&[queue]).set(0.0);
        leader.dead_letters_present.with_label_values(&[queue]).set(0.0);
        leader.queue_oldest_available.with_label_values(&[queue]).set(0.0);
    }
    for queue in queues {
        let name = queue.queue.as_str();
        let counts =
            [queue.scheduled, queue.waiting, queue.available, queue.running, queue.retryable];
        for (state, jobs) in STATES.into_iter().zip(counts) {
            leader.queue_jobs.with_label_values(&[name, state]).set(whole(jobs));
        }
        leader.queue_paused.with_label_values(&[name]).set(f64::from(u8::from(queue.paused)));
        leader.dead_letters_present.with_label_values(&[name]).set(whole(queue.dead));
        let oldest = queue.oldest_available.map_or(0.0, unix_seconds);
        leader.queue_oldest_available.with_label_values(&[name]).set(oldest);
    }
}

/// How many kinds wait in vain, by queue.
async fn read_unserved(deps: &SchedulerDeps) -> Result<(), sqlx::Error> {
    let unserved = kinds::unserved(&deps.pool).await?;
    let gauge = &deps.metrics.leader.queue_unserved_kinds;
    gauge.reset();
    for kind in JobKind::ALL {
        gauge.with_label_values(&[relevo_jobs::policy(kind).queue]).set(0.0);
    }
    for found in unserved {
        gauge.with_label_values(&[&found.queue]).inc();
    }
    Ok(())
}

#[derive(sqlx::FromRow)]
struct SourceFigures {
    pipeline: String,
    source: String,
    succeeded_at: Option<DateTime<Utc>>,
    progress: Option<f64>,
}

/// When each source last succeeded, and how far its active run is.
async fn read_runs(deps: &SchedulerDeps) -> Result<(), sqlx::Error> {
    let leader = &deps.metrics.leader;
    let rows: Vec<SourceFigures> = sqlx::query_as(
        "-- pipeline_figures
         SELECT pipeline, source,
                max(finished_at) FILTER (WHERE state = 'succeeded') AS succeeded_at,
                max((progress ->> 'done')::float8 / nullif((progress ->> 'total')::float8, 0))
                    FILTER (WHERE state IN ('pending', 'running')) AS progress
           FROM relevo.run
          GROUP BY pipeline, source",
    )
    .fetch_all(&deps.pool)
    .await?;
    leader.pipeline_last_success.reset();
    leader.pipeline_progress.reset();
    leader.pipeline_success_due.reset();
    let settings = deps.settings.now();
    for (name, source) in &settings.backup {
        let labels = [backup::PIPELINE, name.as_str()];
        leader.pipeline_last_success.with_label_values(&labels).set(0.0);
        leader.pipeline_progress.with_label_values(&labels).set(0.0);
        let due_at = if source.schedule_enabled {
            unix_seconds(rules::success_due(&deps.pool, &settings, name, source).await?.at)
        } else {
            0.0
        };
        leader.pipeline_success_due.with_label_values(&labels).set(due_at);
    }
    for row in &rows {
        let labels = [row.pipeline.as_str(), row.source.as_str()];
        let succeeded_at = row.succeeded_at.map_or(0.0, unix_seconds);
        leader.pipeline_last_success.with_label_values(&labels).set(succeeded_at);
        let progress = row.progress.unwrap_or(0.0).clamp(0.0, 1.0);
        leader.pipeline_progress.with_label_values(&labels).set(progress);
    }
    Ok(())
}

/// The tables whose size is exported: the busy ones, and those that grow. Partitions count as their
/// table.
const TABLES: [&str; 7] =
    ["job", "job_history", "dead_letter", "session", "idempotency_key", "run", "run_event"];

/// What the server says of the control plane's tables, of its connections and their oldest snapshot.
async fn read_server(
    deps: &SchedulerDeps,
    connection: &mut PgConnection,
) -> Result<(), sqlx::Error> {
    let leader = &deps.metrics.leader;
    let rows: Vec<(String, i64, i64, i64)> = sqlx::query_as(
        "-- table_figures
         SELECT t.relname::text,
                coalesce(sum(pg_total_relation_size(s.relid)), 0)::int8,
                coalesce(sum(s.n_live_tup), 0)::int8,
                coalesce(sum(s.n_dead_tup), 0)::int8
           FROM pg_class AS t
                LEFT JOIN pg_inherits AS i ON i.inhparent = t.oid
                JOIN pg_stat_user_tables AS s ON s.relid = coalesce(i.inhrelid, t.oid)
          WHERE t.relnamespace = 'relevo'::regnamespace AND t.relname = ANY ($1)
          GROUP BY t.relname",
    )
    .bind(TABLES)
    .fetch_all(&mut *connection)
    .await?;
    for (table, bytes, live, dead) in &rows {
        let labels = [table.as_str()];
        leader.table_bytes.with_label_values(&labels).set(whole(*bytes));
        leader.table_rows.with_label_values(&labels).set(whole(*live));
        leader.table_dead_rows.with_label_values(&labels).set(whole(*dead));
    }
    let (used, max, snapshot_age): (i64, i64, f64) = sqlx::query_as(
        "-- server_connections
         SELECT count(*) FILTER (WHERE backend_type = 'client backend'),
                current_setting('max_connections')::int8,
                coalesce(extract(epoch FROM clock_timestamp() - min(xact_start) FILTER (
                    WHERE datname = current_database() AND backend_xmin IS NOT NULL)), 0)::float8
           FROM pg_stat_activity",
    )
    .fetch_one(connection)
    .await?;
    leader.set_database_connections(used, max);
    leader.set_oldest_snapshot_age_seconds(snapshot_age.max(0.0));
    Ok(())
}

/// The last slot that each schedule started.
async fn read_fires(
    deps: &SchedulerDeps,
    connection: &mut PgConnection,
) -> Result<(), sqlx::Error> {
    let rows: Vec<(String, Option<DateTime<Utc>>)> = sqlx::query_as(
        "-- last_fires
         SELECT s.name, f.slot
           FROM relevo.schedule AS s
                LEFT JOIN LATERAL (
                SELECT slot FROM relevo.schedule_fire
                 WHERE schedule = s.name AND outcome = 'started'
                 ORDER BY slot DESC
                 LIMIT 1) AS f ON true
          WHERE s.active",
    )
    .fetch_all(connection)
    .await?;
    for (schedule, slot) in &rows {
        let gauge = &deps.metrics.leader.schedule_last_fire;
        gauge.with_label_values(&[schedule.as_str()]).set(slot.map_or(0.0, unix_seconds));
    }
    Ok(())
}

#[expect(clippy::cast_precision_loss, reason = "seconds since 1970 stay far below 2^53")]
fn unix_seconds(at: DateTime<Utc>) -> f64 {
    at.timestamp() as f64
}

#[expect(
    clippy::cast_precision_loss,
    reason = "a queue holds far fewer than 2^53 jobs, a table far fewer bytes"
)]
fn whole(count: i64) -> f64 {
    count as f64
}

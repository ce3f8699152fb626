//! Pruning: what is older than its retention goes, and the history gets partitions for the days
//! ahead.
//!
//! Every step is bounded and repeats nothing; what one pass leaves the next one takes. Changing
//! partitions needs short exclusive locks: they are waited for briefly, then left to the next pass,
//! so that finishes never queue up behind a report that reads the history.

use std::collections::BTreeSet;
use std::time::Duration;

use chrono::{DateTime, Days, NaiveDate, Utc};
use sqlx::{Acquire as _, AssertSqlSafe, PgConnection};

use crate::queue::Retention;
use crate::{JobId, Queue, QueueError, admit, dead, limit};

/// Today and so many days after it have a partition.
const DAYS_AHEAD: u64 = 7;

/// Partitions made, or dropped, in one pass.
const PARTITIONS_MAX: usize = 100;

/// Statements of 5,000 rows per table and pass.
const STATEMENTS_MAX: usize = 20;

const ROWS_MAX: u64 = 5_000;

/// Only one process changes partitions at a time; the others have nothing to do then.
const PARTITIONS_LOCK: i64 = 0x7265_6c65_766f_0001;

const PARTITIONS: &str = "-- list_history_partitions
    SELECT c.relname::text FROM pg_inherits AS i JOIN pg_class AS c ON c.oid = i.inhrelid
    WHERE i.inhparent = 'relevo.job_history'::regclass";

const DEFAULT_DAYS: &str = "-- list_default_days
    SELECT DISTINCT (finished_at AT TIME ZONE 'UTC')::date::text FROM relevo.job_history_default
    LIMIT 100";

const PRUNE_DEFAULT: &str = "-- prune_default_partition
    DELETE FROM relevo.job_history_default WHERE ctid = ANY (ARRAY (
        SELECT ctid FROM relevo.job_history_default WHERE finished_at < $1 LIMIT 5000))";

const PRUNE_KEYS: &str = "-- prune_idempotency_keys
    DELETE FROM relevo.idempotency_key WHERE key = ANY (ARRAY (
        SELECT key FROM relevo.idempotency_key WHERE expires_at <= now()
        ORDER BY expires_at LIMIT 5000 FOR UPDATE SKIP LOCKED))";

/// A batch that was never sealed, or waits for ever, goes when no job names it any more.
const PRUNE_BATCHES: &str = "-- prune_batches
    DELETE FROM relevo.batch WHERE id = ANY (ARRAY (
        SELECT b.id FROM relevo.batch AS b
        WHERE (b.completed_at < $1 OR (b.state <> 'completed' AND b.created_at < $1))
          AND NOT EXISTS (SELECT 1 FROM relevo.job AS j WHERE j.batch_id = b.id)
          AND NOT EXISTS (SELECT 1 FROM relevo.dead_letter AS d WHERE d.batch_id = b.id)
        LIMIT 5000 FOR UPDATE OF b SKIP LOCKED))";

const PRUNE_PROGRESS: &str = "-- prune_progress
    DELETE FROM relevo.job_progress WHERE job_id = ANY (ARRAY (
        SELECT p.job_id FROM relevo.job_progress AS p
        WHERE p.updated_at < $1
          AND NOT EXISTS (SELECT 1 FROM relevo.job AS j WHERE j.id = p.job_id)
          AND NOT EXISTS (SELECT 1 FROM relevo.dead_letter AS d WHERE d.id = p.job_id)
        LIMIT 5000))";

const OLD_DEAD_LETTERS: &str = "-- list_old_dead_letters
    SELECT id FROM relevo.dead_letter WHERE died_at < $1 ORDER BY died_at LIMIT 500";

/// No statement of this crate leaves a running job without its session's row; a restore or a hand
/// might. Such a job gets a session that ended in order, from which rescue takes it like any other.
/// The age keeps a job out that is claimed again while this looks. The index of running jobs is
/// skipped through from one session to the next.
pub(crate) const ADOPT_STRANDED: &str = "-- adopt_stranded_jobs
    WITH RECURSIVE held AS (
        (SELECT j.session_id FROM relevo.job AS j WHERE j.state = 'running'
         ORDER BY j.session_id LIMIT 1)
        UNION ALL
        SELECT (SELECT j.session_id FROM relevo.job AS j
                WHERE j.state = 'running' AND j.session_id > held.session_id
                ORDER BY j.session_id LIMIT 1)
        FROM held WHERE held.session_id IS NOT NULL
    ), unknown AS MATERIALIZED (
        SELECT held.session_id FROM held
        WHERE held.session_id IS NOT NULL
          AND NOT EXISTS (SELECT 1 FROM relevo.session AS s WHERE s.id = held.session_id)
    ), stranded AS (
        SELECT unknown.session_id FROM unknown CROSS JOIN LATERAL (
            SELECT FROM relevo.job AS j
            WHERE j.state = 'running' AND j.session_id = unknown.session_id
              AND j.claimed_at < now() - interval '1 minute'
            ORDER BY j.session_id LIMIT 1
        ) AS old
    )
    INSERT INTO relevo.session (id, ended_at, ttl, pid, concurrency, name, host, queues)
    OVERRIDING SYSTEM VALUE
    SELECT session_id, now(), interval '1 second', 0, 0, 'unknown', 'unknown', '{}' FROM stranded
    ON CONFLICT (id) DO NOTHING";

pub(crate) async fn prune(queue: &Queue, keep: Retention) -> Result<u64, QueueError> {
    let mut connection = queue.pool().acquire().await?;
    let now: DateTime<Utc> =
        sqlx::query_scalar("-- database_time\nSELECT now()").fetch_one(&mut *connection).await?;
    let cutoff = before(now, keep.history);
    let mut gone = partitions(&mut connection, now.date_naive(), cutoff).await?;

    for statement in [PRUNE_DEFAULT, PRUNE_BATCHES, PRUNE_PROGRESS] {
        for _ in 0..STATEMENTS_MAX {
            let deleted = sqlx::query(statement)
                .bind(cutoff)
                .execute(&mut *connection)
                .await?
                .rows_affected();
            gone += deleted;
            if deleted < ROWS_MAX {
                break;
            }
        }
    }
    for statement in [PRUNE_KEYS, limit::PRUNE_USE] {
        for _ in 0..STATEMENTS_MAX {
            let deleted = sqlx::query(statement).execute(&mut *connection).await?.rows_affected();
            gone += deleted;
            if deleted < ROWS_MAX {
                break;
            }
        }
    }
    let adopted = sqlx::query(ADOPT_STRANDED).execute(&mut *connection).await?.rows_affected();
    if adopted > 0 {
        tracing::warn!(sessions = adopted, "running jobs of unknown sessions are to be rescued");
    }
    if let Some(age) = keep.dead_letters {
        let ids: Vec<JobId> = sqlx::query_scalar(OLD_DEAD_LETTERS)
            .bind(before(now, age))
            .fetch_all(&mut *connection)
            .await?;
        drop(connection);
        for id in ids {
            let mut connection = queue.pool().acquire().await?;
            let reason = "discarded: its retention is over";
            let discarded = dead::discard(&mut connection, id, reason).await?;
            drop(connection);
            gone += u64::from(discarded.is_some());
            admit::now(queue.pool(), discarded.unwrap_or_default()).await;
        }
    }
    Ok(gone)
}

fn before(now: DateTime<Utc>, age: Duration) -> DateTime<Utc> {
    chrono::Duration::from_std(age)
        .ok()
        .and_then(|age| now.checked_sub_signed(age))
        .unwrap_or(DateTime::UNIX_EPOCH)
}

/// Makes and drops partitions; says how many were dropped.
async fn partitions(
    connection: &mut PgConnection,
    today: NaiveDate,
    cutoff: DateTime<Utc>,
) -> Result<u64, QueueError> {
    let names: Vec<String> = sqlx::query_scalar(PARTITIONS).fetch_all(&mut *connection).await?;
    let present: BTreeSet<NaiveDate> = names.iter().filter_map(|name| day_of(name)).collect();

    let mut wanted: BTreeSet<NaiveDate> =
        (0..=DAYS_AHEAD).filter_map(|ahead| today.checked_add_days(Days::new(ahead))).collect();
    let stray: Vec<String> = sqlx::query_scalar(DEFAULT_DAYS).fetch_all(&mut *connection).await?;
    wanted.extend(
        stray
            .iter()
            .filter_map(|day| day.parse::<NaiveDate>().ok())
            .filter(|day| !is_over(*day, cutoff)),
    );
    for day in wanted.difference(&present).take(PARTITIONS_MAX) {
        if !unless_locked(make(connection, *day).await)? {
            break;
        }
    }
    let mut dropped = 0;
    for day in present.iter().filter(|day| is_over(**day, cutoff)).take(PARTITIONS_MAX) {
        if !unless_locked(discard(connection, *day).await)? {
            break;
        }
        dropped += 1;
    }
    Ok(dropped)
}

/// Whether the whole day lies before the cutoff.
fn is_over(day: NaiveDate, cutoff: DateTime<Utc>) -> bool {
    day < cutoff.date_naive()
}

fn name_of(day: NaiveDate) -> String {
    format!("job_history_{}", day.format("%Y%m%d"))
}

fn day_of(name: &str) -> Option<NaiveDate> {
    NaiveDate::parse_from_str(name.strip_prefix("job_history_")?, "%Y%m%d").ok()
}

/// False when a lock could not be had in time.
fn unless_locked(done: Result<(), sqlx::Error>) -> Result<bool, QueueError> {
    match done {
        Ok(()) => Ok(true),
        Err(sqlx::Error::Database(error)) if error.code().as_deref() == Some("55P03") => {
            tracing::debug!("the history's partitions are in use; left to the next pass");
            Ok(false)
        }
        Err(error) => Err(error.into()),
    }
}

async fn run(connection: &mut PgConnection, sql: String) -> Result<(), sqlx::Error> {
    // Names and bounds in it are written from dates.
    sqlx::query(AssertSqlSafe(sql)).execute(connection).await.map(|_| ())
}

/// Whether this process may change partitions now.
async fn lock(connection: &mut PgConnection) -> Result<bool, sqlx::Error> {
    sqlx::query("-- bound_waits\nSELECT set_config('lock_timeout', '1s', true)")
        .execute(&mut *connection)
        .await?;
    sqlx::query_scalar("-- lock_partitions\nSELECT pg_try_advisory_xact_lock($1)")
        .bind(PARTITIONS_LOCK)
        .fetch_one(connection)
        .await
}

/// One day's partition, with the rows that the default partition took for it meanwhile.
async fn make(connection: &mut PgConnection, day: NaiveDate) -> Result<(), sqlx::Error> {
    let Some(next) = day.succ_opt() else { return Ok(()) };
    let mut transaction = connection.begin().await?;
    if !lock(&mut transaction).await? {
        return Ok(());
    }
    let name = name_of(day);
    let (from, to) = (format!("{day} 00:00:00+00"), format!("{next} 00:00:00+00"));
    let range = format!("finished_at >= '{from}' AND finished_at < '{to}'");
    // Before anything else: no row for this day may arrive in the default partition from here on.
    run(
        &mut transaction,
        "LOCK TABLE ONLY relevo.job_history_default IN ACCESS EXCLUSIVE MODE".to_owned(),
    )
    .await?;
    for sql in [
        format!("CREATE TABLE IF NOT EXISTS relevo.{name} (LIKE relevo.job_history INCLUDING ALL)"),
        // Tells ATTACH what it would otherwise scan the table for.
        format!("ALTER TABLE relevo.{name} ADD CONSTRAINT {name}_day CHECK ({range})"),
        format!(
            "WITH moved AS (DELETE FROM relevo.job_history_default WHERE {range} RETURNING *) \
             INSERT INTO relevo.{name} SELECT * FROM moved"
        ),
        format!(
            "ALTER TABLE relevo.job_history ATTACH PARTITION relevo.{name} \
             FOR VALUES FROM ('{from}') TO ('{to}')"
        ),
        format!("ALTER TABLE relevo.{name} DROP CONSTRAINT {name}_day"),
    ] {
        run(&mut transaction, sql).await?;
    }
    transaction.commit().await
}

async fn discard(connection: &mut PgConnection, day: NaiveDate) -> Result<(), sqlx::Error> {
    let mut transaction = connection.begin().await?;
    if !lock(&mut transaction).await? {
        return Ok(());
    }
    run(&mut transaction, format!("DROP TABLE IF EXISTS relevo.{}", name_of(day))).await?;
    transaction.commit().await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn partitions_are_named_by_their_day_and_others_are_left_alone() {
        let day = NaiveDate::from_ymd_opt(2026, 11, 22).expect("a date");
        assert_eq!(name_of(day), "job_history_20261122");
        assert_eq!(day_of("job_history_20261122"), Some(day));
        assert_eq!(day_of("job_history_default"), None);
        assert_eq!(day_of("elsewhere"), None);
    }

    #[test]
    fn a_day_is_over_only_when_all_of_it_is() {
        let day = NaiveDate::from_ymd_opt(2026, 11, 22).expect("a date");
        let at = |text: &str| text.parse::<DateTime<Utc>>().expect("a time");
        assert!(!is_over(day, at("2026-11-22T23:59:59Z")));
        assert!(is_over(day, at("2026-11-23T00:00:00Z")));
    }
}

//! How the synchronisation is, for people and for whoever watches.

use serde::Serialize;
use sqlx::PgPool;

use crate::catalog::iso;
use crate::error::SyncError;

/// More pending changes than this are not healthy.
const PENDING_MAX: i64 = 100;
/// Without a success for longer it is not healthy.
const SUCCESS_MAX_SECONDS: i64 = 300;
/// So many errors in a row are not healthy.
const ERRORS_MAX: i32 = 5;

/// One table.
#[derive(Debug, Serialize, sqlx::FromRow)]
pub struct TableStatus {
    /// Its name.
    pub table_name: String,
    /// When it was last read to the end.
    pub last_sync_from_supabase: Option<String>,
    /// When changes last arrived in Supabase.
    pub last_sync_to_supabase: Option<String>,
    /// Rows written here so far.
    pub records_synced_down: i64,
    /// Rows that arrived in Supabase so far.
    pub records_synced_up: i64,
    /// Local changes that wait.
    pub pending: i64,
    /// Rows whose changes wait for another row, or for another attempt.
    pub waiting: i64,
    /// Rows whose changes were given up.
    pub dead: i64,
    /// Remote rows that the local database refused.
    pub held_down: i64,
    /// What last went wrong.
    pub last_error: Option<String>,
}

/// The whole.
#[derive(Debug, Serialize)]
pub struct Status {
    /// Whether nothing below is out of order.
    pub healthy: bool,
    /// What is out of order, in words.
    pub reasons: Vec<String>,
    /// Whether a person paused it.
    pub paused: bool,
    /// Whether Supabase answered last time; unknown before the first time.
    pub online: Option<bool>,
    /// When a cycle last ended well.
    pub last_success_at: Option<String>,
    /// What last went wrong.
    pub last_error: Option<String>,
    /// In what the two schemas differ.
    pub drift: Vec<String>,
    /// Conflicts that wait for a person.
    pub open_conflicts: i64,
    /// Requests sent so far.
    pub requests: i64,
    /// Bytes received so far.
    pub received_bytes: i64,
    /// Bytes sent so far.
    pub sent_bytes: i64,
    /// By table.
    pub tables: Vec<TableStatus>,
}

#[derive(sqlx::FromRow)]
struct State {
    paused: bool,
    online: Option<bool>,
    last_success_at: Option<String>,
    since_success: Option<i64>,
    consecutive_errors: i32,
    last_error: Option<String>,
    drift: Option<String>,
    open_conflicts: i64,
    requests: i64,
    received_bytes: i64,
    sent_bytes: i64,
}

/// Reads it from the control tables.
///
/// # Errors
/// Those of the database; [`SyncError::Unfit`] before `init`.
pub async fn read(pool: &PgPool) -> Result<Status, SyncError> {
    ready(pool).await?;
    let state: State = sqlx::query_as(sqlx::AssertSqlSafe(format!(
        "-- status
         SELECT paused, online, {} AS last_success_at,
                extract(epoch FROM now() - last_success_at)::bigint AS since_success,
                consecutive_errors, last_error, drift,
                (SELECT count(*) FROM _sync_conflict
                 WHERE winner = 'nobody' AND resolved_at IS NULL) AS open_conflicts,
                requests, received_bytes, sent_bytes
         FROM _sync_state",
        iso("last_success_at")
    )))
    .fetch_one(pool)
    .await?;
    let tables: Vec<TableStatus> = sqlx::query_as(sqlx::AssertSqlSafe(format!(
        "-- status: tables
         WITH names AS (
             SELECT table_name FROM _sync_metadata
             UNION SELECT table_name FROM _sync_pending WHERE NOT synced
         )
         SELECT n.table_name, {} AS last_sync_from_supabase, {} AS last_sync_to_supabase,
                coalesce(m.records_synced_down, 0) AS records_synced_down,
                coalesce(m.records_synced_up, 0) AS records_synced_up, m.last_error,
                (SELECT count(*) FROM _sync_pending p
                 WHERE NOT p.synced AND p.table_name = n.table_name) AS pending,
                (SELECT count(*) FROM _sync_held_up h
                 WHERE h.state = 'waiting' AND h.table_name = n.table_name) AS waiting,
                (SELECT count(*) FROM _sync_held_up h
                 WHERE h.state = 'dead' AND h.table_name = n.table_name) AS dead,
                (SELECT count(*) FROM _sync_held_down h
                 WHERE h.table_name = n.table_name) AS held_down
         FROM names n LEFT JOIN _sync_metadata m USING (table_name) ORDER BY n.table_name",
        iso("m.last_sync_from_supabase"),
        iso("m.last_sync_to_supabase"),
    )))
    .fetch_all(pool)
    .await?;
    let reasons = reasons(&state, &tables);
    Ok(Status {
        healthy: reasons.is_empty(),
        reasons,
        paused: state.paused,
        online: state.online,
        last_success_at: state.last_success_at,
        last_error: state.last_error,
        drift: state
            .drift
            .map(|text| text.lines().map(str::to_owned).collect())
            .unwrap_or_default(),
        open_conflicts: state.open_conflicts,
        requests: state.requests,
        received_bytes: state.received_bytes,
        sent_bytes: state.sent_bytes,
        tables,
    })
}

fn reasons(state: &State, tables: &[TableStatus]) -> Vec<String> {
    let mut reasons = Vec::new();
    if state.paused {
        reasons.push("it is paused".to_owned());
    }
    match state.since_success {
        None => reasons.push("no cycle has succeeded yet".to_owned()),
        Some(seconds) if seconds > SUCCESS_MAX_SECONDS => {
            reasons.push(format!("no cycle has succeeded for {} minutes", seconds / 60));
        }
        Some(_) => {}
    }
    if state.consecutive_errors >= ERRORS_MAX {
        reasons.push(format!("{} cycles in a row had errors", state.consecutive_errors));
    }
    let pending: i64 = tables.iter().map(|table| table.pending).sum();
    if pending > PENDING_MAX {
        reasons.push(format!("{pending} local changes wait"));
    }
    let dead: i64 = tables.iter().map(|table| table.dead).sum();
    if dead > 0 {
        reasons.push(format!("the changes of {dead} rows were given up"));
    }
    reasons
}

/// Pauses or resumes; a running process sees it before its next cycle.
///
/// # Errors
/// Those of the database; [`SyncError::Unfit`] before `init`.
pub async fn pause(pool: &PgPool, paused: bool) -> Result<(), SyncError> {
    ready(pool).await?;
    sqlx::query("-- pause\n UPDATE _sync_state SET paused = $1").bind(paused).execute(pool).await?;
    Ok(())
}

pub(crate) async fn ready(pool: &PgPool) -> Result<(), SyncError> {
    let ready: bool =
        sqlx::query_scalar("-- ready\n SELECT to_regclass('_sync_state') IS NOT NULL")
            .fetch_one(pool)
            .await?;
    if ready {
        return Ok(());
    }
    Err(SyncError::Unfit(vec![
        "the control tables are missing: `init` was not carried out".to_owned(),
    ]))
}

//! Remote rows into the local database, and the decision who wins.
//!
//! Rows are locked first and looked at afterwards, in one transaction, so that no local change can
//! come between the decision and the write. The position moves in the same transaction. A row that
//! the local database refuses is kept aside with its data there, too, and asked for again later.

use sqlx::{AssertSqlSafe, Row as _};

use crate::catalog::Table;
use crate::decision::{Known, Of, Verdict, decide};
use crate::error::SyncError;
use crate::position::{Mark, move_position};
use crate::rest::{Row, array};
use crate::store::{Store, Tx};

/// What became of the rows.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Absorbed {
    /// Written locally.
    pub applied: u64,
    /// Of these, versions that won over a local change.
    pub won: u64,
    /// Versions that lost against a local change.
    pub lost: u64,
    /// Refused by the local database, and kept aside.
    pub held: u64,
}

impl Absorbed {
    /// Adds another's figures.
    pub fn add(&mut self, other: Self) {
        self.applied += other.applied;
        self.won += other.won;
        self.lost += other.lost;
        self.held += other.held;
    }
}

/// Takes a page in, with the position it reaches.
///
/// # Errors
/// Those of the database; then nothing of the page was stored and the position is where it was.
pub async fn page(
    store: &Store,
    table: &Table,
    rows: &[Row],
    mark: Option<&Mark>,
) -> Result<Absorbed, SyncError> {
    take_in(store, table, rows, Of::Anyone, &[], mark).await
}

/// Takes in what own writes were answered with; `done` says which pending changes of which rows
/// they carried.
///
/// # Errors
/// Those of the database; then the changes are still pending.
pub async fn answers(
    store: &Store,
    table: &Table,
    rows: &[Row],
    done: &[(String, i64)],
) -> Result<Absorbed, SyncError> {
    take_in(store, table, rows, Of::OwnWrite, done, None).await
}

async fn take_in(
    store: &Store,
    table: &Table,
    rows: &[Row],
    of: Of,
    done: &[(String, i64)],
    mark: Option<&Mark>,
) -> Result<Absorbed, SyncError> {
    let ids: Vec<&str> = done.iter().map(|(id, _)| id.as_str()).collect();
    let lasts: Vec<i64> = done.iter().map(|(_, last)| *last).collect();
    let mut tx = store.begin().await?;
    lock(&mut tx, table, rows).await?;
    settle_pending(&mut tx, table, &ids, &lasts).await?;
    match rows_in(&mut tx, table, rows, of).await {
        Ok(absorbed) => {
            if let Some(mark) = mark {
                move_position(&mut tx, table, mark).await?;
            }
            tx.commit().await?;
            return Ok(absorbed);
        }
        Err(error) if is_of_a_row(&error) => tx.rollback().await?,
        Err(error) => return Err(error),
    }
    // One of them is refused: each for itself.
    let mut tx = store.begin().await?;
    lock(&mut tx, table, rows).await?;
    settle_pending(&mut tx, table, &ids, &lasts).await?;
    let mut all = Absorbed::default();
    for row in rows {
        sqlx::query("-- page: one row\n SAVEPOINT one_row").execute(&mut *tx).await?;
        match rows_in(&mut tx, table, std::slice::from_ref(row), of).await {
            Ok(absorbed) => {
                all.add(absorbed);
                sqlx::query("-- page: one row\n RELEASE SAVEPOINT one_row")
                    .execute(&mut *tx)
                    .await?;
            }
            Err(error) if is_of_a_row(&error) => {
                sqlx::query("-- page: one row\n ROLLBACK TO SAVEPOINT one_row")
                    .execute(&mut *tx)
                    .await?;
                hold(&mut tx, table, row, &error).await?;
                all.held += 1;
            }
            Err(error) => return Err(error),
        }
    }
    if let Some(mark) = mark {
        move_position(&mut tx, table, mark).await?;
    }
    tx.commit().await?;
    Ok(all)
}

/// Whether the database refused a value or a row, not the statement: classes 22 and 23, and what an
/// application's own check raises.
pub(crate) fn is_of_a_row(error: &SyncError) -> bool {
    let code = error.code();
    code.starts_with("22") || code.starts_with("23") || code == "P0001"
}

/// Locks the local rows: no local change may come between a decision and its write.
async fn lock(tx: &mut Tx, table: &Table, rows: &[Row]) -> Result<(), SyncError> {
    let ids: Vec<&str> = rows.iter().map(|row| row.id.as_str()).collect();
    sqlx::query(AssertSqlSafe(format!(
        "-- lock
         SELECT id FROM {} WHERE id = ANY ($1::text[]::uuid[]) ORDER BY id FOR UPDATE",
        table.path()
    )))
    .bind(&ids)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Takes rows in, inside the caller's transaction.
pub(crate) async fn rows_in(
    tx: &mut Tx,
    table: &Table,
    rows: &[Row],
    of: Of,
) -> Result<Absorbed, SyncError> {
    if rows.is_empty() {
        return Ok(Absorbed::default());
    }
    lock(tx, table, rows).await?;
    let ids: Vec<&str> = rows.iter().map(|row| row.id.as_str()).collect();
    let known = look(tx, table, rows).await?;
    let (mut apply, mut rebase, mut settle) = (Vec::new(), Vec::new(), Vec::new());
    let mut absorbed = Absorbed::default();
    for (row, known) in rows.iter().zip(&known) {
        let last = known.pending.unwrap_or_default();
        match decide(known, of) {
            Verdict::Skip => {}
            Verdict::Rebase => rebase.push(row),
            Verdict::Apply => {
                absorbed.applied += 1;
                apply.push(row);
            }
            Verdict::Adopt => {
                apply.push(row);
                settle.push((row.id.as_str(), last));
            }
            Verdict::RemoteWins => {
                absorbed.applied += 1;
                absorbed.won += 1;
                note_conflict(tx, table, row, known, false).await?;
                apply.push(row);
                settle.push((row.id.as_str(), last));
            }
            verdict @ (Verdict::LocalWins | Verdict::LocalWinsUnrecorded) => {
                if verdict == Verdict::LocalWinsUnrecorded {
                    record(tx, table, &row.id, "UPDATE").await?;
                }
                absorbed.lost += 1;
                note_conflict(tx, table, row, known, true).await?;
                rebase.push(row);
            }
        }
    }
    let (settled, lasts): (Vec<&str>, Vec<i64>) = settle.into_iter().unzip();
    settle_pending(tx, table, &settled, &lasts).await?;
    write(tx, table, &apply).await?;
    rebase.extend(apply);
    set_base(tx, table, &rebase).await?;
    sqlx::query(
        "-- rows_in: what was kept aside has come in
         WITH come AS (
             DELETE FROM _sync_held_down
             WHERE table_name = $1 AND record_id = ANY ($2::text[]::uuid[]) RETURNING record_id
         )
         UPDATE _sync_conflict c SET resolved_at = now() FROM come
         WHERE c.table_name = $1 AND c.record_id = come.record_id AND c.winner = 'nobody'
           AND c.resolved_at IS NULL",
    )
    .bind(&table.name)
    .bind(&ids)
    .execute(&mut **tx)
    .await?;
    Ok(absorbed)
}

/// Records a row as changed now, so that it is sent; whether there is such a row.
pub(crate) async fn record(
    tx: &mut Tx,
    table: &Table,
    id: &str,
    operation: &str,
) -> Result<bool, SyncError> {
    let done = sqlx::query(AssertSqlSafe(format!(
        "-- record
         INSERT INTO _sync_pending (table_name, record_id, operation, data)
         SELECT $1, t.id, $3, to_jsonb(t) FROM {} t WHERE t.id = $2::uuid",
        table.path()
    )))
    .bind(&table.name)
    .bind(id)
    .bind(operation)
    .execute(&mut **tx)
    .await?;
    Ok(done.rows_affected() == 1)
}

/// What is known of each row, in their order.
async fn look(tx: &mut Tx, table: &Table, rows: &[Row]) -> Result<Vec<Known>, SyncError> {
    let statement = format!(
        "-- look: each remote row beside the local one, its base and its pending changes
         SELECT r.id::text AS id,
                coalesce(b.remote_updated_at = r.updated_at::timestamptz, false) AS same_version,
                p.last_id, t.id IS NOT NULL AS here,
                {remote_hash} AS remote_hash,
                CASE WHEN t.id IS NOT NULL THEN {local_hash} END AS local_hash,
                b.hash AS base_hash, s.hash AS sent_hash,
                coalesce(CASE WHEN t.id IS NULL THEN p.last_at ELSE t.updated_at::timestamptz END
                         > r.updated_at::timestamptz, false) AS local_newer,
                CASE WHEN t.id IS NOT NULL THEN to_jsonb(t)::text ELSE p.last_data END AS local
         FROM json_populate_recordset(NULL::{path}, $1::json) r
         LEFT JOIN {path} t ON t.id = r.id
         LEFT JOIN _sync_base b ON b.table_name = $2 AND b.record_id = r.id
         LEFT JOIN _sync_sent s ON s.table_name = $2 AND s.record_id = r.id
         LEFT JOIN LATERAL (
             SELECT q.id AS last_id, q.created_at AS last_at, q.data::text AS last_data
             FROM _sync_pending q
             WHERE NOT q.synced AND q.table_name = $2 AND q.record_id = r.id
             ORDER BY q.id DESC LIMIT 1
         ) p ON true",
        path = table.path(),
        remote_hash = table.hash("r"),
        local_hash = table.hash("t"),
    );
    let found = sqlx::query(AssertSqlSafe(statement))
        .bind(array(rows.iter().map(|row| row.text.as_str())))
        .bind(&table.name)
        .fetch_all(&mut **tx)
        .await?;
    let mut by_id = std::collections::HashMap::with_capacity(found.len());
    for row in found {
        let known = Known {
            same_version: row.try_get("same_version")?,
            pending: row.try_get("last_id")?,
            here: row.try_get("here")?,
            remote_hash: row.try_get("remote_hash")?,
            local_hash: row.try_get("local_hash")?,
            base_hash: row.try_get("base_hash")?,
            sent_hash: row.try_get("sent_hash")?,
            local_newer: row.try_get("local_newer")?,
            local: row.try_get("local")?,
        };
        by_id.insert(row.try_get::<String, _>("id")?, known);
    }
    let lost = || SyncError::Answer("the same row twice in one answer".to_owned());
    rows.iter().map(|row| by_id.remove(&row.id).ok_or_else(lost)).collect()
}

/// Makes the local rows what the remote ones are.
async fn write(tx: &mut Tx, table: &Table, rows: &[&Row]) -> Result<(), SyncError> {
    if rows.is_empty() {
        return Ok(());
    }
    let text = array(rows.iter().map(|row| row.text.as_str()));
    let path = table.path();
    sqlx::query(AssertSqlSafe(format!(
        "-- write: rows that are here
         UPDATE {path} t SET {} FROM json_populate_recordset(NULL::{path}, $1::json) r
         WHERE t.id = r.id AND {} IS DISTINCT FROM {}",
        table.assignments("r"),
        table.image("t"),
        table.image("r"),
    )))
    .bind(&text)
    .execute(&mut **tx)
    .await?;
    // A row that appears between the look and this insert is somebody's newer change: the count
    // tells, and nothing of this transaction stays.
    let clash: i64 = sqlx::query_scalar(AssertSqlSafe(format!(
        "-- write: rows that are not
         WITH missing AS (
             SELECT r.* FROM json_populate_recordset(NULL::{path}, $1::json) r
             WHERE NOT EXISTS (SELECT FROM {path} t WHERE t.id = r.id)
         ), done AS (
             INSERT INTO {path} ({}) OVERRIDING SYSTEM VALUE
             SELECT {} FROM missing r
             ON CONFLICT (id) DO NOTHING RETURNING 1
         )
         SELECT (SELECT count(*) FROM missing) - (SELECT count(*) FROM done)",
        table.insert_list(""),
        table.insert_list("r."),
    )))
    .bind(&text)
    .fetch_one(&mut **tx)
    .await?;
    if clash > 0 { Err(SyncError::Moved) } else { Ok(()) }
}

/// Keeps the versions as the last ones seen.
async fn set_base(tx: &mut Tx, table: &Table, rows: &[&Row]) -> Result<(), SyncError> {
    if rows.is_empty() {
        return Ok(());
    }
    sqlx::query(AssertSqlSafe(format!(
        "-- set_base
         INSERT INTO _sync_base (table_name, record_id, remote_updated_at, hash)
         SELECT $2, r.id, r.updated_at, {}
         FROM json_populate_recordset(NULL::{}, $1::json) r
         ON CONFLICT (table_name, record_id) DO UPDATE
         SET remote_updated_at = excluded.remote_updated_at, hash = excluded.hash",
        table.hash("r"),
        table.path(),
    )))
    .bind(array(rows.iter().map(|row| row.text.as_str())))
    .bind(&table.name)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// The pending changes of each row up to the given one are done.
pub(crate) async fn settle_pending(
    tx: &mut Tx,
    table: &Table,
    ids: &[&str],
    lasts: &[i64],
) -> Result<(), SyncError> {
    if ids.is_empty() {
        return Ok(());
    }
    sqlx::query(
        "-- settle_pending
         WITH done AS (
             SELECT id, last FROM unnest($2::text[]::uuid[], $3::bigint[]) d (id, last)
         ), held AS (
             DELETE FROM _sync_held_up h USING done
             WHERE h.table_name = $1 AND h.record_id = done.id
         ), sent AS (
             DELETE FROM _sync_sent s USING done WHERE s.table_name = $1 AND s.record_id = done.id
         ), told AS (
             UPDATE _sync_conflict c SET resolved_at = now() FROM done
             WHERE c.table_name = $1 AND c.record_id = done.id AND c.winner = 'nobody'
               AND c.resolved_at IS NULL
         )
         UPDATE _sync_pending p SET synced = true, synced_at = now(), error = NULL FROM done
         WHERE NOT p.synced AND p.table_name = $1 AND p.record_id = done.id AND p.id <= done.last",
    )
    .bind(&table.name)
    .bind(ids)
    .bind(lasts)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

async fn note_conflict(
    tx: &mut Tx,
    table: &Table,
    row: &Row,
    known: &Known,
    local_wins: bool,
) -> Result<(), SyncError> {
    let local = known.local.as_deref();
    let (winner, loser, kept) = if local_wins {
        ("local", Some(row.text.as_str()), local)
    } else {
        ("remote", local, Some(row.text.as_str()))
    };
    let kind = if known.here { "both_changed" } else { "deleted_locally" };
    let detail = format!(
        "both sides changed the row; the {} version is the newer one (remote updated_at {})",
        winner, row.updated_at
    );
    tracing::warn!(table = table.name, record_id = row.id, winner, "a conflict was recorded");
    sqlx::query(
        "-- note_conflict
         INSERT INTO _sync_conflict (table_name, record_id, kind, winner, loser, winner_data, detail)
         VALUES ($1, $2::uuid, $3, $4, $5::jsonb, $6::jsonb, $7)",
    )
    .bind(&table.name)
    .bind(&row.id)
    .bind(kind)
    .bind(winner)
    .bind(loser)
    .bind(kept)
    .bind(detail)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

/// Keeps a refused row aside. Two rows with the same unique value are a conflict for a person.
async fn hold(tx: &mut Tx, table: &Table, row: &Row, error: &SyncError) -> Result<(), SyncError> {
    let reason = error.line();
    sqlx::query(
        "-- hold
         INSERT INTO _sync_held_down (table_name, record_id, data, reason)
         VALUES ($1, $2::uuid, $3::jsonb, $4)
         ON CONFLICT (table_name, record_id) DO UPDATE SET data = excluded.data,
             reason = excluded.reason, tries = _sync_held_down.tries + 1",
    )
    .bind(&table.name)
    .bind(&row.id)
    .bind(&row.text)
    .bind(&reason)
    .execute(&mut **tx)
    .await?;
    if error.code() == "23505" {
        open_conflict(tx, table, &row.id, "unique", Some(&row.text), &reason).await?;
    }
    Ok(())
}

/// A conflict that a person has to decide; once per row and kind while it is open.
pub(crate) async fn open_conflict(
    tx: &mut Tx,
    table: &Table,
    id: &str,
    kind: &str,
    data: Option<&str>,
    detail: &str,
) -> Result<(), SyncError> {
    sqlx::query(
        "-- open_conflict
         INSERT INTO _sync_conflict (table_name, record_id, kind, winner, loser, detail)
         VALUES ($1, $2::uuid, $3, 'nobody', $4::jsonb, $5)
         ON CONFLICT (table_name, record_id, kind)
             WHERE resolved_at IS NULL AND winner = 'nobody'
         DO UPDATE SET loser = excluded.loser, detail = excluded.detail",
    )
    .bind(&table.name)
    .bind(id)
    .bind(kind)
    .bind(data)
    .bind(detail)
    .execute(&mut **tx)
    .await?;
    Ok(())
}

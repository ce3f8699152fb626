//! Local changes to Supabase.
//!
//! All pending changes of one row go as one: what counts is the row as it is now. New rows go many
//! at a time and ignore what is there already; changes and deletes are filtered on the version they
//! replace. Where nothing matched, the remote row is read again and decided upon like a pulled one.
//! Parents go before children, deletes the other way round; what another row stands in the way of
//! is tried again as long as anything else gets on, and waits otherwise.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use futures::StreamExt as _;
use futures::stream;
use sqlx::{AssertSqlSafe, FromRow};

use crate::absorb::{self, Absorbed, open_conflict};
use crate::catalog::{Table, iso};
use crate::config::{Config, OnUnique};
use crate::error::SyncError;
use crate::removal::{self, Removed};
use crate::rest::{Rest, Row, array};
use crate::store::{Store, backoff};

/// Rows that are looked for at once.
const DUE_MAX: i64 = 2000;
/// Conditional writes under way at once.
const WRITES_AT_ONCE: usize = 8;
/// A row whose remote version moves on as fast as it is read waits for the next cycle.
const READ_AGAIN_MAX: u32 = 5;

/// Rounds of one pass.
const ROUNDS_MAX: u32 = 50;

/// A changed row.
#[derive(Debug, FromRow)]
struct Change {
    id: String,
    /// The newest of its pending changes that the row was read with.
    last_id: i64,
    /// Whether the row exists.
    here: bool,
    /// The row as it is sent.
    image: Option<String>,
    hash: Option<String>,
    /// The remote version it is a change of.
    base: Option<String>,
    /// Whether it was sent before without an answer.
    sent: bool,
}

/// What became of one table's changes.
#[derive(Debug, Default)]
pub struct Pushed {
    /// Rows that arrived.
    pub sent: u64,
    /// What came back: remote versions that won, and so on.
    pub absorbed: Absorbed,
    /// The first reason why rows did not get through.
    pub error: Option<String>,
}

/// One pass over everything that is due.
pub struct Push<'a> {
    /// The local side.
    pub store: &'a Store,
    /// The remote side.
    pub rest: &'a Rest,
    /// The configuration.
    pub config: &'a Config,
    /// The tables, parents first.
    pub tables: &'a [Table],
    /// Rows that are not tried again in this pass, or how often they were read again.
    tried: HashMap<(String, String), u32>,
    /// Rows in whose way another one stands, and why.
    blocked: HashMap<(String, String), (i64, SyncError)>,
    /// By table.
    pushed: BTreeMap<String, Pushed>,
}

impl<'a> Push<'a> {
    /// A pass.
    #[must_use]
    pub fn new(store: &'a Store, rest: &'a Rest, config: &'a Config, tables: &'a [Table]) -> Self {
        let (tried, blocked, pushed) = (HashMap::new(), HashMap::new(), BTreeMap::new());
        Self { store, rest, config, tables, tried, blocked, pushed }
    }

    /// Sends what is due; the figures by table, and what ended the pass early.
    pub async fn run(mut self) -> (BTreeMap<String, Pushed>, Result<(), SyncError>) {
        let ended = self.rounds().await;
        let held = if ended.is_ok() { self.hold_blocked().await } else { Ok(()) };
        (self.pushed, ended.and(held))
    }

    async fn rounds(&mut self) -> Result<(), SyncError> {
        // Changes that go on arriving must not keep the other direction waiting.
        for _ in 0..ROUNDS_MAX {
            let due = self.due().await?;
            let mut progress = false;
            let tables = self.tables;
            for (deleting, table) in
                tables.iter().map(|t| (false, t)).chain(tables.iter().rev().map(|t| (true, t)))
            {
                let Some(ids) = due.get(&table.name) else { continue };
                let batch = self.config.sync.batch_size;
                for ids in ids.chunks(batch) {
                    match self.chunk(table, ids, deleting).await {
                        Ok(moved) => progress |= moved,
                        Err(error) if is_of_the_table(&error) => {
                            tracing::warn!(table = table.name, error = error.line(), "not sent");
                            let pushed = self.pushed.entry(table.name.clone()).or_default();
                            pushed.error.get_or_insert_with(|| error.line());
                            for id in ids {
                                self.give_up(table, id);
                            }
                        }
                        Err(error) => return Err(error),
                    }
                }
            }
            if !progress {
                break;
            }
        }
        Ok(())
    }

    /// The rows with changes that may be sent now, by table, oldest change first.
    async fn due(&self) -> Result<BTreeMap<String, Vec<String>>, SyncError> {
        let names: Vec<&str> = self.tables.iter().map(|table| table.name.as_str()).collect();
        let done: Vec<(&str, &str)> = self
            .tried
            .iter()
            .filter(|(_, count)| **count >= READ_AGAIN_MAX)
            .map(|((table, id), _)| (table.as_str(), id.as_str()))
            .collect();
        let (done_tables, done_ids): (Vec<&str>, Vec<&str>) = done.into_iter().unzip();
        let found: Vec<(String, String)> = sqlx::query_as(
            "-- due: a row that was held back is due again in time, or when it was changed anew
             SELECT p.table_name, p.record_id::text
             FROM _sync_pending p
             LEFT JOIN _sync_held_up h USING (table_name, record_id)
             WHERE NOT p.synced AND p.table_name = ANY ($1)
               AND NOT EXISTS (SELECT FROM unnest($2::text[], $3::text[]::uuid[]) d (name, id)
                               WHERE d.name = p.table_name AND d.id = p.record_id)
             GROUP BY p.table_name, p.record_id, h.state, h.not_before, h.last_pending_id
             HAVING h.state IS NULL OR max(p.id) > h.last_pending_id
                 OR (h.state = 'waiting' AND h.not_before <= now())
             ORDER BY min(p.id) LIMIT $4",
        )
        .bind(&names)
        .bind(&done_tables)
        .bind(&done_ids)
        .bind(DUE_MAX)
        .fetch_all(&self.store.pool)
        .await?;
        let mut due: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for (table, id) in found {
            due.entry(table).or_default().push(id);
        }
        Ok(due)
    }

    /// Sends the changes of some rows of one table: those that exist, or those that don't any more.
    async fn chunk(
        &mut self,
        table: &'a Table,
        ids: &[String],
        deleting: bool,
    ) -> Result<bool, SyncError> {
        let mut changes = self.changes(table, ids).await?;
        changes.retain(|change| change.here != deleting);
        if changes.is_empty() {
            return Ok(false);
        }
        let (mut contested, mut answers, mut done) = (Vec::new(), Vec::new(), Vec::new());
        let mut failed = None;
        if deleting {
            // Never sent, and gone again: nothing is to be done there.
            let (unseen, known): (Vec<Change>, Vec<Change>) =
                changes.into_iter().partition(|change| change.base.is_none() && !change.sent);
            done.extend(unseen.into_iter().map(|change| (change.id, change.last_id)));
            let outcomes = stream::iter(known.into_iter().map(async |change| {
                let outcome = match &change.base {
                    Some(base) => self.rest.delete(&table.name, &change.id, base).await,
                    None => Ok(false),
                };
                (change, outcome)
            }));
            let outcomes: Vec<_> = outcomes.buffer_unordered(WRITES_AT_ONCE).collect().await;
            for (change, outcome) in outcomes {
                match outcome {
                    Ok(true) => done.push((change.id, change.last_id)),
                    Ok(false) => contested.push(change),
                    Err(error) => self.refused(table, change, error, &mut failed).await?,
                }
            }
        } else {
            self.note_sent(table, &changes).await?;
            let (new, changed): (Vec<Change>, Vec<Change>) =
                changes.into_iter().partition(|change| change.base.is_none());
            let mut heaps = if new.is_empty() { Vec::new() } else { vec![new] };
            while let Some(mut heap) = heaps.pop() {
                let rows = array(heap.iter().filter_map(|change| change.image.as_deref()));
                match self.rest.insert(&table.name, &table.select(), &table.sent(), rows).await {
                    Ok(rows) => {
                        for change in heap {
                            match rows.iter().find(|row| row.id == change.id) {
                                Some(row) => {
                                    answers.push(row.clone());
                                    done.push((change.id, change.last_id));
                                }
                                None => contested.push(change),
                            }
                        }
                    }
                    // One of them is refused, and all with it: halves, until it is found.
                    Err(error)
                        if heap.len() > 1 && !error.is_offline() && !is_of_the_table(&error) =>
                    {
                        let second = heap.split_off(heap.len() / 2);
                        heaps.push(second);
                        heaps.push(heap);
                    }
                    Err(error) => {
                        for change in heap {
                            let again = clone_of(&error);
                            self.refused(table, change, again, &mut failed).await?;
                        }
                    }
                }
            }
            let select = table.select();
            let outcomes = stream::iter(changed.into_iter().map(async |change| {
                let row = change.image.clone().unwrap_or_default();
                let base = change.base.clone().unwrap_or_default();
                let version = (change.id.as_str(), base.as_str());
                let outcome = self.rest.update(&table.name, &select, version, row).await;
                (change, outcome)
            }));
            let outcomes: Vec<_> = outcomes.buffer_unordered(WRITES_AT_ONCE).collect().await;
            for (change, outcome) in outcomes {
                match outcome {
                    Ok(Some(row)) => {
                        done.push((change.id, change.last_id));
                        answers.push(row);
                    }
                    Ok(None) => contested.push(change),
                    Err(error) => self.refused(table, change, error, &mut failed).await?,
                }
            }
        }
        let arrived = done.len();
        if arrived > 0 {
            if deleting {
                removal::forget(self.store, table, &done).await?;
            } else {
                absorb::answers(self.store, table, &answers, &done).await?;
            }
            self.pushed.entry(table.name.clone()).or_default().sent += arrived as u64;
        }
        if let Some(error) = failed {
            return Err(error);
        }
        let decided = self.read_again(table, contested).await?;
        Ok(arrived > 0 || decided)
    }

    async fn changes(&self, table: &Table, ids: &[String]) -> Result<Vec<Change>, SyncError> {
        let statement = format!(
            "-- changes: rows as they are, with the newest change that made them so
             SELECT p.record_id::text AS id, p.last_id, t.id IS NOT NULL AS here,
                    CASE WHEN t.id IS NOT NULL THEN {image}::text END AS image,
                    CASE WHEN t.id IS NOT NULL THEN {hash} END AS hash,
                    {base} AS base, s.hash IS NOT NULL AS sent
             FROM (SELECT record_id, max(id) AS last_id FROM _sync_pending
                   WHERE NOT synced AND table_name = $1 AND record_id = ANY ($2::text[]::uuid[])
                   GROUP BY record_id) p
             LEFT JOIN {path} t ON t.id = p.record_id
             LEFT JOIN _sync_base b ON b.table_name = $1 AND b.record_id = p.record_id
             LEFT JOIN _sync_sent s ON s.table_name = $1 AND s.record_id = p.record_id
             ORDER BY p.last_id",
            image = table.image("t"),
            hash = table.hash("t"),
            base = iso("b.remote_updated_at"),
            path = table.path(),
        );
        Ok(sqlx::query_as(AssertSqlSafe(statement))
            .bind(&table.name)
            .bind(ids)
            .fetch_all(&self.store.pool)
            .await?)
    }

    /// Remembers what is about to be sent: an answer may be lost.
    async fn note_sent(&self, table: &Table, changes: &[Change]) -> Result<(), SyncError> {
        let ids: Vec<&str> = changes.iter().map(|change| change.id.as_str()).collect();
        let hashes: Vec<&str> =
            changes.iter().map(|change| change.hash.as_deref().unwrap_or_default()).collect();
        let mut tx = self.store.begin().await?;
        sqlx::query(
            "-- note_sent
             INSERT INTO _sync_sent (table_name, record_id, hash)
             SELECT $1, d.id, d.hash FROM unnest($2::text[]::uuid[], $3::text[]) d (id, hash)
             ON CONFLICT (table_name, record_id) DO UPDATE SET hash = excluded.hash",
        )
        .bind(&table.name)
        .bind(&ids)
        .bind(&hashes)
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(())
    }

    /// Reads rows again that a write did not find as they were, and decides.
    async fn read_again(
        &mut self,
        table: &Table,
        contested: Vec<Change>,
    ) -> Result<bool, SyncError> {
        let mut decided = false;
        for some in contested.chunks(100) {
            let ids: Vec<String> = some.iter().map(|change| change.id.clone()).collect();
            let rows = self.rest.rows_of(&table.name, &table.select(), &ids).await?;
            let absorbed = absorb::page(self.store, table, &rows, None).await?;
            self.pushed.entry(table.name.clone()).or_default().absorbed.add(absorbed);
            for change in some {
                let key = (table.name.clone(), change.id.clone());
                let count = self.tried.entry(key).or_default();
                *count += 1;
                decided |= *count < READ_AGAIN_MAX;
                if !rows.iter().any(|row| row.id == change.id) {
                    self.absent(table, change).await?;
                }
            }
        }
        Ok(decided)
    }

    /// A row that doesn't exist remotely.
    async fn absent(&mut self, table: &Table, change: &Change) -> Result<(), SyncError> {
        if !change.here {
            let done = [(change.id.clone(), change.last_id)];
            return removal::forget(self.store, table, &done).await;
        }
        if change.base.is_none() {
            // Its insert was ignored, but it isn't there: deleted a moment ago. It is sent anew.
            return Ok(());
        }
        match removal::deleted_remotely(self.store, self.tables, table, &change.id).await? {
            Removed::Done | Removed::Again => Ok(()),
            Removed::Kept(reason) => {
                self.hold(table, &change.id, change.last_id, &reason, false).await?;
                self.give_up(table, &change.id);
                Ok(())
            }
        }
    }

    /// A row that was refused: whose fault is it, and what follows?
    async fn refused(
        &mut self,
        table: &Table,
        change: Change,
        error: SyncError,
        failed: &mut Option<SyncError>,
    ) -> Result<(), SyncError> {
        if !matches!(error, SyncError::Refused { .. }) || is_of_the_table(&error) {
            failed.get_or_insert(error);
            return Ok(());
        }
        let pushed = self.pushed.entry(table.name.clone()).or_default();
        pushed.error.get_or_insert_with(|| format!("row {}: {}", change.id, error.line()));
        let key = (table.name.clone(), change.id.clone());
        match error.code().as_str() {
            "23505" if self.renumber(table, &change).await? => Ok(()),
            "23503" | "23505" => {
                self.blocked.insert(key, (change.last_id, error));
                Ok(())
            }
            _ => {
                let reason = error.line();
                self.hold(table, &change.id, change.last_id, &reason, true).await?;
                self.tried.insert(key, READ_AGAIN_MAX);
                Ok(())
            }
        }
    }

    fn give_up(&mut self, table: &Table, id: &str) {
        self.tried.insert((table.name.clone(), id.to_owned()), READ_AGAIN_MAX);
    }

    /// What still stands in the way of others at the end of the pass waits.
    async fn hold_blocked(&mut self) -> Result<(), SyncError> {
        let blocked = std::mem::take(&mut self.blocked);
        let tables = self.tables;
        for ((name, id), (last, error)) in blocked {
            let Some(table) = tables.iter().find(|table| table.name == name) else { continue };
            let reason = error.line();
            let held = self.hold(table, &id, last, &reason, false).await?;
            if held && error.code() == "23505" {
                let mut tx = self.store.begin().await?;
                let local: Option<String> = sqlx::query_scalar(AssertSqlSafe(format!(
                    "-- hold_blocked\n SELECT to_jsonb(t)::text FROM {} t WHERE id = $1::uuid",
                    table.path()
                )))
                .bind(&id)
                .fetch_optional(&mut *tx)
                .await?;
                open_conflict(&mut tx, table, &id, "unique", local.as_deref(), &reason).await?;
                tx.commit().await?;
            }
        }
        Ok(())
    }

    /// Holds a row's changes back for a while; with `counts`, for good after the last attempt.
    /// Whether there was anything left to hold.
    async fn hold(
        &self,
        table: &Table,
        id: &str,
        last: i64,
        reason: &str,
        counts: bool,
    ) -> Result<bool, SyncError> {
        let mut tx = self.store.begin().await?;
        let pending: Option<(i32, String)> = sqlx::query_as(
            "-- hold: a change that has been settled meanwhile is held no more
             UPDATE _sync_pending SET error = $4, retry_count = retry_count + 1
             WHERE NOT synced AND table_name = $1 AND record_id = $2::uuid AND id = $3
             RETURNING retry_count, data::text",
        )
        .bind(&table.name)
        .bind(id)
        .bind(last)
        .bind(reason)
        .fetch_optional(&mut *tx)
        .await?;
        let Some((tries, data)) = pending else { return Ok(false) };
        let attempts = i32::try_from(self.config.sync.retry_max_attempts).unwrap_or(i32::MAX);
        let dead = counts && tries >= attempts;
        let delay = Duration::from_secs(self.config.sync.retry_delay_seconds);
        sqlx::query(
            "-- hold
             INSERT INTO _sync_held_up
                 (table_name, record_id, last_pending_id, state, tries, not_before, reason)
             VALUES ($1, $2::uuid, $3, $4, $5, now() + make_interval(secs => $6), $7)
             ON CONFLICT (table_name, record_id) DO UPDATE SET
                 last_pending_id = excluded.last_pending_id, state = excluded.state,
                 tries = excluded.tries, not_before = excluded.not_before,
                 reason = excluded.reason",
        )
        .bind(&table.name)
        .bind(id)
        .bind(last)
        .bind(if dead { "dead" } else { "waiting" })
        .bind(tries)
        .bind(backoff(delay, tries - 1).as_secs_f64())
        .bind(reason)
        .execute(&mut *tx)
        .await?;
        if dead {
            open_conflict(&mut tx, table, id, "rejected", Some(&data), reason).await?;
            tracing::error!(table = table.name, record_id = id, reason, "a change was given up");
        }
        tx.commit().await?;
        Ok(true)
    }

    /// Gives a row whose number is taken the next free one, where the table is set so.
    async fn renumber(&mut self, table: &Table, change: &Change) -> Result<bool, SyncError> {
        let Some(options) = self.config.options(&table.name) else { return Ok(false) };
        let (OnUnique::Renumber, Some(column)) = (options.on_unique, &options.renumber_column)
        else {
            return Ok(false);
        };
        let key = (table.name.clone(), change.id.clone());
        let count = self.tried.entry(key).or_default();
        *count += 1;
        if *count >= READ_AGAIN_MAX || !table.has(column) {
            return Ok(false);
        }
        let select = format!("id,updated_at,{column}");
        let order = format!("{column}.desc.nullslast");
        let query = [("select", select.as_str()), ("order", order.as_str())];
        let highest: Option<Row> = self.rest.page(&table.name, &query, 1).await?.rows.pop();
        let mut tx = self.store.begin().await?;
        let name = relevo_pg::ident::quote(column);
        let changed: Option<(String, String, String)> = sqlx::query_as(AssertSqlSafe(format!(
            "-- renumber
             WITH old AS (
                 SELECT id, {name} AS number, to_jsonb(o) AS row FROM {path} o
                 WHERE id = $1::uuid FOR UPDATE
             )
             UPDATE {path} t SET {name} = 1 + greatest(($2::jsonb ->> $3)::bigint,
                 (SELECT max({name}) FROM {path}))
             FROM old WHERE t.id = old.id
             RETURNING old.number::text, t.{name}::text, old.row::text",
            path = table.path()
        )))
        .bind(&change.id)
        .bind(highest.map(|row| row.text))
        .bind(column)
        .fetch_optional(&mut *tx)
        .await?;
        let Some((old, new, row)) = changed else { return Ok(false) };
        let detail = format!("{column} {old} was taken on the other side; the row is now {new}");
        tracing::warn!(table = table.name, record_id = change.id, detail, "renumbered");
        sqlx::query(
            "-- renumber: the record of it
             INSERT INTO _sync_conflict
                 (table_name, record_id, kind, winner, loser, detail, resolved_at)
             VALUES ($1, $2::uuid, 'unique', 'remote', $3::jsonb, $4, now())",
        )
        .bind(&table.name)
        .bind(&change.id)
        .bind(row)
        .bind(detail)
        .execute(&mut *tx)
        .await?;
        tx.commit().await?;
        Ok(true)
    }
}

/// Whether a refusal is about the table, the key or this program, not about one row's values.
fn is_of_the_table(error: &SyncError) -> bool {
    let SyncError::Refused { status, code, .. } = error else { return false };
    let of_the_table = ["42501", "42P01", "42703", "42P10"];
    matches!(status, 401 | 403 | 404 | 405 | 406)
        || code.starts_with("PGRST")
        || of_the_table.contains(&code.as_str())
}

/// An error said of several rows at once.
fn clone_of(error: &SyncError) -> SyncError {
    match error {
        SyncError::Refused { status, code, message } => {
            SyncError::Refused { status: *status, code: code.clone(), message: message.clone() }
        }
        SyncError::Paused => SyncError::Paused,
        SyncError::TooLarge(bytes) => SyncError::TooLarge(*bytes),
        SyncError::Answer(text) => SyncError::Answer(text.clone()),
        other => SyncError::Offline(match other {
            SyncError::Offline(text) => text.clone(),
            other => other.line(),
        }),
    }
}

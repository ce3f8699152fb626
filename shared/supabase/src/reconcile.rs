//! Both sides compared, id by id and version by version: finds what the looks at `updated_at`
//! can't, such as deleted rows.

use std::collections::HashMap;

use serde::Serialize;
use sqlx::AssertSqlSafe;

use crate::absorb;
use crate::catalog::{Table, iso};
use crate::config::Config;
use crate::error::SyncError;
use crate::pull::branch_filter;
use crate::removal::{self, Removed};
use crate::rest::{Rest, Row};
use crate::store::Store;

/// Ids of one request.
const PAGE_ROWS: usize = 1000;
/// Above this share of a table's rows deletions wait for a person's word.
const DELETE_MAX_PERCENT: usize = 5;
/// Ids that a report names; the counts are whole.
const NAMED_MAX: usize = 20;

/// What differs in one table.
#[derive(Debug, Default, Serialize)]
pub struct Difference {
    /// The table.
    pub table: String,
    /// Remote rows compared.
    pub remote_rows: usize,
    /// Local rows compared.
    pub local_rows: usize,
    /// Remote rows that are missing here, or that are of another version.
    pub stale: usize,
    /// Rows that were deleted remotely and are here still.
    pub deleted_remotely: usize,
    /// Local rows that Supabase never had, and that no pending change tells of.
    pub unsent: usize,
    /// Local rows that were changed without a record of it.
    pub changed_unrecorded: usize,
    /// Rows that differ but have unsent changes or wait for a person: left alone.
    pub left_alone: usize,
    /// Differences that were put right.
    pub repaired: usize,
    /// Deletions that wait for a person's word, because they are too many.
    pub refused_deletions: usize,
    /// Some of the ids.
    pub ids: Vec<String>,
    /// Why single rows could not be put right.
    pub problems: Vec<String>,
}

impl Difference {
    /// Whether both sides are the same, save for what is on its way.
    #[must_use]
    pub fn is_equal(&self) -> bool {
        self.stale + self.deleted_remotely + self.unsent + self.changed_unrecorded == self.repaired
    }

    fn name(&mut self, id: &str) {
        if self.ids.len() < NAMED_MAX {
            self.ids.push(id.to_owned());
        }
    }
}

/// What to do about differences.
#[derive(Debug, Clone, Copy, Default)]
pub struct Repair {
    /// Put them right.
    pub repair: bool,
    /// Also delete more than five in a hundred rows of a table.
    pub many_deletions: bool,
}

/// A local row, or what is known of one that is gone.
#[derive(sqlx::FromRow)]
struct Local {
    id: String,
    here: bool,
    base: Option<String>,
    base_hash: Option<String>,
    hash: Option<String>,
    busy: bool,
}

/// Compares one table.
///
/// # Errors
/// Those of the line and of the database.
pub async fn table(
    store: &Store,
    rest: &Rest,
    config: &Config,
    tables: &[Table],
    table: &Table,
    repair: Repair,
) -> Result<Difference, SyncError> {
    let mut found = Difference { table: table.name.clone(), ..Difference::default() };
    let (mut stale, mut deleted, mut unsent) = (Vec::new(), Vec::new(), Vec::new());
    let branch = branch_filter(config, table);
    let mut after: Option<String> = None;
    loop {
        let above = after.as_ref().map(|id| format!("gt.{id}"));
        let mut query = vec![("select", "id,updated_at"), ("order", "id.asc")];
        if let Some(above) = &above {
            query.push(("id", above));
        }
        if let Some(branch) = &branch {
            query.push(("branch_id", branch));
        }
        let page = rest.page(&table.name, &query, PAGE_ROWS).await?;
        let last = rest.is_last(&page);
        let until = page.rows.last().map(|row| row.id.clone()).filter(|_| !last);
        let locals = locals(store, table, after.as_deref(), until.as_deref(), config).await?;
        found.remote_rows += page.rows.len();
        found.local_rows += locals.iter().filter(|local| local.here).count();
        let versions = versions(store, &page.rows).await?;
        let mut remote: HashMap<&str, &str> = page
            .rows
            .iter()
            .zip(&versions)
            .map(|(row, at)| (row.id.as_str(), at.as_str()))
            .collect();
        for local in locals {
            let version = remote.remove(local.id.as_str());
            if local.busy {
                let same = version.is_some() && version == local.base.as_deref();
                found.left_alone += usize::from(!same);
                continue;
            }
            match version {
                Some(version) if local.base.as_deref() != Some(version) || !local.here => {
                    stale.push(local.id);
                }
                Some(_) if local.hash != local.base_hash => {
                    found.changed_unrecorded += 1;
                    unsent.push((local.id, "UPDATE"));
                }
                Some(_) => {}
                None if local.base.is_some() => deleted.push(local.id),
                None if local.here => {
                    found.unsent += 1;
                    unsent.push((local.id, "INSERT"));
                }
                None => {}
            }
        }
        stale.extend(remote.into_keys().map(str::to_owned));
        after = until;
        if last {
            break;
        }
    }
    found.stale = stale.len();
    found.deleted_remotely = deleted.len();
    for id in stale.iter().chain(&deleted).chain(unsent.iter().map(|(id, _)| id)) {
        found.name(id);
    }
    if repair.repair {
        put_right(store, rest, table, &mut found, &stale, &unsent).await?;
        let many = deleted.len() * 100 > found.local_rows * DELETE_MAX_PERCENT;
        if many && !repair.many_deletions {
            found.refused_deletions = deleted.len();
        } else {
            remove(store, rest, tables, table, &mut found, &deleted).await?;
        }
    }
    Ok(found)
}

async fn put_right(
    store: &Store,
    rest: &Rest,
    table: &Table,
    found: &mut Difference,
    stale: &[String],
    unsent: &[(String, &str)],
) -> Result<(), SyncError> {
    for ids in stale.chunks(100) {
        // Rows that were deleted here without a record come in as if for the first time.
        sqlx::query(AssertSqlSafe(format!(
            "-- put_right
             DELETE FROM _sync_base b WHERE table_name = $1
                 AND record_id = ANY ($2::text[]::uuid[])
                 AND NOT EXISTS (SELECT FROM {} t WHERE t.id = b.record_id)
                 AND NOT EXISTS (SELECT FROM _sync_pending p WHERE NOT p.synced
                     AND p.table_name = b.table_name AND p.record_id = b.record_id)",
            table.path()
        )))
        .bind(&table.name)
        .bind(ids)
        .execute(&store.pool)
        .await?;
        let rows = rest.rows_of(&table.name, &table.select(), ids).await?;
        let absorbed = absorb::page(store, table, &rows, None).await?;
        found.repaired += ids.len().saturating_sub(usize::try_from(absorbed.held).unwrap_or(0));
        if absorbed.held > 0 {
            found
                .problems
                .push(format!("{} rows are refused by the local database", absorbed.held));
        }
    }
    for (id, operation) in unsent {
        let mut tx = store.begin().await?;
        found.repaired += usize::from(absorb::record(&mut tx, table, id, operation).await?);
        tx.commit().await?;
    }
    Ok(())
}

async fn remove(
    store: &Store,
    rest: &Rest,
    tables: &[Table],
    table: &Table,
    found: &mut Difference,
    deleted: &[String],
) -> Result<(), SyncError> {
    for ids in deleted.chunks(100) {
        let back = rest.rows_of(&table.name, "id,updated_at", ids).await?;
        for id in ids.iter().filter(|id| !back.iter().any(|row| row.id == **id)) {
            match removal::remove(store, tables, table, id).await? {
                Removed::Done => found.repaired += 1,
                Removed::Again => found.left_alone += 1,
                Removed::Kept(reason) if found.problems.len() < NAMED_MAX => {
                    found.problems.push(format!("{id}: {reason}"));
                }
                Removed::Kept(_) => {}
            }
        }
    }
    Ok(())
}

/// The remote versions as the local database writes them.
async fn versions(store: &Store, rows: &[Row]) -> Result<Vec<String>, SyncError> {
    let texts: Vec<&str> = rows.iter().map(|row| row.updated_at.as_str()).collect();
    Ok(sqlx::query_scalar(AssertSqlSafe(format!(
        "-- versions\n SELECT {} FROM unnest($1::text[]) WITH ORDINALITY u (at, nth) ORDER BY nth",
        iso("u.at")
    )))
    .bind(&texts)
    .fetch_all(&store.pool)
    .await?)
}

/// What is here of a range of ids: after the first, up to the second.
async fn locals(
    store: &Store,
    table: &Table,
    after: Option<&str>,
    until: Option<&str>,
    config: &Config,
) -> Result<Vec<Local>, SyncError> {
    let branch = config.sync.branch_id.as_ref().filter(|_| table.has("branch_id"));
    let of_branch =
        if branch.is_some() { "AND branch_id::text = $4" } else { "AND $4::text IS NULL" };
    // With a branch, versions of rows of others are none of this comparison's business.
    let only_here = if branch.is_some() { "AND t.id IS NOT NULL" } else { "" };
    let range = |column: &str| {
        format!(
            "($2::uuid IS NULL OR {column} > $2::uuid) AND ($3::uuid IS NULL OR {column} <= $3::uuid)"
        )
    };
    let statement = format!(
        "-- locals: rows and versions of one range
         SELECT coalesce(t.id, b.record_id)::text AS id, t.id IS NOT NULL AS here,
                {base} AS base, b.hash AS base_hash,
                CASE WHEN t.id IS NOT NULL THEN {hash} END AS hash,
                EXISTS (SELECT FROM _sync_pending p WHERE NOT p.synced AND p.table_name = $1
                            AND p.record_id = coalesce(t.id, b.record_id))
                OR EXISTS (SELECT FROM _sync_held_down h WHERE h.table_name = $1
                            AND h.record_id = coalesce(t.id, b.record_id)) AS busy
         FROM (SELECT * FROM {path} WHERE {ids} {of_branch}) t
         FULL JOIN (SELECT * FROM _sync_base WHERE table_name = $1 AND {records}) b
              ON b.record_id = t.id
         WHERE true {only_here}",
        base = iso("b.remote_updated_at"),
        hash = table.hash("t"),
        path = table.path(),
        ids = range("id"),
        records = range("record_id"),
    );
    Ok(sqlx::query_as(AssertSqlSafe(statement))
        .bind(&table.name)
        .bind(after)
        .bind(until)
        .bind(branch)
        .fetch_all(&store.pool)
        .await?)
}

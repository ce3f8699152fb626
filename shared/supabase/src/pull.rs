//! Rows of Supabase that are new or changed since the last look.
//!
//! Pages go by (updated_at, id), so that neither equal moments nor a server that cuts pages short
//! leave anything out. The order is the data's own; the local clock is never asked.

use crate::absorb::{self, Absorbed};
use crate::catalog::Table;
use crate::config::Config;
use crate::error::SyncError;
use crate::position::{self, Mark};
use crate::rest::{Rest, Row};
use crate::store::Store;

/// Rows of one request while a table is copied for the first time.
const FIRST_COPY_ROWS: usize = 1000;
/// Rows that the local database refused and that are asked for again in one look.
const HELD_MAX: i64 = 100;

/// Reads one table. `deep` begins behind the overlap, where late commits may have appeared;
/// otherwise at the last row seen, which is one small request while nothing changes.
///
/// # Errors
/// Those of the line and of the database; what was stored before stays.
pub async fn pull(
    store: &Store,
    rest: &Rest,
    config: &Config,
    table: &Table,
    deep: bool,
) -> Result<Absorbed, SyncError> {
    let mut all = held(store, rest, table).await?;
    let mut from = position::next(store, table, deep).await?;
    // Without a position the look begins at the beginning, which is behind any overlap.
    let deep = deep || from.is_none();
    let rows = if from.is_none() { FIRST_COPY_ROWS } else { config.sync.batch_size };
    let select = table.select();
    let branch = branch_filter(config, table);
    loop {
        let (since, after);
        let mut query = vec![("select", select.as_str()), ("order", "updated_at.asc,id.asc")];
        if let Some((at, id)) = &from {
            since = format!("gte.{at}");
            after = format!("(updated_at.gt.\"{at}\",and(updated_at.eq.\"{at}\",id.gt.{id}))");
            query.push(("updated_at", &since));
            query.push(("or", &after));
        }
        if let Some(branch) = &branch {
            query.push(("branch_id", branch));
        }
        let page = rest.page(&table.name, &query, rows).await?;
        let last = page.rows.last().map(|row| (row.updated_at.clone(), row.id.clone()));
        let mark = Mark {
            last: last.clone(),
            server_time: page.server_time.clone(),
            overlap_seconds: config.sync.overlap_seconds,
            deep,
        };
        all.add(absorb::page(store, table, &page.rows, Some(&mark)).await?);
        if rest.is_last(&page) {
            return Ok(all);
        }
        from = last;
    }
}

/// The filter on the branch, for tables that have one.
#[must_use]
pub fn branch_filter(config: &Config, table: &Table) -> Option<String> {
    let branch = config.sync.branch_id.as_ref().filter(|_| table.has("branch_id"))?;
    Some(format!("eq.{branch}"))
}

/// Asks again for rows that the local database refused: what they lead to may have come in.
async fn held(store: &Store, rest: &Rest, table: &Table) -> Result<Absorbed, SyncError> {
    let ids: Vec<String> = sqlx::query_scalar(
        "-- held
         SELECT record_id::text FROM _sync_held_down WHERE table_name = $1 ORDER BY since LIMIT $2",
    )
    .bind(&table.name)
    .bind(HELD_MAX)
    .fetch_all(&store.pool)
    .await?;
    if ids.is_empty() {
        return Ok(Absorbed::default());
    }
    let rows = rest.rows_of(&table.name, &table.select(), &ids).await?;
    let gone: Vec<String> =
        ids.into_iter().filter(|id| !rows.iter().any(|row: &Row| row.id == *id)).collect();
    sqlx::query(
        "-- held: deleted remotely in the meantime
         WITH gone AS (
             DELETE FROM _sync_held_down
             WHERE table_name = $1 AND record_id = ANY ($2::text[]::uuid[]) RETURNING record_id
         )
         UPDATE _sync_conflict c SET resolved_at = now() FROM gone
         WHERE c.table_name = $1 AND c.record_id = gone.record_id AND c.winner = 'nobody'
           AND c.resolved_at IS NULL",
    )
    .bind(&table.name)
    .bind(&gone)
    .execute(&store.pool)
    .await?;
    let mut absorbed = absorb::page(store, table, &rows, None).await?;
    // Still refused: no news.
    absorbed.held = 0;
    Ok(absorbed)
}

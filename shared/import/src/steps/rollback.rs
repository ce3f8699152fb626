//! Putting back what an import replaced.

use std::collections::BTreeSet;
use std::pin::Pin;
use std::time::Duration;

use chrono::{DateTime, Utc};
use relevo_pg::cutover::{CutoverError, Exchange, Exchanged, Finale, Statement, exchange};
use relevo_pg::{Session, ident};
use serde::{Deserialize, Serialize};
use sqlx::{PgConnection, PgPool};
use tokio_util::sync::CancellationToken;

use super::abandon::drop_staging;
use super::clean::run_follow_up;
use super::objects::views_back;
use crate::certificate::Certificate;
use crate::error::ImportError;
use crate::identity::{ImportId, previous_schema};
use crate::ledger;
use crate::options::CutoverLimits;

/// What a rollback did.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct RolledBack {
    /// Whether it had happened before this call, which then changed nothing.
    #[serde(default)]
    pub already: bool,
    /// The schema that readers use.
    pub schema: String,
    /// Where the import's own tables are now, until the next import's success drops them.
    pub previous_schema: String,
    /// The tables that were put back.
    pub tables: Vec<String>,
    /// Tables that only the import had: they went to `previous_schema` and nothing took their
    /// place.
    pub retired: Vec<String>,
    /// By the target's clock.
    pub rolled_back_at: DateTime<Utc>,
    /// What a person should read.
    pub notices: Vec<String>,
}

/// Exchanges the tables that an import replaced for its own, as they were kept, in one short
/// transaction with the care of the cutover: all locks or none within a budget, tried again for
/// `limits.lock_wait_seconds`; owners, grants, row security, triggers, publications, views and
/// foreign keys of others as they are now.
///
/// Nobody has to be waited for: the tables that come back were loaded before the import that
/// replaced them went live, and that waited for every older snapshot.
///
/// Killed here: before the commit nothing has changed; after it the ledger says so, and a second
/// call returns `already`.
///
/// # Errors
/// [`ImportError::Unknown`], [`ImportError::NotLive`], [`ImportError::Superseded`] by a later
/// import, [`ImportError::NothingKept`], [`ImportError::PreviousGone`]; whatever stands in the way
/// of the exchange, as [`ImportError::Cutover`]. Readers see what they saw before after each,
/// [`ImportError::CutoverUndecided`] excepted.
pub async fn rollback(
    pool: &PgPool,
    id: &ImportId,
    limits: &CutoverLimits,
    cancel: &CancellationToken,
) -> Result<RolledBack, ImportError> {
    let mut connection = ledger::acquire(pool).await?;
    ledger::ensure(&mut connection).await?;
    drop(connection);
    if let Some(done) = find_rollback(pool, id).await? {
        return Ok(RolledBack { already: true, ..done });
    }
    let row = ledger::get(pool, id).await?;
    let certificate = match row.certificate {
        Some(certificate) if row.state == ledger::state::LIVE => certificate,
        _ => return Err(ImportError::NotLive { id: id.to_string(), state: row.state }),
    };
    let certificate: Certificate = ledger::read(id, "certificate", certificate)?;
    let name = format!("{} rollback", id.program());
    let mut session = Session::open(pool, &name, &[]).await?;
    let plan = plan(session.connection(), id, &certificate).await?;
    let lock_wait = Duration::from_secs(limits.lock_wait_seconds);
    let mut finale = Record { id, plan: &plan };
    let exchanged =
        exchange::<ImportError>(&mut session, &plan, lock_wait, cancel, &mut finale).await;
    session.close().await;
    match exchanged {
        Ok(exchanged) => clear_up(pool, id, &exchanged).await,
        Err(ImportError::Cutover(CutoverError::Cancelled)) => return Err(ImportError::Cancelled),
        // Whether the COMMIT happened whose answer was lost, the ledger knows.
        Err(error) if error.is_transient() => match find_rollback(pool, id).await {
            Ok(Some(_)) => {}
            Ok(None) => return Err(error),
            Err(_) => return Err(ImportError::CutoverUndecided(Box::new(error))),
        },
        Err(error) => return Err(error),
    }
    let done = find_rollback(pool, id).await?;
    done.ok_or_else(|| ImportError::Unknown { id: id.to_string() })
}

/// What the ledger says of an earlier rollback of the import.
pub(super) async fn find_rollback(
    pool: &PgPool,
    id: &ImportId,
) -> Result<Option<RolledBack>, ImportError> {
    let found: Result<Option<Option<sqlx::types::JsonValue>>, _> = sqlx::query_scalar(
        "-- find_rollback
         SELECT rollback FROM relevo_ledger.import WHERE id = $1",
    )
    .bind(id.as_str())
    .fetch_optional(pool)
    .await;
    match found {
        Ok(found) => found.flatten().map(|done| ledger::read(id, "rollback", done)).transpose(),
        Err(error) if ledger::is_missing_ledger(&error) => Ok(None),
        Err(source) => Err(ImportError::database("reading the import ledger", source)),
    }
}

/// Which tables change places, if the import is the last one of its schema and what it replaced is
/// still there.
async fn plan(
    connection: &mut PgConnection,
    id: &ImportId,
    certificate: &Certificate,
) -> Result<Exchange, ImportError> {
    let schema = certificate.schema.clone();
    check_last(connection, id, &schema).await?;
    let Some(previous) = certificate.previous_schema.clone() else {
        return Err(ImportError::NothingKept { id: id.to_string() });
    };
    let kept = tables_of(connection, &previous).await?;
    let present: BTreeSet<String> = tables_of(connection, &schema).await?.into_iter().collect();
    if kept.is_empty() {
        return Err(ImportError::PreviousGone { id: id.to_string(), schema: previous });
    }
    let known: BTreeSet<&str> = kept.iter().map(String::as_str).collect();
    let retired = certificate.tables.iter().map(|table| table.table.clone());
    let retired =
        retired.filter(|table| !known.contains(&**table) && present.contains(table)).collect();
    // The staging schema's name, since `leftovers` finds by it what a kill leaves of the emptied
    // schema.
    let staging = id.staging_schema();
    let views = views_back(connection, &schema, &previous, &certificate.views_new).await?;
    Ok(Exchange {
        target: schema,
        first: vec![Statement::new(
            format!("schema {previous}"),
            format!(
                "ALTER SCHEMA {} RENAME TO {}",
                ident::quote(&previous),
                ident::quote(&staging)
            ),
        )],
        staging,
        previous,
        trash: id.trash_schema(),
        tables: kept,
        retired,
        views_aside: views.aside,
        views_retired: views.retired,
        views_replaced: Vec::new(),
        after_move: Vec::new(),
    })
}

async fn tables_of(
    connection: &mut PgConnection,
    schema: &str,
) -> Result<Vec<String>, ImportError> {
    sqlx::query_scalar(
        "-- list_tables
         SELECT c.relname::text FROM pg_class c
         WHERE c.relnamespace = to_regnamespace($1) AND c.relkind = 'r' ORDER BY 1",
    )
    .bind(ident::quote(schema))
    .fetch_all(connection)
    .await
    .map_err(|source| ImportError::database(format!("listing the tables of {schema}"), source))
}

/// Refuses when a later import is what readers see, or was put back over this one.
async fn check_last(
    connection: &mut PgConnection,
    id: &ImportId,
    schema: &str,
) -> Result<(), ImportError> {
    let later: Option<(String, bool)> = sqlx::query_as(
        "-- find_later_import
         SELECT later.id, later.rollback IS NOT NULL
         FROM relevo_ledger.import AS own
         JOIN relevo_ledger.import AS later
           ON later.schema = own.schema AND later.state = 'live' AND later.id <> own.id
          AND later.ended_at > own.ended_at
         WHERE own.id = $1
         ORDER BY later.rollback IS NOT NULL, later.ended_at DESC LIMIT 1",
    )
    .bind(id.as_str())
    .fetch_optional(connection)
    .await
    .map_err(|source| ImportError::database("looking for later imports", source))?;
    match later {
        None => Ok(()),
        Some((newer, false)) => Err(ImportError::Superseded { schema: schema.to_owned(), newer }),
        Some((_, true)) => {
            Err(ImportError::PreviousGone { id: id.to_string(), schema: previous_schema(schema) })
        }
    }
}

/// The ledger's part, in the transaction of the exchange.
struct Record<'a> {
    id: &'a ImportId,
    plan: &'a Exchange,
}

impl Finale<ImportError> for Record<'_> {
    fn run<'c>(
        &'c mut self,
        connection: &'c mut PgConnection,
        exchanged: &'c Exchanged,
    ) -> Pin<Box<dyn Future<Output = Result<(), ImportError>> + Send + 'c>> {
        Box::pin(self.write(connection, exchanged))
    }
}

impl Record<'_> {
    async fn write(
        &self,
        connection: &mut PgConnection,
        exchanged: &Exchanged,
    ) -> Result<(), ImportError> {
        let failed = |source| ImportError::database("recording the rollback", source);
        // Once more under the cutover's lock: another import may have gone live meanwhile.
        check_last(connection, self.id, &self.plan.target).await?;
        let rolled_back_at: DateTime<Utc> = sqlx::query_scalar("-- now\nSELECT clock_timestamp()")
            .fetch_one(&mut *connection)
            .await
            .map_err(failed)?;
        let done = RolledBack {
            already: false,
            schema: self.plan.target.clone(),
            previous_schema: self.plan.previous.clone(),
            tables: self.plan.tables.clone(),
            retired: self.plan.retired.clone(),
            rolled_back_at,
            notices: exchanged.notices.clone(),
        };
        let written = sqlx::query(
            "-- record_rollback
             UPDATE relevo_ledger.import SET rollback = $2
             WHERE id = $1 AND state = 'live' AND rollback IS NULL",
        )
        .bind(self.id.as_str())
        .bind(ledger::write(self.id, "rollback", &done)?)
        .execute(connection)
        .await
        .map_err(failed)?;
        match written.rows_affected() {
            1 => Ok(()),
            _ => Err(ImportError::Fenced { id: self.id.to_string() }),
        }
    }
}

/// After the commit: what fails here is said and does not undo the rollback.
async fn clear_up(pool: &PgPool, id: &ImportId, exchanged: &Exchanged) {
    for statement in &exchanged.follow_up {
        if let Err(error) = run_follow_up(pool, &statement.sql).await {
            tracing::warn!(%error, "{} is there but not validated", statement.label);
        }
    }
    let dropped = async {
        let mut connection = ledger::acquire(pool).await?;
        drop_staging(&mut connection, id).await
    };
    if let Err(error) = dropped.await {
        tracing::warn!(import = %id, error = %error.chain(), "an emptied schema is left for now");
    }
}

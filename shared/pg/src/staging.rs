//! Schemas that are ours alone: made for one import, emptied and dropped without CASCADE.

use sqlx::{AssertSqlSafe, Executor, PgConnection};

use crate::error::PgError;
use crate::ident::{literal, quote};

/// How long dropping waits for one lock before it gives up; a later sweep tries again.
const DROP_LOCK_TIMEOUT: &str = "10s";

/// Creates a schema unless it is there. Returns whether it was not.
///
/// # Errors
/// [`PgError::MissingRights`] where the role may not create schemas in the database.
pub async fn create_schema(connection: &mut PgConnection, schema: &str) -> Result<bool, PgError> {
    let what = format!("creating schema {schema}");
    let exists: bool = sqlx::query_scalar(
        "-- create_schema
         SELECT EXISTS (SELECT FROM pg_namespace WHERE nspname = $1)",
    )
    .bind(schema)
    .fetch_one(&mut *connection)
    .await
    .map_err(|source| PgError::database(&*what, source))?;
    if exists {
        return Ok(false);
    }
    let sql = format!("-- create_schema\nCREATE SCHEMA IF NOT EXISTS {}", quote(schema));
    match connection.execute(AssertSqlSafe(sql)).await {
        Ok(_) => Ok(true),
        // Two at once: one wins, and the schema is there.
        Err(error) if crate::error::sqlstate(&error).as_deref() == Some("23505") => Ok(false),
        Err(source) => Err(PgError::database(what, source)),
    }
}

/// Drops a schema of ours with all that is in it, naming each thing and never with CASCADE: what
/// others built on it stops the drop. Fine when the schema is not there.
///
/// # Errors
/// The server's refusal, such as an object of others that depends on a table inside.
pub async fn drop_schema(connection: &mut PgConnection, schema: &str) -> Result<(), PgError> {
    let block = format!(
        "DECLARE
           things text;
           thing text;
         BEGIN
           IF to_regnamespace({quoted}) IS NULL THEN RETURN; END IF;
           SET LOCAL lock_timeout = '{DROP_LOCK_TIMEOUT}';
           -- all views in one statement, since they refer to one another; and all tables
           SELECT string_agg(format('%I.%I', {schema}::text, relname), ', ') INTO things
           FROM pg_class WHERE relnamespace = to_regnamespace({quoted}) AND relkind = 'v';
           IF things IS NOT NULL THEN EXECUTE 'DROP VIEW ' || things; END IF;
           SELECT string_agg(format('%I.%I', {schema}::text, relname), ', ') INTO things
           FROM pg_class WHERE relnamespace = to_regnamespace({quoted}) AND relkind IN ('r', 'p');
           IF things IS NOT NULL THEN EXECUTE 'DROP TABLE ' || things; END IF;
           FOR thing IN
             SELECT format('DROP SEQUENCE %s', oid::regclass) FROM pg_class
             WHERE relnamespace = to_regnamespace({quoted}) AND relkind = 'S'
             UNION ALL
             SELECT format('DROP ROUTINE %s', oid::regprocedure) FROM pg_proc
             WHERE pronamespace = to_regnamespace({quoted})
             UNION ALL
             SELECT format('DROP TYPE %s', oid::regtype) FROM pg_type
             WHERE typnamespace = to_regnamespace({quoted}) AND typtype IN ('e', 'd')
           LOOP EXECUTE thing; END LOOP;
           DROP SCHEMA {schema_quoted};
         END",
        quoted = literal(&quote(schema)),
        schema = literal(schema),
        schema_quoted = quote(schema),
    );
    let sql = format!("-- drop_schema\nDO {}", literal(&block));
    connection
        .execute(AssertSqlSafe(sql))
        .await
        .map(|_| ())
        .map_err(|source| PgError::database(format!("dropping schema {schema}"), source))
}

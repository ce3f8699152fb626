//! Many statements in one round trip, with the name of the one that failed.

use sqlx::{AssertSqlSafe, Executor, PgConnection};

use super::error::CutoverError;
use crate::error::{PgError, sqlstate};
use crate::ident::literal;

/// One statement and what it is about, for errors.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Statement {
    /// What it is about, as in `policy tenants on public.articulo`.
    pub label: String,
    /// The statement.
    pub sql: String,
}

impl Statement {
    /// A statement and what it is about.
    #[must_use]
    pub fn new(label: impl Into<String>, sql: impl Into<String>) -> Self {
        Self { label: label.into(), sql: sql.into() }
    }
}

/// The failure of one statement of a script.
#[derive(Debug)]
pub struct ScriptError {
    label: Option<String>,
    source: sqlx::Error,
}

impl ScriptError {
    pub(super) fn is_lock_timeout(&self) -> bool {
        matches!(sqlstate(&self.source).as_deref(), Some("55P03" | "57014" | "40P01"))
    }

    /// Names the statement where it is the statement's fault, the server where it is not.
    pub fn into_cutover_error(self) -> CutoverError {
        let refused = self.source.as_database_error().map(|answer| answer.message().to_owned());
        match (self.label, refused) {
            (Some(label), Some(message)) if !crate::error::is_transient(&self.source) => {
                CutoverError::Entangled { objects: vec![format!("{label} ({message})")] }
            }
            _ => PgError::database("exchanging the tables", self.source).into(),
        }
    }
}

/// Runs the statements in order, in the open transaction, as one block on the server.
///
/// # Errors
/// The first failure; the transaction is then to be rolled back.
pub async fn run_script(
    connection: &mut PgConnection,
    script: &[Statement],
) -> Result<(), ScriptError> {
    if script.is_empty() {
        return Ok(());
    }
    let mut body = String::from("DECLARE step int := 0; BEGIN\n");
    for (at, statement) in script.iter().enumerate() {
        body.push_str(&format!("step := {at}; EXECUTE {};\n", literal(&statement.sql)));
    }
    // The detail carries the step's number out; SQLSTATE and message stay as they were.
    body.push_str(
        "EXCEPTION WHEN OTHERS THEN
           RAISE EXCEPTION USING ERRCODE = SQLSTATE, MESSAGE = SQLERRM,
             DETAIL = 'relevo step ' || step;
         END",
    );
    let block = format!("-- run_script\nDO {}", literal(&body));
    connection.execute(AssertSqlSafe(block)).await.map(|_| ()).map_err(|source| {
        let label = source
            .as_database_error()
            .and_then(|answer| answer.try_downcast_ref::<sqlx::postgres::PgDatabaseError>())
            .and_then(|answer| answer.detail())
            .and_then(|detail| detail.strip_prefix("relevo step "))
            .and_then(|step| step.parse::<usize>().ok())
            .and_then(|step| script.get(step))
            .map(|statement| statement.label.clone());
        ScriptError { label, source }
    })
}

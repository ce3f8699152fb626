//! The audit log: what operators did, written in the transaction in which they did it.

use chrono::{DateTime, Utc};
use serde::Serialize;
use serde_json::Value;
use sqlx::{PgConnection, PgPool, Postgres, QueryBuilder};

use crate::bounded;

/// Largest `before` or `after` kept, in bytes of JSON text.
const VALUE_BYTES_MAX: usize = 32_768;

/// Who acts.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Actor {
    /// Whoever shows this API key.
    ApiKey {
        /// The key's number.
        id: i64,
        /// Its name.
        name: String,
    },
    /// Whoever is logged in at the console.
    Console {
        /// The number of the key that was shown; none after a one-time link.
        api_key_id: Option<i64>,
        /// The key's name, or whom the link was made for.
        name: String,
    },
    /// A user of this machine, on the command line.
    Cli {
        /// The user's name.
        user: String,
    },
}

impl Actor {
    /// How the actor appears in logs, runs and reasons: `api:<key's name>`, `console:<name>` or
    /// `cli:<user>`.
    #[must_use]
    pub fn label(&self) -> String {
        match self {
            Self::ApiKey { name, .. } => format!("api:{name}"),
            Self::Console { name, .. } => format!("console:{name}"),
            Self::Cli { user } => format!("cli:{user}"),
        }
    }
}

/// Something that was done.
#[derive(Clone, Debug)]
pub struct Action<'a> {
    /// What, as `<resource>.<verb>` in lower case, such as `job.cancel`.
    pub action: &'static str,
    /// To what: a number or a name.
    pub object: &'a str,
    /// How it was, where that is small and would be lost: an object.
    pub before: Option<Value>,
    /// How it is since, or what was asked for: an object.
    pub after: Option<Value>,
}

/// Notes an action in the caller's transaction.
///
/// # Errors
/// When the database fails.
pub async fn record_in(
    tx: &mut PgConnection,
    actor: &Actor,
    action: Action<'_>,
) -> Result<(), sqlx::Error> {
    let key = match actor {
        Actor::ApiKey { id, .. } => Some(*id),
        Actor::Console { api_key_id, .. } => *api_key_id,
        Actor::Cli { .. } => None,
    };
    let value = |value: Option<Value>| value.map(|value| bounded::object(&value, VALUE_BYTES_MAX));
    sqlx::query(
        "-- audit::record_in
        INSERT INTO relevo.audit (api_key_id, actor, action, object, before, after)
        VALUES ($1, $2, $3, $4, $5, $6)",
    )
    .bind(key)
    .bind(bounded::text(&actor.label(), 200))
    .bind(action.action)
    .bind(bounded::text(action.object, 300))
    .bind(value(action.before))
    .bind(value(action.after))
    .execute(tx)
    .await?;
    Ok(())
}

/// One line of the audit log.
#[derive(Clone, Debug, PartialEq, Serialize, sqlx::FromRow)]
pub struct AuditEntry {
    /// Position in the log.
    pub id: i64,
    /// When.
    pub at: DateTime<Utc>,
    /// The API key that was shown.
    pub api_key_id: Option<i64>,
    /// Who: `api:<key's name>`, `console:<name>` or `cli:<user>`.
    pub actor: String,
    /// What was done.
    pub action: String,
    /// To what.
    pub object: String,
    /// How it was.
    pub before: Option<Value>,
    /// How it is since, or what was asked for.
    pub after: Option<Value>,
}

/// Which entries to list; every given field must match.
#[derive(Clone, Debug, Default)]
pub struct AuditFilter {
    /// Only by this actor, as shown.
    pub actor: Option<String>,
    /// Only this action.
    pub action: Option<String>,
    /// Only to this object.
    pub object: Option<String>,
    /// Only older than this one.
    pub before: Option<i64>,
    /// At most so many.
    pub limit: u16,
}

/// Entries, newest first.
///
/// # Errors
/// When the database fails.
pub async fn list(pool: &PgPool, filter: &AuditFilter) -> Result<Vec<AuditEntry>, sqlx::Error> {
    let mut query: QueryBuilder<Postgres> = QueryBuilder::new(
        "-- audit::list
        SELECT id, at, api_key_id, actor, action, object, before, after
        FROM relevo.audit WHERE true",
    );
    if let Some(actor) = &filter.actor {
        query.push(" AND actor = ").push_bind(actor);
    }
    if let Some(action) = &filter.action {
        query.push(" AND action = ").push_bind(action);
    }
    if let Some(object) = &filter.object {
        query.push(" AND object = ").push_bind(object);
    }
    if let Some(before) = filter.before {
        query.push(" AND id < ").push_bind(before);
    }
    query.push(" ORDER BY id DESC LIMIT ").push_bind(i64::from(filter.limit));
    query.build_query_as().fetch_all(pool).await
}

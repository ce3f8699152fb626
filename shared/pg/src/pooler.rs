//! Poolers between here and the server: noticed, since sessions that are not one's own give wrong
//! answers where settings, locks, LISTEN and prepared statements are counted on.

use sqlx::postgres::PgConnectOptions;
use sqlx::{ConnectOptions as _, Connection as _, Executor as _, PgConnection, Row as _};
use std::time::Duration;

/// How a pooler says that it does not pass on what a session begins with.
const REFUSED_SETTINGS: &str = "unsupported startup parameter";

/// Whether a refusal to connect is that of a pooler.
pub(crate) fn refuses_settings(error: &sqlx::Error) -> bool {
    error.as_database_error().is_some_and(|error| error.message().contains(REFUSED_SETTINGS))
}

/// Whether `first` and another session are one for the server. Only a pooler in transaction or
/// statement mode lets two share a connection while both are open. What cannot be asked counts as no.
pub(crate) async fn stands_between(
    first: &mut PgConnection,
    options: &PgConnectOptions,
    limit: Duration,
) -> bool {
    let asked = async {
        let mut second = options.connect().await?;
        let before = backend(first).await?;
        let other = backend(&mut second).await?;
        let after = backend(first).await?;
        // A failure to say goodbye costs nothing: the connection was only a question.
        let _ = second.close().await;
        Ok::<_, sqlx::Error>(before == other || before != after)
    };
    matches!(tokio::time::timeout(limit, asked).await, Ok(Ok(true)))
}

/// The server's process behind a connection, by the simple protocol: prepared statements may not
/// survive a pooler.
async fn backend(connection: &mut PgConnection) -> Result<String, sqlx::Error> {
    let statement = "-- pooler::backend\nSELECT pg_backend_pid()::text";
    connection.fetch_one(sqlx::raw_sql(statement)).await?.try_get(0)
}

//! COPY streams: never silent for longer than agreed, stopped on request, counted at the end.

use std::time::Duration;

use futures::{FutureExt, StreamExt};
use sqlx::PgConnection;
use sqlx::postgres::{PgCopyIn, PgDatabaseError};
use tokio_util::sync::CancellationToken;

use crate::error::PgError;
use crate::session::{Killer, Session};

/// A running `COPY … FROM STDIN`.
///
/// Each message must be taken within the idle limit; afterwards, or when cancelled, the backend is
/// ended and the session is of no more use. Dropping the stream leaves the session unusable too:
/// drop the session with it, and the server undoes the COPY.
pub struct CopyIn<'c> {
    stream: PgCopyIn<&'c mut PgConnection>,
    killer: Killer,
    what: String,
    idle_limit: Duration,
    cancel: CancellationToken,
}

impl<'c> CopyIn<'c> {
    /// Starts the COPY. `what` names it in errors, as in "copying into articulo".
    ///
    /// # Errors
    /// The server's refusal, or a time-out.
    pub async fn begin(
        session: &'c mut Session,
        statement: &str,
        what: String,
        idle_limit: Duration,
        cancel: CancellationToken,
    ) -> Result<Self, PgError> {
        let killer = session.killer();
        let start = session.connection().copy_in_raw(statement);
        let stream = killer.guard(&what, idle_limit, &cancel, start).await?;
        Ok(Self { stream, killer, what, idle_limit, cancel })
    }

    /// Sends a piece of COPY text; rows may be cut anywhere.
    ///
    /// # Errors
    /// A time-out, a cancel, a lost connection. A row that the server refuses shows at
    /// [`CopyIn::finish`].
    pub async fn send(&mut self, text: &[u8]) -> Result<(), PgError> {
        let send = async { self.stream.send(text).await.map(|_| ()) };
        self.killer.guard(&self.what, self.idle_limit, &self.cancel, send).await
    }

    /// Ends the COPY and returns the rows that the server took.
    ///
    /// # Errors
    /// The server's refusal of any row, a time-out, a cancel.
    pub async fn finish(self) -> Result<u64, PgError> {
        let Self { stream, killer, what, idle_limit, cancel } = self;
        let finish = async { stream.finish().await.map_err(|source| refused(&what, source)) };
        killer.guard_all(&what, idle_limit, &cancel, finish).await
    }
}

/// Adds the line and column that the server names in the error's context.
fn refused(what: &str, source: sqlx::Error) -> PgError {
    let context = source
        .as_database_error()
        .and_then(|answer| answer.try_downcast_ref::<PgDatabaseError>())
        .and_then(PgDatabaseError::r#where)
        .map(|context| format!(" ({context})"))
        .unwrap_or_default();
    PgError::database(format!("{what}{context}"), source)
}

/// Reads a `COPY … TO STDOUT` to its end, message by message.
///
/// # Errors
/// As for [`CopyIn`].
pub async fn copy_out(
    session: &mut Session,
    statement: &str,
    what: &str,
    idle_limit: Duration,
    cancel: &CancellationToken,
    mut take: impl FnMut(&[u8]),
) -> Result<(), PgError> {
    let killer = session.killer();
    let start = session.connection().copy_out_raw(statement);
    let mut stream = killer.guard(what, idle_limit, cancel, start).await?;
    loop {
        // One message is one row: what has arrived already is taken without a timer.
        let message = match stream.next().now_or_never() {
            Some(message) => {
                message.transpose().map_err(|source| PgError::database(what, source))?
            }
            None => {
                let next = async { stream.next().await.transpose() };
                killer.guard(what, idle_limit, cancel, next).await?
            }
        };
        match message {
            Some(message) => take(&message),
            None => return Ok(()),
        }
    }
}

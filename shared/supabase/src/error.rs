//! What can go wrong, told apart by what is to be done about it.

use relevo_pg::PgError;
use thiserror::Error;

/// A failure of the synchronisation. None of the texts holds a key or a password.
#[derive(Debug, Error)]
pub enum SyncError {
    /// Supabase can't be reached or doesn't answer as it should: wait, it is no error.
    #[error("Supabase can't be reached: {0}")]
    Offline(String),
    /// The project is paused: somebody has to wake it up.
    #[error("the Supabase project is paused; restore it in its dashboard")]
    Paused,
    /// Supabase understood the request and refused it.
    #[error("Supabase refused it ({status} {code}): {message}")]
    Refused {
        /// The HTTP status.
        status: u16,
        /// PostgREST's or Postgres' code, such as `23505`.
        code: String,
        /// Its own words.
        message: String,
    },
    /// An answer is larger than what is held in memory.
    #[error("an answer is larger than {0} bytes; a smaller batch_size helps")]
    TooLarge(usize),
    /// An answer that isn't understood.
    #[error("Supabase answered what isn't understood: {0}")]
    Answer(String),
    /// The local database.
    #[error("the local database failed")]
    Database(#[from] sqlx::Error),
    /// The way to the local database.
    #[error(transparent)]
    Connect(#[from] PgError),
    /// The configuration.
    #[error("{0}")]
    Config(String),
    /// The tables are not fit to be synchronised; one reason each.
    #[error("this can't be synchronised as it is:\n{}", .0.join("\n"))]
    Unfit(Vec<String>),
    /// Another process synchronises this database.
    #[error("another process synchronises this database now")]
    Busy,
    /// Another process took over while this one stood still; nothing was written.
    #[error("another process has taken the synchronisation over")]
    TakenOver,
    /// A local row changed while it was being written; nothing was written, the next cycle goes on.
    #[error("a local row changed meanwhile; the next cycle goes on")]
    Moved,
    /// What was named isn't there.
    #[error("{0}")]
    NotFound(String),
}

impl SyncError {
    /// Whether waiting alone helps, as when the line is down.
    #[must_use]
    pub fn is_offline(&self) -> bool {
        matches!(self, Self::Offline(_) | Self::Paused)
    }

    /// Postgres' code where Supabase or the local database gave one.
    #[must_use]
    pub fn code(&self) -> String {
        match self {
            Self::Refused { code, .. } => code.clone(),
            Self::Database(sqlx::Error::Database(error)) => {
                error.code().map(|code| code.into_owned()).unwrap_or_default()
            }
            _ => String::new(),
        }
    }

    /// It and its causes in one line.
    #[must_use]
    pub fn line(&self) -> String {
        relevo_errors::chain(self)
    }
}

//! The leader's lease: one process at a time works as scheduler.
//!
//! The database decides who leads, by its own clock: a term begins with one
//! conditional update, is kept by others, and raises a number that never falls.
//! The local clock only says when to stop trusting ourselves, counted from
//! before the round trip that last kept the lease, so a paused process stops
//! earlier than the database gives its office away.
//!
//! Trust is for not wasting work. What must not happen twice is proved instead:
//! [`Tenure::prove_in`] is part of the transaction it protects, and holds the lease row
//! until that transaction ends, so that no other term can begin meanwhile.

use std::time::{Duration, Instant};

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgPool};

/// The office this crate competes for.
const OFFICE: &str = "scheduler";

/// One tenure as leader.
#[derive(Debug, Clone)]
pub struct Tenure {
    /// Number of the term; rises with each change of holder.
    pub term: i64,
    holder: String,
    lease_ttl: Duration,
    trusted_until: Instant,
    clock: DatabaseClock,
}

/// The database's clock, carried on by the local monotonic one.
#[derive(Debug, Clone, Copy)]
struct DatabaseClock {
    read: DateTime<Utc>,
    read_at: Instant,
}

impl Tenure {
    /// Takes the office if nobody holds it; none when somebody does.
    ///
    /// # Errors
    /// Errors of the database.
    pub async fn begin(
        pool: &PgPool,
        holder: &str,
        lease_ttl: Duration,
    ) -> Result<Option<Self>, sqlx::Error> {
        let asked_at = Instant::now();
        // SKIP LOCKED: a leader that is just proving its term is alive, so there
        // is nothing to wait for.
        let won: Option<(i64, DateTime<Utc>)> = sqlx::query_as(
            "-- begin_term
             UPDATE relevo.leader_lease
                SET term = term + 1,
                    holder = $2,
                    acquired_at = clock_timestamp(),
                    expires_at = clock_timestamp() + make_interval(secs => $3)
              WHERE name = (
                    SELECT name FROM relevo.leader_lease
                     WHERE name = $1 AND expires_at <= clock_timestamp()
                       FOR NO KEY UPDATE SKIP LOCKED)
          RETURNING term, clock_timestamp()",
        )
        .bind(OFFICE)
        .bind(holder)
        .bind(lease_ttl.as_secs_f64())
        .fetch_optional(pool)
        .await?;
        Ok(won.map(|(term, read)| Self {
            term,
            holder: holder.to_owned(),
            lease_ttl,
            trusted_until: asked_at + lease_ttl,
            clock: DatabaseClock { read, read_at: Instant::now() },
        }))
    }

    /// Keeps the office for another lease time; false when it is lost for good.
    ///
    /// # Errors
    /// Errors of the database; the tenure is then as trustworthy as before.
    pub async fn keep(&mut self, pool: &PgPool) -> Result<bool, sqlx::Error> {
        let asked_at = Instant::now();
        let kept: Option<DateTime<Utc>> = sqlx::query_scalar(
            "-- keep_term
             UPDATE relevo.leader_lease
                SET expires_at = clock_timestamp() + make_interval(secs => $4)
              WHERE name = $1 AND term = $2 AND holder = $3 AND expires_at > clock_timestamp()
          RETURNING clock_timestamp()",
        )
        .bind(OFFICE)
        .bind(self.term)
        .bind(&self.holder)
        .bind(self.lease_ttl.as_secs_f64())
        .fetch_optional(pool)
        .await?;
        if let Some(read) = kept {
            self.trusted_until = asked_at + self.lease_ttl;
            self.clock = DatabaseClock { read, read_at: Instant::now() };
        }
        Ok(kept.is_some())
    }

    /// Gives the office up, so that a waiting process need not wait for the
    /// lease to run out. Nothing happens when it was lost already.
    ///
    /// # Errors
    /// Errors of the database.
    pub async fn give_up(&self, pool: &PgPool) -> Result<(), sqlx::Error> {
        sqlx::query(
            "-- give_up_term
             UPDATE relevo.leader_lease
                SET expires_at = clock_timestamp()
              WHERE name = $1 AND term = $2 AND holder = $3 AND expires_at > clock_timestamp()",
        )
        .bind(OFFICE)
        .bind(self.term)
        .bind(&self.holder)
        .execute(pool)
        .await
        .map(|_| ())
    }

    /// For how long this process may still believe that it leads.
    #[must_use]
    pub fn trusted_for(&self) -> Duration {
        self.trusted_until.saturating_duration_since(Instant::now())
    }

    /// How long the lease runs without being kept.
    #[must_use]
    pub fn lease_ttl(&self) -> Duration {
        self.lease_ttl
    }

    /// Host and process that hold it.
    #[must_use]
    pub fn holder(&self) -> &str {
        &self.holder
    }

    /// The present by the database's clock, off by no more than one round trip.
    #[must_use]
    pub fn database_now(&self) -> DateTime<Utc> {
        self.clock.read + self.clock.read_at.elapsed()
    }

    /// Proves inside `tx` that this term still holds, and keeps it from ending
    /// before `tx` does; false when it is over, and `tx` must be rolled back.
    ///
    /// A process that is stopped in the middle does not block the others: the
    /// database ends a transaction that idles for a lease time.
    ///
    /// # Errors
    /// Errors of the database.
    pub async fn prove_in(&self, tx: &mut PgConnection) -> Result<bool, sqlx::Error> {
        let proved: Option<String> = sqlx::query_scalar(
            "-- prove_term
             SELECT set_config('idle_in_transaction_session_timeout', $4, true)
               FROM relevo.leader_lease
              WHERE name = $1 AND term = $2 AND holder = $3 AND expires_at > clock_timestamp()
                FOR NO KEY UPDATE",
        )
        .bind(OFFICE)
        .bind(self.term)
        .bind(&self.holder)
        .bind(self.lease_ttl.as_millis().to_string())
        .fetch_optional(tx)
        .await?;
        Ok(proved.is_some())
    }
}

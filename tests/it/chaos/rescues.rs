//! A witness of rescues: no session keeps jobs for longer than its lease and five seconds.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use sqlx::PgPool;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Beyond the end of its lease, a session's jobs are somebody else's within this time.
const OVERDUE_MAX_SECONDS: f64 = 5.0;

const PAUSE: Duration = Duration::from_millis(250);

/// Sessions that have jobs although their lease is over, by the rule of rescue itself.
const OVERDUE: &str = "
    SELECT s.id, extract(epoch FROM clock_timestamp()
                  - (greatest(s.heartbeat_at, pg_postmaster_start_time()) + s.ttl))::float8
    FROM relevo.session AS s
    WHERE greatest(s.heartbeat_at, pg_postmaster_start_time()) < clock_timestamp() - s.ttl
      AND EXISTS (SELECT 1 FROM relevo.job AS j WHERE j.state = 'running' AND j.session_id = s.id)";

/// Those of its jobs that no open transaction of their handler holds: that one must end first.
const FREE: &str = "
    SELECT id FROM relevo.job WHERE state = 'running' AND session_id = $1
    FOR UPDATE SKIP LOCKED LIMIT 10";

#[derive(Debug, Default)]
pub struct Seen {
    /// Looks that found a session with jobs past its lease.
    pub overdue: u64,
    /// The longest, in seconds beyond the lease.
    pub worst_seconds: f64,
    /// The longest while handlers' own transactions held all of the jobs.
    pub worst_held_seconds: f64,
    pub late: Vec<String>,
}

pub struct Rescues {
    seen: Arc<Mutex<Seen>>,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Rescues {
    pub fn watch(pool: PgPool) -> Self {
        let (seen, stop) = (Arc::<Mutex<Seen>>::default(), CancellationToken::new());
        let (told, stopped) = (Arc::clone(&seen), stop.clone());
        let task = tokio::spawn(async move {
            while !stopped.is_cancelled() {
                // The server is down now and then.
                if let Ok(Ok(found)) =
                    tokio::time::timeout(Duration::from_secs(5), look(&pool)).await
                {
                    told.lock().unwrap().note(found);
                }
                tokio::time::sleep(PAUSE).await;
            }
        });
        Self { seen, stop, task }
    }

    pub fn late(&self) -> Vec<String> {
        self.seen.lock().unwrap().late.clone()
    }

    pub async fn end(self) -> Seen {
        self.stop.cancel();
        self.task.await.unwrap();
        std::mem::take(&mut *self.seen.lock().unwrap())
    }
}

/// A session past its lease: by how many seconds, and how many of its jobs could be taken.
struct Found {
    session: i64,
    seconds: f64,
    free: usize,
}

async fn look(pool: &PgPool) -> Result<Vec<Found>, sqlx::Error> {
    let mut found = Vec::new();
    let overdue: Vec<(i64, f64)> = sqlx::query_as(OVERDUE).fetch_all(pool).await?;
    for (session, seconds) in overdue {
        let mut free = 0;
        // The look locks what a rescue would take: only where there should be nothing left to take.
        if seconds > OVERDUE_MAX_SECONDS {
            let mut tx = pool.begin().await?;
            free = sqlx::query(FREE).bind(session).fetch_all(&mut *tx).await?.len();
            tx.rollback().await?;
        }
        found.push(Found { session, seconds, free });
    }
    Ok(found)
}

impl Seen {
    fn note(&mut self, found: Vec<Found>) {
        for Found { session, seconds, free } in found {
            self.overdue += 1;
            if seconds <= OVERDUE_MAX_SECONDS {
                self.worst_seconds = self.worst_seconds.max(seconds);
            } else if free == 0 {
                self.worst_held_seconds = self.worst_held_seconds.max(seconds);
            } else {
                self.late.push(format!(
                    "session {session} has {free} jobs or more {seconds:.1} s after its lease"
                ));
            }
        }
    }
}

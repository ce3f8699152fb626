//! The connection of the last enqueue, kept at hand for the next one.
//!
//! A pool asks a connection whether it lives when it comes back, and hands out another one
//! meanwhile: producers that enqueue one job after the other would pay a second round trip for each,
//! and wander over all of the pool's connections, none of which stays warm. So the last one waits a
//! moment before it goes back. Only where the pool has others to give: nobody waits because of it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use sqlx::pool::PoolConnection;
use sqlx::{PgPool, Postgres};

/// How long an unused connection is kept.
const KEEP: Duration = Duration::from_millis(20);

/// At most one connection, and at most [`KEEP`] longer than it is used.
#[derive(Debug, Default)]
pub(crate) struct Spare {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    kept: Option<(PoolConnection<Postgres>, Instant)>,
    /// A task is waiting to give it back.
    is_watched: bool,
}

impl Spare {
    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection at hand, or one of the pool's.
    pub(crate) async fn take(
        &self,
        pool: &PgPool,
    ) -> Result<PoolConnection<Postgres>, sqlx::Error> {
        let kept = self.lock().kept.take();
        match kept {
            Some((connection, _)) => Ok(connection),
            None => pool.acquire().await,
        }
    }

    /// Keeps a connection on which nothing is under way; what is not kept goes back to the pool.
    pub(crate) fn keep(self: &Arc<Self>, pool: &PgPool, connection: PoolConnection<Postgres>) {
        let has_others = pool.num_idle() > 0 || pool.size() < pool.options().get_max_connections();
        if !has_others || pool.is_closed() {
            return;
        }
        {
            let mut inner = self.lock();
            if inner.kept.is_some() {
                return;
            }
            inner.kept = Some((connection, Instant::now()));
            if std::mem::replace(&mut inner.is_watched, true) {
                return;
            }
        }
        let spare = Arc::downgrade(self);
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(KEEP).await;
                // Nobody enqueues through it any more: the last clone's end gives it back.
                let Some(spare) = spare.upgrade() else { return };
                let mut inner = spare.lock();
                if inner.kept.as_ref().is_none_or(|(_, used_at)| used_at.elapsed() >= KEEP) {
                    inner.is_watched = false;
                    let kept = inner.kept.take();
                    drop(inner);
                    drop(kept);
                    return;
                }
            }
        });
    }
}

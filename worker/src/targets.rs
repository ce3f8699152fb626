//! Connections to the databases that jobs move data into: one small pool per source, opened when
//! first needed, and anew when the target has changed.

use std::collections::BTreeMap;

use relevo_pg::{PgError, PoolOptions};
use relevo_settings::BackupSource;
use secrecy::{ExposeSecret as _, SecretString};
use sqlx::PgPool;
use tokio::sync::Mutex;

/// Connections per target for ledgers and definitions; COPY streams open their own beside them.
const CONNECTIONS_MAX: u32 = 4;

/// The targets' pools, by source.
pub(crate) struct Targets {
    pools: Mutex<BTreeMap<String, Target>>,
}

/// An open pool, and what it was opened with.
struct Target {
    url: SecretString,
    statement_timeout_seconds: u64,
    lock_timeout_ms: u64,
    pool: PgPool,
}

impl Target {
    fn is_of(&self, source: &BackupSource) -> bool {
        self.url.expose_secret() == source.target_url.expose_secret()
            && self.statement_timeout_seconds == source.statement_timeout_seconds
            && self.lock_timeout_ms == source.lock_timeout_ms
    }
}

impl Targets {
    pub(crate) fn new() -> Self {
        Self { pools: Mutex::new(BTreeMap::new()) }
    }

    /// The pool of a source's target.
    ///
    /// # Errors
    /// When the first connection fails; the next call tries again.
    pub(crate) async fn pool(&self, name: &str, source: &BackupSource) -> Result<PgPool, PgError> {
        if let Some(target) = self.pools.lock().await.get(name).filter(|open| open.is_of(source)) {
            return Ok(target.pool.clone());
        }
        // Outside the lock: an unreachable target must not hold up the others.
        let options = PoolOptions::named("relevo-worker")
            .max_connections(CONNECTIONS_MAX)
            .setting("statement_timeout", format!("{}s", source.statement_timeout_seconds))
            .setting("lock_timeout", format!("{}ms", source.lock_timeout_ms));
        let opened = relevo_pg::connect(&source.target_url, options).await?;
        let mut pools = self.pools.lock().await;
        if let Some(target) = pools.get(name).filter(|open| open.is_of(source)) {
            // Somebody else was faster.
            return Ok(target.pool.clone());
        }
        let target = Target {
            url: source.target_url.clone(),
            statement_timeout_seconds: source.statement_timeout_seconds,
            lock_timeout_ms: source.lock_timeout_ms,
            pool: opened.clone(),
        };
        // The pool of before closes its connections when the last job that uses it has ended.
        pools.insert(name.to_owned(), target);
        Ok(opened)
    }

    /// Closes every pool.
    pub(crate) async fn close(&self) {
        let pools = std::mem::take(&mut *self.pools.lock().await);
        for target in pools.into_values() {
            target.pool.close().await;
        }
    }
}

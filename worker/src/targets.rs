//! Connections to the databases that jobs move data into: one small pool per source, opened when
//! first needed.

use std::collections::BTreeMap;

use relevo_pg::{PgError, PoolOptions};
use relevo_settings::BackupSource;
use sqlx::PgPool;
use tokio::sync::Mutex;

/// Connections per target for ledgers and definitions; COPY streams open their own beside them.
const CONNECTIONS_MAX: u32 = 4;

/// The targets' pools, by source.
pub(crate) struct Targets {
    pools: Mutex<BTreeMap<String, PgPool>>,
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
        if let Some(pool) = self.pools.lock().await.get(name) {
            return Ok(pool.clone());
        }
        // Outside the lock: an unreachable target must not hold up the others.
        let options = PoolOptions::named("relevo-worker")
            .max_connections(CONNECTIONS_MAX)
            .setting("statement_timeout", format!("{}s", source.statement_timeout_seconds))
            .setting("lock_timeout", format!("{}ms", source.lock_timeout_ms));
        let opened = relevo_pg::connect(&source.target_url, options).await?;
        let mut pools = self.pools.lock().await;
        Ok(pools.entry(name.to_owned()).or_insert(opened).clone())
    }

    /// Closes every pool.
    pub(crate) async fn close(&self) {
        let pools = std::mem::take(&mut *self.pools.lock().await);
        for pool in pools.into_values() {
            pool.close().await;
        }
    }
}

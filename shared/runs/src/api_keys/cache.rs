//! Keys that were just found good, so that a busy caller does not cost a query per request.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use sqlx::PgPool;

use super::{ApiKey, ApiKeyError, verify};
use crate::secret;

/// How long a key is believed: a key revoked elsewhere opens nothing after this.
const LIFE: Duration = Duration::from_secs(1);
/// Keys remembered at once.
const KEYS_MAX: usize = 1_000;

/// By hash: the key, and since when it is believed.
type Good = HashMap<[u8; 32], (Arc<ApiKey>, Instant)>;

/// A memory of good keys. Wrong ones are not remembered: they cost their sender, and a key that was
/// just made works at once.
#[derive(Debug, Default)]
pub struct KeyCache {
    good: Mutex<Good>,
}

impl KeyCache {
    /// As [`verify`], asking the database at most once a second for the same key.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn verify(
        &self,
        pool: &PgPool,
        presented: &str,
    ) -> Result<Option<Arc<ApiKey>>, ApiKeyError> {
        let hash = secret::sha256(presented);
        if let Some(key) = self.find(&hash) {
            return Ok(Some(key));
        }
        // From before the question: what is learnt is never believed for longer than it is good.
        let asked = Instant::now();
        let Some(key) = verify(pool, presented).await? else {
            self.good.lock().unwrap_or_else(PoisonError::into_inner).remove(&hash);
            return Ok(None);
        };
        let key = Arc::new(key);
        let mut good = self.good.lock().unwrap_or_else(PoisonError::into_inner);
        if good.len() >= KEYS_MAX {
            good.clear();
        }
        good.insert(hash, (key.clone(), asked));
        Ok(Some(key))
    }

    /// Whether this very key was found good lately. It may have been revoked since.
    #[must_use]
    pub fn knows(&self, presented: &str) -> bool {
        let good = self.good.lock().unwrap_or_else(PoisonError::into_inner);
        good.contains_key(&secret::sha256(presented))
    }

    fn find(&self, hash: &[u8; 32]) -> Option<Arc<ApiKey>> {
        let good = self.good.lock().unwrap_or_else(PoisonError::into_inner);
        let (key, asked) = good.get(hash)?;
        (asked.elapsed() < LIFE).then(|| key.clone())
    }

    /// Forgets a key that was just revoked or changed.
    pub fn forget(&self, id: i64) {
        let mut good = self.good.lock().unwrap_or_else(PoisonError::into_inner);
        good.retain(|_, (key, _)| key.id != id);
    }
}

//! Keys that open the HTTP API.
//!
//! A key reads `rk_<prefix>_<secret>`: eight hexadecimal digits by which it is looked up and known
//! in lists, then 256 random bits. The database holds its SHA-256 only; the key itself is shown once,
//! when it is made.

mod cache;

use std::time::Duration;
use std::{fmt, str::FromStr};

use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use sqlx::{PgConnection, PgPool};
use subtle::ConstantTimeEq as _;

use crate::secret::{self, NoRandomness};

pub use cache::KeyCache;

/// Longest name of a key, in characters.
pub const NAME_CHARS_MAX: usize = 100;

/// What a key may do.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// Enqueue jobs and start runs.
    Enqueue,
    /// Look at everything.
    Read,
    /// Claim jobs and say what became of them, as a worker over HTTP.
    Work,
    /// Cancel, retry, discard, pause and resume.
    Operate,
    /// All of the others.
    Admin,
}

impl Scope {
    /// Every scope.
    pub const ALL: [Self; 5] = [Self::Enqueue, Self::Read, Self::Work, Self::Operate, Self::Admin];

    /// The name as stored and shown.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Enqueue => "enqueue",
            Self::Read => "read",
            Self::Work => "work",
            Self::Operate => "operate",
            Self::Admin => "admin",
        }
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A word that is no scope.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("no scope is called {0:?}; scopes are enqueue, read, work, operate, admin")]
pub struct UnknownScope(pub String);

impl FromStr for Scope {
    type Err = UnknownScope;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Self::ALL
            .into_iter()
            .find(|scope| scope.as_str() == text)
            .ok_or_else(|| UnknownScope(text.to_owned()))
    }
}

/// A key, without its secret.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct ApiKey {
    /// Number by which it is revoked.
    pub id: i64,
    /// Who or what uses it.
    pub name: String,
    /// Its first, public digits.
    pub prefix: String,
    /// What it may do.
    pub scopes: Vec<Scope>,
    /// When it was made.
    pub created_at: DateTime<Utc>,
    /// When it was last used, to the minute.
    pub last_used_at: Option<DateTime<Utc>>,
    /// Since when it opens nothing.
    pub revoked_at: Option<DateTime<Utc>>,
    /// From when it opens nothing: the end of its overlap with the key that replaces it.
    pub expires_at: Option<DateTime<Utc>>,
    /// The key in whose place it was made.
    pub replaces: Option<i64>,
}

impl ApiKey {
    /// True when this key may do what `scope` names.
    #[must_use]
    pub fn allows(&self, scope: Scope) -> bool {
        self.scopes.contains(&scope) || self.scopes.contains(&Scope::Admin)
    }
}

/// A new key's whole text. Its `Debug` hides it; [`Secret::expose`] is for the one place that shows
/// it to the person who asked.
pub struct Secret(String);

impl Secret {
    /// The key as its user presents it.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// Why a key could not be made or checked.
#[derive(Debug, thiserror::Error)]
pub enum ApiKeyError {
    /// The name is empty or too long.
    #[error("a key's name has 1 to {NAME_CHARS_MAX} characters, none of them a control character")]
    Name,
    /// No scope was given.
    #[error("a key needs at least one scope: enqueue, read, work, operate, admin")]
    NoScope,
    /// No randomness.
    #[error(transparent)]
    Randomness(#[from] NoRandomness),
    /// A stored scope that this build does not know.
    #[error("relevo.api_key row {id}, column scopes")]
    Corrupt {
        /// The row.
        id: i64,
        /// The word found.
        #[source]
        source: UnknownScope,
    },
    /// The control plane's database failed.
    #[error("the control plane's database failed")]
    Database(#[from] sqlx::Error),
}

#[derive(sqlx::FromRow)]
struct Row {
    id: i64,
    name: String,
    prefix: String,
    secret_sha256: Vec<u8>,
    scopes: Vec<String>,
    created_at: DateTime<Utc>,
    last_used_at: Option<DateTime<Utc>>,
    revoked_at: Option<DateTime<Utc>>,
    expires_at: Option<DateTime<Utc>>,
    replaces: Option<i64>,
    /// It is neither revoked nor expired, by the database's clock.
    is_good: bool,
    /// Its last use was noted more than a minute ago, by the database's clock.
    touch_due: bool,
}

/// The columns of [`Row`].
macro_rules! columns {
    () => {
        "id, name, prefix, secret_sha256, scopes, created_at, last_used_at, revoked_at, \
         expires_at, replaces, \
         revoked_at IS NULL AND coalesce(expires_at > now(), true) AS is_good, \
         coalesce(last_used_at < now() - interval '1 minute', true) AS touch_due"
    };
}

impl TryFrom<Row> for ApiKey {
    type Error = ApiKeyError;

    fn try_from(row: Row) -> Result<Self, ApiKeyError> {
        let scopes = row
            .scopes
            .iter()
            .map(|scope| scope.parse())
            .collect::<Result<_, _>>()
            .map_err(|source| ApiKeyError::Corrupt { id: row.id, source })?;
        Ok(Self {
            id: row.id,
            name: row.name,
            prefix: row.prefix,
            scopes,
            created_at: row.created_at,
            last_used_at: row.last_used_at,
            revoked_at: row.revoked_at,
            expires_at: row.expires_at,
            replaces: row.replaces,
        })
    }
}

/// Makes a key. The secret is returned here and nowhere else.
///
/// # Errors
/// When the name or the scopes are not fit, or the database fails.
pub async fn create(
    pool: &PgPool,
    name: &str,
    scopes: &[Scope],
) -> Result<(ApiKey, Secret), ApiKeyError> {
    let mut connection = pool.acquire().await?;
    create_in(&mut connection, name, scopes).await
}

/// As [`create`], in the caller's transaction.
///
/// # Errors
/// As [`create`].
pub async fn create_in(
    tx: &mut PgConnection,
    name: &str,
    scopes: &[Scope],
) -> Result<(ApiKey, Secret), ApiKeyError> {
    insert(tx, name, scopes, None).await
}

/// Lets one caller at a time look whether there are keys, until its transaction ends.
///
/// # Errors
/// When the database fails.
pub async fn lock_in(tx: &mut PgConnection) -> Result<(), ApiKeyError> {
    sqlx::query(
        "-- api_keys::lock_in
        SELECT pg_advisory_xact_lock(hashtextextended('relevo.api_key', 0))",
    )
    .execute(tx)
    .await?;
    Ok(())
}

async fn insert(
    tx: &mut PgConnection,
    name: &str,
    scopes: &[Scope],
    replaces: Option<i64>,
) -> Result<(ApiKey, Secret), ApiKeyError> {
    let name_fits = (1..=NAME_CHARS_MAX).contains(&name.chars().count());
    if !name_fits || name.chars().any(char::is_control) {
        return Err(ApiKeyError::Name);
    }
    if scopes.is_empty() {
        return Err(ApiKeyError::NoScope);
    }
    let mut scopes = scopes.to_vec();
    scopes.sort_unstable();
    scopes.dedup();
    let scopes: Vec<&str> = scopes.into_iter().map(Scope::as_str).collect();
    loop {
        let prefix = secret::random_hex::<4>()?;
        let key = format!("rk_{prefix}_{}", secret::random_hex::<32>()?);
        let row: Option<Row> = sqlx::query_as(concat!(
            "-- api_keys::create
            INSERT INTO relevo.api_key (name, prefix, secret_sha256, scopes, replaces)
            VALUES ($1, $2, $3, $4, $5)
            ON CONFLICT (prefix) DO NOTHING
            RETURNING ",
            columns!(),
        ))
        .bind(name)
        .bind(&prefix)
        .bind(secret::sha256(&key).as_slice())
        .bind(&scopes)
        .bind(replaces)
        .fetch_optional(&mut *tx)
        .await?;
        // A prefix that is taken (one in four thousand million): another one.
        if let Some(row) = row {
            return Ok((row.try_into()?, Secret(key)));
        }
    }
}

/// Makes a key in the place of another, with its name and scopes, in the caller's transaction. The
/// old one goes on working for `overlap`, so that whoever uses it can change over. `None` when
/// there is no such key, or it opens nothing any more.
///
/// # Errors
/// When the database fails.
pub async fn rotate_in(
    tx: &mut PgConnection,
    id: i64,
    overlap: Duration,
) -> Result<Option<(ApiKey, Secret)>, ApiKeyError> {
    // An end that was set before is only ever brought forward.
    let old: Option<Row> = sqlx::query_as(concat!(
        "-- api_keys::expire
        UPDATE relevo.api_key
        SET expires_at = least(expires_at, now() + make_interval(secs => $2))
        WHERE id = $1 AND revoked_at IS NULL AND coalesce(expires_at > now(), true)
        RETURNING ",
        columns!(),
    ))
    .bind(id)
    .bind(overlap.as_secs_f64())
    .fetch_optional(&mut *tx)
    .await?;
    let Some(old) = old else { return Ok(None) };
    let old = ApiKey::try_from(old)?;
    insert(tx, &old.name, &old.scopes, Some(id)).await.map(Some)
}

/// The key that `presented` is, or `None`: unknown, wrong and revoked keys are not told apart.
///
/// # Errors
/// When the database fails.
pub async fn verify(pool: &PgPool, presented: &str) -> Result<Option<ApiKey>, ApiKeyError> {
    let Some(prefix) = prefix_of(presented) else { return Ok(None) };
    let row: Option<Row> = sqlx::query_as(concat!(
        "-- api_keys::verify\nSELECT ",
        columns!(),
        " FROM relevo.api_key WHERE prefix = $1",
    ))
    .bind(prefix)
    .fetch_optional(pool)
    .await?;
    let Some(row) = row else { return Ok(None) };
    let matches = secret::sha256(presented).as_slice().ct_eq(&row.secret_sha256);
    if !bool::from(matches) || !row.is_good {
        return Ok(None);
    }
    let touch_due = row.touch_due;
    let key = ApiKey::try_from(row)?;
    if touch_due {
        touch(pool, &key).await;
    }
    Ok(Some(key))
}

/// Notes that the key was used, at most once a minute so that reading costs no write, and without
/// making the request fail when it cannot be noted.
async fn touch(pool: &PgPool, key: &ApiKey) {
    let touched = sqlx::query(
        "-- api_keys::touch
        UPDATE relevo.api_key SET last_used_at = now()
        WHERE id = $1 AND coalesce(last_used_at < now() - interval '1 minute', true)",
    );
    if let Err(error) = touched.bind(key.id).execute(pool).await {
        tracing::warn!(key = key.prefix, %error, "the use of an API key could not be noted");
    }
}

/// Every key, oldest first, revoked ones too.
///
/// # Errors
/// When the database fails.
pub async fn list(pool: &PgPool) -> Result<Vec<ApiKey>, ApiKeyError> {
    let rows: Vec<Row> = sqlx::query_as(concat!(
        "-- api_keys::list\nSELECT ",
        columns!(),
        " FROM relevo.api_key ORDER BY id",
    ))
    .fetch_all(pool)
    .await?;
    rows.into_iter().map(ApiKey::try_from).collect()
}

/// Keys, newest first: those below the number `before`, at most `limit`; with `good_only` without
/// those that open nothing any more.
///
/// # Errors
/// When the database fails.
pub async fn page(
    pool: &PgPool,
    good_only: bool,
    before: Option<i64>,
    limit: u16,
) -> Result<Vec<ApiKey>, ApiKeyError> {
    let rows: Vec<Row> = sqlx::query_as(concat!(
        "-- api_keys::page\nSELECT ",
        columns!(),
        " FROM relevo.api_key
        WHERE ($1::bigint IS NULL OR id < $1)
          AND (NOT $2 OR (revoked_at IS NULL AND coalesce(expires_at > now(), true)))
        ORDER BY id DESC LIMIT $3",
    ))
    .bind(before)
    .bind(good_only)
    .bind(i64::from(limit))
    .fetch_all(pool)
    .await?;
    rows.into_iter().map(ApiKey::try_from).collect()
}

/// Makes a key open nothing from now on. True when it did until now, false when there is no such
/// key or it was revoked before.
///
/// # Errors
/// When the database fails.
pub async fn revoke(pool: &PgPool, id: i64) -> Result<bool, ApiKeyError> {
    let mut connection = pool.acquire().await?;
    revoke_in(&mut connection, id).await
}

/// As [`revoke`], in the caller's transaction.
///
/// # Errors
/// When the database fails.
pub async fn revoke_in(tx: &mut PgConnection, id: i64) -> Result<bool, ApiKeyError> {
    let revoked = sqlx::query(
        "-- api_keys::revoke
        UPDATE relevo.api_key SET revoked_at = now() WHERE id = $1 AND revoked_at IS NULL",
    )
    .bind(id)
    .execute(tx)
    .await?
    .rows_affected();
    Ok(revoked == 1)
}

/// The public digits of something that looks like a key.
fn prefix_of(presented: &str) -> Option<&str> {
    let (prefix, secret) = presented.strip_prefix("rk_")?.split_once('_')?;
    let hex = |text: &str| text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
    (prefix.len() == 8 && secret.len() == 64 && hex(prefix) && hex(secret)).then_some(prefix)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_looks_like_a_key_is_looked_up() {
        let secret = "a".repeat(64);
        assert_eq!(prefix_of(&format!("rk_0123abcd_{secret}")), Some("0123abcd"));
        for wrong in ["", "rk_", "rk_0123abcd", "rk_0123abcd_", "x"] {
            assert_eq!(prefix_of(wrong), None, "{wrong}");
        }
        assert_eq!(prefix_of(&format!("rk_0123abc'_{secret}")), None);
        assert_eq!(prefix_of(&format!("rk_0123ABCD_{secret}")), None);
    }

    #[test]
    fn the_secret_is_not_printed() {
        assert!(!format!("{:?}", Secret("rk_x".to_owned())).contains("rk_x"));
    }
}

//! Sessions of the console, and the links that open them.

use std::fmt;
use std::time::Duration;

use chrono::{DateTime, Utc};
use sqlx::{PgConnection, PgPool};

use crate::api_keys::{ApiKey, Scope, UnknownScope};
use crate::audit::{self, Action, Actor};
use crate::secret::{self, NoRandomness};

/// A session ends after so long, used or not.
const LIFE: Duration = Duration::from_secs(12 * 3_600);
/// A session that is not used for so long opens nothing.
const IDLE_SECONDS_MAX: f64 = 2.0 * 3_600.0;
/// Expired rows deleted at one log-in, at most.
const SWEEP_MAX: i64 = 1_000;
/// Digits of a token.
const TOKEN_DIGITS: usize = 64;

/// Why a session could not be opened or looked up.
#[derive(Debug, thiserror::Error)]
pub enum SessionError {
    /// No randomness.
    #[error(transparent)]
    Randomness(#[from] NoRandomness),
    /// A stored scope that this build does not know.
    #[error("relevo.console_session, column scopes")]
    Corrupt(#[from] UnknownScope),
    /// The control plane's database failed.
    #[error("the control plane's database failed")]
    Database(#[from] sqlx::Error),
}

/// The secret of a session or of a link. Its `Debug` hides it.
#[derive(Clone)]
pub struct SessionToken(String);

impl SessionToken {
    /// What a browser or a link shows, where it looks like a token.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        let hex = text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'));
        (text.len() == TOKEN_DIGITS && hex).then(|| Self(text.to_owned()))
    }

    /// The token itself, for the cookie or the link.
    #[must_use]
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// What a form of this session carries to show that the console made it: a hash of the token,
    /// which a page of somebody else can neither read nor compute.
    #[must_use]
    pub fn form_token(&self) -> String {
        secret::hex(&secret::sha256(&format!("form {}", self.0)))
    }

    fn new() -> Result<Self, NoRandomness> {
        secret::random_hex::<32>().map(Self)
    }

    fn hash(&self) -> [u8; 32] {
        secret::sha256(&self.0)
    }
}

impl fmt::Debug for SessionToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SessionToken(…)")
    }
}

/// Somebody who is logged in.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Session {
    /// The API key that was shown; `None` after a one-time link.
    pub api_key_id: Option<i64>,
    /// Who it is: the key's name, or whom the link was made for.
    pub name: String,
    /// What they may do.
    pub scopes: Vec<Scope>,
    /// When the session ends at the latest.
    pub expires_at: DateTime<Utc>,
}

impl Session {
    /// True when this session may do what `scope` names.
    #[must_use]
    pub fn allows(&self, scope: Scope) -> bool {
        self.scopes.contains(&scope) || self.scopes.contains(&Scope::Admin)
    }

    /// As the audit log knows them.
    #[must_use]
    pub fn actor(&self) -> Actor {
        Actor::Console { api_key_id: self.api_key_id, name: self.name.clone() }
    }
}

#[derive(sqlx::FromRow)]
struct Row {
    api_key_id: Option<i64>,
    name: String,
    scopes: Vec<String>,
    expires_at: DateTime<Utc>,
    /// Its last use was noted more than a minute ago.
    touch_due: bool,
}

/// The session of a cookie, unless it has ended, was idle too long, or its key opens nothing any
/// more.
///
/// # Errors
/// When the database fails.
pub async fn session(pool: &PgPool, token: &SessionToken) -> Result<Option<Session>, SessionError> {
    let row: Option<Row> = sqlx::query_as(
        "-- console::session
        SELECT s.api_key_id, s.name, s.scopes, s.expires_at,
               s.used_at < now() - interval '1 minute' AS touch_due
        FROM relevo.console_session AS s LEFT JOIN relevo.api_key AS k ON k.id = s.api_key_id
        WHERE s.token_sha256 = $1 AND s.expires_at > now()
          AND s.used_at > now() - make_interval(secs => $2)
          AND k.revoked_at IS NULL AND coalesce(k.expires_at > now(), true)",
    )
    .bind(token.hash().as_slice())
    .bind(IDLE_SECONDS_MAX)
    .fetch_optional(pool)
    .await?;
    let Some(row) = row else { return Ok(None) };
    if row.touch_due {
        touch(pool, token).await;
    }
    let scopes = row.scopes.iter().map(|scope| scope.parse()).collect::<Result<_, _>>()?;
    Ok(Some(Session {
        api_key_id: row.api_key_id,
        name: row.name,
        scopes,
        expires_at: row.expires_at,
    }))
}

/// Notes that the session is used, without making the request fail when it cannot be noted.
async fn touch(pool: &PgPool, token: &SessionToken) {
    let touched = sqlx::query(
        "-- console::touch
        UPDATE relevo.console_session SET used_at = now()
        WHERE token_sha256 = $1 AND used_at < now() - interval '1 minute'",
    );
    if let Err(error) = touched.bind(token.hash().as_slice()).execute(pool).await {
        tracing::warn!(%error, "the use of a console session could not be noted");
    }
}

/// Opens a session for whoever has shown this key, and notes it in the audit log.
///
/// # Errors
/// When the database fails.
pub async fn open_by_key(pool: &PgPool, key: &ApiKey) -> Result<SessionToken, SessionError> {
    let mut tx = pool.begin().await?;
    let token = insert(&mut tx, Some(key.id), &key.name, &key.scopes).await?;
    let actor = Actor::Console { api_key_id: Some(key.id), name: key.name.clone() };
    audit::record_in(&mut tx, &actor, log_in("key")).await?;
    tx.commit().await?;
    Ok(token)
}

/// Opens a session for whoever follows this link, which opens nothing from then on. `None` when it
/// was followed before, has expired or never existed: these are not told apart.
///
/// # Errors
/// When the database fails.
pub async fn open_by_link(
    pool: &PgPool,
    link: &SessionToken,
) -> Result<Option<SessionToken>, SessionError> {
    let mut tx = pool.begin().await?;
    let found: Option<(String, Vec<String>)> = sqlx::query_as(
        "-- console::follow_link
        DELETE FROM relevo.console_link WHERE token_sha256 = $1 AND expires_at > now()
        RETURNING name, scopes",
    )
    .bind(link.hash().as_slice())
    .fetch_optional(&mut *tx)
    .await?;
    let Some((name, scopes)) = found else { return Ok(None) };
    let scopes: Vec<Scope> =
        scopes.iter().map(|scope| scope.parse()).collect::<Result<_, UnknownScope>>()?;
    let token = insert(&mut tx, None, &name, &scopes).await?;
    audit::record_in(&mut tx, &Actor::Console { api_key_id: None, name }, log_in("link")).await?;
    tx.commit().await?;
    Ok(Some(token))
}

fn log_in(by: &str) -> Action<'static> {
    let after = Some(serde_json::json!({ "by": by }));
    Action { action: "console.log_in", object: "console", before: None, after }
}

async fn insert(
    tx: &mut PgConnection,
    api_key_id: Option<i64>,
    name: &str,
    scopes: &[Scope],
) -> Result<SessionToken, SessionError> {
    sweep(tx).await?;
    let token = SessionToken::new()?;
    sqlx::query(
        "-- console::open
        INSERT INTO relevo.console_session (token_sha256, api_key_id, name, scopes, expires_at)
        VALUES ($1, $2, $3, $4, now() + make_interval(secs => $5))",
    )
    .bind(token.hash().as_slice())
    .bind(api_key_id)
    .bind(name)
    .bind(scopes.iter().map(|scope| scope.as_str()).collect::<Vec<_>>())
    .bind(LIFE.as_secs_f64())
    .execute(tx)
    .await?;
    Ok(token)
}

/// Deletes what has expired, a bounded number of rows.
async fn sweep(tx: &mut PgConnection) -> Result<(), sqlx::Error> {
    for statement in [
        "-- console::sweep_sessions
        DELETE FROM relevo.console_session WHERE token_sha256 IN (
            SELECT token_sha256 FROM relevo.console_session WHERE expires_at < now()
            ORDER BY expires_at LIMIT $1 FOR UPDATE SKIP LOCKED)",
        "-- console::sweep_links
        DELETE FROM relevo.console_link WHERE token_sha256 IN (
            SELECT token_sha256 FROM relevo.console_link WHERE expires_at < now()
            ORDER BY expires_at LIMIT $1 FOR UPDATE SKIP LOCKED)",
    ] {
        sqlx::query(statement).bind(SWEEP_MAX).execute(&mut *tx).await?;
    }
    Ok(())
}

/// Makes a link that logs in once within `life`, in the caller's transaction. The token is returned
/// here and nowhere else.
///
/// # Errors
/// When the database fails.
pub async fn make_link(
    tx: &mut PgConnection,
    name: &str,
    scopes: &[Scope],
    life: Duration,
) -> Result<SessionToken, SessionError> {
    sweep(tx).await?;
    let token = SessionToken::new()?;
    sqlx::query(
        "-- console::make_link
        INSERT INTO relevo.console_link (token_sha256, name, scopes, expires_at)
        VALUES ($1, $2, $3, now() + make_interval(secs => $4))",
    )
    .bind(token.hash().as_slice())
    .bind(name)
    .bind(scopes.iter().map(|scope| scope.as_str()).collect::<Vec<_>>())
    .bind(life.as_secs_f64())
    .execute(tx)
    .await?;
    Ok(token)
}

/// Ends a session. Ending one that has ended already is no mistake.
///
/// # Errors
/// When the database fails.
pub async fn close(pool: &PgPool, token: &SessionToken) -> Result<(), sqlx::Error> {
    sqlx::query(
        "-- console::close
        DELETE FROM relevo.console_session WHERE token_sha256 = $1",
    )
    .bind(token.hash().as_slice())
    .execute(pool)
    .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_looks_like_a_token_is_looked_up() {
        assert!(SessionToken::parse(&"0a".repeat(32)).is_some());
        for wrong in
            [String::new(), "0A".repeat(32), "0a".repeat(31), format!("{}'", "a".repeat(63))]
        {
            assert!(SessionToken::parse(&wrong).is_none(), "{wrong}");
        }
    }

    #[test]
    fn a_form_token_belongs_to_one_session_and_tells_nothing_of_it() {
        let (one, two) = (SessionToken::new().unwrap(), SessionToken::new().unwrap());
        assert_eq!(one.form_token(), one.form_token());
        assert_ne!(one.form_token(), two.form_token());
        assert_ne!(one.form_token(), one.expose());
        assert!(!format!("{one:?}").contains(one.expose()));
    }
}

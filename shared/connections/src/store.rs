//! The connections that are kept in the control plane, and how they are found together with those of
//! the configuration file.
//!
//! Killed here, then what? Each change is one transaction. A rotation writes the new key to the file
//! first: whatever it had sealed anew by then opens with it, the rest with the old ones.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use relevo_settings::{ConnectionKind, Settings, connection_name};
use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use sqlx::types::Json;
use sqlx::{PgConnection, PgPool};

use crate::endpoint::{self, Endpoint, Origin, Shown};
use crate::keyring::{KeyError, Keyring};

/// The longest URL or key.
const SECRET_BYTES_MAX: usize = 8_192;

/// The most connections that are kept.
const CONNECTIONS_MAX: i64 = 1_000;

/// Why connections cannot be had or changed.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The control plane's database.
    #[error("the control plane's database failed")]
    Database(#[from] sqlx::Error),
    /// The keys that seal secrets.
    #[error(transparent)]
    Key(#[from] KeyError),
    /// A secret was sealed with a key that is not at hand.
    #[error(
        "the secrets of connection {name} were sealed with key {key_id}, which is not at hand; put that key into the key file, or set the connection anew"
    )]
    Sealed {
        /// The connection.
        name: String,
        /// The key that would open it.
        key_id: String,
    },
    /// What was given cannot be a connection.
    #[error("{field}: {reason}")]
    Invalid {
        /// Which part.
        field: &'static str,
        /// What is wrong with it, without its text.
        reason: String,
    },
    /// The name is taken.
    #[error("there is a connection {0} already; `set` changes it")]
    Exists(String),
    /// The name belongs to the configuration file.
    #[error("connection {0} stands in the configuration file; change it there")]
    ReadOnly(String),
    /// No connection has this name.
    #[error("there is no connection {0}")]
    NotFound(String),
    /// Too many.
    #[error("more than {CONNECTIONS_MAX} connections are not kept")]
    TooMany,
}

/// A connection to be kept.
#[derive(Clone, Debug)]
pub struct NewConnection {
    /// What answers there.
    pub kind: ConnectionKind,
    /// Where, with user and password.
    pub url: SecretString,
    /// The key a gateway expects.
    pub api_key: Option<SecretString>,
    /// The sender of a mail server's messages.
    pub from: Option<String>,
}

/// What is to be different; everything that is not named stays.
#[derive(Clone, Debug, Default)]
pub struct Change {
    /// Another URL.
    pub url: Option<SecretString>,
    /// Another key.
    pub api_key: Option<SecretString>,
    /// Another sender.
    pub from: Option<String>,
}

/// What is sealed of a connection.
#[derive(Deserialize, Serialize)]
struct Secrets {
    url: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    api_key: Option<String>,
}

#[derive(sqlx::FromRow)]
struct Row {
    name: String,
    kind: String,
    address: String,
    options: Json<Value>,
    sealed: Vec<u8>,
    key_id: String,
    updated_at: DateTime<Utc>,
    updated_by: String,
}

impl NewConnection {
    fn check(&self) -> Result<(), StoreError> {
        let invalid = |field, reason: String| StoreError::Invalid { field, reason };
        self.kind.check_url(self.url.expose_secret()).map_err(|reason| invalid("url", reason))?;
        let key = self.api_key.as_ref().map_or("", |key| key.expose_secret());
        if self.url.expose_secret().len() > SECRET_BYTES_MAX || key.len() > SECRET_BYTES_MAX {
            return Err(invalid("url", format!("is longer than {SECRET_BYTES_MAX} bytes")));
        }
        if !key.chars().all(|c| c.is_ascii_graphic()) {
            let reason = "holds a blank, a line break or a letter outside ASCII";
            return Err(invalid("api_key", reason.to_owned()));
        }
        if self.kind == ConnectionKind::Gateway && key.is_empty() {
            return Err(invalid("api_key", "is missing; a gateway expects one".to_owned()));
        }
        if let Some(from) = &self.from {
            let good = from.len() <= 320
                && from.split_once('@').is_some_and(|(a, b)| !a.is_empty() && !b.is_empty())
                && !from.chars().any(|c| c.is_whitespace() || c.is_control());
            if !good {
                return Err(invalid("from", "is not an e-mail address".to_owned()));
            }
        }
        Ok(())
    }

    fn secrets(&self) -> Result<Vec<u8>, StoreError> {
        let secrets = Secrets {
            url: self.url.expose_secret().to_owned(),
            api_key: self.api_key.as_ref().map(|key| key.expose_secret().to_owned()),
        };
        // Two texts are always JSON.
        serde_json::to_vec(&secrets).map_err(|_| StoreError::Key(KeyError::Unsealable))
    }
}

impl Row {
    fn shown(&self) -> Shown {
        let option = |name: &str| self.options.get(name).and_then(Value::as_str);
        Shown {
            name: self.name.clone(),
            kind: ConnectionKind::parse(&self.kind).map_or("unknown", ConnectionKind::as_str),
            origin: Origin::Stored,
            address: self.address.clone(),
            has_api_key: self.options.get("has_api_key") == Some(&Value::Bool(true)),
            from: option("from").map(str::to_owned),
            updated_at: Some(self.updated_at),
            updated_by: Some(self.updated_by.clone()),
        }
    }

    fn open(&self, keys: &Keyring) -> Result<Endpoint, StoreError> {
        let sealed = || StoreError::Sealed { name: self.name.clone(), key_id: self.key_id.clone() };
        let opened = keys.open(&self.name, &self.sealed).ok_or_else(sealed)?;
        let secrets: Secrets = serde_json::from_slice(&opened).map_err(|_| sealed())?;
        let kind = ConnectionKind::parse(&self.kind)
            .map_err(|reason| StoreError::Invalid { field: "kind", reason })?;
        let shown = self.shown();
        Ok(Endpoint {
            name: shown.name,
            kind,
            origin: Origin::Stored,
            url: SecretString::from(secrets.url),
            api_key: secrets.api_key.map(SecretString::from),
            from: shown.from,
            ca_file: None,
        })
    }
}

/// All connections: those of the configuration file and those kept in the control plane.
#[derive(Clone, Debug)]
pub struct Connections {
    pool: PgPool,
    settings: Arc<Settings>,
}

impl Connections {
    /// Over this control plane.
    #[must_use]
    pub fn new(pool: PgPool, settings: Arc<Settings>) -> Self {
        Self { pool, settings }
    }

    /// The same under other settings.
    #[must_use]
    pub fn under(&self, settings: Arc<Settings>) -> Self {
        Self { pool: self.pool.clone(), settings }
    }

    /// The settings that say which connections the file makes.
    pub(crate) fn settings(&self) -> &Arc<Settings> {
        &self.settings
    }

    /// Every connection without its secrets, those of the file first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn list(&self) -> Result<Vec<Shown>, StoreError> {
        let rows: Vec<Row> = sqlx::query_as(
            "-- connections::list
            SELECT name, kind, address, options, sealed, key_id, updated_at, updated_by
              FROM relevo.connection
             ORDER BY name
             LIMIT $1",
        )
        .bind(CONNECTIONS_MAX)
        .fetch_all(&self.pool)
        .await?;
        let of_file = endpoint::of_settings(&self.settings);
        let names: Vec<_> = of_file.iter().map(|endpoint| endpoint.name.clone()).collect();
        let stored = rows.iter().filter(|row| !names.contains(&row.name));
        Ok(of_file.iter().map(Endpoint::shown).chain(stored.map(Row::shown)).collect())
    }

    /// One connection without its secrets.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn show(&self, name: &str) -> Result<Option<Shown>, StoreError> {
        if let Some(endpoint) = self.of_file(name) {
            return Ok(Some(endpoint.shown()));
        }
        let mut connection = self.pool.acquire().await?;
        Ok(row(&mut connection, name).await?.map(|row| row.shown()))
    }

    /// One connection, ready to be used.
    ///
    /// # Errors
    /// When the database fails or its secrets cannot be opened.
    pub async fn find(&self, name: &str) -> Result<Option<Endpoint>, StoreError> {
        let Some(endpoint) = self.of_file(name) else { return self.stored(name).await };
        // A key of a source may name another connection.
        let Some(named) = connection_name(endpoint.url.expose_secret()) else {
            return Ok(Some(endpoint));
        };
        let found = match self.of_file(named) {
            Some(found) => Some(found),
            None => self.stored(named).await?,
        };
        let found = found.ok_or_else(|| StoreError::NotFound(named.to_owned()))?;
        if found.kind != endpoint.kind {
            let (found, wanted) = (found.kind.as_str(), endpoint.kind.as_str());
            let reason = format!("{named} is of kind {found}; {wanted} is needed");
            return Err(StoreError::Invalid { field: "connection", reason });
        }
        let api_key = found.api_key.or(endpoint.api_key);
        Ok(Some(Endpoint { name: endpoint.name, api_key, ..found }))
    }

    /// One that is kept in the control plane.
    async fn stored(&self, name: &str) -> Result<Option<Endpoint>, StoreError> {
        let mut connection = self.pool.acquire().await?;
        match row(&mut connection, name).await? {
            Some(row) => Ok(Some(row.open(&Keyring::load(&self.settings)?)?)),
            None => Ok(None),
        }
    }

    fn of_file(&self, name: &str) -> Option<Endpoint> {
        endpoint::of_settings(&self.settings).into_iter().find(|endpoint| endpoint.name == name)
    }

    /// Keeps a new connection, in the caller's transaction. The first one makes the key file.
    ///
    /// # Errors
    /// When the name is taken or no name, the connection is none, or the key or database fails.
    pub async fn add_in(
        &self,
        tx: &mut PgConnection,
        name: &str,
        new: &NewConnection,
        by: &str,
    ) -> Result<Shown, StoreError> {
        self.check_name(name)?;
        new.check()?;
        if row(tx, name).await?.is_some() {
            return Err(StoreError::Exists(name.to_owned()));
        }
        let kept: i64 =
            sqlx::query_scalar("-- connections::count\nSELECT count(*) FROM relevo.connection")
                .fetch_one(&mut *tx)
                .await?;
        if kept >= CONNECTIONS_MAX {
            return Err(StoreError::TooMany);
        }
        self.put_in(tx, name, new, by).await
    }

    /// Changes a connection, in the caller's transaction.
    ///
    /// # Errors
    /// As [`Connections::add_in`], and when there is none of this name.
    pub async fn set_in(
        &self,
        tx: &mut PgConnection,
        name: &str,
        change: &Change,
        by: &str,
    ) -> Result<Shown, StoreError> {
        self.check_name(name)?;
        let row = row(tx, name).await?.ok_or_else(|| StoreError::NotFound(name.to_owned()))?;
        let keys = Keyring::load_or_make(&self.settings)?;
        let (url, api_key) = match (&change.url, &change.api_key) {
            // With both given nothing has to be opened, so that a lost key is no dead end.
            (Some(url), Some(api_key)) => (url.clone(), Some(api_key.clone())),
            (url, api_key) => {
                let old = row.open(&keys);
                let old = match (old, url) {
                    (Ok(old), _) => Some(old),
                    (Err(_), Some(_)) => None,
                    (Err(error), None) => return Err(error),
                };
                let old_key = old.as_ref().and_then(|old| old.api_key.clone());
                let url = url.clone().or(old.map(|old| old.url)).ok_or_else(|| {
                    StoreError::Invalid { field: "url", reason: "is missing".to_owned() }
                })?;
                (url, api_key.clone().or(old_key))
            }
        };
        let kind = ConnectionKind::parse(&row.kind)
            .map_err(|reason| StoreError::Invalid { field: "kind", reason })?;
        let from = change.from.clone().or(row.shown().from);
        let new = NewConnection { kind, url, api_key, from };
        new.check()?;
        self.put_in(tx, name, &new, by).await
    }

    async fn put_in(
        &self,
        tx: &mut PgConnection,
        name: &str,
        new: &NewConnection,
        by: &str,
    ) -> Result<Shown, StoreError> {
        // Before the keys are read: a rotation that is under way ends first, or waits for us. Its old
        // key must not seal anything any more.
        sqlx::query("-- connections::put_in\nLOCK TABLE relevo.connection IN ROW EXCLUSIVE MODE")
            .execute(&mut *tx)
            .await?;
        let keys = Keyring::load_or_make(&self.settings)?;
        let sealed = keys.seal(name, &new.secrets()?)?;
        let options = json!({"has_api_key": new.api_key.is_some(), "from": new.from});
        let row: Row = sqlx::query_as(
            "-- connections::put_in
            INSERT INTO relevo.connection
                   (name, kind, address, options, sealed, key_id, updated_by)
            VALUES ($1, $2, $3, $4, $5, $6, $7)
            ON CONFLICT (name) DO UPDATE
               SET kind = excluded.kind, address = excluded.address, options = excluded.options,
                   sealed = excluded.sealed, key_id = excluded.key_id, updated_at = now(),
                   updated_by = excluded.updated_by
            RETURNING name, kind, address, options, sealed, key_id, updated_at, updated_by",
        )
        .bind(name)
        .bind(new.kind.as_str())
        .bind(endpoint::address(new.kind, new.url.expose_secret()))
        .bind(options)
        .bind(sealed)
        .bind(keys.first_id()?)
        .bind(by.chars().take(200).collect::<String>())
        .fetch_one(tx)
        .await?;
        Ok(row.shown())
    }

    /// Forgets a connection, in the caller's transaction.
    ///
    /// # Errors
    /// When there is none of this name, it stands in the file, or the database fails.
    pub async fn remove_in(&self, tx: &mut PgConnection, name: &str) -> Result<(), StoreError> {
        if self.of_file(name).is_some() {
            return Err(StoreError::ReadOnly(name.to_owned()));
        }
        let gone = sqlx::query(
            "-- connections::remove_in
            DELETE FROM relevo.connection WHERE name = $1",
        )
        .bind(name)
        .execute(tx)
        .await?
        .rows_affected();
        if gone == 0 { Err(StoreError::NotFound(name.to_owned())) } else { Ok(()) }
    }

    /// Seals every secret anew with a new key, in the caller's transaction. Once that is committed,
    /// [`Rotation::end`] drops the old keys.
    ///
    /// # Errors
    /// When a secret does not open: then nothing is changed but the key file, which has one key
    /// more; with keys from `secrets.key`, when no new one was put first.
    pub async fn rotate_in(&self, tx: &mut PgConnection, by: &str) -> Result<Rotation, StoreError> {
        // One rotation at a time, and no change beside it: a row written meanwhile under the old
        // key would not open when that is dropped.
        sqlx::query("-- connections::rotate\nLOCK TABLE relevo.connection IN EXCLUSIVE MODE")
            .execute(&mut *tx)
            .await?;
        let mut keys = Keyring::load_or_make(&self.settings)?;
        keys.begin_rotation()?;
        let rows: Vec<Row> = sqlx::query_as(
            "-- connections::rotate
            SELECT name, kind, address, options, sealed, key_id, updated_at, updated_by
              FROM relevo.connection",
        )
        .fetch_all(&mut *tx)
        .await?;
        for row in &rows {
            let opened = keys.open(&row.name, &row.sealed).ok_or_else(|| StoreError::Sealed {
                name: row.name.clone(),
                key_id: row.key_id.clone(),
            })?;
            sqlx::query(
                "-- connections::reseal
                UPDATE relevo.connection
                   SET sealed = $2, key_id = $3, updated_at = now(), updated_by = $4
                 WHERE name = $1",
            )
            .bind(&row.name)
            .bind(keys.seal(&row.name, &opened)?)
            .bind(keys.first_id()?)
            .bind(by.chars().take(200).collect::<String>())
            .execute(&mut *tx)
            .await?;
        }
        Ok(Rotation { sealed: rows.len(), keys })
    }

    /// Refuses what is no name, and the names of the file.
    fn check_name(&self, name: &str) -> Result<(), StoreError> {
        if self.of_file(name).is_some() {
            return Err(StoreError::ReadOnly(name.to_owned()));
        }
        let plain = (1..=40).contains(&name.len())
            && name
                .chars()
                .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '-' | '_'));
        if !plain || matches!(name, "database" | "smtp") {
            let reason =
                "has 1 to 40 small letters, digits, - and _, and is neither database nor smtp";
            return Err(StoreError::Invalid { field: "name", reason: reason.to_owned() });
        }
        Ok(())
    }
}

/// Secrets that were sealed anew; both keys open until [`Rotation::end`].
#[derive(Debug)]
#[must_use = "the old keys are still there"]
pub struct Rotation {
    /// How many there were.
    pub sealed: usize,
    keys: Keyring,
}

impl Rotation {
    /// Drops the old keys, once it is certain that nothing is sealed with them any more.
    ///
    /// # Errors
    /// When the key file cannot be written; both keys are in it then, and everything opens.
    pub fn end(mut self) -> Result<(), StoreError> {
        Ok(self.keys.end_rotation()?)
    }
}

async fn row(connection: &mut PgConnection, name: &str) -> Result<Option<Row>, sqlx::Error> {
    sqlx::query_as(
        "-- connections::row
        SELECT name, kind, address, options, sealed, key_id, updated_at, updated_by
          FROM relevo.connection
         WHERE name = $1",
    )
    .bind(name)
    .fetch_optional(connection)
    .await
}

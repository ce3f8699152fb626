//! The configuration file `config.toml` of a clinic's sync, as it is, and a few keys more.

use std::path::Path;

use secrecy::{ExposeSecret as _, SecretString};
use serde::de::Error as _;
use serde::{Deserialize, Deserializer};
use url::Url;

use crate::error::SyncError;

/// The tables of the clinic, parents before children as far as their names tell; the order that
/// counts is read from the foreign keys.
pub const CLINIC: [&str; 23] = [
    "branches",
    "rooms",
    "profiles",
    "patients",
    "appointments",
    "services",
    "service_categories",
    "invoices",
    "invoice_items",
    "payments",
    "cash_closures",
    "encounters",
    "prescriptions",
    "prescription_items",
    "referrals",
    "inventory_items",
    "inventory_categories",
    "inventory_movements",
    "studies",
    "study_files",
    "crm_leads",
    "crm_pipelines",
    "crm_pipeline_stages",
];

/// The whole file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The Supabase project.
    pub supabase: Supabase,
    /// The local database.
    pub local_postgres: LocalPostgres,
    /// When and how much.
    #[serde(default)]
    pub sync: Sync,
    /// Where the log goes.
    #[serde(default)]
    pub logging: Logging,
    /// What is special about single tables.
    #[serde(default)]
    pub table: Vec<TableOptions>,
}

/// `[supabase]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Supabase {
    /// The project's URL.
    #[serde(deserialize_with = "address")]
    pub url: Url,
    /// The secret key (`sb_secret_…`) or the older service-role key.
    pub service_key: SecretString,
}

/// `[local_postgres]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LocalPostgres {
    /// Host name or address.
    pub host: String,
    /// Port.
    #[serde(default = "default_port")]
    pub port: u16,
    /// Database.
    pub database: String,
    /// Role: the owner of the tables, or one with its rights.
    pub user: String,
    /// Its password.
    #[serde(default)]
    pub password: SecretString,
    /// Schema of the tables and of the control tables.
    #[serde(default = "default_schema")]
    pub schema: String,
}

/// `[sync]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Sync {
    /// Seconds between two looks at Supabase while nothing changes.
    pub interval_seconds: u64,
    /// Rows of one request.
    pub batch_size: usize,
    /// Requests, and attempts at one change, before it is given up for now.
    pub retry_max_attempts: u32,
    /// Seconds before the second attempt; doubled for each further one.
    pub retry_delay_seconds: u64,
    /// Seconds by which each look goes back behind what was seen, for transactions that commit late.
    pub overlap_seconds: u64,
    /// Seconds that one request may take.
    pub request_timeout_seconds: u64,
    /// The line is paid by volume: look ten times less often while nothing changes.
    pub metered: bool,
    /// Only rows of this branch, in tables that have a `branch_id`.
    pub branch_id: Option<String>,
    /// The tables; without it the 23 of the clinic.
    pub tables: Vec<String>,
}

impl Default for Sync {
    fn default() -> Self {
        Self {
            interval_seconds: 30,
            batch_size: 100,
            retry_max_attempts: 3,
            retry_delay_seconds: 5,
            overlap_seconds: 120,
            request_timeout_seconds: 30,
            metered: false,
            branch_id: None,
            tables: CLINIC.iter().map(|&name| name.to_owned()).collect(),
        }
    }
}

/// `[logging]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Logging {
    /// `error`, `warn`, `info`, `debug`.
    pub level: String,
    /// The file; without it standard error.
    pub file: Option<std::path::PathBuf>,
    /// Megabytes after which a new file is begun.
    pub max_size_mb: u64,
    /// Files kept.
    pub max_files: u32,
}

impl Default for Logging {
    fn default() -> Self {
        Self { level: "info".to_owned(), file: None, max_size_mb: 10, max_files: 5 }
    }
}

/// `[[table]]`
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TableOptions {
    /// Its name.
    pub name: String,
    /// What happens when both sides gave the same unique value to different rows.
    #[serde(default)]
    pub on_unique: OnUnique,
    /// With `renumber`: the column that gets a new number, which must be of an integer type.
    pub renumber_column: Option<String>,
}

/// What happens when both sides gave the same unique value to different rows.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum OnUnique {
    /// The local row waits until a person has changed one of the two.
    #[default]
    Hold,
    /// The local row gets the next free number.
    Renumber,
}

fn address<'de, D: Deserializer<'de>>(text: D) -> Result<Url, D::Error> {
    let text = String::deserialize(text)?;
    Url::parse(&text).map_err(|error| D::Error::custom(format!("supabase.url: {error}")))
}

fn default_port() -> u16 {
    5432
}

fn default_schema() -> String {
    "public".to_owned()
}

impl Config {
    /// Reads a file.
    ///
    /// # Errors
    /// [`SyncError::Config`] with the file's name and what is wrong in it; never with a value.
    pub fn read(path: &Path) -> Result<Self, SyncError> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| SyncError::Config(format!("{}: {error}", path.display())))?;
        Self::parse(&text).map_err(|error| match error {
            SyncError::Config(reason) => SyncError::Config(format!("{}: {reason}", path.display())),
            other => other,
        })
    }

    /// Reads its text.
    ///
    /// # Errors
    /// [`SyncError::Config`].
    pub fn parse(text: &str) -> Result<Self, SyncError> {
        // The message alone: the error as a whole shows the line, which may be the key's.
        let config: Self =
            toml::from_str(text).map_err(|error| SyncError::Config(error.message().to_owned()))?;
        config.check()?;
        Ok(config)
    }

    fn check(&self) -> Result<(), SyncError> {
        let wrong = |reason: &str| Err(SyncError::Config(reason.to_owned()));
        if !matches!(self.supabase.url.scheme(), "http" | "https") {
            return wrong("supabase.url must begin with https://");
        }
        if self.supabase.service_key.expose_secret().is_empty() {
            return wrong("supabase.service_key is empty");
        }
        if !(1..=1000).contains(&self.sync.batch_size) {
            return wrong("sync.batch_size must be from 1 to 1000");
        }
        if !(1..=86_400).contains(&self.sync.interval_seconds) {
            return wrong("sync.interval_seconds must be from 1 to 86400");
        }
        if !(1..=20).contains(&self.sync.retry_max_attempts) {
            return wrong("sync.retry_max_attempts must be from 1 to 20");
        }
        if self.sync.retry_delay_seconds > 3600 {
            return wrong("sync.retry_delay_seconds must be at most 3600");
        }
        if self.sync.overlap_seconds > 86_400 {
            return wrong("sync.overlap_seconds must be at most 86400");
        }
        if !(1..=600).contains(&self.sync.request_timeout_seconds) {
            return wrong("sync.request_timeout_seconds must be from 1 to 600");
        }
        if self.sync.tables.is_empty() || self.sync.tables.len() > 1000 {
            return wrong("sync.tables must name from 1 to 1000 tables");
        }
        for options in &self.table {
            if options.on_unique == OnUnique::Renumber && options.renumber_column.is_none() {
                return Err(SyncError::Config(format!(
                    "table {}: on_unique = \"renumber\" needs renumber_column",
                    options.name
                )));
            }
        }
        Ok(())
    }

    /// The address of the local database, with its password.
    ///
    /// # Errors
    /// [`SyncError::Config`] for a host that is none.
    pub fn local_url(&self) -> Result<SecretString, SyncError> {
        let local = &self.local_postgres;
        let bad = |_| SyncError::Config("local_postgres.host is no host".to_owned());
        let mut url = Url::parse("postgres://localhost/").map_err(bad)?;
        url.set_host(Some(&local.host)).map_err(bad)?;
        let refused = |()| SyncError::Config("local_postgres can't be an address".to_owned());
        url.set_port(Some(local.port)).map_err(refused)?;
        url.set_username(&local.user).map_err(refused)?;
        if !local.password.expose_secret().is_empty() {
            url.set_password(Some(local.password.expose_secret())).map_err(refused)?;
        }
        url.set_path(&local.database);
        Ok(SecretString::from(url.to_string()))
    }

    /// What is special about a table.
    #[must_use]
    pub fn options(&self, table: &str) -> Option<&TableOptions> {
        self.table.iter().find(|options| options.name == table)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const AS_REQUIRED: &str = r#"
[supabase]
url = "https://abc.supabase.co"
service_key = "sb_secret_x"
[local_postgres]
host = "127.0.0.1"
port = 5433
database = "clinica"
user = "sync"
password = "p@ss/word"
[sync]
interval_seconds = 30
batch_size = 100
retry_max_attempts = 3
retry_delay_seconds = 5
[logging]
level = "info"
file = "sync.log"
max_size_mb = 10
max_files = 5
"#;

    #[test]
    fn the_required_file_is_read_as_it_is() {
        let config = Config::parse(AS_REQUIRED).expect("readable");
        assert_eq!(config.sync.tables.len(), 23);
        let url = config.local_url().expect("an address");
        assert_eq!(url.expose_secret(), "postgres://sync:p%40ss%2Fword@127.0.0.1:5433/clinica");
    }

    #[test]
    fn an_error_never_shows_a_line_of_the_file() {
        let broken = AS_REQUIRED.replace("\"sb_secret_x\"", "sb_secret_x");
        let error = Config::parse(&broken).expect_err("broken");
        assert!(!error.to_string().contains("sb_secret"), "{error}");
        let unknown = AS_REQUIRED.replace("batch_size", "batchsize");
        assert!(Config::parse(&unknown).expect_err("unknown").to_string().contains("batchsize"));
    }
}

//! Relevo's configuration: one file, environment variables over it, flags over both.
//!
//! Every key has a default; an unknown key is refused with the nearest known name; whatever is
//! wrong is reported at once, with file and line or the variable's name. Secrets are
//! [`secrecy::SecretString`] from the moment they are typed, and appear in no `Debug`, no error and
//! no explanation. [`Section::ALL`] is the one table of keys.

use std::collections::BTreeMap;
use std::path::PathBuf;

use secrecy::{ExposeSecret as _, SecretString};

mod check;
mod cross;
mod error;
mod example;
mod explain;
mod file;
mod in_force;
mod load;
mod nearest;
mod origin;
mod reader;
mod reference;
mod schema;
mod sections;

pub use error::{Problem, SettingsError};
pub use example::example;
pub use explain::Explained;
pub use in_force::{InForce, Version};
pub use load::{Loaded, load};
pub use origin::Origin;
pub use schema::{BACKUP, CHANNEL, CONNECTION, Key, Kind, Preset, REPEATED, SCHEDULE, Section};
pub use sections::alerts::Alerts;
pub use sections::api::Api;
pub use sections::backup::{BackupSource, CutoverMode, GatewayMode, OldSnapshots, SourceKind};
pub use sections::channel::{Channel, ChannelEvent, ChannelKind, Language};
pub use sections::chunk_store::ChunkStore;
pub use sections::connection::{Connection, ConnectionKind};
pub use sections::database::{Database, Pooler};
pub use sections::dump::DumpChoices;
pub use sections::notify::Notify;
pub use sections::outbound::Outbound;
pub use sections::schedule::ScheduleEntry;
pub use sections::scheduler::{MissedRuns, Scheduler};
pub use sections::secrets::Secrets;
pub use sections::smtp::{Smtp, SmtpSecurity};
pub use sections::telemetry::{LogFormat, Telemetry};
pub use sections::worker::Worker;

/// The source that the fixed names (`TUNNEL_API_URL`, `DATABASE_URL`, …) speak of.
pub const DEFAULT_SOURCE: &str = "sicar";

/// Everything that can be configured, checked.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Folder for the embedded server, downloaded dumps and chunks; absolute.
    pub data_dir: PathBuf,
    /// The control plane.
    pub database: Database,
    /// The HTTP side.
    pub api: Api,
    /// How one worker process works.
    pub worker: Worker,
    /// Leadership, missed slots, upkeep.
    pub scheduler: Scheduler,
    /// Logs.
    pub telemetry: Telemetry,
    /// Where the pieces of a dump wait.
    pub chunk_store: ChunkStore,
    /// Who hears how a run ended, in the simplest words.
    pub notify: Notify,
    /// Further ways to tell people, by name.
    pub channel: BTreeMap<String, Channel>,
    /// The mail server.
    pub smtp: Smtp,
    /// What is noticed without anybody looking.
    pub alerts: Alerts,
    /// Where messages may go.
    pub outbound: Outbound,
    /// The named endpoints of the file.
    pub connection: BTreeMap<String, Connection>,
    /// The key that seals secrets kept in the control plane.
    pub secrets: Secrets,
    /// The sources by name.
    pub backup: BTreeMap<String, BackupSource>,
    /// What the clock starts beside the sources' backups, by name.
    pub schedule: BTreeMap<String, ScheduleEntry>,
}

impl Settings {
    /// The sources that want a database of the embedded server, each with the database's name.
    /// Whoever starts or finds that server replaces them by [`Settings::set_target`] before
    /// anything else uses the settings.
    pub fn embedded_targets(&self) -> Vec<(String, String)> {
        self.backup
            .iter()
            .filter_map(|(name, source)| Some((name.clone(), source.embedded_database()?)))
            .collect()
    }

    /// Gives a source its real target; unknown sources are ignored.
    pub fn set_target(&mut self, source: &str, url: SecretString) {
        if let Some(source) = self.backup.get_mut(source) {
            source.target_url = url;
        }
    }

    /// These settings as a process takes them up that was started with `running`: what only holds
    /// from the next start ([`Section::holds_at_once`]) stays as it was.
    #[must_use]
    pub fn taken_up_by(mut self, running: &Self) -> Self {
        self.data_dir.clone_from(&running.data_dir);
        self.database = running.database.clone();
        self.worker = Worker { concurrency: self.worker.concurrency, ..running.worker.clone() };
        self.telemetry = running.telemetry.clone();
        self.chunk_store = running.chunk_store.clone();
        self.api.listen = running.api.listen;
        self.api.body_limit_bytes = running.api.body_limit_bytes;
        self.api.bare_webhook = running.api.bare_webhook;
        self.scheduler.lease_seconds = running.scheduler.lease_seconds;
        self.scheduler.metrics_listen = running.scheduler.metrics_listen;
        self
    }
}

impl BackupSource {
    /// The database's name when the target is `embedded:NAME`.
    pub fn embedded_database(&self) -> Option<String> {
        self.target_url.expose_secret().strip_prefix(check::EMBEDDED_PREFIX).map(str::to_owned)
    }

    /// The keys that name a connection in place of an address: the key, what must answer there,
    /// and the connection's name.
    pub fn connections(&self) -> Vec<(&'static str, ConnectionKind, &str)> {
        let heartbeat = self.heartbeat_url.as_ref().map_or("", |url| url.expose_secret());
        [
            ("gateway_url", ConnectionKind::Gateway, self.gateway_url.as_str()),
            ("target_url", ConnectionKind::Postgres, self.target_url.expose_secret()),
            ("heartbeat_url", ConnectionKind::Webhook, heartbeat),
        ]
        .into_iter()
        .filter_map(|(key, kind, text)| Some((key, kind, connection_name(text)?)))
        .collect()
    }
}

/// The connection's name when a text is `connection:NAME`.
#[must_use]
pub fn connection_name(text: &str) -> Option<&str> {
    text.strip_prefix(check::CONNECTION_PREFIX)
}

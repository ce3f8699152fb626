//! `[backup.NAME]`: one source of dumps, and the target they are loaded into.

use std::path::PathBuf;

use chrono::NaiveTime;
use chrono_tz::Tz;
use secrecy::{ExposeSecret as _, SecretString};
use url::Url;

use crate::check;
use crate::connection_name;
use crate::reader::Reader;
use crate::schema::{BACKUP, Key, Preset, Section, joined};
use crate::sections::dump::{self, DumpChoices};

/// One shop: where its dumps come from, where they go, when, and how careful to be.
#[derive(Debug, Clone)]
pub struct BackupSource {
    /// What the dumps come from.
    pub kind: SourceKind,
    /// The gateway's base URL without a trailing slash, or `connection:NAME`; empty where dumps
    /// come from elsewhere.
    pub gateway_url: String,
    /// Sent as `API-KEY` with every call to the gateway; empty where dumps come from elsewhere, or
    /// where a connection has it.
    pub api_key: SecretString,
    /// The folder, or the file, that dumps come from; present exactly for those kinds.
    pub path: Option<PathBuf>,
    /// Which names in the folder are dumps.
    pub pattern: String,
    /// How long a file must have been left unchanged to count as complete.
    pub settle_seconds: u64,
    /// Where the dump is fetched; present exactly for that kind.
    pub url: Option<SecretString>,
    /// Sent with every request to `url`.
    pub headers: Vec<(String, SecretString)>,
    /// The largest dump that may be uploaded for this source.
    pub upload_max_mb: u64,
    /// When https cannot be had, plain http to the same host may be tried.
    pub allow_http_fallback: bool,
    /// How a backup is asked for.
    pub mode: GatewayMode,
    /// A `postgres://` URL; `embedded:NAME` until [`crate::Settings::set_target`]; or
    /// `connection:NAME`, which is looked up where it is used.
    pub target_url: SecretString,
    /// The schema whose tables are exchanged.
    pub target_schema: String,
    /// The zone of the gateway's timestamps and of the schedule.
    pub timezone: Tz,
    /// Whether slots fire by themselves.
    pub schedule_enabled: bool,
    /// Hours between slots, counted from the first slot of each day.
    pub sync_interval_hours: u32,
    /// The first slot of a day, local time.
    pub first_slot: NaiveTime,
    /// How long downloaded dumps are kept; the newest good one always is.
    pub retention_days: u32,
    /// How long a webhook may take after the gateway accepted.
    pub webhook_timeout_seconds: u64,
    /// How long the gateway's synchronous answer may take.
    pub sync_timeout_seconds: u64,
    /// How long after its start a run goes on trying a gateway that cannot be reached, and how long a
    /// download may bring nothing.
    pub gateway_patience_seconds: u64,
    /// How long to wait after a backup that failed or was no good; doubled the next time.
    pub retry_pause_seconds: u64,
    /// How long a download's line may be silent before it is cut and resumed.
    pub download_idle_seconds: u64,
    /// How long one chunk's COPY may take.
    pub copy_timeout_seconds: u64,
    /// How long one statement of the finish (an index, a key) may take.
    pub statement_timeout_seconds: u64,
    /// How long a statement in the target waits for a lock, those of the cutover excepted.
    pub lock_timeout_ms: u64,
    /// How long a run goes on trying to cut over while readers hold it up.
    pub cutover_patience_seconds: u64,
    /// How readers come to see the new rows.
    pub cutover: CutoverMode,
    /// What happens to transactions older than the load that do not end.
    pub old_snapshots: OldSnapshots,
    /// How long those are waited for.
    pub snapshot_wait_seconds: u64,
    /// What of a dump is loaded, and how types and values are carried over.
    pub dump: DumpChoices,
    /// A table that lost more of its rows than this since the last certificate stops the import.
    pub guard_shrink_percent: u8,
    /// Asked after each success, so that its keeper notices when none comes. Secret, since whoever
    /// knows it can ask too.
    pub heartbeat_url: Option<SecretString>,
}

/// What the dumps of a source come from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SourceKind {
    /// A gateway that makes them on request.
    Gateway,
    /// A folder that somebody else puts them into: the newest complete file.
    Folder,
    /// One file that somebody else replaces.
    File,
    /// A web server.
    Url,
    /// Uploads through the API, and nothing else.
    Upload,
}

impl SourceKind {
    /// Every kind.
    pub const ALL: [Self; 5] = [Self::Gateway, Self::Folder, Self::File, Self::Url, Self::Upload];

    /// As written in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Gateway => "gateway",
            Self::Folder => "folder",
            Self::File => "file",
            Self::Url => "url",
            Self::Upload => "upload",
        }
    }
}

/// How readers come to see the new rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CutoverMode {
    /// The new tables take the place of the present ones, which are kept until the next success.
    Swap,
    /// The present tables stay, and their rows are changed in one transaction.
    Merge,
}

impl CutoverMode {
    /// As written in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Swap => "swap",
            Self::Merge => "merge",
        }
    }
}

/// What happens to transactions that would see exchanged tables empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OldSnapshots {
    /// The import fails and names them.
    Refuse,
    /// The tables are exchanged all the same.
    Proceed,
}

impl OldSnapshots {
    /// As written in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Refuse => "refuse",
            Self::Proceed => "proceed",
        }
    }
}

/// How a backup is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GatewayMode {
    /// Webhook where a public URL is known, else synchronous.
    Auto,
    /// The gateway calls back; needs `api.public_url`.
    Webhook,
    /// The gateway answers when the backup is done.
    Sync,
}

impl GatewayMode {
    /// As written in the file.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Auto => "auto",
            Self::Webhook => "webhook",
            Self::Sync => "sync",
        }
    }
}

pub(crate) const SECTION: Section = Section {
    name: BACKUP,
    help: "One table for each source: [backup.sicar] is the one that TUNNEL_API_URL, DATABASE_URL and \
           their like speak of.",
    keys: &joined::<{ OWN.len() + dump::KEYS.len() }>(OWN, dump::KEYS),
};

const OWN: &[Key] = &[
    Key::text(
        "kind",
        Preset::Value("gateway"),
        "What dumps come from: gateway, folder (its newest complete file), file, url, or upload (through the API only).",
    ),
    Key::text(
        "gateway_url",
        Preset::Required,
        "Base URL of the gateway, https://host:port, or connection:NAME; for the kind gateway.",
    )
    .fixed_env("TUNNEL_API_URL"),
    Key::secret(
        "api_key",
        Preset::Required,
        "Key that the gateway expects with every call; for the kind gateway, where no connection has it.",
    )
    .fixed_env("TUNNEL_API_KEY"),
    Key::boolean(
        "allow_http_fallback",
        "false",
        "Whether plain http to the same host may be tried when https cannot be had; the key then travels unencrypted.",
    ),
    Key::text(
        "mode",
        Preset::Value("auto"),
        "webhook (needs api.public_url), sync, or auto: webhook where a public URL is known.",
    ),
    Key::text(
        "path",
        Preset::Absent("needed for the kinds folder and file"),
        "Folder or file that dumps come from; every worker must see it.",
    ),
    Key::text(
        "pattern",
        Preset::Value("*.sql.gz"),
        "Names in the folder that are dumps; * stands for any text, ? for one letter.",
    ),
    Key::integer(
        "settle_seconds",
        (1, 3_600),
        "60",
        "Seconds that a file must have been left unchanged to count as complete.",
    ),
    Key::secret(
        "url",
        Preset::Absent("needed for the kind url"),
        "Where the dump is fetched, https://…; redirects are not followed.",
    ),
    Key::secret(
        "headers",
        Preset::Absent("the kind url asks without any"),
        "Headers sent to the url, one NAME: VALUE per line, such as an authorisation.",
    ),
    Key::integer(
        "upload_max_mb",
        (1, 1_048_576),
        "20480",
        "Megabytes that an uploaded dump may have, as it is sent.",
    ),
    Key::secret(
        "target_url",
        Preset::Computed("embedded:NAME with the embedded server, else it must be given"),
        "Postgres URL of the database to load into, embedded:NAME for a database of the embedded server, or connection:NAME for a connection.",
    )
    .fixed_env("DATABASE_URL"),
    Key::text("target_schema", Preset::Value("public"), "Schema whose tables are exchanged."),
    Key::text(
        "timezone",
        Preset::Value("America/Mexico_City"),
        "Zone of the gateway's timestamps and of the schedule.",
    ),
    Key::boolean("schedule_enabled", "true", "Whether backups start by themselves."),
    Key::integer(
        "sync_interval_hours",
        (1, 24),
        "12",
        "Hours between backups, counted from first_slot of each day.",
    )
    .fixed_env("SYNC_INTERVAL_HOURS"),
    Key::text(
        "first_slot",
        Preset::Value("06:00"),
        "Local time of the first backup of a day, HH:MM.",
    ),
    Key::integer(
        "retention_days",
        (0, 3_650),
        "7",
        "Days that downloaded dumps are kept; the newest good one always is.",
    )
    .fixed_env("BACKUP_RETENTION_DAYS"),
    Key::integer(
        "webhook_timeout_seconds",
        (10, 86_400),
        "900",
        "Seconds that the gateway's call may take after it accepted.",
    ),
    Key::integer(
        "sync_timeout_seconds",
        (10, 86_400),
        "720",
        "Seconds that the gateway's synchronous answer may take.",
    ),
    Key::integer(
        "gateway_patience_seconds",
        (10, 604_800),
        "21600",
        "Seconds after its start that a run goes on trying a gateway that cannot be reached; also how long a download may bring nothing.",
    ),
    Key::integer(
        "retry_pause_seconds",
        (1, 3_600),
        "60",
        "Seconds before the gateway is asked again after a backup that failed or was no good; doubled the next time.",
    ),
    Key::integer(
        "download_idle_seconds",
        (2, 3_600),
        "60",
        "Seconds that a download's line may be silent before it is cut and the download resumed.",
    ),
    Key::integer(
        "copy_timeout_seconds",
        (10, 86_400),
        "600",
        "Seconds that loading one chunk may take.",
    ),
    Key::integer(
        "statement_timeout_seconds",
        (10, 86_400),
        "3600",
        "Seconds that one statement after the load (an index, a key, ANALYZE) may take.",
    ),
    Key::integer(
        "lock_timeout_ms",
        (10, 600_000),
        "3000",
        "Milliseconds that a statement in the target waits for a lock, those of the cutover excepted.",
    ),
    Key::integer(
        "cutover_patience_seconds",
        (1, 86_400),
        "7200",
        "Seconds that a run goes on trying to cut over while readers hold it up, before it fails and names them.",
    ),
    Key::text(
        "cutover",
        Preset::Value("swap"),
        "swap (the new tables take the place of the present ones, which are kept until the next success) or merge (the present tables stay and their rows are changed in one transaction: for logical replication and readers that never end).",
    ),
    Key::text(
        "old_snapshots",
        Preset::Value("refuse"),
        "What happens when transactions older than the load do not end in time: refuse (the import fails and names them) or proceed (they may see empty tables).",
    ),
    Key::integer(
        "snapshot_wait_seconds",
        (0, 86_400),
        "600",
        "Seconds that transactions older than the load are waited for before the tables are exchanged.",
    ),
    Key::integer(
        "guard_shrink_percent",
        (0, 100),
        "30",
        "Percent of its rows that a table may lose against the last import before the import is refused; 100 switches the guard off.",
    ),
    Key::secret(
        "heartbeat_url",
        Preset::Absent("nobody outside notices when this machine is dead"),
        "URL, or connection:NAME, that is asked after each success; a service such as healthchecks.io complains when that stays away.",
    ),
];

impl BackupSource {
    /// What the dumps come from, for people: without user, password and parameters, any of which
    /// may be secret.
    pub fn origin(&self) -> String {
        let path = || self.path.as_deref().map(|path| path.display().to_string());
        match self.kind {
            SourceKind::Gateway => self.gateway_url.clone(),
            SourceKind::Folder => {
                format!("{}/{}", path().unwrap_or_default(), self.pattern)
            }
            SourceKind::File => path().unwrap_or_default(),
            SourceKind::Url => self.public_url().unwrap_or_default(),
            SourceKind::Upload => "uploads".to_owned(),
        }
    }

    /// `url` without user, password, parameters and fragment.
    pub fn public_url(&self) -> Option<String> {
        let mut url = Url::parse(self.url.as_ref()?.expose_secret()).ok()?;
        // An http URL can hold each of them, so each can be taken away.
        url.set_username("").ok()?;
        url.set_password(None).ok()?;
        url.set_query(None);
        url.set_fragment(None);
        Some(url.into())
    }

    pub(crate) fn read(reader: &mut Reader<'_>) -> Option<Self> {
        let kind = reader
            .parsed("kind", |text| check::one_of(text, &SourceKind::ALL, |kind| kind.as_str()));
        let (gateway_url, api_key) = if kind == Some(SourceKind::Gateway) {
            let url = reader.parsed("gateway_url", check::gateway_url);
            let api_key = if url.as_deref().is_some_and(|url| connection_name(url).is_some()) {
                // The connection has one.
                reader
                    .optional_secret("api_key", check::header_value)
                    .map(Option::unwrap_or_default)
            } else {
                reader.secret("api_key", check::header_value)
            };
            (url, api_key)
        } else {
            (Some(String::new()), Some(SecretString::default()))
        };
        let allow_http_fallback = reader.boolean("allow_http_fallback");
        let path = match kind {
            Some(SourceKind::Folder) => reader.parsed("path", check::folder_path).map(Some),
            Some(SourceKind::File) => reader.parsed("path", check::file_path).map(Some),
            _ => Some(None),
        };
        let pattern = reader.parsed("pattern", check::pattern);
        let settle_seconds = reader.integer("settle_seconds");
        let (url, headers) = if kind == Some(SourceKind::Url) {
            let http_too = allow_http_fallback == Some(true);
            let url = reader.secret("url", |text| check::download_url(text, http_too)).map(Some);
            (url, reader.optional("headers", check::header_lines))
        } else {
            (Some(None), Some(None))
        };
        let upload_max_mb = reader.integer("upload_max_mb");
        let mode = reader.parsed("mode", |text| {
            check::one_of(
                text,
                &[GatewayMode::Auto, GatewayMode::Webhook, GatewayMode::Sync],
                |m| m.as_str(),
            )
        });
        let target_url = reader.secret("target_url", check::target_url);
        let target_schema = reader.parsed("target_schema", check::schema_name);
        let timezone = reader.parsed("timezone", check::timezone);
        let schedule_enabled = reader.boolean("schedule_enabled");
        let sync_interval_hours = reader.integer("sync_interval_hours");
        let first_slot = reader.parsed("first_slot", check::time_of_day);
        let retention_days = reader.integer("retention_days");
        let webhook_timeout_seconds = reader.integer("webhook_timeout_seconds");
        let sync_timeout_seconds = reader.integer("sync_timeout_seconds");
        let gateway_patience_seconds = reader.integer("gateway_patience_seconds");
        let retry_pause_seconds = reader.integer("retry_pause_seconds");
        let download_idle_seconds = reader.integer("download_idle_seconds");
        let copy_timeout_seconds = reader.integer("copy_timeout_seconds");
        let statement_timeout_seconds = reader.integer("statement_timeout_seconds");
        let lock_timeout_ms = reader.integer("lock_timeout_ms");
        let cutover_patience_seconds = reader.integer("cutover_patience_seconds");
        let cutover = reader.parsed("cutover", |text| {
            check::one_of(text, &[CutoverMode::Swap, CutoverMode::Merge], |mode| mode.as_str())
        });
        let old_snapshots = reader.parsed("old_snapshots", |text| {
            check::one_of(text, &[OldSnapshots::Refuse, OldSnapshots::Proceed], |policy| {
                policy.as_str()
            })
        });
        let snapshot_wait_seconds = reader.integer("snapshot_wait_seconds");
        let dump = DumpChoices::read(reader);
        let guard_shrink_percent = reader.integer("guard_shrink_percent");
        let heartbeat_url = reader.optional_secret("heartbeat_url", check::heartbeat_url);
        Some(Self {
            kind: kind?,
            gateway_url: gateway_url?,
            api_key: api_key?,
            path: path?,
            pattern: pattern?,
            settle_seconds: settle_seconds?,
            url: url?,
            headers: headers?.unwrap_or_default(),
            upload_max_mb: upload_max_mb?,
            allow_http_fallback: allow_http_fallback?,
            mode: mode?,
            target_url: target_url?,
            target_schema: target_schema?,
            timezone: timezone?,
            // Nobody can say when an upload comes.
            schedule_enabled: schedule_enabled? && kind? != SourceKind::Upload,
            sync_interval_hours: sync_interval_hours?,
            first_slot: first_slot?,
            retention_days: retention_days?,
            webhook_timeout_seconds: webhook_timeout_seconds?,
            sync_timeout_seconds: sync_timeout_seconds?,
            gateway_patience_seconds: gateway_patience_seconds?,
            retry_pause_seconds: retry_pause_seconds?,
            download_idle_seconds: download_idle_seconds?,
            copy_timeout_seconds: copy_timeout_seconds?,
            statement_timeout_seconds: statement_timeout_seconds?,
            lock_timeout_ms: lock_timeout_ms?,
            cutover_patience_seconds: cutover_patience_seconds?,
            cutover: cutover?,
            old_snapshots: old_snapshots?,
            snapshot_wait_seconds: snapshot_wait_seconds?,
            dump: dump?,
            guard_shrink_percent: guard_shrink_percent?,
            heartbeat_url: heartbeat_url?,
        })
    }
}

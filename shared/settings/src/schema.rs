//! The one table of keys: reading, the environment's names, `explain`, the example file and the
//! documentation's test all walk it, so none of them can know a key that the others don't.

use crate::sections;

/// One section of the file.
#[derive(Debug, Clone, Copy)]
pub struct Section {
    /// `""` for the keys at the top, else the table's name; of those in [`REPEATED`] there is one
    /// table for each name, such as `[backup.NAME]`.
    pub name: &'static str,
    /// One or two sentences for the example file.
    pub help: &'static str,
    /// Its keys, in the order of the example file.
    pub keys: &'static [Key],
}

/// The section of which there is one per source.
pub const BACKUP: &str = "backup";

/// The section of which there is one per way to tell people.
pub const CHANNEL: &str = "channel";

/// The section of which there is one per named endpoint.
pub const CONNECTION: &str = "connection";

/// The section of which there is one per thing the clock starts.
pub const SCHEDULE: &str = "schedule";

/// The sections of which there are several, each under a name of its own.
pub const REPEATED: [&str; 4] = [BACKUP, CHANNEL, CONNECTION, SCHEDULE];

/// One key.
#[derive(Debug, Clone, Copy)]
pub struct Key {
    /// As written in the file.
    pub name: &'static str,
    /// What it takes.
    pub kind: Kind,
    /// What holds when nobody says anything.
    pub preset: Preset,
    /// The variable's name that the source systems' documents fix, beside `RELEVO_…`. For a key
    /// of a source it speaks of the source [`crate::DEFAULT_SOURCE`].
    pub fixed_env: Option<&'static str>,
    /// Meaning and unit, one sentence.
    pub help: &'static str,
}

/// What a key takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Any text; checked further where it is read.
    Text,
    /// Text that is never shown. `<key>_file` names a file that holds it.
    Secret,
    /// A whole number between two bounds, both allowed.
    Integer {
        /// The least allowed.
        min: i64,
        /// The most allowed.
        max: i64,
    },
    /// `true` or `false`.
    Boolean,
    /// A list of texts; in the environment separated by commas.
    List,
}

/// What holds when a key isn't given.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Preset {
    /// This value, written as the environment would.
    Value(&'static str),
    /// A value worked out from others, in words.
    Computed(&'static str),
    /// Nothing: what the key is for stays off. The words say what that means.
    Absent(&'static str),
    /// There is none: the key must be given.
    Required,
}

/// The keys of two tables, one after the other.
pub(crate) const fn joined<const N: usize>(first: &[Key], second: &[Key]) -> [Key; N] {
    let mut all = [first[0]; N];
    let mut at = 0;
    while at < N {
        all[at] = if at < first.len() { first[at] } else { second[at - first.len()] };
        at += 1;
    }
    all
}

impl Section {
    /// Every section, in the order of the example file.
    pub const ALL: &'static [Section] = &[
        sections::ROOT,
        sections::database::SECTION,
        sections::api::SECTION,
        sections::worker::SECTION,
        sections::scheduler::SECTION,
        sections::telemetry::SECTION,
        sections::chunk_store::SECTION,
        sections::notify::SECTION,
        sections::channel::SECTION,
        sections::smtp::SECTION,
        sections::alerts::SECTION,
        sections::outbound::SECTION,
        sections::connection::SECTION,
        sections::secrets::SECTION,
        sections::backup::SECTION,
        sections::schedule::SECTION,
    ];

    /// The section of that name.
    pub fn find(name: &str) -> Option<&'static Section> {
        Self::ALL.iter().find(|section| section.name == name)
    }

    /// The section that a table belongs to: `backup.sicar` to `backup`.
    pub fn of(table: &str) -> Option<&'static Section> {
        Self::find(table.split('.').next().unwrap_or(table))
    }

    /// Whether there may be several, each under a name of its own.
    pub fn is_repeated(&self) -> bool {
        REPEATED.contains(&self.name)
    }

    /// A fitting name for one of several.
    pub fn example_name(&self) -> &'static str {
        match self.name {
            CHANNEL => "ops",
            CONNECTION => "mail",
            SCHEDULE => "nightly",
            _ => crate::DEFAULT_SOURCE,
        }
    }

    /// Whether a running process takes up a change of `key`; the others hold from the next start.
    pub fn holds_at_once(&self, key: &Key) -> bool {
        match self.name {
            "" | "database" | "telemetry" | "chunk_store" => false,
            "worker" => key.name == "concurrency",
            "api" => !matches!(key.name, "listen" | "body_limit_bytes" | "bare_webhook"),
            "scheduler" => !matches!(key.name, "lease_seconds" | "metrics_listen"),
            _ => true,
        }
    }

    /// The key of that name.
    pub fn key(&self, name: &str) -> Option<&'static Key> {
        self.keys.iter().find(|key| key.name == name)
    }
}

impl Key {
    pub(crate) const fn text(name: &'static str, preset: Preset, help: &'static str) -> Self {
        Self { name, kind: Kind::Text, preset, fixed_env: None, help }
    }

    pub(crate) const fn secret(name: &'static str, preset: Preset, help: &'static str) -> Self {
        Self { name, kind: Kind::Secret, preset, fixed_env: None, help }
    }

    pub(crate) const fn boolean(
        name: &'static str,
        default: &'static str,
        help: &'static str,
    ) -> Self {
        Self { name, kind: Kind::Boolean, preset: Preset::Value(default), fixed_env: None, help }
    }

    pub(crate) const fn list(
        name: &'static str,
        default: &'static str,
        help: &'static str,
    ) -> Self {
        Self { name, kind: Kind::List, preset: Preset::Value(default), fixed_env: None, help }
    }

    pub(crate) const fn integer(
        name: &'static str,
        (min, max): (i64, i64),
        default: &'static str,
        help: &'static str,
    ) -> Self {
        let kind = Kind::Integer { min, max };
        Self { name, kind, preset: Preset::Value(default), fixed_env: None, help }
    }

    pub(crate) const fn fixed_env(mut self, name: &'static str) -> Self {
        self.fixed_env = Some(name);
        self
    }

    /// The environment variable that sets this key in `section` (for a source: `backup.NAME`).
    pub fn env_name(&self, section: &str) -> String {
        let mut name = String::from("RELEVO");
        for part in section.split('.').filter(|part| !part.is_empty()).chain([self.name]) {
            name.push('_');
            name.extend(part.chars().map(|c| if c == '-' { '_' } else { c.to_ascii_uppercase() }));
        }
        name
    }

    /// The full name in messages and in `explain`, such as `api.listen`.
    pub fn full_name(&self, section: &str) -> String {
        if section.is_empty() { self.name.to_owned() } else { format!("{section}.{}", self.name) }
    }
}

//! Lays the environment over the file, and reads the result into [`Settings`].

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use secrecy::SecretString;

use crate::error::{Problem, SettingsError};
use crate::explain::{Explained, explain};
use crate::file;
use crate::nearest::nearest;
use crate::origin::Origin;
use crate::reader::{Entries, Entry, Reader};
use crate::schema::{BACKUP, CHANNEL, CONNECTION, Key, Kind, SCHEDULE, Section};
use crate::sections::alerts::Alerts;
use crate::sections::api::Api;
use crate::sections::backup::BackupSource;
use crate::sections::channel::Channel;
use crate::sections::chunk_store::ChunkStore;
use crate::sections::connection::Connection;
use crate::sections::database::Database;
use crate::sections::notify::Notify;
use crate::sections::outbound::Outbound;
use crate::sections::schedule::ScheduleEntry;
use crate::sections::scheduler::Scheduler;
use crate::sections::secrets::Secrets;
use crate::sections::smtp::Smtp;
use crate::sections::telemetry::Telemetry;
use crate::sections::worker::Worker;
use crate::{DEFAULT_SOURCE, Settings, check, cross};

/// The settings in force, and where each came from.
#[derive(Clone)]
pub struct Loaded {
    /// The settings in force.
    pub settings: Settings,
    /// The file that was read, if there was one.
    pub file: Option<PathBuf>,
    said: Entries,
    in_force: Entries,
    /// The tables of repeated sections, such as `backup.sicar`.
    named: BTreeSet<String>,
}

impl std::fmt::Debug for Loaded {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        // The collected texts are left out: they hold secrets in the clear.
        f.debug_struct("Loaded")
            .field("settings", &self.settings)
            .field("file", &self.file)
            .finish_non_exhaustive()
    }
}

/// Loads the settings: the file that `cli_path` names, or `RELEVO_CONFIG`, or `./relevo.toml`, or
/// `/etc/relevo/relevo.toml`, or none; then `env` over it. An empty variable counts as unset.
///
/// # Errors
/// [`SettingsError`]; everything wrong with the values is reported at once.
pub fn load(
    cli_path: Option<&Path>,
    env: &dyn Fn(&str) -> Option<String>,
) -> Result<Loaded, SettingsError> {
    let env = |name: &str| env(name).filter(|value| !value.is_empty());
    let mut problems = Vec::new();
    let file = file::find(cli_path, &env);
    let (mut said, mut named) = match &file {
        Some(path) => {
            let content = file::read(path, &env, &mut problems)?;
            (content.entries, content.named)
        }
        None => (Entries::new(), BTreeSet::new()),
    };
    if default_source_in(&env) {
        named.insert(format!("{BACKUP}.{DEFAULT_SOURCE}"));
    }
    overlay(&mut said, &named, &env, &mut problems);
    let (settings, in_force) = build(&said, &named, problems)?;
    Ok(Loaded { settings, file, said, in_force, named })
}

impl Loaded {
    /// Lets a command line flag override a key, such as `("api.listen", "0.0.0.0:80", "--listen")`.
    ///
    /// # Errors
    /// [`SettingsError::Invalid`] when the value doesn't hold or there is no such key; nothing is
    /// changed then.
    pub fn set_flag(&mut self, key: &str, value: &str, flag: &str) -> Result<(), SettingsError> {
        let known = self.keys().any(|(section, known)| known.full_name(&section) == key);
        if !known {
            let message = "is not a key of the configuration".to_owned();
            let origin = Some(Origin::Flag(flag.to_owned()));
            return Err(SettingsError::Invalid(vec![Problem {
                key: key.to_owned(),
                origin,
                message,
            }]));
        }
        let mut said = self.said.clone();
        let origin = Origin::Flag(flag.to_owned());
        said.insert(key.to_owned(), Entry { text: value.to_owned(), origin });
        let (settings, in_force) = build(&said, &self.named, Vec::new())?;
        (self.settings, self.in_force, self.said) = (settings, in_force, said);
        Ok(())
    }

    /// The same with the flags over it that a process was `started` with.
    ///
    /// # Errors
    /// As [`Loaded::set_flag`].
    pub fn with_flags_of(mut self, started: &Self) -> Result<Self, SettingsError> {
        let flags = started.said.iter();
        let flags = flags.filter(|(_, entry)| matches!(entry.origin, Origin::Flag(_)));
        self.said.extend(flags.map(|(key, entry)| (key.clone(), entry.clone())));
        (self.settings, self.in_force) = build(&self.said, &self.named, Vec::new())?;
        Ok(self)
    }

    /// Every key with the value in force and where it came from, secrets masked.
    pub fn explain(&self) -> Vec<Explained> {
        let keys: Vec<_> = self.keys().collect();
        explain(&keys, &self.in_force)
    }

    /// The texts of every secret in force, for whoever keeps them out of logs.
    pub fn secrets(&self) -> Vec<SecretString> {
        self.keys()
            .filter(|(_, key)| key.kind == Kind::Secret)
            .filter_map(|(section, key)| self.in_force.get(&key.full_name(&section)))
            // The name of a connection or an embedded database is no secret.
            .filter(|entry| !check::is_name(&entry.text))
            .map(|entry| SecretString::from(entry.text.clone()))
            .collect()
    }

    /// The keys in which these settings differ from those that a process was `started` with, and
    /// which hold from its next start only. What a flag set there is nothing that changed.
    pub fn waiting_for_restart(&self, started: &Self) -> Vec<String> {
        let text = |loaded: &Self, name: &str| loaded.in_force.get(name).map(|e| e.text.clone());
        let of_flag = |name: &str| {
            let entry = started.in_force.get(name);
            entry.is_some_and(|entry| matches!(entry.origin, Origin::Flag(_)))
        };
        let singular = Section::ALL.iter().filter(|section| !section.is_repeated());
        let keys = singular.flat_map(|section| {
            let keys = section.keys.iter().filter(|key| !section.holds_at_once(key));
            keys.map(|key| key.full_name(section.name))
        });
        keys.filter(|name| !of_flag(name) && text(self, name) != text(started, name)).collect()
    }

    /// Of the given names of environment variables, those that start like ours and mean nothing,
    /// each with the name that was probably meant.
    pub fn unknown_variables<'a>(
        &self,
        names: impl IntoIterator<Item = &'a str>,
    ) -> Vec<(String, Option<String>)> {
        let mut known: BTreeSet<String> =
            ["RELEVO_CONFIG", "RELEVO_PG_BIN"].map(str::to_owned).into();
        for (section, key) in self.keys() {
            let name = key.env_name(&section);
            if key.kind == Kind::Secret {
                known.insert(format!("{name}_FILE"));
            }
            known.insert(name);
        }
        names
            .into_iter()
            .filter(|name| name.starts_with("RELEVO_") && !known.contains(*name))
            .map(|name| {
                let meant = nearest(name, known.iter().map(String::as_str)).map(str::to_owned);
                (name.to_owned(), meant)
            })
            .collect()
    }

    /// Every key with its section's name, the names of repeated ones spelt out.
    fn keys(&self) -> impl Iterator<Item = (String, &'static Key)> {
        every_key(&self.named).into_iter()
    }
}

fn every_key(named: &BTreeSet<String>) -> Vec<(String, &'static Key)> {
    let mut keys = Vec::new();
    for section in Section::ALL {
        let names = if section.is_repeated() {
            of_section(named, section.name).map(|(full_name, _)| full_name.to_owned()).collect()
        } else {
            vec![section.name.to_owned()]
        };
        for name in names {
            keys.extend(section.keys.iter().map(|key| (name.clone(), key)));
        }
    }
    keys
}

/// The tables of one repeated section: `backup.sicar`, and `sicar`.
fn of_section<'a>(
    named: &'a BTreeSet<String>,
    section: &'a str,
) -> impl Iterator<Item = (&'a str, &'a str)> {
    named.iter().filter_map(move |full_name| {
        let name = full_name.strip_prefix(section)?.strip_prefix('.')?;
        Some((full_name.as_str(), name))
    })
}

/// Whether the environment speaks of a gateway. `DATABASE_URL` alone doesn't: it is set on many
/// machines for other reasons, and serves as the control plane then.
fn default_source_in(env: &dyn Fn(&str) -> Option<String>) -> bool {
    let section = format!("{BACKUP}.{DEFAULT_SOURCE}");
    let keys = Section::find(BACKUP).map_or(&[][..], |section| section.keys);
    keys.iter().filter(|key| matches!(key.name, "gateway_url" | "api_key")).any(|key| {
        let name = key.env_name(&section);
        let file = format!("{name}_FILE");
        env(&name).is_some() || env(&file).is_some() || key.fixed_env.and_then(env).is_some()
    })
}

/// Lays the environment over what the file said.
fn overlay(
    said: &mut Entries,
    named: &BTreeSet<String>,
    env: &dyn Fn(&str) -> Option<String>,
    problems: &mut Vec<Problem>,
) {
    let default_section = format!("{BACKUP}.{DEFAULT_SOURCE}");
    for (section, key) in every_key(named) {
        let full_name = key.full_name(&section);
        let of_a_source = section.strip_prefix(BACKUP).is_some_and(|rest| rest.starts_with('.'));
        let fixed = key.fixed_env.filter(|_| !of_a_source || section == default_section);
        // The weaker name first: the stronger one replaces it.
        for name in fixed.map(str::to_owned).into_iter().chain([key.env_name(&section)]) {
            if let Some(text) = env(&name) {
                let origin = Origin::Env(name.clone());
                said.insert(full_name.clone(), Entry { text, origin });
            }
            let file_name = format!("{name}_FILE");
            if key.kind != Kind::Secret {
                continue;
            }
            let Some(path) = env(&file_name) else { continue };
            let origin = Origin::Env(file_name.clone());
            if env(&name).is_some() {
                let message = format!("{name} and {file_name} are both set; unset one");
                problems.push(Problem { key: full_name.clone(), origin: None, message });
            }
            match file::read_secret(Path::new(&path), origin.clone()) {
                Ok(entry) => {
                    said.insert(full_name.clone(), entry);
                }
                Err(message) => {
                    problems.push(Problem {
                        key: full_name.clone(),
                        origin: Some(origin),
                        message,
                    });
                }
            }
        }
    }
    // Where only the target is known, the control plane lives beside it in its own schema.
    if !said.contains_key("database.url")
        && let Some(text) = env("DATABASE_URL")
    {
        let origin = Origin::Env("DATABASE_URL".to_owned());
        said.insert("database.url".to_owned(), Entry { text, origin });
    }
}

/// Reads every section. `problems` are those already known.
fn build(
    said: &Entries,
    named: &BTreeSet<String>,
    mut problems: Vec<Problem>,
) -> Result<(Settings, Entries), SettingsError> {
    let mut entries = said.clone();
    let settings = read_all(&mut entries, named, &mut problems);
    match settings {
        Some(settings) if problems.is_empty() => Ok((settings, entries)),
        _ => Err(SettingsError::Invalid(problems)),
    }
}

fn read_all(
    entries: &mut Entries,
    named: &BTreeSet<String>,
    problems: &mut Vec<Problem>,
) -> Option<Settings> {
    use crate::sections;
    let mut root = Reader::new(entries, problems, &sections::ROOT, "");
    root.compute("data_dir", || default_data_dir().to_string_lossy().into_owned());
    let data_dir = root.parsed("data_dir", |text| {
        std::path::absolute(text).map_err(|error| format!("`{text}` is not a folder: {error}"))
    });
    let database = Database::read(&mut Reader::new(
        entries,
        problems,
        &sections::database::SECTION,
        "database",
    ));
    let api = Api::read(&mut Reader::new(entries, problems, &sections::api::SECTION, "api"));
    let worker =
        Worker::read(&mut Reader::new(entries, problems, &sections::worker::SECTION, "worker"));
    let scheduler = Scheduler::read(&mut Reader::new(
        entries,
        problems,
        &sections::scheduler::SECTION,
        "scheduler",
    ));
    let telemetry = Telemetry::read(&mut Reader::new(
        entries,
        problems,
        &sections::telemetry::SECTION,
        "telemetry",
    ));
    let chunk_store = ChunkStore::read(
        &mut Reader::new(entries, problems, &sections::chunk_store::SECTION, "chunk_store"),
        data_dir.as_deref().unwrap_or(Path::new("/")),
    );
    let notify =
        Notify::read(&mut Reader::new(entries, problems, &sections::notify::SECTION, "notify"));
    let smtp = Smtp::read(&mut Reader::new(entries, problems, &sections::smtp::SECTION, "smtp"));
    let alerts =
        Alerts::read(&mut Reader::new(entries, problems, &sections::alerts::SECTION, "alerts"));
    let outbound = Outbound::read(&mut Reader::new(
        entries,
        problems,
        &sections::outbound::SECTION,
        "outbound",
    ));
    let secrets =
        Secrets::read(&mut Reader::new(entries, problems, &sections::secrets::SECTION, "secrets"));
    let language = notify.as_ref().map_or("en", |notify| notify.language.as_str());
    let mut channel = BTreeMap::new();
    for (prefix, name) in of_section(named, CHANNEL) {
        let mut reader = Reader::new(entries, problems, &sections::channel::SECTION, prefix);
        reader.compute("language", || language.to_owned());
        if let Some(read) = Channel::read(&mut reader) {
            channel.insert(name.to_owned(), read);
        }
    }
    let mut connection = BTreeMap::new();
    for (prefix, name) in of_section(named, CONNECTION) {
        let mut reader = Reader::new(entries, problems, &sections::connection::SECTION, prefix);
        if let Some(read) = Connection::read(&mut reader) {
            connection.insert(name.to_owned(), read);
        }
    }
    let embedded = !entries.contains_key("database.url");
    let mut backup = BTreeMap::new();
    for (prefix, name) in of_section(named, BACKUP) {
        let mut reader = Reader::new(entries, problems, &sections::backup::SECTION, prefix);
        if embedded {
            let database = name.replace('-', "_");
            reader.compute("target_url", || format!("{}{database}", check::EMBEDDED_PREFIX));
        }
        if let Some(source) = BackupSource::read(&mut reader) {
            backup.insert(name.to_owned(), source);
        }
    }
    let mut schedule = BTreeMap::new();
    for (prefix, name) in of_section(named, SCHEDULE) {
        let mut reader = Reader::new(entries, problems, &sections::schedule::SECTION, prefix);
        if let Some(read) = ScheduleEntry::read(&mut reader) {
            schedule.insert(name.to_owned(), read);
        }
    }
    let settings = Settings {
        data_dir: data_dir?,
        database: database?,
        api: api?,
        worker: worker?,
        scheduler: scheduler?,
        telemetry: telemetry?,
        chunk_store: chunk_store?,
        notify: notify?,
        channel,
        smtp: smtp?,
        alerts: alerts?,
        outbound: outbound?,
        connection,
        secrets: secrets?,
        backup,
        schedule,
    };
    cross::cross_check(&settings, entries, problems);
    Some(settings)
}

fn default_data_dir() -> PathBuf {
    if rustix::process::geteuid().is_root() {
        return PathBuf::from("/var/lib/relevo");
    }
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    if let Some(data_home) = set("XDG_DATA_HOME") {
        return PathBuf::from(data_home).join("relevo");
    }
    match set("HOME") {
        Some(home) => PathBuf::from(home).join(".local/share/relevo"),
        None => PathBuf::from("/var/lib/relevo"),
    }
}

//! Whether settings that can be read make sense on this machine: what no single value shows.
//!
//! Nothing is changed and nobody outside is asked; `relevo doctor` asks databases and gateways.

use std::fmt;
use std::path::Path;

use relevo_connections::{KeyError, Keyring, keyring};
use relevo_notify::{unclosed_name, unknown_names};
use relevo_scheduler::schedule::{ConfiguredError, each_configured};
use relevo_settings::{Settings, SourceKind};
use rustix::fs::Access;
use serde::Serialize;
use url::Url;

use crate::output::clean;

/// How serious something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// Good to know.
    Note,
    /// It can be used, but perhaps not as it was meant.
    Warning,
    /// It cannot be used.
    Problem,
}

/// What was found about a key.
#[derive(Debug, Clone, Serialize)]
pub struct Finding {
    /// The key, or the table where no single key is to blame.
    pub key: String,
    /// Where its value was read.
    pub origin: Option<String>,
    /// How serious it is.
    pub level: Level,
    /// What was found, and what would be right.
    pub message: String,
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let level = match self.level {
            Level::Note => "note",
            Level::Warning => "warning",
            Level::Problem => "problem",
        };
        let origin = self.origin.as_ref().map(|text| format!(" ({text})")).unwrap_or_default();
        write!(f, "{level}: {}{origin}: {}", self.key, clean(&self.message))
    }
}

/// Everything about these settings.
pub fn findings(settings: &Settings) -> Vec<Finding> {
    let mut found = Found::default();
    schedules(settings, &mut found);
    folders(settings, &mut found);
    sources(settings, &mut found);
    connections(settings, &mut found);
    templates(settings, &mut found);
    found.0
}

#[derive(Default)]
struct Found(Vec<Finding>);

impl Found {
    fn add(&mut self, level: Level, key: impl Into<String>, message: impl Into<String>) {
        let (key, message) = (key.into(), message.into());
        self.0.push(Finding { key, origin: None, level, message });
    }
}

fn schedules(settings: &Settings, found: &mut Found) {
    for error in each_configured(settings).into_iter().filter_map(Result::err) {
        let key = match &error {
            ConfiguredError::Source { name, .. } => format!("backup.{name}"),
            ConfiguredError::Schedule { name, .. } => format!("schedule.{name}"),
            ConfiguredError::Payload { name, .. } => format!("schedule.{name}.payload"),
        };
        found.add(Level::Problem, key, relevo_errors::chain(&error));
    }
}

fn folders(settings: &Settings, found: &mut Found) {
    folder("data_dir", &settings.data_dir, found);
    let store = Url::parse(&settings.chunk_store.url).ok().and_then(|url| url.to_file_path().ok());
    if let Some(store) = store.filter(|store| !store.starts_with(&settings.data_dir)) {
        folder("chunk_store.url", &store, found);
    }
    if let Some(parent) = settings.telemetry.log_file.as_deref().and_then(Path::parent) {
        folder("telemetry.log_file", parent, found);
    }
    if let Some(file) = settings.smtp.ca_file.as_deref().filter(|file| !readable(file)) {
        let message = format!("{} cannot be read by this user", file.display());
        found.add(Level::Problem, "smtp.ca_file", message);
    }
}

/// A folder that is made when it is first needed.
fn folder(key: &str, folder: &Path, found: &mut Found) {
    let shown = folder.display();
    let existing = folder.ancestors().find(|folder| folder.exists());
    match existing {
        Some(existing) if !existing.is_dir() => {
            let message = format!("{} is a file, so {shown} can be no folder", existing.display());
            found.add(Level::Problem, key, message);
        }
        // Another user may run the services; who asks here may be anybody.
        Some(existing)
            if rustix::fs::access(existing, Access::WRITE_OK | Access::EXEC_OK).is_err() =>
        {
            let message = format!(
                "{shown} cannot be written to by this user; who runs relevo must be able to"
            );
            found.add(Level::Warning, key, message);
        }
        _ => {}
    }
}

fn readable(path: &Path) -> bool {
    rustix::fs::access(path, Access::READ_OK).is_ok()
}

fn sources(settings: &Settings, found: &mut Found) {
    for (name, source) in &settings.backup {
        let Some(path) = &source.path else { continue };
        let key = format!("backup.{name}.path");
        let shown = path.display();
        let wants_folder = source.kind == SourceKind::Folder;
        if !path.exists() {
            found.add(Level::Warning, key, format!("{shown} is not there; runs wait for it"));
        } else if wants_folder != path.is_dir() {
            let wanted = if wants_folder { "a folder" } else { "a file" };
            found.add(Level::Problem, key, format!("{shown} is not {wanted}"));
        } else if !readable(path) {
            let message =
                format!("{shown} cannot be read by this user; every worker must be able to");
            found.add(Level::Warning, key, message);
        }
    }
}

fn connections(settings: &Settings, found: &mut Found) {
    let mut named: Vec<(String, &str)> = Vec::new();
    for (name, source) in &settings.backup {
        let keys = source.connections().into_iter();
        named.extend(keys.map(|(key, _, named)| (format!("backup.{name}.{key}"), named)));
    }
    for (name, channel) in &settings.channel {
        if let Some(connection) = &channel.connection {
            named.push((format!("channel.{name}.connection"), connection));
        }
    }
    named.retain(|(_, name)| !settings.connection.contains_key(*name) && *name != "smtp");
    let is_needed = !named.is_empty();
    for (key, name) in named {
        let message = format!(
            "{name} is not in this file, so it must be kept in the control plane; `relevo connection test {name}` tries it out"
        );
        found.add(Level::Note, key, message);
    }
    match Keyring::load(settings) {
        Ok(_) => {}
        Err(KeyError::Missing { path }) if is_needed => {
            let message = format!(
                "there is no key in {}, and connections of the control plane are named; copy the key file of the host that keeps them, or keep one here",
                path.display()
            );
            found.add(Level::Warning, "secrets.keys_path", message);
        }
        // It is made when the first connection is kept.
        Err(KeyError::Missing { .. }) => {}
        Err(error) => {
            let path = keyring::path(settings);
            let message = format!("{}: {}", path.display(), relevo_errors::chain(&error));
            found.add(Level::Problem, "secrets.keys_path", message);
        }
    }
}

fn templates(settings: &Settings, found: &mut Found) {
    for (name, channel) in &settings.channel {
        let Some(template) = &channel.template else { continue };
        let key = format!("channel.{name}.template");
        if let Some(text) = unclosed_name(template) {
            found.add(Level::Warning, &key, format!("{{{{ is never closed in `{text}`"));
        }
        for (unknown, known) in unknown_names(template) {
            let meant = known.map(|known| format!("; did you mean {known}?")).unwrap_or_default();
            let message = format!("no message has a value {{{{{unknown}}}}}{meant}");
            found.add(Level::Warning, &key, message);
        }
    }
}

//! `relevo init`: asks, tries out what was answered, and writes a configuration file.
//!
//! The file is made beside its place, read as a service would read it, tried out as `relevo doctor`
//! does, and only then given its name. Killed before that, it leaves `FILE.new`, which the next
//! `relevo init` replaces.

mod questions;

use std::fs::{File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Context as _;
use relevo_doctor::{Finding, Level, Patient, Report, examine, unreachable};
use relevo_pg::embedded;
use relevo_settings::{Settings, SettingsError};
use relevo_telemetry::redact;
use secrecy::ExposeSecret as _;
use serde_json::json;

use crate::args::{AnswerArgs, InitArgs};
use crate::commands::doctor;
use crate::failure::{Advise as _, Exit, Failure, OrFail as _};
use crate::output::Output;
use crate::{control, sense};

/// Runs it.
pub async fn init(args: InitArgs, out: Output) -> Result<(), Failure> {
    let file = args.file;
    if file.exists() && !args.force {
        let message = format!("{} is there already", file.display());
        return Err(Failure::new(Exit::Configuration, message))
            .advise("name another file, or give --force to write over it");
    }
    let mut answers = args.answers;
    loop {
        if !args.yes {
            answers = tokio::task::spawn_blocking(move || questions::ask(answers))
                .await
                .context("the questions crashed")??;
        }
        let unfinished = Unfinished::write(&file, &document(&answers))?;
        let (found, report): (Vec<String>, _) = match read(&unfinished.path) {
            Ok(settings) => {
                let found = sense::findings(&settings);
                let report = if args.no_test { None } else { Some(try_out(settings).await) };
                (found.iter().map(ToString::to_string).collect(), report)
            }
            // It can't be written whatever the person wants: no service would start with it.
            Err(SettingsError::Invalid(problems)) => {
                let told: Vec<String> = problems.iter().map(ToString::to_string).collect();
                if args.yes {
                    let told: String = told.iter().map(|line| format!("\n  {line}")).collect();
                    let message = format!("the answers make no configuration:{told}");
                    return Err(Failure::new(Exit::Configuration, message));
                }
                eprintln!("\nThat makes no configuration yet:\n  {}\n", told.join("\n  "));
                continue;
            }
            Err(error) => return Err(control::unreadable(error)),
        };
        let wrong = report.as_ref().is_some_and(|report| report.worst == Level::Problem);
        if !out.is_json() {
            for line in &found {
                eprintln!("{line}");
            }
            if let Some(report) = &report {
                eprint!("\n{}", doctor::text(report, false));
            }
        }
        if wrong && !args.force {
            if !args.yes && questions::yes("Something does not work. Answer again?", true)? {
                continue;
            }
            if args.yes || !questions::yes("Write the file all the same?", false)? {
                return Err(Failure::new(
                    Exit::Failed,
                    "something does not work; nothing was written",
                ))
                .advise("put it right and try again, or give --force");
            }
        }
        unfinished.finish(&file)?;
        let findings = report.map_or_else(Vec::new, |report| report.findings);
        let written = json!({"file": file, "notes": found, "findings": findings});
        return out.document(&written, || next_steps(&file, &answers));
    }
}

/// The configuration as text. JSON's strings and numbers are TOML's.
fn document(answers: &AnswerArgs) -> String {
    let text = |value: &str| serde_json::Value::from(value).to_string();
    let path = |value: &Path| text(&value.to_string_lossy());
    let mut lines = vec![
        "# Made by `relevo init`. Every key is in docs/configuration.md; `relevo config check`"
            .to_owned(),
        "# shows what is in force.".to_owned(),
    ];
    let mut add = |key: &str, value: Option<String>| {
        lines.extend(value.map(|value| format!("{key} = {value}")));
    };
    add("data_dir", answers.data_dir.as_deref().map(path));
    if let Some(url) = &answers.database_url {
        add("\n[database]\nurl", Some(text(url)));
    }
    if answers.listen.is_some() || answers.public_url.is_some() {
        add("\n[api]\nlisten", Some(text(&questions::listen(answers).to_string())));
        add("public_url", answers.public_url.as_deref().map(text));
    }
    if let Some(source) = &answers.source {
        // A quoted key, whatever the name holds.
        let table = format!("\n[backup.{}]\nkind", text(source));
        if let Some(folder) = &answers.folder {
            add(&table, Some(text("folder")));
            add("path", Some(path(folder)));
        } else if let Some(url) = &answers.dump_url {
            add(&table, Some(text("url")));
            add("url", Some(text(url)));
        } else if let Some(url) = &answers.gateway_url {
            add(&table, Some(text("gateway")));
            add("gateway_url", Some(text(url)));
            add("api_key", answers.api_key.as_deref().map(text));
        } else {
            add(&table, Some(text("upload")));
        }
        add("target_url", answers.target_url.as_deref().map(text));
        add("target_schema", answers.target_schema.as_deref().map(text));
        add("sync_interval_hours", answers.every_hours.map(|hours| hours.to_string()));
        add("timezone", answers.timezone.as_deref().map(text));
    }
    lines.join("\n") + "\n"
}

/// Reads it as a service would, with none of this shell's settings over it: only variables that
/// the file names itself.
fn read(path: &Path) -> Result<Settings, SettingsError> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let env = |name: &str| {
        let named = text.contains(&format!("${{{name}}}"));
        if named { std::env::var(name).ok() } else { None }
    };
    let loaded = relevo_settings::load(Some(path), &env)?;
    for secret in loaded.secrets() {
        redact::hide(secret.expose_secret());
    }
    Ok(loaded.settings)
}

/// What `relevo doctor` would find, before there is a control plane.
async fn try_out(settings: Settings) -> Report {
    let mut found_before = Vec::new();
    let embedded = settings.database.url.is_none();
    if embedded {
        if let Err(error) = embedded::installed_major() {
            let advice = "or give a Postgres of yours (--database-url)".to_owned();
            found_before.push(unreachable(relevo_errors::chain(&error), advice));
        }
    } else {
        found_before.extend(may_create(&settings).await);
    }
    if let Err(error) = std::net::TcpListener::bind(settings.api.listen) {
        let message = format!("the API can't listen on {}: {error}", settings.api.listen);
        let advice = "another program may use the port; choose another".to_owned();
        found_before.push(unreachable(message, advice));
    }
    let settings = Arc::new(settings);
    Box::pin(examine(Patient { settings, pool: None, embedded, found_before })).await
}

/// What keeps this role from making the control plane's schema, if anything does.
async fn may_create(settings: &Settings) -> Option<Finding> {
    let pool = match control::connect(settings, "relevo-init", 1).await {
        Ok(pool) => pool,
        Err(failure) => {
            let advice = "see that the server runs, lets this role in and has that database";
            return Some(unreachable(failure.line(), advice.to_owned()));
        }
    };
    let asked = sqlx::query_as::<_, (bool, String, String)>(
        "-- may_create
         SELECT has_database_privilege(current_database(), 'CREATE')
                    OR to_regnamespace('relevo') IS NOT NULL,
                quote_ident(current_database()), quote_ident(current_user)",
    );
    match asked.fetch_one(&pool).await {
        Ok((true, ..)) => None,
        Ok((false, database, role)) => Some(unreachable(
            format!("the role {role} may not make the schema relevo in {database}"),
            format!("GRANT CREATE ON DATABASE {database} TO {role}"),
        )),
        Err(error) => Some(unreachable(relevo_errors::chain(&error), "see its log".to_owned())),
    }
}

fn next_steps(file: &Path, answers: &AnswerArgs) -> String {
    let config = if file == Path::new("relevo.toml") {
        String::new()
    } else {
        format!(" --config {}", file.display())
    };
    let mut lines = vec![
        format!("{} is written.", file.display()),
        format!("  relevo up{config}              API, scheduler and worker in one process"),
    ];
    if let Some(source) = answers.source.as_deref() {
        lines.push(format!(
            "  relevo backup run --source {source} --wait{config}   its first backup"
        ));
    }
    lines.join("\n")
}

/// The file under the name of one that is not finished; removed with this value.
struct Unfinished {
    path: PathBuf,
}

impl Unfinished {
    fn write(file: &Path, text: &str) -> Result<Self, Failure> {
        let mut name = file.file_name().unwrap_or_default().to_owned();
        name.push(".new");
        let path = file.with_file_name(name);
        let write = || -> std::io::Result<()> {
            match std::fs::remove_file(&path) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
            // It may hold secrets.
            let mut new =
                OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path)?;
            new.write_all(text.as_bytes())?;
            new.sync_all()
        };
        write()
            .with_context(|| format!("{} can't be written", path.display()))
            .or_exit(Exit::Configuration)?;
        Ok(Self { path })
    }

    fn finish(&self, file: &Path) -> Result<(), Failure> {
        let folder = file.parent().filter(|folder| !folder.as_os_str().is_empty());
        std::fs::rename(&self.path, file)
            .and_then(|()| File::open(folder.unwrap_or(Path::new(".")))?.sync_all())
            .with_context(|| format!("{} can't be written", file.display()))
            .or_exit(Exit::Configuration)
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        // Gone already when it got its name.
        let _ = std::fs::remove_file(&self.path);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_become_a_file_that_means_what_was_answered() {
        let answers = AnswerArgs {
            database_url: Some("postgres://a:p\"ss@h/d".to_owned()),
            source: Some("north shop".to_owned()),
            folder: Some("/srv/dumps".into()),
            target_url: Some("embedded:shop".to_owned()),
            every_hours: Some(6),
            ..AnswerArgs::default()
        };
        let text = document(&answers);
        assert!(text.contains("\n[database]\nurl = \"postgres://a:p\\\"ss@h/d\"\n"), "{text}");
        assert!(text.contains("\n[backup.\"north shop\"]\nkind = \"folder\"\n"), "{text}");
        assert!(text.contains("\nsync_interval_hours = 6\n") && !text.contains("[api]"), "{text}");
    }
}

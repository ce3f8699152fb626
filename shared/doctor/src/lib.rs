//! `relevo doctor`: what is not as it should be, what that degrades, and what to do about it.
//!
//! | module | asks |
//! |---|---|
//! | [`host`] | this machine: disk, folders, keys |
//! | [`database`] | any Postgres: version, durability, poolers in between, its clock |
//! | [`control_plane`] | schema, rights, who is alive |
//! | [`target`] | the rights an import needs, and what is missing without some |
//! | [`references`] | the connections that sources name |
//! | [`outside`] | gateways, mail servers, webhooks, the public URL |
//!
//! Nothing is changed anywhere. Every question is bounded in time, and all are asked at once.

mod control_plane;
mod database;
mod host;
mod outside;
mod references;
mod target;

use std::sync::Arc;
use std::time::Duration;

use futures::future::{BoxFuture, join_all};
use relevo_settings::Settings;
use serde::Serialize;
use sqlx::PgPool;

/// How long one group of questions may take.
const TIMEOUT: Duration = Duration::from_secs(25);

/// How serious a finding is.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    /// As it should be.
    Ok,
    /// Good to know.
    Note,
    /// It works, but less well or less safely than it could.
    Warning,
    /// Something does not work.
    Problem,
}

impl Level {
    /// The name as shown.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Note => "note",
            Self::Warning => "warning",
            Self::Problem => "problem",
        }
    }
}

/// One thing that was found.
#[derive(Clone, Debug, Serialize)]
pub struct Finding {
    /// A name that stays the same for ever, such as `postgres.fsync`.
    pub check: &'static str,
    /// How serious it is.
    pub level: Level,
    /// Of what: `database`, `backup.sicar.target`, `host`, …
    pub subject: String,
    /// What was found.
    pub message: String,
    /// What to do about it; nothing where all is well.
    pub advice: Option<String>,
}

impl Finding {
    fn ok(check: &'static str, subject: &str, message: impl Into<String>) -> Self {
        let (subject, message) = (subject.to_owned(), message.into());
        Self { check, level: Level::Ok, subject, message, advice: None }
    }

    /// Something that is not as it should be, and what to do about it.
    fn with(
        level: Level,
        check: &'static str,
        subject: &str,
        message: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self { level, advice: Some(advice.into()), ..Self::ok(check, subject, message) }
    }

    fn note(check: &'static str, subject: &str, message: impl Into<String>, advice: &str) -> Self {
        Self::with(Level::Note, check, subject, message, advice)
    }

    fn warning(
        check: &'static str,
        subject: &str,
        message: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self::with(Level::Warning, check, subject, message, advice)
    }

    fn problem(
        check: &'static str,
        subject: &str,
        message: impl Into<String>,
        advice: impl Into<String>,
    ) -> Self {
        Self::with(Level::Problem, check, subject, message, advice)
    }
}

/// Everything that was found, the most serious first.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// The most serious level among the findings.
    pub worst: Level,
    /// The findings.
    pub findings: Vec<Finding>,
}

/// What is examined.
#[derive(Clone)]
pub struct Patient {
    /// The settings in force; `embedded:` targets are replaced where the server was found.
    pub settings: Arc<Settings>,
    /// Connections to the control plane; `None` where it cannot be reached.
    pub pool: Option<PgPool>,
    /// Whether the control plane is on Relevo's own embedded server.
    pub embedded: bool,
    /// Findings that whoever calls has made on the way here.
    pub found_before: Vec<Finding>,
}

/// A finding about the way to the control plane, for [`Patient::found_before`].
#[must_use]
pub fn unreachable(message: String, advice: String) -> Finding {
    Finding::problem("control_plane.reachable", "database", message, advice)
}

/// Asks everything.
pub async fn examine(mut patient: Patient) -> Report {
    let mut findings = std::mem::take(&mut patient.found_before);
    findings.extend(references::resolve(&mut patient).await);
    let settings = &patient.settings;
    let mut questions: Vec<(&'static str, String, BoxFuture<'_, Vec<Finding>>)> = vec![
        ("host.asked", "host".to_owned(), Box::pin(host::ask(settings))),
        ("outside.asked", "outside".to_owned(), Box::pin(outside::ask(&patient))),
    ];
    if let Some(url) = settings.database.url.clone() {
        let (subject, database) = ("database".to_owned(), &settings.database);
        let asked = database::ask_control_plane(subject, url, database, patient.embedded);
        questions.push(("postgres.asked", "database".to_owned(), Box::pin(asked)));
    }
    if let Some(pool) = &patient.pool {
        let asked = control_plane::ask(pool, settings);
        questions.push(("control_plane.asked", "database".to_owned(), Box::pin(asked)));
    }
    for (name, source) in &settings.backup {
        let subject = format!("backup.{name}.target");
        // The embedded server does not run, or the connection cannot be had: findings already.
        let is_absent = references::is_unresolved(&source.target_url);
        if is_absent || source.embedded_database().is_some() {
            continue;
        }
        let asked = target::ask(subject.clone(), source, patient.embedded);
        questions.push(("target.asked", subject, Box::pin(asked)));
    }
    let asked = questions.into_iter().map(|(check, subject, question)| async move {
        tokio::time::timeout(TIMEOUT, question).await.unwrap_or_else(|_| {
            let message = format!("no answer within {} s", TIMEOUT.as_secs());
            vec![Finding::problem(check, &subject, message, "see whether it hangs, then try again")]
        })
    });
    findings.extend(join_all(asked).await.into_iter().flatten());
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.level));
    let worst = findings.first().map_or(Level::Ok, |finding| finding.level);
    Report { worst, findings }
}

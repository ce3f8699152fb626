//! `relevo state …`.

use std::path::Path;

use relevo_runs::state::{self, BackedUp, Restore, Restored, StateError};
use serde::Serialize;

use crate::args::StateCommand;
use crate::audited::actor;
use crate::control::{self, ControlPlane};
use crate::embedded;
use crate::failure::{Advise as _, Exit, Failure, OrFail as _};
use crate::output::{Output, moment, record};

/// Connections: one works, one is to spare.
const CONNECTIONS: u32 = 2;

/// Runs it.
pub async fn state(
    config: Option<&Path>,
    command: StateCommand,
    out: Output,
) -> Result<(), Failure> {
    match command {
        StateCommand::Backup { file, without_history } => {
            backup(config, &file, !without_history, out).await
        }
        StateCommand::Restore { file, replace, pause } => {
            let by = actor();
            let order = Restore { path: &file, replace, pause, by: &by };
            restore(config, order, out).await
        }
    }
}

/// What `relevo state backup --json` prints.
#[derive(Serialize)]
struct Saved<'a> {
    file: &'a Path,
    #[serde(flatten)]
    what: BackedUp,
}

async fn backup(
    config: Option<&Path>,
    file: &Path,
    history: bool,
    out: Output,
) -> Result<(), Failure> {
    let control = ControlPlane::open(config).await?;
    let what = told(state::backup(&control.pool, file, history).await)?;
    let saved = Saved { file, what };
    out.document(&saved, || {
        let BackedUp { header, rows, size_bytes } = &saved.what;
        record(&[
            ("file", file.display().to_string()),
            ("control plane", header.cluster_id.clone()),
            ("incarnation", header.incarnation.to_string()),
            ("taken", moment(header.taken_at)),
            ("rows", rows.to_string()),
            ("history", if header.history { "included" } else { "left out" }.to_owned()),
            ("size", format!("{size_bytes} bytes")),
        ])
    })
}

async fn restore(config: Option<&Path>, order: Restore<'_>, out: Output) -> Result<(), Failure> {
    let mut settings = control::load(config)?.settings;
    // Everything is stopped, so the embedded server is too.
    let server = embedded::start_into(&mut settings).await?;
    let restored = restore_into(&settings, order).await;
    if let Some(server) = server {
        // What is restored is on the disk; a server that goes on is adopted by the next `relevo up`.
        if let Err(error) = server.stop().await {
            eprintln!("warning: the embedded database goes on: {error}");
        }
    }
    let restored = restored?;
    out.document(&restored, || text(&restored))
}

async fn restore_into(
    settings: &relevo_settings::Settings,
    order: Restore<'_>,
) -> Result<Restored, Failure> {
    let pool = control::connect_directly(settings, "relevo-cli", CONNECTIONS).await?;
    let restored = told(state::restore(&pool, order).await);
    pool.close().await;
    restored
}

fn text(restored: &Restored) -> String {
    let paused = restored.queues_paused.join(", ");
    let mut text = record(&[
        ("control plane", restored.backup.cluster_id.clone()),
        ("as of", moment(restored.backup.taken_at)),
        ("rows", restored.rows.to_string()),
        ("incarnation", restored.incarnation.to_string()),
        ("put aside", restored.replaced_schema.clone().unwrap_or_default()),
        ("runs to be ended", restored.runs_to_be_ended.to_string()),
        ("jobs waiting", restored.jobs_waiting.to_string()),
        ("jobs cancelled", restored.jobs_cancelled.to_string()),
        ("queues paused", paused),
    ]);
    text.push_str("\nStart relevo again; workers end the runs that were under way first.\n");
    if let Some(schema) = &restored.replaced_schema {
        text.push_str(&format!(
            "When all is well, what was there before can go: DROP SCHEMA {schema} CASCADE\n"
        ));
    }
    text
}

/// The exit code of an error, and what to do.
fn told<T>(outcome: Result<T, StateError>) -> Result<T, Failure> {
    let (exit, advice) = match &outcome {
        Err(StateError::Archive(_)) => (Exit::Usage, None),
        Err(StateError::NotCurrent) => (Exit::ControlPlane, Some("run `relevo migrate`")),
        Err(StateError::Newer { .. }) => (Exit::Failed, Some("install that version of relevo")),
        Err(StateError::InUse(_)) => (
            Exit::Failed,
            Some("stop them; one that was killed counts as gone when its lease has run out"),
        ),
        Err(StateError::Occupied { .. }) => (
            Exit::Failed,
            Some("--replace renames its schema and restores beside it; look twice at database.url"),
        ),
        Ok(_)
        | Err(StateError::Migrate(_) | StateError::Queue(_) | StateError::Database { .. }) => {
            (Exit::ControlPlane, None)
        }
    };
    let outcome = outcome.or_exit(exit);
    match advice {
        Some(advice) => outcome.advise(advice),
        None => outcome,
    }
}

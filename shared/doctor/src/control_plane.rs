//! The control plane: its schema, its rights, who is alive.

use relevo_runs::control_plane::{self, SchemaStatus};
use relevo_runs::kinds::{self, Unserved};
use relevo_settings::Settings;
use sqlx::PgPool;

use crate::Finding;

const SUBJECT: &str = "database";

pub(crate) async fn ask(pool: &PgPool, settings: &Settings) -> Vec<Finding> {
    let mut findings = Vec::new();
    let migrate = "run `relevo migrate`; `relevo up` does it by itself";
    let usable = match control_plane::status(pool).await {
        Ok(SchemaStatus::Current) => {
            let message = "the control plane's schema is this version's";
            findings.push(Finding::ok("control_plane.schema", SUBJECT, message));
            true
        }
        Ok(SchemaStatus::Absent) => {
            let message = "the database holds no control plane yet";
            findings.push(Finding::problem("control_plane.schema", SUBJECT, message, migrate));
            false
        }
        Ok(SchemaStatus::Behind { pending }) => {
            let message = format!("the control plane lacks {pending} migration(s) of this version");
            findings.push(Finding::problem("control_plane.schema", SUBJECT, message, migrate));
            false
        }
        Ok(SchemaStatus::Newer { version }) => {
            let message = format!("the control plane is of a newer relevo (migration {version})");
            let advice = "bring this host to that version";
            findings.push(Finding::warning("control_plane.schema", SUBJECT, message, advice));
            true
        }
        Err(error) => {
            let message = format!("its version cannot be read: {}", relevo_errors::chain(&error));
            let advice = "the role in database.url needs rights on schema relevo";
            findings.push(Finding::problem("control_plane.schema", SUBJECT, message, advice));
            false
        }
    };
    if usable {
        match alive(pool, settings).await {
            Ok(more) => findings.extend(more),
            Err(error) => findings.push(Finding::problem(
                "control_plane.rights",
                SUBJECT,
                format!("the queue cannot be read: {}", relevo_errors::chain(&error)),
                "the role in database.url needs all rights on the tables of schema relevo; let it own the schema",
            )),
        }
    }
    findings
}

/// Who works, and what lies about.
async fn alive(pool: &PgPool, settings: &Settings) -> Result<Vec<Finding>, sqlx::Error> {
    let (may_write, workers, leader, dead, alerts): (bool, i64, bool, i64, i64) = sqlx::query_as(
        "-- doctor::alive
        SELECT has_table_privilege('relevo.job', 'INSERT')
               AND has_table_privilege('relevo.job', 'UPDATE')
               AND has_table_privilege('relevo.job', 'DELETE'),
               (SELECT count(*) FROM relevo.session
                 WHERE ended_at IS NULL AND heartbeat_at + ttl > clock_timestamp()),
               EXISTS (SELECT FROM relevo.leader_lease
                        WHERE name = 'scheduler' AND expires_at > clock_timestamp()),
               (SELECT count(*) FROM relevo.dead_letter),
               (SELECT count(*) FROM relevo.alert WHERE resolved_at IS NULL)",
    )
    .fetch_one(pool)
    .await?;
    let mut findings = Vec::new();
    if !may_write {
        findings.push(Finding::problem(
            "control_plane.rights",
            SUBJECT,
            "this role may not write to the queue",
            "grant it all rights on the tables of schema relevo, or let it own them",
        ));
    }
    findings.push(if workers == 0 {
        let advice = "start `relevo worker` or `relevo up`";
        Finding::warning("control_plane.workers", SUBJECT, "no worker is alive", advice)
    } else {
        let message = format!("{workers} worker(s) alive");
        Finding::ok("control_plane.workers", SUBJECT, message)
    });
    findings.push(if leader {
        Finding::ok("control_plane.scheduler", SUBJECT, "a scheduler leads")
    } else {
        Finding::warning(
            "control_plane.scheduler",
            SUBJECT,
            "no scheduler leads: nothing is started by the clock, and jobs of dead workers stay theirs",
            "start `relevo scheduler` or `relevo up`",
        )
    });
    if u64::try_from(dead).unwrap_or(0) > settings.alerts.dead_letters_max {
        findings.push(Finding::warning(
            "control_plane.dead_letters",
            SUBJECT,
            format!("{dead} jobs were given up (dead letters)"),
            "`relevo dead list` shows them and why; `relevo dead retry` runs them again",
        ));
    }
    findings.extend(kinds::unserved(pool).await?.iter().map(unserved));
    if alerts > 0 {
        let message = format!("{alerts} alert(s) are open");
        let advice = "`relevo notify alerts` lists them";
        findings.push(Finding::warning("control_plane.alerts", SUBJECT, message, advice));
    }
    Ok(findings)
}

/// Jobs that wait for a worker that knows them.
fn unserved(found: &Unserved) -> Finding {
    let Unserved { queue, kind, payload_version, known_version } = found;
    let known = match known_version {
        Some(version) => format!("workers know it up to version {version}"),
        None => "no worker alive knows the kind".to_owned(),
    };
    Finding::warning(
        "control_plane.unserved_kinds",
        SUBJECT,
        format!("jobs of {kind} in version {payload_version} wait in {queue}: {known}"),
        "start a worker whose build knows it; until then they stay where they are",
    )
}

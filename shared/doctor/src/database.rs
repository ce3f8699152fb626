//! Any Postgres: version, durability, poolers in between, its clock.

use std::time::{SystemTime, UNIX_EPOCH};

use relevo_pg::{PgError, PoolOptions};
use relevo_settings::{Database, Pooler};
use secrecy::SecretString;
use sqlx::{Connection as _, PgConnection, Row as _};

use crate::Finding;

/// A difference between two clocks that is worth a word, in seconds.
const SKEW_SECONDS_NOTABLE: f64 = 2.0;

/// One that makes times in logs and messages useless.
const SKEW_SECONDS_BAD: f64 = 60.0;

/// A snapshot older than this holds back the clean-up of the whole server, in seconds.
const SNAPSHOT_SECONDS_NOTABLE: f64 = 3_600.0;

/// Servers older than this get no fixes any more.
const MAJOR_SUPPORTED_MIN: i32 = 14;

/// What a server says about itself.
#[derive(sqlx::FromRow)]
struct About {
    version: String,
    version_number: i32,
    fsync: String,
    full_page_writes: String,
    synchronous_commit: String,
    synchronous_standbys: String,
    standbys: i64,
    read_only: bool,
    oldest_snapshot_seconds: f64,
    connections_free: i64,
}

/// Connects, with a connection for the questions.
pub(crate) async fn connect(url: &SecretString) -> Result<PgConnection, PgError> {
    relevo_pg::connect_proved(url, &PoolOptions::named("relevo-doctor")).await
}

/// Asks a database everything that does not depend on what it is for.
pub(crate) async fn ask(subject: String, url: SecretString, embedded: bool) -> Vec<Finding> {
    let connected = connect(&url).await;
    let advice = "give the server's own address: through a pooler LISTEN, session locks, prepared statements and the settings of a session belong to nobody, so nothing is imported there";
    ask_on(connected, subject, advice, embedded).await
}

/// The same of the control plane, where a pooler may stand in between if the settings say so.
pub(crate) async fn ask_control_plane(
    subject: String,
    url: SecretString,
    settings: &Database,
    embedded: bool,
) -> Vec<Finding> {
    let is_pooled = settings.pooler == Pooler::Transaction;
    let options = PoolOptions::named("relevo-doctor").transaction_pooler(is_pooled);
    let connected = relevo_pg::connect_proved(&url, &options).await;
    let advice = "set database.pooler = \"transaction\" and, for listening and migrations, database.direct_url to the server's own address; or give the server's own address as database.url";
    let mut findings = ask_on(connected, subject.clone(), advice, embedded).await;
    if is_pooled {
        findings.push(judge_way_past(&subject, settings.direct_url.as_ref()).await);
    }
    findings
}

/// Whether there is a way to the server that does not lead through the pooler.
async fn judge_way_past(subject: &str, direct_url: Option<&SecretString>) -> Finding {
    let Some(url) = direct_url else {
        return Finding::warning(
            "postgres.pooler",
            subject,
            "the control plane is reached through a pooler in transaction mode alone: workers find jobs and cancels by polling, and migrations can't be run from here",
            "set database.direct_url to the server's own address",
        );
    };
    match connect(url).await {
        Ok(_) => Finding::ok(
            "postgres.pooler",
            subject,
            "the control plane is reached through a pooler in transaction mode, and by database.direct_url past it",
        ),
        Err(error) => Finding::problem(
            "postgres.pooler",
            subject,
            format!(
                "database.direct_url does not lead past the pooler: {}",
                relevo_errors::chain(&error)
            ),
            "database.direct_url is to be the server's own address",
        ),
    }
}

async fn ask_on(
    connected: Result<PgConnection, PgError>,
    subject: String,
    advice_on_pooler: &str,
    embedded: bool,
) -> Vec<Finding> {
    let mut connection = match connected {
        Ok(connection) => connection,
        Err(error @ PgError::Pooler { .. }) => {
            let message = error.to_string();
            return vec![Finding::problem("postgres.pooler", &subject, message, advice_on_pooler)];
        }
        // The control plane's own unreachability is told by whoever tried to open it.
        Err(_) if subject == "database" => return Vec::new(),
        Err(error) => {
            let advice = "see that the server runs and lets this role in";
            let message = relevo_errors::chain(&error);
            return vec![Finding::problem("postgres.reachable", &subject, message, advice)];
        }
    };
    let mut findings = Vec::new();
    match about(&mut connection).await {
        Ok(about) => judge(&subject, &about, embedded, &mut findings),
        Err(error) => findings.push(Finding::warning(
            "postgres.asked",
            &subject,
            format!(
                "the server answers, but not to questions about itself: {}",
                relevo_errors::chain(&error)
            ),
            "see the server's log",
        )),
    }
    findings.extend(skew(&mut connection, &subject).await);
    // A failure to say goodbye costs nothing.
    let _ = connection.close().await;
    findings
}

async fn about(connection: &mut PgConnection) -> Result<About, sqlx::Error> {
    sqlx::query_as(
        "-- doctor::about
        SELECT current_setting('server_version') AS version,
               current_setting('server_version_num')::int AS version_number,
               current_setting('fsync') AS fsync,
               current_setting('full_page_writes') AS full_page_writes,
               current_setting('synchronous_commit') AS synchronous_commit,
               coalesce(current_setting('synchronous_standby_names', true), '')
                   AS synchronous_standbys,
               (SELECT count(*) FROM pg_stat_replication) AS standbys,
               (pg_is_in_recovery() OR current_setting('default_transaction_read_only')::boolean)
                   AS read_only,
               (SELECT coalesce(extract(epoch FROM clock_timestamp() - min(xact_start)), 0)::float8
                  FROM pg_stat_activity
                 WHERE datname = current_database() AND backend_xmin IS NOT NULL
                   AND pid <> pg_backend_pid()) AS oldest_snapshot_seconds,
               (current_setting('max_connections')::bigint
                   - (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend'))
                   AS connections_free",
    )
    .persistent(false)
    .fetch_one(connection)
    .await
}

fn judge(subject: &str, about: &About, embedded: bool, findings: &mut Vec<Finding>) {
    let major = about.version_number / 10_000;
    let version = format!("Postgres {}", about.version);
    findings.push(if major < MAJOR_SUPPORTED_MIN {
        let advice = "plan an upgrade: this version gets no fixes any more";
        Finding::warning("postgres.version", subject, version, advice)
    } else {
        Finding::ok("postgres.version", subject, version)
    });
    if about.read_only {
        findings.push(Finding::problem(
            "postgres.read_only",
            subject,
            "this server only reads: it is a standby, or default_transaction_read_only is on",
            "give the primary's address",
        ));
    }
    if about.fsync == "off" {
        findings.push(Finding::problem(
            "postgres.fsync",
            subject,
            "fsync is off: a power failure can destroy the whole server",
            "set fsync = on in postgresql.conf and restart the server",
        ));
    }
    if about.full_page_writes == "off" {
        findings.push(Finding::warning(
            "postgres.full_page_writes",
            subject,
            "full_page_writes is off: a power failure can leave torn pages, unless the file system prevents them",
            "set full_page_writes = on",
        ));
    }
    if about.synchronous_commit == "off" {
        findings.push(Finding::warning(
            "postgres.synchronous_commit",
            subject,
            "synchronous_commit is off: a crash can lose jobs that were acknowledged in its last moments",
            "set synchronous_commit = on for this database or role (ALTER DATABASE … SET synchronous_commit = on)",
        ));
    }
    if about.standbys > 0 && about.synchronous_standbys.trim().is_empty() {
        findings.push(Finding::warning(
            "postgres.standby",
            subject,
            format!("{} standby server(s) follow asynchronously: after a failover the last acknowledged jobs may be missing", about.standbys),
            "set synchronous_standby_names where that is not acceptable",
        ));
    }
    if about.oldest_snapshot_seconds > SNAPSHOT_SECONDS_NOTABLE {
        findings.push(Finding::warning(
            "postgres.old_snapshot",
            subject,
            format!("a transaction has held a snapshot for {:.0} min: the clean-up of dead rows waits for it", about.oldest_snapshot_seconds / 60.0),
            "find it with SELECT pid, query FROM pg_stat_activity ORDER BY xact_start LIMIT 1, and end it",
        ));
    }
    if about.connections_free < 10 {
        findings.push(Finding::warning(
            "postgres.connections",
            subject,
            format!("only {} more connections fit", about.connections_free.max(0)),
            "raise max_connections, or lower database.max_connections and worker.concurrency",
        ));
    }
    if embedded && subject == "database" {
        findings.push(Finding::note(
            "postgres.embedded",
            subject,
            "the control plane is on Relevo's own embedded server",
            "back up data_dir, or give a server of your own (RELEVO_DATABASE_URL) when several hosts are to work",
        ));
    }
}

/// The difference between this machine's clock and the server's.
async fn skew(connection: &mut PgConnection, subject: &str) -> Option<Finding> {
    let statement = "-- doctor::clock\nSELECT extract(epoch FROM clock_timestamp())::float8::text";
    let before = unix_seconds();
    let row = sqlx::Executor::fetch_one(connection, sqlx::raw_sql(statement)).await.ok()?;
    let after = unix_seconds();
    let server: f64 = row.try_get::<String, _>(0).ok()?.parse().ok()?;
    // The question took some time itself: what lies between asking and hearing is no difference.
    let skew = if server < before { server - before } else { (server - after).max(0.0) };
    let message = format!("the server's clock differs by {skew:.1} s from this machine's");
    let advice = "let both follow the same time (chrony, systemd-timesyncd); schedules and leases go by the server's clock, certificates and gateway times by this one";
    Some(if skew.abs() >= SKEW_SECONDS_BAD {
        Finding::problem("postgres.clock", subject, message, advice)
    } else if skew.abs() >= SKEW_SECONDS_NOTABLE {
        Finding::warning("postgres.clock", subject, message, advice)
    } else {
        Finding::ok("postgres.clock", subject, message)
    })
}

fn unix_seconds() -> f64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Level;

    fn about() -> About {
        About {
            version: "16.4".to_owned(),
            version_number: 160_004,
            fsync: "on".to_owned(),
            full_page_writes: "on".to_owned(),
            synchronous_commit: "on".to_owned(),
            synchronous_standbys: String::new(),
            standbys: 0,
            read_only: false,
            oldest_snapshot_seconds: 0.0,
            connections_free: 90,
        }
    }

    fn checks(about: &About) -> Vec<(&'static str, Level)> {
        let mut findings = Vec::new();
        judge("database", about, false, &mut findings);
        findings.iter().map(|finding| (finding.check, finding.level)).collect()
    }

    #[test]
    fn a_good_server_is_good_and_each_fault_is_found() {
        assert_eq!(checks(&about()), [("postgres.version", Level::Ok)]);
        let off = || "off".to_owned();
        for (bad, check, level) in [
            (About { version_number: 130_010, ..about() }, "postgres.version", Level::Warning),
            (About { fsync: off(), ..about() }, "postgres.fsync", Level::Problem),
            (
                About { full_page_writes: off(), ..about() },
                "postgres.full_page_writes",
                Level::Warning,
            ),
            (
                About { synchronous_commit: off(), ..about() },
                "postgres.synchronous_commit",
                Level::Warning,
            ),
            (About { standbys: 1, ..about() }, "postgres.standby", Level::Warning),
            (About { read_only: true, ..about() }, "postgres.read_only", Level::Problem),
            (
                About { oldest_snapshot_seconds: 7_200.0, ..about() },
                "postgres.old_snapshot",
                Level::Warning,
            ),
            (About { connections_free: 3, ..about() }, "postgres.connections", Level::Warning),
        ] {
            assert!(checks(&bad).contains(&(check, level)), "{check}");
        }
        let safe = About { standbys: 1, synchronous_standbys: "s1".to_owned(), ..about() };
        assert_eq!(checks(&safe).len(), 1);
    }
}

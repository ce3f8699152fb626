//! The built-in rules, which need no Prometheus: overdue, disk low, no worker, dead letters.
//!
//! Each look compares what is with what is written down as open, raises what is new and resolves
//! what is over; a second process that looks at the same time changes nothing.

use std::path::Path;
use std::time::{Duration, Instant};

use chrono::{DateTime, TimeDelta, Utc};
use relevo_jobs::JobKind;
use relevo_queue::{JobFilter, Queue, QueueError};
use relevo_runs::backup::PIPELINE;
use relevo_settings::{BackupSource, Settings};
use serde_json::json;
use sqlx::PgPool;
use tokio::sync::Semaphore;

use crate::alerts::{self, Alert, Condition, Rule};
use crate::channels::{HEARTBEAT, channels};
use crate::plan;

/// A disk alert that nobody has confirmed for so long is over: its host is gone.
const HOST_SILENT: TimeDelta = TimeDelta::hours(2);

/// How much more than the threshold must be free until the disk is well again, in percent.
const DISK_HYSTERESIS_PERCENT: u64 = 1;

/// How long asking for the disk's space may take; a dead network share never answers.
const DISK_TIMEOUT: Duration = Duration::from_secs(10);

/// Looks at disks under way: each that is never answered holds a thread.
static DISK_LOOKS: Semaphore = Semaphore::const_new(8);

/// Why the rules could not be looked at.
#[derive(Debug, thiserror::Error)]
pub enum RuleError {
    /// The control plane's database.
    #[error("the control plane's database failed")]
    Database(#[from] sqlx::Error),
    /// The queue.
    #[error(transparent)]
    Queue(#[from] QueueError),
}

/// How often a state that lasts is told again.
fn repeat(settings: &Settings) -> Option<Duration> {
    let hours = u64::from(settings.alerts.repeat_hours);
    (hours > 0).then(|| Duration::from_secs(hours * 3_600))
}

/// Raises the state of a failed run in the caller's transaction, and says which alert that is and
/// whether people are to be told.
///
/// # Errors
/// When the database fails.
pub async fn run_failed_in(
    tx: &mut sqlx::PgConnection,
    settings: &Settings,
    run: &relevo_runs::Run,
) -> Result<alerts::Raised, sqlx::Error> {
    let subject = format!("{}/{}", run.pipeline, run.source);
    let error: String = run.error.as_deref().unwrap_or_default().chars().take(500).collect();
    let details = json!({"run_id": run.id, "error": error});
    let condition = Condition::new(Rule::Failed, subject, details);
    alerts::raise_in(tx, &condition, repeat(settings)).await
}

/// Resolves the state of failing, if there was one, in the caller's transaction.
///
/// # Errors
/// When the database fails.
pub async fn run_succeeded_in(
    tx: &mut sqlx::PgConnection,
    run: &relevo_runs::Run,
) -> Result<Option<i64>, sqlx::Error> {
    let subject = format!("{}/{}", run.pipeline, run.source);
    alerts::resolve_in(tx, &alerts::key(Rule::Failed, &subject)).await
}

/// Raises a state, and has people told when they are to be.
async fn raise(queue: &Queue, settings: &Settings, condition: &Condition) -> Result<(), RuleError> {
    let mut tx = queue.pool().begin().await?;
    let raised = alerts::raise_in(&mut tx, condition, repeat(settings)).await?;
    if raised.tell {
        queue.enqueue_in(&mut tx, &[plan::alert_job(raised.id, false)]).await?;
        tracing::warn!(alert = condition.key(), details = %condition.details, "an alert is raised");
    }
    tx.commit().await?;
    Ok(())
}

/// Resolves a state, and has people told.
async fn resolve(queue: &Queue, key: &str) -> Result<(), RuleError> {
    let mut tx = queue.pool().begin().await?;
    if let Some(id) = alerts::resolve_in(&mut tx, key).await? {
        queue.enqueue_in(&mut tx, &[plan::alert_job(id, true)]).await?;
        tracing::info!(alert = key, "an alert is resolved");
    }
    tx.commit().await?;
    Ok(())
}

/// Makes a rule's open alerts those that are seen now.
async fn settle(
    queue: &Queue,
    settings: &Settings,
    rule: Rule,
    seen: &[Condition],
) -> Result<(), RuleError> {
    let open = alerts::open_of(queue.pool(), rule).await?;
    for condition in seen {
        raise(queue, settings, condition).await?;
    }
    for alert in open.iter().filter(|alert| seen.iter().all(|seen| seen.key() != alert.key)) {
        resolve(queue, &alert.key).await?;
    }
    Ok(())
}

/// By when a source has to have succeeded again.
#[derive(Clone, Copy, Debug)]
pub struct SuccessDue {
    /// When it succeeded last.
    pub last: Option<DateTime<Utc>>,
    /// The moment after which it is overdue.
    pub at: DateTime<Utc>,
    /// The database's clock when it was asked.
    pub now: DateTime<Utc>,
}

/// By when a source has to have succeeded again: its interval and the grace after its last success.
/// One that never succeeded counts from the day it was scheduled.
///
/// # Errors
/// When the database fails.
pub async fn success_due(
    pool: &PgPool,
    settings: &Settings,
    name: &str,
    source: &BackupSource,
) -> Result<SuccessDue, sqlx::Error> {
    let (last, since, now): (Option<DateTime<Utc>>, DateTime<Utc>, DateTime<Utc>) = sqlx::query_as(
        "-- alerts::success_due
        SELECT r.last, coalesce(r.last, s.created_at, statement_timestamp()), statement_timestamp()
          FROM (SELECT max(finished_at) AS last FROM relevo.run
                 WHERE pipeline = $1 AND source = $2 AND state = 'succeeded') AS r
               LEFT JOIN relevo.schedule AS s ON s.name = $3",
    )
    .bind(PIPELINE)
    .bind(name)
    .bind(format!("backup/{name}"))
    .fetch_one(pool)
    .await?;
    let minutes = i64::from(source.sync_interval_hours) * 60
        + i64::from(settings.alerts.overdue_grace_minutes);
    Ok(SuccessDue { last, at: since + TimeDelta::minutes(minutes), now })
}

/// Sources without a success in time.
///
/// # Errors
/// [`RuleError`].
pub async fn overdue(queue: &Queue, settings: &Settings) -> Result<(), RuleError> {
    let mut seen = Vec::new();
    for (name, source) in &settings.backup {
        if !settings.alerts.overdue || !source.schedule_enabled {
            continue;
        }
        let due = success_due(queue.pool(), settings, name, source).await?;
        if due.now >= due.at {
            let details = json!({
                "last_success_at": due.last,
                "interval_hours": source.sync_interval_hours,
            });
            let subject = format!("{PIPELINE}/{name}");
            seen.push(Condition::new(Rule::Overdue, subject, details));
        }
    }
    settle(queue, settings, Rule::Overdue, &seen).await
}

/// Dead letters. Those of messages count apart: the channel they were for has an alert of its own.
///
/// # Errors
/// [`RuleError`].
pub async fn dead_letters(queue: &Queue, settings: &Settings) -> Result<(), RuleError> {
    let mut seen = Vec::new();
    if settings.alerts.dead_letters {
        let all = queue.count_dead(&JobFilter::default()).await?;
        let messages =
            JobFilter { kinds: vec![JobKind::Notify.as_str().to_owned()], ..JobFilter::default() };
        let present = all.saturating_sub(queue.count_dead(&messages).await?);
        if present > settings.alerts.dead_letters_max {
            let level = i64::try_from(present).unwrap_or(i64::MAX);
            let details = json!({"present": present});
            seen.push(Condition { level, ..Condition::new(Rule::DeadLetters, "queue", details) });
        }
    }
    settle(queue, settings, Rule::DeadLetters, &seen).await
}

/// The disk under `data_dir` of this host. `host` tells it from those of others; `space` is what
/// [`space`] told.
///
/// # Errors
/// [`RuleError`].
pub async fn disk(
    queue: &Queue,
    settings: &Settings,
    host: &str,
    space: Option<Space>,
) -> Result<(), RuleError> {
    let subject = format!("{host}:{}", settings.data_dir.display());
    let key = alerts::key(Rule::DiskLow, &subject);
    let min = u64::from(settings.alerts.disk_free_percent_min);
    if !settings.alerts.disk_low {
        return resolve(queue, &key).await;
    }
    match space {
        Some(space) if space.free_percent() < min => {
            let details = json!({
                "free_percent": space.free_percent(),
                "free_mib": space.free_bytes >> 20,
            });
            raise(queue, settings, &Condition::new(Rule::DiskLow, subject, details)).await
        }
        Some(space) if space.free_percent() < min + DISK_HYSTERESIS_PERCENT => Ok(()),
        Some(_) => resolve(queue, &key).await,
        // A disk that does not answer has not become well.
        None => Ok(()),
    }
}

/// This host's name, as alerts show it.
#[must_use]
pub fn host() -> String {
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    let host = host.trim();
    if host.is_empty() { "localhost".to_owned() } else { host.to_owned() }
}

/// The room on a disk.
#[derive(Clone, Copy, Debug)]
pub struct Space {
    /// What an unprivileged user may still write.
    pub free_bytes: u64,
    /// All of it.
    pub total_bytes: u64,
}

impl Space {
    /// The free share.
    #[must_use]
    pub fn free_percent(&self) -> u64 {
        let percent = u128::from(self.free_bytes) * 100 / u128::from(self.total_bytes.max(1));
        u64::try_from(percent).unwrap_or(100)
    }
}

/// The room on the disk that holds `folder` or will; nothing comes back when the system does not
/// say.
pub async fn space(folder: &Path) -> Option<Space> {
    let folder = folder.to_owned();
    let permit = DISK_LOOKS.try_acquire().ok()?;
    let asked = tokio::task::spawn_blocking(move || {
        let _permit = permit;
        // A folder that does not exist yet will be on the disk of the nearest one that does.
        folder.ancestors().find_map(|folder| rustix::fs::statvfs(folder).ok())
    });
    let disk = tokio::time::timeout(DISK_TIMEOUT, asked).await.ok()?.ok()??;
    Some(Space {
        free_bytes: disk.f_bavail.saturating_mul(disk.f_frsize),
        total_bytes: disk.f_blocks.saturating_mul(disk.f_frsize),
    })
}

/// Resolves what no host confirms any more.
async fn forget_silent_hosts(queue: &Queue) -> Result<(), RuleError> {
    let now: DateTime<Utc> = sqlx::query_scalar("-- alerts::now\nSELECT statement_timestamp()")
        .fetch_one(queue.pool())
        .await?;
    for alert in alerts::open_of(queue.pool(), Rule::DiskLow).await? {
        if now - alert.last_seen_at > HOST_SILENT {
            resolve(queue, &alert.key).await?;
        }
    }
    Ok(())
}

/// Ends what nothing can end any more: the state of a channel or a source that is not configured
/// now. Nobody is told, since nothing has become better.
async fn forget_unconfigured(queue: &Queue, settings: &Settings) -> Result<(), RuleError> {
    let pool = queue.pool();
    let names: Vec<String> = channels(settings).into_iter().map(|channel| channel.name).collect();
    let has_heartbeat = settings.backup.values().any(|source| source.heartbeat_url.is_some());
    let of_channels = alerts::open_of(pool, Rule::Channel).await?.into_iter().filter(|alert| {
        let is_heartbeat = has_heartbeat && alert.subject == HEARTBEAT;
        !is_heartbeat && !names.contains(&alert.subject)
    });
    let of_sources = alerts::open_of(pool, Rule::Failed).await?.into_iter().filter(|alert| {
        let source = alert.subject.split_once('/').filter(|(pipeline, _)| *pipeline == PIPELINE);
        source.is_some_and(|(_, source)| !settings.backup.contains_key(source))
    });
    for alert in of_channels.chain(of_sources) {
        let mut connection = pool.acquire().await?;
        if alerts::resolve_in(&mut connection, &alert.key).await?.is_some() {
            tracing::info!(alert = alert.key, "an alert is over: what it is of is not configured");
        }
    }
    Ok(())
}

/// What the leading scheduler looks at, with what it remembers between two looks.
#[derive(Debug, Default)]
pub struct Watch {
    workerless_since: Option<Instant>,
    /// The alert this process has handed out to be told.
    told: Option<i64>,
    /// One that it has yet to hand out.
    workerless: Option<Alert>,
}

impl Watch {
    /// Looks at every rule once; `space` is the room on this host's disk.
    ///
    /// # Errors
    /// [`RuleError`]; the next look tries again.
    pub async fn look(
        &mut self,
        queue: &Queue,
        settings: &Settings,
        host: &str,
        space: Option<Space>,
    ) -> Result<(), RuleError> {
        self.no_worker(queue, settings).await?;
        overdue(queue, settings).await?;
        dead_letters(queue, settings).await?;
        disk(queue, settings, host, space).await?;
        forget_silent_hosts(queue).await?;
        forget_unconfigured(queue, settings).await?;
        alerts::prune(queue.pool()).await?;
        Ok(())
    }

    /// The alert that the caller is to tell itself, since no worker is alive to do it: once each,
    /// also when the look that found it failed or ran out of time further on.
    pub fn take_workerless(&mut self) -> Option<Alert> {
        self.workerless.take()
    }

    async fn no_worker(&mut self, queue: &Queue, settings: &Settings) -> Result<(), RuleError> {
        let condition = Condition::new(Rule::NoWorker, "workers", json!({}));
        if !settings.alerts.no_worker || alive(queue.pool()).await? {
            self.workerless_since = None;
            return resolve(queue, &condition.key()).await;
        }
        let since = *self.workerless_since.get_or_insert_with(Instant::now);
        let patience = Duration::from_secs(u64::from(settings.alerts.no_worker_minutes) * 60);
        if since.elapsed() < patience {
            return Ok(());
        }
        let mut connection = queue.pool().acquire().await?;
        let raised = alerts::raise_in(&mut connection, &condition, repeat(settings)).await?;
        drop(connection);
        // A leader that has just begun tells it again: whether the one before came to do so nobody
        // knows.
        if !raised.tell && self.told == Some(raised.id) {
            return Ok(());
        }
        if let Some(alert) = alerts::get(queue.pool(), raised.id).await? {
            self.told = Some(alert.id);
            self.workerless = Some(alert);
        }
        Ok(())
    }
}

/// Whether a worker's session is within its time.
async fn alive(pool: &PgPool) -> Result<bool, sqlx::Error> {
    sqlx::query_scalar(
        "-- alerts::alive
        SELECT EXISTS (SELECT FROM relevo.session
                        WHERE ended_at IS NULL AND heartbeat_at + ttl > clock_timestamp())",
    )
    .fetch_one(pool)
    .await
}

//! `relevo queue stats` and `relevo queue top`: what went through, and what happens now.

use std::fmt::Write as _;
use std::io::IsTerminal as _;
use std::time::Duration;

use anyhow::Context as _;
use chrono::{DateTime, Utc};
use relevo_queue::{JobFilter, JobState, JobView, Lately, QueueStats, SessionView, Throughput};
use serde::Serialize;

use crate::control::ControlPlane;
use crate::failure::Failure;
use crate::output::{Output, count, duration, moment, table, write_out};
use crate::shutdown;
use crate::watch::progress_text;

/// `top` tells how fast jobs went through in this time.
const RATE_WINDOW: Duration = Duration::from_secs(60);

/// Lines of each table of `top`: together they fit on a screen.
const LINES_MAX: usize = 12;

/// Running jobs that are looked at; the ones that run longest are shown.
const RUNNING_MAX: u16 = 1000;

/// Moves the cursor home and clears what is below, so that the next look is drawn over the last.
const REDRAW: &str = "\x1b[H\x1b[J";

/// `relevo queue stats`.
pub async fn stats(control: &ControlPlane, window: Duration, out: Output) -> Result<(), Failure> {
    let lately = control.queue.lately(window).await.context("reading the history failed")?;
    out.document(&lately, || {
        let rows: Vec<Vec<String>> =
            lately.kinds.iter().map(|kind| throughput_row(kind, lately.seconds())).collect();
        let headers = [
            "QUEUE",
            "KIND",
            "COMPLETED",
            "PER MIN",
            "RETRIED",
            "CANCELLED",
            "WAIT 50 %",
            "95 %",
            "RUN 50 %",
            "95 %",
        ];
        format!(
            "since {}\n{}",
            moment(lately.since),
            table(&headers, &rows, "no job has ended since")
        )
    })
}

fn throughput_row(kind: &Throughput, seconds: f64) -> Vec<String> {
    vec![
        kind.queue.clone(),
        kind.kind.clone(),
        count(kind.completed),
        per_minute(kind.completed, seconds),
        count(kind.retried),
        count(kind.cancelled),
        length(kind.wait_p50_ms),
        length(kind.wait_p95_ms),
        length(kind.run_p50_ms),
        length(kind.run_p95_ms),
    ]
}

#[expect(clippy::cast_precision_loss, reason = "one digit behind the point is shown")]
fn per_minute(jobs: i64, seconds: f64) -> String {
    format!("{:.1}", jobs as f64 * 60.0 / seconds)
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a length is no less than 0 and no longer than the history"
)]
fn length(ms: Option<f64>) -> String {
    match ms {
        None => String::new(),
        Some(ms) if ms < 1000.0 => format!("{ms:.1} ms"),
        Some(ms) => duration(ms as u64),
    }
}

/// What `top` shows.
#[derive(Serialize)]
struct Look {
    at: DateTime<Utc>,
    queues: Vec<QueueStats>,
    /// What ended in the last minute.
    lately: Lately,
    /// The jobs that run longest.
    running: Vec<JobView>,
    workers: Vec<SessionView>,
}

/// `relevo queue top`.
pub async fn top(
    control: &ControlPlane,
    interval: Duration,
    once: bool,
    out: Output,
) -> Result<(), Failure> {
    if once || out.is_json() || !std::io::stdout().is_terminal() {
        let look = look(control).await?;
        return out.document(&look, || screen(&look));
    }
    let stop = shutdown::on_signal()?;
    while !stop.is_cancelled() {
        // A database that restarts is waited for: whoever watches wants to see it come back.
        let shown = match look(control).await {
            Ok(look) => screen(&look),
            Err(failure) => format!("{}\n", failure.line()),
        };
        write_out(&format!("{REDRAW}{shown}"))?;
        tokio::select! {
            () = stop.cancelled() => {}
            () = tokio::time::sleep(interval) => {}
        }
    }
    Ok(())
}

async fn look(control: &ControlPlane) -> Result<Look, Failure> {
    let queue = &control.queue;
    let queues = queue.stats().await.context("counting the queues' jobs failed")?;
    let lately = queue.lately(RATE_WINDOW).await.context("reading the history failed")?;
    let filter = JobFilter {
        states: vec![JobState::Running],
        limit: Some(RUNNING_MAX),
        ..JobFilter::default()
    };
    let mut running = queue.jobs(&filter).await.context("listing running jobs failed")?;
    running.sort_by_key(|job| job.claimed_at);
    running.truncate(LINES_MAX);
    let workers = queue.sessions().await.context("listing workers failed")?;
    Ok(Look { at: lately.until, queues, lately, running, workers })
}

fn screen(look: &Look) -> String {
    let running: i32 = look.workers.iter().map(|worker| worker.running).sum();
    let places: i32 = look.workers.iter().map(|worker| worker.concurrency).sum();
    let mut text = format!(
        "{}  {} worker(s), {running} of {places} places busy\n\n",
        moment(look.at),
        look.workers.len(),
    );
    section(&mut text, look.queues.len(), &queues(look));
    section(&mut text, look.running.len(), &running_jobs(look));
    section(&mut text, look.workers.len(), &workers(look));
    text
}

/// Adds a table, with a line about rows that it leaves out.
fn section(text: &mut String, rows: usize, table: &str) {
    text.push_str(table);
    if !table.ends_with('\n') {
        text.push('\n');
    }
    if rows > LINES_MAX {
        writeln!(text, "… and {} more", rows - LINES_MAX).ok();
    }
    text.push('\n');
}

/// The queues with most to do come first.
fn queues(look: &Look) -> String {
    let mut queues: Vec<&QueueStats> = look.queues.iter().collect();
    queues.sort_by_key(|queue| std::cmp::Reverse(queue.available + queue.running));
    let rows: Vec<Vec<String>> = queues
        .into_iter()
        .take(LINES_MAX)
        .map(|queue| {
            let ended = look.lately.kinds.iter().filter(|kind| kind.queue == queue.queue);
            vec![
                queue.queue.clone(),
                count(queue.available),
                queue.oldest_available.map(|at| age(at, look.at)).unwrap_or_default(),
                count(queue.running),
                count(queue.scheduled + queue.retryable + queue.waiting),
                count(queue.dead),
                per_minute(ended.map(|kind| kind.completed).sum(), look.lately.seconds()),
                if queue.paused { "paused".to_owned() } else { String::new() },
            ]
        })
        .collect();
    let headers =
        ["QUEUE", "AVAILABLE", "OLDEST", "RUNNING", "LATER", "DEAD", "ENDED/MIN", "STATE"];
    table(&headers, &rows, "every queue is empty")
}

fn running_jobs(look: &Look) -> String {
    let rows: Vec<Vec<String>> = look
        .running
        .iter()
        .map(|job| {
            let worker = look.workers.iter().find(|worker| Some(worker.id) == job.session_id);
            let progress = job.progress.as_ref().and_then(|p| serde_json::to_value(p).ok());
            vec![
                job.id.to_string(),
                job.kind.clone(),
                job.claimed_at.map(|at| age(at, look.at)).unwrap_or_default(),
                format!("{} of {}", job.attempt, job.max_attempts),
                worker.map(|worker| worker.name.clone()).unwrap_or_default(),
                progress.as_ref().map(progress_text).unwrap_or_default(),
            ]
        })
        .collect();
    table(&["RUNNING", "KIND", "FOR", "ATTEMPT", "WORKER", "PROGRESS"], &rows, "no job runs")
}

fn workers(look: &Look) -> String {
    let rows: Vec<Vec<String>> = look
        .workers
        .iter()
        .take(LINES_MAX)
        .map(|worker| {
            vec![
                worker.name.clone(),
                worker.host.clone(),
                worker.pid.to_string(),
                format!("{} of {}", worker.running, worker.concurrency),
                age(worker.heartbeat_at, look.at),
                if worker.draining {
                    "draining"
                } else if worker.expires_at < look.at {
                    "silent"
                } else {
                    ""
                }
                .to_owned(),
            ]
        })
        .collect();
    table(&["WORKER", "HOST", "PID", "BUSY", "HEARD", "STATE"], &rows, "no worker is there")
}

/// How long ago, by the database's clock.
fn age(at: DateTime<Utc>, now: DateTime<Utc>) -> String {
    duration(u64::try_from((now - at).num_milliseconds()).unwrap_or(0))
}

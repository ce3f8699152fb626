//! The finisher: outcomes of handlers become rows, in batches, on a connection of its own.
//!
//! While one statement is under way, outcomes pile up for the next: the busier, the bigger the
//! batches, without a timer. The channel is bounded, so a database that is slow or away holds the
//! handlers' slots in the end, and with them the claims.
//!
//! Nothing is given up for a lost connection: the same write-back is tried again until its session
//! is over. What was written without our hearing of it is recognised by session and epoch.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sqlx::{Connection as _, PgConnection};
use tokio::sync::mpsc;

use super::connect::{self, ANSWER_TIMEOUT_MAX, Purpose, patience, pause, within};
use super::finish::{self, Ack, Ending};
use super::observer::{Finished, Outcome};
use super::tenure::Tenure;
use crate::admit::Keys;
use crate::{JobId, QueueError};

/// Outcomes waiting to be written, beyond which handlers keep their slots.
pub(crate) const CHANNEL_SIZE: usize = 2_048;

const BATCH_MAX: usize = 1_000;

/// Outcomes held after failures, beyond which no more are taken from the channel.
const BACKLOG_MAX: usize = 2 * BATCH_MAX;

/// How often one outcome is tried alone when the database refuses it for a reason of its own.
const REFUSALS_MAX: u32 = 10;

/// Writes outcomes until told to flush and nothing is left, or until told to give up.
pub(crate) async fn run(tenure: Arc<Tenure>, mut acks: mpsc::Receiver<Ack>) {
    let mut writer = Writer { tenure, connection: None, failures: 0 };
    let mut backlog: Vec<Ack> = Vec::new();
    loop {
        if backlog.is_empty() {
            tokio::select! {
                biased;
                taken = acks.recv_many(&mut backlog, BATCH_MAX) => if taken == 0 { return },
                () = writer.tenure.flush.cancelled(), if !acks.is_closed() => {
                    acks.close();
                    continue;
                }
            }
        } else {
            if writer.tenure.flush.is_cancelled() {
                acks.close();
            }
            // What failed goes again after a pause, together with what came meanwhile.
            tokio::select! {
                () = tokio::time::sleep(pause(writer.failures)) => {}
                () = writer.tenure.give_up.cancelled() => {
                    tracing::error!(
                        outcomes = backlog.len() + acks.len(),
                        "outcomes could not be written before the session's end; their jobs are \
                         taken back when it is found dead, and run again"
                    );
                    return;
                }
            }
            while backlog.len() < BACKLOG_MAX
                && let Ok(ack) = acks.try_recv()
            {
                backlog.push(ack);
            }
        }
        backlog = writer.write(std::mem::take(&mut backlog)).await;
    }
}

struct Writer {
    tenure: Arc<Tenure>,
    connection: Option<PgConnection>,
    /// Failed rounds in a row.
    failures: u32,
}

impl Writer {
    /// Writes what it can; what is left is to be tried again.
    async fn write(&mut self, acks: Vec<Ack>) -> Vec<Ack> {
        let (mut plain, mut ending, mut waiting, mut alone) = (vec![], vec![], vec![], vec![]);
        for ack in acks {
            let group = match &ack.ending {
                Ending::Dead { .. } => &mut alone,
                // What was refused in company is tried alone, so that it spoils nobody's write.
                _ if ack.refusals > 0 => &mut alone,
                Ending::Completed if ack.lease.batch.is_none() => &mut plain,
                Ending::Completed | Ending::Cancelled(_) => &mut ending,
                _ => &mut waiting,
            };
            group.push(ack);
        }
        let mut left = Vec::new();
        let mut groups: Vec<Vec<Ack>> = Vec::new();
        for group in [plain, ending, waiting] {
            let mut group = group.into_iter().peekable();
            while group.peek().is_some() {
                groups.push(group.by_ref().take(BATCH_MAX).collect());
            }
        }
        groups.extend(alone.into_iter().map(|ack| vec![ack]));
        for mut group in groups {
            match self.write_group(&group).await {
                Ok(()) => {}
                Err(error) => {
                    self.failed(&error, &mut group).await;
                    left.extend(group);
                }
            }
        }
        if left.is_empty() {
            self.failures = 0;
        } else {
            self.failures = self.failures.saturating_add(1);
        }
        left
    }

    async fn write_group(&mut self, group: &[Ack]) -> Result<(), QueueError> {
        let Some(first) = group.first() else { return Ok(()) };
        let started = Instant::now();
        let mut connection = match self.connection.take() {
            Some(connection) => connection,
            None => connect::connect(self.tenure.queue.pool(), Purpose::Finish).await?,
        };
        let session = self.tenure.session;
        let step = async {
            let written: BTreeSet<JobId> = match &first.ending {
                Ending::Dead { .. } => {
                    let handler = &*self.tenure.handler;
                    let is_ours = finish::bury(&mut connection, handler, first).await?;
                    is_ours.then_some(first.lease.id.job).into_iter().collect()
                }
                Ending::Completed if first.lease.batch.is_none() => {
                    if finish::complete(&mut connection, session, group).await? {
                        return Ok(None);
                    }
                    BTreeSet::new()
                }
                Ending::Completed | Ending::Cancelled(_) => {
                    finish::end(&mut connection, session, group).await?
                }
                _ => finish::put_back(&mut connection, session, group).await?,
            };
            if written.len() == group.len() {
                return Ok(None);
            }
            let mut known = finish::already_ended(&mut connection, session, group).await?;
            known.extend(written);
            Ok::<_, QueueError>(Some(known))
        };
        // What a handler does when its job dies has a limit of its own.
        let limit = match &first.ending {
            Ending::Dead { .. } => ANSWER_TIMEOUT_MAX,
            _ => patience(self.failures),
        };
        // An error, or no answer, leaves the connection to be dropped.
        let known = match tokio::time::timeout(limit, step).await {
            Ok(done) => done?,
            Err(_) => return Err(timed_out()),
        };
        self.connection = Some(connection);
        self.tenure.observer.finish_written(group.len(), started.elapsed());
        let mut keys = Keys::default();
        for ack in group {
            keys.add(ack.lease.ordering_key.as_deref(), ack.lease.limit_key.as_deref());
        }
        self.tenure.queue.admitter.soon(self.tenure.queue.pool(), keys);
        self.report(group, known.as_ref());
        Ok(())
    }

    /// Tells the observer; `known` are the jobs that were ours where not all were.
    fn report(&self, group: &[Ack], known: Option<&BTreeSet<JobId>>) {
        let mut lost = 0;
        for ack in group {
            let lease = &ack.lease;
            let is_written = known.is_none_or(|known| known.contains(&lease.id.job));
            let (is_ours, outcome) = match &ack.ending {
                // No row to write is what a committed transaction of the handler leaves.
                Ending::CompletedInTx(_) if is_written => (true, Outcome::Retried),
                Ending::CompletedInTx(_) => (true, Outcome::Completed),
                // A job put back by a try whose answer was lost has no epoch of ours any more, and
                // no place where it could be told from one that was taken away: nothing is amiss.
                Ending::Retry { .. } | Ending::Snooze(_) | Ending::GiveBack if ack.is_retried => {
                    (true, ack.ending.outcome())
                }
                ending => (is_written, ending.outcome()),
            };
            if is_ours {
                self.tenure.observer.finished(&Finished {
                    queue: &lease.queue_name,
                    kind: &lease.kind,
                    outcome,
                    attempt: lease.attempt,
                    wait: ack.wait,
                    run: ack.run,
                });
            } else {
                lost += 1;
                self.tenure.observer.lease_lost(&lease.queue_name, &lease.kind);
                tracing::warn!(
                    job = %lease.id.job,
                    epoch = lease.id.epoch,
                    kind = &*lease.kind,
                    "the lease was lost before the outcome could be written"
                );
            }
        }
        if lost > 0 {
            // Perhaps the whole session is: ask at once.
            self.tenure.beat_now.notify_one();
        }
    }

    async fn failed(&mut self, error: &QueueError, group: &mut Vec<Ack>) {
        self.tenure.observer.database_error("finish");
        tracing::warn!(
            outcomes = group.len(),
            error = error as &dyn std::error::Error,
            "outcomes could not be written, trying again"
        );
        for ack in group.iter_mut() {
            ack.is_retried = true;
        }
        if !is_refusal(error) {
            self.connection = None;
            return;
        }
        if let Some(connection) = self.connection.take() {
            // After an error in a transaction, a fresh connection is the simplest clean state.
            let _ = within(Duration::from_secs(1), connection.close()).await;
        }
        for ack in group.iter_mut() {
            ack.refusals += 1;
        }
        group.retain(|ack| {
            let keep = ack.refusals <= REFUSALS_MAX;
            if !keep {
                tracing::error!(
                    job = %ack.lease.id.job,
                    kind = &*ack.lease.kind,
                    ending = ?ack.ending,
                    error = error as &dyn std::error::Error,
                    "the database refuses this outcome; the job stays leased until this session \
                     ends, and runs again then"
                );
            }
            keep
        });
    }
}

fn timed_out() -> QueueError {
    QueueError::Database(sqlx::Error::Io(std::io::Error::new(
        std::io::ErrorKind::TimedOut,
        "no answer to a finish",
    )))
}

/// Whether the database understood and said no, for a reason that another try may not change.
/// Lock timeouts, deadlocks, serialization failures and shutdowns are not of that kind.
fn is_refusal(error: &QueueError) -> bool {
    let QueueError::Database(sqlx::Error::Database(error)) = error else {
        return !matches!(error, QueueError::Database(_));
    };
    let passing = ["08", "40", "53", "55", "57", "58"];
    error.code().is_none_or(|code| !passing.iter().any(|class| code.starts_with(class)))
}

//! How each kind is queued, retried and bounded.

use std::time::Duration;

use crate::JobKind;

/// What the queue is told about a kind when a job of it is enqueued, and what the worker keeps to
/// when it runs one.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Policy {
    /// Queue the kind waits in unless the producer names another.
    pub queue: &'static str,
    /// Runs allowed before the job becomes a dead letter, the first included.
    pub max_attempts: i32,
    /// Worker deaths under the job before it is taken for poison and becomes a dead letter.
    /// Deaths are counted apart from attempts and forgotten when the job makes new progress.
    pub max_deaths: i16,
    /// Higher goes first within a queue.
    pub priority: i16,
    /// Upper bound of the delay before the second run; it doubles with every further one.
    pub backoff_base: Duration,
    /// The bound never grows past this.
    pub backoff_cap: Duration,
    /// The longest one run may take; past it the handler is cancelled and the attempt counts.
    pub timeout: Duration,
    /// The longest a run may go without reporting progress; past it the handler is cancelled and
    /// the attempt counts. `None` where a run reports none and its timeout is bound enough.
    pub progress_deadline: Option<Duration>,
}

impl Policy {
    /// What a kind of somebody's own goes by unless it says otherwise: about two hours of tries.
    pub const OF_OWN_KINDS: Self = Self {
        queue: "default",
        max_attempts: 25,
        max_deaths: 3,
        priority: 0,
        backoff_base: Duration::from_secs(1),
        backoff_cap: Duration::from_secs(900),
        timeout: Duration::from_secs(3_600),
        progress_deadline: None,
    };
}

/// The policy of `kind`.
///
/// The steps of one import share the queue `backup`, its many chunks have `translate` for
/// themselves, so that an operator can give them workers of their own. The kinds that move an
/// import forward go first: a download that waits behind chunks of another run keeps the gateway's
/// link, which expires, waiting too.
///
/// Imports come twice a day, so their steps are tried for two hours and more before one is given up:
/// a database that is down for an hour must not cost the shop half a day. Waiting for the gateway
/// spends no attempts, see `worker::backup`.
#[must_use]
pub const fn policy(kind: JobKind) -> Policy {
    const fn seconds(n: u64) -> Duration {
        Duration::from_secs(n)
    }
    match kind {
        JobKind::RequestBackup => Policy {
            queue: "backup",
            max_attempts: 40,
            max_deaths: 5,
            priority: 20,
            backoff_base: seconds(5),
            backoff_cap: seconds(300),
            // Above the synchronous mode's own limit (10 minutes by default).
            timeout: seconds(1_200),
            progress_deadline: None,
        },
        JobKind::DownloadDump => Policy {
            queue: "backup",
            max_attempts: 60,
            max_deaths: 5,
            priority: 20,
            backoff_base: seconds(2),
            backoff_cap: seconds(300),
            // The gateway's link lives for 6 hours.
            timeout: seconds(6 * 3_600),
            // Silence on the line is noticed within a minute; unpacking never stands still so long.
            progress_deadline: Some(seconds(900)),
        },
        JobKind::TranslateChunk => Policy {
            queue: "translate",
            max_attempts: 60,
            max_deaths: 5,
            priority: 10,
            backoff_base: seconds(1),
            backoff_cap: seconds(300),
            timeout: seconds(1_800),
            // A COPY may wait for a lock or a checkpoint, but not for ever.
            progress_deadline: Some(seconds(900)),
        },
        JobKind::FinishImport => Policy {
            queue: "backup",
            max_attempts: 60,
            max_deaths: 5,
            priority: 20,
            backoff_base: seconds(2),
            backoff_cap: seconds(300),
            timeout: seconds(2 * 3_600),
            // One index of a large table is one step.
            progress_deadline: Some(seconds(45 * 60)),
        },
        JobKind::BackupDeadline => Policy {
            queue: "backup",
            max_attempts: 20,
            max_deaths: 5,
            priority: 20,
            backoff_base: seconds(2),
            backoff_cap: seconds(60),
            timeout: seconds(60),
            progress_deadline: None,
        },
        JobKind::Notify => Policy {
            queue: "notify",
            max_attempts: 30,
            max_deaths: 3,
            priority: 0,
            backoff_base: seconds(5),
            // About five hours in all: mail servers and chats are away for longer than databases.
            backoff_cap: seconds(1_800),
            timeout: seconds(60),
            progress_deadline: None,
        },
        JobKind::Noop => Policy {
            queue: "default",
            max_attempts: 5,
            max_deaths: 3,
            priority: 0,
            backoff_base: seconds(1),
            backoff_cap: seconds(60),
            timeout: seconds(3_600),
            progress_deadline: None,
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_steps_of_an_import_outlive_an_hour_without_their_databases() {
        for kind in [
            JobKind::RequestBackup,
            JobKind::DownloadDump,
            JobKind::TranslateChunk,
            JobKind::FinishImport,
        ] {
            let policy = policy(kind);
            // Half the ceiling is what full jitter comes to.
            let mut waited = Duration::ZERO;
            let mut ceiling = policy.backoff_base;
            for _ in 1..policy.max_attempts {
                waited += ceiling / 2;
                ceiling = (ceiling * 2).min(policy.backoff_cap);
            }
            assert!(waited > Duration::from_secs(4_800), "{kind} gives up after {waited:?}");
        }
    }

    #[test]
    fn every_policy_is_bounded_and_sensible() {
        for kind in JobKind::ALL {
            let policy = policy(kind);
            assert!(!policy.queue.is_empty(), "{kind}");
            assert!((1..=100).contains(&policy.max_attempts), "{kind}");
            assert!((1..=100).contains(&policy.max_deaths), "{kind}");
            assert!(policy.backoff_base > Duration::ZERO, "{kind}");
            assert!(policy.backoff_cap >= policy.backoff_base, "{kind}");
            assert!(policy.timeout >= Duration::from_secs(60), "{kind}");
            assert!(policy.progress_deadline.is_none_or(|bound| bound < policy.timeout), "{kind}");
        }
    }
}

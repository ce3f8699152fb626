//! The way to a program of one's own: `relevo` with more kinds of jobs.

use std::process::ExitCode;

use relevo_jobs::{BadKind, OwnKind};
use relevo_queue::{Job, JobError};
use relevo_worker::{Here, OwnKinds};

use crate::failure::{Exit, Failure};

/// A program with the whole command line of `relevo`, to which kinds of jobs can be added.
#[must_use = "it does nothing before it is run"]
pub fn builder() -> Builder {
    Builder::default()
}

/// See [`builder`].
#[derive(Debug, Default)]
#[must_use = "it does nothing before it is run"]
pub struct Builder {
    own: OwnKinds,
    /// The first description that no kind can have: told when the program runs.
    wrong: Option<BadKind>,
}

impl Builder {
    /// Adds a kind of job, and what runs it.
    ///
    /// The handler gets what it may use, the job under its lease, and the payload. `Ok` completes
    /// the job; of an error, `?` means that it is tried again by the kind's policy, and
    /// [`JobError`] says anything else. A payload that is none of `K` makes its job a dead letter
    /// at once. Everything that holds for a handler of Relevo's own holds here: it may be ended at
    /// any point and run again, so its effects are repeatable, or are proved by [`Job::fence`] or
    /// [`Job::complete_in`].
    pub fn kind<K, F, W>(mut self, handler: F) -> Self
    where
        K: OwnKind,
        F: Fn(Here, Job, K) -> W + Send + Sync + 'static,
        W: Future<Output = Result<(), JobError>> + Send + 'static,
    {
        if let Err(bad) = self.own.add(handler) {
            self.wrong.get_or_insert(bad);
        }
        self
    }

    /// Reads the command line and does what it says; what to return from `main`.
    #[must_use = "return it from main"]
    pub fn run(self) -> ExitCode {
        match self.wrong {
            None => crate::run(self.own),
            Some(bad) => {
                let failure = Failure::new(Exit::Failed, bad.to_string())
                    .advise("correct its description in the program");
                crate::report(&failure, false)
            }
        }
    }
}

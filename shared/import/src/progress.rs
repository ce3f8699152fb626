//! What an import says while it works.

use std::collections::HashSet;
use std::fmt;

use serde::{Deserialize, Serialize};

/// The parts of an import, in their order.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Rights are checked, the staging schema is made.
    Prepare,
    /// The dump is read and its rows are copied into the staging schema.
    Load,
    /// Rows are counted in the target and compared with the dump.
    Verify,
    /// Primary keys, unique keys and indexes are built.
    Index,
    /// Foreign keys, checks, identities, comments, triggers.
    Constrain,
    /// Planner statistics and visibility maps.
    Analyze,
    /// Transactions older than the load are waited for.
    Wait,
    /// The staged tables take the place of the present ones.
    Cutover,
    /// Left-over schemas are dropped.
    Clean,
}

impl fmt::Display for Phase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Prepare => "prepare",
            Self::Load => "load",
            Self::Verify => "verify",
            Self::Index => "index",
            Self::Constrain => "constrain",
            Self::Analyze => "analyze",
            Self::Wait => "wait",
            Self::Cutover => "cutover",
            Self::Clean => "clean",
        })
    }
}

/// One piece of news. All figures are totals since the start of the import (or, for the steps of
/// the pipeline, of the call), so that a listener may drop any of them.
#[derive(Clone, Copy, Debug)]
pub enum ProgressEvent<'a> {
    /// A phase begins.
    Phase(Phase),
    /// How far the dump is read.
    Read {
        /// Bytes taken from the input as it came.
        input_bytes: u64,
        /// Bytes of SQL after unpacking.
        raw_bytes: u64,
    },
    /// Rows sent to the target.
    Loaded {
        /// The table the latest of them went into.
        table: &'a str,
        /// Rows of all tables.
        rows: u64,
        /// Bytes of COPY text.
        size_bytes: u64,
    },
    /// Countable work within a phase: `done` of `total` are finished.
    Step {
        /// The phase.
        phase: Phase,
        /// Finished so far.
        done: u64,
        /// In all.
        total: u64,
        /// What was finished last.
        name: &'a str,
    },
    /// Something a person should read; it is in the certificate too.
    Notice(&'a str),
}

/// Notices in their order, none of them twice.
pub(crate) fn each_once(notices: impl IntoIterator<Item = String>) -> Vec<String> {
    let mut known = HashSet::new();
    notices.into_iter().filter(|notice| known.insert(notice.clone())).collect()
}

/// A listener. It is called from several threads, often, and must not block.
pub trait ImportProgress: Send + Sync {
    /// Takes one piece of news.
    fn report(&self, event: ProgressEvent<'_>);
}

/// A listener that does not listen.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoProgress;

impl ImportProgress for NoProgress {
    fn report(&self, _event: ProgressEvent<'_>) {}
}

//! Choices: where to, how careful, how patient.

use std::collections::BTreeMap;
use std::time::Duration;

use relevo_mysqldump::{DumpSummary, TranslateOptions};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::input::UNPACK_LIMIT;
use crate::selection::Selection;

/// What one import wants, kept in the target's ledger so that every later step decides alike.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct ImportOptions {
    /// The schema whose tables are replaced.
    pub schema: String,
    /// Who imports: [`crate::steps::leftovers`] lists what is this owner's only.
    pub owner: String,
    /// How types and doubtful values are carried over.
    pub translate: TranslateOptions,
    /// What a dump must hold to replace a full target.
    pub guard: Guard,
    /// How the loaded rows are compared with the dump.
    pub verify: Verify,
    /// Whether the dump must end with its completion line.
    pub completion: Completion,
    /// Take only the tables of this database, for a dump that holds several.
    pub database: Option<String>,
    /// Take only these tables, and rename some.
    pub selection: Selection,
    /// Make the tables and leave their rows out.
    pub schema_only: bool,
    /// So many rows that are refused are set aside; one more, and the import fails.
    pub quarantine: u32,
    /// Conditions in SQL by the table's name in Postgres: of its rows only those stay that fit.
    pub filters: BTreeMap<String, String>,
    /// How many times its size a packed dump may grow to, once it is over 256 MiB.
    pub unpack_limit: u32,
    /// Refuse tables that the target does not have; for [`CutoverMode::Merge`] and
    /// [`CutoverMode::Upsert`].
    pub existing_only: bool,
    /// VACUUM the new tables too, after the cutover, rather than ANALYZE them only.
    pub vacuum: bool,
    /// Connections that build indexes and analyse at the same time.
    pub finish_jobs: usize,
    /// How long and how hard the cutover tries.
    pub cutover: CutoverLimits,
}

impl Default for ImportOptions {
    fn default() -> Self {
        Self {
            schema: "public".to_owned(),
            owner: "relevo".to_owned(),
            translate: TranslateOptions::default(),
            guard: Guard::default(),
            verify: Verify::Rows,
            completion: Completion::Expected,
            database: None,
            selection: Selection::default(),
            schema_only: false,
            quarantine: 0,
            filters: BTreeMap::new(),
            unpack_limit: UNPACK_LIMIT,
            existing_only: false,
            vacuum: true,
            finish_jobs: 2,
            cutover: CutoverLimits::default(),
        }
    }
}

/// The rule that keeps a half-empty dump from replacing a full target.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Guard {
    /// A table may lose this many percent of its rows since the last certificate (or against the
    /// present target when there is none).
    pub shrink_percent: u8,
    /// Import all the same; what would have been refused is reported.
    pub force: bool,
}

impl Default for Guard {
    fn default() -> Self {
        Self { shrink_percent: 30, force: false }
    }
}

/// How the loaded rows are compared with the dump.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verify {
    /// The rows of every table are counted on both sides.
    #[default]
    Rows,
    /// Every value is hashed on both sides as well, in tables whose types write back what was
    /// read.
    Values,
}

/// Whether a dump without `-- Dump completed` is taken for cut off.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Completion {
    /// When its header names a tool that writes the line, unless the dump's last settings say that
    /// all rows were written, or its end was evidently taken away by hand.
    #[default]
    Expected,
    /// Always.
    Required,
    /// Never.
    NotRequired,
}

impl Completion {
    /// Whether a dump that ended so is taken for cut off.
    pub(crate) fn is_missed_by(self, summary: &DumpSummary) -> bool {
        let ended = summary.complete || summary.restored || summary.trimmed;
        match self {
            Self::Expected => summary.completion_expected && !ended,
            Self::Required => !summary.complete,
            Self::NotRequired => false,
        }
    }
}

/// How readers come to see the new rows.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum CutoverMode {
    /// The new tables take the place of the present ones, which are kept until the next success.
    #[default]
    Swap,
    /// The present tables stay, and their rows are changed to those of the dump in one
    /// transaction: for targets with logical replication, or with readers that never end. Tables
    /// that the target does not have are moved in.
    Merge,
    /// As `Merge`, but rows that only the target has stay: what the dump holds is inserted or
    /// updated by key.
    Upsert,
}

impl CutoverMode {
    /// Whether present tables stay and only their rows change.
    #[must_use]
    pub fn is_in_place(self) -> bool {
        self != Self::Swap
    }

    /// As written in options.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Swap => "swap",
            Self::Merge => "merge",
            Self::Upsert => "upsert",
        }
    }
}

/// How the cutover is done, and how long and how hard it tries.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct CutoverLimits {
    /// Exchanged tables or changed rows.
    pub mode: CutoverMode,
    /// The longest time all attempts together may take before the import gives up, seconds.
    pub lock_wait_seconds: u64,
    /// The longest wait for transactions whose snapshot is older than the load, seconds.
    pub snapshot_wait_seconds: u64,
    /// What happens to them after that.
    pub old_snapshots: OldSnapshots,
}

impl Default for CutoverLimits {
    fn default() -> Self {
        Self {
            mode: CutoverMode::Swap,
            lock_wait_seconds: 120,
            snapshot_wait_seconds: 600,
            old_snapshots: OldSnapshots::Refuse,
        }
    }
}

/// What to do with a transaction that would see the new tables empty, once the wait is over.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum OldSnapshots {
    /// Leave the target as it is and fail, naming them.
    #[default]
    Refuse,
    /// Cut over all the same and report them.
    Proceed,
}

/// What `import_file` needs beside its input.
#[derive(Clone, Debug)]
pub struct DirectOptions {
    /// The target database.
    pub target_url: SecretString,
    /// Everything that is the same in the pipeline.
    pub import: ImportOptions,
    /// COPY connections.
    pub jobs: usize,
    /// The longest silence of the target while rows are sent.
    pub copy_timeout: Duration,
    /// Rows are committed in pieces of so many bytes: what is committed is not loaded again when the
    /// import is cut off.
    pub commit_bytes: u64,
    /// What the input is known by ([`crate::source_of`]), where it can be read again.
    pub source: Option<String>,
    /// Other imports of the same source follow: what is left of those that were cut off is theirs
    /// to go on with.
    pub more_follow: bool,
    /// Stops the import; the previous data stay as they are.
    pub cancel: CancellationToken,
}

impl DirectOptions {
    /// The defaults: 2 connections, schema `public`, rows verified.
    #[must_use]
    pub fn new(target_url: SecretString) -> Self {
        Self {
            target_url,
            import: ImportOptions::default(),
            jobs: 2,
            copy_timeout: Duration::from_secs(300),
            commit_bytes: 32 << 20,
            source: None,
            more_follow: false,
            cancel: CancellationToken::new(),
        }
    }
}

/// Limits of one chunk's load.
#[derive(Clone, Copy, Debug)]
pub struct ChunkLimits {
    /// The longest time the whole load of the chunk may take.
    pub timeout: Duration,
}

impl Default for ChunkLimits {
    fn default() -> Self {
        Self { timeout: Duration::from_secs(600) }
    }
}

/// How [`crate::split_to_chunks`] cuts.
#[derive(Clone, Debug)]
pub struct SplitOptions {
    /// The import the chunks belong to.
    pub import: crate::ImportId,
    /// A chunk is closed once it holds this many bytes of rows.
    pub chunk_size_bytes: usize,
    /// Whether the dump must end with its completion line.
    pub completion: Completion,
    /// Take only the tables of this database.
    pub database: Option<String>,
    /// Take only these tables, and rename some.
    pub selection: Selection,
    /// How many times its size a packed dump may grow to, once it is over 256 MiB.
    pub unpack_limit: u32,
    /// Names and types chosen for tables and columns: those of the import's own options.
    pub translate: TranslateOptions,
}

impl SplitOptions {
    /// The defaults: chunks of 32 MiB.
    #[must_use]
    pub fn new(import: crate::ImportId) -> Self {
        Self {
            import,
            chunk_size_bytes: 32 * 1024 * 1024,
            completion: Completion::Expected,
            database: None,
            selection: Selection::default(),
            unpack_limit: UNPACK_LIMIT,
            translate: TranslateOptions::default(),
        }
    }

    /// As an import wants it.
    #[must_use]
    pub fn of(import: crate::ImportId, options: ImportOptions) -> Self {
        Self {
            completion: options.completion,
            database: options.database,
            selection: options.selection,
            unpack_limit: options.unpack_limit,
            translate: options.translate,
            ..Self::new(import)
        }
    }
}

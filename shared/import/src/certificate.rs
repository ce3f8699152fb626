//! What ends a successful import: table by table, what the dump held and what the target holds.

use chrono::{DateTime, Utc};
use relevo_mysqldump::{BatchStats, Checksum, DumpSummary, SkippedObject};
use relevo_pg::cutover::RowChanges;
use serde::{Deserialize, Serialize};

use crate::identity::ImportId;
use crate::options::Verify;
use crate::progress::Phase;

/// Proof of an import. Kept in the target's ledger; the next import's guard compares with it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Certificate {
    /// The import.
    pub import: ImportId,
    /// The schema whose tables were replaced.
    pub schema: String,
    /// Where the tables they replaced are kept; `None` when there were none.
    pub previous_schema: Option<String>,
    /// By the target's clock.
    pub started_at: DateTime<Utc>,
    /// By the target's clock; the cutover's moment.
    pub finished_at: DateTime<Utc>,
    /// From start to finish.
    pub duration_ms: u64,
    /// How long each phase took, as far as one process saw it.
    pub phases: Vec<PhaseDuration>,
    /// How rows were compared.
    pub verify: Verify,
    /// Rows of all tables.
    pub rows: u64,
    /// Every table, in the order of the dump.
    pub tables: Vec<TableCertificate>,
    /// The dump as a whole.
    pub dump: DumpSummary,
    /// Views of the dump that the target had not: a rollback takes them away again.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub views_new: Vec<String>,
    /// Objects of the dump that are not carried over.
    pub skipped: Vec<SkippedObject>,
    /// Everything else a person should read.
    pub notices: Vec<String>,
}

impl Certificate {
    /// Rows that were refused and set aside.
    #[must_use]
    pub fn rows_quarantined(&self) -> u64 {
        self.tables.iter().filter_map(|table| table.rows_quarantined).sum()
    }
}

/// One table of a certificate.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct TableCertificate {
    /// Its name in Postgres.
    pub table: String,
    /// Rows in the dump.
    pub rows_dump: u64,
    /// Rows in the dump, counted a second time in another way; `None` where that was not sure.
    #[serde(default)]
    pub rows_recounted: Option<u64>,
    /// Rows that a condition of the user took out again.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows_filtered: Option<u64>,
    /// Rows that were refused and set aside: they are missing in the target.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rows_quarantined: Option<u64>,
    /// Rows counted in the target.
    pub rows_target: u64,
    /// Rows of the table it replaced, when the guard had to know.
    pub rows_before: Option<u64>,
    /// Sum of the row hashes as encoded from the dump.
    pub checksum_dump: Checksum,
    /// Sum of the row hashes as read back from the target; `None` where it was not asked for or
    /// where a type writes values in another form than the dump.
    pub checksum_target: Option<Checksum>,
    /// Rows that were changed in place; `None` where tables were exchanged.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub changes: Option<RowChanges>,
    /// What encoding had to change.
    pub stats: BatchStats,
}

/// How long a phase took.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct PhaseDuration {
    /// The phase.
    pub phase: Phase,
    /// Its duration.
    pub duration_ms: u64,
}

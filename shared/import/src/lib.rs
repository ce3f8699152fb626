//! A MySQL dump into Postgres, whole or not at all, without readers ever seeing half of it.
//!
//! [`import_file`] does it in one process; [`split_to_chunks`] and [`steps`] are the same work in
//! pieces, for workers on several machines. Both load into a staging schema, build keys and
//! indexes there, compare rows with the dump, and then put the new tables into the place of the
//! present ones in one short transaction, or change the rows of the present ones (`relevo_pg::cutover`). The record of it all is the
//! target's own ledger, schema `relevo_ledger`.
//!
//! It knows nothing of queue, runs or settings.

mod aside;
mod batch;
mod build;
mod certificate;
mod chunk;
mod copy;
mod direct;
mod error;
mod guard;
mod identity;
mod input;
mod inspect;
mod ledger;
mod manifest;
mod options;
mod packing;
mod pieces;
mod plan;
mod precheck;
mod progress;
pub mod quarantine;
mod recount;
mod resume;
mod scan;
mod selection;
mod single;
mod split;
pub mod steps;
mod translate;
mod two_pass;
mod verdict;

pub use certificate::{Certificate, PhaseDuration, TableCertificate};
pub use chunk::{Chunk, ChunkHeader};
pub use direct::import_file;
pub use error::ImportError;
pub use guard::GuardFinding;
pub use identity::{Fence, ImportId, previous_schema};
pub use inspect::{Estimate, InspectedColumn, InspectedTable, Inspection, inspect};
pub use manifest::{ChunkEntry, Manifest, TableManifest};
pub use options::{
    ChunkLimits, Completion, CutoverLimits, CutoverMode, DirectOptions, Guard, ImportOptions,
    OldSnapshots, SplitOptions, Verify,
};
pub use packing::Packing;
pub use progress::{ImportProgress, NoProgress, Phase, ProgressEvent};
pub use resume::source_of;
pub use selection::Selection;
pub use single::import_in_one_transaction;
pub use split::{SplitItem, split_to_chunks};
pub use translate::{Translation, translate};
pub use two_pass::choose_types;
pub use verdict::Readers;

//! A MySQL dump into Postgres, whole or not at all, without readers ever seeing half of it.

mod certificate;
mod chunk;
mod direct;
mod error;
mod guard;
mod identity;
mod inspect;
mod manifest;
mod options;
mod progress;
mod split;
pub mod steps;
mod translate;

pub use certificate::{Certificate, PhaseDuration, TableCertificate};
pub use chunk::{Chunk, ChunkHeader};
pub use direct::import_file;
pub use error::ImportError;
pub use guard::GuardFinding;
pub use identity::{Fence, ImportId, previous_schema};
pub use inspect::{InspectedTable, Inspection, inspect};
pub use manifest::{ChunkEntry, Manifest, TableManifest};
pub use options::{
    ChunkLimits, Completion, CutoverLimits, DirectOptions, Guard, ImportOptions, OldSnapshots,
    SplitOptions, Verify,
};
pub use progress::{ImportProgress, NoProgress, Phase, ProgressEvent};
pub use split::{SplitItem, split_to_chunks};
pub use translate::{Translation, translate};

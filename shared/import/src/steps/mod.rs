//! The import's steps one by one, for the pipeline: any worker runs any of them, any of them may
//! be cut short and run again.
//!
//! The story: [`begin`] takes the import and makes the staging schema; [`create_table`] as
//! definitions pass; [`load_chunk`] for every chunk, in any order, on any number of workers;
//! [`seal`] once the dump was read to its end; [`finish`] builds, verifies and cuts over. Instead
//! of the last, or after a failure, [`abandon`]. What is true stands in the target's ledger, never
//! in the caller's memory: a chunk's rows and its ledger row commit together, a part that was
//! built is noted in the transaction that built it, and the cutover is one transaction with the
//! ledger's word that the import is live.
//!
//! [`settle`] does what a [`finish`] that ended after its cutover left. [`rollback`] puts back what
//! the last import replaced.
//!
//! Every step names its [`Fence`]. A later fence takes the import (or the chunk) over; from then on
//! an earlier writer's last statement before its COMMIT finds no row, and it rolls back.

mod abandon;
mod begin;
mod clean;
mod clock;
mod finish;
mod golive;
mod load;
mod merging;
mod objects;
mod rollback;
mod seal;
mod status;

pub use abandon::{Leftover, abandon, clear, leftovers};
pub use begin::{Begun, begin, create_table};
pub use clean::settle;
pub use finish::finish;
pub use load::{ChunkOutcome, load_chunk};
pub use rollback::{RolledBack, rollback};
pub use seal::seal;
pub use status::{
    ImportState, LoadProgress, certificate, load_progress, missing_chunks, state, stored_options,
};

#[cfg(doc)]
use crate::identity::Fence;

pub(crate) use abandon::{DIRECT_OWNER, sweep_direct};
pub(crate) use finish::{Loaded, finish_after};

//! Tests of the queue: real Postgres, real workers, and processes that are really killed.

mod admission;
mod batches;
mod cancel;
mod child;
mod drain;
mod enqueue;
mod faults;
mod fencing;
mod keys;
mod plans;
mod pooled;
mod progress;
mod rescue;
mod scripts;
mod silence;
mod states;
mod support;
mod upkeep;
mod wake;

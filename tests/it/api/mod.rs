//! Tests of the api front door: over a real socket, against a control plane of their own.

mod audit;
mod bulk;
mod conform;
mod control_plane;
pub(crate) mod dead_letters;
mod document;
mod enqueue;
mod fuzz;
mod jobs;
mod keys;
mod kinds;
mod limits;
mod queues;
mod run_store;
mod runs;
mod schedules;
mod schemathesis;
pub(crate) mod server;
mod surroundings;
mod uploads;
mod webhook;

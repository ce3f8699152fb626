//! The backup import through the real parts: gateway simulator, API, scheduler, worker processes,
//! queue and target, compared with what MariaDB says was dumped.

mod after_cutover;
mod alone;
mod asking;
mod bad_days;
mod choices;
pub mod cluster;
mod disks;
mod downloads;
mod failures;
mod modes;
mod notify;
mod restored;
mod retention;
mod rollback;
mod settings;
pub mod sources;
mod targets;
mod undecided;

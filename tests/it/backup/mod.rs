//! The backup import through the real parts: gateway simulator, API, scheduler, worker processes,
//! queue and target, compared with what MariaDB says was dumped.

mod cluster;
mod bad_days;
mod failures;
mod kills;
mod modes;
mod notify;

//! Telling people, connections and the doctor, through the front doors: real mail servers, real
//! receivers, real processes.

mod alerts;
mod channels;
mod connections;
mod doctor;
mod pooler;
pub mod receiver;

use std::time::Duration;

/// How long a message may take, on a slow machine with everything else going on.
pub const TOLD_TIMEOUT: Duration = Duration::from_secs(90);

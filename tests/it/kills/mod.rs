//! Processes killed by `kill -9`, and database servers crashed: at random moments under load, and at
//! chosen points of what people do.

mod alone;
mod gate;
pub mod load;
mod merge;
pub mod rest;
mod schedules;
mod secrets;
mod state;
mod uploads;
mod witnesses;

//! Processes killed by `kill -9`, and database servers crashed: at random moments under load, and at
//! chosen points of what people do.

mod alone;
mod gate;
mod load;
mod merge;
mod schedules;
mod secrets;
mod state;
mod uploads;
mod witnesses;

//! One module per family of commands; each calls the crate that does the work.

pub mod audit;
pub mod configuration;
pub mod connections;
pub mod console;
pub mod dead;
pub mod doctor;
mod dump_inspect;
mod dump_quarantine;
pub mod dumps;
pub mod handover;
pub mod jobs;
pub mod keys;
pub mod notify;
pub mod queues;
pub mod runs;
pub mod schedules;
pub mod services;
pub mod state;
pub mod up;

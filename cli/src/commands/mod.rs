//! One module per family of commands; each calls the crate that does the work.

pub mod audit;
pub mod bench;
pub mod configuration;
pub mod connections;
pub mod console;
pub mod dead;
pub mod demo;
pub mod doctor;
mod dump_inspect;
mod dump_quarantine;
pub mod dumps;
pub mod handover;
pub mod init;
pub mod jobs;
pub mod keys;
pub mod limits;
pub mod notify;
mod queue_top;
pub mod queues;
pub mod runs;
pub mod schedules;
pub mod services;
pub mod state;
pub mod up;

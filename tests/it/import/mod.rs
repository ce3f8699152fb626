//! The dump import on a real Postgres: direct and in steps, repeated, interrupted, guarded.

mod alone;
mod bad_input;
mod carried_over;
mod command;
mod corpus;
mod direct;
pub mod dump;
mod dumping;
mod estimate;
mod fences;
mod frozen;
mod guard;
mod hostile;
mod kills;
mod merge;
mod objects;
mod obstacles;
mod quarantine;
mod readers;
mod replication;
mod resume;
mod rights;
mod rollback;
mod selection;
mod single;
mod steps;
mod target;

//! The dump import on a real Postgres: direct and in steps, repeated, interrupted, guarded.

mod bad_input;
mod carried_over;
mod direct;
mod dump;
mod fences;
mod frozen;
mod guard;
mod kills;
mod obstacles;
mod readers;
mod rights;
mod steps;
mod target;

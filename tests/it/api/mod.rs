//! Tests of the api front door: over a real socket, against a control plane of their own.

mod control_plane;
mod dead_letters;
mod enqueue;
mod jobs;
mod keys;
mod queues;
mod run_store;
mod runs;
mod server;
mod surroundings;
mod webhook;

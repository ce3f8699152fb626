//! The scheduler: what is started by the clock, and the queue's upkeep.

pub mod rhythm;
pub mod settle;

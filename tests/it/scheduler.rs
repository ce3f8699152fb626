//! Tests of the scheduler front door.

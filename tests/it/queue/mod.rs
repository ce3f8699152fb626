//! Tests of the queue front door.

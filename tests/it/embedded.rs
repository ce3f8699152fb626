//! Tests of the embedded front door.

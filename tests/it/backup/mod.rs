//! Tests of the backup front door.

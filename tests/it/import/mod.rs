//! Tests of the import front door.

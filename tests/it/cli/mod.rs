//! Tests of the cli front door.

//! Tests of the settings front door.

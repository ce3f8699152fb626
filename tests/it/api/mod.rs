//! Tests of the api front door.

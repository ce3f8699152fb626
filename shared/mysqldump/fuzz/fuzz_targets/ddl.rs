//! Any bytes inside definitions.

#![no_main]

#[expect(dead_code, reason = "of the entry points, each target has one")]
#[path = "../entry_points.rs"]
mod entry_points;

libfuzzer_sys::fuzz_target!(|data: &[u8]| entry_points::ddl(data));

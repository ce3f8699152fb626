//! The switch that readers see.
mod error;

pub use error::CutoverError;

//! MySQL literals and what becomes of them.

mod cast;
pub(crate) mod date;
pub(crate) mod expression;
pub(crate) mod find;
mod format;
mod function;
pub(crate) mod hex;
pub(crate) mod literal;
pub(crate) mod number;
pub(crate) mod spatial;
pub(crate) mod text;
mod wkt;

//! Table definitions: MySQL in, Postgres out.
//!
//! `parse` and `alter` read MySQL's statements; `translate` writes the CREATE TABLE that rows are
//! loaded into; `postload` writes what follows the load, phase by phase; `objects` writes sequences
//! and views.

mod alter;
mod column;
mod constraints;
mod expression;
mod index;
mod names;
mod objects;
mod parse;
mod postload;
pub(crate) mod translate;
pub(crate) mod types;
mod view;
mod widen;

pub(crate) use alter::{Effect as AlterEffect, apply as apply_alter, target as alter_target};
pub use index::REMARK_MARK;
pub(crate) use names::quote;
pub use names::table_name;
pub use objects::{ObjectPlan, ObjectSql, objects};
pub(crate) use parse::create_table as parse_create_table;
pub use postload::{Phase, PostLoad, PostLoadPlan, identity_setval, post_load};
pub use translate::{ColumnPlan, Note, Translated, create_table};

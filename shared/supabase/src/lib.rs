//! Two-way synchronisation of a local Postgres with a Supabase project, offline first.
//!
//! Local changes are recorded by triggers and sent when the line is up; remote ones are read page by
//! page. Each row's last remote version seen is its *base*: a write is filtered on it, and a conflict
//! exists only where the remote row differs from it. What loses is kept.
//!
//! | what is asked for | where it is |
//! |---|---|
//! | control tables, the trigger function, `app.is_sync` | `control.sql`, [`init`] |
//! | checks of keys, columns, owners, triggers; who maintains `updated_at` | [`init`] |
//! | `config.toml` as it is | [`config`] |
//! | keyset pages, conditional writes, ignored duplicates, retries, exact numbers, traffic | [`rest`] |
//! | the watermark with its overlap, moved where its rows are stored | [`absorb`], [`mod@pull`] |
//! | who wins; echoes of own writes; rows the local database refuses | [`absorb`] |
//! | coalescing, order by foreign keys, rows that wait, dead letters, unique clashes | [`push`] |
//! | rows deleted on one side | [`removal`] |
//! | comparison by id and version, five in a hundred | [`reconcile`] |
//! | schema drift, offline, polling that adapts, wake-up by NOTIFY | [`engine`] |
//! | one process at a time, fenced; the log | [`store`] |
//! | operators' view | [`status`], [`conflicts`] |
//!
//! **Killed here, then what?** Before a write is sent, its content's checksum is stored; after it,
//! the answer, the pending mark and the base are stored in one transaction. Killed between the two,
//! the change is still pending: a new row is ignored as a duplicate, a changed one no longer matches
//! its base, and in both cases the remote row is read and recognised by the checksum. A page that was
//! not stored did not move the position.
//!
//! Values are never read by this crate: rows stay JSON text between PostgREST and Postgres, which
//! turns them into its types itself.

pub mod absorb;
pub mod catalog;
pub mod config;
pub mod conflicts;
mod decision;
pub mod engine;
pub mod error;
pub mod init;
pub mod position;
pub mod pull;
pub mod push;
pub mod reconcile;
pub mod removal;
pub mod rest;
pub mod status;
pub mod store;

pub use config::Config;
pub use engine::{Cycle, Engine};
pub use error::SyncError;

//! The backup import, step by step: request, download, chunks, finish.
//!
//! ```text
//! RequestBackup ── asks ──► gateway ── webhook or answer ──► DownloadDump ──► TranslateChunk × N
//!      ▲                       │ silence, failure                 │ the dump is no good    │
//!      └──── BackupDeadline ◄──┘◄─────────────────────────────────┘        FinishImport ◄──┘
//! ```
//!
//! | module | holds |
//! |---|---|
//! | `request`, `deadline` | asking the gateway, and what happens when nothing comes |
//! | `offered`, `origin` | dumps that are there without asking: files, uploads, web servers |
//! | `download`, `moving`, `transfer`, `tail`, `splitting` | fetching, unpacking and cutting the dump |
//! | `chunk`, `chunk_store` | loading one chunk, and where chunks wait |
//! | `finish` | from loaded rows to live tables |
//! | `step`, `ending` | what all steps share: entering, ending a run |
//! | `reconcile`, `sweep` | end runs that nobody works for, clean up after ended ones |
//! | `gateway`, `files`, `private_dir`, `room`, `run_names`, `progress` | the client, the disk, names, figures |
//!
//! A run ends in one control-plane transaction, whoever ends it: a handler, the queue's dead-letter
//! hook or the reconciler. Cleaning up after it is the reconciler's part alone, so there is one
//! path for success, failure, cancellation and crash.

mod chunk;
mod chunk_store;
mod deadline;
mod download;
mod ending;
mod files;
mod finish;
mod gateway;
mod moving;
mod offered;
mod origin;
mod private_dir;
mod progress;
mod reconcile;
mod request;
mod room;
mod run_names;
mod splitting;
mod step;
mod sweep;
mod tail;
mod transfer;

pub(crate) use chunk::translate_chunk;
pub(crate) use chunk_store::ChunkStore;
pub(crate) use deadline::backup_deadline;
pub(crate) use download::download_dump;
pub(crate) use ending::on_dead;
pub(crate) use files::Files;
pub(crate) use finish::finish_import;
pub(crate) use reconcile::reconcile_forever;
pub(crate) use request::{ask_timeout_max, request_backup};
pub(crate) use run_names::Names;

//! Reads MySQL and MariaDB dumps and translates them for Postgres. Pure: bytes in, bytes out, no
//! I/O, no threads, memory bounded by one row and one statement.
//!
//! The story of a dump: [`DumpSplitter`] is fed slices of any size and hands on [`Event`]s: table
//! definitions, row-aligned batches of INSERT tuples, and what is skipped. [`ddl`] makes the
//! Postgres table and, for after the load, keys, indexes, foreign keys and the rest. A
//! [`RowEncoder`], compiled from table, INSERT header and options, turns tuples into COPY text.
//! Batches carry all they need ([`TableDef`] and [`InsertHeader`] are serialisable), so encoding
//! may happen in another process than splitting.

mod checksum;
mod choices;
pub mod ddl;
mod encoder;
mod error;
mod event;
mod lexer;
mod options;
mod schema;
mod session;
mod splitter;
pub mod sql;
mod values;

pub use checksum::Checksum;
pub use choices::{ColumnChoice, TableChoice, TypeChoice};
pub use encoder::{BatchStats, RowEncoder, RowValues, SortedRows};
pub use error::{DumpError, EncoderError, RowError, SinkError};
pub use event::{
    DumpSummary, DumpWarning, Event, InsertHeader, RowBatch, SkippedKind, SkippedObject,
};
pub use options::{
    BigintUnsigned, GeometryType, InetType, InvalidTextPolicy, JsonType, LossPolicy, SetType,
    SplitOptions, TranslateOptions, choice,
};
pub use schema::{
    CheckDef, ColumnDef, ColumnType, DefaultValue, ForeignKeyDef, GeneratedDef, IndexDef, IndexKey,
    IndexKind, IndexPart, IntSize, TableDef,
};
pub use session::SessionState;
pub use splitter::DumpSplitter;

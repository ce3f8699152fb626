//! Arguments of the commands that work on a dump file.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::quarantine::QuarantineCommand;
use super::translation::TranslationArgs;

/// `relevo dump …`.
#[derive(Debug, Subcommand)]
pub enum DumpCommand {
    /// Load a MySQL dump into Postgres: all of it or nothing
    Import(Box<ImportArgs>),
    /// Print a MySQL dump as SQL for psql
    #[command(
        after_help = "Examples:\n  relevo dump translate shop.sql.gz | psql shop\n  zcat shop.sql.gz | relevo dump translate - --schema shop > shop.pg.sql"
    )]
    Translate(TranslateArgs),
    /// Say what a dump contains and what an import would make of it: tables, rows, types, what is changed, refused or left out, time and room
    #[command(
        after_help = "Examples:\n  relevo dump inspect shop.sql.gz\n  relevo dump inspect shop.sql.gz --columns\n  relevo dump inspect shop.sql.gz --json"
    )]
    Inspect(InspectArgs),
    /// Rows that imports set aside: list, show, mend, load or discard them
    #[command(subcommand)]
    Quarantine(QuarantineCommand),
}

/// `relevo dump import`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  relevo dump import shop.sql.gz --to postgres://app@db/shop --schema public
  mariadb-dump shop | relevo dump import - --to postgres://app@db/shop --schema shop --jobs 4
  relevo dump import shop.sql.gz --to postgres://app@db/shop --cutover merge
  relevo dump import shop.sql.zst --to postgres://app@db/shop --only 'art*' --rename articulo=article

The rows are loaded beside the present tables, which readers go on seeing until everything is
loaded, indexed and counted; then the tables are exchanged in one short transaction. With
--cutover merge the present tables stay and their rows are changed in one transaction. When
anything fails the present tables stay as they were. A dump that is empty or in which a table
lost more than 30 % of its rows is refused unless --force is given.

An import of a file that was cut off, killed or by the target's end, goes on when it is run again.")]
pub struct ImportArgs {
    /// The dump, plain or packed with gzip, zstd, bzip2 or xz; or - for standard input
    pub file: PathBuf,
    /// Postgres URL of the database to load into; better given by $DATABASE_URL, which `ps` doesn't show
    #[arg(long, value_name = "URL", env = "DATABASE_URL", hide_env_values = true)]
    pub to: String,
    /// Schema whose tables are exchanged
    #[arg(long, default_value = "public", value_name = "NAME")]
    pub schema: String,
    /// Connections that load at the same time
    #[arg(long, default_value_t = 2, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=64))]
    pub jobs: u16,
    /// Of a dump of several databases take this one
    #[arg(long, value_name = "NAME")]
    pub database: Option<String>,
    /// Of a dump of several databases load this one into this schema; may be repeated, one import after the other
    #[arg(long, value_name = "DATABASE=SCHEMA", value_delimiter = ',', value_parser = pair, conflicts_with = "database")]
    pub map: Vec<(String, String)>,
    /// Take only tables of these names; * and ? stand for any characters; may be repeated
    #[arg(long, value_name = "TABLE", value_delimiter = ',')]
    pub only: Vec<String>,
    /// Leave tables of these names out; may be repeated
    #[arg(long, value_name = "TABLE", value_delimiter = ',')]
    pub exclude: Vec<String>,
    /// Load a table under another name; may be repeated
    #[arg(long, value_name = "OLD=NEW", value_delimiter = ',', value_parser = pair)]
    pub rename: Vec<(String, String)>,
    /// Make the tables and leave their rows out
    #[arg(long, conflicts_with_all = ["data_only", "into_existing"])]
    pub schema_only: bool,
    /// Put the dump's rows in the place of those in tables that are there; the same as --into-existing replace
    #[arg(long)]
    pub data_only: bool,
    /// Change rows of tables that are there, in place: make them those of the dump, or add and update the dump's by key
    #[arg(long, value_name = "HOW", conflicts_with = "data_only")]
    pub into_existing: Option<IntoExisting>,
    /// How readers come to see the new rows: the tables are exchanged, or their rows changed in place
    #[arg(long, default_value = "swap", value_name = "HOW")]
    pub cutover: Cutover,
    /// What to do with transactions older than the load that don't end: leave everything as it was, or exchange the tables under them
    #[arg(long, default_value = "refuse", value_name = "POLICY")]
    pub old_snapshots: OldSnapshotPolicy,
    /// How long to wait for transactions older than the load
    #[arg(long, default_value_t = 600, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(..=86_400))]
    pub snapshot_wait: u64,
    /// Load a dump that is empty or has shrunk, too
    #[arg(long)]
    pub force: bool,
    /// Load a dump without its last line, "-- Dump completed", too: it may be cut off
    #[arg(long)]
    pub allow_incomplete: bool,
    /// Of a table's rows take only those for which a condition in SQL is true, as in "venta=fecha >= '2024-01-01'"; may be repeated
    #[arg(long = "where", value_name = "TABLE=CONDITION", value_parser = pair)]
    pub filters: Vec<(String, String)>,
    /// Read the dump twice: bigint unsigned that fits becomes bigint, tinyint(1) of 0 and 1 only becomes boolean
    #[arg(long)]
    pub two_pass: bool,
    /// Load into new tables in one transaction on one connection, without staging schema and ledger
    #[arg(long, conflicts_with_all = [
        "jobs", "map", "data_only", "into_existing", "cutover", "old_snapshots", "snapshot_wait",
        "quarantine", "commit_size", "force",
    ])]
    pub single_transaction: bool,
    /// Set up to N rows aside that are refused, and load the rest (exit code 6); see relevo dump quarantine
    #[arg(long, value_name = "N", default_value_t = 0, value_parser = clap::value_parser!(u32).range(..=100_000))]
    pub quarantine: u32,
    /// Commit rows in pieces of so many MiB and connection; after a crash those are not loaded again
    #[arg(long, value_name = "MIB", default_value_t = 32, value_parser = clap::value_parser!(u64).range(1..=4096))]
    pub commit_size: u64,
    /// How many times its size a packed dump may grow to
    #[arg(long, value_name = "TIMES", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    pub unpack_limit: u32,
    #[command(flatten)]
    pub translation: TranslationArgs,
}

/// `relevo dump inspect`.
#[derive(Debug, Args)]
pub struct InspectArgs {
    /// The dump, plain or packed with gzip, zstd, bzip2 or xz; or - for standard input
    pub file: PathBuf,
    /// List every column with its type, and what is left out with its source
    #[arg(long = "columns")]
    pub list_columns: bool,
    /// How many times its size a packed dump may grow to
    #[arg(long, value_name = "TIMES", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..))]
    pub unpack_limit: u32,
    #[command(flatten)]
    pub translation: TranslationArgs,
}

/// How readers come to see the new rows.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Cutover {
    /// The new tables take the place of the present ones, which are kept until the next success
    Swap,
    /// Rows are changed in place in one transaction: for logical replication and endless readers
    Merge,
}

/// What becomes of rows in tables that are there.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum IntoExisting {
    /// They become those of the dump: what the dump has not goes
    Replace,
    /// Rows of the dump are inserted, or updated by key; others stay
    Merge,
}

/// Reads `OLD=NEW`.
pub(super) fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((old, new)) if !old.is_empty() && !new.is_empty() => {
            Ok((old.to_owned(), new.to_owned()))
        }
        _ => Err("expected two names with = between them".to_owned()),
    }
}

/// What happens to transactions that would see the new tables empty.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum OldSnapshotPolicy {
    /// The import fails and names them
    Refuse,
    /// The tables are exchanged all the same
    Proceed,
}

/// `relevo dump translate`.
#[derive(Debug, Args)]
pub struct TranslateArgs {
    /// The dump: .sql, .sql.gz, or - for standard input
    pub file: PathBuf,
    /// Schema to write the tables into
    #[arg(long, default_value = "public", value_name = "NAME")]
    pub schema: String,
    #[command(flatten)]
    pub translation: TranslationArgs,
}

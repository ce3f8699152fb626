//! Arguments of `relevo dump quarantine …`.

use clap::{Args, Subcommand};

use super::dump::pair;

/// `relevo dump quarantine …`.
#[derive(Debug, Subcommand)]
pub enum QuarantineCommand {
    /// List rows that imports set aside, in their order
    #[command(after_help = "Examples:
  relevo dump quarantine list --to postgres://app@db/shop
  relevo dump quarantine list --to postgres://app@db/shop --json > rows.json")]
    List {
        /// The database.
        #[command(flatten)]
        target: TargetArgs,
        /// Only rows of this import
        #[arg(long, value_name = "IMPORT")]
        import: Option<String>,
        /// Only rows of this table
        #[arg(long, value_name = "TABLE")]
        table: Option<String>,
        /// Rows that are loaded or discarded, too
        #[arg(long)]
        all: bool,
        /// Rows behind this number
        #[arg(long, value_name = "ROW", default_value_t = 0)]
        after: i64,
        /// At most so many
        #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(i64).range(1..=100_000))]
        limit: i64,
    },
    /// Show a row: its values, why it was refused, and where it stands in the dump
    #[command(
        after_help = "Example:\n  relevo dump quarantine show 12 --to postgres://app@db/shop"
    )]
    Show {
        /// Its number
        row: i64,
        /// The database.
        #[command(flatten)]
        target: TargetArgs,
    },
    /// Change values of a row
    #[command(
        after_help = "Example:\n  relevo dump quarantine edit 12 --set precio=9.50 --null baja --retry"
    )]
    Edit {
        /// Its number
        row: i64,
        /// The database.
        #[command(flatten)]
        target: TargetArgs,
        /// A new value, as text that the column's type reads; may be repeated
        #[arg(long = "set", value_name = "COLUMN=VALUE", value_parser = value)]
        values: Vec<(String, String)>,
        /// Make a column NULL; may be repeated
        #[arg(long = "null", value_name = "COLUMN")]
        nulls: Vec<String>,
        /// Then load it
        #[arg(long)]
        retry: bool,
    },
    /// Load rows into their tables after all
    #[command(after_help = "Examples:
  relevo dump quarantine retry 12 13 --to postgres://app@db/shop
  relevo dump quarantine retry --all --to postgres://app@db/shop")]
    Retry {
        /// Which rows.
        #[command(flatten)]
        rows: RowsArgs,
    },
    /// Give rows up; they stay on the list of all
    #[command(
        after_help = "Example:\n  relevo dump quarantine discard --all --to postgres://app@db/shop"
    )]
    Discard {
        /// Which rows.
        #[command(flatten)]
        rows: RowsArgs,
    },
}

/// The database whose rows they are.
#[derive(Debug, Args)]
pub struct TargetArgs {
    /// Postgres URL of the database that was loaded into; better given by $DATABASE_URL
    #[arg(long, value_name = "URL", env = "DATABASE_URL", hide_env_values = true)]
    pub to: String,
}

/// Rows by number, or all that wait.
#[derive(Debug, Args)]
pub struct RowsArgs {
    /// Numbers
    #[arg(value_name = "ROW", required_unless_present = "all", conflicts_with = "all")]
    pub rows: Vec<i64>,
    /// All rows that wait
    #[arg(long)]
    pub all: bool,
    /// The database.
    #[command(flatten)]
    pub target: TargetArgs,
}

/// Reads `COLUMN=VALUE`; the value may be empty.
fn value(text: &str) -> Result<(String, String), String> {
    match text.strip_suffix('=') {
        Some(column) if !column.is_empty() && !column.contains('=') => {
            Ok((column.to_owned(), String::new()))
        }
        _ => pair(text),
    }
}

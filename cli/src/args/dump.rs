//! Arguments of the commands that work on a dump file.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// `relevo dump …`.
#[derive(Debug, Subcommand)]
pub enum DumpCommand {
    /// Load a MySQL dump into Postgres: all of it or nothing
    Import(ImportArgs),
    /// Print a MySQL dump as SQL for psql
    #[command(
        after_help = "Examples:\n  relevo dump translate shop.sql.gz | psql shop\n  zcat shop.sql.gz | relevo dump translate - --schema shop > shop.pg.sql"
    )]
    Translate(TranslateArgs),
    /// Say what a dump contains: tables, rows, what would be left out; and whether it is complete
    #[command(
        after_help = "Examples:\n  relevo dump inspect shop.sql.gz\n  relevo dump inspect shop.sql.gz --json"
    )]
    Inspect {
        /// The dump: .sql, .sql.gz, or - for standard input
        file: PathBuf,
    },
}

/// `relevo dump import`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  relevo dump import shop.sql.gz --to postgres://app@db/shop --schema public
  mariadb-dump shop | relevo dump import - --to postgres://app@db/shop --schema shop --jobs 4

The rows are loaded beside the present tables, which readers go on seeing until everything is
loaded, indexed and counted; then the tables are exchanged in one short transaction. When
anything fails the present tables stay as they were. A dump that is empty or in which a table
lost more than 30 % of its rows is refused unless --force is given.")]
pub struct ImportArgs {
    /// The dump: .sql, .sql.gz, or - for standard input
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
    /// Load a dump that is empty or has shrunk, too
    #[arg(long)]
    pub force: bool,
    /// tinyint(1) becomes boolean instead of smallint
    #[arg(long)]
    pub tinyint1_as_boolean: bool,
}

/// `relevo dump translate`.
#[derive(Debug, Args)]
pub struct TranslateArgs {
    /// The dump: .sql, .sql.gz, or - for standard input
    pub file: PathBuf,
    /// Schema to write the tables into
    #[arg(long, default_value = "public", value_name = "NAME")]
    pub schema: String,
    /// tinyint(1) becomes boolean instead of smallint
    #[arg(long)]
    pub tinyint1_as_boolean: bool,
}

//! Arguments of `relevo state …`.

use std::path::PathBuf;

use clap::Subcommand;

/// `relevo state …`.
#[derive(Debug, Subcommand)]
pub enum StateCommand {
    /// Save the control plane's state into a file; nobody has to stop for it
    ///
    /// Queue, runs with their certificates, schedules, keys (hashed), connections (sealed), audit
    /// log: everything but dumps, chunks and the targets' data. The file takes its place when it is
    /// whole, and an older one of that name goes.
    #[command(
        after_help = "Examples:\n  relevo state backup /backups/relevo.state\n  relevo state backup /backups/relevo.state --without-history"
    )]
    Backup {
        /// The file to write
        file: PathBuf,
        /// Leave out the history of ended jobs, by far the largest part; nothing depends on it
        #[arg(long)]
        without_history: bool,
    },
    /// Restore the state from a file; every relevo process has to be stopped
    ///
    /// Happens whole or not at all, and begins a new incarnation: runs that were under way end as
    /// their target says, jobs that were running run once more, past slots of schedules do not
    /// fire. See docs/operations.md.
    #[command(
        after_help = "Examples:\n  relevo state restore /backups/relevo.state\n  relevo state restore /backups/relevo.state --replace --pause"
    )]
    Restore {
        /// The file to read
        file: PathBuf,
        /// Put a control plane that has been used aside; its schema is renamed, not dropped
        #[arg(long)]
        replace: bool,
        /// Pause every queue, so that you can look before jobs run; `relevo queue resume` ends it
        #[arg(long)]
        pause: bool,
    },
}

//! Commands about what lies outside: people, connections, the doctor.

use std::path::PathBuf;

use clap::{Args, Subcommand};

/// `relevo notify …`.
#[derive(Debug, Subcommand)]
pub enum NotifyCommand {
    /// Send a test message now, to every channel or to one
    ///
    /// Exit code 1 when a channel did not take it.
    #[command(after_help = "Examples:\n  relevo notify test\n  relevo notify test --channel ops")]
    Test {
        /// This channel only
        #[arg(long, value_name = "NAME")]
        channel: Option<String>,
    },
    /// List the channels and what they hear of
    #[command(after_help = "Example:\n  relevo notify channels")]
    Channels,
    /// List alerts: those that are open, or all
    #[command(after_help = "Examples:\n  relevo notify alerts\n  relevo notify alerts --all")]
    Alerts {
        /// Resolved ones too, newest first
        #[arg(long)]
        all: bool,
        /// At most so many
        #[arg(long, default_value_t = 50, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1000))]
        limit: u16,
    },
}

/// `relevo connection …`.
#[derive(Debug, Subcommand)]
pub enum ConnectionCommand {
    /// List the connections: those of the configuration file and those kept in the control plane
    #[command(after_help = "Example:\n  relevo connection list")]
    List,
    /// Show one connection, without its secrets
    #[command(after_help = "Example:\n  relevo connection show backup.sicar.target")]
    Show {
        /// Its name
        name: String,
    },
    /// Keep a new connection in the control plane, its secrets sealed
    #[command(after_help = "Examples:
  relevo connection add hooks --kind webhook --url-file /run/secrets/hook
  relevo connection add mail --kind smtp --url-file - --from relevo@example.com <mail-url

A URL on the command line can be read by every user of this machine: give one with a password
in a file, or - for standard input.")]
    Add {
        /// Its name: small letters, digits, - and _
        name: String,
        /// postgres, gateway, smtp or webhook
        #[arg(long, value_name = "KIND")]
        kind: String,
        /// What it consists of
        #[command(flatten)]
        parts: ConnectionParts,
    },
    /// Change a kept connection; what is not given stays
    #[command(after_help = "Example:\n  relevo connection set mail --url-file new-url")]
    Set {
        /// Its name
        name: String,
        /// What is to be different
        #[command(flatten)]
        parts: ConnectionParts,
    },
    /// Forget a kept connection
    #[command(after_help = "Example:\n  relevo connection remove mail")]
    Remove {
        /// Its name
        name: String,
    },
    /// Try a connection out, or all; nothing is changed at the other end
    ///
    /// Exit code 1 when one cannot be used.
    #[command(after_help = "Examples:\n  relevo connection test\n  relevo connection test mail")]
    Test {
        /// Its name
        name: Option<String>,
    },
}

/// The parts of a connection.
#[derive(Debug, Args)]
pub struct ConnectionParts {
    /// Its URL, when it holds no secret
    #[arg(long, value_name = "URL", conflicts_with = "url_file")]
    pub url: Option<String>,
    /// File that holds its URL; - is standard input
    #[arg(long, value_name = "FILE")]
    pub url_file: Option<PathBuf>,
    /// File that holds the key a gateway expects; - is standard input
    #[arg(long, value_name = "FILE")]
    pub api_key_file: Option<PathBuf>,
    /// Address that a mail server's messages are sent from
    #[arg(long, value_name = "ADDRESS")]
    pub from: Option<String>,
}

/// `relevo secret …`.
#[derive(Debug, Subcommand)]
pub enum SecretCommand {
    /// Make the key file that seals the secrets of kept connections, where there is none
    #[command(after_help = "Example:\n  relevo secret init")]
    Init,
    /// Print a new key, for secrets.key (RELEVO_SECRETS_KEY)
    #[command(after_help = "Example:\n  relevo secret generate >/run/secrets/sealing-key")]
    Generate,
    /// Seal every kept secret anew with a new key, and forget the old ones
    #[command(after_help = "Example:
  relevo secret rotate

With the key in a file, the file is replaced: copy it to the other hosts. With the key in the
environment, put a new one before the present one first, with a comma between, on every host.")]
    Rotate,
}

/// `relevo doctor`.
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  relevo doctor
  relevo doctor --strict --json

Exit code 0: no problem was found; 1: there is one, or with --strict a warning.")]
pub struct DoctorArgs {
    /// Warnings fail too
    #[arg(long)]
    pub strict: bool,
    /// What is as it should be, too
    #[arg(long)]
    pub all: bool,
}

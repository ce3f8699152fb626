//! Where a value came from: what `relevo config check` shows beside it.

use std::fmt;
use std::path::PathBuf;

/// The place a value in force was read from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// Nobody said anything.
    Default,
    /// The configuration file.
    File {
        /// The file that was found.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
    },
    /// An environment variable.
    Env(String),
    /// A file that holds nothing but the secret, named by `…_file` or `…_FILE`.
    SecretFile {
        /// The file with the secret.
        path: PathBuf,
        /// Where the path was read.
        named_by: Box<Origin>,
    },
    /// A command line flag.
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
            Self::Env(name) => write!(f, "environment variable {name}"),
            Self::SecretFile { path, named_by } => {
                write!(f, "file {}, named by {named_by}", path.display())
            }
            Self::Flag(flag) => write!(f, "flag {flag}"),
        }
    }
}

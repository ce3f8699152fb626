//! What can be wrong with a configuration, said so that it can be repaired without reading code.

use std::path::PathBuf;

use crate::origin::Origin;

/// Why the settings could not be loaded. No variant ever carries a secret's value.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The named configuration file does not exist or cannot be read.
    #[error("cannot read the configuration file {}", path.display())]
    Unreadable {
        /// The file as it was asked for.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The file is not TOML. Only the parser's words are kept: its usual message quotes the line,
    /// and the line may hold a secret.
    #[error("{}:{line}: this is not valid TOML: {message}", path.display())]
    Syntax {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
        /// The parser's explanation without the source text.
        message: String,
    },
    /// The file reads well, but what it says (or what the environment says) doesn't hold.
    /// Everything found is listed at once.
    #[error("the configuration is not usable:{}", list(.0))]
    Invalid(Vec<Problem>),
}

/// One thing to repair.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Problem {
    /// The full key, such as `backup.sicar.gateway_url`.
    pub key: String,
    /// Where the offending value was read, if it was read anywhere.
    pub origin: Option<Origin>,
    /// What is wrong and what would be right.
    pub message: String,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match &self.origin {
            Some(origin) => write!(f, "{} ({origin}): {}", self.key, self.message),
            None => write!(f, "{}: {}", self.key, self.message),
        }
    }
}

fn list(problems: &[Problem]) -> String {
    problems.iter().map(|problem| format!("\n  {problem}")).collect()
}

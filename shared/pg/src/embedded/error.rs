//! Why the embedded server cannot be had, each with what to do about it.

use std::io;
use std::path::{Path, PathBuf};

/// A failure around the embedded server. No variant holds its password.
#[derive(Debug, thiserror::Error)]
pub enum EmbeddedError {
    /// No server binaries are installed.
    #[error(
        "no PostgreSQL server is installed ({searched}); install it with `{install}`, or give a database by RELEVO_DATABASE_URL"
    )]
    NoBinaries {
        /// Where was looked.
        searched: String,
        /// The command for this system.
        install: String,
    },
    /// The newest installed server is too old.
    #[error(
        "PostgreSQL {major} in {} is too old, {needed} is needed; install a newer one with `{install}`", bin_dir.display()
    )]
    TooOld {
        /// Its major version.
        major: u32,
        /// The oldest that will do.
        needed: u32,
        /// Where it is.
        bin_dir: PathBuf,
        /// The command for this system.
        install: String,
    },
    /// The data were made by a major version that isn't installed.
    #[error(
        "the data in {} belong to PostgreSQL {found}, but installed are: {installed}; install PostgreSQL {found}, or carry the data over with pg_upgrade, or choose another data_dir", data.display()
    )]
    WrongVersion {
        /// The server's data directory.
        data: PathBuf,
        /// The version that made it, as its PG_VERSION says.
        found: String,
        /// The versions found on this system.
        installed: String,
    },
    /// PostgreSQL refuses to run as root, and the user it runs as instead cannot get at the data.
    #[error(
        "the embedded server runs as user {user}, not as root, and that user cannot pass through {}; choose a data_dir elsewhere (RELEVO_DATA_DIR=/var/lib/relevo), or `chmod o+x {0}`, or start as an ordinary user", parent.display()
    )]
    NotTraversable {
        /// The folder in the way.
        parent: PathBuf,
        /// The server's user.
        user: String,
    },
    /// There is no user for the server.
    #[error(
        "PostgreSQL refuses to run as root, and this system has neither a user postgres nor nobody; add one with `useradd --system postgres`"
    )]
    NoUser,
    /// Another process starts or stops the server and doesn't come to an end.
    #[error("another process has been starting or stopping the embedded server in {} for {seconds} s", root.display())]
    Busy {
        /// The server's folder.
        root: PathBuf,
        /// How long was waited.
        seconds: u64,
    },
    /// A file or folder could not be used.
    #[error("cannot {action} {}", path.display())]
    Io {
        /// What was tried.
        action: &'static str,
        /// On what.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The path cannot be written into the server's configuration.
    #[error("the path {} holds a control character; choose another data_dir", path.display())]
    Path {
        /// The path.
        path: PathBuf,
    },
    /// One of the server's programs failed.
    #[error("{tool} failed ({status}): {output}")]
    Tool {
        /// Its name.
        tool: &'static str,
        /// How it ended.
        status: String,
        /// The last lines it wrote, and those of the server's log.
        output: String,
    },
    /// Processes of a killed server are still there.
    #[error("processes of a former server still use {} after {seconds} s: {pids}", data.display())]
    Leftovers {
        /// The server's data directory.
        data: PathBuf,
        /// How long was waited.
        seconds: u64,
        /// Their process ids.
        pids: String,
    },
    /// The connection file is damaged.
    #[error("{} is not a connection file: {reason}; delete it, the next start makes a new one", path.display())]
    ConnectionFile {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        reason: String,
    },
    /// The server runs but cannot be used.
    #[error("the embedded server on port {port} cannot be used")]
    Connect {
        /// Its TCP port on 127.0.0.1.
        port: u16,
        /// What the connection said.
        source: sqlx::Error,
    },
    /// Somebody switched durability off.
    #[error(
        "{setting} is off in the embedded server, so a crash would lose acknowledged work; take the line out of its configuration (ALTER SYSTEM RESET {setting}) and restart it"
    )]
    NotDurable {
        /// The setting.
        setting: &'static str,
    },
}

impl EmbeddedError {
    pub(super) fn io(action: &'static str, path: &Path) -> impl FnOnce(io::Error) -> Self {
        move |source| Self::Io { action, path: path.to_owned(), source }
    }
}

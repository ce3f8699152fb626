//! The folder of the embedded server, its locks and its connection file.
//!
//! ```text
//! data_dir/postgres/            ours
//!   lock                        held while the server is started or stopped
//!   users                       shared by every process that started or adopted it
//!   connection.json             0600: URL, port, password
//!   server/                     the server's user's, 0700
//!     data/                     PGDATA; its own log in data/log
//!     start.log                 what the server says before its logger runs
//!     run/                      its socket
//! ```

use std::fs::{self, File, OpenOptions, TryLockError};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use secrecy::{ExposeSecret as _, SecretString};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::error::EmbeddedError;
use super::identity::write_private;

/// Another process may be initialising, or recovering after a crash.
const LOCK_TIMEOUT: Duration = Duration::from_secs(320);
const LOCK_POLL: Duration = Duration::from_millis(50);

/// Where everything is.
#[derive(Debug, Clone)]
pub(super) struct Layout {
    pub(super) data_dir: PathBuf,
    pub(super) root: PathBuf,
    pub(super) server: PathBuf,
    /// PGDATA.
    pub(super) data: PathBuf,
}

impl Layout {
    /// Only names; nothing is made.
    pub(super) fn of(data_dir: &Path) -> Result<Self, EmbeddedError> {
        let absolute = std::path::absolute(data_dir)
            .map_err(EmbeddedError::io("make sense of the path", data_dir))?;
        // The real path, since the server's processes are recognised by theirs.
        let data_dir = absolute.canonicalize().unwrap_or(absolute);
        if data_dir.to_string_lossy().chars().any(char::is_control) {
            return Err(EmbeddedError::Path { path: data_dir });
        }
        let root = data_dir.join("postgres");
        let server = root.join("server");
        Ok(Self { data: server.join("data"), server, root, data_dir })
    }

    /// Makes `data_dir/postgres`, and the names again: links are resolved only once they exist.
    pub(super) fn make(data_dir: &Path) -> Result<Self, EmbeddedError> {
        let make = |path: &Path, mode| {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(mode)
                .create(path)
                .map_err(EmbeddedError::io("make the folder", path))
        };
        let absolute = std::path::absolute(data_dir)
            .map_err(EmbeddedError::io("make sense of the path", data_dir))?;
        // What lies in it is nobody else's business; its parents, made on the way, are as usual.
        make(absolute.parent().unwrap_or(&absolute), 0o755)?;
        make(&absolute, 0o700)?;
        let layout = Self::of(&absolute)?;
        make(&layout.root, 0o700)?;
        Ok(layout)
    }

    /// The major version that made the data; `None` when there are none.
    pub(super) fn data_version(&self) -> Result<Option<String>, EmbeddedError> {
        let path = self.data.join("PG_VERSION");
        match fs::read_to_string(&path) {
            Ok(version) => Ok(Some(version.trim().to_owned())),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(EmbeddedError::io("read", &path)(error)),
        }
    }

    pub(super) fn connection_path(&self) -> PathBuf {
        self.root.join("connection.json")
    }

    /// Waits for the lock that lets one process at a time start or stop the server.
    pub(super) async fn lock(&self) -> Result<File, EmbeddedError> {
        let file = open_lock(&self.root.join("lock"))?;
        let deadline = Instant::now() + LOCK_TIMEOUT;
        loop {
            match file.try_lock() {
                Ok(()) => return Ok(file),
                Err(TryLockError::WouldBlock) if Instant::now() < deadline => {
                    tokio::time::sleep(LOCK_POLL).await;
                }
                Err(TryLockError::WouldBlock) => {
                    let seconds = LOCK_TIMEOUT.as_secs();
                    return Err(EmbeddedError::Busy { root: self.root.clone(), seconds });
                }
                Err(TryLockError::Error(error)) => {
                    return Err(EmbeddedError::io("lock", &self.root.join("lock"))(error));
                }
            }
        }
    }

    /// Joins the server's users. Only who holds [`Layout::lock`] takes this lock for itself alone,
    /// so there is nothing to wait for.
    pub(super) fn join_users(&self) -> Result<File, EmbeddedError> {
        let path = self.root.join("users");
        let file = open_lock(&path)?;
        file.lock_shared().map_err(EmbeddedError::io("lock", &path))?;
        Ok(file)
    }

    /// Leaves the server's users; says whether nobody else is left.
    pub(super) fn leave_users(&self, users: &File) -> Result<bool, EmbeddedError> {
        let path = self.root.join("users");
        users.unlock().map_err(EmbeddedError::io("unlock", &path))?;
        match users.try_lock() {
            Ok(()) => Ok(true),
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(error)) => Err(EmbeddedError::io("lock", &path)(error)),
        }
    }
}

fn open_lock(path: &Path) -> Result<File, EmbeddedError> {
    OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(path)
        .map_err(EmbeddedError::io("open", path))
}

/// How to reach the server.
#[derive(Clone)]
pub(super) struct Connection {
    pub(super) port: u16,
    pub(super) password: SecretString,
}

#[derive(Serialize, Deserialize)]
struct ConnectionFile {
    /// For people and scripts; made from the other two.
    url: String,
    port: u16,
    password: String,
}

/// The server's superuser.
pub(super) const ROLE: &str = "relevo";
/// The control plane's database.
pub(super) const DATABASE: &str = "relevo";

impl Connection {
    /// With a new password of 192 random bits.
    pub(super) fn fresh() -> Self {
        let bytes: [u8; 24] = rand::random();
        let hex: String = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        Self { port: 0, password: hex.into() }
    }

    pub(super) fn url(&self, database: &str) -> SecretString {
        let password = self.password.expose_secret();
        format!("postgres://{ROLE}:{password}@127.0.0.1:{}/{database}", self.port).into()
    }

    pub(super) fn read(path: &Path) -> Result<Option<Self>, EmbeddedError> {
        let text = match fs::read_to_string(path) {
            Ok(text) => text,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(EmbeddedError::io("read", path)(error)),
        };
        // serde_json's own message would quote nothing of a string's content; the position will do.
        let file: ConnectionFile =
            serde_json::from_str(&text).map_err(|error| EmbeddedError::ConnectionFile {
                path: path.to_owned(),
                reason: format!("line {}, column {}", error.line(), error.column()),
            })?;
        Ok(Some(Self { port: file.port, password: file.password.into() }))
    }

    pub(super) fn write(&self, path: &Path) -> Result<(), EmbeddedError> {
        let file = ConnectionFile {
            url: self.url(DATABASE).expose_secret().to_owned(),
            port: self.port,
            password: self.password.expose_secret().to_owned(),
        };
        // Unwrap safety: two texts and a number always serialise.
        #[expect(clippy::expect_used, reason = "see above")]
        let text = serde_json::to_string_pretty(&file).expect("a flat struct serialises");
        write_private(path, &format!("{text}\n"), None)
    }
}

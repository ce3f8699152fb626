//! The keys that seal secrets: from `secrets.key`, or in a file that only its owner may read.
//!
//! The first key seals, every one opens. Rotation puts a new key before the others, seals everything
//! anew, and then drops the others. Killed in between, it leaves a file with more keys than needed,
//! which opens everything, and perhaps an unfinished file beside it; the next rotation tidies up.

use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{OpenOptionsExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};

use relevo_runs::owned_as;
use relevo_settings::Settings;
use secrecy::{ExposeSecret as _, SecretString};

use crate::seal::Key;

/// The file's name under `data_dir`.
const FILE: &str = "secret.key";

/// How the extension of a file begins that is still being written; the process's number follows.
const UNFINISHED: &str = "new";

/// The largest key file that is read.
const FILE_BYTES_MAX: u64 = 64 << 10;

/// Why the keys cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum KeyError {
    /// There is no key yet.
    #[error(
        "there is no key to open secrets with: {} does not exist; copy it from the host where it was made, or set secrets.key (RELEVO_SECRETS_KEY)",
        path.display()
    )]
    Missing {
        /// Where the file should be.
        path: PathBuf,
    },
    /// Others may read the file.
    #[error("{} may be read by others (mode {mode:o}); run chmod 600 on it", path.display())]
    TooOpen {
        /// The file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
    /// The file holds something else.
    #[error("{}:{line}: this is no key; a key has 64 hexadecimal digits", path.display())]
    Malformed {
        /// The file.
        path: PathBuf,
        /// Counted from 1.
        line: usize,
    },
    /// It cannot be read or written.
    #[error("the key file {} cannot be used", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// What the system said.
        #[source]
        source: io::Error,
    },
    /// The keys are not in a file of Relevo's own.
    #[error(
        "the keys come from secrets.key: put a new one (`relevo secret generate`) before the present one, with a comma between, then run this again"
    )]
    Given,
    /// No randomness.
    #[error("the operating system gave no random bytes")]
    NoRandomness,
    /// The cipher refused, which it does for texts of absurd length only.
    #[error("the secret cannot be sealed")]
    Unsealable,
}

/// The keys at hand; the first seals.
pub struct Keyring {
    keys: Vec<Key>,
    /// `None` when the keys come from `secrets.key`.
    path: Option<PathBuf>,
}

impl std::fmt::Debug for Keyring {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keyring").field("path", &self.path).finish_non_exhaustive()
    }
}

/// Where the key file is, or would be.
#[must_use]
pub fn path(settings: &Settings) -> PathBuf {
    settings.secrets.keys_path.clone().unwrap_or_else(|| settings.data_dir.join(FILE))
}

impl Keyring {
    /// The keys there are.
    ///
    /// # Errors
    /// [`KeyError::Missing`] when there are none; else what is wrong with the file.
    pub fn load(settings: &Settings) -> Result<Self, KeyError> {
        match &settings.secrets.key {
            Some(given) => Ok(Self::given(given)),
            None => Self::read(&path(settings)),
        }
    }

    /// The keys there are; a first one is made where there is none.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub fn load_or_make(settings: &Settings) -> Result<Self, KeyError> {
        match Self::load(settings) {
            Err(KeyError::Missing { path }) => {
                let first = Self { keys: vec![Key::random()?], path: Some(path.clone()) };
                // A link, so that of two processes that make one at once only one wins.
                match first.write(&path, |new| fs::hard_link(new, &path)) {
                    Ok(()) => {
                        tracing::info!("a key that seals secrets was made: {}", path.display());
                        Ok(first)
                    }
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Self::read(&path),
                    Err(source) => Err(KeyError::File { path, source }),
                }
            }
            other => other,
        }
    }

    /// Keys separated by commas, which the settings have checked.
    fn given(keys: &SecretString) -> Self {
        let keys = keys.expose_secret().split(',').filter_map(|key| Key::parse(key.trim()));
        Self { keys: keys.collect(), path: None }
    }

    fn read(path: &Path) -> Result<Self, KeyError> {
        let failed = |source| KeyError::File { path: path.to_owned(), source };
        let metadata = match fs::metadata(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Err(KeyError::Missing { path: path.to_owned() });
            }
            other => other.map_err(failed)?,
        };
        let mode = metadata.permissions().mode() & 0o777;
        if mode & 0o077 != 0 {
            return Err(KeyError::TooOpen { path: path.to_owned(), mode });
        }
        if metadata.len() > FILE_BYTES_MAX {
            return Err(KeyError::Malformed { path: path.to_owned(), line: 1 });
        }
        let text = SecretString::from(fs::read_to_string(path).map_err(failed)?);
        let mut keys = Vec::new();
        for (index, line) in text.expose_secret().lines().enumerate() {
            let line = line.trim();
            if line.is_empty() || line.starts_with('#') {
                continue;
            }
            let malformed = || KeyError::Malformed { path: path.to_owned(), line: index + 1 };
            keys.push(Key::parse(line).ok_or_else(malformed)?);
        }
        if keys.is_empty() {
            return Err(KeyError::Malformed { path: path.to_owned(), line: 1 });
        }
        Ok(Self { keys, path: Some(path.to_owned()) })
    }

    /// Writes the keys to a new file beside `path`, which `name` puts in its place. Under its final
    /// name the file is complete, and nobody else could ever read it.
    fn write(&self, path: &Path, name: impl FnOnce(&Path) -> io::Result<()>) -> io::Result<()> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let unfinished = path.with_extension(format!("{UNFINISHED}{}", std::process::id()));
        let mut file = OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&unfinished)?;
        file.set_permissions(fs::Permissions::from_mode(0o600))?;
        writeln!(
            file,
            "# Relevo: the first key seals secrets, every key opens them. Keep a copy."
        )?;
        for key in &self.keys {
            writeln!(file, "{}", key.expose())?;
        }
        // Rotated by an administrator, the file is still the services' user's to read.
        let folder = path.parent().unwrap_or(Path::new("."));
        owned_as(&unfinished, if path.exists() { path } else { folder })?;
        file.sync_all()?;
        let named = name(&unfinished);
        // After a rename it is gone already.
        let _ = fs::remove_file(&unfinished);
        named
    }

    fn replace(&self, path: &Path) -> Result<(), KeyError> {
        self.write(path, |new| fs::rename(new, path))
            .map_err(|source| KeyError::File { path: path.to_owned(), source })
    }

    /// The key that seals.
    fn first(&self) -> Result<&Key, KeyError> {
        self.keys.first().ok_or(KeyError::Unsealable)
    }

    /// Which key seals: eight hexadecimal digits.
    ///
    /// # Errors
    /// When there is none.
    pub fn first_id(&self) -> Result<&str, KeyError> {
        Ok(self.first()?.id())
    }

    /// Which keys are at hand, the sealing one first.
    #[must_use]
    pub fn ids(&self) -> Vec<&str> {
        self.keys.iter().map(Key::id).collect()
    }

    /// Where the keys are kept; `None` when they come from `secrets.key`.
    #[must_use]
    pub fn path(&self) -> Option<&Path> {
        self.path.as_deref()
    }

    pub(crate) fn seal(&self, name: &str, secret: &[u8]) -> Result<Vec<u8>, KeyError> {
        self.first()?.seal(name, secret)
    }

    pub(crate) fn open(&self, name: &str, sealed: &[u8]) -> Option<Vec<u8>> {
        self.keys.iter().find_map(|key| key.open(name, sealed))
    }

    /// Puts a new key before the others, in the file too. With keys from `secrets.key` nothing
    /// happens: whoever set them has put the new one first, or [`KeyError::Given`] says so.
    pub(crate) fn begin_rotation(&mut self) -> Result<(), KeyError> {
        let Some(path) = self.path.clone() else {
            return if self.keys.len() > 1 { Ok(()) } else { Err(KeyError::Given) };
        };
        // Whoever was killed while it wrote one is gone: only one rotation is under way at a time.
        remove_unfinished(&path).map_err(|source| KeyError::File { path: path.clone(), source })?;
        self.keys.insert(0, Key::random()?);
        self.replace(&path)
    }

    /// Drops all keys but the first, in the file too.
    pub(crate) fn end_rotation(&mut self) -> Result<(), KeyError> {
        let Some(path) = self.path.clone() else { return Ok(()) };
        self.keys.truncate(1);
        self.replace(&path)
    }
}

/// Removes the unfinished files beside a key file: they hold keys too.
fn remove_unfinished(path: &Path) -> io::Result<()> {
    let Some(folder) = path.parent().filter(|folder| folder.is_dir()) else { return Ok(()) };
    for entry in fs::read_dir(folder)? {
        let found = entry?.path();
        let number = found.extension().and_then(|extension| extension.to_str());
        let number = number.and_then(|extension| extension.strip_prefix(UNFINISHED));
        if found.file_stem() == path.file_stem()
            && number.is_some_and(|number| number.parse::<u32>().is_ok())
        {
            fs::remove_file(&found)?;
        }
    }
    Ok(())
}

/// A new key, for `secrets.key`: 64 hexadecimal digits.
///
/// # Errors
/// When the operating system has no randomness to give.
pub fn generate() -> Result<SecretString, KeyError> {
    Ok(SecretString::from(Key::random()?.expose()))
}

//! Where the bytes of uploads lie: one file each, in a folder beside the chunks. Everything here
//! blocks.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};
use url::Url;

use crate::owned_as;

/// Space that must remain on the disk for everything else.
const RESERVE_BYTES: u64 = 64 << 20;

/// Why a piece was not taken.
#[derive(Debug, thiserror::Error)]
pub enum AppendError {
    /// It does not begin where the file ends.
    #[error("{received_bytes} bytes are there, so the next piece begins at that offset")]
    Offset {
        /// What is there.
        received_bytes: u64,
    },
    /// It goes beyond the announced length.
    #[error("with this piece the file would be longer than announced")]
    TooLong,
    /// Another piece is being written.
    #[error("another piece of this upload is being written")]
    Busy,
    /// The disk.
    #[error("the piece could not be stored")]
    Disk(#[from] io::Error),
}

/// The files of one control plane's uploads.
#[derive(Clone, Debug)]
pub struct Store {
    folder: PathBuf,
    /// What every name begins with: two control planes may share a disk.
    prefix: String,
}

impl Store {
    /// The uploads in the chunk store whose folder is `root`, of the control plane with this id.
    #[must_use]
    pub fn new(root: &Path, cluster_id: &str) -> Self {
        Self { folder: root.join("uploads"), prefix: format!("{cluster_id}-upload") }
    }

    /// The uploads in the chunk store at this `file://` URL; `None` where it names no folder.
    #[must_use]
    pub fn at(chunk_store_url: &str, cluster_id: &str) -> Option<Self> {
        let root = Url::parse(chunk_store_url).ok()?.to_file_path().ok()?;
        Some(Self::new(&root, cluster_id))
    }

    /// The file of an upload.
    #[must_use]
    pub fn path(&self, id: i64) -> PathBuf {
        self.folder.join(format!("{}{id}.part", self.prefix))
    }

    /// How much of an upload is there.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn received_bytes(&self, id: i64) -> io::Result<u64> {
        match fs::metadata(self.path(id)) {
            Ok(metadata) => Ok(metadata.len()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(0),
            Err(error) => Err(error),
        }
    }

    /// Makes the folder, for this user alone, and checks that there is room for an upload.
    ///
    /// # Errors
    /// Of kind `StorageFull` when there is too little; or the system's own error.
    pub fn prepare(&self, total_bytes: u64) -> io::Result<()> {
        DirBuilder::new().recursive(true).mode(0o700).create(&self.folder)?;
        owned_as_its_folder(&self.folder)?;
        let room = rustix::fs::statvfs(&self.folder)?;
        let free_bytes = room.f_bavail.saturating_mul(room.f_frsize);
        if free_bytes < total_bytes.saturating_add(RESERVE_BYTES) {
            return Err(io::ErrorKind::StorageFull.into());
        }
        Ok(())
    }

    /// Appends a piece at `offset`, and returns how much is there then: on the disk, not only on its
    /// way there.
    ///
    /// # Errors
    /// [`AppendError`]; a piece that was refused has changed nothing, one that the disk failed may
    /// be there in part.
    pub fn append(
        &self,
        id: i64,
        offset: u64,
        piece: &[u8],
        total_bytes: u64,
    ) -> Result<u64, AppendError> {
        let mut options = OpenOptions::new();
        let mut file = options.create(true).append(true).mode(0o600).open(self.path(id))?;
        match file.try_lock() {
            Ok(()) => {}
            Err(TryLockError::WouldBlock) => return Err(AppendError::Busy),
            Err(TryLockError::Error(error)) => return Err(error.into()),
        }
        let received_bytes = file.metadata()?.len();
        if received_bytes != offset {
            return Err(AppendError::Offset { received_bytes });
        }
        let after = received_bytes + piece.len() as u64;
        if after > total_bytes {
            return Err(AppendError::TooLong);
        }
        if offset == 0 {
            owned_as_its_folder(&self.path(id))?;
        }
        file.write_all(piece)?;
        file.sync_data()?;
        Ok(after)
    }

    /// Removes the file of an upload, if it is there.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn remove(&self, id: i64) -> io::Result<()> {
        match fs::remove_file(self.path(id)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// The uploads that have files.
    ///
    /// # Errors
    /// When the disk fails.
    pub fn list(&self) -> io::Result<Vec<i64>> {
        let listing = match fs::read_dir(&self.folder) {
            Ok(listing) => listing,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(error),
        };
        let mut ids = Vec::new();
        for entry in listing {
            let name = entry?.file_name();
            let id = name.to_str().and_then(|name| {
                name.strip_prefix(&self.prefix)?.strip_suffix(".part")?.parse::<i64>().ok()
            });
            ids.extend(id);
        }
        Ok(ids)
    }
}

/// Whoever stores an upload, the workers read it: it belongs to the owner of the folder that it is
/// in.
fn owned_as_its_folder(path: &Path) -> io::Result<()> {
    path.parent().map_or(Ok(()), |folder| owned_as(path, folder))
}

/// The SHA-256 of a file.
///
/// # Errors
/// When it cannot be read.
pub fn sha256_of(path: &Path) -> io::Result<[u8; 32]> {
    let mut file = File::open(path)?;
    let mut digest = Sha256::new();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok(digest.finalize().into());
        }
        digest.update(&buffer[..read]);
    }
}

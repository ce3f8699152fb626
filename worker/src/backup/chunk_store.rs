//! Where the pieces of a dump wait for their workers: one object per chunk, under
//! `runs/RUN/REQUEST/ORDINAL.chunk`.
//!
//! Killed here, then what? An object appears whole or not at all; what a killed writer left half
//! written lies in the run's folder and goes with it.

use std::{
    io,
    path::{Path as FilePath, PathBuf},
    pin::Pin,
    sync::Arc,
};

use anyhow::{Context as _, bail};
use bytes::Bytes;
use futures::TryStreamExt as _;
use object_store::{
    GetResultPayload, ObjectStore, ObjectStoreExt as _, PutPayload, local::LocalFileSystem,
    path::Path,
};
use reqwest::Url;
use tokio::io::AsyncRead;
use tokio_util::io::StreamReader;

use super::run_names::number;

/// The reading end of one stored chunk.
pub(crate) type ChunkFile = Pin<Box<dyn AsyncRead + Send>>;

/// The store.
pub(crate) struct ChunkStore {
    store: Arc<dyn ObjectStore>,
    /// The folder behind it: whole runs are removed there, half-written objects included.
    root: PathBuf,
}

impl ChunkStore {
    /// Opens the store at a `file://` URL; the folder is made.
    pub(crate) fn open(url: &str) -> anyhow::Result<Self> {
        let parsed: Url =
            url.parse().with_context(|| format!("chunk_store.url {url:?} is not a URL"))?;
        let Ok(root) = parsed.to_file_path() else {
            bail!("chunk_store.url {url:?} does not name a folder: only file:// URLs can be used");
        };
        std::fs::create_dir_all(&root)
            .with_context(|| format!("the chunk store {} cannot be made", root.display()))?;
        let store = LocalFileSystem::new_with_prefix(&root)
            .with_context(|| format!("the chunk store {} cannot be used", root.display()))?;
        Ok(Self { store: Arc::new(store), root })
    }

    fn key(run_id: i64, request_id: i64, ordinal: i32) -> Path {
        Path::from_iter([
            "runs".to_owned(),
            run_id.to_string(),
            request_id.to_string(),
            format!("{ordinal:06}.chunk"),
        ])
    }

    /// Stores a chunk, given in parts, unless it is there already: the same dump is always cut into
    /// the same chunks.
    pub(crate) async fn put(
        &self,
        run_id: i64,
        request_id: i64,
        ordinal: i32,
        parts: [Bytes; 2],
    ) -> object_store::Result<()> {
        let key = Self::key(run_id, request_id, ordinal);
        match self.store.head(&key).await {
            Ok(_) => return Ok(()),
            Err(object_store::Error::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
        self.store.put(&key, PutPayload::from_iter(parts)).await.map(drop)
    }

    /// Opens a chunk; `None` when it is not there.
    pub(crate) async fn get(
        &self,
        run_id: i64,
        request_id: i64,
        ordinal: i32,
    ) -> object_store::Result<Option<ChunkFile>> {
        let found = match self.store.get(&Self::key(run_id, request_id, ordinal)).await {
            Ok(found) => found,
            Err(object_store::Error::NotFound { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        Ok(Some(match found.payload {
            GetResultPayload::File(file, _) => Box::pin(tokio::fs::File::from_std(file)),
            GetResultPayload::Stream(stream) => {
                Box::pin(StreamReader::new(stream.map_err(io::Error::other)))
            }
        }))
    }

    /// Removes all chunks of a run, or of one of its requests.
    pub(crate) async fn delete_all(&self, run_id: i64, request_id: Option<i64>) -> io::Result<()> {
        let mut folder = self.root.join("runs").join(run_id.to_string());
        if let Some(request_id) = request_id {
            folder.push(request_id.to_string());
        }
        match tokio::fs::remove_dir_all(&folder).await {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            // A stopped worker that woke up may add a file while the folder goes: the next sweep
            // takes it.
            Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => Ok(()),
            Err(error) => Err(error),
        }
    }

    /// The runs that have chunks here.
    pub(crate) async fn runs(&self) -> io::Result<Vec<i64>> {
        run_folders(&self.root.join("runs")).await
    }
}

async fn run_folders(folder: &FilePath) -> io::Result<Vec<i64>> {
    let mut listing = match tokio::fs::read_dir(folder).await {
        Ok(listing) => listing,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut runs = Vec::new();
    while let Some(entry) = listing.next_entry().await? {
        runs.extend(entry.file_name().to_str().and_then(number));
    }
    Ok(runs)
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;

    use super::*;

    #[tokio::test]
    async fn chunks_come_back_whole_and_go_with_their_run() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let url = format!("file://{}/chunks", folder.path().display());
        let store = ChunkStore::open(&url).expect("opens");
        let parts = [Bytes::from_static(b"header\n"), Bytes::from_static(b"body")];
        store.put(7, 1, 0, parts.clone()).await.expect("stores");
        store.put(7, 1, 0, parts).await.expect("a second time changes nothing");
        let mut text = String::new();
        let mut chunk = store.get(7, 1, 0).await.expect("reads").expect("is there");
        chunk.read_to_string(&mut text).await.expect("reads");
        assert_eq!(text, "header\nbody");
        assert!(store.get(7, 1, 1).await.expect("reads").is_none());

        std::fs::write(folder.path().join("chunks/runs/7/1/000001.chunk#1"), b"half")
            .expect("writes");
        assert_eq!(store.runs().await.expect("lists"), [7]);
        store.delete_all(7, Some(2)).await.expect("deletes what was never there");
        store.delete_all(7, None).await.expect("deletes");
        assert!(store.runs().await.expect("lists").is_empty());
    }

    #[test]
    fn a_store_that_is_no_folder_is_refused() {
        for url in ["s3://bucket/x", "chunks", "file:///proc/nowhere/chunks"] {
            assert!(ChunkStore::open(url).is_err(), "{url}");
        }
    }
}

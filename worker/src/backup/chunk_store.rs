//! Where the pieces of a dump wait for their workers: one object per chunk, under
//! `TAG/RUN/REQUEST/ORDINAL.chunk`. The tag names the control plane (see `run_names`); folders of
//! another one are left alone.
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

use super::{
    private_dir,
    run_names::{Names, RunKey, number},
};

/// The reading end of one stored chunk.
pub(crate) type ChunkFile = Pin<Box<dyn AsyncRead + Send>>;

/// The store.
pub(crate) struct ChunkStore {
    store: Arc<dyn ObjectStore>,
    /// The folder behind it: whole runs are removed there, half-written objects included.
    root: PathBuf,
    names: Names,
}

impl ChunkStore {
    /// Opens the store at a `file://` URL for the control plane with these names; the folder is
    /// made.
    pub(crate) fn open(url: &str, names: Names) -> anyhow::Result<Self> {
        let parsed: Url =
            url.parse().with_context(|| format!("chunk_store.url {url:?} is not a URL"))?;
        let Ok(root) = parsed.to_file_path() else {
            bail!("chunk_store.url {url:?} does not name a folder: only file:// URLs can be used");
        };
        private_dir::create(&root)
            .with_context(|| format!("the chunk store {} cannot be made", root.display()))?;
        let store = LocalFileSystem::new_with_prefix(&root)
            .with_context(|| format!("the chunk store {} cannot be used", root.display()))?;
        Ok(Self { store: Arc::new(store), root, names })
    }

    /// The folder behind it.
    pub(crate) fn root(&self) -> &FilePath {
        &self.root
    }

    /// How many bytes the chunks of one request take. Blocks.
    pub(crate) fn stored_bytes(&self, run: RunKey, request_id: i64) -> io::Result<u64> {
        let folder = self.folder(run).join(request_id.to_string());
        let listing = match std::fs::read_dir(folder) {
            Ok(listing) => listing,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(0),
            Err(error) => return Err(error),
        };
        let mut bytes = 0;
        for entry in listing {
            bytes += entry?.metadata().map_or(0, |metadata| metadata.len());
        }
        Ok(bytes)
    }

    /// The folder of a run.
    fn folder(&self, run: RunKey) -> PathBuf {
        self.root.join(self.names.tag(run.incarnation)).join(run.id.to_string())
    }

    fn key(&self, run: RunKey, request_id: i64, ordinal: i32) -> Path {
        Path::from_iter([
            self.names.tag(run.incarnation),
            run.id.to_string(),
            request_id.to_string(),
            format!("{ordinal:06}.chunk"),
        ])
    }

    /// Stores a chunk, given in parts, unless it is there already: the same dump is always cut into
    /// the same chunks. One of another length was torn by a loss of power.
    pub(crate) async fn put(
        &self,
        run: RunKey,
        request_id: i64,
        ordinal: i32,
        parts: [Bytes; 2],
    ) -> object_store::Result<()> {
        let key = self.key(run, request_id, ordinal);
        let length_bytes: u64 = parts.iter().map(|part| part.len() as u64).sum();
        match self.store.head(&key).await {
            Ok(there) if there.size == length_bytes => return Ok(()),
            Ok(_) | Err(object_store::Error::NotFound { .. }) => {}
            Err(error) => return Err(error),
        }
        self.store.put(&key, PutPayload::from_iter(parts)).await.map(drop)
    }

    /// Opens a chunk; `None` when it is not there.
    pub(crate) async fn get(
        &self,
        run: RunKey,
        request_id: i64,
        ordinal: i32,
    ) -> object_store::Result<Option<ChunkFile>> {
        let found = match self.store.get(&self.key(run, request_id, ordinal)).await {
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

    /// Removes all chunks of a run.
    pub(crate) async fn delete_all(&self, run: RunKey) -> io::Result<()> {
        let folder = self.folder(run);
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
    pub(crate) async fn runs(&self) -> io::Result<Vec<RunKey>> {
        let mut runs = Vec::new();
        for tag in folder_names(&self.root).await? {
            let Some(incarnation) = self.names.incarnation(&tag) else { continue };
            for name in folder_names(&self.root.join(tag)).await? {
                runs.extend(number(&name).map(|id| RunKey { incarnation, id }));
            }
        }
        Ok(runs)
    }
}

async fn folder_names(folder: &FilePath) -> io::Result<Vec<String>> {
    let mut listing = match tokio::fs::read_dir(folder).await {
        Ok(listing) => listing,
        Err(error)
            if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
        {
            return Ok(Vec::new());
        }
        Err(error) => return Err(error),
    };
    let mut names = Vec::new();
    while let Some(entry) = listing.next_entry().await? {
        names.extend(entry.file_name().into_string());
    }
    Ok(names)
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncReadExt as _;

    use super::*;

    const RUN: RunKey = RunKey { incarnation: 1, id: 7 };

    #[tokio::test]
    async fn chunks_come_back_whole_and_go_with_their_run() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let url = format!("file://{}/chunks", folder.path().display());
        let store = ChunkStore::open(&url, Names::new("c0ffee00")).expect("opens");
        let parts = [Bytes::from_static(b"header\n"), Bytes::from_static(b"body")];
        store.put(RUN, 1, 0, parts.clone()).await.expect("stores");
        let torn = folder.path().join("chunks/c0ffee00/7/1/000000.chunk");
        std::fs::write(&torn, b"head").expect("writes");
        store.put(RUN, 1, 0, parts.clone()).await.expect("stores what was torn");
        store.put(RUN, 1, 0, parts).await.expect("a second time changes nothing");
        let mut text = String::new();
        let mut chunk = store.get(RUN, 1, 0).await.expect("reads").expect("is there");
        chunk.read_to_string(&mut text).await.expect("reads");
        assert_eq!(text, "header\nbody");
        assert!(store.get(RUN, 1, 1).await.expect("reads").is_none());
        assert_eq!(store.stored_bytes(RUN, 1).expect("counts"), 11);
        assert_eq!(store.stored_bytes(RUN, 2).expect("counts"), 0);

        std::fs::write(folder.path().join("chunks/c0ffee00/7/1/000001.chunk#1"), b"half")
            .expect("writes");
        assert_eq!(store.runs().await.expect("lists"), [RUN]);
        let other = ChunkStore::open(&url, Names::new("deadbeef")).expect("opens");
        assert!(other.runs().await.expect("lists").is_empty(), "another control plane's");
        let restored = RunKey { incarnation: 2, ..RUN };
        assert!(store.get(restored, 1, 0).await.expect("reads").is_none());
        store.delete_all(restored).await.expect("deletes what was never there");
        store.delete_all(RUN).await.expect("deletes");
        assert!(store.runs().await.expect("lists").is_empty());
    }

    #[test]
    fn a_store_that_is_no_folder_is_refused() {
        for url in ["s3://bucket/x", "chunks", "file:///proc/nowhere/chunks"] {
            assert!(ChunkStore::open(url, Names::new("c0ffee00")).is_err(), "{url}");
        }
    }
}

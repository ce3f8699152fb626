//! `[chunk_store]`: where the pieces of a dump wait for their workers.

use std::path::Path;

use crate::check;
use crate::reader::Reader;
use crate::schema::{Key, Preset, Section};

/// Where the pieces of a dump wait for their workers.
#[derive(Debug, Clone)]
pub struct ChunkStore {
    /// A `file://` URL of a folder that every worker sees.
    pub url: String,
    /// The size at which a chunk is closed, at the next row boundary.
    pub chunk_size_bytes: u64,
}

pub(crate) const SECTION: Section = Section {
    name: "chunk_store",
    help: "Where the pieces of a dump wait for their workers.",
    keys: &[
        Key::text(
            "url",
            Preset::Computed("file:// and the folder chunks under data_dir"),
            "file:// URL of a folder that every worker sees.",
        ),
        Key::integer(
            "chunk_size_bytes",
            (1 << 16, 1 << 28),
            "33554432",
            "Bytes at which a chunk is closed, at the next row boundary.",
        ),
    ],
};

impl ChunkStore {
    pub(crate) fn read(reader: &mut Reader<'_>, data_dir: &Path) -> Option<Self> {
        reader.compute("url", || check::file_url(&data_dir.join("chunks")));
        let url = reader.parsed("url", check::store_url);
        let chunk_size_bytes = reader.integer("chunk_size_bytes");
        Some(Self { url: url?, chunk_size_bytes: chunk_size_bytes? })
    }
}

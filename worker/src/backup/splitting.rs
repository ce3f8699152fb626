//! Unpacking and cutting the dump on a thread of its own, while it arrives.
//!
//! One chunk is in memory at a time: the thread fills the next one when the last one is stored.
//! What the line brings meanwhile waits on the disk.
//!
//! Killed here, then what? The same bytes are cut into the same chunks again; those that are stored
//! or loaded already are passed over.

use std::{
    fs::File,
    io::{self, Read as _, Seek as _},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use flate2::read::MultiGzDecoder;
use relevo_import::{
    Chunk, ImportError, ImportProgress, Manifest, ProgressEvent, SplitItem, SplitOptions,
    split_to_chunks,
};
use relevo_mysqldump::TableDef;
use tokio::{
    sync::{mpsc, oneshot},
    task::{JoinError, JoinHandle},
};

use super::tail::Tail;

/// What the thread hands over, in the order of the dump.
pub(crate) enum Piece {
    /// A table, before its rows.
    Table(Arc<TableDef>),
    /// A chunk; the thread goes on when the sender is used or dropped.
    Chunk(Box<Chunk>, oneshot::Sender<()>),
}

/// How far the thread is.
#[derive(Default)]
pub(crate) struct Figures {
    /// Compressed bytes read.
    pub(crate) input_bytes: AtomicU64,
    /// Bytes of SQL read.
    pub(crate) raw_bytes: AtomicU64,
    /// Rows cut into chunks.
    pub(crate) rows: AtomicU64,
}

struct Listener(Arc<Figures>);

impl ImportProgress for Listener {
    fn report(&self, event: ProgressEvent<'_>) {
        if let ProgressEvent::Read { input_bytes, raw_bytes } = event {
            self.0.input_bytes.store(input_bytes, Ordering::Relaxed);
            self.0.raw_bytes.store(raw_bytes, Ordering::Relaxed);
        }
    }
}

/// Starts the thread. It ends with the dump, with an error in it, when the receiver is dropped or
/// when the file is given up.
pub(crate) fn start(
    dump: Tail,
    options: SplitOptions,
    figures: Arc<Figures>,
) -> (mpsc::Receiver<Piece>, JoinHandle<Result<Manifest, ImportError>>) {
    let (sender, receiver) = mpsc::channel(1);
    let thread = tokio::task::spawn_blocking(move || {
        let listener = Listener(Arc::clone(&figures));
        let mut hand_over = |item: SplitItem| {
            let send = |piece| sender.blocking_send(piece).map_err(|_| NotWanted);
            match item {
                SplitItem::Table(table) => send(Piece::Table(table))?,
                SplitItem::Chunk(chunk) => {
                    figures.rows.fetch_add(chunk.header.rows, Ordering::Relaxed);
                    let (stored, wait) = oneshot::channel();
                    send(Piece::Chunk(Box::new(chunk), stored))?;
                    // Without an answer the receiver is gone, as the next piece finds out.
                    let _ = wait.blocking_recv();
                }
            }
            Ok(())
        };
        split_to_chunks(dump, &options, &listener, &mut hand_over)
    });
    (receiver, thread)
}

/// Nobody takes the pieces any more.
#[derive(Debug, thiserror::Error)]
#[error("the chunks are not wanted any more")]
struct NotWanted;

/// What every gzip file begins with.
const GZIP_MAGIC: [u8; 2] = [0x1f, 0x8b];

/// Whether a file is a whole, undamaged gzip file: its own checksums hold to the end. A file that is
/// not packed has none that could be wrong, unless it is `named_gzip`.
pub(crate) async fn is_sound_gzip(
    path: &Path,
    named_gzip: bool,
) -> Result<io::Result<()>, JoinError> {
    let path = path.to_owned();
    tokio::task::spawn_blocking(move || {
        let mut file = File::open(path)?;
        let mut magic = [0; 2];
        let packed = file.read(&mut magic)? == magic.len() && magic == GZIP_MAGIC;
        if !packed && !named_gzip {
            return Ok(());
        }
        file.rewind()?;
        let mut unpacked = MultiGzDecoder::new(file);
        io::copy(&mut unpacked, &mut io::sink()).map(drop)
    })
    .await
}

//! A file that one task is still writing, read from its start by a thread.
//!
//! The download writes the dump to its `.part` file and moves a watermark; the thread that gunzips
//! and splits reads behind it. The disk is the buffer between the two, so neither can make the
//! other hold more than one read's worth of memory, and a resumed download needs nothing special:
//! the reader starts at the beginning of the file whatever part of it was there before.
//!
//! Killed here, then what? The watermark lives in memory only. The next worker takes the length of
//! the file as its watermark; should a power failure have left garbage in its last blocks, the
//! gzip checksum finds it at the end.

use std::{
    fs::File,
    io::{self, Read},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

/// How often a waiting reader looks up, as a guard against a writer that vanished without a word.
const LOOK_UP: Duration = Duration::from_secs(1);

/// How the file ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum End {
    /// More bytes may come.
    Growing,
    /// The watermark is the end of the file.
    Complete,
    /// Nobody wants the bytes any more.
    Abandoned,
}

#[derive(Debug)]
struct State {
    written_bytes: u64,
    end: End,
}

#[derive(Debug)]
struct Shared {
    state: Mutex<State>,
    changed: Condvar,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, State> {
        // Two plain fields: a holder that panicked cannot have left them half changed.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// How far the file is written. The writer's side; abandoned when dropped before
/// [`Watermark::complete`], so that the reader never waits for a writer that is gone.
#[derive(Debug)]
pub(crate) struct Watermark(Arc<Shared>);

impl Watermark {
    /// A file of which `written_bytes` are there already.
    pub(crate) fn new(written_bytes: u64) -> Self {
        Self(Arc::new(Shared {
            state: Mutex::new(State { written_bytes, end: End::Growing }),
            changed: Condvar::new(),
        }))
    }

    /// Everything before `written_bytes` may be read from now on.
    pub(crate) fn advance(&self, written_bytes: u64) {
        let mut state = self.0.lock();
        state.written_bytes = state.written_bytes.max(written_bytes);
        drop(state);
        self.0.changed.notify_all();
    }

    /// Nothing follows.
    pub(crate) fn complete(&self) {
        let mut state = self.0.lock();
        if state.end == End::Growing {
            state.end = End::Complete;
        }
        drop(state);
        self.0.changed.notify_all();
    }

    /// The reader of `file`, which must be open at its start.
    pub(crate) fn reader(&self, file: File) -> Tail {
        Tail { file, read_bytes: 0, shared: Arc::clone(&self.0) }
    }
}

impl Drop for Watermark {
    fn drop(&mut self) {
        let mut state = self.0.lock();
        if state.end == End::Growing {
            state.end = End::Abandoned;
        }
        drop(state);
        self.0.changed.notify_all();
    }
}

/// Reads a growing file up to its watermark and waits there for more. Blocks: for a thread of its
/// own, never for a runtime's.
#[derive(Debug)]
pub(crate) struct Tail {
    file: File,
    read_bytes: u64,
    shared: Arc<Shared>,
}

impl Tail {
    /// How many bytes may be read without waiting; 0 means the end.
    fn available_bytes(&self) -> io::Result<u64> {
        let mut state = self.shared.lock();
        loop {
            if state.end == End::Abandoned {
                // Not `Interrupted`, which std's and flate2's readers would retry for ever.
                return Err(io::Error::other(Abandoned));
            }
            if state.written_bytes > self.read_bytes || state.end == End::Complete {
                return Ok(state.written_bytes.saturating_sub(self.read_bytes));
            }
            state = self
                .shared
                .changed
                .wait_timeout(state, LOOK_UP)
                .unwrap_or_else(PoisonError::into_inner)
                .0;
        }
    }
}

/// The download was given up while its file was being read.
#[derive(Debug, thiserror::Error)]
#[error("the download was given up")]
pub(crate) struct Abandoned;

impl Read for Tail {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        let available = self.available_bytes()?;
        let wanted = usize::try_from(available).unwrap_or(usize::MAX).min(buffer.len());
        if wanted == 0 {
            return Ok(0);
        }
        let n = self.file.read(&mut buffer[..wanted])?;
        if n == 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the downloaded file became shorter while it was read",
            ));
        }
        self.read_bytes += n as u64;
        Ok(n)
    }
}

#[cfg(test)]
mod tests {
    use std::{io::Write, thread};

    use super::*;

    #[test]
    fn reads_behind_the_watermark_and_ends_when_complete() {
        let directory = tempfile::tempdir().expect("a temporary folder");
        let path = directory.path().join("dump.part");
        let mut writer = File::create(&path).expect("creates");
        writer.write_all(b"first half, ").expect("writes");
        let watermark = Watermark::new(12);
        let mut tail = watermark.reader(File::open(&path).expect("opens"));

        let reader = thread::spawn(move || {
            let mut text = String::new();
            tail.read_to_string(&mut text).map(|_| text)
        });
        writer.write_all(b"second half").expect("writes");
        watermark.advance(23);
        watermark.complete();
        assert_eq!(reader.join().expect("no panic").expect("reads"), "first half, second half");
    }

    #[test]
    fn a_dropped_writer_ends_the_wait_with_an_error() {
        let directory = tempfile::tempdir().expect("a temporary folder");
        let path = directory.path().join("dump.part");
        File::create(&path).expect("creates");
        let watermark = Watermark::new(0);
        let mut tail = watermark.reader(File::open(&path).expect("opens"));
        let reader = thread::spawn(move || tail.read(&mut [0; 8]));
        drop(watermark);
        let error = reader.join().expect("no panic").expect_err("abandoned");
        assert!(error.get_ref().is_some_and(|inner| inner.is::<Abandoned>()), "{error:?}");
    }

    #[test]
    fn a_file_cut_behind_our_back_is_an_error_and_no_endless_loop() {
        let directory = tempfile::tempdir().expect("a temporary folder");
        let path = directory.path().join("dump.part");
        std::fs::write(&path, b"abc").expect("writes");
        let watermark = Watermark::new(10);
        let mut tail = watermark.reader(File::open(&path).expect("opens"));
        let mut text = Vec::new();
        let error = tail.read_to_end(&mut text).expect_err("shorter than told");
        assert_eq!((text.as_slice(), error.kind()), (&b"abc"[..], io::ErrorKind::UnexpectedEof));
    }
}

//! Reads a dump on a thread of its own: recognises gzip, unpacks it, tells a cut-off file from a
//! damaged one, and hands buffers on through a short channel.

use std::io::{self, BufReader, Read};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use flate2::bufread::MultiGzDecoder;

use crate::error::ImportError;

/// Bytes handed on at a time.
pub(crate) const BUFFER_BYTES: usize = 1024 * 1024;
/// Buffers that may wait between the two threads.
const BUFFERS_WAITING: usize = 3;
/// Bytes asked from the input at a time.
const INPUT_BUFFER_BYTES: usize = 256 * 1024;

/// How far the input is read, shared between the threads.
#[derive(Debug, Default)]
pub(crate) struct Counters {
    /// Bytes of the input as it came.
    pub(crate) input_bytes: AtomicU64,
    /// Bytes after unpacking.
    pub(crate) raw_bytes: AtomicU64,
}

/// The unpacked dump, buffer by buffer.
pub(crate) struct Buffers<'a> {
    filled: Receiver<Result<Vec<u8>, ImportError>>,
    /// Emptied buffers go back, so that no memory is asked for in the steady state.
    emptied: SyncSender<Vec<u8>>,
    pub(crate) counters: &'a Counters,
}

impl Buffers<'_> {
    /// The next buffer; `None` at the end.
    pub(crate) fn next(&mut self) -> Result<Option<Vec<u8>>, ImportError> {
        match self.filled.recv() {
            Ok(Ok(buffer)) if buffer.is_empty() => Ok(None),
            Ok(Ok(buffer)) => Ok(Some(buffer)),
            Ok(Err(error)) => Err(error),
            // The thread ends only after an error or an empty buffer, which we would have seen.
            Err(_) => Err(ImportError::Crashed { what: "unpacking the dump" }),
        }
    }

    /// Gives a buffer back.
    pub(crate) fn recycle(&mut self, mut buffer: Vec<u8>) {
        buffer.clear();
        // A full channel just lets the buffer go.
        let _ = self.emptied.try_send(buffer);
    }
}

/// Runs `consume` on this thread while another one reads and unpacks `input`. Returns whether the
/// input was gzip, and what `consume` returned.
pub(crate) fn read<T>(
    input: impl Read + Send,
    counters: &Counters,
    consume: impl FnOnce(Buffers<'_>) -> Result<T, ImportError>,
) -> Result<(bool, T), ImportError> {
    let (filled_sender, filled) = sync_channel(BUFFERS_WAITING);
    let (emptied, emptied_receiver) = sync_channel(BUFFERS_WAITING + 1);
    thread::scope(|scope| {
        let reader = thread::Builder::new()
            .name("relevo-gunzip".to_owned())
            .spawn_scoped(scope, move || unpack(input, counters, &filled_sender, &emptied_receiver))
            .map_err(ImportError::Read)?;
        let outcome = consume(Buffers { filled, emptied, counters });
        // The consumer's channels are closed now, so the reader ends with its next buffer.
        let gzip = reader.join().map_err(|_| ImportError::Crashed { what: "unpacking the dump" });
        outcome.and_then(|value| Ok((gzip?, value)))
    })
}

/// The reading thread: sends buffers, an empty one at the end, or the error that ended it. Returns
/// whether the input was gzip.
fn unpack(
    input: impl Read,
    counters: &Counters,
    filled: &SyncSender<Result<Vec<u8>, ImportError>>,
    emptied: &Receiver<Vec<u8>>,
) -> bool {
    let mut source =
        BufReader::with_capacity(INPUT_BUFFER_BYTES, Counted { input, counters, failed: false });
    let (gzip, outcome) = match recognise(&mut source) {
        Ok(Format::Gzip) => {
            let mut decoder = MultiGzDecoder::new(source);
            let outcome = send_all(&mut decoder, counters, filled, emptied)
                .map_err(|error| explain(error, decoder.get_ref().get_ref().failed, counters));
            (true, outcome)
        }
        Ok(Format::Plain) => {
            let outcome = send_all(&mut source, counters, filled, emptied);
            (false, outcome.map_err(ImportError::Read))
        }
        Err(error) => (false, Err(error)),
    };
    if let Err(error) = outcome {
        // Nobody listens any more when the consumer has failed itself.
        let _ = filled.send(Err(error));
    }
    gzip
}

fn send_all(
    source: &mut impl Read,
    counters: &Counters,
    filled: &SyncSender<Result<Vec<u8>, ImportError>>,
    emptied: &Receiver<Vec<u8>>,
) -> io::Result<()> {
    loop {
        let mut buffer = emptied.try_recv().unwrap_or_default();
        buffer.resize(BUFFER_BYTES, 0);
        let mut length = 0;
        while length < BUFFER_BYTES {
            match source.read(&mut buffer[length..]) {
                Ok(0) => break,
                Ok(read) => length += read,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        buffer.truncate(length);
        counters.raw_bytes.fetch_add(length as u64, Ordering::Relaxed);
        if filled.send(Ok(buffer)).is_err() || length == 0 {
            return Ok(());
        }
    }
}

/// What the input is, by its first bytes.
enum Format {
    Gzip,
    Plain,
}

fn recognise(source: &mut impl io::BufRead) -> Result<Format, ImportError> {
    // A first short read of a pipe may hold less than is needed, but holds at least one byte.
    let start = source.fill_buf().map_err(ImportError::Read)?;
    let other =
        |name: &'static str, remedy: &'static str| Err(ImportError::Format { name, remedy });
    match start {
        [0x1f, 0x8b, ..] | [0x1f] => Ok(Format::Gzip),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            other("compressed with zstd", "zstd -dc FILE | relevo dump import -")
        }
        [0xfd, b'7', b'z', b'X', b'Z', ..] => {
            other("compressed with xz", "xz -dc FILE | relevo dump import -")
        }
        [b'B', b'Z', b'h', ..] => {
            other("compressed with bzip2", "bzip2 -dc FILE | relevo dump import -")
        }
        [b'P', b'K', 3, 4, ..] => other("a zip archive", "unzip -p FILE | relevo dump import -"),
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => other(
            "text in UTF-16, as PowerShell's > writes it",
            "make the dump with mysqldump --result-file=FILE",
        ),
        [b'P', b'G', b'D', b'M', b'P', ..] => other("an archive of pg_dump", "pg_restore FILE"),
        _ => Ok(Format::Plain),
    }
}

/// Tells a file that is cut off from one that is damaged, and both from an input that failed.
fn explain(error: io::Error, input_failed: bool, counters: &Counters) -> ImportError {
    let input_bytes = counters.input_bytes.load(Ordering::Relaxed);
    match error.kind() {
        _ if input_failed => ImportError::Read(error),
        io::ErrorKind::UnexpectedEof => ImportError::Truncated { input_bytes },
        _ => ImportError::Damaged { input_bytes, reason: error.to_string() },
    }
}

/// Counts what is read, and remembers whether reading itself failed.
struct Counted<'a, R> {
    input: R,
    counters: &'a Counters,
    failed: bool,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.input.read(buffer) {
            Ok(read) => {
                self.counters.input_bytes.fetch_add(read as u64, Ordering::Relaxed);
                Ok(read)
            }
            Err(error) => {
                self.failed = error.kind() != io::ErrorKind::Interrupted;
                Err(error)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn gzip(text: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(text).unwrap();
        encoder.finish().unwrap()
    }

    fn read_all(input: impl Read + Send) -> Result<(bool, Vec<u8>), ImportError> {
        read(input, &Counters::default(), |mut buffers| {
            let mut all = Vec::new();
            while let Some(buffer) = buffers.next()? {
                all.extend_from_slice(&buffer);
                buffers.recycle(buffer);
            }
            Ok(all)
        })
    }

    #[test]
    fn plain_gzip_and_joined_gzip_come_out_alike() {
        let text: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
        assert_eq!(read_all(&text[..]).unwrap(), (false, text.clone()));
        assert_eq!(read_all(&gzip(&text)[..]).unwrap(), (true, text.clone()));
        let joined = [gzip(&text[..1000]), gzip(&text[1000..])].concat();
        assert_eq!(read_all(&joined[..]).unwrap(), (true, text));
    }

    #[test]
    fn cut_off_and_damaged_files_are_told_apart() {
        let text: Vec<u8> = (0..200_000_u32).map(|n| (n.wrapping_mul(n) % 253) as u8).collect();
        let mut packed = gzip(&text);
        let cut = packed.len() - 5;
        assert!(matches!(read_all(&packed[..cut]), Err(ImportError::Truncated { .. })));
        let crc = packed.len() - 8;
        packed[crc] ^= 1;
        assert!(matches!(read_all(&packed[..]), Err(ImportError::Damaged { .. })));
    }

    #[test]
    fn a_failing_input_is_neither() {
        struct Failing;
        impl Read for Failing {
            fn read(&mut self, _: &mut [u8]) -> io::Result<usize> {
                Err(io::Error::other("the line broke"))
            }
        }
        let half = gzip(b"abc");
        let input = (&half[..6]).chain(Failing);
        assert!(matches!(read_all(input), Err(ImportError::Read(_))));
    }

    #[test]
    fn other_packings_say_how_to_unpack() {
        let error = read_all(&[0x28, 0xb5, 0x2f, 0xfd, 0, 0][..]).unwrap_err();
        assert!(error.to_string().contains("zstd -dc"), "{error}");
    }

    #[test]
    fn a_consumer_that_stops_does_not_leave_the_reader_hanging() {
        let text = vec![b'x'; 20 * BUFFER_BYTES];
        let outcome = read(&text[..], &Counters::default(), |mut buffers| {
            buffers.next()?;
            Err::<(), _>(ImportError::Cancelled)
        });
        assert!(matches!(outcome, Err(ImportError::Cancelled)));
    }
}

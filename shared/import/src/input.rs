//! Reads a dump on a thread of its own: recognises how it is packed, unpacks it, tells a cut-off file
//! from a damaged one, and hands buffers on through a short channel.

use std::io::{self, BufReader, Read};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;

use crate::error::ImportError;
use crate::packing::{Packing, recognise, unpacked};

/// Bytes handed on at a time.
pub(crate) const BUFFER_BYTES: usize = 1024 * 1024;
/// Buffers that may wait between the two threads.
const BUFFERS_WAITING: usize = 3;
/// Bytes asked from the input at a time.
const INPUT_BUFFER_BYTES: usize = 256 * 1024;

/// Up to here a packed file may grow as it likes.
const FREE_RAW_BYTES: u64 = 256 * 1024 * 1024;
/// How many times its size a packed dump may grow to, unless something else is asked for: dumps of
/// text grow to 3 to 20 times, of empty rows to 100.
pub(crate) const UNPACK_LIMIT: u32 = 200;

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

    /// Gives a buffer back, as long as it is: it is written over.
    pub(crate) fn recycle(&mut self, buffer: Vec<u8>) {
        // A full channel just lets the buffer go.
        let _ = self.emptied.try_send(buffer);
    }
}

/// Runs `consume` on this thread while another one reads and unpacks `input`. Returns how the input
/// was packed, and what `consume` returned.
pub(crate) fn read<T>(
    input: impl Read + Send,
    unpack_limit: u32,
    counters: &Counters,
    consume: impl FnOnce(Buffers<'_>) -> Result<T, ImportError>,
) -> Result<(Packing, T), ImportError> {
    let (filled_sender, filled) = sync_channel(BUFFERS_WAITING);
    let (emptied, emptied_receiver) = sync_channel(BUFFERS_WAITING + 1);
    thread::scope(|scope| {
        let reader = thread::Builder::new()
            .name("relevo-gunzip".to_owned())
            .spawn_scoped(scope, move || {
                unpack(input, unpack_limit, counters, &filled_sender, &emptied_receiver)
            })
            .map_err(ImportError::Read)?;
        let outcome = consume(Buffers { filled, emptied, counters });
        // The consumer's channels are closed now, so the reader ends with its next buffer.
        let packing =
            reader.join().map_err(|_| ImportError::Crashed { what: "unpacking the dump" });
        outcome.and_then(|value| Ok((packing?, value)))
    })
}

/// The reading thread: sends buffers, an empty one at the end, or the error that ended it. Returns
/// how the input was packed.
fn unpack(
    input: impl Read,
    unpack_limit: u32,
    counters: &Counters,
    filled: &SyncSender<Result<Vec<u8>, ImportError>>,
    emptied: &Receiver<Vec<u8>>,
) -> Packing {
    let failed = AtomicBool::new(false);
    let counted = Counted { input, counters, failed: &failed };
    let mut source = BufReader::with_capacity(INPUT_BUFFER_BYTES, counted);
    let (packing, outcome) = match recognise(&mut source) {
        Ok(packing) => {
            let limit = (packing != Packing::Plain).then_some(unpack_limit);
            let sent = unpacked(packing, source)
                .and_then(|mut text| send_all(&mut text, limit, counters, filled, emptied));
            let outcome = match sent {
                Ok(true) => Ok(()),
                Ok(false) => Err(ImportError::Swollen {
                    packing,
                    input_bytes: counters.input_bytes.load(Ordering::Relaxed),
                    raw_bytes: counters.raw_bytes.load(Ordering::Relaxed),
                    limit: unpack_limit,
                }),
                Err(error) if packing == Packing::Plain => Err(ImportError::Read(error)),
                Err(error) => {
                    Err(explain(error, failed.load(Ordering::Relaxed), packing, counters))
                }
            };
            (packing, outcome)
        }
        Err(error) => (Packing::Plain, Err(error)),
    };
    if let Err(error) = outcome {
        // Nobody listens any more when the consumer has failed itself.
        let _ = filled.send(Err(error));
    }
    packing
}

/// Sends all of it, unless it grows beyond the limit: then `false`.
fn send_all(
    source: &mut impl Read,
    limit: Option<u32>,
    counters: &Counters,
    filled: &SyncSender<Result<Vec<u8>, ImportError>>,
    emptied: &Receiver<Vec<u8>>,
) -> io::Result<bool> {
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
        let raw_bytes =
            counters.raw_bytes.fetch_add(length as u64, Ordering::Relaxed) + length as u64;
        let input_bytes = counters.input_bytes.load(Ordering::Relaxed);
        if raw_bytes > FREE_RAW_BYTES
            && limit.is_some_and(|limit| raw_bytes / u64::from(limit.max(1)) > input_bytes)
        {
            return Ok(false);
        }
        if filled.send(Ok(buffer)).is_err() || length == 0 {
            return Ok(true);
        }
    }
}

/// Tells a file that is cut off from one that is damaged, and both from an input that failed.
fn explain(
    error: io::Error,
    input_failed: bool,
    packing: Packing,
    counters: &Counters,
) -> ImportError {
    let input_bytes = counters.input_bytes.load(Ordering::Relaxed);
    match error.kind() {
        _ if input_failed => ImportError::Read(error),
        io::ErrorKind::UnexpectedEof => ImportError::Truncated { packing, input_bytes },
        _ => ImportError::Damaged { packing, input_bytes, reason: error.to_string() },
    }
}

/// Counts what is read, and remembers whether reading itself failed.
struct Counted<'a, R> {
    input: R,
    counters: &'a Counters,
    failed: &'a AtomicBool,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self.input.read(buffer) {
            Ok(read) => {
                self.counters.input_bytes.fetch_add(read as u64, Ordering::Relaxed);
                Ok(read)
            }
            Err(error) => {
                let failed = error.kind() != io::ErrorKind::Interrupted;
                self.failed.store(failed, Ordering::Relaxed);
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

    fn read_all(input: impl Read + Send) -> Result<(Packing, Vec<u8>), ImportError> {
        read(input, UNPACK_LIMIT, &Counters::default(), |mut buffers| {
            let mut all = Vec::new();
            while let Some(buffer) = buffers.next()? {
                all.extend_from_slice(&buffer);
                buffers.recycle(buffer);
            }
            Ok(all)
        })
    }

    /// The text in every packing that is read.
    fn packed(text: &[u8]) -> Vec<(Packing, Vec<u8>)> {
        let mut bzip2 = bzip2::write::BzEncoder::new(Vec::new(), bzip2::Compression::fast());
        bzip2.write_all(text).unwrap();
        let options = lzma_rust2::XzOptions::with_preset(1);
        let mut xz = lzma_rust2::XzWriter::new(Vec::new(), options).unwrap();
        xz.write_all(text).unwrap();
        let mut zstd = zstd::Encoder::new(Vec::new(), 1).unwrap();
        zstd.include_checksum(true).unwrap();
        zstd.write_all(text).unwrap();
        vec![
            (Packing::Gzip, gzip(text)),
            (Packing::Zstd, zstd.finish().unwrap()),
            (Packing::Bzip2, bzip2.finish().unwrap()),
            (Packing::Xz, xz.finish().unwrap()),
        ]
    }

    #[test]
    fn every_packing_comes_out_alike_also_in_several_pieces() {
        let text: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
        assert_eq!(read_all(&text[..]).unwrap(), (Packing::Plain, text.clone()));
        let (first, second) = (packed(&text[..1000]), packed(&text[1000..]));
        for (whole, (first, second)) in packed(&text).into_iter().zip(first.into_iter().zip(second))
        {
            assert_eq!(read_all(&whole.1[..]).unwrap(), (whole.0, text.clone()));
            let joined = [first.1, second.1].concat();
            assert_eq!(read_all(&joined[..]).unwrap(), (whole.0, text.clone()), "{}", whole.0);
        }
    }

    #[test]
    fn cut_off_and_damaged_files_are_told_apart() {
        let text: Vec<u8> = (0..200_000_u32).map(|n| (n.wrapping_mul(n) % 253) as u8).collect();
        for (packing, mut packed) in packed(&text) {
            let cut = packed.len() - 5;
            let error = read_all(&packed[..cut]).map(|_| ()).unwrap_err();
            assert!(matches!(error, ImportError::Truncated { .. }), "{packing}: {error:?}");
            assert!(error.to_string().contains(&packing.to_string()), "{error}");
            let middle = packed.len() / 2;
            packed[middle] ^= 0x55;
            let error = read_all(&packed[..]).map(|_| ()).unwrap_err();
            let told = matches!(error, ImportError::Damaged { .. } | ImportError::Truncated { .. });
            assert!(told, "{packing}: {error:?}");
        }
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
    fn archives_say_how_to_unpack() {
        let error = read_all(&b"PK\x03\x04 and more"[..]).unwrap_err();
        assert!(error.to_string().contains("unzip -p"), "{error}");
    }

    #[test]
    fn a_consumer_that_stops_does_not_leave_the_reader_hanging() {
        let text = vec![b'x'; 20 * BUFFER_BYTES];
        let outcome = read(&text[..], UNPACK_LIMIT, &Counters::default(), |mut buffers| {
            buffers.next()?;
            Err::<(), _>(ImportError::Cancelled)
        });
        assert!(matches!(outcome, Err(ImportError::Cancelled)));
    }

    #[test]
    fn a_bomb_is_noticed_while_it_is_small() {
        // A member of zeros again and again: quickly made, and read like any other.
        let bomb = gzip(&vec![b'0'; BUFFER_BYTES]).repeat(300);
        let drain = |limit| {
            read(&bomb[..], limit, &Counters::default(), |mut buffers| {
                while let Some(buffer) = buffers.next()? {
                    buffers.recycle(buffer);
                }
                Ok(())
            })
        };
        let error = drain(UNPACK_LIMIT).unwrap_err();
        assert!(matches!(error, ImportError::Swollen { .. }), "{error}");
        drain(2000).unwrap();
    }
}

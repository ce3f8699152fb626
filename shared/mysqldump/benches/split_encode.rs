//! Time and MB/s of splitting and encoding on one thread, against gunzip alone:
//! `split_encode FILE.sql.gz [TIMES]`.
//!
//! The unpacked dump is worked on TIMES times in a row, so that a small one gives a figure, too.

use std::io::Read;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flate2::read::MultiGzDecoder;
use relevo_mysqldump::{
    DumpSplitter, Event, InsertHeader, RowEncoder, SplitOptions, TranslateOptions,
};

/// What is fed to the splitter at a time.
const SLICE_BYTES: usize = 1 << 20;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1).filter(|a| a != "--bench");
    let Some(path) = arguments.next() else {
        eprintln!("usage: split_encode FILE.sql.gz [TIMES]");
        return Ok(());
    };
    let times: usize = arguments.next().map_or(Ok(1), |n| n.parse())?;
    let packed = std::fs::read(path)?;
    let mut dump = Vec::new();
    MultiGzDecoder::new(packed.as_slice()).read_to_end(&mut dump)?;
    let bytes = dump.len() * times;
    for _ in 0..5 {
        let gunzip = gunzip(&packed, times)?;
        let (rows, split) = split(&dump, times, false)?;
        let (_, encode) = self::split(&dump, times, true)?;
        let rate = |time: Duration| bytes as f64 / 1e6 / time.as_secs_f64();
        println!(
            "{bytes} bytes, {rows} rows: gunzip {:.0} MB/s, split {:.0} MB/s, split + encode \
             {:.0} MB/s; split + encode ÷ gunzip = {:.2}",
            rate(gunzip),
            rate(split),
            rate(encode),
            encode.as_secs_f64() / gunzip.as_secs_f64()
        );
    }
    Ok(())
}

fn gunzip(packed: &[u8], times: usize) -> std::io::Result<Duration> {
    let begun = Instant::now();
    let mut buffer = vec![0; SLICE_BYTES];
    for _ in 0..times {
        let mut input = MultiGzDecoder::new(packed);
        while input.read(&mut buffer)? > 0 {}
    }
    Ok(begun.elapsed())
}

fn split(
    dump: &[u8],
    times: usize,
    encode: bool,
) -> Result<(u64, Duration), Box<dyn std::error::Error>> {
    let begun = Instant::now();
    let mut out = Vec::new();
    let mut rows = 0;
    let options = TranslateOptions::default();
    for _ in 0..times {
        let mut splitter = DumpSplitter::new(SplitOptions::default());
        let mut encoder: Option<(Arc<InsertHeader>, RowEncoder)> = None;
        let mut sink = |event: Event<'_>| {
            let Event::Rows(batch) = event else { return Ok(()) };
            rows += batch.rows;
            if encode {
                if encoder.as_ref().is_none_or(|(insert, _)| !Arc::ptr_eq(insert, &batch.insert)) {
                    let compiled = RowEncoder::new(&batch.table, &batch.insert, &options)?;
                    encoder = Some((Arc::clone(&batch.insert), compiled));
                }
                if let Some((_, encoder)) = &mut encoder {
                    out.clear();
                    encoder.encode(batch.bytes, &mut out)?;
                }
            }
            Ok(())
        };
        for slice in dump.chunks(SLICE_BYTES) {
            splitter.feed(slice, &mut sink)?;
        }
        splitter.finish(&mut sink)?;
    }
    Ok((rows, begun.elapsed()))
}

//! Time and MB/s of splitting and encoding, against gunzip alone: `split_encode FILE.sql.gz [N]`.
//!
//! The file is unpacked N times in a row (a dump repeated N times is a dump), so that a small one
//! gives a figure, too.

use std::io::Read;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flate2::read::MultiGzDecoder;
use relevo_mysqldump::{
    DumpSplitter, Event, InsertHeader, RowEncoder, SplitOptions, TranslateOptions,
};

/// What is done with the unpacked bytes.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Work {
    Gunzip,
    Split,
    Encode,
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1).filter(|a| a != "--bench");
    let Some(path) = arguments.next() else {
        eprintln!("usage: split_encode FILE.sql.gz [TIMES]");
        return Ok(());
    };
    let times: usize = arguments.next().map_or(Ok(1), |n| n.parse())?;
    let packed = std::fs::read(path)?;
    for _ in 0..3 {
        let (bytes, _, gunzip) = run(&packed, times, Work::Gunzip)?;
        let (_, rows, split) = run(&packed, times, Work::Split)?;
        let (_, _, encode) = run(&packed, times, Work::Encode)?;
        let rate = |time: Duration| bytes as f64 / 1e6 / time.as_secs_f64();
        let (split, encode) = (split - gunzip, encode - gunzip);
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

fn run(
    packed: &[u8],
    times: usize,
    work: Work,
) -> Result<(u64, u64, Duration), Box<dyn std::error::Error>> {
    let begun = Instant::now();
    let mut buffer = vec![0; 1 << 20];
    let mut out = Vec::new();
    let (mut bytes, mut rows) = (0, 0);
    let options = TranslateOptions::default();
    for _ in 0..times {
        let mut input = MultiGzDecoder::new(packed);
        let mut splitter = DumpSplitter::new(SplitOptions::default());
        let mut encoder: Option<(Arc<InsertHeader>, RowEncoder)> = None;
        let mut sink = |event: Event<'_>| {
            let Event::Rows(batch) = event else { return Ok(()) };
            rows += batch.rows;
            if work == Work::Encode {
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
        loop {
            let mut filled = 0;
            while filled < buffer.len() {
                let length = input.read(&mut buffer[filled..])?;
                if length == 0 {
                    break;
                }
                filled += length;
            }
            if filled == 0 {
                break;
            }
            bytes += filled as u64;
            if work != Work::Gunzip {
                splitter.feed(&buffer[..filled], &mut sink)?;
            }
        }
        if work != Work::Gunzip {
            splitter.finish(&mut sink)?;
        }
    }
    Ok((bytes, rows, begun.elapsed()))
}

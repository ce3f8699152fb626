//! What a dump is packed with, told by its first bytes, and how it is unpacked.

use std::fmt;
use std::io::{self, BufRead, BufReader, Read};

use serde::Serialize;

use crate::error::ImportError;

/// How a dump is packed.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Packing {
    /// Not at all.
    Plain,
    /// gzip, one member or several.
    Gzip,
    /// Zstandard, one frame or several.
    Zstd,
    /// bzip2, one stream or several.
    Bzip2,
    /// xz, one stream or several.
    Xz,
}

impl fmt::Display for Packing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain => "plain",
            Self::Gzip => "gzip",
            Self::Zstd => "zstd",
            Self::Bzip2 => "bzip2",
            Self::Xz => "xz",
        })
    }
}

/// Tells the packing by the first bytes.
///
/// # Errors
/// [`ImportError::Format`] for what cannot be a dump; an input that cannot be read.
pub(crate) fn recognise(source: &mut impl BufRead) -> Result<Packing, ImportError> {
    // A first short read of a pipe may hold less than is needed, but holds at least one byte.
    let start = source.fill_buf().map_err(ImportError::Read)?;
    let other =
        |name: &'static str, remedy: &'static str| Err(ImportError::Format { name, remedy });
    match start {
        [0x1f, 0x8b, ..] | [0x1f] => Ok(Packing::Gzip),
        [0x28, 0xb5, 0x2f, 0xfd, ..] => Ok(Packing::Zstd),
        [0xfd, b'7', b'z', b'X', b'Z', ..] => Ok(Packing::Xz),
        [b'B', b'Z', b'h', b'1'..=b'9', ..] => Ok(Packing::Bzip2),
        [b'P', b'K', 3, 4, ..] => other("a zip archive", "unzip -p FILE | relevo dump import -"),
        [b'7', b'z', 0xbc, 0xaf, ..] => {
            other("a 7z archive", "7z e -so FILE | relevo dump import -")
        }
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] => other(
            "text in UTF-16, as PowerShell's > writes it",
            "make the dump with mysqldump --result-file=FILE",
        ),
        [b'P', b'G', b'D', b'M', b'P', ..] => other("an archive of pg_dump", "pg_restore FILE"),
        _ => Ok(Packing::Plain),
    }
}

/// The unpacked text of `source`.
///
/// # Errors
/// When the decoder cannot be set up.
pub(crate) fn unpacked<'a, R: Read + 'a>(
    packing: Packing,
    source: BufReader<R>,
) -> io::Result<Box<dyn Read + 'a>> {
    Ok(match packing {
        Packing::Plain => Box::new(source),
        Packing::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(source)),
        Packing::Zstd => Box::new(zstd::stream::read::Decoder::with_buffer(source)?),
        Packing::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(source)),
        Packing::Xz => Box::new(lzma_rust2::XzReader::new(source, true)),
    })
}

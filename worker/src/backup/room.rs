//! Whether there is room for a dump and its chunks, before the download begins.
//!
//! The dump arrives under `data_dir`, its chunks go to the chunk store, which may be on another
//! disk: each disk is asked for its own need. What an earlier attempt has left is there already and
//! needs no room a second time.

use std::{
    io,
    path::{Path, PathBuf},
};

/// Space that must remain on each disk for everything else.
const RESERVE_BYTES: u64 = 64 << 20;

/// How much larger than the compressed dump its chunks may become together; shop dumps are at 3.
const CHUNKS_PER_DUMP_BYTE: u64 = 4;

/// What one dump still needs.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct Need {
    /// Length of the compressed dump.
    pub(crate) dump_bytes: u64,
    /// How much of it is there.
    pub(crate) present_bytes: u64,
    /// How much its chunks take that are stored.
    pub(crate) stored_bytes: u64,
}

/// A disk as far as its room goes.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
struct Disk {
    /// The same for two folders on one filesystem.
    device: u64,
    free_bytes: u64,
}

/// Too little room on a disk.
#[derive(Debug, thiserror::Error)]
#[error(
    "the disk under {path} has {free_mib} MiB free, but {what} may need {needed_mib} MiB; free \
     some space or point {setting} to a larger disk",
    path = .path.display(), free_mib = .free_bytes >> 20, needed_mib = .needed_bytes >> 20
)]
pub(crate) struct DiskTooSmall {
    path: PathBuf,
    what: &'static str,
    setting: &'static str,
    free_bytes: u64,
    needed_bytes: u64,
}

/// Checks the disks of the dump (`data_dir`) and of the chunks (`chunk_dir`); both folders exist.
///
/// # Errors
/// [`DiskTooSmall`], as an [`io::Error`] of kind `StorageFull`; or the system's own error.
pub(crate) fn check(data_dir: &Path, chunk_dir: &Path, need: Need) -> io::Result<()> {
    let (data, chunks) = (disk(data_dir)?, disk(chunk_dir)?);
    judge(data_dir, data, chunk_dir, chunks, need)
        .map_err(|error| io::Error::new(io::ErrorKind::StorageFull, error))
}

fn disk(folder: &Path) -> io::Result<Disk> {
    let room = rustix::fs::statvfs(folder)?;
    Ok(Disk {
        device: rustix::fs::stat(folder)?.st_dev,
        free_bytes: room.f_bavail.saturating_mul(room.f_frsize),
    })
}

fn judge(
    data_dir: &Path,
    data: Disk,
    chunk_dir: &Path,
    chunks: Disk,
    need: Need,
) -> Result<(), DiskTooSmall> {
    let dump_bytes = need.dump_bytes.saturating_sub(need.present_bytes);
    let chunk_bytes =
        need.dump_bytes.saturating_mul(CHUNKS_PER_DUMP_BYTE).saturating_sub(need.stored_bytes);
    let fits = |path: &Path, what, setting, disk: Disk, bytes: u64| {
        let needed_bytes = bytes.saturating_add(RESERVE_BYTES);
        let free_bytes = disk.free_bytes;
        if free_bytes < needed_bytes {
            let path = path.to_owned();
            return Err(DiskTooSmall { path, what, setting, free_bytes, needed_bytes });
        }
        Ok(())
    };
    if data.device == chunks.device {
        let both = dump_bytes.saturating_add(chunk_bytes);
        return fits(data_dir, "the dump and its chunks", "data_dir", data, both);
    }
    fits(data_dir, "the dump", "data_dir", data, dump_bytes)?;
    fits(chunk_dir, "the dump's chunks", "chunk_store.url", chunks, chunk_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MIB: u64 = 1 << 20;

    /// The setting that the verdict blames, if any; free space in MiB beyond the reserve.
    fn blamed(data_mib: u64, chunks: (u64, u64), need: Need) -> Option<&'static str> {
        let disk = |device, mib| Disk { device, free_bytes: mib * MIB + RESERVE_BYTES };
        let (data, chunks) = (disk(1, data_mib), disk(chunks.0, chunks.1));
        judge(Path::new("/data"), data, Path::new("/chunks"), chunks, need)
            .err()
            .map(|error| error.setting)
    }

    fn need(dump: u64, present: u64, stored: u64) -> Need {
        Need { dump_bytes: dump * MIB, present_bytes: present * MIB, stored_bytes: stored * MIB }
    }

    #[test]
    fn one_disk_has_to_hold_both() {
        assert_eq!(blamed(500, (1, 500), need(100, 0, 0)), None);
        assert_eq!(blamed(499, (1, 499), need(100, 0, 0)), Some("data_dir"));
    }

    #[test]
    fn what_is_there_already_needs_no_room_again() {
        // Half of the dump is there and most of its chunks.
        assert_eq!(blamed(150, (1, 150), need(100, 50, 300)), None);
        assert_eq!(blamed(149, (1, 149), need(100, 50, 300)), Some("data_dir"));
        // More chunks than were reckoned with.
        assert_eq!(blamed(0, (1, 0), need(100, 100, 900)), None);
    }

    #[test]
    fn each_disk_is_asked_for_its_own_need() {
        assert_eq!(blamed(100, (2, 400), need(100, 0, 0)), None);
        assert_eq!(blamed(99, (2, 10_000), need(100, 0, 0)), Some("data_dir"));
        assert_eq!(blamed(10_000, (2, 399), need(100, 0, 0)), Some("chunk_store.url"));
    }

    #[test]
    fn a_disk_that_is_too_small_is_said_with_figures() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let path = folder.path();
        check(path, path, Need::default()).expect("there is room for nothing");
        let need = Need { dump_bytes: 1 << 58, ..Need::default() };
        let error = check(path, path, need).expect_err("no disk is that large");
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert!(error.to_string().contains("MiB free"), "{error}");
    }
}

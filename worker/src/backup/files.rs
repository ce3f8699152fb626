//! The worker's own files: dumps on their way in, dumps kept, room on the disk.
//!
//! ```text
//! DATA_DIR/incoming/run42-request7.part        the dump while it arrives
//! DATA_DIR/incoming/run42-request7.part.json   what the gateway said of it, for the resume
//! DATA_DIR/dumps/SOURCE/run42-FILENAME         the dump once complete and checked
//! ```
//!
//! Every name says which run a file belongs to, so a sweep needs no list of its own: it reads the
//! folders, asks how the runs ended, and removes what nobody needs.
//!
//! Killed here, then what? A `.part` file of an unfinished run is where the next worker resumes; of
//! an ended run the sweep removes it. The rename into `dumps` is one step of the filesystem.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use super::run_names::{parse_dump_name, parse_part_name};

/// Space that must remain for everything else on the disk.
const RESERVE_BYTES: u64 = 64 << 20;

/// How much larger than the compressed dump its chunks may become together; shop dumps are at 3.
const CHUNKS_PER_DUMP_BYTE: u64 = 4;

/// A file of a run that the control plane does not know is left alone this long: another control
/// plane may just have been restored or pointed here.
const STRANGER_AGE_MIN: Duration = Duration::from_secs(24 * 3_600);

/// Where the worker keeps its files.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    data_dir: PathBuf,
}

/// How a run stands, as far as its files are concerned.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum FileFate {
    /// The run still needs its files.
    Active,
    /// The run succeeded: its dump is a good one.
    Good,
    /// The run failed or was cancelled.
    Useless,
    /// The control plane knows no such run.
    Unknown,
}

/// Too little room for a download.
#[derive(Debug, thiserror::Error)]
#[error(
    "the disk under {path} has {free_mib} MiB free, but the dump and its chunks may need \
     {needed_mib} MiB; free some space or point data_dir to a larger disk",
    path = .path.display(), free_mib = .free_bytes >> 20, needed_mib = .needed_bytes >> 20
)]
pub(crate) struct DiskTooSmall {
    path: PathBuf,
    free_bytes: u64,
    needed_bytes: u64,
}

impl Files {
    pub(crate) fn new(data_dir: &Path) -> Self {
        Self { data_dir: data_dir.to_owned() }
    }

    fn incoming_dir(&self) -> PathBuf {
        self.data_dir.join("incoming")
    }

    /// Where a source's finished dumps are kept.
    pub(crate) fn dumps_dir(&self, source: &str) -> PathBuf {
        self.data_dir.join("dumps").join(file_name_of(source))
    }

    /// The file that the dump of a request arrives in; its folder is made.
    pub(crate) fn part(&self, run_id: i64, request_id: i64) -> io::Result<PathBuf> {
        let folder = self.incoming_dir();
        fs::create_dir_all(&folder)?;
        Ok(folder.join(format!("run{run_id}-request{request_id}.part")))
    }

    /// What the gateway said of the file in `part`.
    pub(crate) fn part_notes(part: &Path) -> PathBuf {
        part.with_extension("part.json")
    }

    /// Where the complete dump of a run goes; its folder is made.
    pub(crate) fn dump(&self, source: &str, run_id: i64, filename: &str) -> io::Result<PathBuf> {
        let folder = self.dumps_dir(source);
        fs::create_dir_all(&folder)?;
        Ok(folder.join(format!("run{run_id}-{}", file_name_of(filename))))
    }

    /// Checks the room for `remaining_bytes` of download and for the chunks of a dump of
    /// `dump_bytes`.
    ///
    /// # Errors
    /// [`DiskTooSmall`], as an [`io::Error`] of kind `StorageFull`; or the system's own error.
    pub(crate) fn check_room(&self, remaining_bytes: u64, dump_bytes: u64) -> io::Result<()> {
        fs::create_dir_all(&self.data_dir)?;
        let disk = rustix::fs::statvfs(&self.data_dir)?;
        let free_bytes = disk.f_bavail.saturating_mul(disk.f_frsize);
        let needed_bytes = remaining_bytes
            .saturating_add(dump_bytes.saturating_mul(CHUNKS_PER_DUMP_BYTE))
            .saturating_add(RESERVE_BYTES);
        if free_bytes < needed_bytes {
            let path = self.data_dir.clone();
            let error = DiskTooSmall { path, free_bytes, needed_bytes };
            return Err(io::Error::new(io::ErrorKind::StorageFull, error));
        }
        Ok(())
    }

    /// The runs that have files here.
    pub(crate) fn runs(&self) -> io::Result<Vec<i64>> {
        let mut runs: Vec<i64> = self.all()?.into_iter().map(|file| file.run_id).collect();
        runs.sort_unstable();
        runs.dedup();
        Ok(runs)
    }

    /// Removes what no run needs: files on their way in whose run has ended, dumps of runs that
    /// did not succeed, and good dumps past their source's retention, of which the newest always
    /// stays. Returns what was removed.
    pub(crate) fn sweep(
        &self,
        fates: &dyn Fn(i64) -> FileFate,
        retention: &dyn Fn(&str) -> Duration,
        now: SystemTime,
    ) -> io::Result<Vec<PathBuf>> {
        let mut newest_good: BTreeMap<String, i64> = BTreeMap::new();
        let files = self.all()?;
        for file in &files {
            if let Some(folder) = &file.dumps_folder
                && fates(file.run_id) == FileFate::Good
            {
                let newest = newest_good.entry(folder.clone()).or_insert(file.run_id);
                *newest = (*newest).max(file.run_id);
            }
        }
        let mut removed = Vec::new();
        for file in files {
            let age = now.duration_since(file.modified).unwrap_or_default();
            let fate = fates(file.run_id);
            let useless = match (&file.dumps_folder, fate) {
                (_, FileFate::Active) => false,
                (_, FileFate::Useless) | (None, FileFate::Good) => true,
                (None, FileFate::Unknown) => age > STRANGER_AGE_MIN,
                (Some(folder), FileFate::Good) => {
                    newest_good.get(folder) != Some(&file.run_id) && age > retention(folder)
                }
                (Some(folder), FileFate::Unknown) => age > retention(folder).max(STRANGER_AGE_MIN),
            };
            if useless && remove_if_there(&file.path)? {
                removed.push(file.path);
            }
        }
        Ok(removed)
    }

    fn all(&self) -> io::Result<Vec<OwnFile>> {
        let mut files = Vec::new();
        for (path, name, modified) in entries(&self.incoming_dir())? {
            if let Some(run_id) = parse_part_name(&name) {
                files.push(OwnFile { path, run_id, modified, dumps_folder: None });
            }
        }
        for (folder_path, folder, _) in entries(&self.data_dir.join("dumps"))? {
            for (path, name, modified) in entries(&folder_path)? {
                if let Some(run_id) = parse_dump_name(&name) {
                    let dumps_folder = Some(folder.clone());
                    files.push(OwnFile { path, run_id, modified, dumps_folder });
                }
            }
        }
        Ok(files)
    }
}

#[derive(Debug)]
struct OwnFile {
    path: PathBuf,
    run_id: i64,
    modified: SystemTime,
    /// The source's folder under `dumps`; `None` for a file on its way in.
    dumps_folder: Option<String>,
}

/// What is in a folder, as (path, name, last change); nothing when there is no such folder.
fn entries(folder: &Path) -> io::Result<Vec<(PathBuf, String, SystemTime)>> {
    let listing = match fs::read_dir(folder) {
        Ok(listing) => listing,
        Err(error)
            if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) =>
        {
            return Ok(Vec::new());
        }
        Err(error) => return Err(error),
    };
    let mut found = Vec::new();
    for entry in listing {
        let entry = entry?;
        // Another worker's sweep may have removed it since.
        let Ok(metadata) = entry.metadata() else { continue };
        let Ok(name) = entry.file_name().into_string() else { continue };
        found.push((entry.path(), name, metadata.modified().unwrap_or(SystemTime::UNIX_EPOCH)));
    }
    Ok(found)
}

/// Removes a file; false when it was gone already.
pub(crate) fn remove_if_there(path: &Path) -> io::Result<bool> {
    match fs::remove_file(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

/// A name from outside made safe as the name of a file: no separators, no leading dot, not long.
pub(crate) fn file_name_of(name: &str) -> String {
    let mut safe: String = name
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() || "._-".contains(c) { c } else { '_' })
        .take(150)
        .collect();
    if safe.is_empty() || safe.starts_with('.') {
        safe.insert(0, '_');
    }
    safe
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3_600);

    fn touch(path: &Path, age: Duration, now: SystemTime) {
        let file = fs::File::create(path).expect("creates");
        file.set_modified(now - age).expect("sets the time");
    }

    #[test]
    fn the_sweep_keeps_what_is_needed_and_the_newest_good_dump() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let files = Files::new(folder.path());
        let now = SystemTime::now();
        let part = |run, request| files.part(run, request).expect("a path");
        let dump = |run| files.dump("shop", run, "backup.sql.gz").expect("a path");
        for run in [1, 2, 3] {
            touch(&part(run, run), DAY * 30, now);
        }
        touch(&Files::part_notes(&part(2, 2)), Duration::ZERO, now);
        touch(&part(9, 9), Duration::ZERO, now);
        touch(&part(8, 8), DAY * 2, now);
        for (run, days) in [(3, 0), (4, 30), (5, 20), (6, 3), (7, 2)] {
            touch(&dump(run), DAY * days, now);
        }
        fs::write(folder.path().join("incoming/somebody-elses"), b"x").expect("writes");
        // 1 active, 2 and 7 failed, 8 and 9 unknown, the others good.
        let fate = |run| match run {
            1 => FileFate::Active,
            2 | 7 => FileFate::Useless,
            8 | 9 => FileFate::Unknown,
            _ => FileFate::Good,
        };
        let mut removed = files.sweep(&fate, &|_| DAY * 7, now).expect("sweeps");
        removed.sort();
        let mut expected = vec![
            part(2, 2),
            Files::part_notes(&part(2, 2)),
            part(3, 3),
            part(8, 8),
            dump(4),
            dump(5),
            dump(7),
        ];
        expected.sort();
        assert_eq!(removed, expected);

        let much_later = now + DAY * 1_000;
        let removed = files.sweep(&fate, &|_| DAY * 7, much_later).expect("sweeps");
        assert!(!removed.contains(&dump(6)), "the newest good dump stays for ever");
        assert!(removed.contains(&dump(3)));
        assert!(files.runs().expect("lists").contains(&1));
    }

    #[test]
    fn names_from_outside_cannot_leave_their_folder() {
        assert_eq!(file_name_of("../../etc/passwd"), "_.._.._etc_passwd");
        assert_eq!(file_name_of("a b\u{e9}.sql.gz"), "a_b_.sql.gz");
        assert_eq!(file_name_of(""), "_");
        assert_eq!(file_name_of(&"x".repeat(1_000)).len(), 150);
    }

    #[test]
    fn a_disk_that_is_too_small_is_said_with_figures() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let files = Files::new(folder.path());
        files.check_room(0, 0).expect("there is room for nothing");
        let error = files.check_room(1 << 60, 1 << 50).expect_err("no disk is that large");
        assert_eq!(error.kind(), io::ErrorKind::StorageFull);
        assert!(error.to_string().contains("MiB free"), "{error}");
    }
}

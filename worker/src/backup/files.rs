//! The worker's own files: dumps on their way in, dumps kept.
//!
//! ```text
//! DATA_DIR/incoming/TAG-run42-request7.part        the dump while it arrives
//! DATA_DIR/incoming/TAG-run42-request7.part.json   what the gateway said of it, for the resume
//! DATA_DIR/dumps/SOURCE/TAG-run42-FILENAME         the dump once complete and checked
//! ```
//!
//! Every name says which run of which control plane a file belongs to (see `run_names`), so a sweep
//! needs no list of its own: it reads the folders, asks how the runs ended, and removes what nobody
//! needs. Files of another control plane are not even looked at.
//!
//! Killed here, then what? A `.part` file of an unfinished run is where the next worker resumes; of
//! an ended run the sweep removes it. The rename into `dumps` is one step of the filesystem.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use super::{
    private_dir,
    run_names::{Names, RunKey},
};

/// A file of a run that the control plane does not know is left alone this long: it may be looking
/// at an old copy of itself.
const STRANGER_AGE_MIN: Duration = Duration::from_secs(24 * 3_600);

/// Where the worker keeps its files.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    data_dir: PathBuf,
    names: Names,
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
    /// The control plane knows no such run: it was forgotten, or lost with the state before a
    /// restore.
    Unknown,
}

impl Files {
    /// The files under `data_dir` of the control plane with these names.
    pub(crate) fn new(data_dir: &Path, names: Names) -> Self {
        Self { data_dir: data_dir.to_owned(), names }
    }

    /// The folder of everything.
    pub(crate) fn data_dir(&self) -> &Path {
        &self.data_dir
    }

    fn incoming_dir(&self) -> PathBuf {
        self.data_dir.join("incoming")
    }

    /// Where a source's finished dumps are kept.
    pub(crate) fn dumps_dir(&self, source: &str) -> PathBuf {
        self.data_dir.join("dumps").join(file_name_of(source))
    }

    /// The file that the dump of a request arrives in; its folder is made.
    pub(crate) fn part(&self, run: RunKey, request_id: i64) -> io::Result<PathBuf> {
        let folder = self.incoming_dir();
        private_dir::create(&folder)?;
        Ok(folder.join(self.names.part(run, request_id)))
    }

    /// What the gateway said of the file in `part`.
    pub(crate) fn part_notes(part: &Path) -> PathBuf {
        part.with_extension("part.json")
    }

    /// Where the complete dump of a run goes; its folder is made.
    pub(crate) fn dump(&self, source: &str, run: RunKey, filename: &str) -> io::Result<PathBuf> {
        let folder = self.dumps_dir(source);
        private_dir::create(&folder)?;
        Ok(folder.join(self.names.dump(run, &file_name_of(filename))))
    }

    /// The runs that have files here.
    pub(crate) fn runs(&self) -> io::Result<Vec<RunKey>> {
        let mut runs: Vec<RunKey> = self.all()?.into_iter().map(|file| file.run).collect();
        runs.sort_unstable();
        runs.dedup();
        Ok(runs)
    }

    /// Removes what no run needs: files on their way in whose run has ended, dumps of runs that
    /// did not succeed, and good dumps past their source's retention. Of each source the newest good
    /// one always stays; where no run is known that brought one, the newest of all. Returns what
    /// was removed.
    pub(crate) fn sweep(
        &self,
        fates: &dyn Fn(RunKey) -> FileFate,
        retention: &dyn Fn(&str) -> Duration,
        now: SystemTime,
    ) -> io::Result<Vec<PathBuf>> {
        // Whatever was moved there was complete and undamaged, so an unknown one is better than none.
        let mut newest: BTreeMap<String, (bool, RunKey)> = BTreeMap::new();
        let files = self.all()?;
        for file in &files {
            let rank = match fates(file.run) {
                FileFate::Good => (true, file.run),
                FileFate::Unknown => (false, file.run),
                FileFate::Active | FileFate::Useless => continue,
            };
            if let Some(folder) = &file.dumps_folder {
                let newest = newest.entry(folder.clone()).or_insert(rank);
                *newest = (*newest).max(rank);
            }
        }
        let mut removed = Vec::new();
        for file in files {
            let age = now.duration_since(file.modified).unwrap_or_default();
            let fate = fates(file.run);
            let useless = match (&file.dumps_folder, fate) {
                (_, FileFate::Active) => false,
                (_, FileFate::Useless) | (None, FileFate::Good) => true,
                (None, FileFate::Unknown) => age > STRANGER_AGE_MIN,
                (Some(folder), _)
                    if newest.get(folder).is_some_and(|(_, run)| *run == file.run) =>
                {
                    false
                }
                (Some(folder), FileFate::Good) => age > retention(folder),
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
            if let Some(run) = self.names.run_of_part(&name) {
                files.push(OwnFile { path, run, modified, dumps_folder: None });
            }
        }
        for (folder_path, folder, _) in entries(&self.data_dir.join("dumps"))? {
            for (path, name, modified) in entries(&folder_path)? {
                if let Some(run) = self.names.run_of_dump(&name) {
                    let dumps_folder = Some(folder.clone());
                    files.push(OwnFile { path, run, modified, dumps_folder });
                }
            }
        }
        Ok(files)
    }
}

#[derive(Debug)]
struct OwnFile {
    path: PathBuf,
    run: RunKey,
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

    fn files_of(cluster: &str, folder: &Path) -> Files {
        Files::new(folder, Names::new(cluster))
    }

    fn key(id: i64) -> RunKey {
        RunKey { incarnation: 1, id }
    }

    fn touch(path: &Path, age: Duration, now: SystemTime) {
        let file = fs::File::create(path).expect("creates");
        file.set_modified(now - age).expect("sets the time");
    }

    #[test]
    fn the_sweep_keeps_what_is_needed_and_the_newest_good_dump() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let files = files_of("c0ffee00", folder.path());
        let now = SystemTime::now();
        let part = |run, request| files.part(key(run), request).expect("a path");
        let dump = |run| files.dump("shop", key(run), "backup.sql.gz").expect("a path");
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
        let fate = |run: RunKey| match run.id {
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
        assert!(files.runs().expect("lists").contains(&key(1)));
    }

    #[test]
    fn the_files_of_another_control_plane_are_left_alone() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let now = SystemTime::now();
        let old = files_of("aaaaaaaa", folder.path());
        let new = files_of("bbbbbbbb", folder.path());
        let theirs = [
            old.part(key(1), 1).expect("a path"),
            old.dump("shop", key(1), "backup.sql.gz").expect("a path"),
            old.dump("shop", key(2), "backup.sql.gz").expect("a path"),
        ];
        for path in &theirs {
            touch(path, DAY * 900, now);
        }
        assert_ne!(new.part(key(1), 1).expect("a path"), theirs[0], "it would trip over it");
        assert!(new.runs().expect("lists").is_empty());
        for fate in [FileFate::Useless, FileFate::Unknown] {
            assert!(new.sweep(&|_| fate, &|_| DAY, now).expect("sweeps").is_empty());
        }
        assert!(theirs.iter().all(|path| path.exists()));
    }

    #[test]
    fn the_last_dump_stays_when_its_run_was_forgotten() {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let files = files_of("c0ffee00", folder.path());
        let now = SystemTime::now();
        let dump = |incarnation, id| {
            let run = RunKey { incarnation, id };
            files.dump("shop", run, "backup.sql.gz").expect("a path")
        };
        // The second incarnation counts on from an old backup, so its numbers come again.
        for (incarnation, id) in [(1, 7), (1, 8), (2, 7)] {
            touch(&dump(incarnation, id), DAY * 30, now);
        }
        let sweep = |fate: &dyn Fn(RunKey) -> FileFate| {
            let mut removed = files.sweep(fate, &|_| DAY, now).expect("sweeps");
            removed.sort();
            removed
        };
        assert_eq!(sweep(&|_| FileFate::Unknown), [dump(1, 7), dump(1, 8)]);
        touch(&dump(1, 8), DAY * 30, now);
        // A dump that is known to be good is preferred to a newer one nobody knows of.
        let known = |run: RunKey| match run.id {
            8 => FileFate::Good,
            _ => FileFate::Unknown,
        };
        assert_eq!(sweep(&known), [dump(2, 7)]);
        assert!(dump(1, 8).exists());
    }

    #[test]
    fn names_from_outside_cannot_leave_their_folder() {
        assert_eq!(file_name_of("../../etc/passwd"), "_.._.._etc_passwd");
        assert_eq!(file_name_of("a b\u{e9}.sql.gz"), "a_b_.sql.gz");
        assert_eq!(file_name_of(""), "_");
        assert_eq!(file_name_of(&"x".repeat(1_000)).len(), 150);
    }
}

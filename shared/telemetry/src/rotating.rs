//! A log file that is put aside when it has grown: `FILE` becomes `FILE.1`, `FILE.1` becomes
//! `FILE.2`, and the oldest is deleted.
//!
//! Several processes may write to one file. Every line is one appending write, and before each the
//! path is looked at: where another process has put the file aside, the new one is opened. Who puts
//! it aside holds a lock on the file meanwhile. A line that was on its way then lands at the end of
//! `FILE.1`: out of order at worst, never lost.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

/// Logs tell about people's data; others on the machine need not read them.
const MODE: u32 = 0o640;

/// A file that is put aside at a size.
#[derive(Debug)]
pub(crate) struct RotatingFile {
    path: PathBuf,
    size_max_bytes: u64,
    /// Files kept beside the current one.
    kept: u32,
    open: Mutex<Open>,
}

#[derive(Debug)]
struct Open {
    file: File,
    device: u64,
    inode: u64,
    /// Putting aside failed once and was told; it is tried again at every line.
    told: bool,
}

impl Open {
    fn at(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().append(true).create(true).mode(MODE).open(path)?;
        let metadata = file.metadata()?;
        Ok(Self { device: metadata.dev(), inode: metadata.ino(), file, told: false })
    }

    /// The size of the file at `path`, if that is still the open one.
    fn size_at(&self, path: &Path) -> Option<u64> {
        let metadata = fs::metadata(path).ok()?;
        (metadata.dev() == self.device && metadata.ino() == self.inode).then_some(metadata.len())
    }
}

impl RotatingFile {
    /// Opens the file, or makes it and its folder.
    pub(crate) fn open(path: PathBuf, size_max_bytes: u64, kept: u32) -> io::Result<Self> {
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder)?;
        }
        let open = Mutex::new(Open::at(&path)?);
        Ok(Self { path, size_max_bytes, kept: kept.max(1), open })
    }

    /// Appends a line, its line break included. A line longer than the limit gets a file of its own.
    pub(crate) fn write_line(&self, line: &[u8]) -> io::Result<()> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        let mut size = open.size_at(&self.path);
        if size.is_none() {
            *open = Open::at(&self.path)?;
            size = open.size_at(&self.path);
        }
        let size_bytes = size.unwrap_or(0);
        let length = u64::try_from(line.len()).unwrap_or(u64::MAX);
        if size_bytes > 0 && size_bytes.saturating_add(length) > self.size_max_bytes {
            // A full file is better than a lost line.
            match self.put_aside(&mut open) {
                Ok(()) => {}
                Err(_) if open.told => {}
                Err(error) => {
                    open.told = true;
                    let _ = writeln!(
                        io::stderr(),
                        "the log file {} can't be put aside and grows on: {error}",
                        self.path.display()
                    );
                }
            }
        }
        open.file.write_all(line)
    }

    fn put_aside(&self, open: &mut Open) -> io::Result<()> {
        open.file.lock()?;
        let renamed = match open.size_at(&self.path) {
            Some(_) => self.shift(),
            // Another process was first.
            None => Ok(()),
        };
        // The lock ends with the old file too; a failure to unlock changes nothing.
        let _ = open.file.unlock();
        renamed?;
        *open = Open::at(&self.path)?;
        Ok(())
    }

    fn shift(&self) -> io::Result<()> {
        for number in (1..self.kept).rev() {
            match fs::rename(self.numbered(number), self.numbered(number + 1)) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
                _ => {}
            }
        }
        fs::rename(&self.path, self.numbered(1))
    }

    fn numbered(&self, number: u32) -> PathBuf {
        let mut name = self.path.clone().into_os_string();
        name.push(format!(".{number}"));
        name.into()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::sync::Arc;
    use std::thread;

    use super::*;

    fn folder(name: &str) -> PathBuf {
        let folder = std::env::temp_dir().join(format!("relevo-log-{}-{name}", std::process::id()));
        let _ = fs::remove_dir_all(&folder);
        folder
    }

    /// Every file's name and text, the newest first.
    fn files(path: &Path) -> Vec<(String, String)> {
        let mut found: Vec<_> = fs::read_dir(path.parent().unwrap())
            .unwrap()
            .map(|entry| entry.unwrap().path())
            .map(|path| {
                let name = path.file_name().unwrap().to_str().unwrap().to_owned();
                let number = name.rsplit_once("log.").map_or(0, |(_, n)| n.parse().unwrap());
                (number, name, fs::read_to_string(path).unwrap())
            })
            .collect::<Vec<(u32, _, _)>>();
        found.sort();
        found.into_iter().map(|(_, name, text)| (name, text)).collect()
    }

    #[test]
    fn the_oldest_goes_and_no_file_is_too_large() {
        let folder = folder("oldest");
        let path = folder.join("sub/relevo.log");
        let log = RotatingFile::open(path.clone(), 20, 2).unwrap();
        for number in 0..10 {
            log.write_line(format!("line {number}\n").as_bytes()).unwrap();
        }
        log.write_line(b"a line that is longer than a whole file\n").unwrap();
        log.write_line(b"after it\n").unwrap();
        let names: Vec<_> = files(&path).into_iter().map(|(name, _)| name).collect();
        assert_eq!(names, ["relevo.log", "relevo.log.1", "relevo.log.2"]);
        let texts: Vec<_> = files(&path).into_iter().map(|(_, text)| text).collect();
        assert_eq!(texts[0], "after it\n");
        assert_eq!(texts[1], "a line that is longer than a whole file\n");
        assert_eq!(texts[2], "line 8\nline 9\n");
        assert_eq!(fs::metadata(&path).unwrap().mode() & 0o777, MODE);
        fs::remove_dir_all(folder).unwrap();
    }

    #[test]
    fn a_file_that_was_moved_away_is_made_anew() {
        let folder = folder("moved");
        let path = folder.join("relevo.log");
        let log = RotatingFile::open(path.clone(), 1_000, 1).unwrap();
        log.write_line(b"one\n").unwrap();
        fs::rename(&path, folder.join("relevo.log.9")).unwrap();
        log.write_line(b"two\n").unwrap();
        assert_eq!(files(&path)[0].1, "two\n");
        fs::remove_dir_all(folder).unwrap();
    }

    /// Threads stand for processes: each has the file open for itself.
    #[test]
    fn no_line_is_lost_or_torn_however_many_write() {
        const WRITERS: usize = 4;
        const LINES: usize = 3_000;
        let folder = folder("many");
        let path = folder.join("relevo.log");
        let start = Arc::new(std::sync::Barrier::new(WRITERS));
        let writers: Vec<_> = (0..WRITERS)
            .map(|writer| {
                let log = RotatingFile::open(path.clone(), 2_000, 1_000).unwrap();
                let start = Arc::clone(&start);
                thread::spawn(move || {
                    start.wait();
                    for number in 0..LINES {
                        let line = format!("writer {writer} line {number} {}\n", "x".repeat(20));
                        log.write_line(line.as_bytes()).unwrap();
                    }
                })
            })
            .collect();
        writers.into_iter().for_each(|writer| writer.join().unwrap());
        let files = files(&path);
        assert!(files.len() > 50, "only {} files", files.len());
        let lines: Vec<_> = files.iter().flat_map(|(_, text)| text.lines()).collect();
        assert_eq!(lines.len(), WRITERS * LINES);
        assert!(lines.iter().all(|line| line.ends_with(&"x".repeat(20))));
        let different: BTreeSet<_> = lines.into_iter().collect();
        assert_eq!(different.len(), WRITERS * LINES);
        fs::remove_dir_all(folder).unwrap();
    }
}

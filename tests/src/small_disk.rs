//! A disk of a few megabytes, where the test may make one.

use std::path::{Path, PathBuf};
use std::process::Command;

/// A filesystem in memory, mounted as long as this value lives.
pub struct SmallDisk(PathBuf);

impl SmallDisk {
    /// Mounts `size_mb` megabytes at `path`, which is made. `None`, with a printed reason, where
    /// this user may not mount.
    pub fn mount(path: &Path, size_mb: u32) -> Option<Self> {
        std::fs::create_dir_all(path).expect("make the mount point");
        let disk = Self(path.to_owned());
        match disk.run("mount", &["-t", "tmpfs", "-o", &format!("size={size_mb}m"), "tmpfs"]) {
            Ok(()) => Some(disk),
            Err(reason) => {
                println!("SKIPPED, no small disk can be made here: {reason}");
                // Nothing to take away.
                std::mem::forget(disk);
                None
            }
        }
    }

    /// Makes it larger or smaller.
    pub fn resize(&self, size_mb: u32) {
        let size = format!("remount,size={size_mb}m");
        self.run("mount", &["-o", &size]).expect("resize the small disk");
    }

    /// Fills it to its last byte, into one file, and returns that file's path.
    pub fn fill(&self) -> PathBuf {
        use std::io::Write as _;

        let path = self.0.join("filler");
        let mut file = std::fs::File::create(&path).expect("create the filler");
        // Whole pieces, then single pages, until nothing fits.
        for size in [1 << 20, 4_096] {
            let zeros = vec![0; size];
            while file.write_all(&zeros).is_ok() {}
        }
        path
    }

    fn run(&self, program: &str, arguments: &[&str]) -> Result<(), String> {
        let output = Command::new(program).args(arguments).arg(&self.0).output();
        let output = output.map_err(|error| format!("{program}: {error}"))?;
        if output.status.success() {
            return Ok(());
        }
        Err(String::from_utf8_lossy(&output.stderr).trim().to_owned())
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        // Lazily: processes of the test may still look at it.
        if let Err(reason) = self.run("umount", &["-l"]) {
            println!("the small disk at {} stays: {reason}", self.0.display());
        }
    }
}

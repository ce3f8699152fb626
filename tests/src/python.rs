//! Programs of the Python world, in virtual environments of their own in the target folder.

use std::fs::File;
use std::path::PathBuf;
use std::process::Command;

use crate::process::target_folder;

/// The folder of the programs of a package, `name==version`; installed by the first test that asks.
pub fn programs_of(package: &str) -> PathBuf {
    let folder = target_folder().join("peers").join(package.replace("==", "-"));
    std::fs::create_dir_all(&folder).expect("a folder for a virtual environment");
    let lock = File::create(folder.join("lock")).expect("a lock for the installation");
    lock.lock().expect("wait for whoever is installing it");
    // Written last: what has it is complete.
    let (venv, complete) = (folder.join("venv"), folder.join("complete"));
    if !complete.is_file() {
        run(Command::new("python3").args(["-m", "venv", "--clear"]).arg(&venv));
        run(Command::new(venv.join("bin/pip")).args([
            "install",
            "--quiet",
            "--disable-pip-version-check",
            package,
        ]));
        File::create(&complete).expect("note that the installation is complete");
    }
    venv.join("bin")
}

/// Runs it to its end, which must be a good one.
pub fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| {
        panic!("{command:?}: {error}; `./dev test` installs what the tests need")
    });
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?} failed: {told}");
}

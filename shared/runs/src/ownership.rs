//! Files that root writes for the user that the services run as.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt as _, chown};
use std::path::Path;

/// Written by root, a file still has to be read by the services' user: it is given to the owner of
/// `model`, its folder or the file whose place it takes. Anybody else can give nothing away, and
/// nothing happens.
///
/// # Errors
/// When the system refuses.
pub fn owned_as(path: &Path, model: &Path) -> io::Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    let owner = fs::metadata(model)?;
    chown(path, Some(owner.uid()), Some(owner.gid()))
}

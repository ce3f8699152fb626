//! Folders that nobody else may look into: dumps and chunks hold a shop's data.

use std::{fs::DirBuilder, io, path::Path};

/// Makes a folder, and those above it that are missing, for this user alone, whatever the umask.
/// Folders that are there already keep their mode: whoever made them may have meant it.
pub(crate) fn create(folder: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)
}

#[cfg(all(test, unix))]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    #[test]
    fn every_folder_made_is_private_and_others_stay_as_they_are() {
        let outer = tempfile::tempdir().expect("a temporary folder");
        let shared = outer.path().join("shared");
        std::fs::create_dir(&shared).expect("creates");
        let everybody = std::fs::Permissions::from_mode(0o755);
        std::fs::set_permissions(&shared, everybody).expect("sets the mode");
        let inner = shared.join("dumps/shop");
        create(&inner).expect("creates");
        create(&inner).expect("a second time changes nothing");
        let mode =
            |path: &Path| std::fs::metadata(path).expect("is there").permissions().mode() & 0o777;
        assert_eq!(mode(&inner), 0o700);
        assert_eq!(mode(&shared.join("dumps")), 0o700);
        assert_eq!(mode(&shared), 0o755);
    }
}

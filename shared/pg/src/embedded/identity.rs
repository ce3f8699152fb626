//! The user the server runs as: ours, or as root an unprivileged one, since PostgreSQL refuses root.

use std::fs::{self, File, OpenOptions};
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, OpenOptionsExt as _, PermissionsExt as _};
use std::path::Path;

use super::error::EmbeddedError;

/// The server's user when it isn't ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Other {
    pub(super) name: String,
    pub(super) uid: u32,
    pub(super) gid: u32,
}

/// The user the server runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Identity {
    /// The one that we run as.
    Ours,
    /// We are root; the server isn't.
    Other(Other),
}

impl Identity {
    /// Whoever owns existing data, else `postgres`, else `nobody`; ours unless we are root.
    pub(super) fn choose(data: &Path) -> Result<Self, EmbeddedError> {
        if !rustix::process::geteuid().is_root() {
            return Ok(Self::Ours);
        }
        let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
        let owner = fs::metadata(data).ok().filter(|owner| owner.uid() != 0);
        if let Some(owner) = owner {
            let name = find_user(&passwd, |user| user.uid == owner.uid()).map(|user| user.name);
            let name = name.unwrap_or_else(|| owner.uid().to_string());
            return Ok(Self::Other(Other { name, uid: owner.uid(), gid: owner.gid() }));
        }
        ["postgres", "nobody"]
            .iter()
            .find_map(|name| find_user(&passwd, |user| user.name == *name))
            .filter(|user| user.uid != 0)
            .map(Self::Other)
            .ok_or(EmbeddedError::NoUser)
    }

    /// Makes `root` and its parents passable for the server's user, or says which one isn't. Only
    /// `data_dir` and what is below it is ours to open; a root-only parent is left alone.
    pub(super) fn check_way(&self, data_dir: &Path, root: &Path) -> Result<(), EmbeddedError> {
        let Self::Other(user) = self else { return Ok(()) };
        for parent in root.ancestors().filter(|path| !path.as_os_str().is_empty()) {
            let metadata =
                fs::metadata(parent).map_err(EmbeddedError::io("look at the folder", parent))?;
            if passable(metadata.mode(), metadata.uid(), metadata.gid(), user) {
                continue;
            }
            let ours = parent.starts_with(data_dir) && metadata.uid() == 0 && metadata.gid() == 0;
            if !ours {
                return Err(EmbeddedError::NotTraversable {
                    parent: parent.to_owned(),
                    user: user.name.clone(),
                });
            }
            // The server's group may pass through, nobody may list or read more than before.
            std::os::unix::fs::chown(parent, None, Some(user.gid))
                .map_err(EmbeddedError::io("open the folder for the server's group", parent))?;
            let mode = metadata.mode() & 0o7707 | 0o010;
            fs::set_permissions(parent, fs::Permissions::from_mode(mode))
                .map_err(EmbeddedError::io("open the folder for the server's group", parent))?;
        }
        Ok(())
    }

    /// Makes a folder that only the server's user may enter. One that exists is left as it is.
    pub(super) fn make_dir(&self, path: &Path) -> Result<(), EmbeddedError> {
        use std::os::unix::fs::DirBuilderExt as _;
        match fs::DirBuilder::new().mode(0o700).create(path) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => return Ok(()),
            Err(error) => return Err(EmbeddedError::io("make the folder", path)(error)),
        }
        if let Self::Other(user) = self {
            std::os::unix::fs::lchown(path, Some(user.uid), Some(user.gid))
                .map_err(EmbeddedError::io("give the folder to the server's user", path))?;
        }
        Ok(())
    }

    /// Writes a file for the server's eyes only, whole or not at all. The new file is made under
    /// another name and moved into place: the folder belongs to a lesser user than we may be, so a
    /// link planted there must not be followed.
    pub(super) fn write_file(&self, path: &Path, content: &str) -> Result<(), EmbeddedError> {
        let owner = match self {
            Self::Ours => None,
            Self::Other(user) => Some((user.uid, user.gid)),
        };
        write_private(path, content, owner)
    }
}

/// Writes a file of mode 0600, whole or not at all, durable when it returns.
pub(super) fn write_private(
    path: &Path,
    content: &str,
    owner: Option<(u32, u32)>,
) -> Result<(), EmbeddedError> {
    let folder = path.parent().unwrap_or(Path::new("/"));
    let fresh = folder.join(format!(".relevo-{:016x}", rand::random::<u64>()));
    let write = || -> std::io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&fresh)?;
        if let Some((uid, gid)) = owner {
            std::os::unix::fs::fchown(&file, Some(uid), Some(gid))?;
        }
        file.write_all(content.as_bytes())?;
        file.sync_all()?;
        fs::rename(&fresh, path)?;
        File::open(folder)?.sync_all()
    };
    write().map_err(|source| {
        // The half-written file is of no use; that it may not exist is no news.
        let _ = fs::remove_file(&fresh);
        EmbeddedError::io("write", path)(source)
    })
}

fn passable(mode: u32, uid: u32, gid: u32, user: &Other) -> bool {
    let bit = match (uid == user.uid, gid == user.gid) {
        (true, _) => 0o100,
        (false, true) => 0o010,
        (false, false) => 0o001,
    };
    mode & bit != 0
}

fn find_user(passwd: &str, wanted: impl Fn(&Other) -> bool) -> Option<Other> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?.to_owned();
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        Some(Other { name, uid, gid }).filter(&wanted)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn users_are_found_and_ways_judged() {
        let passwd = "root:x:0:0:root:/root:/bin/sh\npostgres:x:101:104:PG:/var/lib:/bin/sh\n";
        let user = find_user(passwd, |user| user.name == "postgres").unwrap();
        assert_eq!((user.uid, user.gid), (101, 104));
        assert!(find_user(passwd, |user| user.name == "nobody").is_none());
        for (mode, uid, gid, good) in [
            (0o40755, 0, 0, true),
            (0o40700, 0, 0, false),
            (0o40750, 0, 104, true),
            (0o40705, 0, 104, false),
            (0o40700, 101, 0, true),
            (0o40077, 101, 0, false),
        ] {
            assert_eq!(passable(mode, uid, gid, &user), good, "{mode:o} {uid}:{gid}");
        }
    }
}

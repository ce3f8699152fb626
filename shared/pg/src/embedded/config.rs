//! What the embedded server is told: where to listen, and to be durable.

use std::fs;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use super::error::EmbeddedError;
use super::identity::Identity;
use super::layout::Layout;
use super::tools::remove_file;

/// Put at the end of `postgresql.conf` once, when the data are made; people may change it.
const ONCE: &str = "
# Relevo's starting point; change it as you like.
shared_buffers = '128MB'
max_wal_size = '2GB'
checkpoint_timeout = '10min'
max_connections = 100
jit = off
timezone = 'UTC'
log_timezone = 'UTC'
logging_collector = on
log_directory = 'log'
log_filename = 'postgresql-%a.log'
log_truncate_on_rotation = on
log_rotation_age = '1d'
log_rotation_size = 0
log_line_prefix = '%m [%p] %a '

# Relevo writes this file anew at every start.
include_if_exists 'relevo.conf'
";

/// A socket's path, with its file name, may have this many bytes.
const SOCKET_PATH_MAX_BYTES: usize = 107;
const SOCKET_NAME_MAX_BYTES: usize = "/.s.PGSQL.65535".len();

/// Completes the configuration that initdb made in `data`.
pub(super) fn complete(identity: &Identity, data: &Path) -> Result<(), EmbeddedError> {
    let path = data.join("postgresql.conf");
    let made = fs::read_to_string(&path).map_err(EmbeddedError::io("read", &path))?;
    identity.write_file(&path, &format!("{made}{ONCE}"))
}

/// Writes what holds for this start.
pub(super) fn write_start(
    identity: &Identity,
    layout: &Layout,
    port: u16,
) -> Result<(), EmbeddedError> {
    let sockets = socket_dir(identity, layout)?;
    let sockets = sockets.map(|dir| quoted(&dir)).unwrap_or_default();
    let text = format!(
        "# Written by Relevo at every start; changes are lost.\n\
         listen_addresses = '127.0.0.1'\n\
         port = {port}\n\
         unix_socket_directories = '{sockets}'\n\
         unix_socket_permissions = 0700\n\
         password_encryption = 'scram-sha-256'\n\
         fsync = on\n\
         full_page_writes = on\n\
         synchronous_commit = on\n"
    );
    identity.write_file(&layout.data.join("relevo.conf"), &text)
}

/// The path as an element of a list inside a configuration string.
fn quoted(path: &Path) -> String {
    let element = path.to_string_lossy().replace('"', "\"\"");
    format!("\"{}\"", element.replace('\\', "\\\\").replace('\'', "''"))
}

/// A folder for the socket: below the server's own, or, since a socket's path must be short, one
/// under `/tmp` that is surely the server's user's. Without either the server listens on TCP alone.
fn socket_dir(identity: &Identity, layout: &Layout) -> Result<Option<PathBuf>, EmbeddedError> {
    let own = layout.server.join("run");
    if own.as_os_str().len() + SOCKET_NAME_MAX_BYTES <= SOCKET_PATH_MAX_BYTES {
        identity.make_dir(&own)?;
        clear_sockets(&own)?;
        return Ok(Some(own));
    }
    let short = short_socket_dir(layout);
    // Without room in /tmp, or with someone else's folder there, TCP has to do.
    if identity.make_dir(&short).is_err() || !belongs(identity, &short) {
        return Ok(None);
    }
    clear_sockets(&short)?;
    Ok(Some(short))
}

/// Removes what a killed server left: its socket's lock file, like its pid file, may name a process
/// that is there and isn't it, and the next server would refuse to start. No server runs now, and
/// the folder is used by no other.
fn clear_sockets(dir: &Path) -> Result<(), EmbeddedError> {
    let entries = fs::read_dir(dir).map_err(EmbeddedError::io("list", dir))?;
    for entry in entries.flatten() {
        if entry.file_name().to_string_lossy().starts_with(".s.PGSQL.") {
            remove_file(&entry.path())?;
        }
    }
    Ok(())
}

/// The same for the same server, so that it is found and removed again.
pub(super) fn short_socket_dir(layout: &Layout) -> PathBuf {
    // FNV-1a: it has to be short and stable, not secret.
    let hash = layout
        .server
        .as_os_str()
        .as_encoded_bytes()
        .iter()
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
            (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
        });
    PathBuf::from(format!("/tmp/relevo-pg-{hash:016x}"))
}

fn belongs(identity: &Identity, dir: &Path) -> bool {
    let uid = match identity {
        Identity::Ours => rustix::process::geteuid().as_raw(),
        Identity::Other(user) => user.uid,
    };
    fs::symlink_metadata(dir)
        .is_ok_and(|dir| dir.is_dir() && dir.uid() == uid && dir.mode() & 0o077 == 0)
}

/// The former port if it is still free, so that addresses handed out stay true; else any.
pub(super) fn free_port(former: u16) -> Result<u16, EmbeddedError> {
    let bind = |port| TcpListener::bind((Ipv4Addr::LOCALHOST, port));
    let listener = match former {
        0 => bind(0),
        former => bind(former).or_else(|_| bind(0)),
    };
    listener
        .and_then(|listener| listener.local_addr())
        .map(|address| address.port())
        .map_err(EmbeddedError::io("find a free port on", Path::new("127.0.0.1")))
}

/// Whether someone listens there.
pub(super) fn taken(port: u16) -> bool {
    TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_err()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_survive_the_configuration_file() {
        for (path, expected) in [
            ("/var/lib/relevo", r#""/var/lib/relevo""#),
            ("/it's a \"dir\"", r#""/it''s a ""dir""""#),
            (r"/back\slash, comma", r#""/back\\slash, comma""#),
        ] {
            assert_eq!(quoted(Path::new(path)), expected);
        }
    }

    #[test]
    fn a_deep_folder_gets_a_short_socket() {
        let deep = PathBuf::from("/").join("d".repeat(120));
        let layout = Layout::of(&deep).unwrap();
        let short = short_socket_dir(&layout);
        assert!(short.as_os_str().len() + SOCKET_NAME_MAX_BYTES <= SOCKET_PATH_MAX_BYTES);
        assert_eq!(short, short_socket_dir(&layout));
    }
}

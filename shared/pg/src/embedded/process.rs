//! Tells whether the server runs, from its pid file and the process table.

use std::fs;
use std::path::Path;
use std::time::Duration;

use tokio::time::Instant;

use super::error::EmbeddedError;

/// A killed server's processes notice within moments.
const LEFTOVERS_TIMEOUT: Duration = Duration::from_secs(30);
const POLL: Duration = Duration::from_millis(50);

/// What `postmaster.pid` and the process table say together.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ServerState {
    /// No server; nothing in the way of a start.
    Stopped,
    /// No server, but the pid file names a process: another program, since the number was given
    /// again, or the dead server itself, whose parent hasn't asked yet. Both happen in containers.
    Mistaken,
    /// Runs.
    Running {
        /// Its TCP port.
        port: u16,
        /// Not starting and not stopping.
        ready: bool,
    },
}

/// What the server wrote into its pid file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct PidFile {
    pid: i32,
    port: Option<u16>,
    ready: bool,
}

fn parse(text: &str) -> Option<PidFile> {
    let lines: Vec<_> = text.lines().map(str::trim).collect();
    let pid = lines.first()?.parse().ok().filter(|pid| *pid > 0)?;
    let port = lines.get(3).and_then(|port| port.parse().ok());
    Some(PidFile { pid, port, ready: lines.get(7) == Some(&"ready") })
}

pub(super) fn server_state(data: &Path) -> Result<ServerState, EmbeddedError> {
    let path = data.join("postmaster.pid");
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Ok(ServerState::Stopped);
        }
        Err(error) => return Err(EmbeddedError::io("read", &path)(error)),
    };
    let Some(file) = parse(&text) else { return Ok(ServerState::Stopped) };
    if !in_use(file.pid) {
        return Ok(ServerState::Stopped);
    }
    Ok(match works_in(file.pid, data) {
        Some(false) => ServerState::Mistaken,
        None if is_zombie(file.pid) => ServerState::Mistaken,
        // Where the process table doesn't tell, the pid file is believed.
        Some(true) | None => {
            ServerState::Running { port: file.port.unwrap_or(0), ready: file.ready }
        }
    })
}

/// Whether the number belongs to any process, dead ones that nobody has asked about included: the
/// server itself doesn't tell them apart either when it finds its pid file.
fn in_use(pid: i32) -> bool {
    let Some(pid) = rustix::process::Pid::from_raw(pid) else { return false };
    match rustix::process::test_kill_process(pid) {
        Ok(()) => true,
        // It is there, and belongs to someone else.
        Err(error) => error == rustix::io::Errno::PERM,
    }
}

/// A dead process whose parent hasn't asked yet.
fn is_zombie(pid: i32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The program's name stands in parentheses and may hold anything, so the last one counts.
    stat.rsplit_once(')').is_some_and(|(_, rest)| rest.trim_start().starts_with('Z'))
}

/// Whether a process works in the data directory, as all of a server's do; `None` where that
/// cannot be known.
fn works_in(pid: i32, data: &Path) -> Option<bool> {
    let cwd = fs::read_link(format!("/proc/{pid}/cwd")).ok()?;
    Some(cwd == data)
}

/// Waits until no process of a former server is left: the survivors of a killed one hold its shared
/// memory, and a start beside them would be refused or, without its pid file, ruinous.
pub(super) async fn wait_for_leftovers(data: &Path) -> Result<(), EmbeddedError> {
    let deadline = Instant::now() + LEFTOVERS_TIMEOUT;
    loop {
        let left = processes_in(data);
        if left.is_empty() {
            return Ok(());
        }
        if Instant::now() >= deadline {
            let pids: Vec<_> = left.iter().map(ToString::to_string).collect();
            return Err(EmbeddedError::Leftovers {
                data: data.to_owned(),
                seconds: LEFTOVERS_TIMEOUT.as_secs(),
                pids: pids.join(", "),
            });
        }
        tokio::time::sleep(POLL).await;
    }
}

fn processes_in(data: &Path) -> Vec<i32> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse().ok())
        .filter(|pid| works_in(*pid, data) == Some(true))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pid_files_are_read() {
        let text = "4711\n/x/data\n1700000000\n54012\n/x/run\n127.0.0.1\n  1234  5\nready   \n";
        assert_eq!(parse(text), Some(PidFile { pid: 4711, port: Some(54_012), ready: true }));
        let starting = "4711\n/x/data\n1700000000\n54012\n";
        assert_eq!(parse(starting), Some(PidFile { pid: 4711, port: Some(54_012), ready: false }));
        for text in ["", "-1\n", "x\n"] {
            assert_eq!(parse(text), None, "{text:?}");
        }
    }

    #[test]
    fn a_pid_given_again_is_recognised() {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().canonicalize().unwrap();
        assert_eq!(server_state(&data).unwrap(), ServerState::Stopped);
        let mine = format!("{}\n{}\n1\n5\n", std::process::id(), data.display());
        std::fs::write(data.join("postmaster.pid"), mine).unwrap();
        assert_eq!(server_state(&data).unwrap(), ServerState::Mistaken);
        std::fs::write(data.join("postmaster.pid"), "2147483646\n").unwrap();
        assert_eq!(server_state(&data).unwrap(), ServerState::Stopped);
    }
}

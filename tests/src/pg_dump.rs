//! Backups of a target as people make them.

use std::path::Path;
use std::process::Stdio;

use tokio::process::Command;

/// Runs `pg_dump` of the schema `public` into `out`: a folder with that many parallel workers, or a
/// plain file where `jobs` is 1. A lock that is not to be had at once is waited for, as `pg_dump`
/// does unless told otherwise.
///
/// # Errors
/// What it said when it failed.
pub async fn pg_dump(url: &str, out: &Path, jobs: u32) -> Result<(), String> {
    let mut command = Command::new("pg_dump");
    command.arg("--dbname").arg(url).args(["--schema", "public"]).arg("--file").arg(out);
    if jobs > 1 {
        command.args(["--format", "directory", "--jobs", &jobs.to_string()]);
    } else {
        command.args(["--format", "plain"]);
    }
    let output = command.stdin(Stdio::null()).kill_on_drop(true).output().await;
    let output = output.map_err(|error| format!("start pg_dump: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(String::from_utf8_lossy(&output.stderr).into_owned())
}

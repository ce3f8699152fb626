//! The import itself, in a process of its own.

use std::fs::File;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use relevo_import::{DirectOptions, NoProgress, Phase, Verify, import_file};
use serde::{Deserialize, Serialize};

/// What one import took.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Imported {
    pub rows: u64,
    /// From the first byte to readers seeing the new tables.
    pub live_s: f64,
    /// Until the function returned: VACUUM and clearing up included.
    pub all_s: f64,
    /// From the first byte to the last row in the staging schema.
    pub load_s: f64,
    pub peak_rss_bytes: u64,
}

/// The child: imports, prints what it took.
pub async fn one(file: &Path, url: &str, jobs: usize, values: bool) -> Result<()> {
    let mut options = DirectOptions::new(url.into());
    options.jobs = jobs;
    if values {
        options.import.verify = Verify::Values;
    }
    let started = Instant::now();
    let certificate = import_file(File::open(file)?, options, Arc::new(NoProgress)).await?;
    let all_s = started.elapsed().as_secs_f64();
    let seconds = |wanted: &dyn Fn(Phase) -> bool| -> f64 {
        let phases = certificate.phases.iter().filter(|phase| wanted(phase.phase));
        phases.map(|phase| Duration::from_millis(phase.duration_ms).as_secs_f64()).sum()
    };
    let imported = Imported {
        rows: certificate.rows,
        live_s: seconds(&|_| true),
        all_s,
        load_s: seconds(&|phase| phase == Phase::Load),
        peak_rss_bytes: peak_rss_bytes()?,
    };
    println!("{}", serde_json::to_string(&imported)?);
    Ok(())
}

/// The parent: starts the child and reads what it printed.
pub async fn in_child(file: &Path, url: &str, jobs: usize, values: bool) -> Result<Imported> {
    let mut command = tokio::process::Command::new(std::env::current_exe()?);
    command.env_remove("RELEVO_BENCH_DUMP").arg("one").arg(file).arg(url).arg(jobs.to_string());
    if values {
        command.arg("--values");
    }
    let output = command.kill_on_drop(true).output().await?;
    let text = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "the import failed: {text}");
    serde_json::from_slice(&output.stdout).context("the import printed something else")
}

/// The most memory this process has held so far: what `ru_maxrss` says too.
fn peak_rss_bytes() -> Result<u64> {
    let status = std::fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    let kilobytes = line.context("no VmHWM")?.trim().trim_end_matches(" kB").trim();
    Ok(kilobytes.parse::<u64>()? * 1024)
}

//! Searching targets and this host's disk for what no run needs any more: also what a stopped process
//! left after its run was cleaned up.
//!
//! Killed here, then what? The next search finds the rest.

use std::{
    collections::{BTreeMap, btree_map::Entry},
    time::{Duration, SystemTime},
};

use anyhow::anyhow;
use relevo_import::steps;
use relevo_runs::{RunId, RunState, backup_requests};

use super::{
    files::{FileFate, file_name_of},
    reconcile::Memory,
    run_names::RunKey,
    step::{describe, import_id},
};
use crate::context::Context;

/// Compares what imports left in every target with the active runs.
pub(crate) async fn sweep_targets(context: &Context, memory: &mut Memory) -> anyhow::Result<()> {
    for name in context.settings.backup.keys() {
        if memory.may_try(name).is_err() {
            continue;
        }
        match sweep_target(context, name).await {
            Ok(()) => memory.reached(name),
            Err(error) => {
                memory.could_not_reach(name);
                tracing::warn!(
                    source = name,
                    error = error.as_ref() as &dyn std::error::Error,
                    "the target could not be searched for leftovers"
                );
            }
        }
    }
    Ok(())
}

async fn sweep_target(context: &Context, name: &str) -> anyhow::Result<()> {
    let Some(source) = context.source(name) else { return Ok(()) };
    let source = source.map_err(|error| anyhow!(describe(error)))?;
    let target = context.targets.pool(name, source).await?;
    // The target first, then the runs: an import that begins meanwhile is not on the list, and a
    // run whose import is on it has been there before.
    let left = steps::leftovers(&target, &context.identity.cluster_id).await?;
    if left.is_empty() {
        return Ok(());
    }
    let mut wanted = Vec::new();
    for run in context.runs.active().await? {
        for request in backup_requests::of_run(&context.pool, run.id).await? {
            wanted.push(import_id(context, RunKey::from(&run), request.id)?);
        }
    }
    for leftover in left.iter().filter(|leftover| !wanted.contains(leftover.import())) {
        if steps::clear(&target, leftover).await? {
            let import = leftover.import();
            tracing::info!(source = name, %import, "removed what was left of an import");
        }
    }
    Ok(())
}

/// Removes files and chunks on this disk whose runs have ended: also those that a stopped process
/// wrote after its run was cleaned up.
pub(crate) async fn sweep_disk(context: &Context) -> anyhow::Result<()> {
    let files = context.files.clone();
    let mut runs = tokio::task::spawn_blocking(move || files.runs()).await??;
    let with_chunks = context.chunks.runs().await?;
    runs.extend(&with_chunks);
    if runs.is_empty() {
        return Ok(());
    }
    let mut fates = BTreeMap::new();
    for key in runs {
        if let Entry::Vacant(entry) = fates.entry(key) {
            let run = context.runs.get(RunId(key.id)).await?;
            // A restored control plane gives numbers out again.
            let run = run.filter(|run| RunKey::from(run) == key);
            entry.insert(run.map_or(FileFate::Unknown, |run| match run.state {
                RunState::Pending | RunState::Running => FileFate::Active,
                RunState::Succeeded => FileFate::Good,
                RunState::Failed | RunState::Cancelled => FileFate::Useless,
            }));
        }
    }
    for key in with_chunks {
        // The run of chunks is there before them; one that is not there was lost or forgotten.
        if fates.get(&key) != Some(&FileFate::Active) {
            context.chunks.delete_all(key).await?;
        }
    }
    let retention: BTreeMap<String, Duration> = context
        .settings
        .backup
        .iter()
        .map(|(name, source)| {
            let days = u64::from(source.retention_days);
            (file_name_of(name), Duration::from_secs(days * 24 * 3_600))
        })
        .collect();
    let files = context.files.clone();
    let removed = tokio::task::spawn_blocking(move || {
        let fate = |run| fates.get(&run).copied().unwrap_or(FileFate::Unknown);
        // Dumps of a source that is not configured here any more stay.
        let keep = |folder: &str| retention.get(folder).copied().unwrap_or(Duration::MAX);
        files.sweep(&fate, &keep, SystemTime::now())
    })
    .await??;
    for path in removed {
        tracing::info!(path = %path.display(), "removed a file that no run needs any more");
    }
    Ok(())
}

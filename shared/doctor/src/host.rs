//! This machine: its disk, its folders, its keys.

use std::path::{Path, PathBuf};

use relevo_connections::{KeyError, Keyring, keyring};
use relevo_notify::rules::{self, Space};
use relevo_settings::Settings;
use rustix::fs::Access;
use url::Url;

use crate::Finding;

/// Less than this is too little for any dump.
const FREE_BYTES_MIN: u64 = 1 << 30;

pub(crate) async fn ask(settings: &Settings) -> Vec<Finding> {
    let mut findings = Vec::new();
    findings.extend(folder("data_dir", &settings.data_dir, settings).await);
    let store = Url::parse(&settings.chunk_store.url).ok().and_then(|url| url.to_file_path().ok());
    if let Some(store) = store.filter(|store| !store.starts_with(&settings.data_dir)) {
        findings.extend(folder("chunk_store", &store, settings).await);
    }
    match Keyring::load(settings) {
        // It is made when the first connection is kept.
        Ok(_) | Err(KeyError::Missing { .. }) => {}
        Err(error) => findings.push(Finding::problem(
            "host.secret_key",
            "host",
            relevo_errors::chain(&error),
            format!(
                "put {} right; secrets cannot be opened without it",
                keyring::path(settings).display()
            ),
        )),
    }
    findings
}

async fn folder(subject: &str, folder: &Path, settings: &Settings) -> Vec<Finding> {
    let mut findings = Vec::new();
    let shown = folder.display();
    let nearest = folder.to_owned();
    let writable = tokio::task::spawn_blocking(move || {
        let existing: Option<PathBuf> =
            nearest.ancestors().find(|folder| folder.exists()).map(Path::to_owned);
        existing.is_some_and(|folder| {
            rustix::fs::access(&folder, Access::WRITE_OK | Access::EXEC_OK).is_ok()
        })
    });
    if !writable.await.unwrap_or(false) {
        findings.push(Finding::problem(
            "host.folder_writable",
            subject,
            format!("{shown} cannot be written to by this user"),
            format!("give this user the folder, or set {subject} to another one"),
        ));
    }
    let Some(space) = rules::space(folder).await else {
        let message = format!("the system does not say how much room there is under {shown}");
        let advice = "see whether the disk or the network share answers";
        findings.push(Finding::warning("host.disk", subject, message, advice));
        return findings;
    };
    findings.push(room(subject, &shown.to_string(), space, settings));
    findings
}

fn room(subject: &str, shown: &str, space: Space, settings: &Settings) -> Finding {
    let free = format!(
        "{shown}: {} of {} MiB free ({} %)",
        space.free_bytes >> 20,
        space.total_bytes >> 20,
        space.free_percent()
    );
    let min = u64::from(settings.alerts.disk_free_percent_min);
    if space.free_bytes < FREE_BYTES_MIN {
        let advice =
            "free some space: a dump, its chunks and the copy being loaded need several GiB";
        Finding::problem("host.disk", subject, free, advice)
    } else if space.free_percent() < min {
        let advice = format!("free some space; alerts.disk_free_percent_min is {min} %");
        Finding::warning("host.disk", subject, free, advice)
    } else {
        Finding::ok("host.disk", subject, free)
    }
}

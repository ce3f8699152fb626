//! `relevo backup run --file`: a dump on this machine is handed to the workers as an upload.

use std::fs::File;
use std::io::Read as _;
use std::path::Path;

use anyhow::{Context as _, anyhow};
use relevo_runs::control_plane;
use relevo_runs::uploads::{self, NewUpload, Store};
use serde_json::json;

use crate::audited::{Audited, actor};
use crate::control::ControlPlane;
use crate::failure::{Advise as _, Exit, Failure, OrFail as _};

/// How much is copied at a time.
const PIECE_BYTES: usize = 8 << 20;

/// Copies the dump to where the workers see it, and returns the upload's number. Broken off, it
/// leaves an upload that expires.
pub async fn hand_over(control: &ControlPlane, source: &str, path: &Path) -> Result<i64, Failure> {
    let file = File::open(path)
        .with_context(|| format!("{} can't be opened", path.display()))
        .or_exit(Exit::NotFound)?;
    let metadata = file.metadata().context("its size can't be read")?;
    if !metadata.is_file() || metadata.len() == 0 {
        return Err(Failure::new(Exit::Usage, format!("{} is no dump", path.display()))
            .advise("name a file that mysqldump or mariadb-dump wrote, gzipped or not"));
    }
    let total_bytes = metadata.len();
    let filename = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    let identity =
        control_plane::identity(&control.pool).await.context("the control plane's identity")?;
    let url = &control.settings.chunk_store.url;
    let store = Store::at(url, &identity.cluster_id)
        .ok_or_else(|| anyhow!("chunk_store.url {url} names no folder"))?;
    let preparing = store.clone();
    tokio::task::spawn_blocking(move || preparing.prepare(total_bytes))
        .await
        .context("the copy crashed")?
        .with_context(|| format!("there is no room for the dump in the chunk store {url}"))
        .or_exit(Exit::Failed)?;

    let mut audited = Audited::begin(control).await?;
    let new = NewUpload {
        source: source.to_owned(),
        filename,
        total_bytes: i64::try_from(total_bytes).context("it is too large")?,
        sha256: None,
        options: json!({}),
        created_by: actor().label(),
    };
    let created = uploads::create_in(&mut audited.tx, &new).await;
    let upload = created
        .context("the upload can't be announced")?
        .ok_or_else(|| anyhow!("{} uploads are under way", uploads::OPEN_MAX))
        .or_exit(Exit::Failed)
        .advise("wait until they are done or expire (24 hours)")?;
    let id = upload.id;
    audited.commit("upload.create", &id.to_string(), None, Some(json!(upload))).await?;

    let copied = tokio::task::spawn_blocking(move || copy(file, &store, id, total_bytes));
    copied
        .await
        .context("the copy crashed")?
        .with_context(|| format!("{} can't be copied to the chunk store {url}", path.display()))
        .or_exit(Exit::Failed)?;
    let mut audited = Audited::begin(control).await?;
    uploads::complete_in(&mut audited.tx, id).await.context("the upload can't be completed")?;
    audited.commit("upload.complete", &id.to_string(), None, None).await?;
    Ok(id)
}

fn copy(file: File, store: &Store, id: i64, total_bytes: u64) -> anyhow::Result<()> {
    let mut offset = 0;
    let mut piece = Vec::with_capacity(PIECE_BYTES);
    // No more than was announced, should somebody be appending.
    let mut file = file.take(total_bytes);
    loop {
        piece.clear();
        (&mut file).take(PIECE_BYTES as u64).read_to_end(&mut piece)?;
        if piece.is_empty() {
            break;
        }
        offset = store.append(id, offset, &piece, total_bytes)?;
    }
    anyhow::ensure!(offset == total_bytes, "it became shorter while it was copied");
    Ok(())
}

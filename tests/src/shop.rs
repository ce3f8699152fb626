//! Dumps of a shop: the committed one, and larger ones made on demand.

use std::path::{Path, PathBuf};
use std::time::Duration;

use sha2::{Digest, Sha256};

use crate::database::hex;
use crate::reference::Reference;
use crate::{Process, binary_path};

/// How long making a dump may take, per megabyte and at least.
const TIME_PER_MB: Duration = Duration::from_secs(3);
const TIME_AT_LEAST: Duration = Duration::from_secs(120);

/// A dump and what MariaDB says is in it.
pub struct ShopDump {
    /// The .sql.gz file.
    pub path: PathBuf,
    /// Its reference values.
    pub reference: Reference,
}

impl ShopDump {
    /// The dump that is part of the sources: about 0.8 MB unpacked, every table and oddity.
    pub fn committed() -> Self {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("data");
        Self::read(&folder.join("shop"))
    }

    /// A dump of about `size_mb` megabytes, made by `relevo-shop` in a MariaDB of its own and kept
    /// for later runs.
    ///
    /// # Panics
    ///
    /// When MariaDB is not installed.
    pub async fn generated(size_mb: u32, seed: u64) -> Self {
        let folder = binary_path("relevo-shop").with_file_name("relevo-shop-dumps");
        std::fs::create_dir_all(&folder).expect("create the folder of dumps");
        let kind = format!("{size_mb}mb-{seed}-");
        let name = format!("{kind}{}", generator_fingerprint());
        let stem = folder.join(&name);
        if !with_suffix(&stem, ".json").exists() {
            remove_older(&folder, &kind, &name);
            // Two tests may make the same dump at once: whole files replace whole equal files.
            let own = folder.join(format!("unfinished-{}", std::process::id()));
            let process = Process::builder("relevo-shop")
                .args(["--size-mb", &size_mb.to_string(), "--seed", &seed.to_string()])
                .arg("--out")
                .arg(with_suffix(&own, ".sql.gz"))
                .arg("--reference")
                .arg(with_suffix(&own, ".json"))
                .spawn();
            let status = process.wait_exit((TIME_PER_MB * size_mb).max(TIME_AT_LEAST)).await;
            assert!(status.success(), "relevo-shop failed ({status}):\n{}", process.output());
            for suffix in [".sql.gz", ".json"] {
                std::fs::rename(with_suffix(&own, suffix), with_suffix(&stem, suffix))
                    .expect("keep the dump");
            }
        }
        Self::read(&stem)
    }

    fn read(stem: &Path) -> Self {
        let path = with_suffix(stem, ".sql.gz");
        assert!(path.is_file(), "{} is missing", path.display());
        Self { path, reference: Reference::read(&with_suffix(stem, ".json")) }
    }
}

/// Changes with the generator, so that its dumps do not outlive it. The binary's age would not do:
/// it is linked again whenever any crate below it changes.
fn generator_fingerprint() -> String {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files: Vec<_> = ["peers/shop", "src/reference"]
        .into_iter()
        .flat_map(|folder| std::fs::read_dir(root.join(folder)).expect("the generator's sources"))
        .map(|entry| entry.expect("the generator's sources").path())
        .collect();
    files.sort();
    let digest = files.iter().fold(Sha256::new(), |digest, path| {
        digest.chain_update(std::fs::read(path).expect("the generator's sources"))
    });
    hex(&digest.finalize()[..4])
}

/// Removes the dumps of former generators.
fn remove_older(folder: &Path, kind: &str, current: &str) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        if name.starts_with(kind) && !name.starts_with(current) {
            // Another test process may be removing it as well.
            std::fs::remove_file(entry.path()).ok();
        }
    }
}

fn with_suffix(stem: &Path, suffix: &str) -> PathBuf {
    let mut path = stem.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

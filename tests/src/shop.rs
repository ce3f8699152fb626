//! Dumps of a shop: the committed one, and larger ones made on demand.

use std::path::{Path, PathBuf};
use std::time::Duration;

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
        // Beside the binary, so that a new generator's dumps replace the old one's.
        let binary = binary_path("relevo-shop");
        let built = std::fs::metadata(&binary).and_then(|file| file.modified()).ok();
        let folder = binary.with_file_name("relevo-shop-dumps");
        std::fs::create_dir_all(&folder).expect("create the folder of dumps");
        let stem = folder.join(format!("{size_mb}mb-{seed}"));
        let kept =
            std::fs::metadata(with_suffix(&stem, ".json")).and_then(|file| file.modified()).ok();
        if kept.is_none() || kept < built {
            // Two tests may make the same dump at once: whole files replace whole equal files.
            let own = folder.join(format!("{size_mb}mb-{seed}.{}", std::process::id()));
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

fn with_suffix(stem: &Path, suffix: &str) -> PathBuf {
    let mut path = stem.as_os_str().to_owned();
    path.push(suffix);
    path.into()
}

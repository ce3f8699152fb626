//! `relevo demo`: everything in one process, and a small shop's dump through it.
//!
//! The dump comes with the program; it lies in a folder as if somebody had put it there, and a run
//! loads it into a database of the embedded server, with nothing of this shell's settings. Killed,
//! the demo leaves its folder, and a server that the next demo in the same folder adopts.

use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;
use relevo_settings::{Loaded, Settings};
use relevo_worker::OwnKinds;
use serde_json::Value;
use tokio_util::sync::CancellationToken;

use crate::args::{BackupCommand, ConsoleCommand, DemoArgs};
use crate::commands::{console, runs, up};
use crate::control::{self, ControlPlane};
use crate::failure::{Advise as _, Exit, Failure, OrFail as _};
use crate::output::Output;
use crate::{embedded, shutdown};

/// A made-up shop, as mariadb-dump wrote it.
const DUMP: &[u8] = include_bytes!("../../../tests/data/shop.sql.gz");

/// The source that brings it.
const SOURCE: &str = "shop";

/// How long the own server may take to be made and to start.
const START_MAX: Duration = Duration::from_secs(120);

/// How often it is looked for meanwhile.
const START_PAUSE: Duration = Duration::from_millis(200);

/// Connections of the demo itself.
const CONNECTIONS: u32 = 4;

/// Runs it.
pub async fn demo(args: DemoArgs, own: OwnKinds, out: Output) -> Result<(), Failure> {
    let folder = Folder::make(args.folder)?;
    let loaded = prepare(&folder.path, args.listen)
        .with_context(|| format!("the demo can't be put into {}", folder.path.display()))
        .or_exit(Exit::Configuration)?;
    let stop = shutdown::on_signal()?;
    let settings = loaded.settings.clone();
    let announced = (!out.is_json()).then_some(out);
    let mut serving = Box::pin(up::run(loaded, Some(own), &stop, announced));
    let mut shown = Box::pin(show(&folder.path, settings, args.exit, &stop, out));
    let outcome = tokio::select! {
        ended = &mut serving => return ended,
        shown = &mut shown => shown,
    };
    stop.cancel();
    // What was shown holds connections, which a stopping server would wait for.
    drop(shown);
    outcome.and(serving.await)
}

/// Writes the dump and a configuration, and reads that: whatever is configured on this machine,
/// above all a database, is none of the demo's business.
fn prepare(folder: &Path, listen: SocketAddr) -> anyhow::Result<Loaded> {
    let is_free = TcpListener::bind(listen).is_ok();
    let listen = if is_free { listen } else { SocketAddr::new(listen.ip(), 0) };
    let dump = folder.join("shop.sql.gz");
    std::fs::write(&dump, DUMP)?;
    let text = |path: &Path| Value::from(path.to_string_lossy()).to_string();
    let config = folder.join("relevo.toml");
    std::fs::write(
        &config,
        format!(
            "data_dir = {}
[api]
listen = \"{listen}\"
[telemetry]
log_file = {}
[chunk_store]
# Small, so that even a small dump comes in several chunks.
chunk_size_bytes = 65536
[backup.{SOURCE}]
kind = \"file\"
path = {}
# Nobody else writes it.
settle_seconds = 1
target_url = \"embedded:{SOURCE}\"
schedule_enabled = false
",
            text(&folder.join("data")),
            text(&folder.join("relevo.log")),
            text(&dump)
        ),
    )?;
    Ok(relevo_settings::load(Some(&config), &|_| None)?)
}

/// Loads the dump, tells what to look at, and stays until `stop` unless it is to end.
async fn show(
    folder: &Path,
    settings: Settings,
    exit: bool,
    stop: &CancellationToken,
    out: Output,
) -> Result<(), Failure> {
    let plane = when_up(settings).await?;
    let load = BackupCommand::Run {
        source: SOURCE.to_owned(),
        mode: None,
        file: None,
        force: false,
        wait: true,
    };
    Box::pin(runs::backup(&plane, load, out)).await?;
    if exit || out.is_json() {
        return Ok(());
    }
    let config = folder.join("relevo.toml");
    eprintln!("\nThe shop's tables are in the database {SOURCE} of the demo's own server.");
    eprintln!("Another shell may ask: relevo --config {} run list", config.display());
    eprintln!("The console, for a browser on this machine:");
    console::console(&plane, ConsoleCommand::Link { read_only: false, minutes: 60 }, out).await?;
    eprintln!("Ctrl-C ends the demo.");
    plane.pool.close().await;
    stop.cancelled().await;
    Ok(())
}

/// The control plane, as soon as it is there.
async fn when_up(settings: Settings) -> Result<ControlPlane, Failure> {
    let begun = Instant::now();
    loop {
        let mut settings = settings.clone();
        let opened = async {
            embedded::find_into(&mut settings).await?;
            let pool = control::connect(&settings, "relevo-demo", CONNECTIONS).await?;
            control::require_current(&pool).await?;
            Ok::<_, Failure>(pool)
        };
        match opened.await {
            Ok(pool) => return Ok(ControlPlane::with(settings, pool)),
            Err(failure) if begun.elapsed() > START_MAX => return Err(failure),
            Err(_) => tokio::time::sleep(START_PAUSE).await,
        }
    }
}

/// Where the demo has its files; one of its own is removed with this value.
struct Folder {
    path: PathBuf,
    own: bool,
}

impl Folder {
    fn make(given: Option<PathBuf>) -> Result<Self, Failure> {
        let own = given.is_none();
        let path = given.unwrap_or_else(|| {
            std::env::temp_dir().join(format!("relevo-demo-{}", std::process::id()))
        });
        // One of its own must be new: somebody else's files are none of its business.
        let made = if own { std::fs::create_dir(&path) } else { std::fs::create_dir_all(&path) };
        made.and_then(|()| path.canonicalize())
            .map(|path| Self { path, own })
            .with_context(|| format!("the folder {} can't be made", path.display()))
            .or_exit(Exit::Configuration)
            .advise("name another by --folder")
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if self.own
            && let Err(error) = std::fs::remove_dir_all(&self.path)
        {
            eprintln!("{} is left: {error}", self.path.display());
        }
    }
}

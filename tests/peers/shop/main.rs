//! Makes the dump of a shop: a SICAR-like database of any size, filled from a seed in a real
//! MariaDB, dumped by the real `mariadb-dump`, with reference values that MariaDB has computed.
//!
//! What it leaves out: SICAR itself has some 150 tables, most of them small; here are a dozen that
//! hold what makes an import hard. Generated and JSON columns, partitions, routines and events are
//! not in it: SICAR has none.

mod rows;
mod tables;
mod words;

use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Instant;

use anyhow::{Context, bail};
use clap::Parser;
use flate2::Compression;
use flate2::write::GzEncoder;
use relevo_tests::{MariaDb, reference};

use crate::tables::{DATABASE, Shop};

/// Makes a shop's dump, the same one for the same seed and size.
#[derive(Parser)]
#[command(name = "relevo-shop")]
struct Flags {
    /// About how large the dump is, unpacked, in megabytes.
    #[arg(long, default_value_t = 5.0)]
    size_mb: f64,
    /// What the random numbers begin with.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// The .sql.gz file to write.
    #[arg(long)]
    out: PathBuf,
    /// Writes MariaDB's row counts, checksums, keys and indexes to this JSON file.
    #[arg(long)]
    reference: Option<PathBuf>,
    /// An option for mariadb-dump, such as --hex-blob; may be repeated.
    #[arg(long, allow_hyphen_values = true)]
    dump_option: Vec<String>,
    /// How hard to compress, 1 to 9.
    #[arg(long, default_value_t = 6, value_parser = clap::value_parser!(u32).range(1..=9))]
    level: u32,
}

fn main() -> anyhow::Result<()> {
    let flags = Flags::parse();
    let started = Instant::now();
    let seconds = || started.elapsed().as_secs_f64();
    let server = MariaDb::start()?;
    let schema = include_str!("schema.sql");
    server
        .run(&format!(
            "CREATE DATABASE {DATABASE} CHARACTER SET utf8mb4; USE {DATABASE};\n{schema}"
        ))
        .context("create the tables")?;
    let size_bytes = (flags.size_mb * 1024.0 * 1024.0) as u64;
    Shop::new(&server, flags.seed, size_bytes)?.fill(|table, rows| {
        println!("{:6.1} s: {table}: {rows} rows", seconds());
    })?;
    let after = include_str!("after.sql");
    server.run(&format!("USE {DATABASE};\n{after}")).context("create view and trigger")?;

    let raw_bytes = dump(&server, &flags)?;
    let packed_bytes = std::fs::metadata(&flags.out).context("the dump's size")?.len();
    println!(
        "{:6.1} s: {}: {raw_bytes} bytes, packed {packed_bytes} ({:.1} %)",
        seconds(),
        flags.out.display(),
        packed_bytes as f64 / raw_bytes as f64 * 100.0
    );
    if let Some(path) = &flags.reference {
        let reference = reference::compute(&server, DATABASE)?;
        let text = serde_json::to_string_pretty(&reference).context("write the reference")?;
        std::fs::write(path, text + "\n").with_context(|| format!("write {}", path.display()))?;
        println!("{:6.1} s: {}: {} rows", seconds(), path.display(), reference.rows());
    }
    Ok(())
}

/// Dumps the database; the file is there only when it is whole. Returns the unpacked size in bytes.
fn dump(server: &MariaDb, flags: &Flags) -> anyhow::Result<u64> {
    let unfinished = unfinished(&flags.out);
    let file =
        File::create(&unfinished).with_context(|| format!("create {}", unfinished.display()))?;
    let mut child = server
        .dump_command(DATABASE, &flags.dump_option)
        .stdout(Stdio::piped())
        .spawn()
        .context("start mariadb-dump")?;
    let output = child.stdout.take().context("mariadb-dump's output")?;
    let mut packer = GzEncoder::new(BufWriter::new(file), Compression::new(flags.level));
    let raw_bytes = std::io::copy(&mut BufReader::with_capacity(1024 * 1024, output), &mut packer)
        .context("pack the dump")?;
    packer.finish().and_then(|mut file| file.flush()).context("pack the dump")?;
    let status = child.wait().context("wait for mariadb-dump")?;
    if !status.success() {
        bail!("mariadb-dump failed: {status}");
    }
    std::fs::rename(&unfinished, &flags.out)
        .with_context(|| format!("rename to {}", flags.out.display()))?;
    Ok(raw_bytes)
}

fn unfinished(path: &Path) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(".unfinished");
    name.into()
}

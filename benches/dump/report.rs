//! Medians, ratios, and how they compare with the targets.

use std::collections::BTreeMap;
use std::path::Path;

use anyhow::Result;
use serde::Serialize;

use crate::baseline::Encoded;
use crate::import::Imported;

/// Everything that was measured, in seconds.
pub struct Samples {
    about: About,
    pub gunzip: Vec<f64>,
    pub translate: Vec<f64>,
    pub bare_copy: Vec<f64>,
    pub bare_all: Vec<f64>,
    /// By the number of COPY connections.
    pub imports: BTreeMap<usize, Vec<Imported>>,
    pub hashed: Vec<Imported>,
    /// Restoring into MariaDB; empty without one.
    pub restore: Vec<f64>,
    pub pgloader: Vec<f64>,
}

#[derive(Clone, Serialize)]
struct About {
    file_bytes: u64,
    raw_bytes: u64,
    copy_text_bytes: u64,
    rows: u64,
    postgres: String,
    cpus: usize,
    load_average: String,
}

impl Samples {
    pub fn new(file: &Path, encoded: &Encoded, postgres: &str) -> Result<Self> {
        let about = About {
            file_bytes: std::fs::metadata(file)?.len(),
            raw_bytes: encoded.raw_bytes,
            copy_text_bytes: encoded.text_bytes,
            rows: encoded.rows,
            postgres: postgres.to_owned(),
            cpus: std::thread::available_parallelism()?.get(),
            load_average: std::fs::read_to_string("/proc/loadavg")
                .unwrap_or_default()
                .trim()
                .to_owned(),
        };
        Ok(Self {
            about,
            gunzip: Vec::new(),
            translate: Vec::new(),
            bare_copy: Vec::new(),
            bare_all: Vec::new(),
            imports: BTreeMap::new(),
            hashed: Vec::new(),
            restore: Vec::new(),
            pgloader: Vec::new(),
        })
    }

    fn import(&self, jobs: usize, figure: impl Fn(&Imported) -> f64) -> f64 {
        median(self.imports.get(&jobs).into_iter().flatten().map(figure))
    }
}

fn median(values: impl IntoIterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.into_iter().collect();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

/// One line of the result.
#[derive(Serialize)]
struct Line {
    what: &'static str,
    seconds: f64,
    raw_mb_per_s: f64,
    against: Option<&'static str>,
    ratio: Option<f64>,
    target: Option<f64>,
}

#[derive(Serialize)]
struct Report {
    about: About,
    lines: Vec<Line>,
    peak_rss_mb: f64,
    peak_rss_target_mb: f64,
}

fn report(samples: &Samples) -> Report {
    let gunzip = median(samples.gunzip.iter().copied());
    let copy = median(samples.bare_copy.iter().copied());
    let all = median(samples.bare_all.iter().copied());
    let raw_mb = samples.about.raw_bytes as f64 / 1e6;
    let line = |what, seconds: f64, limit: Option<(&'static str, f64, f64)>| Line {
        what,
        seconds,
        raw_mb_per_s: raw_mb / seconds,
        against: limit.map(|(against, _, _)| against),
        ratio: limit.map(|(_, base, _)| seconds / base),
        target: limit.map(|(_, _, target)| target),
    };
    let mut lines = vec![
        line("gunzip alone", gunzip, None),
        line(
            "gunzip, tokenise, encode to nowhere",
            median(samples.translate.iter().copied()),
            Some(("gunzip alone", gunzip, 1.4)),
        ),
        line("bare COPY of the encoded rows", copy, None),
        line(
            "load, 1 connection",
            samples.import(1, |i| i.load_s),
            Some(("bare COPY", copy, 1.25)),
        ),
        line(
            "load, 2 connections",
            samples.import(2, |i| i.load_s),
            Some(("bare COPY", copy, 1.0)),
        ),
        line("bare COPY, indexes, keys, ANALYZE", all, None),
        line(
            "import until live, 1 connection",
            samples.import(1, |i| i.live_s),
            Some(("bare all", all, 1.0)),
        ),
        line(
            "import until live, 2 connections",
            samples.import(2, |i| i.live_s),
            Some(("bare all", all, 1.0)),
        ),
        line("… with VACUUM and clearing up", samples.import(2, |i| i.all_s), None),
        line(
            "… every value hashed on both sides",
            median(samples.hashed.iter().map(|i| i.live_s)),
            Some(("bare all", all, 1.3)),
        ),
    ];
    if !samples.pgloader.is_empty() {
        let live = samples.import(2, |i| i.live_s);
        let restore = median(samples.restore.iter().copied());
        let pgloader = median(samples.pgloader.iter().copied());
        lines.push(line("restore into MariaDB", restore, None));
        lines.push(line("pgloader from that MariaDB, tuned", pgloader, None));
        // At least three times, and six times, as fast.
        let alone = Some(("pgloader", pgloader, 1.0 / 3.0));
        lines.push(line("import until live, 2 connections", live, alone));
        let both = Some(("restore + pgloader", restore + pgloader, 1.0 / 6.0));
        lines.push(line("import until live, 2 connections", live, both));
    }
    let peak = samples.imports.values().flatten().chain(&samples.hashed);
    let peak_rss_bytes = peak.map(|imported| imported.peak_rss_bytes).max().unwrap_or_default();
    Report {
        about: samples.about.clone(),
        lines,
        peak_rss_mb: peak_rss_bytes as f64 / 1e6,
        peak_rss_target_mb: 64.0,
    }
}

/// Prints the table, or everything as JSON.
pub fn print(samples: &Samples, json: bool) -> Result<()> {
    let report = report(samples);
    if json {
        println!("{}", serde_json::to_string_pretty(&report)?);
        return Ok(());
    }
    let about = &report.about;
    println!(
        "{:.0} MB gzip, {:.0} MB SQL, {} rows; Postgres {}, {} CPUs, load {}",
        about.file_bytes as f64 / 1e6,
        about.raw_bytes as f64 / 1e6,
        about.rows,
        about.postgres,
        about.cpus,
        about.load_average
    );
    println!("{:<40} {:>8} {:>8}  {:>6}  {:>7}", "", "s", "MB/s", "ratio", "target");
    for line in &report.lines {
        let ratio = match (line.ratio, line.target, line.against) {
            (Some(ratio), Some(target), Some(against)) => {
                let verdict = if ratio <= target { "" } else { "  missed" };
                format!("{ratio:>6.2}  ≤ {target:<5.3} of {against}{verdict}")
            }
            _ => String::new(),
        };
        println!("{:<40} {:>8.2} {:>8.0}  {ratio}", line.what, line.seconds, line.raw_mb_per_s);
    }
    println!(
        "{:<40} {:>8.1} MB                ≤ {} MB",
        "peak memory of an import", report.peak_rss_mb, report.peak_rss_target_mb
    );
    Ok(())
}

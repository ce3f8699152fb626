//! Random databases in a real MariaDB, dumped by mariadb-dump under random options, imported by
//! `relevo dump import`, and compared with MariaDB value by value; views too. The same with a real
//! MySQL and its mysqldump where the environment names one (`./dev differential --mysql`).
//!
//! A case is drawn from its seed alone. `./dev differential` runs many; a case that fails names
//! its seed, and leaves its dump in `target/differential`.

mod flags;
mod schema;
mod values;
mod views;

use std::fs::File;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use rand::SeedableRng as _;
use rand::rngs::StdRng;
use relevo_tests::{MariaDb, Process, ShopDump, TestDatabase, binary_path, reference};
use sqlx::{AssertSqlSafe, Executor as _};

use flags::Flags;
use schema::Part;

/// How many cases, and the first one's seed: more in a nightly run.
const CASES_ENV: &str = "RELEVO_TEST_DIFFERENTIAL_CASES";
const SEED_ENV: &str = "RELEVO_TEST_DIFFERENTIAL_SEED";

/// How long an import of a few rows may take on a machine that is busy.
const IMPORT_TIMEOUT: Duration = Duration::from_secs(120);

#[tokio::test(flavor = "multi_thread")]
async fn what_mariadb_dumps_is_imported_to_the_value() {
    let number = |name: &str| std::env::var(name).ok().map(|text| text.parse::<u64>().unwrap());
    let cases = number(CASES_ENV).unwrap_or(25);
    let first = number(SEED_ENV).unwrap_or(1);
    let maria = match MariaDb::start_mysql().unwrap() {
        Some(mysql) => mysql,
        None => MariaDb::start().unwrap(),
    };
    let peers = Peers { maria, target: TestDatabase::empty().await };
    let (mut failures, mut tables, mut refused, mut views) = (Vec::new(), 0, 0, 0);
    for seed in first..first + cases {
        let case = Case::draw(seed, peers.maria.is_mysql());
        let result = case.run(&peers).await;
        case.forget(&peers, result.is_ok()).await;
        match result {
            Ok(outcome) => {
                tables += outcome.tables;
                refused += outcome.refused;
                views += outcome.views;
            }
            Err(reason) => {
                let options = case.flags.options.join(" ");
                failures.push(format!("seed {seed} ({options}): {reason}"));
            }
        }
    }
    assert!(failures.is_empty(), "{} of {cases}:\n{}", failures.len(), failures.join("\n"));
    // A generator whose tables MariaDB refuses would test nothing.
    assert!(tables > refused * 4, "{tables} tables made, {refused} refused");
    assert!(views > 0 || cases < 25, "no view was compared");
}

/// What the import says of a generated column whose rule has no translation.
const MADE_PLAIN: &str = ": generated column made plain";

/// Whether the import said so of a column of the table.
fn is_noted(told: &str, table: &str, what: &str) -> bool {
    let column = format!("{table}.");
    let notes = told.lines().filter_map(|line| line.strip_prefix("note: "));
    notes.filter(|note| note.contains(&column)).any(|note| note.contains(what))
}

struct Peers {
    maria: MariaDb,
    target: TestDatabase,
}

struct Case {
    seed: u64,
    flags: Flags,
    parts: Vec<Part>,
}

/// What MariaDB made of a case.
struct Outcome {
    tables: usize,
    refused: usize,
    /// Views that were compared.
    views: usize,
}

impl Case {
    fn draw(seed: u64, mysql: bool) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let flags = flags::draw(&mut random, mysql);
        let parts = schema::draw(&mut random, &flags, mysql);
        Self { seed, flags, parts }
    }

    /// Database in MariaDB and schema in Postgres.
    fn name(&self) -> String {
        format!("case_{}", self.seed)
    }

    fn dump_path(&self) -> PathBuf {
        let folder = binary_path("relevo").with_file_name("../differential");
        std::fs::create_dir_all(&folder).expect("create the folder of dumps");
        folder.join(format!("{}.sql", self.name()))
    }

    async fn run(&self, peers: &Peers) -> Result<Outcome, String> {
        let name = self.name();
        let in_database = |sql: &str| {
            peers.maria.run(&format!("USE `{name}`;\n{sql}")).map_err(|error| error.to_string())
        };
        peers
            .maria
            .run(&format!("CREATE DATABASE `{name}`;"))
            .map_err(|error| error.to_string())?;
        let mut made = Vec::new();
        for part in &self.parts {
            // MariaDB may not like what was drawn: an index too long, a rule of no meaning.
            if in_database(&part.create).is_ok() {
                in_database(&part.rows).map_err(|error| format!("{error}\n{}", part.create))?;
                made.push(part);
            }
        }
        if made.is_empty() {
            return Ok(Outcome { tables: 0, refused: self.parts.len(), views: 0 });
        }
        self.dump(&peers.maria)?;
        let told = self.import(&peers.target).await?;
        self.compare(peers, &told, "").await?;
        let views = views::compare(&peers.maria, peers.target.pool(), &name, &told).await?;
        // A default or a rule that has no translation is told of; without it the rows differ.
        let left_out = |table: &str| {
            is_noted(&told, table, ": default left out") || is_noted(&told, table, MADE_PLAIN)
        };
        let defaults: Vec<_> = made
            .iter()
            .filter_map(|part| part.with_defaults.as_ref())
            .filter(|table| !left_out(table))
            .collect();
        if self.flags.counts && !defaults.is_empty() {
            for table in defaults {
                in_database(&format!("INSERT INTO `{}` () VALUES ();", table.replace('`', "``")))?;
                let sql =
                    format!("INSERT INTO {name}.\"{}\" DEFAULT VALUES", table.replace('"', "\"\""));
                let done = peers.target.pool().execute(AssertSqlSafe(sql)).await;
                done.map_err(|error| format!("a row of defaults in {table}: {error}"))?;
            }
            self.compare(peers, &told, "with a row of defaults, ").await?;
        }
        Ok(Outcome { tables: made.len(), refused: self.parts.len() - made.len(), views })
    }

    /// Writes the dump: in one piece, or definitions first and then rows.
    fn dump(&self, maria: &MariaDb) -> Result<(), String> {
        let path = self.dump_path();
        let mut file = File::create(&path).expect("create the dump");
        let halves: &[&[&str]] =
            if self.flags.split { &[&["--no-data"], &["--no-create-info"]] } else { &[&[]] };
        let zone = self.flags.zone.unwrap_or("+00:00");
        maria.run(&format!("SET GLOBAL time_zone = '{zone}';")).map_err(|e| e.to_string())?;
        for half in halves {
            let mut options: Vec<String> = half.iter().map(|o| (*o).to_owned()).collect();
            options.extend(self.flags.options.iter().cloned());
            // The database's name comes last, and may be one of several.
            options.sort_by_key(|option| option == "--databases");
            let command = maria.dump_command(&self.name(), &options);
            run(command, &mut file)?;
        }
        Ok(())
    }

    /// Imports the dump; returns what was told.
    async fn import(&self, target: &TestDatabase) -> Result<String, String> {
        let process = Process::builder("relevo")
            .args(["dump", "import"])
            .arg(self.dump_path())
            .args(["--to", target.url(), "--schema", &self.name()])
            .spawn();
        match process.wait_exit(IMPORT_TIMEOUT).await.success() {
            true => Ok(process.output()),
            false => Err(format!("the import failed: {}", process.output())),
        }
    }

    async fn compare(&self, peers: &Peers, told: &str, when: &str) -> Result<(), String> {
        let expected =
            reference::compute(&peers.maria, &self.name()).map_err(|error| format!("{error:#}"))?;
        let differences: Vec<_> = reference::compare(peers.target.url(), &self.name(), &expected)
            .await
            .into_iter()
            // What the dump doesn't tell cannot be known.
            .filter(|found| self.flags.counts || found.what != "next automatic value")
            // MySQL dumps no values of generated columns, and says 1 for MyISAM tables that do not
            // count.
            .filter(|found| {
                let plain = found.what == "values" || found.what.starts_with("column gen ");
                let counts = found.what == "next automatic value" && found.found == "None";
                !peers.maria.is_mysql()
                    || !(plain && is_noted(told, &found.table, MADE_PLAIN) || counts)
            })
            .map(|found| found.to_string())
            .collect();
        match differences.is_empty() {
            true => Ok(()),
            false => Err(format!("{when}{}", differences.join("; "))),
        }
    }

    /// Drops what the case made; its dump stays when it failed.
    async fn forget(&self, peers: &Peers, passed: bool) {
        let name = self.name();
        peers.maria.run(&format!("DROP DATABASE `{name}`;")).unwrap();
        let sql = format!("DROP SCHEMA IF EXISTS {name} CASCADE");
        peers.target.pool().execute(AssertSqlSafe(sql)).await.unwrap();
        if passed {
            std::fs::remove_file(self.dump_path()).ok();
        }
    }
}

/// Runs a command whose output is appended to a file.
fn run(mut command: Command, file: &mut File) -> Result<(), String> {
    let output = file.try_clone().expect("a second handle of the dump");
    let done = command.stdout(output).output().map_err(|error| error.to_string())?;
    match done.status.success() {
        true => Ok(()),
        false => Err(format!("the dump: {}", String::from_utf8_lossy(&done.stderr))),
    }
}

/// The reference of the committed dump is MariaDB's word too.
#[test]
fn the_committed_dump_holds_what_its_reference_says() {
    let maria = MariaDb::start().unwrap();
    let shop = ShopDump::committed();
    let unpacked = maria.folder().join("shop.sql");
    let mut dump = flate2::read::GzDecoder::new(File::open(&shop.path).unwrap());
    std::io::copy(&mut dump, &mut File::create(&unpacked).unwrap()).unwrap();
    let load = format!("CREATE DATABASE shop;\nUSE shop;\nsource {}\n", unpacked.display());
    maria.run(&load).unwrap();
    let found = reference::compute(&maria, "shop").unwrap();
    for (name, table) in &shop.reference.tables {
        assert_eq!(found.tables.get(name), Some(table), "{name}");
    }
}

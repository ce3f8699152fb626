//! An import that is cut off goes on where it was when it is run again: what was committed is not
//! loaded twice, and nothing is missing.

use std::path::{Path, PathBuf};
use std::time::Duration;

use relevo_tests::{OwnPostgres, Process, wait_for};
use sqlx::{AssertSqlSafe, Connection as _, Executor as _, PgConnection};
use tempfile::TempDir;

use super::dump::{Dump, gzip};
use super::target::Target;

/// No import of this size takes longer, even on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(120);
/// Enough for a handful of pieces of one MiB.
const ARTICLES: u32 = 40_000;

/// Holds every import in the transaction that would commit its fifth piece, until it is opened. The
/// first transaction commits three, one for each table.
struct Gate {
    url: String,
    session: PgConnection,
}

impl Gate {
    async fn shut(url: &str) -> Self {
        let mut session = PgConnection::connect(url).await.unwrap();
        let sql = "CREATE FUNCTION gate() RETURNS trigger LANGUAGE plpgsql AS $$
                   BEGIN
                     IF (SELECT count(*) FROM relevo_ledger.import_chunk c
                         WHERE c.import_id = NEW.import_id) >= 4 THEN
                       PERFORM pg_advisory_xact_lock(4242);
                     END IF;
                     RETURN NEW;
                   END $$;
                   CREATE TRIGGER gate BEFORE INSERT ON relevo_ledger.import_chunk
                     FOR EACH ROW EXECUTE FUNCTION gate();
                   SELECT pg_advisory_lock(4242)";
        session.execute(sql).await.unwrap();
        Self { url: url.to_owned(), session }
    }

    /// Until an import stands before the gate.
    async fn reached(&self) {
        wait_for("an import to stand at the gate", TIMEOUT, async || {
            let waiting = "SELECT count(*) FROM pg_stat_activity
                           WHERE datname = current_database() AND wait_event = 'advisory'
                             AND application_name LIKE 'relevo import % load'";
            let mut session = PgConnection::connect(&self.url).await.ok()?;
            let waiting: i64 = sqlx::query_scalar(waiting).fetch_one(&mut session).await.ok()?;
            (waiting > 0).then_some(())
        })
        .await;
    }

    async fn open(mut self) {
        let sql = "DROP TRIGGER gate ON relevo_ledger.import_chunk; DROP FUNCTION gate()";
        self.session.execute("SELECT pg_advisory_unlock(4242)").await.unwrap();
        self.session.execute(sql).await.unwrap();
        self.session.close().await.unwrap();
    }
}

fn write(dump: &Dump) -> (TempDir, PathBuf) {
    write_text(&dump.sql())
}

fn write_text(sql: &str) -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("tienda.sql.gz");
    std::fs::write(&file, gzip(sql.as_bytes())).unwrap();
    (folder, file)
}

fn start(file: &Path, url: &str) -> Process {
    start_with(file, url, &[])
}

fn start_with(file: &Path, url: &str, options: &[&str]) -> Process {
    let import = Process::builder("relevo").args(["dump", "import"]).arg(file);
    import.args(["--to", url, "--jobs", "1", "--commit-size", "1"]).args(options).spawn()
}

/// Imports to the end and returns what was said.
async fn whole(file: &Path, url: &str) -> String {
    whole_with(file, url, &[]).await
}

async fn whole_with(file: &Path, url: &str, options: &[&str]) -> String {
    let process = start_with(file, url, options);
    let status = process.wait_exit(TIMEOUT).await;
    assert!(status.success(), "{}", process.output());
    process.output()
}

async fn ask(url: &str, sql: &str) -> String {
    let mut session = PgConnection::connect(url).await.unwrap();
    let answer = sqlx::query_scalar(AssertSqlSafe(sql.to_owned())).fetch_one(&mut session).await;
    session.close().await.ok();
    answer.unwrap_or_else(|error| panic!("{sql}\n{error}"))
}

const STATES: &str = "SELECT string_agg(state, ' ' ORDER BY begun_at) FROM relevo_ledger.import";
const ARTICLE_ROWS: &str = "SELECT count(*) || ' ' || count(DISTINCT art_id) FROM articulo";
const GOES_ON: &str = "goes on with an import that was cut off";

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_import_of_a_file_goes_on_with_what_it_had_committed() {
    let target = Target::new().await;
    target.import(&Dump::new(10, "antes")).await.unwrap();
    // A table of the name that the dump itself drops again is none that has to be there.
    let first = "CREATE TABLE `articulo` (`otro` int);\nDROP TABLE `articulo`;\n";
    let sql = Dump::new(ARTICLES, "dos").sql();
    let (before, rest) = sql.split_at(sql.find("CREATE TABLE").unwrap());
    let (_folder, file) = write_text(&format!("{before}{first}{rest}"));
    let gate = Gate::shut(target.url()).await;
    let process = start(&file, target.url());
    gate.reached().await;
    process.kill();
    gate.open().await;
    assert_eq!(target.count("articulo").await, 10, "readers see what they saw");
    assert_eq!(target.ask(STATES).await, "live loading");

    let said = whole(&file, target.url()).await;
    assert!(said.contains(GOES_ON), "{said}");
    assert_eq!(target.ask(STATES).await, "live live");
    assert_eq!(target.ask(ARTICLE_ROWS).await, format!("{ARTICLES} {ARTICLES}"));
    assert_eq!(target.own_schemas().await, "relevo_prev_public");
    // Every value is where an import in one go puts it.
    let other = Target::new().await;
    other.import(&Dump::new(ARTICLES, "dos")).await.unwrap();
    assert_eq!(target.content("public").await, other.content("public").await);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_file_is_loaded_from_its_beginning_and_clears_up() {
    let target = Target::new().await;
    target.import(&Dump::new(10, "antes")).await.unwrap();
    let (_folder, file) = write(&Dump::new(ARTICLES, "dos"));
    let gate = Gate::shut(target.url()).await;
    let process = start(&file, target.url());
    gate.reached().await;
    process.kill();
    gate.open().await;
    std::fs::write(&file, Dump::new(ARTICLES, "tres").gzip()).unwrap();
    let said = whole(&file, target.url()).await;
    assert!(!said.contains(GOES_ON), "{said}");
    assert_eq!(target.ask(STATES).await, "live failed live");
    let marked = "SELECT count(*)::text FROM articulo WHERE descripcion LIKE 'tres: %'";
    assert_eq!(target.ask(marked).await, ARTICLES.to_string());
    assert_eq!(target.own_schemas().await, "relevo_prev_public");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_whose_server_crashed_says_so_and_goes_on() {
    let server = OwnPostgres::start().await;
    let url = server.database("tienda").await;
    let (_small_folder, small) = write(&Dump::new(10, "antes"));
    whole(&small, &url).await;
    let (_folder, file) = write(&Dump::new(ARTICLES, "dos"));
    let gate = Gate::shut(&url).await;
    let process = start(&file, &url);
    gate.reached().await;
    server.restart_at_once();
    let status = process.wait_exit(TIMEOUT).await;
    let said = process.output();
    assert!(!status.success() && said.contains("goes on where it was cut off"), "{said}");
    // What the server had not written yet is gone, rows and their ledger rows alike.
    let mut session = PgConnection::connect(&url).await.unwrap();
    session.execute("DROP FUNCTION gate() CASCADE").await.unwrap();
    session.close().await.unwrap();
    whole(&file, &url).await;
    assert_eq!(ask(&url, STATES).await, "live live");
    assert_eq!(ask(&url, ARTICLE_ROWS).await, format!("{ARTICLES} {ARTICLES}"));
}

#[tokio::test(flavor = "multi_thread")]
async fn of_several_databases_the_one_that_was_cut_off_goes_on() {
    let target = Target::new().await;
    let small = Dump { complete: false, ..Dump::new(10, "uno") };
    let (_folder, file) = write_text(&format!(
        "CREATE DATABASE `una`;\nUSE `una`;\n{}CREATE DATABASE `otra`;\nUSE `otra`;\n{}",
        small.sql(),
        Dump::new(ARTICLES, "dos").sql()
    ));
    let maps = ["--map", "una=una", "--map", "otra=otra"];
    // The ledger has to be there for the gate.
    target.import(&Dump::new(10, "antes")).await.unwrap();
    let gate = Gate::shut(target.url()).await;
    let process = start_with(&file, target.url(), &maps);
    gate.reached().await;
    process.kill();
    gate.open().await;
    assert_eq!(target.ask(STATES).await, "live live loading");
    let said = whole_with(&file, target.url(), &maps).await;
    assert!(said.contains(GOES_ON), "{said}");
    assert_eq!(target.ask(STATES).await, "live live live live");
    assert_eq!(target.count("una.articulo").await, 10);
    assert_eq!(target.count("otra.articulo").await, i64::from(ARTICLES));
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_that_a_crash_of_the_server_may_have_emptied_are_loaded_again() {
    let server = OwnPostgres::start().await;
    let url = server.database("tienda").await;
    let (_small_folder, small) = write(&Dump::new(10, "antes"));
    whole(&small, &url).await;
    // Staged rows that all subscribers would be sent are not logged.
    let mut session = PgConnection::connect(&url).await.unwrap();
    session.execute("CREATE PUBLICATION todo FOR ALL TABLES").await.unwrap();
    session.close().await.unwrap();
    let (_folder, file) = write(&Dump::new(ARTICLES, "dos"));
    let merge = ["--cutover", "merge"];
    let gate = Gate::shut(&url).await;
    let process = start_with(&file, &url, &merge);
    gate.reached().await;
    // What was committed so far is on the disk: the ledger will vouch for it.
    ask(&url, "SELECT pg_switch_wal()::text FROM (SELECT pg_current_xact_id()) x").await;
    server.restart_at_once();
    let status = process.wait_exit(TIMEOUT).await;
    assert!(!status.success(), "{}", process.output());
    let mut session = PgConnection::connect(&url).await.unwrap();
    session.execute("DROP FUNCTION gate() CASCADE").await.unwrap();
    session.close().await.unwrap();
    let vouched = "SELECT (count(*) >= 3)::text FROM relevo_ledger.import_chunk c
                   JOIN relevo_ledger.import i ON i.id = c.import_id AND i.state = 'loading'";
    assert_eq!(ask(&url, vouched).await, "true");
    let said = whole_with(&file, &url, &merge).await;
    assert!(!said.contains(GOES_ON), "{said}");
    assert_eq!(ask(&url, STATES).await, "live failed live");
    assert_eq!(ask(&url, ARTICLE_ROWS).await, format!("{ARTICLES} {ARTICLES}"));
}

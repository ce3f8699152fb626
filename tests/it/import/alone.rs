//! `relevo dump import` killed, and the target's server crashed, at random moments.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use relevo_tests::{OwnPostgres, Process};
use sqlx::{Connection as _, PgConnection};

use super::dump::Dump;

/// How many times it is cut off; more of them in a campaign.
const KILLS_ENV: &str = "RELEVO_TEST_KILLS";
/// What the moments are drawn from.
const SEED_ENV: &str = "RELEVO_TEST_SEED";
/// No import of this size takes longer, even on a busy machine.
const TIMEOUT: Duration = Duration::from_secs(120);

fn number(variable: &str, otherwise: u64) -> u64 {
    std::env::var(variable).map_or(otherwise, |text| text.parse().expect("a number"))
}

fn import(file: &Path, url: &str) -> Process {
    let import = Process::builder("relevo").args(["dump", "import"]).arg(file);
    // Committed often, so that what is run again finds something to go on with.
    import.args(["--to", url, "--commit-size", "1"]).spawn()
}

async fn import_whole(file: &Path, url: &str) {
    let process = import(file, url);
    let status = process.wait_exit(TIMEOUT).await;
    assert!(status.success(), "{}", process.output());
}

async fn ask(url: &str, sql: &'static str) -> String {
    let mut connection = PgConnection::connect(url).await.unwrap();
    let answer: Option<String> = sqlx::query_scalar(sql).fetch_one(&mut connection).await.unwrap();
    connection.close().await.ok();
    answer.unwrap_or_default()
}

/// All rows of all tables.
async fn content(url: &str) -> String {
    ask(
        url,
        "SELECT md5((SELECT string_agg(t::text, ',' ORDER BY dep_id) FROM departamento t))
             || md5((SELECT string_agg(t::text, ',' ORDER BY cat_id) FROM categoria t))
             || md5((SELECT string_agg(t::text, ',' ORDER BY art_id) FROM articulo t))",
    )
    .await
}

/// Keys that hold, indexes and identities: what an import cut off may have left unmade.
async fn structure(url: &str) -> String {
    ask(
        url,
        "SELECT concat_ws(' ',
             (SELECT count(*) FROM pg_constraint WHERE connamespace = 'public'::regnamespace
              AND contype IN ('p', 'f') AND convalidated),
             (SELECT count(*) FROM pg_indexes WHERE schemaname = 'public'),
             (SELECT count(*) FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid
              WHERE c.relnamespace = 'public'::regnamespace AND attidentity <> ''),
             (SELECT string_agg(nspname, ' ' ORDER BY nspname) FROM pg_namespace
              WHERE nspname LIKE 'relevo\\_%'))",
    )
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_cut_off_at_random_moments_is_repeated_to_the_same_end() {
    let (kills, seed) = (number(KILLS_ENV, 5), number(SEED_ENV, 7));
    let mut random = StdRng::seed_from_u64(seed);
    let server = OwnPostgres::start().await;
    let folder = tempfile::tempdir().unwrap();
    let url = server.database("tienda").await;
    let mut dumps: Vec<(PathBuf, String)> = Vec::new();
    let mut duration = Duration::ZERO;
    for (name, dump) in [("uno", Dump::new(8_000, "uno")), ("dos", Dump::new(8_100, "dos"))] {
        let file = folder.path().join(name);
        std::fs::write(&file, dump.gzip()).unwrap();
        let started = Instant::now();
        import_whole(&file, &url).await;
        duration = started.elapsed();
        dumps.push((file, content(&url).await));
    }
    let whole = structure(&url).await;
    assert!(whole.starts_with("5 "), "{whole}");
    // The first import left nothing beside the ledger, each later one the tables it replaced.
    assert!(whole.ends_with("relevo_ledger relevo_prev_public"), "{whole}");

    for kill in 0..kills {
        let (present, next) = (&dumps[1], &dumps[0]);
        let moment = duration.mul_f64(random.random_range(0.0..1.2));
        let what = format!("cut {kill} of seed {seed}, after {moment:?}");
        let process = import(&next.0, &url);
        tokio::time::sleep(moment).await;
        if kill % 2 == 0 {
            process.kill();
        } else {
            server.restart_at_once();
            process.wait_exit(TIMEOUT).await;
        }
        let seen = content(&url).await;
        assert!(seen == present.1 || seen == next.1, "{what}: {}", process.output());
        import_whole(&next.0, &url).await;
        assert_eq!(content(&url).await, next.1, "{what}");
        assert_eq!(structure(&url).await, whole, "{what}");
        dumps.swap(0, 1);
    }
}

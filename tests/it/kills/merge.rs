//! `cutover = "merge"`: a worker killed while it changes the rows, and in the commit that shows them.

use relevo_runs::backup::BackupMode;
use relevo_tests::{ShopDump, TestDatabase};
use sqlx::AssertSqlSafe;

use super::gate::{Gate, Place};
use super::witnesses::fingerprint;
use crate::backup::cluster::{Cluster, prepare};

/// Kills the worker that merges `dump` at a place, lets another take over, and checks the outcome.
async fn killed_at(cluster: &mut Cluster, dump: &ShopDump, place: Place<'_>, tables: &[String]) {
    let before = fingerprint(cluster.target(), tables).await;
    cluster.gateway().serve(&dump.path).await;
    let gate = Gate::close(cluster.target(), place).await;
    let id = cluster.start_run(BackupMode::Sync).await;
    gate.reached().await;
    assert_eq!(fingerprint(cluster.target(), tables).await, before, "readers read on");
    cluster.workers.remove(0).kill();
    gate.open().await;
    // In a commit either may come of it: the server looks every two seconds whether its client is
    // still there.
    let after = fingerprint(cluster.target(), tables).await;
    let committed = after != before;
    assert!(!committed || matches!(place, Place::Commit(..)), "half a merge is seen");
    cluster.start_worker().await;
    let run = cluster.ended(id).await;
    cluster.assert_succeeded(&run, dump).await;
    let certificate = run.certificate.as_ref().unwrap();
    assert!(certificate["tables"][0]["changes"].is_object(), "merged: {certificate}");
    if committed {
        let now = fingerprint(cluster.target(), tables).await;
        assert_eq!(now, after, "nothing was changed a second time");
    }
}

#[tokio::test]
async fn a_merge_that_is_killed_shows_the_old_rows_or_the_new_ones() {
    let dumps = [ShopDump::generated(3, 7).await, ShopDump::generated(3, 8).await];
    let tables: Vec<String> = dumps[0].reference.tables.keys().cloned().collect();
    let mut cluster = Cluster::start(prepare(&dumps[0]).set("backup.sicar.cutover", "merge")).await;
    cluster.import(BackupMode::Sync, &dumps[0]).await;
    let places = async |target: &TestDatabase| -> Vec<i64> {
        let sql = "SELECT oid::bigint FROM pg_class
                   WHERE relnamespace = 'public'::regnamespace AND relkind = 'r' ORDER BY 1";
        sqlx::query_scalar(AssertSqlSafe(sql)).fetch_all(target.pool()).await.unwrap()
    };
    let had = places(cluster.target()).await;

    let in_the_middle = Place::Update("public.articulo", "OLD.art_id > 1");
    killed_at(&mut cluster, &dumps[1], in_the_middle, &tables).await;
    let in_its_commit = Place::Commit("relevo_ledger.import", "NEW.state = 'live'");
    killed_at(&mut cluster, &dumps[0], in_its_commit, &tables).await;
    assert_eq!(places(cluster.target()).await, had, "the tables stay");
}

//! The pools that everything stands on.

use std::future::Future as _;
use std::task::{Context, Waker};
use std::time::Duration;

use relevo_pg::PoolOptions;
use relevo_tests::{TestDatabase, wait_for};
use secrecy::SecretString;

const PATIENCE: Duration = Duration::from_secs(60);

/// Who gives up while BEGIN is under way leaves no open transaction to the next caller, whose
/// acknowledged writes would be lost with it.
#[tokio::test]
async fn a_begin_given_up_half_way_leaves_no_transaction_behind() {
    let database = TestDatabase::empty().await;
    let url = SecretString::from(database.url());
    let options = PoolOptions::named("one").max_connections(1);
    let pool = relevo_pg::connect(&url, options).await.unwrap();
    sqlx::raw_sql("CREATE TABLE kept (n int)").execute(&pool).await.unwrap();
    for n in 0..100 {
        wait_for("the connection to be back", PATIENCE, async || {
            (pool.num_idle() > 0).then_some(())
        })
        .await;
        // One look sends BEGIN; its answer is read by whoever comes next.
        let _ = Box::pin(pool.begin()).as_mut().poll(&mut Context::from_waker(Waker::noop()));
        sqlx::query("INSERT INTO kept VALUES ($1)").bind(n).execute(&pool).await.unwrap();
    }
    let kept = "SELECT count(*) FROM kept";
    let kept: i64 = sqlx::query_scalar(kept).fetch_one(database.pool()).await.unwrap();
    assert_eq!(kept, 100);
}

//! What the jobs do: each keeps the price of one article, and a ledger tells how often.
//!
//! The jobs are those of examples/own-kind. The ledger is written by a trigger, in the transaction
//! of the effect.

use std::collections::BTreeMap;

use serde_json::json;
use sqlx::PgPool;

use crate::kills::load::Work;

/// One price a tag. Of every fiftieth the handler says that it will never be right.
pub const REPRICE: Work = Work {
    kind: "Reprice",
    queue: "prices",
    version: 2,
    payload: |tag| json!({"sku": tag.to_string(), "cents": if is_doomed(tag) { 900_000_000 } else { tag }}),
    tag: "(payload ->> 'sku')::bigint",
};

/// Whether a job is ordained to become a dead letter.
fn is_doomed(tag: i64) -> bool {
    tag % 50 == 49
}

/// The tables, and a trigger that takes its time and fails now and then.
const TABLES: &str = "
    CREATE TABLE ordered (tag bigint PRIMARY KEY);
    CREATE TABLE price (sku text PRIMARY KEY, cents bigint NOT NULL);
    CREATE TABLE effect (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        tag bigint NOT NULL,
        at timestamptz NOT NULL DEFAULT clock_timestamp()
    );
    CREATE FUNCTION take_effect() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM pg_sleep(random() * 0.03);
        IF random() < 0.01 THEN
            RAISE EXCEPTION 'not this time';
        END IF;
        INSERT INTO effect (tag) VALUES (NEW.sku::bigint);
        RETURN NULL;
    END $$;
    CREATE TRIGGER take_effect AFTER INSERT OR UPDATE ON price
        FOR EACH ROW EXECUTE FUNCTION take_effect();";

pub async fn create(pool: &PgPool) {
    sqlx::raw_sql(TABLES).execute(pool).await.unwrap();
}

/// How the effects add up.
#[derive(Debug)]
pub struct Effects {
    pub completed: i64,
    pub doomed: i64,
    pub poisoned: i64,
}

/// Every job that completed has one effect; every dead letter was ordained, or its workers died under
/// it, and has none; what was ordered in a transaction is what was enqueued in it; and nothing else
/// is in the ledger.
pub async fn check(pool: &PgPool) -> Effects {
    let wrong: Vec<String> = sqlx::query_scalar(
        "WITH ended AS (
             SELECT id, (payload ->> 'sku')::bigint AS tag, state::text AS state, NULL AS cause
             FROM relevo.job_history WHERE kind = 'Reprice'
             UNION ALL
             SELECT id, (payload ->> 'sku')::bigint, 'dead', cause::text
             FROM relevo.dead_letter WHERE kind = 'Reprice'
         ), effects AS (SELECT tag, count(*) AS times FROM effect GROUP BY tag)
         SELECT format('job %s, tag %s: %s (%s) with %s effects', id, coalesce(e.tag, f.tag), state,
                       cause, coalesce(times, 0))
         FROM ended AS e FULL JOIN effects AS f ON f.tag = e.tag
         WHERE (CASE WHEN state = 'completed' THEN coalesce(times, 0) = 1 AND e.tag % 50 <> 49
                     WHEN cause = 'poison' THEN times IS NULL
                     ELSE state = 'dead' AND times IS NULL AND e.tag % 50 = 49 END) IS NOT TRUE
         UNION ALL
         SELECT format('tag %s was ordered and never enqueued', tag) FROM ordered
         WHERE tag NOT IN (SELECT tag FROM ended)",
    )
    .fetch_all(pool)
    .await
    .unwrap();
    assert!(
        wrong.is_empty(),
        "{} jobs went wrong: {:#?}",
        wrong.len(),
        &wrong[..wrong.len().min(50)]
    );
    let counts: (i64, i64, i64) = sqlx::query_as(
        "SELECT (SELECT count(*) FROM effect),
                (SELECT count(*) FROM relevo.dead_letter WHERE kind = 'Reprice' AND cause <> 'poison'),
                (SELECT count(*) FROM relevo.dead_letter WHERE kind = 'Reprice' AND cause = 'poison')",
    )
    .fetch_one(pool)
    .await
    .unwrap();
    Effects { completed: counts.0, doomed: counts.1, poisoned: counts.2 }
}

/// The jobs of each line took effect in the order in which they were enqueued; says how many.
pub async fn check_order(pool: &PgPool, lines: &BTreeMap<String, Vec<i64>>) -> usize {
    let mut count = 0;
    for (line, tags) in lines {
        let effects = "SELECT tag FROM effect WHERE tag = ANY ($1) ORDER BY id";
        let effects: Vec<i64> =
            sqlx::query_scalar(effects).bind(tags).fetch_all(pool).await.unwrap();
        let early = effects.windows(2).find(|pair| pair[0] > pair[1]);
        assert!(early.is_none(), "{line}: tags {early:?} took effect in this order");
        count += effects.len();
    }
    count
}

//! `relevo` with a kind of job of one's own: `Reprice` keeps the price of one article.
//!
//! ```sh
//! psql "$RELEVO_DATABASE_URL" -c 'CREATE TABLE price (sku text PRIMARY KEY, cents bigint NOT NULL)'
//! cargo run -- worker --kinds Reprice
//! relevo job enqueue Reprice --payload '{"sku": "A-1", "cents": 1250}'
//! ```
//!
//! API, scheduler and console are those of the unmodified `relevo`: this worker publishes what they
//! need to know.

use std::process::ExitCode;
use std::time::Duration;

use relevo::serde_json::{Value, json};
use relevo::{Here, Job, JobError, Kind, Policy, UniqueBy, UniqueUntil, sqlx};
use serde::{Deserialize, Serialize};

/// The arguments of one job.
#[derive(Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Reprice {
    /// The article.
    sku: String,
    /// Its price.
    cents: i64,
}

impl Kind for Reprice {
    const KIND: &'static str = "Reprice";
    const SUMMARY: &'static str = "Keeps the price of one article.";
    // The first version had the price in whole euros.
    const VERSION: i16 = 2;
    // What the API takes; the handler's own check is the type above.
    const SCHEMA: &'static str = r#"{
        "type": "object",
        "additionalProperties": false,
        "required": ["sku", "cents"],
        "properties": {
            "sku": {"type": "string", "minLength": 1, "maxLength": 40},
            "cents": {"type": "integer", "minimum": 0}
        }
    }"#;
    const POLICY: Policy =
        Policy { queue: "prices", timeout: Duration::from_secs(30), ..Policy::OF_OWN_KINDS };
    // While one waits for an article, no second is enqueued.
    const UNIQUE: Option<UniqueBy> = Some(UniqueBy { field: "sku", until: UniqueUntil::Claimed });

    fn upcast(from: i16, payload: Value) -> Result<Value, String> {
        match (from, payload["euros"].as_i64()) {
            (1, Some(euros)) => Ok(json!({"sku": payload["sku"], "cents": euros * 100})),
            _ => Err("the price is missing".to_owned()),
        }
    }
}

/// The price and the job's end commit together: ended at any point and run again, it happens once.
async fn reprice(here: Here, job: Job, reprice: Reprice) -> Result<(), JobError> {
    if reprice.cents > 100_000_000 {
        return Err(JobError::fail("nothing in this shop costs a million"));
    }
    let mut tx = here.pool.begin().await?;
    sqlx::query(
        "INSERT INTO price (sku, cents) VALUES ($1, $2)
         ON CONFLICT (sku) DO UPDATE SET cents = excluded.cents",
    )
    .bind(&reprice.sku)
    .bind(reprice.cents)
    .execute(&mut *tx)
    .await?;
    job.complete_in(&mut tx).await?;
    tx.commit().await?;
    Ok(())
}

fn main() -> ExitCode {
    relevo::builder().kind(reprice).run()
}

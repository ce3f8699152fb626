//! The statements that run again and again, as they are sent: for `EXPLAIN`.

use std::sync::Arc;

use crate::worker::{self, KnownKind};
use crate::{admit, due, prune, rescue, stage};

/// A statement of the hot path.
#[derive(Debug, Clone)]
pub struct Statement {
    /// The name in its leading comment, as `pg_stat_activity` shows it.
    pub name: &'static str,
    /// Its text, with parameters.
    pub sql: Arc<str>,
    /// What a connection is told before, when the statement runs on a worker's own connection.
    pub settings: Option<&'static str>,
}

/// What a worker of `kinds` and upkeep send all the time, for looking at their plans. A claim is the
/// one of at most 64 jobs, a probe the one of a worker of any queue.
///
/// Parameters: `claim_jobs` (session, queue, number of the claim), `probe_queues` (queues, empty),
/// `find_claimed_jobs` (session, number of the claim), `lock_orphaned_jobs` (sessions), `give_turns`
/// (ordering keys), `admit_jobs` (limit), `waiting_ordering_keys` and `waiting_limit_keys` (the key to
/// go on after); the others have none.
pub fn statements(kinds: &[KnownKind]) -> Vec<Statement> {
    let of_worker =
        |name, sql: Arc<str>| Statement { name, sql, settings: Some(worker::settings()) };
    let of_upkeep = |name, sql: &str| Statement { name, sql: sql.into(), settings: None };
    let mut all = vec![
        of_worker("find_claimed_jobs", worker::VOID_FIND.into()),
        of_upkeep("stage_jobs", stage::STAGE),
        of_upkeep("upkeep_due", due::UPKEEP_DUE),
        of_upkeep("give_turns", admit::GIVE_TURNS),
        Statement { name: "admit_jobs", sql: admit::ADMIT.into(), settings: Some(admit::SETTINGS) },
        of_upkeep("waiting_ordering_keys", admit::WAITING_ORDERS),
        of_upkeep("waiting_limit_keys", admit::WAITING_LIMITS),
        of_upkeep("lock_orphaned_jobs", rescue::LOCK_ORPHANS),
        of_upkeep("adopt_stranded_jobs", prune::ADOPT_STRANDED),
    ];
    if let Some((probe, claim)) = worker::Claims::new(kinds, true).texts(64) {
        all.push(of_worker("probe_queues", probe));
        all.push(of_worker("claim_jobs", claim));
    }
    all
}

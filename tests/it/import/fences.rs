//! A writer whose lease is over changes nothing.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use relevo_import::steps::{self, ChunkOutcome};
use relevo_import::{ChunkLimits, Fence, ImportError, NoProgress};
use relevo_tests::wait_for;
use tokio::io::{AsyncRead, ReadBuf};
use tokio::sync::Semaphore;
use tokio_util::sync::{CancellationToken, PollSemaphore};

use super::dump::Dump;
use super::steps::{Cut, fence, options};
use super::target::Target;

/// A chunk file whose end arrives only when the test lets it.
struct Gated {
    bytes: Vec<u8>,
    at: usize,
    gate_at: usize,
    gate: PollSemaphore,
}

impl Gated {
    fn new(bytes: Vec<u8>, gate: &Arc<Semaphore>) -> Self {
        let gate_at = bytes.len() - 40;
        Self { bytes, at: 0, gate_at, gate: PollSemaphore::new(Arc::clone(gate)) }
    }
}

impl AsyncRead for Gated {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.at == this.gate_at {
            match this.gate.poll_acquire(cx) {
                Poll::Ready(Some(permit)) => permit.forget(),
                _ => return Poll::Pending,
            }
        }
        let end = if this.at < this.gate_at { this.gate_at } else { this.bytes.len() };
        let length = buffer.remaining().min(end - this.at);
        buffer.put_slice(&this.bytes[this.at..this.at + length]);
        this.at += length;
        Poll::Ready(Ok(()))
    }
}

/// Starts loading chunk 1 and holds it before its last bytes, with its transaction open.
async fn held(
    target: &Target,
    cut: &Cut,
    by: Fence,
) -> (tokio::task::JoinHandle<Result<ChunkOutcome, ImportError>>, Arc<Semaphore>) {
    let gate = Arc::new(Semaphore::new(0));
    let file = Gated::new(cut.chunks[1].to_file().unwrap().to_vec(), &gate);
    let (pool, id) = (target.pool().clone(), cut.id.clone());
    let load = tokio::spawn(async move {
        let limits = ChunkLimits { timeout: Duration::from_secs(60) };
        steps::load_chunk(&pool, &id, 1, file, by, limits, &CancellationToken::new()).await
    });
    wait_for("the chunk's COPY", Duration::from_secs(20), async || {
        let copying = "SELECT count(*)::text FROM pg_stat_activity
                       WHERE application_name LIKE 'relevo import % chunk 1' AND query LIKE '%COPY%'
                         AND datname = current_database() AND state = 'active'";
        (target.ask(copying).await == "1").then_some(())
    })
    .await;
    (load, gate)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_worker_that_wakes_up_is_rolled_back() {
    let target = Target::new().await;
    let pool = target.pool();
    let cut = Cut::new("run1_f", &Dump::default());
    cut.prepare(pool, fence(1, 1)).await;
    let (stale, gate) = held(&target, &cut, fence(5, 1)).await;
    let rows = cut.chunks[1].header.rows;
    // Rescued: the same job under a higher epoch, on another worker.
    let taken = cut.load(pool, 1, fence(5, 2)).await;
    assert!(matches!(taken, ChunkOutcome::Loaded { rows: loaded, .. } if loaded == rows));
    gate.add_permits(1);
    let outcome = stale.await.unwrap().unwrap();
    assert_eq!(outcome, ChunkOutcome::AlreadyDone { rows });
    let staged = format!("{}.categoria", cut.id.staging_schema());
    assert_eq!(target.count(&staged).await, i64::try_from(rows).unwrap(), "once, not twice");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stale_worker_cannot_commit_while_its_successor_is_still_loading() {
    let target = Target::new().await;
    let pool = target.pool();
    let cut = Cut::new("run2_f", &Dump::default());
    cut.prepare(pool, fence(1, 1)).await;
    let (stale, stale_gate) = held(&target, &cut, fence(5, 1)).await;
    let (current, current_gate) = {
        let gate = Arc::new(Semaphore::new(0));
        let file = Gated::new(cut.chunks[1].to_file().unwrap().to_vec(), &gate);
        let (pool, id) = (pool.clone(), cut.id.clone());
        let load = tokio::spawn(async move {
            let limits = ChunkLimits::default();
            steps::load_chunk(&pool, &id, 1, file, fence(6, 1), limits, &CancellationToken::new())
                .await
        });
        (load, gate)
    };
    wait_for("the successor's fence", Duration::from_secs(20), async || {
        let raised = "SELECT fence_job_id::text FROM relevo_ledger.import_chunk WHERE ordinal = 1";
        (target.ask(raised).await == "6").then_some(())
    })
    .await;
    stale_gate.add_permits(1);
    assert_eq!(stale.await.unwrap().unwrap(), ChunkOutcome::Fenced);
    current_gate.add_permits(1);
    assert!(matches!(current.await.unwrap().unwrap(), ChunkOutcome::Loaded { .. }));
    // And a writer that comes late with an old fence does not even start.
    assert!(matches!(cut.load(pool, 1, fence(5, 3)).await, ChunkOutcome::AlreadyDone { .. }));
    cut.load(pool, 2, fence(6, 2)).await;
    let cancel = CancellationToken::new();
    let old = steps::load_chunk(
        pool,
        &cut.id,
        0,
        tokio::io::empty(),
        Fence { incarnation: 0, job_id: 99, epoch: 99 },
        ChunkLimits::default(),
        &cancel,
    );
    assert_eq!(old.await.unwrap(), ChunkOutcome::Fenced, "a former incarnation");
}

#[tokio::test(flavor = "multi_thread")]
async fn finishing_ends_writers_that_are_stuck_in_staging() {
    let target = Target::new().await;
    let pool = target.pool();
    let cut = Cut::new("run3_f", &Dump::default());
    cut.prepare(pool, fence(1, 1)).await;
    let (stuck, gate) = held(&target, &cut, fence(5, 1)).await;
    for chunk in &cut.chunks {
        cut.load(pool, chunk.header.ordinal, fence(6, 1)).await;
    }
    steps::seal(pool, &cut.id, &cut.manifest, fence(1, 1)).await.unwrap();
    let certificate = cut.finish(pool, fence(7, 1)).await.unwrap();
    assert_eq!(certificate.rows, 314);
    gate.add_permits(1);
    let outcome = stuck.await.unwrap();
    assert!(
        matches!(outcome, Ok(ChunkOutcome::AlreadyDone { .. })),
        "the ledger says that it is done: {outcome:?}"
    );
    assert_eq!(target.count("articulo").await, 300);
}

#[tokio::test(flavor = "multi_thread")]
async fn abandoning_ends_writers_too() {
    let target = Target::new().await;
    let pool = target.pool();
    let cut = Cut::new("run4_f", &Dump::default());
    cut.prepare(pool, fence(1, 1)).await;
    let (stuck, gate) = held(&target, &cut, fence(5, 1)).await;
    steps::abandon(pool, &cut.id, "cancelled").await.unwrap();
    assert_eq!(target.own_schemas().await, "");
    gate.add_permits(1);
    assert!(stuck.await.unwrap().is_err());
    assert_eq!(target.own_schemas().await, "");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_earlier_fence_can_neither_begin_nor_seal_nor_finish() {
    let target = Target::new().await;
    let pool = target.pool();
    let cut = Cut::new("run5_f", &Dump::default());
    cut.prepare(pool, fence(4, 2)).await;
    cut.load_all(pool, 5).await;
    let fenced =
        |error: ImportError| assert!(matches!(error, ImportError::Fenced { .. }), "{error:?}");
    for stale in [fence(4, 1), fence(3, 9), Fence { incarnation: 0, ..fence(9, 9) }] {
        fenced(steps::begin(pool, &cut.id, &options(), stale).await.unwrap_err());
        fenced(steps::create_table(pool, &cut.id, &cut.tables[0], stale).await.unwrap_err());
        fenced(steps::seal(pool, &cut.id, &cut.manifest, stale).await.unwrap_err());
        fenced(cut.finish(pool, stale).await.unwrap_err());
    }
    steps::seal(pool, &cut.id, &cut.manifest, fence(4, 2)).await.unwrap();
    cut.finish(pool, fence(6, 1)).await.unwrap();
    assert_eq!(target.count("articulo").await, 300);
}

#[tokio::test(flavor = "multi_thread")]
async fn two_finishers_at_once_end_in_one_cutover() {
    let target = Target::new().await;
    let pool = target.pool();
    target.import(&Dump::new(290, "antes")).await.unwrap();
    let cut = Cut::new("run6_f", &Dump::default());
    cut.prepare(pool, fence(1, 1)).await;
    cut.load_all(pool, 5).await;
    steps::seal(pool, &cut.id, &cut.manifest, fence(1, 1)).await.unwrap();
    let cancel = CancellationToken::new();
    let finishers =
        (1..=4).map(|epoch| steps::finish(pool, &cut.id, fence(6, epoch), &NoProgress, &cancel));
    let outcomes = futures::future::join_all(finishers).await;
    // The latest goes through; earlier ones are fenced, ended from outside, or find it live.
    assert!(outcomes.iter().any(Result::is_ok), "{outcomes:?}");
    let again = cut.finish(pool, fence(6, 9)).await.unwrap();
    assert_eq!(again.rows, 314);
    assert_eq!(target.count("articulo").await, 300);
    assert_eq!(target.count("relevo_prev_public.articulo").await, 290, "exchanged once");
    assert_eq!(target.own_schemas().await, "relevo_prev_public");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_import_does_not_replace_a_newer_one() {
    let target = Target::new().await;
    let pool = target.pool();
    let older = Cut::new("run7_f", &Dump::new(300, "viejo"));
    older.prepare(pool, fence(1, 1)).await;
    older.load_all(pool, 2).await;
    steps::seal(pool, &older.id, &older.manifest, fence(1, 1)).await.unwrap();
    target.import(&Dump::new(305, "nuevo")).await.unwrap();
    let error = older.finish(pool, fence(3, 1)).await.unwrap_err();
    assert!(matches!(error, ImportError::Superseded { .. }), "{error:?}");
    assert_eq!(target.count("articulo").await, 305);
}

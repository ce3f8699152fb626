//! The pipeline's steps: the same data as the direct import, each step repeatable.

use std::collections::BTreeSet;
use std::sync::Arc;

use relevo_import::steps::{self, Begun, ChunkOutcome, ImportState};
use relevo_import::{
    Chunk, ChunkLimits, Fence, ImportError, ImportId, ImportOptions, Manifest, NoProgress, Readers,
    SplitItem, SplitOptions, split_to_chunks,
};
use relevo_mysqldump::TableDef;
use sqlx::PgPool;
use tokio_util::sync::CancellationToken;

use super::dump::Dump;
use super::target::{Target, quick};

/// A dump cut into small chunks.
pub struct Cut {
    pub id: ImportId,
    pub tables: Vec<Arc<TableDef>>,
    pub chunks: Vec<Chunk>,
    pub manifest: Manifest,
}

impl Cut {
    pub fn new(id: &str, dump: &Dump) -> Self {
        let id = ImportId::new(id).unwrap();
        let mut options = SplitOptions::new(id.clone());
        // Small, but no smaller than the splitter's batches in so small a dump.
        options.chunk_size_bytes = 1_000;
        let (mut tables, mut chunks) = (Vec::new(), Vec::new());
        let manifest = split_to_chunks(dump.reader(), &options, &NoProgress, &mut |item| {
            match item {
                SplitItem::Table(table) => tables.push(table),
                SplitItem::Chunk(chunk) => chunks.push(chunk),
            }
            Ok(())
        })
        .unwrap();
        Self { id, tables, chunks, manifest }
    }

    pub async fn load(&self, pool: &PgPool, ordinal: i32, fence: Fence) -> ChunkOutcome {
        self.try_load(pool, ordinal, fence).await.unwrap()
    }

    pub async fn try_load(
        &self,
        pool: &PgPool,
        ordinal: i32,
        fence: Fence,
    ) -> Result<ChunkOutcome, ImportError> {
        let chunk = &self.chunks[usize::try_from(ordinal).unwrap()];
        let file = chunk.to_file().unwrap();
        let cancel = CancellationToken::new();
        steps::load_chunk(
            pool,
            &self.id,
            ordinal,
            &file[..],
            fence,
            ChunkLimits::default(),
            &cancel,
        )
        .await
    }

    /// Begins, creates the tables.
    pub async fn prepare(&self, pool: &PgPool, fence: Fence) -> Begun {
        let begun = steps::begin(pool, &self.id, &options(), fence).await.unwrap();
        for table in &self.tables {
            steps::create_table(pool, &self.id, table, fence).await.unwrap();
        }
        begun
    }

    pub async fn load_all(&self, pool: &PgPool, job_id: i64) {
        for chunk in &self.chunks {
            self.load(pool, chunk.header.ordinal, fence(job_id, 1)).await;
        }
    }

    pub async fn finish(
        &self,
        pool: &PgPool,
        fence: Fence,
    ) -> Result<relevo_import::Certificate, ImportError> {
        steps::finish(pool, &self.id, fence, &NoProgress, &CancellationToken::new()).await
    }
}

pub fn options() -> ImportOptions {
    quick(ImportOptions { owner: "tests".to_owned(), ..ImportOptions::default() })
}

pub fn fence(job_id: i64, epoch: i64) -> Fence {
    Fence { incarnation: 1, job_id, epoch }
}

#[tokio::test(flavor = "multi_thread")]
async fn chunks_in_any_order_give_the_same_data_as_the_direct_import() {
    let dump = Dump::new(900, "uno");
    let (direct, stepwise) = (Target::new().await, Target::new().await);
    direct.import(&dump).await.unwrap();
    let cut = Cut::new("run1_a", &dump);
    assert!(cut.chunks.len() >= 4, "{} chunks", cut.chunks.len());
    let pool = stepwise.pool();
    assert_eq!(cut.prepare(pool, fence(1, 1)).await, Begun::Fresh);
    // The last first, two at a time, before and after the seal.
    let ordinals: Vec<i32> = cut.chunks.iter().map(|chunk| chunk.header.ordinal).rev().collect();
    let (early, late) = ordinals.split_at(2);
    for ordinal in early {
        cut.load(pool, *ordinal, fence(10, 1)).await;
    }
    steps::seal(pool, &cut.id, &cut.manifest, fence(1, 1)).await.unwrap();
    let missing: BTreeSet<i32> = late.iter().copied().collect();
    let found = steps::missing_chunks(pool, &cut.id).await.unwrap();
    assert_eq!(found.into_iter().collect::<BTreeSet<_>>(), missing);
    let loads = late.iter().map(|ordinal| cut.load(pool, *ordinal, fence(11, 1)));
    futures::future::join_all(loads).await;

    let certificate = cut.finish(pool, fence(12, 1)).await.unwrap();
    assert_eq!(certificate.rows, 914);
    assert_eq!(stepwise.content("public").await, direct.content("public").await);
    assert_eq!(stepwise.own_schemas().await, "");
    assert_eq!(steps::state(pool, &cut.id).await.unwrap(), Some(ImportState::Live));
    let again = steps::certificate(pool, &cut.id).await.unwrap().unwrap();
    assert_eq!(again.finished_at, certificate.finished_at);
}

#[tokio::test(flavor = "multi_thread")]
async fn every_step_may_be_run_twice() {
    let target = Target::new().await;
    let pool = target.pool();
    let cut = Cut::new("run2_a", &Dump::default());
    for (epoch, expected) in [(1, Begun::Fresh), (2, Begun::Resumed { chunks_done: 0 })] {
        assert_eq!(cut.prepare(pool, fence(1, epoch)).await, expected);
    }
    for chunk in &cut.chunks {
        let ordinal = chunk.header.ordinal;
        let rows = chunk.header.rows;
        let first = cut.load(pool, ordinal, fence(5, 1)).await;
        assert!(matches!(first, ChunkOutcome::Loaded { rows: loaded, .. } if loaded == rows));
        for again in [fence(5, 1), fence(5, 2), fence(9, 1)] {
            assert_eq!(cut.load(pool, ordinal, again).await, ChunkOutcome::AlreadyDone { rows });
        }
    }
    assert_eq!(
        cut.prepare(pool, fence(1, 3)).await,
        Begun::Resumed { chunks_done: cut.chunks.len() as u64 }
    );
    let progress = steps::load_progress(pool, &cut.id).await.unwrap();
    assert_eq!((progress.chunks_done.len(), progress.rows_done), (cut.chunks.len(), 314));
    for _ in 0..2 {
        steps::seal(pool, &cut.id, &cut.manifest, fence(1, 3)).await.unwrap();
    }
    assert_eq!(steps::begin(pool, &cut.id, &options(), fence(1, 4)).await.unwrap(), Begun::Sealed);
    let first = cut.finish(pool, fence(6, 1)).await.unwrap();
    let second = cut.finish(pool, fence(6, 2)).await.unwrap();
    assert_eq!(first.finished_at, second.finished_at);
    assert_eq!(target.count("articulo").await, 300);
    assert_eq!(steps::begin(pool, &cut.id, &options(), fence(1, 5)).await.unwrap(), Begun::Live);
    assert!(steps::missing_chunks(pool, &cut.id).await.unwrap().is_empty());
    assert_eq!(cut.load(pool, 0, fence(7, 1)).await, ChunkOutcome::AlreadyDone { rows: 2 });
}

#[tokio::test(flavor = "multi_thread")]
async fn finish_trusts_the_ledger_alone() {
    let target = Target::new().await;
    let pool = target.pool();
    let cut = Cut::new("run3_a", &Dump::default());
    cut.prepare(pool, fence(1, 1)).await;
    let error = cut.finish(pool, fence(2, 1)).await.unwrap_err();
    assert!(matches!(error, ImportError::NotSealed { .. }) && error.is_transient(), "{error:?}");
    // Finish has taken the import over: its reader is a later writer now.
    steps::begin(pool, &cut.id, &options(), fence(3, 1)).await.unwrap();
    for chunk in &cut.chunks[1..] {
        cut.load(pool, chunk.header.ordinal, fence(10, 1)).await;
    }
    steps::seal(pool, &cut.id, &cut.manifest, fence(3, 1)).await.unwrap();
    let error = cut.finish(pool, fence(4, 1)).await.unwrap_err();
    let ImportError::MissingChunks { ordinals } = &error else { panic!("{error:?}") };
    assert_eq!(ordinals, &[0]);
    cut.load(pool, 0, fence(10, 2)).await;
    // Rows that came in past the ledger are found by counting.
    let smuggled = format!("INSERT INTO {}.departamento VALUES (77, 'x')", cut.id.staging_schema());
    target.run(&smuggled).await;
    let error = cut.finish(pool, fence(4, 2)).await.unwrap_err();
    let ImportError::RowsDiffer { table, rows_dump, rows_target } = &error else {
        panic!("{error:?}")
    };
    assert_eq!((table.as_str(), *rows_dump, *rows_target), ("departamento", 2, 3));
    target
        .run(
            &smuggled
                .replace("INSERT INTO", "DELETE FROM")
                .replace("VALUES (77, 'x')", "WHERE dep_id = 77"),
        )
        .await;
    cut.finish(pool, fence(4, 3)).await.unwrap();
    assert_eq!(target.count("articulo").await, 300);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_dump_under_the_same_id_is_noticed() {
    let target = Target::new().await;
    let pool = target.pool();
    let (one, other) =
        (Cut::new("run4_a", &Dump::new(300, "uno")), Cut::new("run4_a", &Dump::new(300, "dos")));
    one.prepare(pool, fence(1, 1)).await;
    one.load_all(pool, 5).await;
    other.prepare(pool, fence(1, 2)).await;
    other.load_all(pool, 6).await;
    steps::seal(pool, &other.id, &other.manifest, fence(1, 2)).await.unwrap();
    let error = other.finish(pool, fence(7, 1)).await.unwrap_err();
    assert!(matches!(error, ImportError::OtherDump { .. }), "{error:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_abandoned_import_stays_abandoned() {
    let target = Target::new().await;
    let pool = target.pool();
    let cut = Cut::new("run5_a", &Dump::default());
    cut.prepare(pool, fence(1, 1)).await;
    cut.load(pool, 0, fence(5, 1)).await;
    for _ in 0..2 {
        steps::abandon(pool, &cut.id, "cancelled by a person").await.unwrap();
    }
    assert_eq!(target.own_schemas().await, "");
    let ended =
        |error: ImportError| assert!(matches!(error, ImportError::Ended { .. }), "{error:?}");
    ended(steps::begin(pool, &cut.id, &options(), fence(9, 9)).await.unwrap_err());
    ended(steps::create_table(pool, &cut.id, &cut.tables[0], fence(1, 1)).await.unwrap_err());
    ended(cut.try_load(pool, 1, fence(9, 9)).await.unwrap_err());
    ended(steps::seal(pool, &cut.id, &cut.manifest, fence(1, 1)).await.unwrap_err());
    ended(cut.finish(pool, fence(9, 9)).await.unwrap_err());
    assert_eq!(target.own_schemas().await, "", "nothing came back");

    let unknown = ImportId::new("run6_a").unwrap();
    steps::abandon(pool, &unknown, "never begun").await.unwrap();
    ended(steps::begin(pool, &unknown, &options(), fence(1, 1)).await.unwrap_err());

    let live = Cut::new("run7_a", &Dump::default());
    live.prepare(pool, fence(1, 1)).await;
    live.load_all(pool, 5).await;
    steps::seal(pool, &live.id, &live.manifest, fence(1, 1)).await.unwrap();
    live.finish(pool, fence(6, 1)).await.unwrap();
    steps::abandon(pool, &live.id, "too late").await.unwrap();
    assert!(steps::certificate(pool, &live.id).await.unwrap().is_some());
    assert_eq!(target.count("articulo").await, 300);
}

/// Gives up what is left over, except for the imports at work.
async fn clear_all(pool: &PgPool, at_work: &[&ImportId]) -> Vec<ImportId> {
    let mut given_up = Vec::new();
    for leftover in steps::leftovers(pool, "tests").await.unwrap() {
        let left = !at_work.contains(&leftover.import());
        if left && steps::clear(pool, &leftover).await.unwrap() {
            given_up.push(leftover.import().clone());
        }
    }
    given_up
}

#[tokio::test(flavor = "multi_thread")]
async fn sweeping_clears_up_after_one_owner_only() {
    let target = Target::new().await;
    let pool = target.pool();
    assert!(steps::leftovers(pool, "tests").await.unwrap().is_empty(), "no ledger yet");
    let (left, live) = (Cut::new("run8_a", &Dump::default()), Cut::new("run9_a", &Dump::default()));
    left.prepare(pool, fence(1, 1)).await;
    left.load(pool, 0, fence(2, 1)).await;
    live.prepare(pool, fence(3, 1)).await;
    let foreign = ImportId::new("run1_b").unwrap();
    let others = ImportOptions { owner: "another control plane".to_owned(), ..options() };
    steps::begin(pool, &foreign, &others, fence(1, 1)).await.unwrap();

    assert_eq!(clear_all(pool, &[&live.id]).await, std::slice::from_ref(&left.id));
    assert_eq!(target.own_schemas().await, "relevo_stage_run1_b relevo_stage_run9_a");
    // What a kill left half-dropped is found again by the schema that is there.
    target
        .run("CREATE SCHEMA relevo_stage_run8_a; CREATE TABLE relevo_stage_run8_a.x (id int)")
        .await;
    assert!(clear_all(pool, &[&live.id]).await.is_empty());
    assert_eq!(target.own_schemas().await, "relevo_stage_run1_b relevo_stage_run9_a");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_import_taken_up_after_the_list_was_read_is_not_swept() {
    let target = Target::new().await;
    let pool = target.pool();
    let cut = Cut::new("run12_a", &Dump::default());
    cut.prepare(pool, fence(1, 1)).await;
    let listed = steps::leftovers(pool, "tests").await.unwrap();
    assert_eq!(listed.len(), 1);
    assert!(listed[0].is_unfinished());
    // Rescued meanwhile: the same job under a higher epoch.
    steps::begin(pool, &cut.id, &options(), fence(1, 2)).await.unwrap();
    assert!(!steps::clear(pool, &listed[0]).await.unwrap());
    assert_eq!(steps::state(pool, &cut.id).await.unwrap(), Some(ImportState::Loading));
    cut.load_all(pool, 2).await;
    steps::seal(pool, &cut.id, &cut.manifest, fence(1, 2)).await.unwrap();
    cut.finish(pool, fence(3, 1)).await.unwrap();
    assert!(!steps::clear(pool, &listed[0]).await.unwrap(), "nor a live one");
    assert_eq!(target.count("articulo").await, 300);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_control_plane_does_not_take_an_old_import_for_its_own() {
    let target = Target::new().await;
    let pool = target.pool();
    let cut = Cut::new("run13_a", &Dump::default());
    cut.prepare(pool, fence(1, 1)).await;
    cut.load_all(pool, 2).await;
    steps::seal(pool, &cut.id, &cut.manifest, fence(1, 1)).await.unwrap();
    cut.finish(pool, fence(3, 1)).await.unwrap();
    assert_eq!(
        steps::begin(pool, &cut.id, &options(), fence(1, 1)).await.unwrap(),
        Begun::Live,
        "the same incarnation"
    );
    let restored = Fence { incarnation: fence(1, 1).incarnation + 1, job_id: 1, epoch: 1 };
    for error in [
        steps::begin(pool, &cut.id, &options(), restored).await.unwrap_err(),
        cut.finish(pool, restored).await.unwrap_err(),
    ] {
        assert!(matches!(error, ImportError::EarlierIncarnation { .. }), "{error:?}");
        assert!(!error.is_transient());
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_tells_whether_the_cutover_had_happened() {
    let target = Target::new().await;
    let pool = target.pool();
    let cut = Cut::new("run14_a", &Dump::default());
    cut.prepare(pool, fence(1, 1)).await;
    cut.load_all(pool, 2).await;
    let early = cut.finish(pool, fence(1, 1)).await.unwrap_err();
    assert_eq!(early.readers(), Readers::SeePrevious);
    steps::seal(pool, &cut.id, &cut.manifest, fence(1, 1)).await.unwrap();
    // Clearing up cannot read its part of the ledger: the server says that it is out of resources.
    target
        .run(
            "CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
             BEGIN RAISE EXCEPTION 'no room' USING ERRCODE = '53100'; END $$;
             CREATE TRIGGER refuse BEFORE DELETE ON relevo_ledger.import_chunk
             FOR EACH STATEMENT EXECUTE FUNCTION refuse()",
        )
        .await;
    let error = cut.finish(pool, fence(3, 1)).await.unwrap_err();
    assert_eq!(error.readers(), Readers::SeeNew, "{error:?}");
    assert!(error.is_transient(), "{error:?}");
    assert_eq!(target.count("articulo").await, 300);
    target.run("DROP TRIGGER refuse ON relevo_ledger.import_chunk").await;
    cut.finish(pool, fence(3, 2)).await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_damaged_chunk_is_refused_and_leaves_nothing() {
    let target = Target::new().await;
    let pool = target.pool();
    let cut = Cut::new("run10_a", &Dump::default());
    cut.prepare(pool, fence(1, 1)).await;
    let good = cut.chunks[1].to_file().unwrap();
    let header_bytes = cut.chunks[1].header_line().unwrap().len();
    let mut flipped = good.to_vec();
    flipped[header_bytes + 20] ^= 1;
    let mut other_place = good.to_vec();
    other_place.truncate(good.len() - 30);
    let cases = [
        ("checksum or row", flipped),
        ("ends too early", other_place),
        ("no header line", b"not a chunk".to_vec()),
        ("number 2", cut.chunks[2].to_file().unwrap().to_vec()),
    ];
    let cancel = CancellationToken::new();
    for (what, bytes) in cases {
        let outcome = steps::load_chunk(
            pool,
            &cut.id,
            1,
            &bytes[..],
            fence(5, 1),
            ChunkLimits::default(),
            &cancel,
        );
        let error = outcome.await.unwrap_err();
        assert!(
            matches!(error, ImportError::ChunkDamaged { .. } | ImportError::Row { .. }),
            "{what}: {error:?}"
        );
        assert!(!error.is_transient());
    }
    let staged = format!("{}.categoria", cut.id.staging_schema());
    assert_eq!(target.count(&staged).await, 0);
    assert!(matches!(cut.load(pool, 1, fence(5, 1)).await, ChunkOutcome::Loaded { .. }));
}

#[test]
fn cutting_is_deterministic() {
    let (one, two) =
        (Cut::new("run11_a", &Dump::new(900, "uno")), Cut::new("run11_a", &Dump::new(900, "uno")));
    assert_eq!(one.manifest.chunks, two.manifest.chunks);
    let rows: u64 = one.manifest.chunks.iter().map(|chunk| chunk.rows).sum();
    assert_eq!(rows, one.manifest.rows());
}

//! Runs in the database: creating and following them. How they end is told in `ends`.
//!
//! A run changes only while it is active. Every statement here says so in its `WHERE`, so whoever
//! comes late (a stale worker, a second failure) is told so and has changed nothing.

use relevo_telemetry::trace;
use serde_json::{Value, json};
use sqlx::{PgConnection, PgPool, Postgres, QueryBuilder};

use crate::{NewRun, Run, RunFilter, RunId, RunState, bounded};

/// Longest progress message stored, in characters.
const MESSAGE_CHARS_MAX: usize = 500;

/// The columns of [`Run`].
const COLUMNS: &str = "id, incarnation, pipeline, source, state::text AS state, phase, trigger, traceparent, \
     options, notes, \
     created_at, started_at, finished_at, updated_at, progress, stats, certificate, error, \
     cancel_requested, cleaned_at, rolled_back_at, rolled_back_by";

/// Why something could not be done with a run.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    /// The source has an active run of this pipeline already.
    #[error("run {run} of this source is still active; wait for its end or cancel it")]
    AlreadyActive {
        /// The active run.
        run: RunId,
    },
    /// There is no such run.
    #[error("there is no run {0}")]
    NotFound(RunId),
    /// The run has ended; nothing about it changes any more.
    #[error("run {run} has ended already ({state})")]
    Ended {
        /// The run.
        run: RunId,
        /// How it ended.
        state: RunState,
    },
    /// The upload that a run was to load cannot be had.
    #[error("upload {upload} cannot be loaded: {reason}")]
    UploadUnusable {
        /// The upload.
        upload: i64,
        /// Why not.
        reason: String,
    },
    /// The folder of uploads failed.
    #[error("the folder of uploads failed")]
    Uploads(#[from] std::io::Error),
    /// The control plane's database failed.
    #[error("the control plane's database failed")]
    Database(#[from] sqlx::Error),
    /// The queue failed.
    #[error("the queue failed")]
    Queue(#[from] relevo_queue::QueueError),
    /// No token could be made.
    #[error(transparent)]
    Randomness(#[from] crate::NoRandomness),
}

/// The runs of a control plane. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Runs {
    pool: PgPool,
}

impl Runs {
    /// The runs kept in this database, whose schema must be current.
    #[must_use]
    pub fn new(pool: PgPool) -> Self {
        Self { pool }
    }

    /// The control plane's pool.
    #[must_use]
    pub fn pool(&self) -> &PgPool {
        &self.pool
    }

    /// Creates a pending run in the caller's transaction, which stays usable after
    /// [`RunError::AlreadyActive`].
    ///
    /// Waits for a transaction that is just creating or ending a run of the same source.
    ///
    /// # Errors
    /// [`RunError::AlreadyActive`] names the run in the way.
    pub async fn create_in(&self, tx: &mut PgConnection, run: &NewRun) -> Result<RunId, RunError> {
        // The run in the way can end between the two statements: then there is room, once more.
        for _ in 0..5 {
            let created: Option<RunId> = sqlx::query_scalar(
                "-- Runs::create_in
                INSERT INTO relevo.run (incarnation, pipeline, source, trigger, options, traceparent)
                SELECT incarnation, $1, $2, $3, $4, $5 FROM relevo.control
                ON CONFLICT (pipeline, source) WHERE state IN ('pending', 'running') DO NOTHING
                RETURNING id",
            )
            .bind(&run.pipeline)
            .bind(&run.source)
            .bind(bounded::text(&run.trigger, 200))
            .bind(&run.options)
            .bind(trace::current_traceparent())
            .fetch_optional(&mut *tx)
            .await?;
            if let Some(id) = created {
                return Ok(id);
            }
            if let Some(active) = active_in(tx, &run.pipeline, &run.source).await? {
                return Err(RunError::AlreadyActive { run: active.id });
            }
        }
        // Only a storm of runs that end at once gets here.
        Err(RunError::Database(sqlx::Error::RowNotFound))
    }

    /// One run.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn get(&self, id: RunId) -> Result<Option<Run>, RunError> {
        let mut conn = self.pool.acquire().await?;
        self.get_in(&mut conn, id).await
    }

    /// One run, as the caller's transaction sees it.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn get_in(
        &self,
        conn: &mut PgConnection,
        id: RunId,
    ) -> Result<Option<Run>, RunError> {
        let mut query = select("Runs::get");
        query.push(" WHERE id = ").push_bind(id);
        Ok(query.build_query_as().fetch_optional(conn).await?)
    }

    /// One run, its row locked until the caller's transaction ends.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn get_for_update_in(
        &self,
        tx: &mut PgConnection,
        id: RunId,
    ) -> Result<Option<Run>, RunError> {
        let mut query = select("Runs::get_for_update_in");
        query.push(" WHERE id = ").push_bind(id).push(" FOR NO KEY UPDATE");
        Ok(query.build_query_as().fetch_optional(tx).await?)
    }

    /// Every run that has not ended, oldest first: at most one per pipeline and source.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn active(&self) -> Result<Vec<Run>, RunError> {
        let mut query = select("Runs::active");
        query.push(" WHERE state IN ('pending', 'running') ORDER BY id");
        Ok(query.build_query_as().fetch_all(&self.pool).await?)
    }

    /// The active run of a source, if there is one.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn active_of(&self, pipeline: &str, source: &str) -> Result<Option<Run>, RunError> {
        let mut conn = self.pool.acquire().await?;
        Ok(active_in(&mut conn, pipeline, source).await?)
    }

    /// Ended runs of a pipeline that nobody has cleaned up after, oldest first, at most `limit`;
    /// without those of the sources in `except`, so that what cannot be done now does not keep the
    /// others waiting.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn uncleaned(
        &self,
        pipeline: &str,
        except: &[String],
        limit: u32,
    ) -> Result<Vec<Run>, RunError> {
        let mut query = select("Runs::uncleaned");
        query
            .push(" WHERE finished_at IS NOT NULL AND cleaned_at IS NULL AND pipeline = ")
            .push_bind(pipeline)
            .push(" AND source <> ALL (")
            .push_bind(except)
            .push(") ORDER BY id LIMIT ")
            .push_bind(i64::from(limit.min(RunFilter::LIMIT_MAX)));
        Ok(query.build_query_as().fetch_all(&self.pool).await?)
    }

    /// Runs, newest first.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn list(&self, filter: &RunFilter) -> Result<Vec<Run>, RunError> {
        let mut query = select("Runs::list");
        query.push(" WHERE true");
        if let Some(pipeline) = &filter.pipeline {
            query.push(" AND pipeline = ").push_bind(pipeline);
        }
        if let Some(source) = &filter.source {
            query.push(" AND source = ").push_bind(source);
        }
        if let Some(state) = filter.state {
            query.push(" AND state = ").push_bind(state.as_str()).push("::relevo.run_state");
        }
        if let Some(before) = filter.before {
            query.push(" AND id < ").push_bind(before);
        }
        let limit = match filter.limit {
            0 => RunFilter::LIMIT_DEFAULT,
            limit => limit.min(RunFilter::LIMIT_MAX),
        };
        query.push(" ORDER BY id DESC LIMIT ").push_bind(i64::from(limit));
        Ok(query.build_query_as().fetch_all(&self.pool).await?)
    }

    /// Makes a pending run a running one; a running one stays as it is.
    ///
    /// # Errors
    /// [`RunError::Ended`] or [`RunError::NotFound`]: the caller should stop.
    pub async fn start_in(&self, tx: &mut PgConnection, id: RunId) -> Result<(), RunError> {
        let changed = sqlx::query(
            "-- Runs::start_in
            UPDATE relevo.run
            SET state = 'running', started_at = coalesce(started_at, now()), updated_at = now()
            WHERE id = $1 AND state IN ('pending', 'running')",
        )
        .bind(id)
        .execute(&mut *tx)
        .await?
        .rows_affected();
        self.must_be_active(tx, id, changed).await
    }

    /// Says which step the run is in; the first call makes a pending run a running one. The figures
    /// of another step go: they say nothing of this one.
    ///
    /// # Errors
    /// [`RunError::Ended`] or [`RunError::NotFound`]: the caller should stop.
    pub async fn set_phase_in(
        &self,
        tx: &mut PgConnection,
        id: RunId,
        phase: &str,
    ) -> Result<(), RunError> {
        let changed = sqlx::query(
            "-- Runs::set_phase_in
            UPDATE relevo.run
            SET progress = CASE WHEN phase = $2 THEN progress END,
                phase = $2, state = 'running', started_at = coalesce(started_at, now()),
                updated_at = now()
            WHERE id = $1 AND state IN ('pending', 'running')",
        )
        .bind(id)
        .bind(bounded::text(phase, 100))
        .execute(&mut *tx)
        .await?
        .rows_affected();
        self.must_be_active(tx, id, changed).await
    }

    /// Stores how far the run is, for people: `done` of `total` (unknown when `None`) in `unit`
    /// (`bytes`, `rows`, `chunks`), with a short message. Says nothing when the run has ended.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn progress(
        &self,
        id: RunId,
        done: i64,
        total: Option<i64>,
        unit: &str,
        message: &str,
    ) -> Result<(), RunError> {
        let mut conn = self.pool.acquire().await?;
        self.progress_in(&mut conn, id, done, total, unit, message).await
    }

    /// As [`Runs::progress`], in the caller's transaction: a handler that has shown its lease in it
    /// cannot overwrite its successor's figures.
    ///
    /// # Errors
    /// When the database fails.
    pub async fn progress_in(
        &self,
        tx: &mut PgConnection,
        id: RunId,
        done: i64,
        total: Option<i64>,
        unit: &str,
        message: &str,
    ) -> Result<(), RunError> {
        let progress = json!({
            "done": done,
            "total": total,
            "unit": bounded::text(unit, 50),
            "message": bounded::text(message, MESSAGE_CHARS_MAX),
        });
        sqlx::query(
            "-- Runs::progress_in
            UPDATE relevo.run
            SET progress = $2, state = 'running', started_at = coalesce(started_at, now()),
                updated_at = now()
            WHERE id = $1 AND state IN ('pending', 'running')",
        )
        .bind(id)
        .bind(progress)
        .execute(tx)
        .await?;
        Ok(())
    }

    /// Merges figures into the run's statistics; keys present already are replaced.
    ///
    /// # Errors
    /// [`RunError::Ended`] or [`RunError::NotFound`].
    pub async fn add_stats_in(
        &self,
        tx: &mut PgConnection,
        id: RunId,
        stats: &Value,
    ) -> Result<(), RunError> {
        let changed = sqlx::query(
            "-- Runs::add_stats_in
            UPDATE relevo.run SET stats = stats || $2, updated_at = now()
            WHERE id = $1 AND state IN ('pending', 'running')",
        )
        .bind(id)
        .bind(stats)
        .execute(&mut *tx)
        .await?
        .rows_affected();
        self.must_be_active(tx, id, changed).await
    }

    /// Merges facts that later steps need into the run's notes; keys present already are
    /// replaced. Never secrets.
    ///
    /// # Errors
    /// [`RunError::Ended`] or [`RunError::NotFound`].
    pub async fn merge_notes_in(
        &self,
        tx: &mut PgConnection,
        id: RunId,
        notes: &Value,
    ) -> Result<(), RunError> {
        let changed = sqlx::query(
            "-- Runs::merge_notes_in
            UPDATE relevo.run SET notes = notes || $2
            WHERE id = $1 AND state IN ('pending', 'running')",
        )
        .bind(id)
        .bind(notes)
        .execute(&mut *tx)
        .await?
        .rows_affected();
        self.must_be_active(tx, id, changed).await
    }

    /// Turns a count of changed rows into the error that says why there was none.
    async fn must_be_active(
        &self,
        tx: &mut PgConnection,
        id: RunId,
        rows: u64,
    ) -> Result<(), RunError> {
        if rows == 1 {
            return Ok(());
        }
        match self.get_in(tx, id).await? {
            Some(run) => Err(RunError::Ended { run: id, state: run.state }),
            None => Err(RunError::NotFound(id)),
        }
    }
}

/// The start of a query for whole runs.
fn select(name: &str) -> QueryBuilder<Postgres> {
    QueryBuilder::new(format!("-- {name}\nSELECT {COLUMNS} FROM relevo.run"))
}

async fn active_in(
    conn: &mut PgConnection,
    pipeline: &str,
    source: &str,
) -> Result<Option<Run>, sqlx::Error> {
    let mut query = select("Runs::active_of");
    query
        .push(" WHERE state IN ('pending', 'running') AND pipeline = ")
        .push_bind(pipeline)
        .push(" AND source = ")
        .push_bind(source);
    query.build_query_as().fetch_optional(conn).await
}

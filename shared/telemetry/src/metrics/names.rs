//! Every figure that a process exports: name, labels, meaning. `docs/metrics.md` lists the same,
//! checked by a test.

/// Label: the queue a job waits in.
pub const QUEUE: &str = "queue";
/// Label: a job's kind.
pub const KIND: &str = "kind";
/// Label: a job's state in the queue.
pub const STATE: &str = "state";
/// Label: how something ended.
pub const OUTCOME: &str = "outcome";
/// Label: the pipeline a run belongs to, such as `backup`.
pub const PIPELINE: &str = "pipeline";
/// Label: the configured source a run works for, such as `sicar`.
pub const SOURCE: &str = "source";
/// Label: a part of a run, such as `download`.
pub const PHASE: &str = "phase";
/// Label: where in a pipeline bytes were counted.
pub const STAGE: &str = "stage";
/// Label: a schedule's name.
pub const SCHEDULE: &str = "schedule";
/// Label: one of the scheduler's upkeep steps.
pub const STEP: &str = "step";
/// Label: a connection pool's name.
pub const POOL: &str = "pool";
/// Label: why something was refused.
pub const REASON: &str = "reason";
/// Label: a table of the control plane.
pub const TABLE: &str = "table";

/// How a handler's run ended, the values of [`OUTCOME`] for jobs.
pub const JOB_OUTCOMES: [&str; 7] =
    ["completed", "retried", "snoozed", "cancelled", "dead", "given_back", "lost"];
/// How a run ended, the values of [`OUTCOME`] for runs.
pub const RUN_OUTCOMES: [&str; 3] = ["succeeded", "failed", "cancelled"];
/// What became of a slot, the values of [`OUTCOME`] for schedules.
pub const FIRE_OUTCOMES: [&str; 3] = ["started", "skipped", "failed"];
/// Why data were not put into place, the values of [`REASON`].
pub const REFUSALS: [&str; 2] = ["guard", "mismatch"];
/// Where a backup's bytes are counted, the values of [`STAGE`]: as they come over the line, and
/// after decompression.
pub const BYTE_STAGES: [&str; 2] = ["download", "raw"];

/// What a figure is.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Shape {
    /// Only grows within a process's life.
    Counter,
    /// A value now.
    Gauge,
    /// A distribution over the buckets with these upper bounds.
    Histogram(&'static [f64]),
}

/// Who exports a figure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exporter {
    /// Each process for what it did itself; sum over processes.
    EveryProcess,
    /// The scheduler's leader, from the database; one process at a time.
    Leader,
}

/// One figure.
#[derive(Debug, Clone, Copy)]
pub struct Metric {
    /// The exported name; counters end in `_total`, times are `_seconds`, sizes `_bytes`.
    pub name: &'static str,
    /// What it is.
    pub shape: Shape,
    /// Label names in the order that values are given.
    pub labels: &'static [&'static str],
    /// Who exports it.
    pub exporter: Exporter,
    /// Meaning and unit, one sentence.
    pub help: &'static str,
}

impl Metric {
    const fn new(
        shape: Shape,
        exporter: Exporter,
        name: &'static str,
        labels: &'static [&'static str],
        help: &'static str,
    ) -> Self {
        Self { name, shape, labels, exporter, help }
    }
    const fn counter(n: &'static str, l: &'static [&'static str], h: &'static str) -> Self {
        Self::new(Shape::Counter, Exporter::EveryProcess, n, l, h)
    }
    const fn gauge(n: &'static str, l: &'static [&'static str], h: &'static str) -> Self {
        Self::new(Shape::Gauge, Exporter::EveryProcess, n, l, h)
    }
    const fn leader(n: &'static str, l: &'static [&'static str], h: &'static str) -> Self {
        Self::new(Shape::Gauge, Exporter::Leader, n, l, h)
    }
    const fn histogram(
        n: &'static str,
        l: &'static [&'static str],
        buckets: &'static [f64],
        h: &'static str,
    ) -> Self {
        Self::new(Shape::Histogram(buckets), Exporter::EveryProcess, n, l, h)
    }
}

/// From a no-op to a job that ran overnight. One minute is the bound of the alert on waiting jobs.
const JOB_SECONDS: &[f64] =
    &[0.005, 0.02, 0.1, 0.5, 5.0, 15.0, 60.0, 300.0, 900.0, 3_600.0, 14_400.0, 43_200.0];
const STATEMENT_SECONDS: &[f64] =
    &[0.000_5, 0.001, 0.002, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1.0, 5.0];
const REQUEST_SECONDS: &[f64] = &[0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0];
const PHASE_SECONDS: &[f64] =
    &[0.1, 1.0, 5.0, 15.0, 30.0, 60.0, 120.0, 300.0, 600.0, 900.0, 1_800.0, 3_600.0, 14_400.0];
const BATCH_SIZES: &[f64] = &[1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1_000.0];

macro_rules! metrics {
    ($($(#[doc = $doc:literal])* $ident:ident = $metric:expr;)*) => {
        $($(#[doc = $doc])* pub const $ident: Metric = $metric;)*
        /// Every figure, in the order of the documentation.
        pub const ALL: &[Metric] = &[$($ident),*];
    };
}

metrics! {
    /// Version of the running build.
    BUILD_INFO = Metric::gauge("relevo_build_info", &["version"],
        "Always 1; the label says which version runs.");

    /// Jobs accepted into the queue by this process.
    JOBS_ENQUEUED = Metric::counter("relevo_jobs_enqueued_total", &[QUEUE, KIND],
        "Jobs that this process put into the queue, duplicates not counted.");
    /// Jobs claimed by this worker.
    JOBS_CLAIMED = Metric::counter("relevo_jobs_claimed_total", &[QUEUE],
        "Jobs that this worker claimed.");
    /// Handlers that ended.
    JOBS_FINISHED = Metric::counter("relevo_jobs_finished_total", &[QUEUE, KIND, OUTCOME],
        "Handlers that ended in this worker, by how: completed, retried, snoozed, cancelled, dead, given_back (stopping), lost (lease lost).");
    /// Failed attempts that will be tried again.
    JOB_RETRIES = Metric::counter("relevo_job_retries_total", &[QUEUE, KIND],
        "Failed attempts in this worker that will be tried again.");
    /// Jobs given up.
    DEAD_LETTERS_MOVED = Metric::counter("relevo_dead_letters_moved_total", &[QUEUE, KIND],
        "Jobs that became dead letters: counted by the worker that gave them up, and by the leading scheduler when too many workers died under one.");
    /// Leases this worker lost.
    LEASES_LOST = Metric::counter("relevo_leases_lost_total", &[QUEUE],
        "Jobs whose lease this worker lost while it held them; their effects were refused.");
    /// Handlers that do not yield.
    HANDLERS_STUCK = Metric::counter("relevo_handlers_stuck_total", &[QUEUE, KIND],
        "Handlers of this worker that were told to stop and did not yield: their leases were taken from them, and their slots stay taken until they return.");
    /// Jobs taken back from dead workers.
    JOBS_RESCUED = Metric::counter("relevo_jobs_rescued_total", &[],
        "Jobs that this process took back from dead workers.");
    /// Wait from due to start.
    JOB_WAIT_SECONDS = Metric::histogram("relevo_job_wait_seconds", &[QUEUE, KIND], JOB_SECONDS,
        "Seconds from the moment a job was due to the start of its handler.");
    /// Handler run time.
    JOB_RUN_SECONDS = Metric::histogram("relevo_job_run_seconds", &[KIND], JOB_SECONDS,
        "Seconds that a handler ran.");
    /// Claim latency.
    CLAIM_SECONDS = Metric::histogram("relevo_claim_seconds", &[], STATEMENT_SECONDS,
        "Seconds that one claim statement took, answer included.");
    /// Claim batch sizes.
    CLAIM_BATCH_SIZE = Metric::histogram("relevo_claim_batch_size", &[], BATCH_SIZES,
        "Jobs in one claim that found any.");
    /// Finish batch sizes.
    FINISH_BATCH_SIZE = Metric::histogram("relevo_finish_batch_size", &[], BATCH_SIZES,
        "Ended jobs written back in one statement.");
    /// Slots of this worker.
    WORKER_SLOTS = Metric::gauge("relevo_worker_slots", &[],
        "Handlers that this worker may run at the same time.");
    /// Busy slots of this worker.
    WORKER_SLOTS_BUSY = Metric::gauge("relevo_worker_slots_busy", &[],
        "Handlers that run in this worker now.");

    /// Depth by state.
    QUEUE_JOBS = Metric::leader("relevo_queue_jobs", &[QUEUE, STATE],
        "Jobs in the queue by state: scheduled, waiting, available, running, retryable.");
    /// Paused queues.
    QUEUE_PAUSED = Metric::leader("relevo_queue_paused", &[QUEUE],
        "1 where a queue is paused and nothing is claimed from it, else 0.");
    /// Kinds that no worker knows.
    QUEUE_UNSERVED_KINDS = Metric::leader("relevo_queue_unserved_kinds", &[QUEUE],
        "Kinds, and versions of their payloads, of which jobs wait here while no worker alive knows them.");
    /// Dead letters now.
    DEAD_LETTERS_PRESENT = Metric::leader("relevo_dead_letters_present", &[QUEUE],
        "Dead letters that wait for a person.");
    /// Oldest available.
    QUEUE_OLDEST_AVAILABLE = Metric::leader("relevo_queue_oldest_available_timestamp_seconds", &[QUEUE],
        "Unix time at which the oldest available job became due; 0 when none waits.");
    /// Live worker sessions.
    WORKER_SESSIONS = Metric::leader("relevo_worker_sessions", &[],
        "Worker sessions with a fresh heartbeat.");
    /// Age of the oldest snapshot.
    XMIN_AGE = Metric::leader("relevo_database_oldest_snapshot_age_seconds", &[],
        "Age in seconds of the oldest transaction in the control plane's database; long ones hold back the queue's clean-up.");

    /// Size of a table.
    TABLE_BYTES = Metric::leader("relevo_table_bytes", &[TABLE],
        "Bytes on disk of a table of the control plane with its indexes, partitions added up.");
    /// Live rows.
    TABLE_ROWS = Metric::leader("relevo_table_rows", &[TABLE],
        "Rows of a table of the control plane, as the server's statistics estimate them.");
    /// Dead rows.
    TABLE_DEAD_ROWS = Metric::leader("relevo_table_dead_rows", &[TABLE],
        "Rows that were deleted or replaced and not cleaned up yet, as the server's statistics estimate them.");
    /// Connections to the server.
    DATABASE_CONNECTIONS = Metric::leader("relevo_database_connections", &[],
        "Connections of all clients to the control plane's server.");
    /// Bound of the server's connections.
    DATABASE_CONNECTIONS_MAX = Metric::leader("relevo_database_connections_max", &[],
        "Connections that the control plane's server takes at most.");

    /// Free room.
    DISK_FREE_BYTES = Metric::gauge("relevo_disk_free_bytes", &[],
        "Bytes that may still be written below data_dir; workers and the leading scheduler look.");
    /// All room.
    DISK_SIZE_BYTES = Metric::gauge("relevo_disk_size_bytes", &[],
        "Size in bytes of the disk that holds data_dir; workers and the leading scheduler look.");

    /// Leadership.
    SCHEDULER_IS_LEADER = Metric::gauge("relevo_scheduler_is_leader", &[],
        "1 where this process leads the schedulers, else 0.");
    /// The configuration file.
    SCHEDULE_FILE_VALID = Metric::gauge("relevo_schedule_file_valid", &[],
        "0 where this scheduler's configuration file has changed and makes no sense, else 1.");
    /// Leader term.
    SCHEDULER_LEADER_TERM = Metric::leader("relevo_scheduler_leader_term", &[],
        "The leader's term; it rises by one at every change of leader.");
    /// Last fire of a schedule.
    SCHEDULE_LAST_FIRE = Metric::leader("relevo_schedule_last_fire_timestamp_seconds", &[SCHEDULE],
        "Unix time of the slot that a schedule fired last; 0 when it never did.");
    /// Next fire of a schedule.
    SCHEDULE_NEXT_FIRE = Metric::leader("relevo_schedule_next_fire_timestamp_seconds", &[SCHEDULE],
        "Unix time of a schedule's next slot.");
    /// Fires of a schedule.
    SCHEDULE_FIRES = Metric::counter("relevo_schedule_fires_total", &[SCHEDULE, OUTCOME],
        "Slots that this process handled: started, skipped (missed, or a run was active), failed.");
    /// Upkeep time.
    UPKEEP_SECONDS = Metric::histogram("relevo_upkeep_seconds", &[STEP], STATEMENT_SECONDS,
        "Seconds that one step of the scheduler's upkeep took.");
    /// Upkeep errors.
    UPKEEP_ERRORS = Metric::counter("relevo_upkeep_errors_total", &[STEP],
        "Steps of the scheduler's upkeep that failed.");

    /// Ended runs.
    PIPELINE_RUNS = Metric::counter("relevo_pipeline_runs_total", &[PIPELINE, SOURCE, OUTCOME],
        "Runs that this process ended: succeeded, failed, cancelled.");
    /// Data that were not put into place.
    PIPELINE_REFUSALS = Metric::counter("relevo_pipeline_refusals_total", &[PIPELINE, SOURCE, REASON],
        "Data that this worker did not put into place: guard (suspiciously few rows), mismatch (rows or values in the target are not those of the source).");
    /// Rows moved.
    PIPELINE_ROWS = Metric::counter("relevo_pipeline_rows_total", &[PIPELINE, SOURCE],
        "Rows that this process wrote durably into a target.");
    /// Bytes moved.
    PIPELINE_BYTES = Metric::counter("relevo_pipeline_bytes_total", &[PIPELINE, SOURCE, STAGE],
        "Bytes that this process moved: download (as they come over the line), raw (decompressed).");
    /// Phase durations.
    PIPELINE_PHASE_SECONDS = Metric::histogram("relevo_pipeline_phase_seconds", &[PIPELINE, SOURCE, PHASE], PHASE_SECONDS,
        "Seconds that one phase of a run took in this process.");
    /// Last success.
    PIPELINE_LAST_SUCCESS = Metric::leader("relevo_pipeline_last_success_timestamp_seconds", &[PIPELINE, SOURCE],
        "Unix time at which a run of this source succeeded last; 0 when none ever did.");
    /// When the next success is due.
    PIPELINE_SUCCESS_DUE = Metric::leader("relevo_pipeline_success_due_timestamp_seconds", &[PIPELINE, SOURCE],
        "Unix time by which a scheduled source has to have succeeded again: its last success, its interval and alerts.overdue_grace_minutes; 0 when it is not scheduled.");
    /// Progress of the active run.
    PIPELINE_PROGRESS = Metric::leader("relevo_pipeline_progress_ratio", &[PIPELINE, SOURCE],
        "Progress of the active run's phase, from 0 to 1; 0 when none is active.");

    /// Connections of a pool.
    POOL_CONNECTIONS = Metric::gauge("relevo_pool_connections", &[POOL, STATE],
        "Database connections of this process: used, idle.");
    /// Bound of a pool.
    POOL_CONNECTIONS_MAX = Metric::gauge("relevo_pool_connections_max", &[POOL],
        "Database connections that this process opens at most.");

    /// HTTP requests.
    HTTP_REQUESTS = Metric::counter("relevo_http_requests_total", &["method", "route", "status"],
        "HTTP requests answered, by route pattern and status.");
    /// HTTP request time.
    HTTP_REQUEST_SECONDS = Metric::histogram("relevo_http_request_seconds", &["method", "route"], REQUEST_SECONDS,
        "Seconds from a request to its answer's headers.");
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_follow_the_rules() {
        let mut names: Vec<_> = ALL.iter().map(|metric| metric.name).collect();
        for metric in ALL {
            assert!(metric.name.starts_with("relevo_"), "{}", metric.name);
            assert_eq!(
                metric.name.ends_with("_total"),
                metric.shape == Shape::Counter,
                "{}",
                metric.name
            );
            assert!(metric.help.ends_with('.') && metric.help.len() > 20, "{}", metric.name);
            assert!(!metric.labels.contains(&"le"), "{}", metric.name);
        }
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), ALL.len(), "a name stands twice");
    }
}

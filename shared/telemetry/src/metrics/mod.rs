//! The figures of one process, in a registry of its own.

use std::sync::{Arc, Mutex, PoisonError};

use prometheus::core::Collector;
use prometheus::{
    GaugeVec, HistogramOpts, HistogramVec, IntCounterVec, Opts, Registry, TextEncoder,
};

pub mod names;

use names::{Metric, Shape};

/// The figures of one process. Fields are used as
/// `metrics.jobs_claimed.with_label_values(&[queue]).inc()`, values in the order of
/// [`names::Metric::labels`]; figures without labels take `&[] as &[&str]` or one of the methods.
pub struct Metrics {
    registry: Registry,
    pools: Mutex<Vec<WatchedPool>>,
    pool_connections: GaugeVec,
    pool_connections_max: GaugeVec,
    /// [`names::JOBS_ENQUEUED`]
    pub jobs_enqueued: IntCounterVec,
    /// [`names::JOBS_CLAIMED`]
    pub jobs_claimed: IntCounterVec,
    /// [`names::JOBS_FINISHED`]
    pub jobs_finished: IntCounterVec,
    /// [`names::JOB_RETRIES`]
    pub job_retries: IntCounterVec,
    /// [`names::DEAD_LETTERS_MOVED`]
    pub dead_letters_moved: IntCounterVec,
    /// [`names::LEASES_LOST`]
    pub leases_lost: IntCounterVec,
    /// Handlers that do not yield, by queue and kind.
    pub handlers_stuck: IntCounterVec,
    /// [`names::JOBS_RESCUED`]
    pub jobs_rescued: prometheus::IntCounter,
    /// [`names::JOB_WAIT_SECONDS`]
    pub job_wait_seconds: HistogramVec,
    /// [`names::JOB_RUN_SECONDS`]
    pub job_run_seconds: HistogramVec,
    /// [`names::CLAIM_SECONDS`]
    pub claim_seconds: prometheus::Histogram,
    /// [`names::CLAIM_BATCH_SIZE`]
    pub claim_batch_size: prometheus::Histogram,
    /// [`names::FINISH_BATCH_SIZE`]
    pub finish_batch_size: prometheus::Histogram,
    /// [`names::WORKER_SLOTS`]
    pub worker_slots: prometheus::Gauge,
    /// [`names::WORKER_SLOTS_BUSY`]
    pub worker_slots_busy: prometheus::Gauge,
    /// [`names::SCHEDULER_IS_LEADER`]
    pub scheduler_is_leader: prometheus::Gauge,
    /// [`names::SCHEDULE_FILE_VALID`]
    pub schedule_file_valid: prometheus::Gauge,
    /// [`names::SCHEDULE_FIRES`]
    pub schedule_fires: IntCounterVec,
    /// [`names::UPKEEP_SECONDS`]
    pub upkeep_seconds: HistogramVec,
    /// [`names::UPKEEP_ERRORS`]
    pub upkeep_errors: IntCounterVec,
    /// [`names::PIPELINE_RUNS`]
    pub pipeline_runs: IntCounterVec,
    /// [`names::PIPELINE_REFUSALS`]
    pub pipeline_refusals: IntCounterVec,
    /// [`names::PIPELINE_ROWS`]
    pub pipeline_rows: IntCounterVec,
    /// [`names::PIPELINE_BYTES`]
    pub pipeline_bytes: IntCounterVec,
    /// [`names::PIPELINE_PHASE_SECONDS`]
    pub pipeline_phase_seconds: HistogramVec,
    /// [`names::HTTP_REQUESTS`]
    pub http_requests: IntCounterVec,
    /// [`names::HTTP_REQUEST_SECONDS`]
    pub http_request_seconds: HistogramVec,
    disk_free_bytes: GaugeVec,
    disk_size_bytes: GaugeVec,
    /// What only the scheduler's leader exports.
    pub leader: LeaderMetrics,
}

/// Figures read from the database. They have no series until the leader sets them, and none again
/// after [`LeaderMetrics::clear`].
pub struct LeaderMetrics {
    /// [`names::QUEUE_JOBS`]
    pub queue_jobs: GaugeVec,
    /// [`names::QUEUE_PAUSED`]
    pub queue_paused: GaugeVec,
    /// [`names::QUEUE_UNSERVED_KINDS`]
    pub queue_unserved_kinds: GaugeVec,
    /// [`names::DEAD_LETTERS_PRESENT`]
    pub dead_letters_present: GaugeVec,
    /// [`names::QUEUE_OLDEST_AVAILABLE`]
    pub queue_oldest_available: GaugeVec,
    /// [`names::SCHEDULE_LAST_FIRE`]
    pub schedule_last_fire: GaugeVec,
    /// [`names::SCHEDULE_NEXT_FIRE`]
    pub schedule_next_fire: GaugeVec,
    /// [`names::PIPELINE_LAST_SUCCESS`]
    pub pipeline_last_success: GaugeVec,
    /// [`names::PIPELINE_SUCCESS_DUE`]
    pub pipeline_success_due: GaugeVec,
    /// [`names::PIPELINE_PROGRESS`]
    pub pipeline_progress: GaugeVec,
    /// [`names::TABLE_BYTES`]
    pub table_bytes: GaugeVec,
    /// [`names::TABLE_ROWS`]
    pub table_rows: GaugeVec,
    /// [`names::TABLE_DEAD_ROWS`]
    pub table_dead_rows: GaugeVec,
    database_connections: GaugeVec,
    database_connections_max: GaugeVec,
    worker_sessions: GaugeVec,
    oldest_snapshot_age_seconds: GaugeVec,
    leader_term: GaugeVec,
}

impl LeaderMetrics {
    fn register(registry: &Registry) -> Self {
        let gauge = |metric: &Metric| register(registry, gauge_vec(metric));
        Self {
            queue_jobs: gauge(&names::QUEUE_JOBS),
            queue_paused: gauge(&names::QUEUE_PAUSED),
            queue_unserved_kinds: gauge(&names::QUEUE_UNSERVED_KINDS),
            dead_letters_present: gauge(&names::DEAD_LETTERS_PRESENT),
            queue_oldest_available: gauge(&names::QUEUE_OLDEST_AVAILABLE),
            schedule_last_fire: gauge(&names::SCHEDULE_LAST_FIRE),
            schedule_next_fire: gauge(&names::SCHEDULE_NEXT_FIRE),
            pipeline_last_success: gauge(&names::PIPELINE_LAST_SUCCESS),
            pipeline_success_due: gauge(&names::PIPELINE_SUCCESS_DUE),
            pipeline_progress: gauge(&names::PIPELINE_PROGRESS),
            table_bytes: gauge(&names::TABLE_BYTES),
            table_rows: gauge(&names::TABLE_ROWS),
            table_dead_rows: gauge(&names::TABLE_DEAD_ROWS),
            database_connections: gauge(&names::DATABASE_CONNECTIONS),
            database_connections_max: gauge(&names::DATABASE_CONNECTIONS_MAX),
            worker_sessions: gauge(&names::WORKER_SESSIONS),
            oldest_snapshot_age_seconds: gauge(&names::XMIN_AGE),
            leader_term: gauge(&names::SCHEDULER_LEADER_TERM),
        }
    }

    /// Sets [`names::WORKER_SESSIONS`].
    pub fn set_worker_sessions(&self, count: usize) {
        #[expect(clippy::cast_precision_loss, reason = "nobody runs 2^53 workers")]
        self.worker_sessions.with_label_values(NO_LABELS).set(count as f64);
    }

    /// Sets [`names::XMIN_AGE`].
    pub fn set_oldest_snapshot_age_seconds(&self, seconds: f64) {
        self.oldest_snapshot_age_seconds.with_label_values(NO_LABELS).set(seconds);
    }

    /// Sets [`names::DATABASE_CONNECTIONS`] and [`names::DATABASE_CONNECTIONS_MAX`].
    pub fn set_database_connections(&self, used: i64, max: i64) {
        #[expect(clippy::cast_precision_loss, reason = "no server takes 2^53 connections")]
        for (gauge, count) in
            [(&self.database_connections, used), (&self.database_connections_max, max)]
        {
            gauge.with_label_values(NO_LABELS).set(count as f64);
        }
    }

    /// Sets [`names::SCHEDULER_LEADER_TERM`].
    pub fn set_leader_term(&self, term: i64) {
        #[expect(clippy::cast_precision_loss, reason = "terms stay far below 2^53")]
        self.leader_term.with_label_values(NO_LABELS).set(term as f64);
    }

    /// Drops every series: another process exports them from now on.
    pub fn clear(&self) {
        for gauge in [
            &self.queue_jobs,
            &self.queue_paused,
            &self.queue_unserved_kinds,
            &self.dead_letters_present,
            &self.queue_oldest_available,
            &self.schedule_last_fire,
            &self.schedule_next_fire,
            &self.pipeline_last_success,
            &self.pipeline_success_due,
            &self.pipeline_progress,
            &self.table_bytes,
            &self.table_rows,
            &self.table_dead_rows,
            &self.database_connections,
            &self.database_connections_max,
            &self.worker_sessions,
            &self.oldest_snapshot_age_seconds,
            &self.leader_term,
        ] {
            gauge.reset();
        }
    }
}

const NO_LABELS: &[&str] = &[];

/// How a pool's connections are used at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PoolUse {
    /// Open connections.
    pub open: u32,
    /// Those of them that nobody uses.
    pub idle: u32,
    /// The most that may be open.
    pub max: u32,
}

struct WatchedPool {
    name: String,
    read: Box<dyn Fn() -> PoolUse + Send + Sync>,
}

impl Metrics {
    /// All figures, those without labels at zero.
    pub fn new() -> Arc<Self> {
        let registry = Registry::new();
        let counter = |metric: &Metric| register(&registry, counter_vec(metric));
        let gauge = |metric: &Metric| register(&registry, gauge_vec(metric));
        let histogram = |metric: &Metric| register(&registry, histogram_vec(metric));
        let build_info = gauge(&names::BUILD_INFO);
        build_info.with_label_values(&[env!("CARGO_PKG_VERSION")]).set(1.0);
        #[cfg(target_os = "linux")]
        register_process(&registry);
        let metrics = Self {
            pools: Mutex::new(Vec::new()),
            pool_connections: gauge(&names::POOL_CONNECTIONS),
            pool_connections_max: gauge(&names::POOL_CONNECTIONS_MAX),
            jobs_enqueued: counter(&names::JOBS_ENQUEUED),
            jobs_claimed: counter(&names::JOBS_CLAIMED),
            jobs_finished: counter(&names::JOBS_FINISHED),
            job_retries: counter(&names::JOB_RETRIES),
            dead_letters_moved: counter(&names::DEAD_LETTERS_MOVED),
            leases_lost: counter(&names::LEASES_LOST),
            handlers_stuck: counter(&names::HANDLERS_STUCK),
            jobs_rescued: counter(&names::JOBS_RESCUED).with_label_values(NO_LABELS),
            job_wait_seconds: histogram(&names::JOB_WAIT_SECONDS),
            job_run_seconds: histogram(&names::JOB_RUN_SECONDS),
            claim_seconds: histogram(&names::CLAIM_SECONDS).with_label_values(NO_LABELS),
            claim_batch_size: histogram(&names::CLAIM_BATCH_SIZE).with_label_values(NO_LABELS),
            finish_batch_size: histogram(&names::FINISH_BATCH_SIZE).with_label_values(NO_LABELS),
            worker_slots: gauge(&names::WORKER_SLOTS).with_label_values(NO_LABELS),
            worker_slots_busy: gauge(&names::WORKER_SLOTS_BUSY).with_label_values(NO_LABELS),
            scheduler_is_leader: gauge(&names::SCHEDULER_IS_LEADER).with_label_values(NO_LABELS),
            schedule_file_valid: gauge(&names::SCHEDULE_FILE_VALID).with_label_values(NO_LABELS),
            schedule_fires: counter(&names::SCHEDULE_FIRES),
            upkeep_seconds: histogram(&names::UPKEEP_SECONDS),
            upkeep_errors: counter(&names::UPKEEP_ERRORS),
            pipeline_runs: counter(&names::PIPELINE_RUNS),
            pipeline_refusals: counter(&names::PIPELINE_REFUSALS),
            pipeline_rows: counter(&names::PIPELINE_ROWS),
            pipeline_bytes: counter(&names::PIPELINE_BYTES),
            pipeline_phase_seconds: histogram(&names::PIPELINE_PHASE_SECONDS),
            http_requests: counter(&names::HTTP_REQUESTS),
            http_request_seconds: histogram(&names::HTTP_REQUEST_SECONDS),
            disk_free_bytes: gauge(&names::DISK_FREE_BYTES),
            disk_size_bytes: gauge(&names::DISK_SIZE_BYTES),
            leader: LeaderMetrics::register(&registry),
            registry,
        };
        metrics.schedule_file_valid.set(1.0);
        Arc::new(metrics)
    }

    /// Creates the series of a kind in its queue at zero, so that a first failure is a rise.
    pub fn declare_job(&self, queue: &str, kind: &str) {
        self.declare_queue(queue);
        self.jobs_enqueued.with_label_values(&[queue, kind]);
        self.job_retries.with_label_values(&[queue, kind]);
        self.dead_letters_moved.with_label_values(&[queue, kind]);
        self.handlers_stuck.with_label_values(&[queue, kind]);
        self.job_wait_seconds.with_label_values(&[queue, kind]);
        self.job_run_seconds.with_label_values(&[kind]);
        for outcome in names::JOB_OUTCOMES {
            self.jobs_finished.with_label_values(&[queue, kind, outcome]);
        }
    }

    /// How many jobs this process has claimed so far, and how many of them have ended here, in
    /// whatever way.
    #[must_use]
    pub fn jobs_taken(&self) -> (u64, u64) {
        let sum = |counter: &IntCounterVec| {
            let families = counter.collect();
            let series = families.iter().flat_map(|family| family.get_metric());
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "counts of jobs"
            )]
            series.map(|one| one.get_counter().get_value() as u64).sum()
        };
        (sum(&self.jobs_claimed), sum(&self.jobs_finished))
    }

    /// Creates a queue's series at zero.
    pub fn declare_queue(&self, queue: &str) {
        self.jobs_claimed.with_label_values(&[queue]);
        self.leases_lost.with_label_values(&[queue]);
    }

    /// Creates a pipeline's series for a source at zero.
    pub fn declare_pipeline(&self, pipeline: &str, source: &str) {
        self.pipeline_rows.with_label_values(&[pipeline, source]);
        for outcome in names::RUN_OUTCOMES {
            self.pipeline_runs.with_label_values(&[pipeline, source, outcome]);
        }
        for reason in names::REFUSALS {
            self.pipeline_refusals.with_label_values(&[pipeline, source, reason]);
        }
        for stage in names::BYTE_STAGES {
            self.pipeline_bytes.with_label_values(&[pipeline, source, stage]);
        }
    }

    /// Creates a schedule's series at zero.
    pub fn declare_schedule(&self, schedule: &str) {
        for outcome in names::FIRE_OUTCOMES {
            self.schedule_fires.with_label_values(&[schedule, outcome]);
        }
    }

    /// Creates an upkeep step's series at zero.
    pub fn declare_upkeep(&self, step: &str) {
        self.upkeep_seconds.with_label_values(&[step]);
        self.upkeep_errors.with_label_values(&[step]);
    }

    /// Sets [`names::DISK_FREE_BYTES`] and [`names::DISK_SIZE_BYTES`].
    pub fn set_disk(&self, free_bytes: u64, size_bytes: u64) {
        #[expect(clippy::cast_precision_loss, reason = "the last bytes of a disk do not matter")]
        for (gauge, bytes) in
            [(&self.disk_free_bytes, free_bytes), (&self.disk_size_bytes, size_bytes)]
        {
            gauge.with_label_values(NO_LABELS).set(bytes as f64);
        }
    }

    /// Exports a pool's use; `read` is called at every scrape. A pool of the same name is replaced.
    pub fn watch_pool(&self, name: &str, read: impl Fn() -> PoolUse + Send + Sync + 'static) {
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        pools.retain(|pool| pool.name != name);
        pools.push(WatchedPool { name: name.to_owned(), read: Box::new(read) });
    }

    /// Everything in Prometheus' text format.
    pub fn render(&self) -> String {
        for pool in &*self.pools.lock().unwrap_or_else(PoisonError::into_inner) {
            let now = (pool.read)();
            let used = now.open.saturating_sub(now.idle);
            let connections = |state: &'static str| {
                self.pool_connections.with_label_values(&[pool.name.as_str(), state])
            };
            connections("used").set(used.into());
            connections("idle").set(now.idle.into());
            self.pool_connections_max.with_label_values(&[&pool.name]).set(now.max.into());
        }
        // Unwrap safety: encoding fails only for a family without series or of a broken type, and
        // `gather` yields neither.
        #[expect(clippy::expect_used, reason = "see above")]
        TextEncoder::new().encode_to_string(&self.registry.gather()).expect("metrics encode")
    }
}

fn register<C: Collector + Clone + 'static>(registry: &Registry, collector: C) -> C {
    // Unwrap safety: each name is registered once in a registry of our own; a test builds it.
    #[expect(clippy::expect_used, reason = "see above")]
    registry.register(Box::new(collector.clone())).expect("each metric is registered once");
    collector
}

/// Memory, CPU time and open files under Prometheus' usual `process_…` names.
#[cfg(target_os = "linux")]
fn register_process(registry: &Registry) {
    let collector = prometheus::process_collector::ProcessCollector::for_self();
    // Unwrap safety: nothing else in this registry has names that start with `process_`.
    #[expect(clippy::expect_used, reason = "see above")]
    registry.register(Box::new(collector)).expect("process metrics are registered once");
}

fn options(metric: &Metric) -> Opts {
    Opts::new(metric.name, metric.help)
}

fn counter_vec(metric: &Metric) -> IntCounterVec {
    // Unwrap safety: names and labels are constants, and a test builds every one.
    #[expect(clippy::expect_used, reason = "see above")]
    IntCounterVec::new(options(metric), metric.labels).expect("constants are valid")
}

fn gauge_vec(metric: &Metric) -> GaugeVec {
    // Unwrap safety: names and labels are constants, and a test builds every one.
    #[expect(clippy::expect_used, reason = "see above")]
    GaugeVec::new(options(metric), metric.labels).expect("constants are valid")
}

fn histogram_vec(metric: &Metric) -> HistogramVec {
    let Shape::Histogram(buckets) = metric.shape else {
        unreachable!("only histograms are built as histograms")
    };
    let options = HistogramOpts::from(options(metric)).buckets(buckets.to_vec());
    // Unwrap safety: names and labels are constants, and a test builds every one.
    #[expect(clippy::expect_used, reason = "see above")]
    HistogramVec::new(options, metric.labels).expect("constants are valid")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn full() -> Arc<Metrics> {
        let metrics = Metrics::new();
        metrics.declare_job("default", "noop");
        metrics.declare_pipeline("backup", "sicar");
        metrics.declare_schedule("backup/sicar");
        metrics.declare_upkeep("rescue");
        metrics
    }

    #[test]
    fn declared_series_are_there_at_zero() {
        let text = full().render();
        for line in [
            r#"relevo_jobs_finished_total{kind="noop",outcome="dead",queue="default"} 0"#,
            r#"relevo_job_run_seconds_bucket{kind="noop",le="43200"} 0"#,
            r#"relevo_pipeline_runs_total{outcome="failed",pipeline="backup",source="sicar"} 0"#,
            "relevo_jobs_rescued_total 0",
            "relevo_scheduler_is_leader 0",
        ] {
            assert!(text.contains(line), "{line} in {text}");
        }
    }

    #[test]
    fn the_leaders_series_come_and_go() {
        let metrics = Metrics::new();
        assert!(!metrics.render().contains("relevo_queue_jobs{"));
        metrics.leader.queue_jobs.with_label_values(&["default", "available"]).set(3.0);
        metrics.leader.set_leader_term(2);
        let text = metrics.render();
        assert!(text.contains(r#"relevo_queue_jobs{queue="default",state="available"} 3"#));
        assert!(text.contains("relevo_scheduler_leader_term 2"));
        metrics.leader.clear();
        let text = metrics.render();
        assert!(!text.contains("relevo_queue_jobs") && !text.contains("leader_term"));
    }

    #[test]
    fn pools_are_read_at_each_scrape() {
        let metrics = Metrics::new();
        metrics.watch_pool("control_plane", || PoolUse { open: 5, idle: 2, max: 10 });
        let text = metrics.render();
        let used = r#"relevo_pool_connections{pool="control_plane",state="used"} 3"#;
        assert!(text.contains(used), "{text}");
        assert!(text.contains(r#"relevo_pool_connections_max{pool="control_plane"} 10"#), "{text}");
    }

    #[test]
    fn every_constant_is_registered() {
        let metrics = full();
        metrics.watch_pool("p", || PoolUse { open: 0, idle: 0, max: 1 });
        metrics.http_requests.with_label_values(&["GET", "/", "200"]);
        metrics.http_request_seconds.with_label_values(&["GET", "/"]);
        metrics.pipeline_phase_seconds.with_label_values(&["backup", "sicar", "download"]);
        let leader = &metrics.leader;
        leader.queue_jobs.with_label_values(&["q", "available"]);
        for gauge in [
            &leader.queue_paused,
            &leader.queue_unserved_kinds,
            &leader.dead_letters_present,
            &leader.queue_oldest_available,
            &leader.schedule_last_fire,
            &leader.schedule_next_fire,
            &leader.table_bytes,
            &leader.table_rows,
            &leader.table_dead_rows,
        ] {
            gauge.with_label_values(&["x"]);
        }
        leader.pipeline_last_success.with_label_values(&["backup", "sicar"]);
        leader.pipeline_success_due.with_label_values(&["backup", "sicar"]);
        leader.pipeline_progress.with_label_values(&["backup", "sicar"]);
        leader.set_database_connections(1, 100);
        metrics.set_disk(1, 2);
        leader.set_worker_sessions(1);
        leader.set_oldest_snapshot_age_seconds(0.0);
        leader.set_leader_term(1);
        let text = metrics.render();
        for metric in names::ALL {
            let help = format!("# HELP {} {}\n", metric.name, metric.help);
            assert!(text.contains(&help), "{} is not exported", metric.name);
        }
    }
}

//! The campaign: any process of a cluster at work is killed, again and again, and either database
//! server is crashed; nothing is lost, nothing doubled, and who reads never sees a hole.
//!
//! What it checks is listed in docs/operations.md; `./dev kills` runs it for longer.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::seq::SliceRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use relevo_runs::RunId;
use relevo_tests::gateway::Fault;
use relevo_tests::{OwnPostgres, Process, ShopDump, TestDatabase, planted, wait_for};
use reqwest::Method;
use serde_json::{Value, json};

use super::load::Load;
use super::rest::{SEED_ENV, assert_alive, assert_all_ended, from_env};
use super::witnesses::{Restarts, Witnesses, fingerprint};
use crate::backup::cluster::{Cluster, RUN_TIMEOUT, prepare};

/// How many times something is killed.
const KILLS_ENV: &str = "RELEVO_TEST_KILLS";
/// `swap` or `merge`: how readers come to see new data.
const CUTOVER_ENV: &str = "RELEVO_TEST_CUTOVER";

/// How long a kill waits for an import to get to its finish.
const AIM_MAX: Duration = Duration::from_secs(60);
/// A schedule that fires every second, as long as there is a leader.
const PULSE: &str = "pulse";

/// What is killed. In each round every one of them is, in another order.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Victim {
    Api,
    /// The one that leads or the one that stands by.
    Scheduler,
    Worker,
    /// The database server of the control plane.
    ControlServer,
    /// The database server of the target.
    TargetServer,
}

const VICTIMS: [Victim; 5] =
    [Victim::Api, Victim::Scheduler, Victim::Worker, Victim::ControlServer, Victim::TargetServer];

/// Everything that is at work.
struct Campaign {
    cluster: Cluster,
    standby: Process,
    servers: [OwnPostgres; 2],
    restarts: Arc<Restarts>,
    random: StdRng,
    round: Vec<Victim>,
    killed: BTreeMap<Victim, u32>,
    imports: Imports,
}

/// Backups that are imported one after the other, two different ones by turns.
struct Imports {
    dumps: [ShopDump; 2],
    started: Vec<RunId>,
    /// Whether the last one's outcome has been looked at.
    checked: bool,
}

impl Imports {
    /// The dump of the run that was started as this one.
    fn dump(&self, index: usize) -> &ShopDump {
        &self.dumps[index % 2]
    }
}

impl Campaign {
    async fn start(seed: u64) -> Self {
        let dumps = [ShopDump::generated(3, 7).await, ShopDump::generated(3, 8).await];
        let servers = [OwnPostgres::start().await, OwnPostgres::start().await];
        let databases = TestDatabase::pair_on(&servers[0], &servers[1]).await;
        for database in [&databases.0, &databases.1] {
            let url = url::Url::parse(database.url()).unwrap();
            planted::plant(url.password().expect("the server asks for a password"));
        }
        let cutover = std::env::var(CUTOVER_ENV).unwrap_or_else(|_| "swap".to_owned());
        let prepared = prepare(&dumps[0])
            .databases(databases)
            .workers(2)
            .set("scheduler.lease_seconds", 3)
            .set("backup.sicar.cutover", cutover);
        let mut cluster = Cluster::start(prepared).await;
        let standby = cluster.start_standby().await;
        let arguments = ["schedule", "add", PULSE, "--cron", "* * * * * *", "--kind", "Noop"];
        let arguments = arguments.iter().chain(&["--missed", "catch_up"]);
        drop(cluster.relevo(arguments).await.success());
        Self {
            cluster,
            standby,
            servers,
            restarts: Arc::default(),
            random: StdRng::seed_from_u64(seed),
            round: Vec::new(),
            killed: BTreeMap::new(),
            imports: Imports { dumps, started: Vec::new(), checked: true },
        }
    }

    /// Starts the next import through the API.
    async fn start_import(&mut self) {
        let dump = self.imports.dump(self.imports.started.len());
        self.cluster.gateway().serve(&dump.path).await;
        let mode = if self.random.random() { "webhook" } else { "sync" };
        let path = "/api/v1/backups/sicar";
        let request = || self.cluster.request(Method::POST, path).json(&json!({"mode": mode}));
        let id = wait_for("a run to be started", RUN_TIMEOUT, async || {
            let answer = request().send().await.ok()?;
            let status = answer.status().as_u16();
            let said: Value = answer.json().await.unwrap();
            // The API's connections may have gone with the server.
            assert!(status == 202 || status == 503, "{said}");
            said["run_id"].as_i64()
        })
        .await;
        self.imports.started.push(RunId(id));
        self.imports.checked = false;
    }

    /// Waits for the end of the last import and compares what readers see with what was dumped.
    async fn check_import(&mut self) {
        let Some(&id) = self.imports.started.last() else { return };
        let run = self.cluster.ended_within(id, Duration::from_secs(300)).await;
        let dump = self.imports.dump(self.imports.started.len() - 1);
        self.cluster.assert_loaded(&run, dump).await;
        self.imports.checked = true;
    }

    /// Lets everything go on for a while; a new import begins whenever the last one has ended. Now
    /// and then it waits until an import is about to show its data, and a moment longer.
    async fn go_on(&mut self) {
        let mut until = Instant::now() + self.moments(50..2_500);
        let mut aims = self.random.random_ratio(1, 3);
        let patience = Instant::now() + AIM_MAX;
        loop {
            if self.imports.checked {
                self.start_import().await;
            }
            let last = *self.imports.started.last().expect("one was started");
            let run = self.cluster.run(last).await;
            if aims && run.phase == "finish" {
                aims = false;
                until = Instant::now() + self.moments(0..700);
            }
            if run.state.is_ended() {
                // Now and then the next kill comes first, and meets the clean-up.
                if self.random.random() {
                    return;
                }
                self.check_import().await;
            } else if Instant::now() >= if aims { patience } else { until } {
                return;
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn moments(&mut self, milliseconds: Range<u64>) -> Duration {
        Duration::from_millis(self.random.random_range(milliseconds))
    }

    /// Who is killed next.
    fn victim(&mut self) -> Victim {
        if self.round.is_empty() {
            self.round = VICTIMS.to_vec();
            self.round.shuffle(&mut self.random);
        }
        self.round.pop().expect("the round has been filled")
    }

    /// Kills some at once, and starts them again.
    async fn kill(&mut self, victims: &[Victim]) {
        assert_alive(self.processes());
        let worker = self.random.random_range(0..self.cluster.workers.len());
        let leading = self.random.random();
        for victim in victims {
            *self.killed.entry(*victim).or_default() += 1;
            let process = match victim {
                Victim::Api => self.cluster.api.as_ref(),
                Victim::Scheduler if leading => self.cluster.scheduler.as_ref(),
                Victim::Scheduler => Some(&self.standby),
                Victim::Worker => Some(&self.cluster.workers[worker]),
                Victim::ControlServer => {
                    tokio::task::block_in_place(|| self.servers[0].restart_at_once());
                    None
                }
                Victim::TargetServer => {
                    let restart = || self.restarts.during(|| self.servers[1].restart_at_once());
                    tokio::task::block_in_place(restart);
                    None
                }
            };
            process.map(Process::kill);
        }
        for victim in victims {
            match victim {
                Victim::Api => self.cluster.start_api().await,
                Victim::Scheduler if leading => self.cluster.start_scheduler().await,
                Victim::Scheduler => self.standby = self.cluster.start_standby().await,
                Victim::Worker => {
                    self.cluster.start_worker().await;
                    drop(self.cluster.workers.swap_remove(worker));
                }
                Victim::ControlServer | Victim::TargetServer => {}
            }
        }
    }

    /// Every process of the cluster.
    fn processes(&self) -> impl Iterator<Item = &Process> {
        let single = self.cluster.api.iter().chain(self.cluster.scheduler.iter());
        single.chain(&self.cluster.workers).chain([&self.standby])
    }

    /// Every slot of the schedule since its first has fired exactly once, and its job has ended.
    async fn assert_slots(&self) -> usize {
        let broken: Vec<String> = sqlx::query_scalar(
            "SELECT format('%s: %s after %s, job %s', slot, outcome, distance, job_id)
             FROM (SELECT slot, outcome, job_id, slot - lag(slot) OVER (ORDER BY slot) AS distance
                   FROM relevo.schedule_fire WHERE schedule = $1) AS fires
             WHERE distance <> interval '1 second' OR outcome <> 'started'
                OR 1 <> (SELECT count(*) FROM relevo.job_history AS h
                         WHERE h.id = fires.job_id AND h.state = 'completed')
                      + (SELECT count(*) FROM relevo.dead_letter AS d WHERE d.id = fires.job_id)",
        )
        .bind(PULSE)
        .fetch_all(self.cluster.pool())
        .await
        .unwrap();
        assert!(broken.is_empty(), "slots that were missed, doubled or lost: {broken:#?}");
        let slots: i64 = sqlx::query_scalar(
            "SELECT count(DISTINCT job_id) FROM relevo.schedule_fire WHERE schedule = $1",
        )
        .bind(PULSE)
        .fetch_one(self.cluster.pool())
        .await
        .unwrap();
        usize::try_from(slots).unwrap()
    }

    /// Nothing of any run is left; and when everybody has stopped, nobody holds a lock.
    async fn assert_nothing_left(&self) {
        for id in &self.imports.started {
            self.cluster.assert_clean(*id).await;
        }
        let databases = [self.cluster.control(), self.cluster.target()];
        assert_all_ended(databases, &self.processes().collect::<Vec<_>>()).await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn whatever_is_killed_nothing_is_lost_doubled_or_seen_in_halves() {
    let kills = from_env(KILLS_ENV, 5);
    let seed = from_env(SEED_ENV, 11);
    let begun = Instant::now();
    let mut campaign = Campaign::start(seed).await;

    // Each of the two data sets once without disturbance: what readers may see.
    let tables: Vec<String> = campaign.imports.dumps[0].reference.tables.keys().cloned().collect();
    let mut allowed = Vec::new();
    for _ in 0..2 {
        campaign.start_import().await;
        campaign.check_import().await;
        allowed.push(fingerprint(campaign.cluster.target(), &tables).await);
    }
    let differ = allowed[0].iter().zip(&allowed[1]).filter(|(one, other)| one != other).count();
    assert!(differ > tables.len() / 2, "a mixture would not show: {allowed:#?}");
    let size = std::fs::metadata(&campaign.imports.dumps[0].path).unwrap().len();
    // Slow enough that the kills meet every step of it.
    let slow = Fault::SlowDownload { bytes_per_second: size / 2 };
    campaign.cluster.gateway().plan(vec![slow.always()]).await;
    let restarts = Arc::clone(&campaign.restarts);
    let witnesses = Witnesses::start(campaign.cluster.target(), &tables, &allowed, restarts).await;
    let load = Load::start(&campaign.cluster);
    let prepared = begun.elapsed();

    let mut killed = 0;
    while killed < kills {
        campaign.go_on().await;
        let mut victims = vec![campaign.victim()];
        // Now and then two at once.
        if killed + 2 <= kills && campaign.random.random_ratio(1, 4) {
            victims.push(campaign.victim());
            victims.dedup();
        }
        campaign.kill(&victims).await;
        killed += victims.len() as u64;
        let wrong = [witnesses.wrong(), load.wrong()].concat();
        assert!(wrong.is_empty(), "after {killed} kills, {victims:?} the last: {wrong:#?}");
    }
    let disturbed = begun.elapsed() - prepared;

    campaign.check_import().await;
    let control = campaign.cluster.control().pool();
    drop(campaign.cluster.relevo(["schedule", "disable", PULSE]).await.success());
    let wrong = load.wrong();
    let jobs = load.end(control).await;
    let wrong = [wrong, witnesses.wrong()].concat();
    let seen = witnesses.end().await;
    assert!(wrong.is_empty(), "{wrong:#?}");
    let slots = campaign.assert_slots().await;
    assert_alive(campaign.processes());
    campaign.assert_nothing_left().await;
    println!(
        "seed {seed}: {killed} kills in {:.0} s ({:.0} s in all), {:?}\n\
         {} runs; {} jobs acknowledged, {} of them dead letters, {} requests without an \
         acknowledgement of which {} jobs are there; {slots} slots\n\
         {} whole reads, {} repeatable reads, {} by pg_dump; {} cut off by restarts",
        disturbed.as_secs_f64(),
        begun.elapsed().as_secs_f64(),
        campaign.killed,
        campaign.imports.started.len(),
        jobs.acknowledged,
        jobs.dead_letters,
        jobs.unanswered_requests,
        jobs.unacknowledged_jobs,
        seen.reads.load(Ordering::Relaxed),
        seen.repeatable_reads.load(Ordering::Relaxed),
        seen.dumps.load(Ordering::Relaxed),
        seen.excused.load(Ordering::Relaxed),
    );
}

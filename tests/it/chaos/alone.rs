//! The campaign. What it does and checks is told in docs/operations.md; `./dev chaos` runs it for
//! longer.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt as _, SeedableRng as _};
use relevo_pg::PoolOptions;
use relevo_queue::Queue;
use relevo_tests::{FaultProxy, OwnPostgres, Process, ShopDump, TestDatabase, planted, wait_for};
use reqwest::Method;
use secrecy::SecretString;
use serde_json::Value;

use super::effects::{self, REPRICE};
use super::rescues::Rescues;
use crate::backup::cluster::{Cluster, prepare};
use crate::kills::load::{Door, Habit, Http, Load};
use crate::kills::rest::{SEED_ENV, assert_alive, assert_all_ended, from_env};

/// How long it storms.
const SECONDS_ENV: &str = "RELEVO_TEST_CHAOS_SECONDS";

/// The pause of a producer after an answer.
const PAUSE: Duration = Duration::from_millis(100);
/// Two blows against those who rescue lie so far apart: what happens when nobody can is no rescue
/// that came late.
const CALM: Duration = Duration::from_secs(15);
/// The program with the jobs' kind: examples/own-kind.
const OWN_KIND: &str = "own-kind";

/// Who can be killed or frozen.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Role {
    Api,
    Scheduler,
    Standby,
    Worker(usize),
}

const ROLES: [Role; 5] =
    [Role::Api, Role::Scheduler, Role::Standby, Role::Worker(0), Role::Worker(1)];

/// What is done to them.
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
enum Blow {
    Kill(Role),
    Freeze(Role),
    /// The server ends as in a crash, and starts.
    Crash,
    /// The connections by way of this proxy are closed.
    Cut(usize),
    /// They stay open and carry nothing any more.
    Silence(usize),
}

impl Blow {
    /// Whether a scheduler feels it.
    fn is_felt_by_a_scheduler(self) -> bool {
        !matches!(
            self,
            Self::Kill(Role::Api | Role::Worker(_)) | Self::Freeze(Role::Api | Role::Worker(_))
        )
    }
}

struct Storm {
    cluster: Cluster,
    standby: Process,
    workers: Vec<Process>,
    server: OwnPostgres,
    /// API and scheduler go by the first, standby and workers by the second, the producers by the
    /// last one.
    proxies: [FaultProxy; 3],
    random: StdRng,
    frozen: BTreeMap<Role, Instant>,
    calm_until: Instant,
    blows: BTreeMap<Blow, u32>,
}

impl Storm {
    async fn start(seed: u64) -> Self {
        let server = OwnPostgres::start().await;
        let databases = TestDatabase::pair_on(&server, &server).await;
        let control = databases.0.url().to_owned();
        let url = url::Url::parse(&control).unwrap();
        planted::plant(url.password().expect("the server asks for a password"));
        effects::create(databases.0.pool()).await;
        let proxies = [
            FaultProxy::start(&control).await,
            FaultProxy::start(&control).await,
            FaultProxy::start(&control).await,
        ];
        let prepared = prepare(&ShopDump::committed())
            .databases(databases)
            .workers(0)
            .set("database.url", proxies[0].before(&control))
            .set("scheduler.lease_seconds", 3);
        let mut cluster = Cluster::start(prepared).await;
        let beside = proxies[1].before(&control);
        let standby =
            cluster.start_other("relevo", "scheduler", &[("RELEVO_DATABASE_URL", &beside)]).await;
        let mut storm = Self {
            cluster,
            standby,
            workers: Vec::new(),
            server,
            proxies,
            random: StdRng::seed_from_u64(seed),
            frozen: BTreeMap::new(),
            calm_until: Instant::now(),
            blows: BTreeMap::new(),
        };
        for _ in 0..2 {
            let worker = storm.start_worker().await;
            storm.workers.push(worker);
        }
        wait_for("the kind to be known", Duration::from_secs(60), async || {
            let answer = storm.cluster.request(Method::GET, "/api/v1/kinds").send().await.ok()?;
            let kinds: Value = answer.json().await.ok()?;
            let mut kinds = kinds["kinds"].as_array()?.iter();
            kinds.any(|kind| kind["kind"] == REPRICE.kind).then_some(())
        })
        .await;
        storm
    }

    async fn start_worker(&mut self) -> Process {
        let url = self.proxies[1].before(self.cluster.control().url());
        let variables = [
            ("RELEVO_DATABASE_URL", url.as_str()),
            ("RELEVO_WORKER_KINDS", REPRICE.kind),
            ("RELEVO_WORKER_CONCURRENCY", "8"),
        ];
        self.cluster.start_other(OWN_KIND, "worker", &variables).await
    }

    /// Producers of every habit through every door.
    async fn load(&self) -> Load {
        let url = SecretString::from(self.proxies[2].before(self.cluster.control().url()));
        let pool = relevo_pg::connect(&url, PoolOptions::named("producers")).await.unwrap();
        let http = Door::Http(Http::of(&self.cluster));
        let library = Door::Library(Queue::new(pool.clone()));
        let sql = Door::Sql(pool);
        let habits = [Habit::Once, Habit::Insisting, Habit::Many, Habit::InLine];
        let every = [http, library, sql].into_iter();
        let every = every.flat_map(|door| habits.map(|habit| (door.clone(), habit)));
        Load::of(REPRICE, PAUSE, every)
    }

    fn process(&self, role: Role) -> &Process {
        match role {
            Role::Api => self.cluster.api.as_ref().expect("the API"),
            Role::Scheduler => self.cluster.scheduler.as_ref().expect("the scheduler"),
            Role::Standby => &self.standby,
            Role::Worker(index) => &self.workers[index],
        }
    }

    /// What comes next.
    fn blow(&mut self) -> Blow {
        loop {
            let role = ROLES[self.random.random_range(0..ROLES.len())];
            let blow = match self.random.random_range(0..10) {
                0..=3 => Blow::Kill(role),
                4..=6 => Blow::Freeze(role),
                7 => Blow::Crash,
                8 => Blow::Cut(self.random.random_range(0..self.proxies.len())),
                _ => Blow::Silence(self.random.random_range(0..self.proxies.len())),
            };
            if !blow.is_felt_by_a_scheduler() || Instant::now() >= self.calm_until {
                return blow;
            }
        }
    }

    async fn strike(&mut self, blow: Blow) {
        *self.blows.entry(blow).or_default() += 1;
        if blow.is_felt_by_a_scheduler() {
            self.calm_until = Instant::now() + CALM;
        }
        match blow {
            Blow::Kill(role) => {
                self.process(role).kill();
                self.frozen.remove(&role);
                self.start_again(role).await;
            }
            Blow::Freeze(role) => {
                self.process(role).stop();
                // Workers stand still beyond the end of their lease and what follows it.
                let long = if role == Role::Api { 2_000 } else { 9_000 };
                let until = Duration::from_millis(self.random.random_range(200..long));
                self.frozen.insert(role, Instant::now() + until);
            }
            Blow::Crash => tokio::task::block_in_place(|| self.server.restart_at_once()),
            Blow::Cut(proxy) => self.proxies[proxy].cut(),
            Blow::Silence(proxy) => drop(self.proxies[proxy].silence()),
        }
    }

    async fn start_again(&mut self, role: Role) {
        match role {
            Role::Api => self.cluster.start_api().await,
            Role::Scheduler => self.cluster.start_scheduler().await,
            Role::Standby => {
                let url = self.proxies[1].before(self.cluster.control().url());
                let variables = [("RELEVO_DATABASE_URL", url.as_str())];
                self.standby = self.cluster.start_other("relevo", "scheduler", &variables).await;
            }
            Role::Worker(index) => {
                let worker = self.start_worker().await;
                drop(std::mem::replace(&mut self.workers[index], worker));
            }
        }
    }

    /// A while in which only what is frozen thaws.
    async fn pause(&mut self) {
        let until = Instant::now() + Duration::from_millis(self.random.random_range(100..2_000));
        while Instant::now() < until {
            self.thaw(Instant::now());
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Lets go on who is frozen until `now`.
    fn thaw(&mut self, now: Instant) {
        let due: Vec<Role> =
            self.frozen.iter().filter(|(_, until)| **until <= now).map(|(role, _)| *role).collect();
        for role in due {
            self.process(role).resume();
            self.frozen.remove(&role);
        }
    }

    fn processes(&self) -> Vec<&Process> {
        ROLES.map(|role| self.process(role)).into()
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn in_a_storm_nothing_is_lost_doubled_or_rescued_late() {
    let seed = from_env(SEED_ENV, 11);
    let storms = Duration::from_secs(from_env(SECONDS_ENV, 8));
    let mut storm = Storm::start(seed).await;
    let load = storm.load().await;
    let rescues = Rescues::watch(storm.cluster.pool().clone());

    let begun = Instant::now();
    while begun.elapsed() < storms {
        storm.pause().await;
        assert_alive(storm.processes());
        let blow = storm.blow();
        storm.strike(blow).await;
        let wrong = [rescues.late(), load.wrong()].concat();
        assert!(
            wrong.is_empty(),
            "{:.0} s in, {blow:?} the last: {wrong:#?}",
            begun.elapsed().as_secs_f64()
        );
    }
    storm.thaw(Instant::now() + Duration::from_secs(3_600));
    let stormed = begun.elapsed();

    let wrong = load.wrong();
    let jobs = load.end(storm.cluster.pool()).await;
    let rescued = rescues.end().await;
    let wrong = [wrong, rescued.late].concat();
    assert!(wrong.is_empty(), "{wrong:#?}");
    let effects = effects::check(storm.cluster.pool()).await;
    let in_lines = effects::check_order(storm.cluster.pool(), &jobs.lines).await;
    assert!(effects.completed > 0, "nothing was done: {jobs:?}");
    assert_alive(storm.processes());
    assert_all_ended([storm.cluster.control(), storm.cluster.target()], &storm.processes()).await;
    println!(
        "seed {seed}: {:.0} s, {} blows: {:?}\n{} acknowledged, {} requests without an \
         acknowledgement, of which {} jobs are there; {in_lines} in {} lines\n\
         {} effects, {} dead as ordained, {} poisoned\n\
         rescues: at most {:.1} s after the lease's end; while a handler's own transaction was open \
         {:.1} s",
        stormed.as_secs_f64(),
        storm.blows.values().sum::<u32>(),
        storm.blows,
        jobs.acknowledged,
        jobs.unanswered_requests,
        jobs.unacknowledged_jobs,
        jobs.lines.len(),
        effects.completed,
        effects.doomed,
        effects.poisoned,
        rescued.worst_seconds,
        rescued.worst_held_seconds,
    );
}

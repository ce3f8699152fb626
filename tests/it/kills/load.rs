//! Jobs enqueued all the time, over HTTP, through the library and in SQL, and what was answered to
//! whom.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use relevo_queue::{NewJob, OnDead, Queue, QueueError};
use relevo_tests::wait_for;
use reqwest::{RequestBuilder, StatusCode};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, PgPool};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use crate::backup::cluster::Cluster;

/// No request is held up longer, whatever the API or its database goes through.
const ANSWER_MAX: Duration = Duration::from_secs(60);
/// The pause after an answer, and after none.
const PAUSE: Duration = Duration::from_millis(25);
/// How long the jobs that were acknowledged may take to end after the last kill.
const END_MAX: Duration = Duration::from_secs(180);
/// Jobs of a request for many.
const BATCH: i64 = 8;

/// How many times the pause of the others a producer of a line makes.
const LINE_PAUSES: u32 = 8;
/// For how long a key of the library's producers means the same job.
const KEY_TTL: Duration = Duration::from_secs(86_400);

/// What is enqueued: jobs that differ by a number, their tag.
#[derive(Clone, Copy)]
pub struct Work {
    pub kind: &'static str,
    pub queue: &'static str,
    pub version: i16,
    pub payload: fn(i64) -> Value,
    /// The tag, as SQL reads it from a payload; NULL in jobs of others.
    pub tag: &'static str,
}

/// Jobs that do nothing for up to 50 ms.
pub const NOOP: Work = Work {
    kind: "Noop",
    queue: "default",
    version: 1,
    payload: |tag| json!({"sleep_ms": tag % 50, "tag": tag}),
    tag: "(payload ->> 'tag')::bigint",
};

/// Where a producer goes to.
#[derive(Clone)]
pub enum Door {
    Http(Http),
    Library(Queue),
    /// `relevo.enqueue()`, in a transaction that also writes table `ordered` (tag).
    Sql(PgPool),
}

/// Of the API, the two routes for jobs.
#[derive(Clone)]
pub struct Http {
    client: reqwest::Client,
    url: String,
    key: String,
}

impl Http {
    pub fn of(cluster: &relevo_tests::Cluster) -> Self {
        Self {
            client: reqwest::Client::builder().timeout(ANSWER_MAX).build().unwrap(),
            url: format!("{}/api/v1/jobs", cluster.api_url()),
            key: cluster.api_key().to_owned(),
        }
    }

    fn request(&self, mut jobs: Vec<Value>) -> RequestBuilder {
        let (path, body) = match jobs.len() {
            1 => ("", jobs.remove(0)),
            _ => ("/batch", json!({ "jobs": jobs })),
        };
        let url = format!("{}{path}", self.url);
        self.client.post(url).header("X-API-Key", &self.key).json(&body)
    }
}

/// Producers at work.
pub struct Load {
    told: Arc<Told>,
    stop: CancellationToken,
    producers: Vec<JoinHandle<()>>,
}

/// What they asked for and were told.
struct Told {
    work: Work,
    next_tag: AtomicI64,
    /// The job of each tag, as acknowledged.
    acknowledged: Mutex<BTreeMap<i64, i64>>,
    /// Requests without an answer, or refused since the database was away.
    unanswered: AtomicU64,
    /// The acknowledged tags of each line, in order.
    lines: Mutex<BTreeMap<String, Vec<i64>>>,
    /// Answers that must not be given, whatever is killed.
    wrong: Mutex<Vec<String>>,
}

/// How a producer asks.
#[derive(Clone, Copy)]
pub enum Habit {
    /// One job, once: without an answer it may be there or not.
    Once,
    /// One job under an idempotency key, again and again until it is acknowledged.
    Insisting,
    /// Many jobs under keys, in one request, until all are acknowledged.
    Many,
    /// As insisting, all in one line: they are to take effect in the order of their tags.
    InLine,
}

/// What became of the jobs.
#[derive(Debug)]
pub struct Ended {
    pub acknowledged: usize,
    pub dead_letters: usize,
    pub unanswered_requests: u64,
    /// Jobs of requests that got no answer and were there all the same.
    pub unacknowledged_jobs: usize,
    /// The tags of each line, in the order in which they were acknowledged.
    pub lines: BTreeMap<String, Vec<i64>>,
}

impl Load {
    /// Starts producers of every habit over HTTP.
    pub fn start(cluster: &Cluster) -> Self {
        let door = Door::Http(Http::of(cluster));
        let habits = [Habit::Once, Habit::Insisting, Habit::Many];
        Self::of(NOOP, PAUSE, habits.map(|habit| (door.clone(), habit)))
    }

    /// Starts these producers, which pause so long after each answer.
    pub fn of(
        work: Work,
        pause: Duration,
        producers: impl IntoIterator<Item = (Door, Habit)>,
    ) -> Self {
        let told = Arc::new(Told {
            work,
            next_tag: AtomicI64::new(0),
            acknowledged: Mutex::default(),
            unanswered: AtomicU64::new(0),
            lines: Mutex::default(),
            wrong: Mutex::default(),
        });
        let stop = CancellationToken::new();
        let producers = producers.into_iter().enumerate().map(|(number, (door, habit))| {
            let (told, stop) = (Arc::clone(&told), stop.clone());
            let line = matches!(habit, Habit::InLine).then(|| format!("line-{number}"));
            // A line moves by one at a time.
            let pause = if line.is_some() { pause * LINE_PAUSES } else { pause };
            tokio::spawn(async move {
                while !stop.is_cancelled() {
                    told.ask(habit, &door, line.as_deref()).await;
                    tokio::time::sleep(pause).await;
                }
            })
        });
        Self { producers: producers.collect(), told, stop }
    }

    /// What was answered wrongly so far.
    pub fn wrong(&self) -> Vec<String> {
        self.told.wrong.lock().unwrap().clone()
    }

    /// Stops the producers, waits until every job has ended, and checks that each of them ended
    /// exactly once.
    pub async fn end(self, control: &PgPool) -> Ended {
        self.stop.cancel();
        for producer in self.producers {
            producer.await.expect("a producer that came to its end");
        }
        let Work { kind, tag, .. } = self.told.work;
        wait_for(&format!("every {kind} job to end"), END_MAX, async || {
            let left = "SELECT count(*) FROM relevo.job WHERE kind = $1";
            let left: i64 = sqlx::query_scalar(left).bind(kind).fetch_one(control).await.unwrap();
            (left == 0).then_some(())
        })
        .await;
        let ended: Vec<(i64, i64, bool)> = sqlx::query_as(AssertSqlSafe(format!(
            "SELECT id, {tag} AS tag, false FROM relevo.job_history
             WHERE kind = $1 AND {tag} IS NOT NULL AND state = 'completed'
             UNION ALL
             SELECT id, {tag}, true FROM relevo.dead_letter
             WHERE kind = $1 AND {tag} IS NOT NULL
             ORDER BY tag, id"
        )))
        .bind(kind)
        .fetch_all(control)
        .await
        .unwrap();
        let acknowledged = self.told.acknowledged.lock().unwrap();
        let doubled: Vec<_> = ended.windows(2).filter(|pair| pair[0].1 == pair[1].1).collect();
        assert!(doubled.is_empty(), "jobs that are there twice: {doubled:?}");
        let by_tag: BTreeMap<i64, i64> = ended.iter().map(|(id, tag, _)| (*tag, *id)).collect();
        for (tag, id) in acknowledged.iter() {
            let found = by_tag.get(tag);
            assert_eq!(found, Some(id), "acknowledged as job {id}, the job of tag {tag} is lost");
        }
        Ended {
            dead_letters: ended.iter().filter(|(_, _, dead)| *dead).count(),
            unanswered_requests: self.told.unanswered.load(Ordering::Relaxed),
            unacknowledged_jobs: ended.len() - acknowledged.len(),
            lines: self.told.lines.lock().unwrap().clone(),
            acknowledged: acknowledged.len(),
        }
    }
}

impl Told {
    /// Asks for new jobs.
    async fn ask(&self, habit: Habit, door: &Door, line: Option<&str>) {
        let count = if matches!(habit, Habit::Many) { BATCH } else { 1 };
        let first = self.next_tag.fetch_add(count, Ordering::Relaxed);
        let tags: Vec<i64> = (first..first + count).collect();
        let keyed = !matches!(habit, Habit::Once);
        loop {
            let ids = match door {
                Door::Http(http) => {
                    self.by_http(http.request(self.documents(&tags, keyed, line))).await
                }
                Door::Library(queue) => self.by_library(queue, &tags, keyed, line).await,
                Door::Sql(pool) => self.by_sql(pool, &tags, keyed, line).await,
            };
            if let Some(ids) = ids {
                assert_eq!(ids.len(), tags.len(), "{ids:?}");
                let mut acknowledged = self.acknowledged.lock().unwrap();
                acknowledged.extend(tags.iter().copied().zip(ids));
                if let Some(line) = line {
                    let mut lines = self.lines.lock().unwrap();
                    lines.entry(line.to_owned()).or_default().extend(&tags);
                }
                return;
            }
            self.unanswered.fetch_add(1, Ordering::Relaxed);
            if !keyed {
                return;
            }
            tokio::time::sleep(PAUSE * 4).await;
        }
    }

    /// The jobs as the API takes them.
    fn documents(&self, tags: &[i64], keyed: bool, line: Option<&str>) -> Vec<Value> {
        let document = |tag: &i64| {
            let mut job = json!({"kind": self.work.kind, "payload": (self.work.payload)(*tag)});
            if keyed {
                job["idempotency_key"] = json!(format!("tag-{tag}"));
            }
            if let Some(line) = line {
                job["ordering_key"] = json!(line);
                job["on_dead"] = json!("skip");
            }
            job
        };
        tags.iter().map(document).collect()
    }

    /// What the library answers; `None` where it could not say that the jobs are there.
    async fn by_library(
        &self,
        queue: &Queue,
        tags: &[i64],
        keyed: bool,
        line: Option<&str>,
    ) -> Option<Vec<i64>> {
        let job = |tag: &i64| {
            let job = NewJob::new(self.work.kind, &(self.work.payload)(*tag)).unwrap();
            let mut job = job.queue(self.work.queue).payload_version(self.work.version);
            if let Some(line) = line {
                job = job.ordering_key(line, OnDead::Skip);
            }
            if keyed { job.idempotency_key(format!("tag-{tag}"), KEY_TTL) } else { job }
        };
        let jobs: Vec<NewJob> = tags.iter().map(job).collect();
        let made = match &jobs[..] {
            [job] => queue.enqueue(job.clone()).await.map(|made| vec![made]),
            jobs => queue.enqueue_many(jobs).await,
        };
        match made {
            Ok(made) => Some(made.iter().map(|made| made.id.0).collect()),
            Err(QueueError::Database(_)) => None,
            Err(error) => {
                self.wrong(format!("the library: {error}"));
                None
            }
        }
    }

    /// The jobs of a transaction; `None` where its COMMIT was not answered.
    async fn by_sql(
        &self,
        pool: &PgPool,
        tags: &[i64],
        keyed: bool,
        line: Option<&str>,
    ) -> Option<Vec<i64>> {
        let asked = async {
            let mut tx = pool.begin().await?;
            let mut ids = Vec::new();
            for tag in tags {
                // Under a key the same order may come twice, and is one.
                sqlx::query("INSERT INTO ordered (tag) VALUES ($1) ON CONFLICT DO NOTHING")
                    .bind(tag)
                    .execute(&mut *tx)
                    .await?;
                let sql = "SELECT id FROM relevo.enqueue($1, $2, idempotency_key => $3,
                                                         ordering_key => $4, on_dead => $5)";
                let id = sqlx::query_scalar::<_, i64>(sql)
                    .bind(self.work.kind)
                    .bind((self.work.payload)(*tag))
                    .bind(keyed.then(|| format!("tag-{tag}")))
                    .bind(line)
                    .bind(line.map(|_| OnDead::Skip.as_str()));
                ids.push(id.fetch_one(&mut *tx).await?);
            }
            tx.commit().await?;
            Ok::<_, sqlx::Error>(ids)
        };
        match tokio::time::timeout(ANSWER_MAX, asked).await {
            Ok(Ok(ids)) => return Some(ids),
            // Not what a server says that goes down or comes up.
            Ok(Err(sqlx::Error::Database(error)))
                if !error.code().is_some_and(|code| code.starts_with("57P0")) =>
            {
                self.wrong(format!("relevo.enqueue(): {error}"));
            }
            Ok(Err(_)) => {}
            Err(_) => self.wrong(format!("no answer in SQL for {ANSWER_MAX:?}")),
        }
        None
    }

    /// The ids of the jobs that one request made; `None` where nothing was acknowledged.
    async fn by_http(&self, request: RequestBuilder) -> Option<Vec<i64>> {
        let answer = match request.send().await {
            Ok(answer) => answer,
            Err(error) if error.is_timeout() => {
                self.wrong(format!("no answer for {ANSWER_MAX:?}: {error}"));
                return None;
            }
            Err(_) => return None,
        };
        let status = answer.status();
        let text = answer.text().await.ok()?;
        match status {
            StatusCode::ACCEPTED => {}
            StatusCode::SERVICE_UNAVAILABLE => return None,
            _ => {
                self.wrong(format!("{status}: {text}"));
                return None;
            }
        }
        let document: Value = serde_json::from_str(&text).ok()?;
        let id = |made: &Value| made["id"].as_i64();
        let ids = match document["results"].as_array() {
            Some(results) => results.iter().map(id).collect::<Option<Vec<i64>>>(),
            None => id(&document).map(|id| vec![id]),
        };
        if ids.is_none() {
            self.wrong(format!("accepted without an id: {text}"));
        }
        ids
    }

    fn wrong(&self, what: String) {
        self.wrong.lock().unwrap().push(what);
    }
}

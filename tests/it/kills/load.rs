//! Jobs enqueued over HTTP all the time, and what was answered to whom.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use relevo_tests::wait_for;
use reqwest::StatusCode;
use serde_json::{Value, json};
use sqlx::PgPool;
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

/// Producers at work.
pub struct Load {
    told: Arc<Told>,
    stop: CancellationToken,
    producers: Vec<JoinHandle<()>>,
}

/// What they asked for and were told.
#[derive(Default)]
struct Told {
    next_tag: AtomicI64,
    /// The job of each tag, as acknowledged.
    acknowledged: Mutex<BTreeMap<i64, i64>>,
    /// Requests without an answer, or refused since the database was away.
    unanswered: AtomicU64,
    /// Answers that must not be given, whatever is killed.
    wrong: Mutex<Vec<String>>,
}

/// How a producer asks.
#[derive(Clone, Copy)]
enum Habit {
    /// One job, once: without an answer it may be there or not.
    Once,
    /// One job under an idempotency key, again and again until it is acknowledged.
    Insisting,
    /// Many jobs under keys, in one request, until all are acknowledged.
    Many,
}

/// What became of the jobs.
#[derive(Debug)]
pub struct Ended {
    pub acknowledged: usize,
    pub dead_letters: usize,
    pub unanswered_requests: u64,
    /// Jobs of requests that got no answer and were there all the same.
    pub unacknowledged_jobs: usize,
}

impl Load {
    /// Starts producers of every habit.
    pub fn start(cluster: &Cluster) -> Self {
        let (told, stop) = (Arc::new(Told::default()), CancellationToken::new());
        let client = reqwest::Client::builder().timeout(ANSWER_MAX).build().unwrap();
        let producers = [Habit::Once, Habit::Insisting, Habit::Many].into_iter().map(|habit| {
            let path = match habit {
                Habit::Many => "/api/v1/jobs/batch",
                Habit::Once | Habit::Insisting => "/api/v1/jobs",
            };
            let request = client
                .post(format!("{}{path}", cluster.api_url()))
                .header("X-API-Key", cluster.api_key());
            let (told, stop) = (Arc::clone(&told), stop.clone());
            tokio::spawn(async move {
                while !stop.is_cancelled() {
                    told.ask(habit, &request).await;
                    tokio::time::sleep(PAUSE).await;
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
        wait_for("every no-op job to end", END_MAX, async || {
            let left = "SELECT count(*) FROM relevo.job WHERE kind = 'Noop'";
            let left: i64 = sqlx::query_scalar(left).fetch_one(control).await.unwrap();
            (left == 0).then_some(())
        })
        .await;
        let ended: Vec<(i64, i64, bool)> = sqlx::query_as(
            "SELECT id, (payload ->> 'tag')::bigint AS tag, false FROM relevo.job_history
             WHERE kind = 'Noop' AND payload ? 'tag' AND state = 'completed'
             UNION ALL
             SELECT id, (payload ->> 'tag')::bigint, true FROM relevo.dead_letter
             WHERE kind = 'Noop' AND payload ? 'tag'
             ORDER BY tag, id",
        )
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
            acknowledged: acknowledged.len(),
        }
    }
}

impl Told {
    /// Asks for new jobs.
    async fn ask(&self, habit: Habit, request: &reqwest::RequestBuilder) {
        let count = if matches!(habit, Habit::Many) { BATCH } else { 1 };
        let first = self.next_tag.fetch_add(count, Ordering::Relaxed);
        let tags: Vec<i64> = (first..first + count).collect();
        let jobs: Vec<Value> = tags
            .iter()
            .map(|tag| {
                let mut job =
                    json!({"kind": "Noop", "payload": {"sleep_ms": tag % 50, "tag": tag}});
                if !matches!(habit, Habit::Once) {
                    job["idempotency_key"] = json!(format!("tag-{tag}"));
                }
                job
            })
            .collect();
        let body = match habit {
            Habit::Many => json!({ "jobs": jobs }),
            Habit::Once | Habit::Insisting => jobs[0].clone(),
        };
        loop {
            let request = request.try_clone().expect("a request without a stream").json(&body);
            if let Some(ids) = self.answer(request).await {
                assert_eq!(ids.len(), tags.len(), "{ids:?}");
                let mut acknowledged = self.acknowledged.lock().unwrap();
                acknowledged.extend(tags.iter().copied().zip(ids));
                return;
            }
            self.unanswered.fetch_add(1, Ordering::Relaxed);
            if matches!(habit, Habit::Once) {
                return;
            }
            tokio::time::sleep(PAUSE * 4).await;
        }
    }

    /// The ids of the jobs that one request made; `None` where nothing was acknowledged.
    async fn answer(&self, request: reqwest::RequestBuilder) -> Option<Vec<i64>> {
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

//! Single enqueues that arrive together become durable together.
//!
//! Every statement and its commit cost what many jobs can share. A job goes to the database at once
//! when none is on its way; those that come meanwhile are gathered and go as one statement when that
//! is back. Nobody is answered before its own job is durable, and nobody waits for more to come. A job with a key may have to wait for whoever holds it: it goes alone, so that it
//! holds up nobody else.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use relevo_errors::chain;
use relevo_queue::{Enqueued, NewJob, Queue, QueueError};
use tokio::sync::oneshot;

use crate::error::ApiError;

/// Statements on their way at once. With more of them each would carry fewer jobs: one at a time
/// carries half of those who ask, while the other half is being answered and asks again.
const LANES: usize = 1;
/// Jobs in one statement.
const JOBS_MAX: usize = 500;
/// How long those who gather wait for a statement: the next ones may find a connection that answers.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);

type Answer = Result<Enqueued, ApiError>;

/// The jobs that wait for a lane. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Gathered(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    queue: Queue,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    lanes_taken: usize,
    waiting: Vec<(NewJob, oneshot::Sender<Answer>)>,
}

impl Gathered {
    pub(crate) fn new(queue: Queue) -> Self {
        Self(Arc::new(Shared { queue, state: Mutex::default() }))
    }

    /// Makes a job durable. Whoever goes away while it waits for its turn has enqueued nothing; who
    /// goes later has enqueued it all the same.
    pub(crate) async fn enqueue(&self, job: NewJob) -> Answer {
        if job.idempotency_key.is_some() || job.unique.is_some() {
            return Ok(self.0.queue.enqueue(job).await?);
        }
        let waiting = {
            let mut state = self.state();
            if state.lanes_taken < LANES {
                state.lanes_taken += 1;
                Err(job)
            } else {
                let (sender, receiver) = oneshot::channel();
                state.waiting.push((job, sender));
                Ok(receiver)
            }
        };
        match waiting {
            Err(job) => {
                let _lane = Lane(self.clone());
                Ok(self.0.queue.enqueue(job).await?)
            }
            Ok(answer) => answer.await.unwrap_or_else(|_| {
                Err(ApiError::internal("a gathered enqueue ended without an answer"))
            }),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enqueues what has gathered until nothing is left.
    async fn drain(self) {
        let mut lane = DrainLane { gathered: self, is_given_up: false };
        while let Some((jobs, senders)) = lane.next() {
            let enqueued = lane.gathered.enqueue_all(&jobs);
            let answers = match tokio::time::timeout(ANSWER_TIMEOUT, enqueued).await {
                Ok(answers) => answers,
                Err(_) => jobs.iter().map(|_| Err(no_answer())).collect(),
            };
            for (sender, answer) in senders.into_iter().zip(answers) {
                // Who has gone needs no answer.
                sender.send(answer).ok();
            }
        }
    }

    /// One answer per job.
    async fn enqueue_all(&self, jobs: &[NewJob]) -> Vec<Answer> {
        if let [job] = jobs {
            return vec![self.0.queue.enqueue(job.clone()).await.map_err(ApiError::from)];
        }
        match self.0.queue.enqueue_many(jobs).await {
            Ok(enqueued) => enqueued.into_iter().map(Ok).collect(),
            // The fault of one: nothing of the statement remained, and each goes for itself.
            Err(QueueError::InvalidJob(_)) => {
                let mut answers = Vec::with_capacity(jobs.len());
                for job in jobs {
                    let answer = self.0.queue.enqueue(job.clone()).await;
                    answers.push(answer.map_err(ApiError::from));
                }
                answers
            }
            // Whether it happened is not known: none is tried again here.
            Err(error) => {
                let text = chain(&error);
                let is_unavailable = ApiError::from(error).is_unavailable();
                let told = || {
                    if is_unavailable {
                        ApiError::database_unavailable(text.clone())
                    } else {
                        ApiError::internal(text.clone())
                    }
                };
                jobs.iter().map(|_| Err(told())).collect()
            }
        }
    }
}

fn no_answer() -> ApiError {
    ApiError::database_unavailable(format!("no answer within {} s", ANSWER_TIMEOUT.as_secs()))
}

/// The place of one job that did not have to wait. Given back, it goes to what has gathered
/// meanwhile.
struct Lane(Gathered);

impl Drop for Lane {
    fn drop(&mut self) {
        let mut state = self.0.state();
        match tokio::runtime::Handle::try_current() {
            Ok(runtime) if !state.waiting.is_empty() => {
                drop(state);
                runtime.spawn(self.0.clone().drain());
            }
            // Without a runtime everything ends, and nobody waits any more.
            _ => state.lanes_taken -= 1,
        }
    }
}

/// The place of what has gathered.
struct DrainLane {
    gathered: Gathered,
    is_given_up: bool,
}

impl DrainLane {
    /// The next jobs with those who wait for them. When there are none, the place is given up in
    /// the same moment: whoever comes after it finds it free.
    fn next(&mut self) -> Option<(Vec<NewJob>, Vec<oneshot::Sender<Answer>>)> {
        let mut state = self.gathered.state();
        // Who has gone was told, or will believe, that nothing happened.
        state.waiting.retain(|(_, sender)| !sender.is_closed());
        if state.waiting.is_empty() {
            state.lanes_taken -= 1;
            drop(state);
            self.is_given_up = true;
            return None;
        }
        let count = state.waiting.len().min(JOBS_MAX);
        Some(state.waiting.drain(..count).unzip())
    }
}

impl Drop for DrainLane {
    /// Ended in the middle (the process stops, a panic): those who wait are told.
    fn drop(&mut self) {
        if !self.is_given_up {
            let mut state = self.gathered.state();
            state.lanes_taken -= 1;
            state.waiting.clear();
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt as _;
    use relevo_queue::NewJob;
    use serde_json::json;
    use sqlx::postgres::PgPoolOptions;

    use super::*;

    #[tokio::test]
    async fn who_goes_away_while_waiting_enqueues_nothing() {
        let pool = PgPoolOptions::new().connect_lazy("postgres://127.0.0.1:1/none").unwrap();
        let gathered = Gathered::new(Queue::new(pool));
        gathered.state().lanes_taken = LANES;
        let job = || NewJob::new("Noop", &json!({})).unwrap();
        let mut gone = Box::pin(gathered.enqueue(job()));
        let mut patient = Box::pin(gathered.enqueue(job()));
        assert!((&mut gone).now_or_never().is_none() && (&mut patient).now_or_never().is_none());
        drop(gone);
        let mut lane = DrainLane { gathered: gathered.clone(), is_given_up: false };
        assert_eq!(lane.next().map(|(jobs, _)| jobs.len()), Some(1));
        drop(patient);
    }
}

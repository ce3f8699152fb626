//! Following runs: one look at the database per run and moment, however many watch it.
//!
//! The first who follows a run starts a task that looks at it; the others share what it sees. A
//! follower says up to which line it has the log (`Last-Event-ID`), so a connection that was cut
//! goes on without a gap: lines too old for the shared tail are read for it alone. The task ends
//! with the run, or with the last follower.

use std::collections::{HashMap, VecDeque};
use std::convert::Infallible;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{IntoResponse as _, Response};
use futures::stream;
use relevo_runs::{Run, RunEvent, RunId, Runs};
use serde_json::{Value, json};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::error::ApiError;

/// Followers at once, of all runs together; connections have a bound of their own.
const FOLLOWERS_MAX: usize = 256;
/// A run is looked at so often.
const PAUSE: Duration = Duration::from_millis(500);
/// A database that does not answer is asked again after so long.
const PAUSE_AFTER_ERROR: Duration = Duration::from_secs(3);
/// Lines of the log read at a time.
const LOG_PAGE: u32 = 500;
/// Lines of the log kept for all followers.
const TAIL_MAX: usize = 500;
/// So often something is sent, so that nobody between takes the connection for dead.
const HEARTBEAT: Duration = Duration::from_secs(15);
/// A connection ends after so long; who still follows comes again, where it was.
const FOLLOW_MAX: Duration = Duration::from_secs(3_600);
/// How soon a client comes again after its connection was cut.
const RETRY: Duration = Duration::from_secs(2);
/// Progress this old tells nothing about the present speed.
const SPEED_WINDOW: Duration = Duration::from_secs(60);

/// The runs that are being followed in this process.
#[derive(Debug)]
pub(crate) struct Live {
    runs: Runs,
    followers: Arc<Semaphore>,
    watched: Mutex<HashMap<RunId, watch::Sender<Arc<Frame>>>>,
    stopping: CancellationToken,
}

/// A run as it was last seen.
#[derive(Debug)]
struct Frame {
    /// The message about it.
    run: Arc<str>,
    /// It has ended, and all of its log was read.
    ended: bool,
    /// The newest lines of its log: all with an id above `tail_after`.
    tail: VecDeque<Arc<RunEvent>>,
    tail_after: i64,
}

impl Live {
    /// Nobody follows anything yet; all following ends with `stopping`.
    pub(crate) fn new(runs: Runs, stopping: CancellationToken) -> Arc<Self> {
        Arc::new(Self {
            runs,
            followers: Arc::new(Semaphore::new(FOLLOWERS_MAX)),
            watched: Mutex::default(),
            stopping,
        })
    }

    /// Server-sent events about `run`: `log` for each line after `after`, `run` whenever it looks
    /// different, `end` at its end.
    pub(crate) fn follow(self: &Arc<Self>, run: &Run, after: i64) -> Result<Response, ApiError> {
        let permit = self.followers.clone().try_acquire_owned().map_err(|_| {
            ApiError::unavailable(
                "too_many_followers",
                format!("{FOLLOWERS_MAX} connections follow runs already; come again"),
            )
        })?;
        let follower = Follower {
            live: self.clone(),
            run: run.id,
            frames: self.watch(run, after),
            after,
            seen: None,
            due: VecDeque::new(),
            done: false,
            until: Instant::now() + FOLLOW_MAX,
            _permit: permit,
        };
        let events = stream::unfold(follower, |mut follower| async {
            let event = follower.next().await?;
            Some((Ok::<_, Infallible>(event), follower))
        });
        let heartbeat = KeepAlive::new().interval(HEARTBEAT).text("still here");
        Ok(Sse::new(events).keep_alive(heartbeat).into_response())
    }

    fn watch(self: &Arc<Self>, run: &Run, after: i64) -> watch::Receiver<Arc<Frame>> {
        let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(frames) = watched.get(&run.id) {
            return frames.subscribe();
        }
        let first = Frame {
            run: message(run, None),
            ended: false,
            tail: VecDeque::new(),
            tail_after: after,
        };
        let (frames, receiver) = watch::channel(Arc::new(first));
        watched.insert(run.id, frames.clone());
        tokio::spawn(self.clone().look(run.id, after, frames));
        receiver
    }

    /// Looks at a run until it has ended or nobody follows it.
    async fn look(self: Arc<Self>, id: RunId, mut after: i64, frames: watch::Sender<Arc<Frame>>) {
        let mut speed = Speed::default();
        loop {
            let pause = match self.look_once(id, &mut after, &mut speed, &frames).await {
                Ok(Seen::Ended) => break,
                Ok(Seen::More) => Duration::ZERO,
                Ok(Seen::All) => PAUSE,
                Err(error) => {
                    tracing::debug!(run = id.0, %error, "a followed run could not be looked at");
                    PAUSE_AFTER_ERROR
                }
            };
            tokio::select! {
                () = self.stopping.cancelled() => break,
                () = tokio::time::sleep(pause) => {}
            }
            // Under the lock under which others join: nobody joins a task that is about to end.
            let mut watched = self.watched.lock().unwrap_or_else(PoisonError::into_inner);
            if frames.receiver_count() == 0 {
                watched.remove(&id);
                return;
            }
        }
        self.watched.lock().unwrap_or_else(PoisonError::into_inner).remove(&id);
    }

    async fn look_once(
        &self,
        id: RunId,
        after: &mut i64,
        speed: &mut Speed,
        frames: &watch::Sender<Arc<Frame>>,
    ) -> Result<Seen, relevo_runs::RunError> {
        // The run first: what was logged before its end is read after the end was seen.
        let Some(run) = self.runs.get(id).await? else { return Ok(Seen::Ended) };
        let lines = self.runs.logs(id, Some(*after), LOG_PAGE).await?;
        let more = lines.len() >= LOG_PAGE as usize;
        let ended = run.state.is_ended() && !more;
        let seconds_left = speed.seconds_left(&run.phase, run.progress.as_ref(), Instant::now());
        let text = message(&run, seconds_left);
        let before = frames.borrow().clone();
        if !lines.is_empty() || ended != before.ended || text != before.run {
            let mut tail = before.tail.clone();
            let mut tail_after = before.tail_after;
            for line in lines {
                *after = line.id;
                tail.push_back(Arc::new(line));
            }
            while tail.len() > TAIL_MAX {
                tail_after = tail.pop_front().map_or(tail_after, |line| line.id);
            }
            frames.send_replace(Arc::new(Frame { run: text, ended, tail, tail_after }));
        }
        Ok(match (ended, more) {
            (true, _) => Seen::Ended,
            (false, true) => Seen::More,
            (false, false) => Seen::All,
        })
    }
}

enum Seen {
    Ended,
    More,
    All,
}

/// One connection.
struct Follower {
    live: Arc<Live>,
    run: RunId,
    frames: watch::Receiver<Arc<Frame>>,
    /// The last line of the log that was sent.
    after: i64,
    /// The last message about the run that was sent.
    seen: Option<Arc<str>>,
    due: VecDeque<Event>,
    done: bool,
    until: Instant,
    _permit: OwnedSemaphorePermit,
}

impl Follower {
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some(event) = self.due.pop_front() {
                return Some(event);
            }
            if self.done {
                return None;
            }
            self.collect().await;
            if !self.due.is_empty() || self.done {
                continue;
            }
            tokio::select! {
                () = self.live.stopping.cancelled() => return None,
                () = tokio::time::sleep_until(self.until) => return None,
                // The task ends with the run only, whose end was in its last frame.
                changed = self.frames.changed() => if changed.is_err() { return None },
            }
        }
    }

    /// Puts together what the present frame has and this connection does not.
    async fn collect(&mut self) {
        let frame = self.frames.borrow_and_update().clone();
        if self.after < frame.tail_after {
            // Who cannot be served goes, and comes again where it was.
            let Ok(lines) = self.live.runs.logs(self.run, Some(self.after), LOG_PAGE).await else {
                self.done = true;
                return;
            };
            self.after = lines.last().map_or(frame.tail_after, |line| line.id);
            self.due.extend(lines.iter().filter_map(log_event));
            // The rest, and the frame itself, at the next look.
            self.frames.mark_changed();
            return;
        }
        for line in frame.tail.iter().filter(|line| line.id > self.after) {
            self.due.extend(log_event(line));
        }
        self.after = self.after.max(frame.tail.back().map_or(0, |line| line.id));
        if self.seen.as_ref() != Some(&frame.run) {
            self.due.push_back(Event::default().event("run").retry(RETRY).data(&frame.run));
            self.seen = Some(frame.run.clone());
        }
        if frame.ended {
            self.due.push_back(Event::default().event("end").data("{}"));
            self.done = true;
        }
    }
}

fn log_event(line: &RunEvent) -> Option<Event> {
    // Of a line that was read as JSON nothing fails to be written as such.
    Event::default().event("log").id(line.id.to_string()).json_data(line).ok()
}

/// What followers are told of a run.
fn message(run: &Run, seconds_left: Option<u64>) -> Arc<str> {
    let told: Value = json!({
        "id": run.id,
        "state": run.state,
        "phase": run.phase,
        "progress": run.progress,
        "percent": percent(run.progress.as_ref()),
        "eta_seconds": seconds_left,
        "cancel_requested": run.cancel_requested,
        "started_at": run.started_at,
        "finished_at": run.finished_at,
        "error": run.error,
    });
    told.to_string().into()
}

/// How much of a known total is done.
fn percent(progress: Option<&Value>) -> Option<u64> {
    let (done, total) = figures(progress?)?;
    let total = u128::from(total.filter(|total| *total > 0)?);
    u64::try_from(u128::from(done).min(total) * 100 / total).ok()
}

/// How much is done, and of how much where that is known.
fn figures(progress: &Value) -> Option<(u64, Option<u64>)> {
    let figure = |name: &str| progress.get(name).and_then(Value::as_u64);
    Some((figure("done")?, figure("total")))
}

/// How fast a step goes, from what was seen of it.
#[derive(Debug, Default)]
struct Speed {
    step: (String, String, Option<u64>),
    seen: VecDeque<(Instant, u64)>,
}

impl Speed {
    /// Seconds until the present step is done, where its total is known and it moves.
    fn seconds_left(&mut self, phase: &str, progress: Option<&Value>, now: Instant) -> Option<u64> {
        let progress = progress?;
        let (done, total) = figures(progress)?;
        let unit = progress.get("unit").and_then(Value::as_str).unwrap_or_default();
        let step = (phase.to_owned(), unit.to_owned(), total);
        if self.step != step || self.seen.back().is_some_and(|(_, last)| *last > done) {
            self.step = step;
            self.seen.clear();
        }
        if self.seen.back().is_none_or(|(_, last)| *last != done) {
            self.seen.push_back((now, done));
        }
        while self.seen.len() > 2
            && self.seen.front().is_some_and(|(at, _)| now.duration_since(*at) > SPEED_WINDOW)
        {
            self.seen.pop_front();
        }
        let (since, first) = *self.seen.front()?;
        let moved = done.checked_sub(first).filter(|moved| *moved > 0)?;
        let left = total?.checked_sub(done)?;
        // The present counts too: what stands still takes longer and longer.
        let seconds = now.duration_since(since).as_secs_f64();
        // Precision of a guess: both are far below 2^52 in any run.
        let left = seconds * (left as f64) / (moved as f64);
        (seconds >= 1.0 && left < 1e7).then_some(left.ceil() as u64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_time_left_follows_the_speed_of_the_present_step() {
        let mut speed = Speed::default();
        let start = Instant::now();
        let mut left = |phase: &str, done: u64, total: Option<u64>, seconds: u64| {
            let progress = json!({"done": done, "total": total, "unit": "rows"});
            speed.seconds_left(phase, Some(&progress), start + Duration::from_secs(seconds))
        };
        assert_eq!(left("load", 10, Some(100), 0), None, "no speed from one look");
        assert_eq!(left("load", 30, Some(100), 10), Some(35));
        assert_eq!(left("load", 30, Some(100), 20), Some(70), "it stands still");
        assert_eq!(left("load", 100, Some(100), 40), Some(0));
        assert_eq!(left("finish", 1, Some(2), 41), None, "another step, another speed");
        assert_eq!(left("finish", 2, None, 42), None, "no end in sight");
    }

    #[test]
    fn percents_stay_below_a_hundred_and_need_a_total() {
        let of =
            |done: u64, total: Option<u64>| percent(Some(&json!({"done": done, "total": total})));
        assert_eq!(of(1, Some(3)), Some(33));
        assert_eq!(of(9, Some(3)), Some(100));
        assert_eq!(of(9, None), None);
        assert_eq!(of(0, Some(0)), None);
    }
}

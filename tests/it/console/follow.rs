//! Following a run by server-sent events.

use std::time::Duration;

use futures::StreamExt as _;
use futures::stream::BoxStream;
use relevo_runs::{LogLevel, NewRun, RunId, RunState};
use serde_json::{Value, json};

use crate::api::server::Server;

/// How long an event may take to come.
const EVENT_TIMEOUT: Duration = Duration::from_secs(30);

/// A connection, read event by event.
struct Events {
    bytes: BoxStream<'static, reqwest::Result<bytes::Bytes>>,
    text: String,
}

#[derive(Debug, Clone, PartialEq)]
struct Event {
    name: String,
    id: Option<i64>,
    data: Value,
}

impl Events {
    async fn open(server: &Server, run: RunId, last_event_id: Option<i64>) -> Self {
        let path = format!("/api/v1/runs/{run}/events");
        let mut request = server.request(reqwest::Method::GET, &path);
        if let Some(id) = last_event_id {
            request = request.header("last-event-id", id);
        }
        let response = request.send().await.unwrap();
        assert_eq!(response.status(), 200);
        assert_eq!(response.headers()["content-type"], "text/event-stream");
        Self { bytes: response.bytes_stream().boxed(), text: String::new() }
    }

    /// The next event; none when the connection has ended.
    async fn next(&mut self) -> Option<Event> {
        loop {
            if let Some((event, rest)) = self.text.split_once("\n\n") {
                let (event, rest) = (event.to_owned(), rest.to_owned());
                self.text = rest;
                if let Some(event) = parse(&event) {
                    return Some(event);
                }
                continue;
            }
            let more = tokio::time::timeout(EVENT_TIMEOUT, self.bytes.next()).await;
            match more.expect("an event in time") {
                Some(bytes) => self.text.push_str(std::str::from_utf8(&bytes.unwrap()).unwrap()),
                None => return None,
            }
        }
    }

    /// The next event of this name; the others are passed over.
    async fn named(&mut self, name: &str) -> Event {
        loop {
            let event =
                self.next().await.unwrap_or_else(|| panic!("no more events, but no {name}"));
            if event.name == name {
                return event;
            }
        }
    }

    /// All lines of the log until the end.
    async fn lines(&mut self) -> Vec<String> {
        let mut lines = Vec::new();
        loop {
            let event = self.next().await.expect("an end");
            match event.name.as_str() {
                "log" => lines.push(event.data["message"].as_str().unwrap().to_owned()),
                "end" => return lines,
                _ => {}
            }
        }
    }
}

/// None for a comment.
fn parse(text: &str) -> Option<Event> {
    let mut event = Event { name: String::new(), id: None, data: Value::Null };
    for line in text.lines() {
        match line.split_once(": ")? {
            ("event", name) => name.clone_into(&mut event.name),
            ("id", id) => event.id = id.parse().ok(),
            ("data", data) => event.data = serde_json::from_str(data).unwrap(),
            _ => {}
        }
    }
    (!event.name.is_empty()).then_some(event)
}

async fn new_run(server: &Server) -> RunId {
    let mut tx = server.db.pool().begin().await.unwrap();
    let run = NewRun {
        pipeline: "backup".to_owned(),
        source: "sicar".to_owned(),
        trigger: "test".to_owned(),
        options: json!({}),
    };
    let id = server.deps.runs.create_in(&mut tx, &run).await.unwrap();
    tx.commit().await.unwrap();
    id
}

async fn log(server: &Server, run: RunId, message: &str) {
    server.deps.runs.log(run, LogLevel::Info, message, &json!({})).await.unwrap();
}

async fn end(server: &Server, run: RunId) {
    let mut tx = server.db.pool().begin().await.unwrap();
    assert!(server.deps.runs.fail_in(&mut tx, run, "as the test wants").await.unwrap());
    tx.commit().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn progress_and_log_come_as_they_happen_and_the_end_ends_it() {
    let server = Server::start().await;
    let run = new_run(&server).await;
    log(&server, run, "before").await;
    let mut events = Events::open(&server, run, None).await;
    let mut second = Events::open(&server, run, None).await;
    assert_eq!(events.named("log").await.data["message"], "before");
    server.deps.runs.progress(run, 25, Some(100), "rows", "half asleep").await.unwrap();
    loop {
        let seen = events.named("run").await;
        if seen.data["percent"] == 25 {
            assert_eq!(seen.data["progress"]["message"], "half asleep");
            assert_eq!(seen.data["state"], "running");
            break;
        }
    }
    log(&server, run, "after").await;
    assert_eq!(events.named("log").await.data["message"], "after");
    end(&server, run).await;
    loop {
        let seen = events.named("run").await;
        if seen.data["state"] == "failed" {
            assert_eq!(seen.data["error"], "as the test wants");
            break;
        }
    }
    assert_eq!(events.next().await.unwrap().name, "end");
    assert_eq!(events.next().await, None);
    assert_eq!(second.lines().await, ["before", "after"]);
    // Who comes after the end gets all of it at once.
    let mut late = Events::open(&server, run, None).await;
    assert_eq!(late.lines().await, ["before", "after"]);
    assert_eq!(server.deps.runs.get(run).await.unwrap().unwrap().state, RunState::Failed);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cut_connection_goes_on_where_it_was() {
    let server = Server::start().await;
    let run = new_run(&server).await;
    let all: Vec<String> = (0..1_300).map(|nth| format!("line {nth}")).collect();
    for line in &all[..1_200] {
        log(&server, run, line).await;
    }
    // Others follow meanwhile, so that the shared tail is far ahead of who comes again.
    let mut other = Events::open(&server, run, None).await;
    let mut events = Events::open(&server, run, None).await;
    let mut lines = Vec::new();
    let mut last = 0;
    for _ in 0..40 {
        let event = events.named("log").await;
        lines.push(event.data["message"].as_str().unwrap().to_owned());
        last = event.id.unwrap();
    }
    drop(events);
    for line in &all[1_200..] {
        log(&server, run, line).await;
    }
    let mut again = Events::open(&server, run, Some(last)).await;
    end(&server, run).await;
    lines.extend(again.lines().await);
    assert_eq!(lines, all, "none missing, none twice");
    assert_eq!(other.lines().await, all);
    let refused = server
        .request(reqwest::Method::GET, &format!("/api/v1/runs/{run}/events"))
        .header("last-event-id", "x");
    crate::api::server::answer(refused).await.refused(400, "invalid_header");
    server.get("/api/v1/runs/999/events").await.refused(404, "run_not_found");
}

#[tokio::test(flavor = "multi_thread")]
async fn followers_are_bounded_share_one_look_and_do_not_hold_up_the_end() {
    let server = Server::start().await;
    let run = new_run(&server).await;
    let mut followers = Vec::new();
    for _ in 0..256 {
        let mut events = Events::open(&server, run, None).await;
        events.named("run").await;
        followers.push(events);
    }
    let path = format!("/api/v1/runs/{run}/events");
    server.get(&path).await.refused(503, "too_many_followers");
    drop(followers.split_off(200));
    // Whoever has gone makes room, as soon as the server notices.
    relevo_tests::wait_for("room for one more", EVENT_TIMEOUT, async || {
        let response = server.request(reqwest::Method::GET, &path).send().await.ok()?;
        (response.status() == 200).then_some(())
    })
    .await;
    log(&server, run, "for all").await;
    for events in &mut followers {
        assert_eq!(events.named("log").await.data["message"], "for all");
    }
    // A server that stops does not wait for them.
    let stopping = std::time::Instant::now();
    server.shutdown.cancel();
    for events in &mut followers {
        while events.next().await.is_some() {}
    }
    assert!(stopping.elapsed() < Duration::from_secs(15), "{:?}", stopping.elapsed());
}

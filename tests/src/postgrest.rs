//! The PostgREST peer as the tests see it: what it can be told to do wrong, and what it has seen.
//!
//! The types here are the body of its control endpoint `/_control`; the peer itself is the binary in
//! `peers/postgrest/`.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::{Process, TestDatabase};

/// The key it asks for: one of Supabase's new secret keys.
pub const SECRET_KEY: &str = "sb_secret_de_prueba_0123456789";

/// One thing that goes wrong.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Wrong {
    /// The request is answered with this status and changes nothing.
    Status {
        /// The HTTP status.
        status: u16,
        /// Seconds in `Retry-After`.
        retry_after: Option<u64>,
    },
    /// The request is carried out, and the connection closes instead of an answer.
    LoseAnswer,
    /// The connection closes before anything is done.
    Cut,
    /// The answer takes so long.
    Slow {
        /// Milliseconds.
        ms: u64,
    },
    /// The clock in the header `Date` is wrong by so much.
    Clock {
        /// Seconds, ahead if positive.
        offset_seconds: i64,
    },
}

/// A fault, and where and how often it happens.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Planned {
    /// What.
    pub wrong: Wrong,
    /// Only requests with this method.
    pub method: Option<String>,
    /// Only requests to this table.
    pub table: Option<String>,
    /// How often; without it always.
    pub times: Option<u32>,
}

impl Planned {
    /// Always, for every request.
    #[must_use]
    pub fn always(wrong: Wrong) -> Self {
        Self { wrong, method: None, table: None, times: None }
    }

    /// Once, for the next request with the method.
    #[must_use]
    pub fn once(wrong: Wrong, method: &str) -> Self {
        Self { wrong, method: Some(method.to_owned()), table: None, times: Some(1) }
    }
}

/// A request it saw.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Seen {
    /// Its method.
    pub method: String,
    /// Its table; empty for the description at the root.
    pub table: String,
    /// Its query as it came.
    pub query: String,
    /// The status of the answer, though it may have been lost.
    pub status: u16,
    /// Bytes of the answer's body.
    pub bytes: usize,
}

/// The peer.
pub struct Postgrest {
    process: Process,
    url: String,
    client: reqwest::Client,
}

impl Postgrest {
    /// Starts one over the schema `public` of a database.
    pub async fn start(database: &TestDatabase) -> Self {
        Self::start_with(database, &[]).await
    }

    /// The same with further flags.
    pub async fn start_with(database: &TestDatabase, flags: &[&str]) -> Self {
        let process = Process::builder("relevo-postgrest-peer")
            .args(["--database", database.url()])
            .args(["--key", SECRET_KEY])
            .args(flags.iter().copied())
            .spawn();
        let line = process.wait_line("listening on http://", Duration::from_secs(60)).await;
        let (_, url) = line.split_once("listening on ").expect("the line waited for");
        Self { url: url.to_owned(), process, client: reqwest::Client::new() }
    }

    /// Its base URL: `supabase.url`.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The process, to kill or freeze.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Replaces the plan of what goes wrong, and forgets what it has seen.
    pub async fn plan(&self, plan: &[Planned]) {
        let answer = self.client.post(format!("{}/_control", self.url)).json(plan).send().await;
        let answer = answer.expect("reach the peer");
        assert!(answer.status().is_success(), "the peer refused the plan: {}", answer.status());
    }

    /// What it has seen since the last plan.
    pub async fn seen(&self) -> Vec<Seen> {
        let answer = self.client.get(format!("{}/_control", self.url)).send().await;
        answer.expect("reach the peer").json().await.expect("its record")
    }
}

//! The gateway simulator as the tests see it: what it can be told to do, and what it has seen.
//!
//! The types here are the body of its control endpoint `/_control`; the simulator itself is the
//! binary in `peers/gateway/`.

use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::Process;

/// The key a simulated gateway asks for unless told otherwise.
pub const API_KEY: &str = "clave-de-prueba-0123456789";

/// In the text of [`Fault::RefuseBackup`]: replaced by the webhook's address.
pub const WEBHOOK_URL: &str = "{webhook_url}";

/// One thing that goes wrong.
///
/// Those about a backup are fixed when it is asked for, those about a download at each request.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case", deny_unknown_fields)]
pub enum Fault {
    /// `POST /api/backup/full` answers `ok: false`; the real gateway does so with status 200.
    RefuseBackup {
        /// The text in `error`; [`WEBHOOK_URL`] in it is replaced.
        error: String,
        /// The HTTP status.
        status: u16,
    },
    /// The backup is made and delivered, but the connection closes instead of an answer.
    LoseAnswer,
    /// The backup takes this long, whatever the time scale.
    SlowBackup {
        /// Seconds.
        seconds: f64,
    },
    /// The backup fails: by webhook `status: failed`, synchronously `ok: false` with status 200.
    FailBackup {
        /// The text in `error`.
        error: String,
    },
    /// The webhook is delivered twice, the second time although the first was accepted.
    WebhookTwice,
    /// The webhook comes this much later, whatever the time scale.
    WebhookLate {
        /// Seconds.
        seconds: f64,
    },
    /// The webhook never comes; the backup can be downloaded all the same.
    WebhookNever,
    /// The webhook says `ready`, `job_id` and `filesize_mb`, as some gateways do.
    OtherSpelling,
    /// The download URL points elsewhere.
    ForeignUrl {
        /// Replaces `http://HOST:PORT`.
        base: String,
    },
    /// `filesize` is wrong by so many bytes; the file is what it should be.
    WrongFilesize {
        /// Added to the true size.
        delta: i64,
    },
    /// The file is cut short, and `filesize` is that of the cut file.
    TruncateGzip {
        /// What is left, in bytes.
        keep_bytes: u64,
    },
    /// One byte in the middle of the file is changed.
    CorruptGzip,
    /// One bit of the file is changed.
    FlipBit {
        /// Its byte, from the start of the file.
        at: u64,
        /// Which of the byte's bits, from 0.
        bit: u8,
    },
    /// A sound gzip file whose dump lacks its last line, "Dump completed".
    MissingCompleted,
    /// Downloads answer 404.
    NotFound,
    /// The connection breaks after so many bytes of a response's body.
    DropAfter {
        /// Bytes sent before.
        bytes: u64,
    },
    /// Nothing more comes after so many bytes, and the connection stays open.
    StallAfter {
        /// Bytes sent before.
        bytes: u64,
    },
    /// Downloads are slow.
    SlowDownload {
        /// The speed.
        bytes_per_second: u64,
    },
    /// A `Range` header is ignored: status 200 and the file from its beginning.
    IgnoreRange,
    /// Every request but those to the control endpoint gets this status and an HTML page.
    Unavailable {
        /// The HTTP status.
        status: u16,
    },
}

impl Fault {
    /// The fault for the next `times` occasions.
    pub fn times(self, times: u32) -> PlannedFault {
        PlannedFault { fault: self, times: Some(times) }
    }

    /// The fault until the plan is replaced.
    pub fn always(self) -> PlannedFault {
        PlannedFault { fault: self, times: None }
    }
}

/// A fault and how often it is to happen.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlannedFault {
    /// What goes wrong.
    pub fault: Fault,
    /// On how many occasions; absent means until the plan is replaced.
    pub times: Option<u32>,
}

/// The body of `POST /_control`; what is absent stays as it is.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Control {
    /// Replaces the plan of faults.
    pub faults: Option<Vec<PlannedFault>>,
    /// Backups asked for from now on are this file.
    pub dump: Option<PathBuf>,
}

/// What a simulated gateway has seen: the answer of `GET /_control`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Record {
    /// Calls without the key, or with a wrong one.
    pub unauthorised: u32,
    /// Backups asked for, in order.
    pub asked: Vec<Asked>,
    /// Webhook attempts, in order.
    pub deliveries: Vec<Delivery>,
    /// Download requests, in order.
    pub downloads: Vec<Download>,
    /// What is still planned to go wrong.
    pub faults: Vec<PlannedFault>,
}

/// A `POST /api/backup/full`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Asked {
    /// The id the backup got.
    pub backup_id: String,
    /// Where the webhook goes; absent in synchronous mode.
    pub webhook_url: Option<String>,
    /// When, in milliseconds since the simulator's start.
    pub at_ms: u64,
}

/// One attempt at delivering a webhook.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Delivery {
    /// The backup it was about.
    pub backup_id: String,
    /// Counted from 1, per delivery.
    pub attempt: u32,
    /// The receiver's status, when it answered.
    pub status: Option<u16>,
    /// Whether that was status 200 with `ok: true`.
    pub accepted: bool,
    /// The receiver's answer, or why there is none.
    pub answer: String,
}

/// One download request that found its file.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Download {
    /// The file.
    pub filename: String,
    /// Where the answer began, in bytes.
    pub start: u64,
    /// The answer's status.
    pub status: u16,
}

/// A running simulator.
pub struct Gateway {
    process: Process,
    url: String,
    client: reqwest::Client,
}

impl Gateway {
    /// Starts a simulator that serves `dump`, with every delay of the real one multiplied by
    /// `time_scale` (the webhook's 3 minutes are 0.9 s at 0.005).
    pub async fn start(dump: &Path, time_scale: f64) -> Self {
        Self::start_at("127.0.0.1:0", dump, time_scale).await
    }

    /// The same on a given address: a gateway that comes back after it was killed.
    pub async fn start_at(listen: &str, dump: &Path, time_scale: f64) -> Self {
        Self::start_with(listen, dump, time_scale, &[]).await
    }

    /// The same with further flags of the simulator.
    pub async fn start_with(listen: &str, dump: &Path, time_scale: f64, flags: &[&str]) -> Self {
        let process = Process::builder("relevo-gateway-simulator")
            .args(["--listen", listen])
            .arg("--dump")
            .arg(dump)
            .args(["--api-key", API_KEY])
            .args(["--time-scale", &time_scale.to_string()])
            .args(flags.iter().copied())
            .spawn();
        let line = process.wait_line("listening on http://", Duration::from_secs(20)).await;
        let (_, url) = line.split_once("listening on ").expect("the line waited for");
        let url = url.to_owned();
        Self { process, url, client: reqwest::Client::new() }
    }

    /// Its base URL, without a final slash: `gateway_url` of a source.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Where it listens, as `HOST:PORT`.
    pub fn address(&self) -> &str {
        self.url.trim_start_matches("http://")
    }

    /// The process, to kill or freeze.
    pub fn process(&self) -> &Process {
        &self.process
    }

    /// Replaces the plan of what goes wrong.
    pub async fn plan(&self, faults: Vec<PlannedFault>) {
        self.control(&Control { faults: Some(faults), ..Control::default() }).await;
    }

    /// Serves this file from the next backup on.
    pub async fn serve(&self, dump: &Path) {
        self.control(&Control { dump: Some(dump.to_owned()), ..Control::default() }).await;
    }

    /// What it has seen so far.
    pub async fn record(&self) -> Record {
        let request = self.client.get(format!("{}/_control", self.url)).send();
        let answer = request.await.expect("ask the simulator what it has seen");
        answer.json().await.expect("a record")
    }

    async fn control(&self, control: &Control) {
        let answer = self
            .client
            .post(format!("{}/_control", self.url))
            .json(control)
            .send()
            .await
            .expect("tell the simulator what to do");
        let status = answer.status();
        let text = answer.text().await.unwrap_or_default();
        assert!(status.is_success(), "the simulator refused {control:?}: {status} {text}");
    }
}

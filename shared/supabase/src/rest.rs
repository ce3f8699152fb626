//! The way to Supabase: PostgREST over HTTP.
//!
//! Rows stay the text they came as, so that no number passes through a float. Every request has a
//! time limit and a bound on its answer. What may pass (no connection, 408, 429, 5xx) is repeated;
//! that is safe for writes too, because each of them either ignores what is there already or is
//! filtered on the version it replaces.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read as _;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use reqwest::header::{
    ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONTENT_ENCODING, CONTENT_TYPE, DATE, HeaderMap,
    HeaderValue, RETRY_AFTER,
};
use reqwest::{Client, Method, StatusCode, redirect};
use secrecy::ExposeSecret as _;
use serde::Deserialize;
use serde_json::value::RawValue;
use url::Url;

use crate::config::Config;
use crate::error::SyncError;

/// The largest answer held in memory, unpacked.
const ANSWER_MAX_BYTES: usize = 48 << 20;
/// Of a refusal so much is read.
const REFUSAL_MAX_BYTES: usize = 64 << 10;
/// A server may ask for more patience than this; the next cycle has it.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(30);
/// Supabase's own status for a paused project.
const PAUSED: u16 = 540;

/// A remote row: its key and version, and its text as it came.
#[derive(Debug, Clone)]
pub struct Row {
    /// Its id, a UUID.
    pub id: String,
    /// Its version, as the server wrote it.
    pub updated_at: String,
    /// The whole row, JSON.
    pub text: String,
}

/// One page of rows.
#[derive(Debug)]
pub struct Page {
    /// The rows, in the order asked for.
    pub rows: Vec<Row>,
    /// How many rows were asked for.
    pub limit: usize,
    /// The server's clock when it answered.
    pub server_time: Option<String>,
}

/// Counts of what went over the line.
#[derive(Debug, Default)]
pub struct Traffic {
    requests: AtomicU64,
    received_bytes: AtomicU64,
    sent_bytes: AtomicU64,
}

impl Traffic {
    /// Takes requests, bytes received and bytes sent since the last call.
    pub fn take(&self) -> (u64, u64, u64) {
        (
            self.requests.swap(0, Ordering::Relaxed),
            self.received_bytes.swap(0, Ordering::Relaxed),
            self.sent_bytes.swap(0, Ordering::Relaxed),
        )
    }
}

/// The client.
pub struct Rest {
    http: Client,
    base: Url,
    attempts: u32,
    delay: Duration,
    /// The largest page ever answered: the server cuts pages no shorter than this.
    largest_page: AtomicUsize,
    /// What went over the line.
    pub traffic: Traffic,
}

#[derive(Deserialize)]
struct Key {
    id: String,
    updated_at: Option<String>,
}

#[derive(Deserialize, Default)]
struct Refusal {
    #[serde(default)]
    code: Option<String>,
    #[serde(default)]
    message: Option<String>,
    #[serde(default)]
    details: Option<String>,
}

struct Answer {
    headers: HeaderMap,
    body: Vec<u8>,
}

impl Rest {
    /// A client for the project in the configuration; nothing is asked yet.
    ///
    /// # Errors
    /// [`SyncError::Config`] for a key that is none.
    pub fn new(config: &Config) -> Result<Self, SyncError> {
        let key = config.supabase.service_key.expose_secret();
        let mut headers = HeaderMap::new();
        let value = |text: &str| {
            let mut value = HeaderValue::from_str(text)
                .map_err(|_| SyncError::Config("supabase.service_key is no key".to_owned()))?;
            value.set_sensitive(true);
            Ok::<_, SyncError>(value)
        };
        headers.insert("apikey", value(key)?);
        // The new keys are no tokens: sent as such they are refused.
        if !key.starts_with("sb_secret_") {
            headers.insert(AUTHORIZATION, value(&format!("Bearer {key}"))?);
        }
        headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("gzip"));
        let http = Client::builder()
            .default_headers(headers)
            .redirect(redirect::Policy::none())
            .connect_timeout(Duration::from_secs(10))
            .timeout(Duration::from_secs(config.sync.request_timeout_seconds))
            .pool_max_idle_per_host(2)
            .build()
            .map_err(|_| SyncError::Config("the HTTP client can't be made".to_owned()))?;
        let mut base = config.supabase.url.clone();
        let path = base.path().trim_end_matches('/');
        let path =
            if path.ends_with("/rest/v1") { path.to_owned() } else { format!("{path}/rest/v1") };
        base.set_path(&format!("{path}/"));
        Ok(Self {
            http,
            base,
            attempts: config.sync.retry_max_attempts,
            delay: Duration::from_secs(config.sync.retry_delay_seconds),
            largest_page: AtomicUsize::new(0),
            traffic: Traffic::default(),
        })
    }

    /// Whether the project answers: one small request, tried once.
    ///
    /// # Errors
    /// As of all requests.
    pub async fn health(&self, table: &str) -> Result<(), SyncError> {
        let url = self.url(table, &[("select", "id"), ("limit", "1")]);
        self.once(&Method::GET, &url, None, "").await.map(drop).map_err(|(error, _)| error)
    }

    /// The columns of each remote table, from the description at the root.
    ///
    /// # Errors
    /// As of all requests.
    pub async fn schema(&self) -> Result<BTreeMap<String, BTreeSet<String>>, SyncError> {
        #[derive(Deserialize)]
        struct Definition {
            #[serde(default)]
            properties: BTreeMap<String, serde::de::IgnoredAny>,
        }
        #[derive(Deserialize)]
        struct Root {
            definitions: BTreeMap<String, Definition>,
        }
        let answer = self.send(&Method::GET, &self.base, None, "").await?;
        let root: Root = serde_json::from_slice(&answer.body)
            .map_err(|error| SyncError::Answer(format!("its description: {error}")))?;
        let columns = |definition: Definition| definition.properties.into_keys().collect();
        Ok(root.definitions.into_iter().map(|(table, found)| (table, columns(found))).collect())
    }

    /// One page of a table.
    ///
    /// # Errors
    /// As of all requests; a page that is too large is asked for again with fewer rows.
    pub async fn page(
        &self,
        table: &str,
        query: &[(&str, &str)],
        limit: usize,
    ) -> Result<Page, SyncError> {
        let mut limit = limit.max(1);
        loop {
            let count = limit.to_string();
            let mut whole = query.to_vec();
            whole.push(("limit", &count));
            let url = self.url(table, &whole);
            match self.send(&Method::GET, &url, None, "").await {
                Ok(answer) => {
                    let rows = rows(&answer.body)?;
                    self.largest_page.fetch_max(rows.len(), Ordering::Relaxed);
                    let time = answer.headers.get(DATE).and_then(|value| value.to_str().ok());
                    return Ok(Page { rows, limit, server_time: time.map(str::to_owned) });
                }
                Err(SyncError::TooLarge(_)) if limit > 1 => limit /= 2,
                Err(error) => return Err(error),
            }
        }
    }

    /// Whether a page was the last one. A page shorter than what was asked for may have been cut by
    /// the server, unless it gave longer ones before.
    #[must_use]
    pub fn is_last(&self, page: &Page) -> bool {
        let rows = page.rows.len();
        let longest = self.largest_page.load(Ordering::Relaxed);
        rows == 0 || (rows < page.limit && rows < longest)
    }

    /// The rows with these ids, as far as they exist. At most 100 ids.
    ///
    /// # Errors
    /// As of all requests.
    pub async fn rows_of(
        &self,
        table: &str,
        select: &str,
        ids: &[String],
    ) -> Result<Vec<Row>, SyncError> {
        if ids.is_empty() {
            return Ok(Vec::new());
        }
        let list = format!("in.({})", ids.join(","));
        Ok(self.page(table, &[("select", select), ("id", &list)], ids.len()).await?.rows)
    }

    /// Inserts those of the rows (a JSON array) whose id isn't there yet; returns what it inserted.
    ///
    /// # Errors
    /// As of all requests; then none was inserted.
    pub async fn insert(
        &self,
        table: &str,
        select: &str,
        columns: &str,
        array: String,
    ) -> Result<Vec<Row>, SyncError> {
        let query = [("select", select), ("columns", columns), ("on_conflict", "id")];
        let prefer = "resolution=ignore-duplicates,return=representation,missing=default";
        let answer =
            self.send(&Method::POST, &self.url(table, &query), Some(array), prefer).await?;
        rows(&answer.body)
    }

    /// Changes one row if it is still of the version `base`; nothing is returned where it isn't.
    ///
    /// # Errors
    /// As of all requests.
    pub async fn update(
        &self,
        table: &str,
        select: &str,
        (id, base): (&str, &str),
        row: String,
    ) -> Result<Option<Row>, SyncError> {
        let (id, base) = (format!("eq.{id}"), format!("eq.{base}"));
        let url = self.url(table, &[("select", select), ("id", &id), ("updated_at", &base)]);
        let answer = self.send(&Method::PATCH, &url, Some(row), "return=representation").await?;
        Ok(rows(&answer.body)?.pop())
    }

    /// Deletes one row if it is still of the version `base`; whether it did.
    ///
    /// # Errors
    /// As of all requests.
    pub async fn delete(&self, table: &str, id: &str, base: &str) -> Result<bool, SyncError> {
        let (id, base) = (format!("eq.{id}"), format!("eq.{base}"));
        let url =
            self.url(table, &[("select", "id,updated_at"), ("id", &id), ("updated_at", &base)]);
        let answer = self.send(&Method::DELETE, &url, None, "return=representation").await?;
        Ok(!rows(&answer.body)?.is_empty())
    }

    fn url(&self, table: &str, query: &[(&str, &str)]) -> Url {
        let mut url = self.base.clone();
        if let Ok(mut segments) = url.path_segments_mut() {
            segments.pop_if_empty().push(table);
        }
        url.query_pairs_mut().extend_pairs(query);
        url
    }

    /// Sends a request until it is answered or the attempts are used up.
    async fn send(
        &self,
        method: &Method,
        url: &Url,
        body: Option<String>,
        prefer: &str,
    ) -> Result<Answer, SyncError> {
        let mut attempt = 1;
        loop {
            let (error, patience) = match self.once(method, url, body.clone(), prefer).await {
                Ok(answer) => return Ok(answer),
                Err(failure) => failure,
            };
            if attempt >= self.attempts || !matches!(error, SyncError::Offline(_)) {
                return Err(error);
            }
            let own = self.delay * 2_u32.saturating_pow(attempt - 1).min(64);
            let wait = patience.unwrap_or_else(|| own.mul_f64(rand::random_range(0.5..1.0)));
            tracing::debug!(attempt, wait_ms = wait.as_millis(), %error, "asked again later");
            tokio::time::sleep(wait.min(RETRY_AFTER_MAX)).await;
            attempt += 1;
        }
    }

    /// Sends it once. With the error comes the patience the server asked for.
    async fn once(
        &self,
        method: &Method,
        url: &Url,
        body: Option<String>,
        prefer: &str,
    ) -> Result<Answer, (SyncError, Option<Duration>)> {
        self.traffic.requests.fetch_add(1, Ordering::Relaxed);
        let mut request = self.http.request(method.clone(), url.clone());
        request = request.header(ACCEPT, "application/json");
        if !prefer.is_empty() {
            request = request.header("Prefer", prefer);
        }
        if let Some(body) = body {
            self.traffic.sent_bytes.fetch_add(body.len() as u64, Ordering::Relaxed);
            request = request.header(CONTENT_TYPE, "application/json").body(body);
        }
        // Without its URL: that holds ids of patients, which belong in no log.
        let lost = |error: reqwest::Error| {
            (SyncError::Offline(relevo_errors::chain(&error.without_url())), None)
        };
        let mut response = request.send().await.map_err(lost)?;
        let status = response.status();
        let headers = response.headers().clone();
        let max = if status.is_success() { ANSWER_MAX_BYTES } else { REFUSAL_MAX_BYTES };
        let mut packed = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(lost)? {
            self.traffic.received_bytes.fetch_add(chunk.len() as u64, Ordering::Relaxed);
            if packed.len() + chunk.len() > max {
                if status.is_success() {
                    return Err((SyncError::TooLarge(max), None));
                }
                break;
            }
            packed.extend_from_slice(&chunk);
        }
        let gzip = headers.get(CONTENT_ENCODING).is_some_and(|value| value == "gzip");
        let body = if gzip { unpack(&packed, max).map_err(|error| (error, None))? } else { packed };
        if status.is_success() {
            return Ok(Answer { headers, body });
        }
        Err(refusal(status, &headers, &body))
    }
}

fn unpack(packed: &[u8], max: usize) -> Result<Vec<u8>, SyncError> {
    let mut body = Vec::new();
    let bound = u64::try_from(max).unwrap_or(u64::MAX).saturating_add(1);
    flate2::read::GzDecoder::new(packed)
        .take(bound)
        .read_to_end(&mut body)
        .map_err(|error| SyncError::Offline(format!("a damaged answer: {error}")))?;
    if body.len() > max { Err(SyncError::TooLarge(max)) } else { Ok(body) }
}

/// What an answer other than success means, and how long to wait.
fn refusal(status: StatusCode, headers: &HeaderMap, body: &[u8]) -> (SyncError, Option<Duration>) {
    let told: Refusal = serde_json::from_slice(body).unwrap_or_default();
    let mut message = told
        .message
        .unwrap_or_else(|| status.canonical_reason().unwrap_or("an unknown status").to_owned());
    if let Some(details) = told.details {
        message = format!("{message} ({details})");
    }
    // Long texts and values of rows are cut.
    let message: String = message.chars().take(500).collect();
    let number = status.as_u16();
    if number == PAUSED || message.to_lowercase().contains("project is paused") {
        return (SyncError::Paused, None);
    }
    let passes = matches!(number, 408 | 425 | 429) || status.is_server_error();
    if passes || status.is_redirection() {
        let wait = headers.get(RETRY_AFTER).and_then(|value| value.to_str().ok());
        let wait = wait.and_then(|text| text.trim().parse().ok()).map(Duration::from_secs);
        return (SyncError::Offline(format!("status {number}: {message}")), wait);
    }
    let code = told.code.unwrap_or_default();
    (SyncError::Refused { status: number, code, message }, None)
}

/// The rows of an answer.
fn rows(body: &[u8]) -> Result<Vec<Row>, SyncError> {
    let unreadable = |error: serde_json::Error| SyncError::Answer(error.to_string());
    let texts: Vec<&RawValue> = serde_json::from_slice(body).map_err(unreadable)?;
    let mut rows = Vec::with_capacity(texts.len());
    for text in texts {
        let key: Key = serde_json::from_str(text.get()).map_err(unreadable)?;
        let Some(updated_at) = key.updated_at else {
            return Err(SyncError::Answer(format!("row {} has no updated_at", key.id)));
        };
        rows.push(Row { id: key.id, updated_at, text: text.get().to_owned() });
    }
    Ok(rows)
}

/// A JSON array of rows.
#[must_use]
pub fn array<'a>(rows: impl IntoIterator<Item = &'a str>) -> String {
    let mut text = String::from("[");
    for (nth, row) in rows.into_iter().enumerate() {
        if nth > 0 {
            text.push(',');
        }
        text.push_str(row);
    }
    text.push(']');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stay_the_text_they_are() {
        let body = br#"[{"id":"a","updated_at":"t","n":9007199254740993,"m":10.50}]"#;
        let rows = rows(body).expect("rows");
        assert!(rows[0].text.contains("9007199254740993") && rows[0].text.contains("10.50"));
    }

    #[test]
    fn refusals_are_told_apart() {
        let of = |status: u16, body: &str| {
            refusal(
                StatusCode::from_u16(status).expect("a status"),
                &HeaderMap::new(),
                body.as_bytes(),
            )
            .0
        };
        assert!(of(503, "").is_offline());
        assert!(of(429, "").is_offline());
        assert!(matches!(of(540, ""), SyncError::Paused));
        assert_eq!(of(409, r#"{"code":"23505","message":"m"}"#).code(), "23505");
    }
}

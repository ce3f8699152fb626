//! The gateway's contract, as its client: asking for a backup and opening a download.
//!
//! Every call carries the `API-KEY` header, so no redirect is followed and no call ever leaves the
//! configured host: of an address the gateway hands out only path and query are taken, scheme, host
//! and port are the configured ones. Plain http is tried after https only where the settings allow.
//!
//! Killed here, then what? Nothing is kept here; the request's row says whether a call may have
//! been made.

use std::time::Duration;

use anyhow::{Context as _, anyhow};
use relevo_settings::BackupSource;
use reqwest::{
    Client, RequestBuilder, Response, StatusCode, Url,
    header::{HeaderMap, HeaderValue, LOCATION},
    redirect,
};
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Map, Value, json};

/// How long a connection may take to open.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);

/// The longest answer that is read; the contract's are under 1 KiB.
const ANSWER_BYTES_MAX: usize = 64 << 10;

/// How much of an answer that was not understood is quoted.
const EXCERPT_CHARS_MAX: usize = 200;

/// One configured gateway.
pub(crate) struct Gateway {
    client: Client,
    /// The base addresses in the order they are tried.
    bases: Vec<Url>,
    api_key: SecretString,
    /// The same, as it is sent.
    key_header: HeaderValue,
}

/// What the gateway answered to a request.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Answer {
    /// It will call the webhook.
    Accepted {
        /// Its own name for the backup, if it gave one.
        job_id: Option<String>,
    },
    /// The backup is ready.
    Ready(ReadyBackup),
}

/// A backup that can be fetched, in the gateway's own words.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ReadyBackup {
    pub(crate) download_url: String,
    pub(crate) filename: Option<String>,
    pub(crate) filesize_bytes: Option<i64>,
    /// Local time of the gateway, without a zone.
    pub(crate) expires_at: Option<String>,
}

/// Why asking did not lead to a backup.
#[derive(Debug, thiserror::Error)]
pub(crate) enum AskError {
    /// No connection: the gateway has not heard of the request.
    #[error("the gateway could not be reached")]
    Unreachable(#[source] reqwest::Error),
    /// It asks for patience, and has not taken the request.
    #[error("the gateway is busy (HTTP 429)")]
    Busy,
    /// Whoever answers on https is not known to be the gateway.
    #[error(
        "the gateway\'s certificate is not accepted; renew it on the gateway, or allow plain http \
         with allow_http_fallback"
    )]
    Certificate(#[source] reqwest::Error),
    /// The request went out, its answer did not arrive: a backup may be under way.
    #[error("the gateway's answer was lost")]
    AnswerLost(#[source] reqwest::Error),
    /// A proxy before the gateway gave up waiting for it: a backup may be under way.
    #[error("a proxy before the gateway lost its answer (HTTP {0})")]
    NoAnswer(StatusCode),
    /// A server on the way, or the gateway itself, is not well: a backup may be under way.
    #[error("the gateway is not available (HTTP {0})")]
    Unavailable(StatusCode),
    /// The gateway says that its backup failed.
    #[error("the gateway reports a failed backup: {message}")]
    Failed {
        /// Its own words.
        message: String,
    },
    /// Wrong or missing key.
    #[error("the gateway refused the API key (HTTP {0}); check api_key (TUNNEL_API_KEY)")]
    KeyRefused(StatusCode),
    /// A redirect, which is not followed.
    #[error(
        "the gateway answered with a redirect to {location}, which is not followed because the API \
         key would travel along; set gateway_url (TUNNEL_API_URL) to the right address"
    )]
    Redirected {
        /// Where it points.
        location: String,
    },
    /// Not the gateway's contract.
    #[error(
        "the gateway's answer was not understood (HTTP {status}): {excerpt}; check gateway_url \
         (TUNNEL_API_URL)"
    )]
    NotUnderstood {
        /// Its status.
        status: StatusCode,
        /// How the answer begins.
        excerpt: String,
    },
}

impl Gateway {
    /// The gateway of a source.
    pub(crate) fn of(source: &BackupSource) -> anyhow::Result<Self> {
        Self::new(&source.gateway_url, &source.api_key, source.allow_http_fallback)
    }

    /// A client for the gateway at `base_url`.
    fn new(
        base_url: &str,
        api_key: &SecretString,
        allow_http_fallback: bool,
    ) -> anyhow::Result<Self> {
        let mut base: Url = base_url
            .parse()
            .with_context(|| format!("gateway_url {base_url:?} is not an address"))?;
        // So that joining keeps a path prefix.
        if !base.path().ends_with('/') {
            base.set_path(&format!("{}/", base.path()));
        }
        let mut bases = vec![base.clone()];
        if allow_http_fallback && base.scheme() == "https" && base.set_scheme("http").is_ok() {
            bases.push(base);
        }
        let mut key_header = HeaderValue::from_str(api_key.expose_secret())
            .map_err(|_| anyhow!("api_key holds characters that no HTTP header can carry"))?;
        key_header.set_sensitive(true);
        let client = Client::builder()
            .redirect(redirect::Policy::none())
            .connect_timeout(CONNECT_TIMEOUT)
            .user_agent(concat!("relevo/", env!("CARGO_PKG_VERSION")))
            .build()
            .context("the HTTP client could not be set up")?;
        Ok(Self { client, bases, api_key: api_key.clone(), key_header })
    }

    /// Asks for a full backup: in webhook mode with the address to call, else synchronously.
    pub(crate) async fn ask(
        &self,
        webhook_url: Option<&str>,
        timeout: Duration,
    ) -> Result<Answer, AskError> {
        let body = webhook_url.map_or_else(|| json!({}), |url| json!({ "webhook_url": url }));
        let response = self
            .send("api/backup/full", |url| self.client.post(url).json(&body).timeout(timeout))
            .await
            .map_err(|error| {
                if is_bad_certificate(&error) {
                    AskError::Certificate(error)
                } else if error.is_connect() || error.is_builder() {
                    AskError::Unreachable(error)
                } else {
                    AskError::AnswerLost(error)
                }
            })?;
        let status = response.status();
        let headers = response.headers().clone();
        let text = read_limited(response).await.map_err(AskError::AnswerLost)?;
        self.understand(status, &headers, &text, webhook_url)
    }

    fn understand(
        &self,
        status: StatusCode,
        headers: &HeaderMap,
        text: &str,
        webhook_url: Option<&str>,
    ) -> Result<Answer, AskError> {
        if matches!(status, StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN) {
            return Err(AskError::KeyRefused(status));
        }
        if status.is_redirection() {
            let location = self.excerpt(&location(headers), webhook_url);
            return Err(AskError::Redirected { location });
        }
        let answer: Map<String, Value> = serde_json::from_str(text).unwrap_or_default();
        if answer.get("ok") == Some(&Value::Bool(false)) {
            let message = text_of(&answer, "error")
                .or_else(|| text_of(&answer, "message"))
                .unwrap_or_else(|| "no reason given".to_owned());
            return Err(AskError::Failed { message: self.excerpt(&message, webhook_url) });
        }
        if matches!(status, StatusCode::BAD_GATEWAY | StatusCode::GATEWAY_TIMEOUT) {
            return Err(AskError::NoAnswer(status));
        }
        if status == StatusCode::TOO_MANY_REQUESTS {
            return Err(AskError::Busy);
        }
        if status.is_server_error() || status == StatusCode::REQUEST_TIMEOUT {
            return Err(AskError::Unavailable(status));
        }
        if status.is_success() && answer.get("ok") == Some(&Value::Bool(true)) {
            // A gateway too old for webhooks answers synchronously whatever it was asked.
            if let Some(download_url) = text_of(&answer, "download_url") {
                return Ok(Answer::Ready(ReadyBackup {
                    download_url,
                    filename: text_of(&answer, "filename"),
                    filesize_bytes: integer_of(&answer, "filesize").filter(|&bytes| bytes > 0),
                    expires_at: text_of(&answer, "expires_at"),
                }));
            }
            if webhook_url.is_some() {
                let job_id = text_of(&answer, "job_id").or_else(|| text_of(&answer, "backup_id"));
                return Ok(Answer::Accepted { job_id });
            }
        }
        Err(AskError::NotUnderstood { status, excerpt: self.excerpt(text, webhook_url) })
    }

    /// Opens a download of `download_url`, whose host the caller has checked, with `headers` added.
    pub(crate) async fn open_download(
        &self,
        download_url: &Url,
        headers: &HeaderMap,
    ) -> reqwest::Result<Response> {
        let mut path_and_query = download_url.path().to_owned();
        if let Some(query) = download_url.query() {
            path_and_query.push('?');
            path_and_query.push_str(query);
        }
        // No timeout for the whole: the caller watches the bytes.
        self.send(&path_and_query, |url| self.client.get(url).headers(headers.clone())).await
    }

    /// Sends the request that `build` makes for an address, to the first base that can be
    /// connected to.
    async fn send(
        &self,
        reference: &str,
        build: impl Fn(Url) -> RequestBuilder,
    ) -> reqwest::Result<Response> {
        let mut last = None;
        for base in &self.bases {
            // `join` of a path cannot leave the server, except where it begins with two slashes.
            let url = match base.join(reference) {
                Ok(url) if url.origin() == base.origin() => url,
                _ => base.clone(),
            };
            match build(url).header("API-KEY", self.key_header.clone()).send().await {
                Ok(response) => return Ok(response),
                Err(error) if error.is_connect() && last.is_none() && self.bases.len() > 1 => {
                    tracing::warn!(
                        error = &error as &dyn std::error::Error,
                        "the gateway cannot be reached over https, trying plain http as configured"
                    );
                    last = Some(error);
                }
                Err(error) => return Err(error),
            }
        }
        // Unwrap safety: there is at least one base, and each iteration returned or set `last`.
        #[expect(clippy::unwrap_used, reason = "see the line above")]
        Err(last.unwrap())
    }

    /// The beginning of a text from the gateway, on one line and without our secrets: gateways echo
    /// what they are sent, and the webhook's address is a permission.
    fn excerpt(&self, text: &str, webhook_url: Option<&str>) -> String {
        let mut text = text.to_owned();
        let key = self.api_key.expose_secret();
        let token = webhook_url.and_then(|url| url.rsplit('/').next());
        // As JSON writes it between its quotes, and as PHP's JSON does.
        let quoted = json!(key).to_string();
        let in_json = &quoted[1..quoted.len() - 1];
        let in_php = in_json.replace('/', "\\/");
        // The whole address first, since the token is a part of it.
        let secrets = [
            (webhook_url, "[webhook URL]"),
            (token, "[token]"),
            (Some(&*in_php), "[API key]"),
            (Some(in_json), "[API key]"),
            (Some(key), "[API key]"),
        ];
        for (secret, name) in secrets {
            if let Some(secret) = secret.filter(|secret| !secret.is_empty()) {
                text = text.replace(secret, name);
            }
        }
        let mut excerpt: String = text
            .chars()
            .map(|c| if c.is_control() { ' ' } else { c })
            .take(EXCERPT_CHARS_MAX)
            .collect();
        if excerpt.trim().is_empty() {
            "an empty answer".clone_into(&mut excerpt);
        }
        excerpt.trim().to_owned()
    }
}

/// Whether a connection failed because the server's certificate is not accepted.
fn is_bad_certificate(error: &reqwest::Error) -> bool {
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(current) = cause {
        if let Some(tls) = current.downcast_ref::<rustls::Error>() {
            return matches!(tls, rustls::Error::InvalidCertificate(_));
        }
        // An I/O error does not name what it wraps as its source.
        let wrapped = current.downcast_ref::<std::io::Error>().and_then(std::io::Error::get_ref);
        cause = match wrapped {
            Some(wrapped) => Some(wrapped),
            None => current.source(),
        };
    }
    false
}

/// The target of a redirect, for messages.
pub(crate) fn location(headers: &HeaderMap) -> String {
    headers
        .get(LOCATION)
        .and_then(|value| value.to_str().ok())
        .unwrap_or("an unnamed place")
        .chars()
        .take(EXCERPT_CHARS_MAX)
        .collect()
}

async fn read_limited(mut response: Response) -> reqwest::Result<String> {
    let mut body = Vec::new();
    while body.len() < ANSWER_BYTES_MAX
        && let Some(piece) = response.chunk().await?
    {
        let room = ANSWER_BYTES_MAX - body.len();
        body.extend_from_slice(&piece[..piece.len().min(room)]);
    }
    Ok(String::from_utf8_lossy(&body).into_owned())
}

/// A text field; numbers count too, since the gateway's language does not tell them apart.
fn text_of(answer: &Map<String, Value>, field: &str) -> Option<String> {
    match answer.get(field)? {
        Value::String(text) if !text.trim().is_empty() => Some(text.trim().to_owned()),
        Value::Number(number) => Some(number.to_string()),
        _ => None,
    }
}

fn integer_of(answer: &Map<String, Value>, field: &str) -> Option<i64> {
    text_of(answer, field)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const WEBHOOK_URL: &str = "https://relevo.example/webhook/backup-ready/0123456789abcdef";

    fn gateway(base: &str) -> Gateway {
        Gateway::new(base, &SecretString::from("s3cret".to_owned()), true).expect("an address")
    }

    fn understand(status: u16, text: &str, webhook: bool) -> Result<Answer, AskError> {
        let status = StatusCode::from_u16(status).expect("a status");
        let webhook_url = webhook.then_some(WEBHOOK_URL);
        gateway("https://gateway.example").understand(status, &HeaderMap::new(), text, webhook_url)
    }

    #[test]
    fn the_contracts_answers_are_understood() {
        let accepted =
            r#"{"ok":true,"type":"webhook","job_id":"backup_68a7","status":"processing"}"#;
        assert_eq!(
            understand(200, accepted, true).expect("understood"),
            Answer::Accepted { job_id: Some("backup_68a7".to_owned()) }
        );
        let ready = r#"{"ok":true,"type":"download_url","download_url":"http://g/api/backup/download/a.sql.gz","filename":"a.sql.gz","filesize":"396998348","filesize_mb":378.61,"expires_at":"2025-08-22 08:51:33"}"#;
        let Answer::Ready(backup) = understand(200, ready, false).expect("understood") else {
            panic!("not ready");
        };
        assert_eq!(backup.filesize_bytes, Some(396_998_348));
        assert_eq!(backup.filename.as_deref(), Some("a.sql.gz"));
    }

    #[test]
    fn a_failure_is_a_failure_whatever_the_status_and_keeps_no_key() {
        for status in [200, 500] {
            let error = understand(status, r#"{"ok":false,"error":"disk full, key s3cret"}"#, true)
                .expect_err("failed");
            assert_eq!(
                error.to_string(),
                "the gateway reports a failed backup: disk full, key [API key]"
            );
        }
    }

    #[test]
    fn what_the_gateway_echoes_holds_no_token() {
        // As PHP writes JSON, with escaped slashes, and as a message in the middle of a word.
        for text in [
            r#"{"ok":false,"error":"cannot reach https://relevo.example/webhook/backup-ready/0123456789abcdef"}"#,
            r#"{"ok":"no","webhook_url":"https:\/\/relevo.example\/webhook\/backup-ready\/0123456789abcdef"}"#,
            "<html>x0123456789abcdefx s3cret",
        ] {
            let error = understand(200, text, true).expect_err("no answer").to_string();
            assert!(!error.contains("0123456789abcdef"), "{error}");
            assert!(!error.contains("s3cret"), "{error}");
            assert!(error.contains("[webhook URL]") || error.contains("[token]"), "{error}");
        }
    }

    #[test]
    fn what_the_gateway_echoes_holds_no_key_however_it_is_written() {
        let key = SecretString::from("ab/cd\"ef".to_owned());
        let gateway = Gateway::new("https://gateway.example", &key, false).expect("an address");
        for text in ["x ab/cd\"ef", r#"{"k": "ab/cd\"ef"}"#, r#"{"k":"ab\/cd\"ef"}"#] {
            let excerpt = gateway.excerpt(text, None);
            assert!(excerpt.contains("[API key]") && !excerpt.contains("cd"), "{excerpt}");
        }
    }

    #[tokio::test]
    async fn an_address_that_begins_with_two_slashes_stays_with_the_server() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let other = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("binds");
        let base = format!("http://{}", listener.local_addr().expect("bound"));
        let url = format!("{base}//{}/x", other.local_addr().expect("bound"));
        let gateway = gateway(&base);
        let url = url.parse().expect("an address");
        let headers = HeaderMap::new();
        let asked = gateway.open_download(&url, &headers);
        tokio::select! {
            _ = asked => panic!("nobody answers"),
            taken = listener.accept() => drop(taken.expect("a connection")),
            _ = other.accept() => panic!("the key went to another server"),
        }
    }

    #[test]
    fn what_is_not_the_contract_is_named() {
        assert!(matches!(understand(401, "", true), Err(AskError::KeyRefused(_))));
        assert!(matches!(understand(302, "", true), Err(AskError::Redirected { .. })));
        assert!(matches!(understand(502, "<html>", true), Err(AskError::NoAnswer(_))));
        assert!(matches!(understand(503, "<html>", true), Err(AskError::Unavailable(_))));
        assert!(matches!(understand(429, "<html>", true), Err(AskError::Busy)));
        let error = understand(200, "<html>\nhello", true).expect_err("no JSON");
        assert!(error.to_string().contains("<html> hello"), "{error}");
        // Accepted, but nobody will ever call.
        let accepted = r#"{"ok":true,"job_id":"x"}"#;
        assert!(matches!(understand(200, accepted, false), Err(AskError::NotUnderstood { .. })));
    }

    #[test]
    fn plain_http_comes_second_and_prefixes_stay() {
        let gateway = gateway("https://gateway.example:8443/tunnel");
        let urls: Vec<String> = gateway
            .bases
            .iter()
            .map(|base| base.join("api/backup/full").expect("joins").to_string())
            .collect();
        assert_eq!(
            urls,
            [
                "https://gateway.example:8443/tunnel/api/backup/full",
                "http://gateway.example:8443/tunnel/api/backup/full"
            ]
        );
    }
}

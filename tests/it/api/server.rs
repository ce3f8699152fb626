//! The API on a port of its own, with a key that may do everything.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use relevo_api::ApiDeps;
use relevo_queue::Queue;
use relevo_runs::Runs;
use relevo_runs::api_keys::{self, Scope};
use relevo_settings::Settings;
use relevo_telemetry::metrics::Metrics;
use relevo_tests::TestDatabase;
use reqwest::{Method, StatusCode};
use serde_json::Value;
use tempfile::TempDir;
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::conform;

/// The gateway of the only source, `sicar`.
pub const GATEWAY: &str = "https://gateway.test:8443";
/// The most bytes a body may have.
pub const BODY_LIMIT_BYTES: usize = 20_000;

/// The key that seals secrets: in no file, so that tests leave none behind.
const SEALING_KEY: &str = "00112233445566778899aabbccddeeff00112233445566778899aabbccddeeff";

pub struct Server {
    pub deps: ApiDeps,
    pub address: SocketAddr,
    pub key: String,
    pub client: reqwest::Client,
    pub shutdown: CancellationToken,
    pub served: JoinHandle<std::io::Result<()>>,
    _folder: TempDir,
    // Dropped last: the database goes when nothing uses it any more.
    pub db: TestDatabase,
}

/// What came back.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: reqwest::header::HeaderMap,
    pub body: Value,
}

impl Answer {
    /// The problem's code; panics unless the answer is a well-formed problem.
    pub fn code(&self) -> &str {
        assert_eq!(self.headers["content-type"], "application/problem+json", "{self:?}");
        assert_eq!(self.body["status"], self.status.as_u16(), "{self:?}");
        assert!(self.body["title"].is_string() && self.body["detail"].is_string(), "{self:?}");
        let code = self.body["code"].as_str().expect("a problem has a code");
        assert_eq!(self.body["type"], format!("urn:relevo:problem:{code}"));
        code
    }

    /// Panics unless the answer is this refusal.
    #[track_caller]
    pub fn refused(&self, status: u16, code: &str) {
        assert_eq!((self.status.as_u16(), self.code()), (status, code), "{self:?}");
    }

    /// The body of an answer with this status.
    #[track_caller]
    pub fn ok(self, status: u16) -> Value {
        assert_eq!(self.status.as_u16(), status, "{self:?}");
        self.body
    }
}

impl Server {
    pub async fn start() -> Self {
        Self::start_with("api.public_url = \"https://relevo.test\"\n").await
    }

    /// With more lines at the top of the configuration file.
    pub async fn start_with(more: &str) -> Self {
        let db = TestDatabase::new().await;
        let folder = tempfile::tempdir().unwrap();
        let settings = settings(more, folder.path()).into();
        let deps = ApiDeps {
            pool: db.pool().clone(),
            queue: Queue::new(db.pool().clone()),
            runs: Runs::new(db.pool().clone()),
            settings,
            metrics: Metrics::new(),
            next_slots: relevo_scheduler::rhythm::next_slots,
        };
        let (_, secret) = api_keys::create(db.pool(), "test", &[Scope::Admin]).await.unwrap();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let shutdown = CancellationToken::new();
        let served = tokio::spawn(relevo_api::serve(deps.clone(), listener, shutdown.clone()));
        Self {
            deps,
            address,
            key: secret.expose().to_owned(),
            client: reqwest::Client::builder().timeout(Duration::from_secs(60)).build().unwrap(),
            shutdown,
            served,
            _folder: folder,
            db,
        }
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// A request with the admin key.
    pub fn request(&self, method: Method, path: &str) -> reqwest::RequestBuilder {
        self.client.request(method, self.url(path)).header("X-API-Key", &self.key)
    }

    pub async fn get(&self, path: &str) -> Answer {
        answer(self.request(Method::GET, path)).await
    }

    pub async fn delete(&self, path: &str) -> Answer {
        answer(self.request(Method::DELETE, path)).await
    }

    /// POST without a body.
    pub async fn post(&self, path: &str) -> Answer {
        answer(self.request(Method::POST, path)).await
    }

    pub async fn post_json(&self, path: &str, body: &Value) -> Answer {
        answer(self.request(Method::POST, path).json(body)).await
    }

    pub async fn put_json(&self, path: &str, body: &Value) -> Answer {
        answer(self.request(Method::PUT, path).json(body)).await
    }

    /// POST of any text as JSON.
    pub async fn post_text(&self, path: &str, body: impl Into<String>) -> Answer {
        let request = self.request(Method::POST, path).header("content-type", "application/json");
        answer(request.body(body.into())).await
    }

    /// A key with these scopes.
    pub async fn key_for(&self, scopes: &[Scope]) -> (i64, String) {
        let (key, secret) = api_keys::create(self.db.pool(), "scoped", scopes).await.unwrap();
        (key.id, secret.expose().to_owned())
    }

    /// How many jobs of a kind wait or run.
    pub async fn jobs_of_kind(&self, kind: &str) -> i64 {
        sqlx::query_scalar("SELECT count(*) FROM relevo.job WHERE kind = $1")
            .bind(kind)
            .fetch_one(self.db.pool())
            .await
            .unwrap()
    }
}

/// Sends a request; the answer must be one that the API's document describes.
pub async fn answer(request: reqwest::RequestBuilder) -> Answer {
    let (client, request) = request.build_split();
    let request = request.expect("a request");
    let (method, path) = (request.method().clone(), request.url().path().to_owned());
    let answer = execute(&client, request).await;
    conform::check(method.as_str(), &path, &answer);
    answer
}

/// Sends a request and looks at nothing.
pub async fn execute(client: &reqwest::Client, request: reqwest::Request) -> Answer {
    let response = client.execute(request).await.expect("the API answers");
    let (status, headers) = (response.status(), response.headers().clone());
    let text = response.text().await.unwrap();
    let body = serde_json::from_str(&text).unwrap_or(Value::String(text));
    Answer { status, headers, body }
}

fn settings(more: &str, folder: &Path) -> Settings {
    let path = folder.join("relevo.toml");
    let data_dir = folder.join("data");
    let text = format!(
        "{more}
        data_dir = {data_dir:?}
        api.body_limit_bytes = {BODY_LIMIT_BYTES}
        secrets.key = \"{SEALING_KEY}\"
        [backup.sicar]
        gateway_url = \"{GATEWAY}\"
        api_key = \"gateway-key\"
        target_url = \"postgres://nobody@127.0.0.1:1/none\"
        "
    );
    std::fs::write(&path, text).unwrap();
    relevo_settings::load(Some(&path), &|_| None).expect("the settings hold").settings
}

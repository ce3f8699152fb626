//! A receiver of webhooks that keeps what it hears.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use axum::Router;
use axum::body::Bytes;
use axum::extract::State;
use axum::http::{StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use relevo_tests::wait_for;
use serde_json::Value;
use tokio::task::JoinHandle;

/// One request.
#[derive(Debug, Clone)]
pub struct Heard {
    pub path: String,
    /// Null where there was no JSON.
    pub body: Value,
}

#[derive(Default)]
struct Inside {
    heard: Vec<Heard>,
    answers: VecDeque<(String, StatusCode)>,
    always: Option<StatusCode>,
}

/// A receiver on a port of its own.
pub struct Receiver {
    inside: Arc<Mutex<Inside>>,
    address: String,
    served: JoinHandle<()>,
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.served.abort();
    }
}

async fn hear(State(inside): State<Arc<Mutex<Inside>>>, uri: Uri, body: Bytes) -> Response {
    let mut inside = inside.lock().unwrap();
    let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
    inside.heard.push(Heard { path: uri.path().to_owned(), body });
    let planned = inside.answers.iter().position(|(path, _)| path == uri.path());
    let planned = planned.and_then(|at| inside.answers.remove(at)).map(|(_, status)| status);
    let status = planned.or(inside.always).unwrap_or(StatusCode::NO_CONTENT);
    if status.is_redirection() {
        // To itself: whoever follows is heard there.
        return (status, [(header::LOCATION, "/followed")]).into_response();
    }
    status.into_response()
}

impl Receiver {
    pub async fn start() -> Self {
        let inside = Arc::<Mutex<Inside>>::default();
        let router = Router::new().fallback(hear).with_state(Arc::clone(&inside));
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let served = tokio::spawn(async move {
            axum::serve(listener, router).await.unwrap();
        });
        Self { inside, address, served }
    }

    /// `host:port`, for `outbound.allow`.
    pub fn address(&self) -> &str {
        &self.address
    }

    pub fn url(&self, path: &str) -> String {
        format!("http://{}{path}", self.address)
    }

    /// The next answer at a path; afterwards it takes everything again.
    pub fn answer(&self, path: &str, status: StatusCode) {
        self.inside.lock().unwrap().answers.push_back((path.to_owned(), status));
    }

    /// Every answer from now on.
    pub fn always(&self, status: Option<StatusCode>) {
        self.inside.lock().unwrap().always = status;
    }

    /// What it heard at a path.
    pub fn heard(&self, path: &str) -> Vec<Heard> {
        let inside = self.inside.lock().unwrap();
        inside.heard.iter().filter(|heard| heard.path == path).cloned().collect()
    }

    /// Waits until `probe` finds what it looks for among the bodies heard at a path.
    pub async fn wait<T>(
        &self,
        what: &str,
        path: &str,
        timeout: Duration,
        mut probe: impl FnMut(&[Value]) -> Option<T>,
    ) -> T {
        wait_for(what, timeout, async || {
            let bodies: Vec<Value> = self.heard(path).into_iter().map(|heard| heard.body).collect();
            probe(&bodies)
        })
        .await
    }
}

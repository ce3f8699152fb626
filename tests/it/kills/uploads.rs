//! A dump that is sent in pieces, to an API that is killed at every step of it.

use std::fs::File;
use std::time::Duration;

use relevo_runs::{RunFilter, RunId};
use relevo_tests::{ShopDump, wait_for};
use reqwest::{Method, Response};
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::gate::{Gate, Place};
use crate::backup::cluster::{Cluster, RUN_TIMEOUT, files, prepare};
use crate::backup::sources::{announce, offset, piece, piece_request};

/// Kills the API and starts it again.
async fn replace_api(cluster: &mut Cluster) {
    cluster.api.as_ref().unwrap().kill();
    cluster.start_api().await;
}

/// Sends a piece to an API that is going to be killed.
fn send(
    cluster: &Cluster,
    id: i64,
    at: usize,
    bytes: &[u8],
) -> JoinHandle<reqwest::Result<Response>> {
    tokio::spawn(piece_request(cluster, id, at, bytes).send())
}

async fn show(cluster: &Cluster, id: i64) -> Value {
    let path = format!("/api/v1/uploads/{id}");
    cluster.request(Method::GET, &path).send().await.unwrap().json().await.unwrap()
}

/// Sends half a piece, no more.
async fn send_half(cluster: &Cluster, id: i64, bytes: &[u8]) -> TcpStream {
    let address = cluster.api_url().trim_start_matches("http://");
    let mut stream = TcpStream::connect(address).await.unwrap();
    let head = format!(
        "PATCH /api/v1/uploads/{id} HTTP/1.1\r\nHost: relevo\r\nX-API-Key: {}\r\n\
         Content-Type: application/octet-stream\r\nUpload-Offset: 0\r\nContent-Length: {}\r\n\
         Expect: 100-continue\r\n\r\n",
        cluster.api_key(),
        bytes.len()
    );
    stream.write_all(head.as_bytes()).await.unwrap();
    // The API asks for the body: the piece is under way.
    let mut answer = [0; 12];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(&answer, b"HTTP/1.1 100");
    stream.write_all(&bytes[..bytes.len() / 2]).await.unwrap();
    stream
}

#[tokio::test]
async fn an_upload_goes_on_where_it_was_wherever_the_api_was_killed() {
    let dump = ShopDump::committed();
    let mut cluster = Cluster::start(prepare(&dump).set("backup.sicar.kind", "upload")).await;
    let bytes = std::fs::read(&dump.path).unwrap();
    let sha256: String = Sha256::digest(&bytes).iter().map(|byte| format!("{byte:02x}")).collect();
    let id = announce(
        &cluster,
        json!({"source": "sicar", "filename": "tienda.sql.gz", "total_bytes": bytes.len(),
               "sha256": sha256}),
    )
    .await;
    let half = bytes.len() / 2;

    // While a piece arrives: nothing of it is there.
    let stream = send_half(&cluster, id, &bytes[..half]).await;
    replace_api(&mut cluster).await;
    drop(stream);
    assert_eq!(offset(&cluster, id).await, 0);

    // After a piece was stored, before it was noted and answered: it is there.
    let mut lock = cluster.pool().begin().await.unwrap();
    sqlx::query("SELECT FROM relevo.upload WHERE id = $1 FOR UPDATE")
        .bind(id)
        .execute(&mut *lock)
        .await
        .unwrap();
    let sent = send(&cluster, id, 0, &bytes[..half]);
    wait_for("the piece to be noted", Duration::from_secs(60), async || {
        let waits: bool = sqlx::query_scalar(
            "SELECT EXISTS (SELECT FROM pg_stat_activity
                            WHERE datname = current_database() AND wait_event_type = 'Lock'
                              AND starts_with(query, '-- uploads::touch'))",
        )
        .fetch_one(cluster.pool())
        .await
        .unwrap();
        waits.then_some(())
    })
    .await;
    cluster.api.as_ref().unwrap().kill();
    assert!(sent.await.unwrap().is_err(), "nobody was left to answer");
    lock.rollback().await.unwrap();
    cluster.start_api().await;
    assert_eq!(offset(&cluster, id).await, half);
    assert_eq!(piece(&cluster, id, 0, &bytes[..half]).await.0, 409);

    // Within the write of one, which leaves a part of it.
    let stored = cluster.data_dir().join("chunks/uploads");
    let name = files(&stored).into_iter().next().expect("a file for the upload");
    let file = File::options().write(true).open(stored.join(name)).unwrap();
    file.set_len(half as u64 - 100).unwrap();
    drop(file);
    assert_eq!(offset(&cluster, id).await, half - 100);
    assert_eq!(piece(&cluster, id, half - 100, &bytes[half - 100..half]).await.0, 200);

    // After the last piece was stored, while the whole is noted: an empty piece completes it.
    let whole = "NEW.completed_at IS NOT NULL";
    let gate = Gate::close(cluster.control(), Place::Update("relevo.upload", whole)).await;
    let sent = send(&cluster, id, half, &bytes[half..]);
    gate.reached().await;
    cluster.api.as_ref().unwrap().kill();
    assert!(sent.await.unwrap().is_err());
    gate.open().await;
    cluster.start_api().await;
    assert_eq!(offset(&cluster, id).await, bytes.len());
    let shown = show(&cluster, id).await;
    assert_eq!((&shown["completed_at"], &shown["run_id"]), (&Value::Null, &Value::Null));

    // In the commit that starts its run: it is started, and the next empty piece tells so.
    let given = "NEW.run_id IS NOT NULL";
    let gate = Gate::close(cluster.control(), Place::Commit("relevo.upload", given)).await;
    let sent = send(&cluster, id, bytes.len(), &[]);
    gate.reached().await;
    cluster.api.as_ref().unwrap().kill();
    assert!(sent.await.unwrap().is_err());
    gate.open().await;
    cluster.start_api().await;
    let (status, answer) = piece(&cluster, id, bytes.len(), &[]).await;
    assert_eq!(status, 200, "{answer}");
    let run = RunId(answer["run_id"].as_i64().unwrap_or_else(|| panic!("no run: {answer}")));
    let run = cluster.ended_within(run, RUN_TIMEOUT).await;
    cluster.assert_succeeded(&run, &dump).await;
    let runs = cluster.runs().list(&RunFilter::default()).await.unwrap();
    assert_eq!(runs.len(), 1, "it was loaded once");
}

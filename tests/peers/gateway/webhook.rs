//! The webhook that tells of a finished backup, with its retries.

use std::time::Duration;

use relevo_tests::gateway::{Delivery, Fault};
use serde_json::{Value, json};

use crate::Gateway;
use crate::backup::{Backup, megabytes};

/// Pauses before the second, third and fourth attempt, before scaling.
const RETRY_SECONDS: [f64; 3] = [1.0, 4.0, 16.0];

/// Tells `url` how the backup went, as often as the plan says.
pub(crate) async fn deliver(gateway: &Gateway, id: &str, made: anyhow::Result<Backup>, url: &str) {
    if gateway.plan.happens(&Fault::WebhookNever) {
        println!("{id}: no webhook, as planned");
        return;
    }
    let late = gateway.plan.take(|fault| match fault {
        Fault::WebhookLate { seconds } => Some(Duration::from_secs_f64(*seconds)),
        _ => None,
    });
    if let Some(late) = late {
        tokio::time::sleep(late).await;
    }
    let other_spelling = gateway.plan.happens(&Fault::OtherSpelling);
    let body = message(gateway, id, &made, other_spelling);
    deliver_once(gateway, id, url, &body).await;
    if gateway.plan.happens(&Fault::WebhookTwice) {
        deliver_once(gateway, id, url, &body).await;
    }
}

fn message(
    gateway: &Gateway,
    id: &str,
    made: &anyhow::Result<Backup>,
    other_spelling: bool,
) -> Value {
    let (id_name, size_name, completed) = if other_spelling {
        ("job_id", "filesize_mb", "ready")
    } else {
        ("backup_id", "file_size_mb", "completed")
    };
    match made {
        Ok(backup) => {
            let ratio = backup.file_bytes as f64 / (backup.raw_bytes.max(1)) as f64 * 100.0;
            json!({
                id_name: backup.id, "status": completed, "download_url": backup.url,
                "expires_at": gateway.local_time(backup.expires.1),
                size_name: megabytes(backup.announced_bytes),
                "compression_ratio": format!("{ratio:.1}%"),
            })
        }
        Err(error) => json!({ id_name: id, "status": "failed", "error": format!("{error:#}") }),
    }
}

/// One delivery: up to four attempts, until one is answered by status 200 and `ok: true`.
async fn deliver_once(gateway: &Gateway, id: &str, url: &str, body: &Value) {
    let mut pauses = RETRY_SECONDS.into_iter();
    for attempt in 1.. {
        let delivery = attempt_once(gateway, id, url, body, attempt).await;
        let accepted = delivery.accepted;
        println!("{id}: webhook attempt {attempt}: {:?} {}", delivery.status, delivery.answer);
        gateway.plan.note(|record| record.deliveries.push(delivery));
        if accepted {
            return;
        }
        let Some(pause) = pauses.next() else { return };
        tokio::time::sleep(gateway.flags.scaled(pause)).await;
    }
}

async fn attempt_once(
    gateway: &Gateway,
    id: &str,
    url: &str,
    body: &Value,
    attempt: u32,
) -> Delivery {
    let mut delivery = Delivery {
        backup_id: id.to_owned(),
        attempt,
        status: None,
        accepted: false,
        answer: String::new(),
    };
    match gateway.client.post(url).json(body).send().await {
        Ok(answer) => {
            delivery.status = Some(answer.status().as_u16());
            delivery.answer = answer.text().await.unwrap_or_else(|error| error.to_string());
            let ok = serde_json::from_str(&delivery.answer)
                .is_ok_and(|answer: Value| answer["ok"] == json!(true));
            delivery.accepted = ok && delivery.status == Some(200);
        }
        Err(error) => delivery.answer = format!("{:#}", anyhow::Error::from(error)),
    }
    delivery
}

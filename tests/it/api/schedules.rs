//! Schedules and sources over HTTP.

use chrono::{DateTime, Utc};
use relevo_scheduler::rhythm::Rhythm;
use relevo_scheduler::schedule::{Action, NewSchedule, Origin, put_in};
use relevo_scheduler::settle::{MissedRuns, Policy};
use serde_json::json;
use serde_json::value::RawValue;

use super::server::{GATEWAY, Server};

async fn put(server: &Server, name: &str, rhythm: &str, action: Action) {
    let schedule = NewSchedule {
        name: name.to_owned(),
        rhythm: rhythm.parse::<Rhythm>().unwrap(),
        zone: "America/Mexico_City".parse().unwrap(),
        action,
        policy: Policy { missed: MissedRuns::Once, max_age: chrono::Duration::hours(6) },
    };
    let mut connection = server.db.pool().acquire().await.unwrap();
    assert!(put_in(&mut connection, &schedule, Origin::Operator, "test").await.unwrap());
}

#[tokio::test]
async fn schedules_are_listed_and_started_by_hand() {
    let server = Server::start().await;
    let backup = Action::Backup { source: "sicar".to_owned() };
    put(&server, "backup/sicar", "every 12h from 06:00", backup).await;
    let payload = RawValue::from_string(r#"{"tag": 4}"#.to_owned()).unwrap();
    let job = Action::Job { kind: "Noop".to_owned(), payload };
    put(&server, "nightly", "cron 0 3 * * *", job).await;

    let listed = server.get("/api/v1/schedules").await.ok(200);
    let schedules = listed["schedules"].as_array().unwrap();
    assert_eq!(schedules.len(), 2);
    assert_eq!(schedules[0]["backup_source"], "sicar");
    assert_eq!(schedules[1]["job_payload"], json!({"tag": 4}));
    let slots: Vec<DateTime<Utc>> =
        serde_json::from_value(schedules[0]["next_slots"].clone()).unwrap();
    assert_eq!(slots.len(), 5);
    assert!(slots.windows(2).all(|pair| pair[1] - pair[0] == chrono::Duration::hours(12)));
    assert!(slots[0] > Utc::now() && slots[0] - Utc::now() < chrono::Duration::hours(13));

    let run = server.post("/api/v1/schedules/backup%2Fsicar/run").await.ok(202);
    let shown = server.get(&format!("/api/v1/runs/{}", run["run_id"])).await.ok(200);
    assert_eq!((&shown["source"], &shown["trigger"]), (&json!("sicar"), &json!("api:test")));
    server.post("/api/v1/schedules/backup%2Fsicar/run").await.refused(409, "run_active");
    let started = server.post("/api/v1/schedules/nightly/run").await.ok(202);
    let job = server.get(&format!("/api/v1/jobs/{}", started["job_id"])).await.ok(200);
    assert_eq!(job["payload"], json!({"tag": 4}));
    server.post("/api/v1/schedules/none/run").await.refused(404, "schedule_not_found");
    let entries = server.get("/api/v1/audit?action=schedule.run").await.ok(200);
    assert_eq!(entries["entries"].as_array().unwrap().len(), 2);
}

#[tokio::test]
async fn sources_are_shown_without_their_secrets() {
    let server = Server::start().await;
    let run = server.post("/api/v1/backups/sicar").await.ok(202)["run_id"].clone();
    let listed = server.get("/api/v1/sources").await.ok(200);
    let source = &listed["sources"][0];
    assert_eq!(source["name"], "sicar");
    assert_eq!(source["kind"], "gateway");
    assert!(source["origin"].as_str().unwrap().starts_with(GATEWAY));
    assert_eq!(source["target"], "postgres://127.0.0.1:1/none");
    assert_eq!(source["last_run"]["id"], run);
    assert!(!listed.to_string().contains("gateway-key") && !listed.to_string().contains("nobody"));
}

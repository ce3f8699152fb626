//! Schedules and sources over HTTP.

use chrono::{DateTime, Utc};
use relevo_runs::schedules::store::put_in;
use relevo_runs::schedules::{
    Action, Jitter, MissedRuns, NewSchedule, Origin, Policy, Rhythm, Stored,
};
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
        jitter: Jitter::NONE,
        enabled: true,
    };
    let origin = if name.starts_with("backup/") { Origin::Configuration } else { Origin::Operator };
    let mut connection = server.db.pool().acquire().await.unwrap();
    let stored = put_in(&mut connection, &schedule, origin, "test").await.unwrap();
    assert_eq!(stored, Stored::Created);
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
async fn schedules_are_made_changed_rested_and_removed() {
    let server = Server::start().await;
    let path = "/api/v1/schedules/a%2Fnightly%20one";
    let new = json!({
        "rhythm": "every 15m", "kind": "Noop", "payload": {"tag": 7}, "jitter_seconds": 30,
    });
    let made = server.put_json(path, &new).await;
    assert_eq!(made.headers["location"], path);
    let made = made.ok(201);
    assert_eq!((&made["name"], &made["origin"]), (&json!("a/nightly one"), &json!("operator")));
    assert_eq!((&made["timezone"], &made["missed_runs"]), (&json!("UTC"), &json!("once")));
    assert_eq!((&made["jitter_seconds"], &made["updated_by"]), (&json!(30), &json!("api:test")));
    assert_eq!(made["next_slots"].as_array().unwrap().len(), 5);
    assert_eq!(server.get(path).await.ok(200), made);

    // Replaced whole: what is absent has its default again.
    let other = json!({"rhythm": "cron 0 3 * * *", "timezone": "Europe/Madrid", "kind": "Noop"});
    let replaced = server.put_json(path, &other).await.ok(200);
    assert_eq!((&replaced["jitter_seconds"], &replaced["job_payload"]), (&json!(0), &json!({})));
    assert_eq!(replaced["rhythm"], "cron 0 3 * * *");
    server.put_json(path, &other).await.ok(200);

    let rests = server.post(&format!("{path}/disable")).await.ok(200);
    assert_eq!((&rests["active"], &rests["next_slots"]), (&json!(false), &json!([])));
    let fires = server.post(&format!("{path}/enable")).await.ok(200);
    assert_eq!(fires["active"], true);
    server.delete(path).await.ok(204);
    for gone in [
        server.get(path).await,
        server.delete(path).await,
        server.post(&format!("{path}/enable")).await,
    ] {
        gone.refused(404, "schedule_not_found");
    }

    let entries = server.get("/api/v1/audit?object=a/nightly%20one").await.ok(200);
    let actions: Vec<&str> = entries["entries"]
        .as_array()
        .unwrap()
        .iter()
        .map(|entry| entry["action"].as_str().unwrap())
        .collect();
    assert_eq!(
        actions,
        [
            "schedule.remove",
            "schedule.enable",
            "schedule.disable",
            "schedule.put",
            "schedule.put",
            "schedule.put"
        ]
    );
    assert_eq!(entries["entries"][4]["before"]["rhythm"], "every 15m");
}

#[tokio::test]
async fn schedules_that_make_no_sense_or_belong_to_the_file_are_refused() {
    let server = Server::start().await;
    let backup = Action::Backup { source: "sicar".to_owned() };
    put(&server, "backup/sicar", "every 12h from 06:00", backup).await;
    let good = json!({"rhythm": "every 1h", "kind": "Noop"});
    let with = |field: &str, value: serde_json::Value| {
        let mut body = good.clone();
        body[field] = value;
        body
    };
    for (body, field) in [
        (with("rhythm", json!("often")), "rhythm"),
        (with("rhythm", json!("every 0s")), "rhythm"),
        (with("timezone", json!("Mars")), "timezone"),
        (with("kind", json!("Nop")), "kind"),
        (with("payload", json!({"no": "such"})), "kind"),
        (with("backup_source", json!("sicar")), "kind"),
        (with("missed_runs", json!("never")), "missed_runs"),
        (with("jitter_seconds", json!(3_601)), "jitter_seconds"),
        (json!({"rhythm": "every 1h", "backup_source": "mall"}), "backup_source"),
        (json!({"rhythm": "every 1h"}), "kind"),
    ] {
        let refused = server.put_json("/api/v1/schedules/x", &body).await;
        refused.refused(422, "invalid_schedule");
        assert_eq!(refused.body["field"], field, "{body}");
    }
    let long = format!("/api/v1/schedules/{}", "x".repeat(101));
    for path in [long.as_str(), "/api/v1/schedules/backup%2Fmine", "/api/v1/schedules/%20x"] {
        server.put_json(path, &good).await.refused(422, "invalid_schedule");
    }
    let of_file = "/api/v1/schedules/backup%2Fsicar";
    for refused in [
        server.delete(of_file).await,
        server.post(&format!("{of_file}/disable")).await,
        server.post(&format!("{of_file}/enable")).await,
    ] {
        refused.refused(409, "schedule_of_configuration");
    }
    assert_eq!(server.get(of_file).await.ok(200)["active"], true);
    let listed = server.get("/api/v1/schedules").await.ok(200);
    assert_eq!(listed["schedules"].as_array().unwrap().len(), 1);
    assert_eq!(listed["file"], json!(null), "no scheduler has led yet");
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

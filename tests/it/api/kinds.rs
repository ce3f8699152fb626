//! `/api/v1/kinds`, and whether each kind's schema says what its decoder does.

use proptest::prelude::*;
use relevo_jobs::JobKind;
use serde_json::{Value, json};

use super::conform::validator;
use super::server::Server;

#[tokio::test]
async fn the_kinds_are_listed_with_their_schemas() {
    let server = Server::start().await;
    let kinds = server.get("/api/v1/kinds").await.ok(200);
    let kinds = kinds["kinds"].as_array().unwrap();
    assert_eq!(kinds.len(), JobKind::ALL.len());
    for (listed, kind) in kinds.iter().zip(JobKind::ALL) {
        assert_eq!(listed["kind"], kind.as_str());
        assert_eq!(listed["queue"], relevo_jobs::policy(kind).queue);
        let schema: Value = serde_json::from_str(relevo_jobs::schema(kind)).unwrap();
        assert_eq!(listed["payload_schema"]["properties"], schema["properties"]);
    }
}

#[tokio::test]
async fn a_notify_that_reports_nothing_is_refused_when_it_is_enqueued() {
    let server = Server::start().await;
    for payload in [json!({}), json!({"channel": "ops"}), json!({"run_id": null})] {
        let job = json!({"kind": "Notify", "payload": payload});
        let answer = server.post_json("/api/v1/jobs", &job).await;
        answer.refused(422, "invalid_payload");
        let detail = answer.body["detail"].as_str().unwrap();
        assert!(detail.contains("run_id") && detail.contains("alert_id"), "{detail}");
    }
    server
        .post_json("/api/v1/jobs", &json!({"kind": "Notify"}))
        .await
        .refused(422, "invalid_payload");
}

/// A value that some field might take, or might not.
fn value() -> impl Strategy<Value = Value> {
    prop_oneof![
        4 => any::<i16>().prop_map(|n| json!(n)),
        2 => any::<i64>().prop_map(|n| json!(n)),
        1 => any::<u64>().prop_map(|n| json!(n)),
        1 => Just(json!(4_294_967_295_u64)),
        1 => Just(json!(4_294_967_296_u64)),
        1 => Just(json!(2_147_483_648_i64)),
        1 => Just(json!(-2_147_483_649_i64)),
        1 => Just(Value::Null),
        1 => any::<bool>().prop_map(|b| json!(b)),
        1 => Just(json!(1.5)),
        1 => Just(json!([])),
        1 => Just(json!({})),
        3 => prop::sample::select(vec![
            "auto", "webhook", "sync", "retry", "once", "fatal", "panic", "Auto", "", "1",
        ]).prop_map(|word| json!(word)),
    ]
}

fn kind() -> impl Strategy<Value = JobKind> {
    prop::sample::select(JobKind::ALL.to_vec())
}

/// Whether a number is one that `format: int64` cannot bound for a validator.
fn beyond_int64(value: &Value) -> bool {
    value.is_u64() && !value.is_i64()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(3_000))]

    #[test]
    fn schema_and_decoder_agree(
        kind in kind(),
        picks in prop::collection::vec((any::<prop::sample::Index>(), value()), 0..5),
        complete in any::<bool>(),
        stranger in prop::option::weighted(0.1, value()),
    ) {
        let schema: Value = serde_json::from_str(relevo_jobs::schema(kind)).unwrap();
        let names: Vec<&String> = schema["properties"].as_object().unwrap().keys().collect();
        let mut payload = serde_json::Map::new();
        if complete {
            for name in schema["required"].as_array().into_iter().flatten() {
                payload.insert(name.as_str().unwrap().to_owned(), json!(7));
            }
        }
        for (index, value) in picks {
            payload.insert((*index.get(&names)).clone(), value);
        }
        if let Some(value) = stranger {
            payload.insert("stranger".to_owned(), value);
        }
        prop_assume!(!payload.values().any(beyond_int64));
        let payload = Value::Object(payload);
        let described = validator(&schema).is_valid(&payload);
        let decoded = relevo_jobs::validate(kind, &payload.to_string());
        prop_assert_eq!(described, decoded.is_ok(), "{} {}: {:?}", kind, payload, decoded);
    }

    #[test]
    fn what_is_no_object_is_none(kind in kind(), value in value()) {
        prop_assume!(!value.is_object());
        let schema: Value = serde_json::from_str(relevo_jobs::schema(kind)).unwrap();
        prop_assert!(!validator(&schema).is_valid(&value));
        prop_assert!(relevo_jobs::validate(kind, &value.to_string()).is_err());
    }
}

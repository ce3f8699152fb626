//! `relevo config check`: what makes sense and what does not.

use serde_json::Value;

use super::Relevo;

const SOURCE: &str = "[backup.shop]\ngateway_url = \"https://gateway.example\"\napi_key = \"k\"\n";

fn findings<'a>(json: &'a Value, key: &str) -> Vec<(&'a str, &'a str)> {
    let all = json["findings"].as_array().unwrap().iter();
    all.filter(|finding| finding["key"] == key)
        .map(|finding| (finding["level"].as_str().unwrap(), finding["message"].as_str().unwrap()))
        .collect()
}

async fn checked(relevo: &Relevo, code: i32) -> Value {
    let answer = relevo.run(&["config", "check", "--json"]).await;
    assert_eq!(answer.code, code, "{answer:?}");
    serde_json::from_str(&answer.out).unwrap_or_else(|error| panic!("{error}: {answer:?}"))
}

#[tokio::test]
async fn what_makes_sense_can_be_used_and_says_when_it_holds() {
    let relevo = Relevo::new();
    relevo.file("relevo.toml", format!("{SOURCE}[worker]\nconcurrency = 7\n"));
    let json = checked(&relevo, 0).await;
    assert_eq!((&json["usable"], &json["findings"]), (&true.into(), &Value::Array(Vec::new())));
    let holds = |key: &str| {
        let values = json["values"].as_array().unwrap().iter();
        values.clone().find(|value| value["key"] == key).unwrap()["holds"].clone()
    };
    assert_eq!(holds("worker.concurrency"), "at once");
    assert_eq!(holds("worker.grace_seconds"), "at the next start");
    assert_eq!(holds("api.listen"), "at the next start");
    assert_eq!(holds("api.rate_limit_per_second"), "at once");
    assert_eq!(holds("backup.shop.sync_interval_hours"), "at once");
    let text = relevo.ok(&["config", "check"]).await;
    assert!(text.ends_with("The configuration can be used.\n"), "{text}");
}

#[tokio::test]
async fn everything_that_makes_no_sense_is_told_at_once() {
    let relevo = Relevo::new();
    relevo.file("a-file", "");
    relevo.file(
        "relevo.toml",
        format!(
            "{SOURCE}target_url = \"connection:warehouse\"\n\
             [schedule.one]\nrhythm = \"every now and then\"\nkind = \"Noop\"\n\
             [schedule.two]\nrhythm = \"every 1h\"\nkind = \"Nop\"\n\
             [schedule.three]\nrhythm = \"every 1h\"\nkind = \"Noop\"\npayload = \"{{\"\n\
             [backup.files]\nkind = \"folder\"\npath = \"{folder}/a-file\"\n\
             [backup.absent]\nkind = \"file\"\npath = \"{folder}/no/such.sql.gz\"\n\
             [chunk_store]\nurl = \"file://{folder}/a-file/chunks\"\n\
             [secrets]\nkeys_path = \"{folder}/keys\"\n\
             [channel.ops]\nkind = \"webhook\"\nurl = \"https://hooks.example/x\"\n\
             template = '{{\"text\": \"{{{{txt}}}} {{{{open\"}}'\n",
            folder = relevo.folder().display()
        ),
    );
    let json = checked(&relevo, 3).await;
    assert_eq!(json["usable"], false);
    for (key, level, part) in [
        ("schedule.one", "problem", "no rhythm"),
        ("schedule.two", "problem", "Nop"),
        ("schedule.three.payload", "problem", "JSON"),
        ("backup.files.path", "problem", "is not a folder"),
        ("backup.absent.path", "warning", "is not there"),
        ("chunk_store.url", "problem", "is a file"),
        ("backup.shop.target_url", "note", "relevo connection test warehouse"),
        ("secrets.keys_path", "warning", "copy the key file"),
        ("channel.ops.template", "warning", "did you mean text?"),
        ("channel.ops.template", "warning", "never closed"),
    ] {
        let found = findings(&json, key);
        let fits = found.iter().any(|(l, message)| *l == level && message.contains(part));
        assert!(fits, "{key} {level} {part}: {found:?}");
    }
    let path = findings(&json, "backup.files.path").len();
    assert_eq!(path, 1, "each thing is said once");
    let origin = json["findings"].as_array().unwrap().iter();
    let origin = origin.clone().find(|finding| finding["key"] == "backup.files.path").unwrap();
    assert!(origin["origin"].as_str().unwrap().contains("relevo.toml:"), "{origin}");
    relevo
        .refuses(&["config", "check"], 3, &["not usable", "schedule.two", "did you mean text?"])
        .await;
}

#[tokio::test]
async fn what_cannot_be_read_is_a_document_too() {
    let relevo = Relevo::new();
    relevo.file("relevo.toml", "[worker]\nconcurency = 4\n[backup.x]\ntimezone = \"Mars\"\n");
    let json = checked(&relevo, 3).await;
    let found = findings(&json, "worker.concurency");
    assert!(found[0].1.contains("did you mean concurrency"), "{found:?}");
    assert!(findings(&json, "backup.x.timezone")[0].1.contains("not a time zone"), "{json}");
    assert_eq!(json["usable"], false);
}

#[tokio::test]
async fn a_connection_of_the_file_must_fit() {
    let relevo = Relevo::new();
    let text = format!(
        "{SOURCE}target_url = \"connection:mail\"\n\
         [connection.mail]\nkind = \"webhook\"\nurl = \"https://hooks.example/geheim\"\n"
    );
    relevo.file("relevo.toml", &text);
    let text = relevo.refuses(&["config", "check"], 3, &["backup.shop.target_url", "postgres"]);
    assert!(!text.await.contains("geheim"));
    relevo.file("relevo.toml", format!("{SOURCE}target_url = \"connection:No Name\"\n"));
    relevo.refuses(&["config", "check"], 3, &["backup.shop.target_url", "1 to 40"]).await;
}

//! `relevo init` and `relevo demo`, as somebody uses them who begins.

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use relevo_tests::{TestDatabase, free_port};
use serde_json::Value;

use crate::cli::Relevo;

fn mode_of(path: &Path) -> u32 {
    std::fs::metadata(path).unwrap().permissions().mode() & 0o777
}

/// The values in force with a file, by key.
async fn in_force(relevo: &Relevo, file: &str) -> impl Fn(&str) -> Option<String> + use<> {
    let checked = relevo.json(&["--config", file, "config", "check"]).await;
    assert_eq!(checked["usable"], true, "{checked}");
    move |key| {
        let values = checked["values"].as_array().unwrap().iter();
        let value = values.into_iter().find(|value| value["key"] == key)?;
        value["value"].as_str().map(str::to_owned)
    }
}

#[tokio::test]
async fn init_writes_what_flags_say_and_services_start_with_it() {
    let (control, target) = (TestDatabase::empty().await, TestDatabase::empty().await);
    let relevo = Relevo::new();
    let dumps = relevo.folder().join("dumps");
    std::fs::create_dir(&dumps).unwrap();
    let listen = format!("127.0.0.1:{}", free_port());
    let flags = [
        "init",
        "--yes",
        // The tests' server would not survive a loss of power, and is found wanting.
        "--force",
        "--database-url",
        control.url(),
        "--listen",
        &listen,
        "--source",
        "shop",
        "--folder",
        dumps.to_str().unwrap(),
        "--target-url",
        target.url(),
        "--every-hours",
        "6",
        "--timezone",
        "America/Mexico_City",
    ];
    let told = relevo.ok(&flags).await;
    assert!(told.contains("relevo backup run --source shop --wait"), "{told}");
    let file = relevo.folder().join("relevo.toml");
    assert_eq!(mode_of(&file), 0o600, "it may hold secrets");
    let value = in_force(&relevo, "relevo.toml").await;
    assert_eq!(value("api.listen"), Some(listen));
    assert_eq!(value("backup.shop.kind").as_deref(), Some("folder"));
    assert_eq!(value("backup.shop.sync_interval_hours").as_deref(), Some("6"));
    assert_eq!(value("backup.shop.timezone").as_deref(), Some("America/Mexico_City"));
    relevo.ok(&["migrate"]).await;
    relevo.ok(&["job", "enqueue", "Noop"]).await;

    // What is there stays, unless it is to go.
    let before = std::fs::read(&file).unwrap();
    relevo.refuses(&["init", "--yes"], 3, &["there already", "--force"]).await;
    assert_eq!(std::fs::read(&file).unwrap(), before);
    relevo.ok(&["init", "--yes", "--force", "--no-test"]).await;
    assert_eq!(in_force(&relevo, "relevo.toml").await("database.url"), None);
}

#[tokio::test]
async fn init_writes_nothing_while_something_does_not_work() {
    let relevo = Relevo::new();
    let nobody = format!("postgres://relevo@127.0.0.1:{}/relevo", free_port());
    let flags = ["init", "--yes", "--database-url", &nobody];
    relevo.refuses(&flags, 1, &["nothing was written", "--force"]).await;
    let flags = ["init", "--yes", "--source", "shop", "--gateway-url", "nowhere"];
    relevo.refuses(&flags, 3, &["no configuration", "gateway_url"]).await;
    let left: Vec<_> = std::fs::read_dir(relevo.folder()).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
    relevo.ok(&["init", "--yes", "--force", "--database-url", &nobody]).await;
    assert!(in_force(&relevo, "relevo.toml").await("database.url").is_some());
}

#[tokio::test]
async fn init_asks_again_what_makes_no_sense_and_keeps_variables() {
    let (control, target) = (TestDatabase::empty().await, TestDatabase::empty().await);
    let url = url::Url::parse(control.url()).unwrap();
    let named =
        format!("postgres://{}@127.0.0.1:{}/${{CONTROL}}", url.username(), url.port().unwrap());
    let relevo = Relevo::new().env("CONTROL", control.name()).env("SHOP_KEY", "not-shown-4711");
    let answers = [
        "mysql://localhost/shop", // no Postgres
        &named,
        &format!("127.0.0.1:{}", free_port()),
        "", // no public URL
        "shop",
        "https://127.0.0.1:1",
        "${SHOP_KEY}",
        "-", // cannot be left out
        target.url(),
        "",     // public
        "1000", // hours
        "24",
        "Nowhere/Else",
        "America/Mexico_City",
        "n", // nobody answers at that gateway: answer again?
        "y", // write all the same
    ];
    let answer = relevo.run_with(&["init"], (answers.join("\n") + "\n").as_bytes()).await;
    assert_eq!(answer.code, 0, "{answer:?}");
    for told in ["it should begin with postgres://", "cannot be left out", "from 1 to 168"] {
        assert!(answer.err.contains(told), "{told}: {}", answer.err);
    }
    let written = std::fs::read_to_string(relevo.folder().join("relevo.toml")).unwrap();
    assert!(written.contains(&named) && written.contains("${SHOP_KEY}"), "{written}");
    let value = in_force(&relevo, "relevo.toml").await;
    assert_eq!(value("backup.shop.sync_interval_hours").as_deref(), Some("24"));

    // The answers end before the questions.
    let answer = relevo.run_with(&["init", "other.toml"], b"-\n").await;
    assert_eq!(answer.code, 2, "{answer:?}");
    assert!(!relevo.folder().join("other.toml").exists());
}

#[tokio::test]
async fn the_demo_loads_its_dump_and_leaves_nothing() {
    let relevo = Relevo::new();
    // The own server's user must be able to come by.
    std::fs::set_permissions(relevo.folder(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let folder = relevo.folder().to_str().unwrap().to_owned();
    // Somebody's own settings are none of the demo's business.
    let nobody = format!("postgres://relevo@127.0.0.1:{}/relevo", free_port());
    let relevo = relevo.env("TMPDIR", folder).env("RELEVO_DATABASE_URL", nobody);
    let listen = format!("127.0.0.1:{}", free_port());
    let run: Value = relevo.json(&["demo", "--exit", "--listen", &listen]).await;
    assert_eq!(run["state"], "succeeded", "{run}");
    assert!(run["certificate"].is_object(), "{run}");
    let left: Vec<_> = std::fs::read_dir(relevo.folder()).unwrap().collect();
    assert!(left.is_empty(), "{left:?}");
}

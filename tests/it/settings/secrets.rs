//! Secrets in the configuration: where they come from, and that none is shown.

use secrecy::ExposeSecret as _;

use super::{TUNNEL, World, explained};

#[test]
fn references_to_the_environment() {
    let text = "[database]\nurl = 'postgres://u:${DB_PASSWORD}@${DB_HOST:-localhost}/q'\n\
                max_connections = '${CONNECTIONS}'\n[worker]\nqueues = ['${QUEUE}', 'b']\n";
    let world = World::file(text).and([("DB_PASSWORD", "pw"), ("CONNECTIONS", "7")]);
    let message = world.refusal();
    assert!(message.contains("QUEUE is not set"), "{message}");
    let settings = world.and([("QUEUE", "a")]).settings();
    assert_eq!(settings.database.url.unwrap().expose_secret(), "postgres://u:pw@localhost/q");
    assert_eq!(settings.database.max_connections, 7);
    assert_eq!(settings.worker.queues, ["a", "b"]);
}

#[test]
fn secrets_from_files() {
    let world = World::file("[database]\nurl_file = 'secrets/db'\n");
    let folder = world.path().unwrap().with_file_name("secrets");
    std::fs::create_dir(&folder).unwrap();
    let message = world.refusal();
    assert!(message.contains("database.url_file") && message.contains("cannot read"), "{message}");
    std::fs::write(folder.join("db"), "\n").unwrap();
    assert!(world.refusal().contains("is empty"));
    std::fs::write(folder.join("db"), "postgres://u:pw@db/q\n").unwrap();
    let loaded = world.load();
    let url = loaded.settings.database.url.as_ref().unwrap();
    assert_eq!(url.expose_secret(), "postgres://u:pw@db/q");
    let origin = explained(&loaded, "database.url").origin.to_string();
    assert!(origin.contains("secrets/db") && origin.contains("relevo.toml:2"), "{origin}");

    let path = folder.join("key");
    std::fs::write(&path, "key-2\r\n").unwrap();
    let path = path.to_str().unwrap();
    for name in ["TUNNEL_API_KEY_FILE", "RELEVO_BACKUP_SICAR_API_KEY_FILE"] {
        let world = World::env([TUNNEL[0], (name, path)]);
        assert_eq!(world.settings().backup["sicar"].api_key.expose_secret(), "key-2", "{name}");
    }
    let message = World::env(TUNNEL).and([("TUNNEL_API_KEY_FILE", path)]).refusal();
    assert!(message.contains("TUNNEL_API_KEY and TUNNEL_API_KEY_FILE are both set"), "{message}");
    let twice = World::file("[notify]\nwebhook_url = 'https://h/x'\nwebhook_url_file = 'y'\n");
    std::fs::write(twice.path().unwrap().with_file_name("y"), "https://h/z").unwrap();
    assert!(twice.refusal().contains("is given twice"));
}

#[test]
fn secrets_are_never_shown() {
    let world = World::file(
        "[database]\nurl = 'postgres://u:p4ss@db/q?sslpassword=p4ss'\n\
         [notify]\nwebhook_url = 'https://hooks.example.com/p4ss'\n",
    )
    .and([TUNNEL[0], ("TUNNEL_API_KEY", "p4ss"), ("DATABASE_URL", "postgres://u:p4ss@db/t")]);
    let loaded = world.load();
    assert!(!format!("{loaded:?} {:?}", loaded.settings).contains("p4ss"));
    let lines = loaded.explain();
    assert!(!format!("{lines:?}").contains("p4ss"));
    // What helps and hurts nobody is shown.
    let line = explained(&loaded, "database.url");
    assert_eq!(line.value.as_deref(), Some("postgres://u:***@db/q"));
    assert_eq!(explained(&loaded, "backup.sicar.api_key").value.as_deref(), Some("***"));
    let absent = explained(&loaded, "api.public_url");
    assert!(absent.value.is_none() && absent.note.is_some());

    // The parser's own message would quote the line.
    let broken = World::file("[database]\nurl = 'postgres://u:p4ss@db/q\n").refusal();
    assert!(broken.contains(":2: this is not valid TOML"), "{broken}");
    assert!(!broken.contains("p4ss"), "{broken}");
}

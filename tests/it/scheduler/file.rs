//! Schedules of the configuration file, taken up without a restart.

use std::path::{Path, PathBuf};

use relevo_runs::schedules::{self, FileState};
use relevo_tests::{Process, TestDatabase, free_port, wait_for};
use rustix::process::{Pid, Signal, kill_process};
use sqlx::PgPool;
use tempfile::TempDir;

use super::{LONG, MissedRuns, Origin, fires, noop, put, wait_leader};

struct World {
    folder: TempDir,
    database: TestDatabase,
    metrics_port: u16,
}

impl World {
    async fn new(file: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let world = Self { folder, database: TestDatabase::new().await, metrics_port: free_port() };
        world.write(file);
        world
    }

    fn pool(&self) -> &PgPool {
        self.database.pool()
    }

    fn path(&self) -> PathBuf {
        self.folder.path().join("relevo.toml")
    }

    /// Replaces the file as an editor does: whole, under its name.
    fn write(&self, text: &str) {
        let unfinished = self.folder.path().join("relevo.toml.new");
        std::fs::write(&unfinished, text).unwrap();
        std::fs::rename(&unfinished, self.path()).unwrap();
    }

    async fn scheduler(&self) -> Process {
        let process = Process::builder("relevo")
            .arg("--config")
            .arg(self.path())
            .args(["scheduler", "--listen"])
            .arg(format!("127.0.0.1:{}", self.metrics_port))
            .env("RELEVO_DATABASE_URL", self.database.url())
            .env("RELEVO_SCHEDULER_LEASE_SECONDS", "3")
            .spawn();
        wait_leader(self.pool(), LONG, 0).await;
        process
    }

    /// Waits until the active schedules are these, each with its rhythm.
    async fn active(&self, expected: &[(&str, &str)]) {
        wait_for(&format!("the schedules {expected:?}"), LONG, async || {
            let listed = schedules::list(self.pool(), None).await.unwrap();
            let active: Vec<(&str, &str)> = listed
                .iter()
                .filter(|schedule| schedule.active)
                .map(|schedule| (schedule.name.as_str(), schedule.rhythm.as_str()))
                .collect();
            (active == expected).then_some(())
        })
        .await;
    }

    async fn state(&self, is: impl Fn(&FileState) -> bool) -> FileState {
        wait_for("what the leader says of its file", LONG, async || {
            schedules::file_state(self.pool()).await.unwrap().filter(&is)
        })
        .await
    }

    async fn metric(&self) -> String {
        let url = format!("http://127.0.0.1:{}/metrics", self.metrics_port);
        let text = reqwest::get(&url).await.unwrap().text().await.unwrap();
        let line = text.lines().find(|line| line.starts_with("relevo_schedule_file_valid "));
        line.unwrap().to_owned()
    }

    fn list(&self) -> std::process::Output {
        relevo_tests::clean_command("relevo")
            .arg("--config")
            .arg(self.path())
            .args(["schedule", "list"])
            .env("RELEVO_DATABASE_URL", self.database.url())
            .output()
            .unwrap()
    }
}

async fn ends(process: Process) {
    process.terminate();
    assert!(process.wait_exit(LONG).await.success(), "{}", process.output());
}

const PULSE: &str = "[schedule.pulse]\nrhythm = \"every 1s\"\nkind = \"Noop\"\n";
const NIGHTLY: &str = "[schedule.nightly]\nrhythm = \"cron 30 2 * * *\"\nkind = \"Noop\"\n\
                       timezone = \"Europe/Madrid\"\n";

#[tokio::test]
async fn a_changed_file_is_taken_up_and_one_that_makes_no_sense_changes_nothing() {
    let world = World::new(PULSE).await;
    let process = world.scheduler().await;
    world.active(&[("pulse", "every 1s")]).await;
    wait_for("slots", LONG, async || (fires(world.pool()).await > 1).then_some(())).await;
    assert_eq!(world.metric().await, "relevo_schedule_file_valid 1");

    world.write(&format!("{PULSE}{NIGHTLY}"));
    world.active(&[("nightly", "cron 30 2 * * *"), ("pulse", "every 1s")]).await;

    // A rhythm that is none, a key that is none, a file that is none: nothing changes.
    for (text, part) in [
        (PULSE.replace("every 1s", "every now and then"), "no rhythm"),
        (format!("{PULSE}colour = 1\n"), "colour"),
        ("[schedule".to_owned(), "relevo.toml"),
    ] {
        world.write(&text);
        let state = world.state(|state| state.problem.as_deref().is_some_and(|p| p.contains(part)));
        let state = state.await;
        assert_eq!(state.path.as_deref().map(Path::new), Some(world.path().as_path()));
        assert!(state.problem_at.is_some());
        world.active(&[("nightly", "cron 30 2 * * *"), ("pulse", "every 1s")]).await;
    }
    assert_eq!(world.metric().await, "relevo_schedule_file_valid 0");
    assert!(process.output().contains("makes no sense"), "{}", process.output());
    let had = fires(world.pool()).await;
    wait_for("slots go on", LONG, async || (fires(world.pool()).await > had).then_some(())).await;

    world.write(NIGHTLY);
    world.active(&[("nightly", "cron 30 2 * * *")]).await;
    world.state(|state| state.problem.is_none()).await;
    assert_eq!(world.metric().await, "relevo_schedule_file_valid 1");
    ends(process).await;
}

#[tokio::test]
async fn the_list_says_when_the_file_is_not_in_force() {
    let world = World::new(NIGHTLY).await;
    let process = world.scheduler().await;
    world.active(&[("nightly", "cron 30 2 * * *")]).await;
    let quiet = world.list();
    assert!(quiet.status.success() && quiet.stderr.is_empty(), "{quiet:?}");

    // Gone: what was read stays in force. The command reads another file, that makes sense.
    std::fs::remove_file(world.path()).unwrap();
    world.state(|state| state.problem.is_some()).await;
    let elsewhere = relevo_tests::clean_command("relevo")
        .args(["schedule", "list"])
        .current_dir(world.folder.path())
        .env("RELEVO_DATABASE_URL", world.database.url())
        .output()
        .unwrap();
    let warned = String::from_utf8(elsewhere.stderr).unwrap();
    assert!(elsewhere.status.success() && warned.contains("not in force"), "{warned}");
    assert!(String::from_utf8(elsewhere.stdout).unwrap().contains("nightly"));
    world.write(NIGHTLY);
    world.state(|state| state.problem.is_none()).await;
    ends(process).await;
}

#[tokio::test]
async fn sighup_reads_the_file_at_once_and_a_name_of_an_operator_is_told() {
    let world = World::new("").await;
    put(world.pool(), &noop("nightly", "0 6 * * *", MissedRuns::Once), Origin::Operator).await;
    let process = world.scheduler().await;
    let first = world.state(|_| true).await;
    assert_eq!(first.problem, None);

    let pid = Pid::from_raw(i32::try_from(process.id()).unwrap()).unwrap();
    kill_process(pid, Signal::HUP).unwrap();
    // Unchanged on disk, and read again all the same.
    world.state(|state| state.loaded_at > first.loaded_at).await;

    world.write(NIGHTLY);
    let told = world.state(|state| state.problem.is_some()).await;
    assert!(told.problem.unwrap().contains("nightly"));
    world.active(&[("nightly", "cron 0 6 * * *")]).await;
    ends(process).await;
}

#[test]
fn a_schedule_that_makes_no_sense_keeps_a_scheduler_from_starting() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("relevo.toml");
    std::fs::write(&path, PULSE.replace("Noop", "Nop")).unwrap();
    let refused = relevo_tests::clean_command("relevo")
        .arg("--config")
        .arg(&path)
        .args(["config", "check"])
        .output()
        .unwrap();
    let text = String::from_utf8(refused.stderr).unwrap();
    assert_eq!(refused.status.code(), Some(3), "{text}");
    assert!(text.contains("schedule.pulse") && text.contains("Noop"), "{text}");
}

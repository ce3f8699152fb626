//! Every command explains itself, and the documentation knows it.

use std::path::Path;

use super::Relevo;

/// Names below "Commands:" of a help text.
fn commands(help: &str) -> Vec<String> {
    help.lines()
        .skip_while(|line| *line != "Commands:")
        .skip(1)
        .take_while(|line| line.starts_with("  "))
        .filter(|line| !line.starts_with("    "))
        .filter_map(|line| line.split_whitespace().next())
        .filter(|name| *name != "help")
        .map(str::to_owned)
        .collect()
}

#[tokio::test]
async fn every_command_has_help_with_an_example_and_stands_in_the_documentation() {
    let relevo = Relevo::new();
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let documentation = std::fs::read_to_string(root.join("docs/cli.md")).unwrap();
    let mut open: Vec<Vec<String>> = vec![Vec::new()];
    let mut leaves = 0;
    while let Some(path) = open.pop() {
        let mut args: Vec<&str> = path.iter().map(String::as_str).collect();
        args.push("--help");
        let help = relevo.ok(&args).await;
        assert!(help.contains("Usage: relevo"), "{args:?}: {help}");
        let below = commands(&help);
        if below.is_empty() {
            leaves += 1;
            assert!(help.contains("Example"), "{args:?} has no example: {help}");
            let name = format!("relevo {}", path.join(" "));
            assert!(documentation.contains(&name), "docs/cli.md doesn't know `{name}`");
        }
        for name in below {
            open.push(path.iter().cloned().chain([name]).collect());
        }
    }
    assert!(leaves >= 30, "only {leaves} commands were found");
}

#[tokio::test]
async fn the_exit_codes_of_the_help_are_those_of_the_documentation() {
    let relevo = Relevo::new();
    let help = relevo.ok(&["--help"]).await;
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
    let documentation = std::fs::read_to_string(root.join("docs/cli.md")).unwrap();
    let codes: Vec<&str> = help
        .lines()
        .skip_while(|line| *line != "Exit codes:")
        .skip(1)
        .take_while(|line| line.starts_with("  "))
        .filter_map(|line| line.split_whitespace().next())
        .collect();
    assert_eq!(codes, ["0", "1", "2", "3", "4", "5", "6", "130"]);
    for code in codes {
        assert!(documentation.contains(&format!("| {code} |")), "docs/cli.md lacks code {code}");
    }
}

#[tokio::test]
async fn version_and_usage_errors() {
    let relevo = Relevo::new();
    assert!(relevo.ok(&["--version"]).await.starts_with("relevo "));
    for args in [
        &["frobnicate"][..],
        &["job"],
        &["job", "list", "--limit", "0"],
        &["job", "show", "eleven"],
        &["run", "show"],
        &["dump", "import"],
        &["backup", "run", "--source", "sicar", "--mode", "telepathy"],
        &["worker", "--concurrency", "0"],
    ] {
        let answer = relevo.run(args).await;
        assert_eq!(answer.code, 2, "{args:?}: {answer:?}");
        assert!(answer.out.is_empty(), "{args:?}: {answer:?}");
        assert!(answer.err.contains("Usage") || answer.err.contains("error"), "{answer:?}");
    }
}

//! `examples/*.toml`: each is loaded as its user would.

use relevo_tests::clean_command;

use super::{names, root, text};

#[test]
fn every_example_makes_sense() {
    let examples = names("examples", ".toml");
    assert!(examples.len() >= 4, "{examples:?}");
    for name in examples {
        let path = format!("examples/{name}.toml");
        let file = text(&path);
        let mut command = clean_command("relevo");
        command.args(["config", "check", "--json", "--config"]).arg(root().join(&path));
        // What it leaves to the environment.
        for reference in file.split("${").skip(1) {
            let variable = reference.split('}').next().unwrap();
            command.env(variable, "0123456789abcdef");
        }
        let output = command.output().unwrap();
        let told = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{path}: {told}");
        assert!(file.starts_with("# "), "{path} does not say whom it is for");
        let listed = text("examples/README.md");
        assert!(listed.contains(&format!("{name}.toml")), "examples/README.md lacks {name}");
    }
}

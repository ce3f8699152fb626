//! `relevo config check`: what is in force, where it comes from, and whether it makes sense.

use std::path::{Path, PathBuf};

use relevo_settings::{Loaded, Problem, SettingsError};
use serde::Serialize;

use crate::control;
use crate::failure::{Advise as _, Exit, Failure};
use crate::output::{Output, clean};
use crate::sense::{self, Finding, Level};

/// The document of `relevo config check --json`.
#[derive(Serialize)]
struct Document {
    /// Whether Relevo would start with it.
    usable: bool,
    file: Option<PathBuf>,
    /// The worst first.
    findings: Vec<Finding>,
    values: Vec<Value>,
    unknown_variables: Vec<Unknown>,
}

/// One key.
#[derive(Serialize)]
struct Value {
    key: String,
    /// Masked where it is a secret; none when the key is not set.
    value: Option<String>,
    origin: String,
    note: Option<&'static str>,
    /// Whether a running process takes up a change at once, or at its next start.
    holds: &'static str,
}

/// A variable that looks like ours and means nothing.
#[derive(Serialize)]
struct Unknown {
    name: String,
    did_you_mean: Option<String>,
}

/// Runs it.
pub fn check(config: Option<&Path>, out: Output) -> Result<(), Failure> {
    let loaded = match control::read(config) {
        Ok(loaded) => loaded,
        Err(error) => {
            if let (SettingsError::Invalid(problems), true) = (&error, out.is_json()) {
                out.document(&refused(problems), String::new)?;
            }
            return Err(control::unreadable(error));
        }
    };
    let document = document(loaded);
    if document.usable {
        return out.document(&document, || text(&document));
    }
    if out.is_json() {
        out.document(&document, String::new)?;
    }
    let said: String = document.findings.iter().map(|finding| format!("\n  {finding}")).collect();
    let message = format!("the configuration is not usable:{said}");
    Err(Failure::new(Exit::Configuration, message))
        .advise("correct it; docs/configuration.md and docs/scheduling.md tell what can be written")
}

fn refused(problems: &[Problem]) -> Document {
    let finding = |problem: &Problem| Finding {
        key: problem.key.clone(),
        origin: problem.origin.as_ref().map(ToString::to_string),
        level: Level::Problem,
        message: problem.message.clone(),
    };
    Document {
        usable: false,
        file: None,
        findings: problems.iter().map(finding).collect(),
        values: Vec::new(),
        unknown_variables: Vec::new(),
    }
}

fn document(loaded: Loaded) -> Document {
    let values: Vec<Value> = loaded
        .explain()
        .into_iter()
        .map(|explained| Value {
            key: explained.key,
            value: explained.value,
            origin: explained.origin.to_string(),
            note: explained.note,
            holds: if explained.holds_at_once { "at once" } else { "at the next start" },
        })
        .collect();
    let unknown_variables = control::unknown_variables(&loaded)
        .into_iter()
        .map(|(name, did_you_mean)| Unknown { name, did_you_mean })
        .collect();
    let mut findings = sense::findings(&loaded.settings);
    for finding in &mut findings {
        let value = values.iter().find(|value| value.key == finding.key);
        finding.origin = value.map(|value| value.origin.clone());
    }
    findings.sort_by_key(|finding| std::cmp::Reverse(finding.level as u8));
    let usable = findings.iter().all(|finding| finding.level != Level::Problem);
    Document { usable, file: loaded.file, findings, values, unknown_variables }
}

fn text(document: &Document) -> String {
    let file = document.file.as_ref().map_or_else(
        || "no configuration file; environment and defaults are in force".to_owned(),
        |path| format!("configuration file {}", path.display()),
    );
    let assigned: Vec<(String, &Value)> = document
        .values
        .iter()
        .map(|value| {
            let shown = match &value.value {
                Some(text) => clean(text).replace('\n', " "),
                None => "(not set)".to_owned(),
            };
            (format!("{} = {shown}", value.key), value)
        })
        .collect();
    let width = assigned.iter().map(|(text, _)| text.chars().count()).max().unwrap_or(0).min(60);
    let mut out = format!("{file}\n\n");
    for (assignment, value) in assigned {
        let note = value.note.map(|note| format!("; {note}")).unwrap_or_default();
        out.push_str(&format!("{assignment:width$}  # {}{note}\n", value.origin));
    }
    out.push('\n');
    for finding in &document.findings {
        out.push_str(&format!("{finding}\n"));
    }
    let is_warning = |finding: &&Finding| finding.level == Level::Warning;
    let warnings = match document.findings.iter().filter(is_warning).count() {
        0 => String::new(),
        count => format!(", with {count} warning(s)"),
    };
    out.push_str(&format!("The configuration can be used{warnings}.\n"));
    out
}

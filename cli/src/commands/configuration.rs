//! `relevo config check`: what is in force and where it comes from.

use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::control;
use crate::failure::Failure;
use crate::output::{Output, clean};

/// The document of `relevo config check --json`.
#[derive(Serialize)]
struct Document {
    file: Option<PathBuf>,
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
}

/// A variable that looks like ours and means nothing.
#[derive(Serialize)]
struct Unknown {
    name: String,
    did_you_mean: Option<String>,
}

/// Runs it.
pub fn check(config: Option<&Path>, out: Output) -> Result<(), Failure> {
    let loaded = control::load(config)?;
    control::check_schedules(&loaded.settings)?;
    let values = loaded
        .explain()
        .into_iter()
        .map(|explained| Value {
            key: explained.key,
            value: explained.value,
            origin: explained.origin.to_string(),
            note: explained.note,
        })
        .collect();
    let unknown_variables = control::unknown_variables(&loaded)
        .into_iter()
        .map(|(name, did_you_mean)| Unknown { name, did_you_mean })
        .collect();
    let document = Document { file: loaded.file, values, unknown_variables };
    out.document(&document, || text(&document))
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
    out.push_str("\nThe configuration can be used.\n");
    out
}

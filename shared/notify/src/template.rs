//! A webhook's own JSON: `{{name}}` in its texts stands for a value of the usual message.

use serde_json::Value;

/// Fills a template. A text that is one reference and nothing else becomes the value itself, so that
/// numbers stay numbers; within a longer text the value is written out. Values are put into texts
/// that are parsed already, so none of them can change the template's shape.
pub(crate) fn fill(template: &str, values: &Value) -> Result<Value, serde_json::Error> {
    let mut filled = serde_json::from_str(template)?;
    fill_in(&mut filled, values);
    Ok(filled)
}

fn fill_in(part: &mut Value, values: &Value) {
    match part {
        Value::String(text) => {
            if let Some(filled) = filled(text, values) {
                *part = filled;
            }
        }
        Value::Array(parts) => parts.iter_mut().for_each(|part| fill_in(part, values)),
        Value::Object(parts) => parts.values_mut().for_each(|part| fill_in(part, values)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

fn filled(text: &str, values: &Value) -> Option<Value> {
    let whole = text.strip_prefix("{{").and_then(|rest| rest.strip_suffix("}}"));
    if let Some(name) = whole.filter(|name| !name.contains("{{")) {
        return Some(value(values, name).clone());
    }
    if !text.contains("{{") {
        return None;
    }
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once("{{") {
        out.push_str(before);
        let Some((name, tail)) = after.split_once("}}") else {
            out.push_str("{{");
            rest = after;
            continue;
        };
        match value(values, name) {
            Value::Null => {}
            Value::String(text) => out.push_str(text),
            other => out.push_str(&other.to_string()),
        }
        rest = tail;
    }
    out.push_str(rest);
    Some(Value::String(out))
}

/// The values that messages have; those of a run first, then those of an alert, then of both.
pub(crate) const NAMES: [&str; 25] = [
    "run_id",
    "pipeline",
    "source",
    "trigger",
    "created_at",
    "started_at",
    "finished_at",
    "duration_seconds",
    "stats",
    "error",
    "email",
    "alert",
    "alert_id",
    "key",
    "rule",
    "subject",
    "level",
    "details",
    "opened_at",
    "last_seen_at",
    "resolved_at",
    "event",
    "state",
    "text",
    "channel",
];

/// The names in a template that no message has, each with the one that was probably meant.
#[must_use]
pub fn unknown_names(template: &str) -> Vec<(String, Option<&'static str>)> {
    let mut unknown = Vec::new();
    for piece in template.split("{{").skip(1) {
        let Some((name, _)) = piece.split_once("}}") else { continue };
        let first = name.trim().split('.').next().unwrap_or_default();
        if !NAMES.contains(&first) {
            let likeness = |known: &str| strsim::jaro_winkler(first, known);
            let nearest = NAMES.into_iter().max_by(|a, b| likeness(a).total_cmp(&likeness(b)));
            unknown.push((name.to_owned(), nearest.filter(|known| likeness(known) >= 0.75)));
        }
    }
    unknown
}

/// What follows a `{{` that is never closed.
#[must_use]
pub fn unclosed_name(template: &str) -> Option<String> {
    let last = template.split("{{").skip(1).find(|piece| !piece.contains("}}"))?;
    Some(last.chars().take(40).collect())
}

/// The value of a name such as `stats.rows`; null where there is none.
fn value<'a>(values: &'a Value, name: &str) -> &'a Value {
    name.trim().split('.').fold(values, |value, part| &value[part])
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn references_become_values() {
        let values = json!({"text": "a \"quoted\" end", "stats": {"rows": 12}, "none": null});
        let template = r#"{"content": "Relevo: {{text}} ({{ stats.rows }} rows)", "n": "{{stats.rows}}",
            "list": ["{{none}}", "{{stranger.x}}", 1, "plain", "{{open"]}"#;
        assert_eq!(
            fill(template, &values).expect("is JSON"),
            json!({
                "content": "Relevo: a \"quoted\" end (12 rows)",
                "n": 12,
                "list": [null, null, 1, "plain", "{{open"],
            })
        );
        assert!(fill("{", &values).is_err());
    }

    #[test]
    fn names_that_no_message_has_are_told_with_the_nearest() {
        let template = r#"{"a": "{{txt}} of {{ stats.rows }}", "b": "{{blue}}", "c": "{{text"}"#;
        let unknown = unknown_names(template);
        assert_eq!(unknown, [("txt".to_owned(), Some("text")), ("blue".to_owned(), None)]);
        assert!(unclosed_name(template).is_some_and(|text| text.starts_with("text")));
        assert_eq!(unclosed_name(r#"{"a": "{{text}}"}"#), None);
    }
}

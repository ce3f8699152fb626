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
}

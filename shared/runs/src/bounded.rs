//! Bounds on what is stored: text from other systems has no length of its own.

use serde_json::{Value, json};

/// `text` without NUL characters (Postgres stores none), cut to at most `chars_max` characters; what
/// was cut shows as an ellipsis. Empty text becomes a dash, since an empty message says nothing.
pub(crate) fn text(text: &str, chars_max: usize) -> String {
    let clean = text.replace('\0', "\u{fffd}");
    if clean.is_empty() {
        return "-".to_owned();
    }
    if clean.chars().count() <= chars_max {
        return clean;
    }
    let mut cut: String = clean.chars().take(chars_max.saturating_sub(1)).collect();
    cut.push('…');
    cut
}

/// `value` when it is a JSON object of at most `bytes_max` as text, without what jsonb refuses
/// (the escape `\u0000`); otherwise an object that says what is missing.
pub(crate) fn object(value: &Value, bytes_max: usize) -> Value {
    let text = value.to_string();
    if !value.is_object() {
        return json!({"not_stored": "not an object"});
    }
    if text.len() > bytes_max {
        return json!({"not_stored": "too large", "size_bytes": text.len()});
    }
    if text.contains("\\u0000") {
        return json!({"not_stored": "contains a NUL character"});
    }
    value.clone()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_cut_by_characters() {
        assert_eq!(text("año", 3), "año");
        assert_eq!(text("años", 3), "añ…");
        assert_eq!(text("", 3), "-");
        assert_eq!(text("a\0b", 9), "a\u{fffd}b");
    }

    #[test]
    fn objects_that_cannot_be_stored_say_so() {
        assert_eq!(object(&json!({"a": 1}), 100), json!({"a": 1}));
        assert_eq!(object(&json!([1]), 100)["not_stored"], "not an object");
        assert_eq!(object(&json!({"a": "x".repeat(100)}), 100)["not_stored"], "too large");
        assert!(object(&json!({"a": "\0"}), 100)["not_stored"].is_string());
    }
}

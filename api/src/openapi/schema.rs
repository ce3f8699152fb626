//! JSON Schema (2020-12), a word at a time: what bodies, parameters and answers look like.

use serde_json::{Map, Value, json};

/// Characters that no name, key or filter may hold: Unicode's control characters.
const NO_CONTROL: &str = "^[^\\u0000-\\u001f\\u007f-\\u009f]*$";

/// Any text.
pub(crate) fn string() -> Value {
    json!({"type": "string"})
}

/// Text of so many characters, none of them a control character.
pub(crate) fn text(length_min: usize, length_max: usize) -> Value {
    json!({
        "type": "string", "minLength": length_min, "maxLength": length_max, "pattern": NO_CONTROL,
    })
}

/// Text of so many characters, none of them NUL.
pub(crate) fn prose(length_min: usize, length_max: usize) -> Value {
    json!({
        "type": "string", "minLength": length_min, "maxLength": length_max,
        "pattern": "^[^\\u0000]*$",
    })
}

/// A point in time, RFC 3339.
pub(crate) fn time() -> Value {
    json!({"type": "string", "format": "date-time"})
}

/// The number of a row.
pub(crate) fn id() -> Value {
    json!({"type": "integer", "format": "int64"})
}

/// A whole number from 0.
pub(crate) fn count() -> Value {
    json!({"type": "integer", "format": "int64", "minimum": 0})
}

/// A whole number in a range, both ends included.
pub(crate) fn integer(min: i64, max: i64) -> Value {
    json!({"type": "integer", "minimum": min, "maximum": max})
}

/// True or false.
pub(crate) fn boolean() -> Value {
    json!({"type": "boolean"})
}

/// One of a few words.
pub(crate) fn word<T: AsRef<str>>(words: impl IntoIterator<Item = T>) -> Value {
    let words: Vec<Value> = words.into_iter().map(|word| json!(word.as_ref())).collect();
    json!({"type": "string", "enum": words})
}

/// One or several of a few words, with commas between.
pub(crate) fn words<T: AsRef<str>>(words: impl IntoIterator<Item = T>) -> Value {
    let words: Vec<String> = words.into_iter().map(|word| word.as_ref().to_owned()).collect();
    let any = words.join("|");
    json!({"type": "string", "pattern": format!("^({any})(,({any}))*$")})
}

/// Always this.
pub(crate) fn constant(value: impl Into<Value>) -> Value {
    json!({"const": value.into()})
}

/// A list.
#[expect(clippy::needless_pass_by_value, reason = "callers hand over a literal and keep nothing")]
pub(crate) fn array(items: Value) -> Value {
    json!({"type": "array", "items": items})
}

/// A JSON object of any shape.
pub(crate) fn any_object() -> Value {
    json!({"type": "object"})
}

/// A schema under `#/components/schemas`.
pub(crate) fn named(name: &str) -> Value {
    json!({"$ref": format!("#/components/schemas/{name}")})
}

/// The same, or null.
pub(crate) fn nullable(mut schema: Value) -> Value {
    if schema.get("type").is_none_or(Value::is_array) {
        return json!({"anyOf": [schema, {"type": "null"}]});
    }
    schema["type"] = json!([schema["type"], "null"]);
    if let Some(words) = schema.get_mut("enum").and_then(Value::as_array_mut) {
        words.push(Value::Null);
    }
    schema
}

/// The same, with a sentence about it.
pub(crate) fn described(mut schema: Value, description: &str) -> Value {
    schema["description"] = json!(description);
    schema
}

/// An object as it is answered: all these fields, no other.
pub(crate) fn object<const N: usize>(fields: [(&str, Value); N]) -> Value {
    let required: Vec<&str> = fields.iter().map(|(name, _)| *name).collect();
    let required = json!(required);
    let mut object = input([], fields);
    object["required"] = required;
    object
}

/// An object as it is taken: the first fields required, the others not, unknown ones refused.
pub(crate) fn input<const R: usize, const O: usize>(
    required: [(&str, Value); R],
    optional: [(&str, Value); O],
) -> Value {
    let names: Vec<&str> = required.iter().map(|(name, _)| *name).collect();
    let mut schema = json!({"type": "object", "additionalProperties": false});
    if !names.is_empty() {
        schema["required"] = json!(names);
    }
    let fields = required.into_iter().chain(optional);
    let properties: Map<String, Value> =
        fields.map(|(name, field)| (name.to_owned(), field)).collect();
    schema["properties"] = Value::Object(properties);
    schema
}

/// A parameter after the question mark.
#[expect(clippy::needless_pass_by_value, reason = "callers hand over a literal and keep nothing")]
pub(crate) fn query(name: &str, schema: Value, description: &str) -> Value {
    json!({
        "name": name, "in": "query", "required": false, "schema": schema,
        "description": description,
    })
}

/// A header of a request.
#[expect(clippy::needless_pass_by_value, reason = "callers hand over a literal and keep nothing")]
pub(crate) fn header(name: &str, schema: Value, description: &str) -> Value {
    json!({
        "name": name, "in": "header", "required": false, "schema": schema,
        "description": description,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_may_be_null_says_so() {
        assert_eq!(nullable(id())["type"], json!(["integer", "null"]));
        assert_eq!(nullable(word(["a"]))["enum"], json!(["a", null]));
        assert_eq!(nullable(named("Job"))["anyOf"][0], named("Job"));
    }

    #[test]
    fn objects_are_closed() {
        let schema = input([("a", id())], [("b", id())]);
        assert_eq!(schema["required"], json!(["a"]));
        assert_eq!(schema["additionalProperties"], false);
        assert_eq!(object([("a", id()), ("b", id())])["required"], json!(["a", "b"]));
    }
}

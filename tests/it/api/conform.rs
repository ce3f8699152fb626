//! Every answer that a test of the API sees is held against the API's own description.

use std::collections::HashMap;
use std::sync::{LazyLock, Mutex};

use jsonschema::Validator;
use serde_json::{Value, json};

use super::server::Answer;

/// The description.
pub static DOCUMENT: LazyLock<Value> = LazyLock::new(relevo_api::document);

/// Validators by the text of their schema: making one costs more than using it.
static VALIDATORS: LazyLock<Mutex<HashMap<String, &'static Validator>>> =
    LazyLock::new(Mutex::default);

/// A validator of a schema of the document. It lives as long as the test's process.
pub fn validator(schema: &Value) -> &'static Validator {
    let mut validators = VALIDATORS.lock().unwrap();
    validators.entry(schema.to_string()).or_insert_with(|| {
        let whole = json!({"allOf": [schema], "components": DOCUMENT["components"]});
        let validator = jsonschema::options()
            .with_draft(jsonschema::Draft::Draft202012)
            .should_validate_formats(true)
            .build(&whole)
            .unwrap_or_else(|error| panic!("{error} in {schema}"));
        Box::leak(Box::new(validator))
    })
}

/// One operation of the document.
#[derive(Debug, Clone)]
pub struct Described {
    pub method: String,
    pub path: &'static str,
    pub operation: &'static Value,
}

impl Described {
    /// The scope it needs; none when it is open.
    pub fn scope(&self) -> Option<&'static str> {
        self.operation["security"][0]["apiKey"][0].as_str()
    }
}

/// Every operation of the document.
pub fn operations() -> Vec<Described> {
    let mut operations = Vec::new();
    for (path, methods) in DOCUMENT["paths"].as_object().unwrap() {
        for (method, operation) in methods.as_object().unwrap() {
            operations.push(Described { method: method.to_uppercase(), path, operation });
        }
    }
    operations
}

/// The described path that an address belongs to; one without variable parts goes first.
fn described_path(path: &str) -> Option<&'static str> {
    let parts: Vec<&str> = path.split('/').collect();
    let mut matching: Vec<&'static str> = DOCUMENT["paths"]
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .filter(|described| {
            let described: Vec<&str> = described.split('/').collect();
            described.len() == parts.len()
                && described.iter().zip(&parts).all(|(described, part)| {
                    described == part || (described.starts_with('{') && !part.is_empty())
                })
        })
        .collect();
    matching.sort_by_key(|described| described.matches('{').count());
    matching.first().copied()
}

/// Panics unless the answer is one that the document describes.
#[track_caller]
pub fn check(method: &str, path: &str, answer: &Answer) {
    let Some(described) = described_path(path) else {
        return answer.refused(404, "route_not_found");
    };
    let operation = &DOCUMENT["paths"][described][method.to_lowercase()];
    if operation.is_null() {
        if method != "HEAD" {
            answer.refused(405, "method_not_allowed");
        }
        return;
    }
    let status = answer.status.as_u16().to_string();
    let response = &operation["responses"][&status];
    assert!(!response.is_null(), "{method} {described} answers {status} undescribed: {answer:?}");
    let Some(content) = response["content"].as_object() else {
        assert_eq!(answer.body, json!(""), "{method} {described}: {answer:?}");
        return;
    };
    let kind = answer.headers["content-type"].to_str().unwrap();
    let kind = kind.split(';').next().unwrap().trim();
    let Some(media) = content.get(kind) else {
        panic!("{method} {described} {status} answers {kind} undescribed: {answer:?}")
    };
    if kind.starts_with("text/") {
        return;
    }
    if let Err(error) = validator(&media["schema"]).validate(&answer.body) {
        panic!(
            "{method} {described} {status} is not as described: {error} at {}: {answer:?}",
            error.instance_path()
        );
    }
}

//! The OpenAPI 3.1 document, put together from the operations.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::answers;
use super::operation::{Content, Operation, Presence};

const DESCRIPTION: &str = "The durable job queue and what runs on it. Every refusal is \
    application/problem+json (RFC 9457) with a `code` that never changes its meaning. Ids are \
    numbers, times are RFC 3339. Lists come newest first; `next` is the address of the next page, \
    null on the last.";

/// The document that describes `operations`.
pub(crate) fn document(operations: &[Operation]) -> Value {
    let mut paths: BTreeMap<&str, Map<String, Value>> = BTreeMap::new();
    let mut tags: Vec<Value> = Vec::new();
    for operation in operations {
        let tag = json!({"name": operation.tag});
        if !tags.contains(&tag) {
            tags.push(tag);
        }
        let method = operation.method.as_str().to_lowercase();
        paths.entry(operation.path).or_default().insert(method, described(operation));
    }
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Relevo",
            "version": env!("CARGO_PKG_VERSION"),
            "description": DESCRIPTION,
            "license": {"name": "MIT OR Apache-2.0", "identifier": "MIT OR Apache-2.0"},
        },
        "jsonSchemaDialect": "https://json-schema.org/draft/2020-12/schema",
        "servers": [{"url": "/"}],
        "tags": tags,
        "paths": paths,
        "components": {
            "schemas": answers::components(),
            "securitySchemes": {
                "apiKey": {
                    "type": "apiKey", "in": "header", "name": "X-API-Key",
                    "description": "A key made by `relevo key create` or POST /api/v1/keys. The \
                                    role named with an operation is the scope the key needs.",
                },
                "bearer": {
                    "type": "http", "scheme": "bearer",
                    "description": "The same key as a bearer token.",
                },
            },
        },
    })
}

fn described(operation: &Operation) -> Value {
    let mut described = json!({
        "operationId": operation.id,
        "tags": [operation.tag],
        "summary": operation.summary,
        "responses": responses(operation),
        "security": operation.scope.map_or_else(
            || json!([]),
            |scope| json!([{"apiKey": [scope.as_str()]}, {"bearer": [scope.as_str()]}]),
        ),
    });
    if !operation.description.is_empty() {
        described["description"] = json!(operation.description);
    }
    if !operation.parameters.is_empty() {
        described["parameters"] = json!(operation.parameters);
    }
    if let Some((schema, presence)) = &operation.body {
        described["requestBody"] = json!({
            "required": *presence == Presence::Required,
            "content": {operation.body_kind: {"schema": schema}},
        });
    }
    described
}

fn responses(operation: &Operation) -> Value {
    let mut responses = Map::new();
    for (status, words, content) in &operation.answers {
        let mut response = json!({"description": words});
        match content {
            Content::Nothing => {}
            Content::Text(kind) => {
                response["content"] = json!({*kind: {"schema": {"type": "string"}}});
            }
            Content::Json(schema) => {
                response["content"] = json!({"application/json": {"schema": schema}});
            }
            Content::Made(schema) => {
                response["content"] = json!({"application/json": {"schema": schema}});
                response["headers"] = json!({"Location": {
                    "description": "Where to look at it.",
                    "schema": {"type": "string", "format": "uri-reference"},
                }});
            }
        }
        responses.insert(status.to_string(), response);
    }
    let mut codes: BTreeMap<u16, Vec<&str>> = BTreeMap::new();
    for (status, code) in &operation.problems {
        let codes = codes.entry(*status).or_default();
        if !codes.contains(code) {
            codes.push(code);
        }
    }
    for (status, codes) in codes {
        let schema = json!({"allOf": [
            {"$ref": "#/components/schemas/Problem"},
            {"properties": {"status": {"const": status}, "code": {"enum": codes}}},
        ]});
        let mut problem = json!({
            "description": codes.join(", "),
            "content": {"application/problem+json": {"schema": schema}},
        });
        if status == 429 || status == 503 {
            problem["headers"] = json!({"Retry-After": {
                "description": "Come again after so many seconds.",
                "schema": {"type": "integer", "minimum": 1},
            }});
        }
        // A status that is an answer too (readiness) keeps its own content beside the problem's.
        match responses.get_mut(&status.to_string()) {
            Some(answer) => {
                answer["content"]["application/problem+json"] =
                    problem["content"]["application/problem+json"].take();
            }
            None => {
                responses.insert(status.to_string(), problem);
            }
        }
    }
    Value::Object(responses)
}

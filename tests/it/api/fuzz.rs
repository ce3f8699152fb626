//! Every operation of the document, asked for with generated inputs: what the schema allows and
//! what it forbids. Nothing may hang or break, every answer must be one that is described, what the
//! schema forbids must be refused, and what it allows must not be refused as unreadable.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom as _;
use rand::{RngExt as _, SeedableRng as _};
use reqwest::Method;
use serde_json::{Map, Value, json};

use super::conform::{DOCUMENT, Described, check, operations, validator};
use super::dead_letters::dead;
use super::server::{Answer, BODY_LIMIT_BYTES, Server, execute};

/// Requests per operation without a body.
const CASES: usize = 60;
/// The longest that any answer may take.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
/// Codes that say "this cannot be read": never for what the schema allows.
const UNREADABLE: [&str; 7] = [
    "malformed_json",
    "invalid_body",
    "invalid_query",
    "invalid_path",
    "invalid_payload",
    "unknown_kind",
    "unsupported_media_type",
];

/// What is sent as the body.
#[derive(Debug, Clone)]
enum Sent {
    Nothing,
    Json(Value),
    Raw(Vec<u8>),
}

/// One request, and whether the document allows it.
#[derive(Debug)]
struct Case {
    method: Method,
    address: String,
    body: Sent,
    allowed: bool,
}

struct Generator {
    rng: StdRng,
    /// Ids that exist, so that operations find something.
    ids: Vec<i64>,
}

impl Generator {
    fn chance(&mut self, percent: u32) -> bool {
        self.rng.random_ratio(percent, 100)
    }

    fn pick<'a>(&mut self, words: &[&'a str]) -> &'a str {
        words.choose(&mut self.rng).copied().unwrap_or_default()
    }

    /// Any JSON, mostly small.
    fn anything(&mut self, depth: u32) -> Value {
        match self.rng.random_range(0..if depth > 2 { 7 } else { 9 }) {
            0 => Value::Null,
            1 => json!(self.rng.random::<bool>()),
            2 => json!(self.rng.random::<i64>()),
            3 => json!(self.rng.random_range(-3..100)),
            4 => json!(0.5),
            5 | 6 => json!(self.pick(&[
                "",
                "x",
                "\u{0}",
                "\u{7f}",
                "ñ🦀",
                "'; DROP TABLE relevo.job",
                "%00"
            ])),
            7 => json!([self.anything(depth + 1)]),
            _ => {
                json!({self.pick(&["", "a", "kind", "payload", "\u{0}"]): self.anything(depth + 1)})
            }
        }
    }

    /// A value that the schema most likely allows.
    fn value(&mut self, schema: &Value) -> Value {
        if let Some(reference) = schema["$ref"].as_str() {
            let name = reference.rsplit('/').next().unwrap();
            return self.value(&DOCUMENT["components"]["schemas"][name]);
        }
        for choice in ["oneOf", "anyOf"] {
            // An object with a choice on top of its fields is made as an object.
            if schema["properties"].is_object() {
                break;
            }
            if let Some(schemas) = schema[choice].as_array() {
                let schema = schemas.choose(&mut self.rng).unwrap();
                return self.value(schema);
            }
        }
        if !schema["const"].is_null() {
            return schema["const"].clone();
        }
        if let Some(words) = schema["enum"].as_array() {
            return words.choose(&mut self.rng).unwrap().clone();
        }
        let kind = match &schema["type"] {
            Value::Array(kinds) => kinds.choose(&mut self.rng).unwrap().clone(),
            kind => kind.clone(),
        };
        match kind.as_str() {
            Some("null") => Value::Null,
            Some("boolean") => json!(self.rng.random::<bool>()),
            Some("integer") => self.integer(schema),
            Some("string") => json!(self.string(schema)),
            Some("array") => {
                let min = schema["minItems"].as_u64().unwrap_or(0);
                let count = self.rng.random_range(min..=min + 3);
                (0..count).map(|_| self.value(&schema["items"])).collect()
            }
            Some("object") => self.object(schema),
            _ => self.anything(0),
        }
    }

    fn integer(&mut self, schema: &Value) -> Value {
        let min = schema["minimum"].as_i64();
        let max = schema["maximum"].as_i64();
        let (low, high) = (min.unwrap_or(i64::MIN), max.unwrap_or(i64::MAX));
        let number = match self.rng.random_range(0..6) {
            0 => low,
            1 => high,
            2 if !self.ids.is_empty() => *self.ids.choose(&mut self.rng).unwrap(),
            _ => self.rng.random_range(0..50),
        };
        json!(number.clamp(low, high))
    }

    fn string(&mut self, schema: &Value) -> String {
        if schema["format"] == "date-time" {
            return self
                .pick(&["2030-01-02T03:04:05Z", "2000-06-01T00:00:00.123+02:00"])
                .to_owned();
        }
        if let Some(words) = schema["pattern"].as_str().and_then(|text| text.strip_prefix("^("))
            && let Some((words, _)) = words.split_once(')')
        {
            let words: Vec<&str> = words.split('|').collect();
            return format!("{},{}", self.pick(&words), self.pick(&words));
        }
        let min = usize::try_from(schema["minLength"].as_u64().unwrap_or(0)).unwrap();
        let max = usize::try_from(schema["maxLength"].as_u64().unwrap_or(40)).unwrap();
        let length = match self.rng.random_range(0..5) {
            0 => min,
            1 => max,
            _ => self.rng.random_range(min..=max.min(min + 12)),
        };
        let letters = ["a", "b", "Z", "9", "_", "/", "'", "\"", "\\", "ñ", "🦀", " ", "%", "&"];
        (0..length).map(|_| self.pick(&letters)).collect()
    }

    fn object(&mut self, schema: &Value) -> Value {
        let required: Vec<&str> =
            schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
        let mut object = Map::new();
        for (name, field) in schema["properties"].as_object().into_iter().flatten() {
            if required.contains(&name.as_str()) || self.chance(35) {
                object.insert(name.clone(), self.value(field));
            }
        }
        if let Some(choices) = schema["anyOf"].as_array() {
            let choice = choices.choose(&mut self.rng).unwrap();
            for (name, field) in choice["properties"].as_object().into_iter().flatten() {
                object.insert(name.clone(), self.value(field));
            }
        }
        Value::Object(object)
    }

    /// Changes something somewhere.
    fn disturb(&mut self, value: &mut Value) {
        match value {
            Value::Object(fields) if !fields.is_empty() && self.chance(80) => {
                let names: Vec<String> = fields.keys().cloned().collect();
                let name = names.choose(&mut self.rng).unwrap();
                match self.rng.random_range(0..5) {
                    0 => drop(fields.remove(name)),
                    1 => drop(fields.insert("stranger".to_owned(), self.anything(0))),
                    2 => drop(fields.insert(name.clone(), self.anything(0))),
                    3 => drop(fields.insert(name.clone(), json!("x".repeat(600)))),
                    _ => self.disturb(fields.get_mut(name).unwrap()),
                }
            }
            Value::Array(items) if !items.is_empty() && self.chance(60) => {
                let at = self.rng.random_range(0..items.len());
                self.disturb(&mut items[at]);
            }
            other => *other = self.anything(0),
        }
    }

    /// A parameter's text, and whether its schema allows it.
    fn parameter(&mut self, schema: &Value) -> (String, bool) {
        let known = schema["type"] == "string" && self.chance(20);
        let text = if known {
            self.pick(&["sicar", "default", "Noop"]).to_owned()
        } else if self.chance(70) {
            match self.value(schema) {
                Value::String(text) => text,
                other => other.to_string(),
            }
        } else {
            let bad =
                ["", "x", "-1", "0", "1.5", "99999999999999999999", "a\u{0}b", "true", "null"];
            self.pick(&bad).to_owned()
        };
        let typed = match schema["type"].as_str() {
            Some("integer") => text.parse::<i64>().map_or(json!(text), |number| json!(number)),
            Some("boolean") => text.parse::<bool>().map_or(json!(text), |truth| json!(truth)),
            _ => json!(text),
        };
        let controls = text.chars().any(char::is_control);
        let allowed = validator(schema).is_valid(&typed) && !controls;
        (text, allowed)
    }

    fn case(&mut self, described: &Described) -> Case {
        let mut allowed = true;
        let mut address = described.path.to_owned();
        let mut query = Vec::new();
        let parameters = described.operation["parameters"].as_array();
        for parameter in parameters.into_iter().flatten() {
            let name = parameter["name"].as_str().unwrap();
            let (text, fits) = self.parameter(&parameter["schema"]);
            match parameter["in"].as_str().unwrap() {
                "path" => {
                    // An empty or dotted part would be another address.
                    let text =
                        if text.trim_matches('.').is_empty() { "7".to_owned() } else { text };
                    allowed &= fits || text == "7";
                    address = address.replace(&format!("{{{name}}}"), &encoded(&text));
                }
                "query" if self.chance(40) => {
                    allowed &= fits;
                    query.push(format!("{name}={}", encoded(&text)));
                }
                _ => {}
            }
        }
        if described.path.starts_with("/api/")
            && self.chance(5)
            && let Some(first) = query.first().cloned()
        {
            query.push(first);
            allowed = false;
        }
        if !query.is_empty() {
            address = format!("{address}?{}", query.join("&"));
        }
        let content = &described.operation["requestBody"];
        let body = if content.is_null() { Sent::Nothing } else { self.body(content, &mut allowed) };
        Case { method: described.method.parse().unwrap(), address, body, allowed }
    }

    fn body(&mut self, content: &Value, allowed: &mut bool) -> Sent {
        let required = content["required"] == true;
        if !content["content"]["application/octet-stream"].is_null() {
            let length = self.rng.random_range(0..2_000);
            return Sent::Raw((0..length).map(|_| self.rng.random()).collect());
        }
        let schema = &content["content"]["application/json"]["schema"];
        if self.chance(8) {
            let raw: [&[u8]; 6] = [b"", b"{", b"[]", b"\"\xff\"", b"{}{}", b"nul"];
            let raw = *raw.choose(&mut self.rng).unwrap();
            *allowed &= raw.is_empty() && !required;
            return Sent::Raw(raw.to_vec());
        }
        if !required && self.chance(20) {
            return Sent::Nothing;
        }
        let mut body = self.value(schema);
        if self.chance(50) {
            self.disturb(&mut body);
        }
        if body.to_string().len() > BODY_LIMIT_BYTES {
            *allowed = false;
        }
        *allowed &= validator(schema).is_valid(&body);
        Sent::Json(body)
    }
}

fn encoded(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' => char::from(byte).to_string(),
            byte => format!("%{byte:02X}"),
        })
        .collect()
}

async fn send(server: &Server, case: &Case) -> Answer {
    let mut request = server.request(case.method.clone(), &case.address).timeout(ANSWER_TIMEOUT);
    request = match &case.body {
        Sent::Nothing => request,
        Sent::Json(body) => request.json(body),
        Sent::Raw(bytes) => request.header("content-type", "application/json").body(bytes.clone()),
    };
    let request = request.build().unwrap_or_else(|error| panic!("{error}: {case:?}"));
    execute(&server.client, request).await
}

/// Whether the document's word is held to: the webhook takes what it can make sense of.
fn is_strict(described: &Described) -> bool {
    described.path.starts_with("/api/v1")
}

async fn fuzz(seed: u64) {
    let server = Server::start().await;
    let mut ids = dead(&server, 3).await;
    let job = server.post_json("/api/v1/jobs", &json!({"kind": "Noop"})).await.ok(202);
    ids.push(job["id"].as_i64().unwrap());
    let mut generator = Generator { rng: StdRng::seed_from_u64(seed), ids };
    let (mut taken, mut refused) = (0, 0);
    for described in operations() {
        // Following a run goes on until the run ends, and the doctor waits for what does not answer;
        // console::follow and notify::doctor look at them.
        if ["followRun", "doctor"].iter().any(|id| described.operation["operationId"] == *id) {
            continue;
        }
        let mut successes = 0;
        // What takes a body can be got wrong in more ways.
        let cases = if described.operation["requestBody"].is_null() { CASES } else { 4 * CASES };
        for _ in 0..cases {
            let case = generator.case(&described);
            // The key that asks is not thrown away.
            if described.path.starts_with("/api/v1/keys/{id}") && case.address.contains("keys/1") {
                continue;
            }
            let answer = send(&server, &case).await;
            let status = answer.status.as_u16();
            let told = format!("seed {seed}: {case:?}: {answer:?}");
            assert!(status < 500, "{told}");
            let path = case.address.split('?').next().unwrap();
            check(case.method.as_str(), path, &answer);
            if !is_strict(&described) {
                continue;
            }
            let code = answer.body["code"].as_str().unwrap_or_default();
            let by_itself = described.path.ends_with("/batch") && answer.body["refused"] != 0;
            let of_its_kind = described.path.ends_with("/payload") && code == "invalid_payload";
            // Which kinds workers have published, the document cannot tell.
            let of_no_kind = described.path == "/api/v1/jobs" && code == "unknown_kind";
            if case.allowed {
                let unreadable = UNREADABLE.contains(&code) && !of_its_kind && !of_no_kind;
                assert!(!unreadable, "allowed, and refused: {told}");
            } else {
                let refused = (400..500).contains(&status) || by_itself;
                assert!(refused, "forbidden, and taken: {told}");
            }
            if status < 400 {
                successes += 1;
            }
        }
        taken += successes;
        refused += cases - successes;
    }
    assert!(taken > 300 && refused > 300, "{taken} taken, {refused} refused");
}

#[tokio::test]
async fn every_operation_keeps_to_its_description() {
    fuzz(1).await;
}

#[tokio::test]
async fn every_operation_keeps_to_its_description_with_other_inputs() {
    fuzz(20_261_122).await;
}

//! What kielink says of itself at `/openapi.json`, held against what it does: every answer to a caller that any
//! integration test gets.

use std::{
    collections::HashMap,
    sync::{Arc, LazyLock, Mutex, PoisonError},
};

use jsonschema::Validator;
use reqwest::Method;
use serde_json::{Value, json};

use super::Reply;

static DOCUMENT: LazyLock<Value> =
    LazyLock::new(|| serde_json::from_str(include_str!("../../../src/http/openapi.json")).unwrap());

/// With every object closed: to a caller more fields may come some day, here one that is not described is a mistake.
static CLOSED: LazyLock<Value> = LazyLock::new(|| {
    let mut schemas = DOCUMENT["components"]["schemas"].clone();
    close(&mut schemas);
    schemas
});

/// HTTP's own, which no description of an interface tells.
const OF_HTTP: [&str; 6] = ["connection", "content-length", "content-type", "date", "keep-alive", "transfer-encoding"];

pub(crate) fn document() -> &'static Value {
    &DOCUMENT
}

/// That `reply` to `method` at `path` (without query) is one that is described: status, headers, body.
pub(crate) fn assert_described(method: &Method, path: &str, reply: &Reply) {
    let what = format!("{method} {path}: {reply:?}");
    // The one path that has a part of the caller's choice.
    let named = path.strip_prefix("/v1/redirect/").is_some_and(|name| !name.is_empty() && !name.contains('/'));
    let operations = &DOCUMENT["paths"][if named { "/v1/redirect/{name}" } else { path }];
    let response = if operations.is_null() {
        // Who may not ask is told so at every path, and that is described with those that are there.
        if [400, 403, 414, 421, 431, 503].contains(&reply.status) {
            return;
        }
        assert_eq!(reply.status, 404, "nothing is described here; {what}");
        &DOCUMENT["components"]["responses"]["NotFound"]
    } else {
        let described = operations.get(method.as_str().to_ascii_lowercase());
        // Any operation of the path tells what other methods are told.
        let operation = described.or(operations.as_object().unwrap().values().next()).unwrap();
        let response = &operation["responses"][reply.status.to_string()];
        assert!(!response.is_null(), "the status is not described; {what}");
        assert!(described.is_some() || reply.status >= 400, "the method is not described; {what}");
        resolve(response)
    };
    assert_headers(response, reply, &what);
    if method != Method::HEAD {
        assert_body(response, reply, &what);
    }
}

fn assert_headers(response: &'static Value, reply: &Reply, what: &str) {
    let described: Vec<_> = response["headers"].as_object().into_iter().flatten().collect();
    for (name, header) in &described {
        let header = resolve(header);
        let Some(value) = reply.headers.get(name.as_str()) else {
            assert_ne!(header["required"], true, "{name} is missing; {what}");
            continue;
        };
        let value = value.to_str().unwrap();
        let value = if header["schema"]["type"] == "integer" { value.parse().unwrap() } else { json!(value) };
        assert_valid(&header["schema"], &value, &format!("{name}; {what}"));
    }
    for name in reply.headers.keys().map(reqwest::header::HeaderName::as_str) {
        let known = OF_HTTP.contains(&name) || described.iter().any(|(known, _)| known.eq_ignore_ascii_case(name));
        assert!(known, "{name} is not described; {what}");
    }
}

fn assert_body(response: &Value, reply: &Reply, what: &str) {
    let Some(contents) = response["content"].as_object() else {
        assert_eq!(reply.body, "", "no body is described; {what}");
        return;
    };
    let media_type = reply.header("content-type").split(';').next().unwrap();
    let content = contents.get(media_type).unwrap_or_else(|| panic!("{media_type} is not described; {what}"));
    match media_type {
        "application/json" | "application/problem+json" => assert_valid(&content["schema"], &reply.json(), what),
        "application/x-ndjson" => {
            for line in reply.body.lines() {
                let item = serde_json::from_str(line).unwrap();
                assert_valid(&json!({ "$ref": "#/components/schemas/BatchItem" }), &item, what);
            }
        }
        _ => assert_valid(&content["schema"], &json!(reply.body), what),
    }
    if media_type == "application/problem+json" {
        assert!(!content["examples"][reply.slug()].is_null(), "this problem is not described here; {what}");
    }
}

fn assert_valid(schema: &Value, value: &Value, what: &str) {
    let validator = validator(schema);
    if let Some(error) = validator.iter_errors(value).next() {
        panic!("{error} at {}; {what}", error.instance_path());
    }
}

/// Each is made once: some tests are about time.
fn validator(schema: &Value) -> Arc<Validator> {
    static MADE: LazyLock<Mutex<HashMap<String, Arc<Validator>>>> = LazyLock::new(Mutex::default);
    let mut made = MADE.lock().unwrap_or_else(PoisonError::into_inner);
    let make = || {
        let mut schema = schema.clone();
        schema["components"] = json!({ "schemas": &*CLOSED });
        Arc::new(jsonschema::options().should_validate_formats(true).build(&schema).unwrap())
    };
    Arc::clone(made.entry(schema.to_string()).or_insert_with(make))
}

fn close(schema: &mut Value) {
    match schema {
        Value::Object(fields) => {
            fields.values_mut().for_each(close);
            // A property may have that name, too.
            if fields.get("properties").is_some_and(Value::is_object) {
                fields.insert("additionalProperties".to_owned(), json!(false));
            }
        }
        Value::Array(items) => items.iter_mut().for_each(close),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

fn resolve(value: &'static Value) -> &'static Value {
    match value["$ref"].as_str() {
        Some(reference) => DOCUMENT.pointer(reference.strip_prefix('#').unwrap()).unwrap(),
        None => value,
    }
}

//! `POST /v1/links`: many links in one request.

mod items;
mod lines;
mod requests;

use serde_json::{Value, json};

use crate::support::{Reply, Sidecar};

/// A batch with these headers; the whole answer.
async fn batch_with(sidecar: &Sidecar, urls: &[&str], headers: &[(&str, &str)]) -> Reply {
    let request = sidecar.client().post(format!("{}/v1/links", sidecar.base_url()));
    let request = headers.iter().fold(request, |request, (name, value)| request.header(*name, *value));
    sidecar.send(request.body(json!({ "urls": urls }).to_string())).await
}

/// The items of a batch that was taken.
async fn batch(sidecar: &Sidecar, urls: &[&str]) -> Vec<Value> {
    items(&batch_with(sidecar, urls, &[]).await)
}

fn items(reply: &Reply) -> Vec<Value> {
    assert_eq!((reply.status, reply.header("content-type")), (200, "application/json"), "{reply:?}");
    let Value::Object(mut answer) = reply.json() else { panic!("{reply:?}") };
    let Some(Value::Array(items)) = answer.remove("links") else { panic!("{reply:?}") };
    assert!(answer.is_empty(), "`links` is the only field: {reply:?}");
    items
}

/// The slug of an item's problem; none where it has a link.
fn slug(item: &Value) -> Option<&str> {
    let names: Vec<_> = item.as_object().unwrap().keys().map(String::as_str).collect();
    match item.get("error") {
        None => assert_eq!(names, ["source_url", "url", "expires_at"]),
        Some(_) => assert_eq!(names, ["source_url", "error"]),
    }
    item["error"]["type"].as_str().map(|kind| kind.strip_prefix("urn:kielink:problem:").unwrap())
}

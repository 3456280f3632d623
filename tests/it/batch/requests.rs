//! Batches as a whole: which are taken, and what their answers have besides the items.

use serde_json::json;

use super::{batch, batch_with, items};
use crate::support::{FakeKie, Problem, Reply, SOURCE, Sidecar};

async fn post(sidecar: &Sidecar, body: impl Into<reqwest::Body>) -> Reply {
    sidecar.send(sidecar.client().post(format!("{}/v1/links", sidecar.base_url())).body(body)).await
}

#[tokio::test]
async fn bodies_that_are_no_batch_are_malformed() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::start(&kie);
    let malformed = Problem::refused("malformed-request");
    let nested = "[".repeat(10_000);
    let url = format!("\"{SOURCE}\"");
    for body in [
        "",
        "{",
        "{}",
        "null",
        "7",
        &url,
        &format!("[{url}]"),
        &format!("{{\"url\":{url}}}"),
        &format!("{{\"urls\":{url}}}"),
        &format!("{{\"urls\":[{url}]"),
        &format!("{{\"urls\":[{url},]}}"),
        &format!("{{\"urls\":[{url}]}} {{}}"),
        &format!("{{\"urls\":[{url},7]}}"),
        &format!("{{\"urls\":[{url},null]}}"),
        &format!("{{\"urls\":[[{url}]]}}"),
        &format!("{{\"urls\":[{{\"url\":{url}}}]}}"),
        &format!("{{\"urls\":[{url}],\"urls\":[{url}]}}"),
        "{\"urls\":null}",
        "{\"urls\":{}}",
        "{\"urls\":[\"\\ud800\"]}",
        &nested,
    ] {
        malformed.assert_document(&body[..body.len().min(80)], &post(&sidecar, body.to_owned()).await);
    }
    malformed.assert_document("not UTF-8", &post(&sidecar, b"{\"urls\":[\"\xff\"]}".to_vec()).await);
    assert_eq!(kie.mints(), 0);
}

#[tokio::test]
async fn what_is_sent_besides_the_urls_changes_nothing() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::start(&kie);
    let body = json!({ "urls": [SOURCE], "more": { "urls": 7 } }).to_string();
    let content_types = ["application/json", "text/plain", "application/x-www-form-urlencoded", "nonsense"];
    for content_type in content_types {
        let request = sidecar.client().post(format!("{}/v1/links", sidecar.base_url()));
        let request = request.header("content-type", content_type).header("authorization", "Bearer mine");
        assert_eq!(items(&sidecar.send(request.body(body.clone())).await).len(), 1, "{content_type}");
    }
    assert_eq!(kie.mints(), 1);
    assert!(kie.requests()[0].header("authorization").is_some_and(|key| !key.contains("mine")));
}

#[tokio::test]
async fn an_empty_batch_has_no_links() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::start(&kie);
    assert!(batch(&sidecar, &[]).await.is_empty());
    let lines = batch_with(&sidecar, &[], &[("accept", "application/x-ndjson")]).await;
    assert_eq!((lines.status, lines.body.as_str()), (200, ""));
}

#[tokio::test]
async fn a_batch_over_the_limit_is_refused_as_a_whole() {
    let kie = FakeKie::start();
    let many = vec![SOURCE; 501];
    for (settings, limit) in [(&[][..], 500), (&[("limits.batch", "3")], 3)] {
        let sidecar = Sidecar::with(&kie, settings);
        assert_eq!(batch(&sidecar, &many[..limit]).await.len(), limit);
        for accept in ["application/json", "application/x-ndjson"] {
            let reply = batch_with(&sidecar, &many[..=limit], &[("accept", accept)]).await;
            Problem::refused("malformed-request").assert_document(accept, &reply);
            let detail = reply.json()["detail"].as_str().unwrap().to_owned();
            assert!(detail.contains(&limit.to_string()), "it names the limit: {detail}");
        }
    }
    assert_eq!(kie.mints(), 2);
}

#[tokio::test]
async fn a_batch_may_be_longer_than_a_single_request_and_not_longer_than_its_own_limit() {
    let kie = FakeKie::start();
    let too_large = Problem::refused("body-too-large");
    for (settings, limit) in [(&[][..], 2 << 20), (&[("limits.batch_body", "20KiB")], 20 << 10)] {
        let sidecar = Sidecar::with(&kie, settings);
        let plain = json!({ "urls": [SOURCE] }).to_string();
        let padded = |bytes: usize| format!("{plain}{}", " ".repeat(bytes - plain.len()));
        assert_eq!(items(&post(&sidecar, padded(limit)).await).len(), 1);
        too_large.assert_document("by Content-Length", &post(&sidecar, padded(limit + 1)).await);
        let head = "POST /v1/links HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n";
        let chunked =
            format!("{head}Transfer-Encoding: chunked\r\n\r\n{:x}\r\n{}\r\n0\r\n\r\n", limit + 1, padded(limit + 1));
        too_large.assert_document("chunked", &sidecar.wire(chunked).await);
        let announced = format!("{head}Content-Length: 99999999999\r\n\r\n");
        too_large.assert_document("announced", &sidecar.wire(announced).await);
    }
}

#[tokio::test]
async fn the_form_of_the_answer_is_the_callers_choice() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::start(&kie);
    let lines = "application/x-ndjson";
    for (accept, content_type) in [
        ("application/json", "application/json"),
        ("*/*", "application/json"),
        ("text/html", "application/json"),
        ("application/x-ndjson;q=0", "application/json"),
        (lines, lines),
        ("application/json;q=0.5, Application/X-NDJSON", lines),
    ] {
        let reply = batch_with(&sidecar, &[SOURCE, "nonsense"], &[("accept", accept), ("x-request-id", "mine")]).await;
        assert_eq!((reply.status, reply.header("content-type")), (200, content_type), "{accept}");
        let items = match content_type == lines {
            true => reply.body.lines().map(|line| serde_json::from_str(line).unwrap()).collect(),
            false => items(&reply),
        };
        assert_eq!(items.len(), 2, "{accept}: {items:?}");
        assert!(items.iter().any(|item| item["error"]["request_id"] == "mine"), "{accept}: {items:?}");
        assert_eq!(reply.header("x-request-id"), "mine", "{accept}");
        assert_eq!(reply.header("cache-control"), "no-store", "{accept}: it holds many links, each with its own life");
        assert!(reply.header("cache-status").starts_with("kielink; "), "{accept}");
        for name in ["age", "retry-after", "location", "set-cookie"] {
            assert_eq!(reply.header(name), "", "{accept}: {name}");
        }
    }
}

#[tokio::test]
async fn only_post_is_taken() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::start(&kie);
    for method in ["GET", "PUT", "DELETE", "PATCH"] {
        let method = reqwest::Method::from_bytes(method.as_bytes()).unwrap();
        let request = sidecar.client().request(method.clone(), format!("{}/v1/links", sidecar.base_url()));
        let reply = sidecar.send(request.body("{}")).await;
        Problem::refused("method-not-allowed").assert_document(method.as_str(), &reply);
        assert_eq!(reply.header("allow"), "POST", "{method}");
    }
}

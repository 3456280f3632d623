//! `/openapi.json` and `/docs`. That the answers of all other tests are as described is checked where they are received
//! (`support::description`).

use std::collections::BTreeSet;

use reqwest::Method;
use serde_json::Value;

use crate::support::{FakeKie, Problem, Reply, SOURCE, Sidecar, document, encode};

fn assert_like_a_probe(reply: &Reply) {
    assert_eq!(reply.status, 200, "{reply:?}");
    assert_eq!(reply.header("cache-status"), "kielink; fwd=bypass");
    assert_eq!(reply.header("cache-control"), "no-store");
    assert_eq!(reply.header("x-content-type-options"), "nosniff");
    assert_eq!(reply.header("x-request-id").len(), 32);
}

#[tokio::test]
async fn the_interface_is_described_for_programs() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::start(&kie);
    let reply = sidecar.get("/openapi.json").await;
    assert_like_a_probe(&reply);
    assert_eq!(reply.header("content-type"), "application/json");
    assert_eq!(reply.json(), *document());
    let head = sidecar.client().head(format!("{}/openapi.json", sidecar.base_url()));
    let head = sidecar.send(head).await;
    assert_like_a_probe(&head);
    assert_eq!((head.header("content-length"), head.body.as_str()), (reply.body.len().to_string().as_str(), ""));
    let lines = sidecar.log_lines("request");
    assert!(lines.iter().all(|line| line["level"] == "DEBUG"), "it is logged as probes are: {lines:?}");
    let admin = sidecar.get_admin("/openapi.json").await;
    Problem::refused("not-found").assert_document("the admin interface is not described", &admin);
}

#[tokio::test]
async fn the_interface_is_described_for_people() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::start(&kie);
    let reply = sidecar.get("/docs").await;
    assert_like_a_probe(&reply);
    assert_eq!(reply.header("content-type"), "text/html; charset=utf-8");
    let policy = reply.header("content-security-policy");
    assert!(policy.starts_with("default-src 'none'; style-src 'sha256-"), "{policy}");
    assert!(!policy.contains("unsafe") && !policy.contains("script"), "{policy}");
    let head = sidecar.send(sidecar.client().head(format!("{}/docs", sidecar.base_url()))).await;
    assert_like_a_probe(&head);
    assert_eq!((head.header("content-security-policy"), head.body.as_str()), (policy, ""));
    // What it says to type is typed.
    let quote = |text: &str| text.replace("&amp;", "&").replace("&quot;", "\"");
    let commands: Vec<String> = reply.body.split("<code>curl -i ").skip(1).map(quote).collect();
    assert_eq!(commands.len(), document()["paths"].as_object().unwrap().len());
    for command in commands {
        let command = command.split("</code>").next().unwrap();
        let request = match command.split_once(" -d ") {
            Some((url, body)) => sidecar.client().post(url).body(body.trim_matches('\'').to_owned()),
            None => sidecar.client().get(command.trim_matches('\'')),
        };
        let reply = sidecar.send(request).await;
        assert!([200, 302, 307].contains(&reply.status), "{command}: {reply:?}");
    }
}

#[tokio::test]
async fn the_page_is_for_the_host_that_it_was_asked_at_and_for_no_other() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::start(&kie);
    let ask = async |host: &str| {
        sidecar.wire(format!("GET /docs HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n")).await
    };
    assert!(ask("kielink.shop.svc:80").await.body.contains("curl -i 'http://kielink.shop.svc:80/healthz'"));
    let old = sidecar.wire("GET /docs HTTP/1.0\r\n\r\n").await;
    assert!(old.body.contains("curl -i 'http://127.0.0.1:8080/healthz'"));
    for host in ["evil.example", "\"><script>", "a'b"] {
        let reply = ask(host).await;
        assert!(matches!(reply.status, 400 | 421), "{host}: {reply:?}");
    }
    let request = sidecar.client().get(format!("{}/docs", sidecar.base_url()));
    let reply = sidecar.send(request.header("sec-fetch-site", "cross-site")).await;
    assert_eq!(reply.status, 200, "somebody has been led here");
}

#[tokio::test]
async fn every_path_takes_the_methods_that_are_described_and_no_other() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::start(&kie);
    for (path, operations) in document()["paths"].as_object().unwrap() {
        let described: BTreeSet<String> = operations.as_object().unwrap().keys().map(|it| it.to_uppercase()).collect();
        for method in ["TRACE", "OPTIONS", "QUERY", "BREW"] {
            let method = Method::from_bytes(method.as_bytes()).unwrap();
            let url = format!("{}{path}?url={}", sidecar.base_url(), encode(SOURCE));
            let reply = sidecar.send(sidecar.client().request(method, url)).await;
            let allowed: BTreeSet<String> = reply.header("allow").split(',').map(|it| it.trim().to_owned()).collect();
            assert_eq!((reply.status, &allowed), (405, &described), "{path}");
        }
    }
    assert_eq!(kie.mints(), 0);
}

/// A check that passes whatever comes would pass everywhere.
#[test]
fn an_answer_that_is_not_described_is_noticed() {
    use crate::support::assert_described;
    let headers = [
        ("content-type", "application/json"),
        ("cache-status", "kielink; hit; ttl=5"),
        ("cache-control", "private, max-age=5"),
        ("x-request-id", "1"),
        ("x-content-type-options", "nosniff"),
    ];
    let body = r#"{"source_url":"https://h/","url":"https://h/?x","expires_at":"2026-11-23T15:48:42Z"}"#;
    let reply = |change: (&'static str, &'static str), status: u16, body: &str| {
        let mut all = reqwest::header::HeaderMap::new();
        for (name, value) in headers.into_iter().chain([change]) {
            all.insert(reqwest::header::HeaderName::from_static(name), value.parse().unwrap());
        }
        Reply { status, headers: all, body: body.to_owned() }
    };
    let same = ("x-content-type-options", "nosniff");
    let holds = |path: &str, method: Method, reply: Reply| {
        std::panic::catch_unwind(|| assert_described(&method, path, &reply)).is_ok()
    };
    assert!(holds("/v1/link", Method::GET, reply(same, 200, body)));
    for (why, wrong) in [
        ("status", reply(same, 201, body)),
        ("a header that is not described", reply(("etag", "1"), 200, body)),
        ("a header's value", reply(("cache-status", "kielink; hit"), 200, body)),
        ("a header that was described once", reply(("age", "0"), 200, body)),
        ("a header's number", reply(("cache-control", "private, max-age=-1"), 200, body)),
        ("a media type", reply(("content-type", "text/plain"), 200, body)),
        ("one field too many", reply(same, 200, &body.replace('{', "{\"more\":1,"))),
        ("one too few", reply(same, 200, r#"{"source_url":"https://h/","url":"https://h/?x"}"#)),
        ("a time that is none", reply(same, 200, &body.replace("-11-", "-13-"))),
        ("a URL that is none", reply(same, 200, &body.replace("https://h/?x", "ftp://h/?x"))),
    ] {
        assert!(!holds("/v1/link", Method::GET, wrong), "{why}");
    }
    assert!(!holds("/v1/link", Method::DELETE, reply(same, 200, body)), "a method");
    assert!(!holds("/v1/nothing", Method::GET, reply(same, 200, body)), "a path");
    let problem = |slug: &str| {
        let problem = format!(
            r#"{{"type":"urn:kielink:problem:{slug}","title":"t","status":400,"detail":"d","request_id":"1"}}"#
        );
        let mut reply = reply(("content-type", "application/problem+json"), 400, &problem);
        reply.headers.insert("cache-control", "no-store".parse().unwrap());
        reply.headers.insert("cache-status", format!("kielink; fwd=bypass; detail={slug}").parse().unwrap());
        reply
    };
    assert!(holds("/v1/link", Method::GET, problem("malformed-request")));
    assert!(!holds("/v1/link", Method::GET, problem("timeout")), "a problem of another status");
    assert!(document()["paths"]["/v1/link"]["get"]["responses"]["400"] != Value::Null);
}

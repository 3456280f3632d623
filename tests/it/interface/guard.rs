//! The network is the boundary: what no internal caller would send is refused, and no page of another site is helped.

use super::COMPAT;
use crate::support::{FakeKie, Problem, SOURCE, Sidecar, encode};

fn get(path: &str, headers: &str) -> String {
    format!("GET {path} HTTP/1.1\r\n{headers}Connection: close\r\n\r\n")
}

fn post(headers: &str) -> String {
    let body = serde_json::json!({ "url": SOURCE }).to_string();
    let length = body.len();
    format!("POST {COMPAT} HTTP/1.1\r\n{headers}Content-Length: {length}\r\nConnection: close\r\n\r\n{body}")
}

#[tokio::test]
async fn only_hosts_that_no_public_page_has_are_answered() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::with(&kie, &[("server.allowed_hosts", "links.example.com,Other.Example.com")]);
    let path = format!("/v1/link?url={}", encode(SOURCE));
    for host in [
        "127.0.0.1",
        "10.1.2.3:8080",
        "[::1]:8080",
        "localhost",
        "LocalHost:1",
        "kielink",
        "kielink:8080",
        "my_app",
        "a.local",
        "a.b.internal:80",
        "kielink.ns.svc",
        "kielink.ns.svc.cluster.local.",
        "links.example.com",
        "LINKS.example.com:80",
        "other.example.com",
    ] {
        let reply = sidecar.wire(get(&path, &format!("Host: {host}\r\n"))).await;
        assert_eq!(reply.status, 200, "{host}: {reply:?}");
    }
    let misdirected = Problem::refused("misdirected");
    for host in [
        "example.com",
        "rebound.attacker.example",
        "127.0.0.1.attacker.example",
        "localhost.attacker.example",
        "x.links.example.com",
        "links.example.com.attacker.example",
        "internal.attacker.example",
        "a@localhost",
        "localhost:x",
        "127.1",
        "",
    ] {
        let header = format!("Host: {host}\r\n");
        let (document, envelope) = (sidecar.wire(get(&path, &header)).await, sidecar.wire(post(&header)).await);
        misdirected.assert_told(host, &document, &envelope);
    }
    let admin = sidecar.client().get(format!("{}/readyz", sidecar.admin_url())).header("host", "attacker.example");
    misdirected.assert_document("the admin interface", &sidecar.send(admin).await);
    let absolute = format!("http://attacker.example{path}");
    misdirected.assert_document("absolute", &sidecar.wire(get(&absolute, "Host: localhost\r\n")).await);
    let absolute = format!("http://localhost{path}");
    assert_eq!(sidecar.wire(get(&absolute, "Host: localhost\r\n")).await.status, 200);
    assert_eq!(kie.mints(), 1);
}

#[tokio::test]
async fn exactly_one_host_is_wanted_where_http_has_one() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::start(&kie);
    let malformed = Problem::refused("malformed-request");
    let path = format!("/v1/link?url={}", encode(SOURCE));
    for headers in ["", "Host: localhost\r\nHost: localhost\r\n", "Host: localhost\r\nHost: attacker.example\r\n"] {
        let (document, envelope) = (sidecar.wire(get(&path, headers)).await, sidecar.wire(post(headers)).await);
        malformed.assert_told(headers, &document, &envelope);
    }
    let old = format!("GET {path} HTTP/1.0\r\n\r\n");
    assert_eq!(sidecar.wire(old).await.status, 200, "HTTP/1.0 knows no Host");
}

#[tokio::test]
async fn a_page_of_another_site_gets_nothing() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::start(&kie);
    let cross_site = Problem::refused("cross-site");
    let base = sidecar.base_url();
    let link = format!("{base}/v1/link?url={}", encode(SOURCE));
    let redirect = format!("{base}/v1/redirect?url={}", encode(SOURCE));
    let body = serde_json::json!({ "url": SOURCE }).to_string();
    let other = |request: reqwest::RequestBuilder| {
        request.header("sec-fetch-site", "cross-site").header("origin", "https://attacker.example")
    };
    let envelope = sidecar.send(other(sidecar.client().post(format!("{base}{COMPAT}"))).body(body)).await;
    for url in [
        link.clone(),
        redirect,
        format!("{base}/healthz"),
        format!("{base}/nothing"),
        format!("{}/readyz", sidecar.admin_url()),
    ] {
        let document = sidecar.send(other(sidecar.client().get(&url))).await;
        cross_site.assert_told(&url, &document, &envelope);
    }
    assert_eq!(kie.mints(), 0);
    for site in ["same-origin", "same-site", "none"] {
        let request = sidecar.client().get(&link).header("sec-fetch-site", site).header("origin", "http://app.local");
        let reply = sidecar.send(request).await;
        assert_eq!(reply.status, 200, "{site}");
        assert!(reply.headers.keys().all(|name| !name.as_str().starts_with("access-control-")), "{reply:?}");
    }
}

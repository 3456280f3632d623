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
    let sidecar =
        Sidecar::with(&kie, &[("server.allowed_hosts", "links.example.com.,Other.Example.com,*.apps.example.com")]);
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
        "other.example.com.:80",
        "a.b.apps.example.com",
        "localhost.",
        "kielink.localhost:8080",
        "kielink.test",
        "nas.home.arpa",
        "127.0.0.1.",
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
        "apps.example.com",
        "evil-apps.example.com",
        "home.arpa",
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

/// What every page may have its browser send, and kielink must refuse wherever it comes in.
async fn assert_refused(sidecar: &Sidecar, headers: &[(&str, &str)]) {
    let cross_site = Problem::refused("cross-site");
    let base = sidecar.base_url();
    let with = |mut request: reqwest::RequestBuilder| {
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        request
    };
    let link = format!("/v1/link?url={}", encode(SOURCE));
    let body = serde_json::json!({ "url": SOURCE }).to_string();
    let envelope = sidecar.send(with(sidecar.client().post(format!("{base}{COMPAT}"))).body(body)).await;
    for url in [
        format!("{base}{link}"),
        format!("{base}/v1/redirect?url={}", encode(SOURCE)),
        format!("{base}/healthz"),
        format!("{base}/nothing"),
        format!("{}/readyz", sidecar.admin_url()),
        format!("{}/metrics", sidecar.admin_url()),
    ] {
        let document = sidecar.send(with(sidecar.client().get(&url))).await;
        cross_site.assert_told(&format!("{url} {headers:?}"), &document, &envelope);
    }
    let forget = with(sidecar.client().delete(format!("{}{link}", sidecar.admin_url())));
    cross_site.assert_document("the admin interface", &sidecar.send(forget).await);
}

#[tokio::test]
async fn a_page_of_another_site_gets_nothing() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::start(&kie);
    for headers in [
        [("sec-fetch-site", "cross-site"), ("origin", "https://attacker.example")],
        [("sec-fetch-site", "cross-site"), ("origin", "http://localhost")],
        [("origin", "http://attacker.example"), ("referer", "http://localhost/")],
        [("origin", "null"), ("referer", "http://localhost/")],
        [("referer", "http://attacker.example/"), ("x-forwarded-proto", "http")],
        [("referer", "http://attacker.example/"), ("x-forwarded-host", "shop.example")],
    ] {
        assert_refused(&sidecar, &headers).await;
    }
    assert_eq!(kie.mints(), 0);
    let link = format!("{}/v1/link?url={}", sidecar.base_url(), encode(SOURCE));
    for headers in [
        // A proxy in front of one's own site passes them on and rewrites Host.
        [("sec-fetch-site", "same-origin"), ("origin", "https://shop.example")],
        [("sec-fetch-site", "same-site"), ("origin", "https://shop.example")],
        [("sec-fetch-site", "none"), ("accept", "*/*")],
        [("origin", "http://app.local"), ("accept", "*/*")],
        [("referer", "https://shop.example/p"), ("x-forwarded-host", "shop.example")],
        [("origin", "http://192.168.1.2:3000"), ("accept", "*/*")],
    ] {
        let mut request = sidecar.client().get(&link);
        for (name, value) in headers {
            request = request.header(name, value);
        }
        let reply = sidecar.send(request).await;
        assert_eq!(reply.status, 200, "{headers:?}");
        let tells_pages = |name: &str| name.starts_with("access-control-") || name == "cross-origin-resource-policy";
        assert!(reply.headers.keys().all(|name| !tells_pages(name.as_str())), "{reply:?}");
    }
}

#[tokio::test]
async fn a_refusal_says_what_to_do_about_ones_own_site() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::with(&kie, &[("server.allowed_hosts", "shop.example")]);
    let link = format!("{}/v1/link?url={}", sidecar.base_url(), encode(SOURCE));
    let from = |origin: &str| sidecar.client().get(&link).header("origin", origin);
    let refused = sidecar.send(from("https://other-shop.example")).await;
    assert_eq!(refused.status, 403);
    assert!(refused.json()["detail"].as_str().unwrap().contains("server.allowed_hosts"), "{refused:?}");
    assert!(!refused.body.contains("other-shop"), "{refused:?}");
    assert_eq!(sidecar.send(from("https://shop.example")).await.status, 200);
}

#[tokio::test]
async fn a_page_that_somebody_opens_is_shown_wherever_they_come_from() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::start(&kie);
    let opened = |url: String| {
        let request = sidecar.client().get(url).header("referer", "https://wiki.example/");
        let said = [("sec-fetch-site", "cross-site"), ("sec-fetch-mode", "navigate"), ("sec-fetch-dest", "document")];
        said.into_iter().fold(request, |request, (name, value)| request.header(name, value))
    };
    let redirect = format!("{}/v1/redirect?url={}", sidecar.base_url(), encode(SOURCE));
    let prefetched = sidecar.send(opened(redirect.clone()).header("sec-purpose", "prefetch")).await;
    assert_eq!((prefetched.status, kie.mints()), (403, 0));
    assert_eq!(sidecar.send(opened(redirect)).await.status, 302);
    assert_eq!(sidecar.send(opened(format!("{}/metrics", sidecar.admin_url()))).await.status, 200);
    // Over plain http a browser does not say that it is opened.
    for url in [
        format!("{}/status", sidecar.admin_url()),
        format!("{}/docs", sidecar.base_url()),
        format!("{}/openapi.json", sidecar.base_url()),
    ] {
        let reply = sidecar.send(sidecar.client().get(&url).header("referer", "http://wiki.example/")).await;
        assert_eq!(reply.status, 200, "{url}");
    }
}

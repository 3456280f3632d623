//! Bad bodies and bad queries: a clear no, at once, without a question to kie.ai.

use super::COMPAT;
use crate::support::{FakeKie, Problem, SOURCE, Sidecar, encode};

const LIMIT: usize = 16 * 1024;

/// A good body of exactly this many bytes.
fn padded(bytes: usize) -> String {
    let plain = format!("{{\"url\":\"{SOURCE}\"}}");
    format!("{plain}{}", " ".repeat(bytes - plain.len()))
}

fn chunked(body: &str) -> String {
    format!(
        "POST {COMPAT} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n{:x}\r\n{body}\r\n0\r\n\r\n",
        body.len()
    )
}

#[tokio::test]
async fn bodies_that_are_no_request_are_malformed() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::start(&kie);
    let malformed = Problem::refused("malformed-request");
    let nested = "[".repeat(10_000);
    for body in [
        &b""[..],
        b" ",
        b"{",
        b"{}",
        b"null",
        b"[]",
        b"7",
        b"\"https://tempfile.aiquickdraw.com/s/a.png\"",
        b"[{\"url\":\"https://tempfile.aiquickdraw.com/s/a.png\"}]",
        b"{\"url\":\"https://tempfile.aiquickdraw.com/s/a.png\"",
        b"{\"url\":\"https://tempfile.aiquickdraw.com/s/a.png\"} {}",
        b"{\"url\":\"https://tempfile.aiquickdraw.com/s/a.png\",}",
        b"{\"url\":\"https://tempfile.aiquickdraw.com/s/a.png\",\"url\":\"https://tempfile.aiquickdraw.com/s/b.png\"}",
        b"{\"url\":null}",
        b"{\"url\":7}",
        b"{\"url\":true}",
        b"{\"url\":[\"https://tempfile.aiquickdraw.com/s/a.png\"]}",
        b"{\"url\":{\"url\":\"https://tempfile.aiquickdraw.com/s/a.png\"}}",
        b"{\"URL\":\"https://tempfile.aiquickdraw.com/s/a.png\"}",
        b"{'url':'https://tempfile.aiquickdraw.com/s/a.png'}",
        b"url=https%3A%2F%2Ftempfile.aiquickdraw.com%2Fs%2Fa.png",
        b"{\"url\":\"https://tempfile.aiquickdraw.com/s/\xff.png\"}",
        b"\xff\xfe{\0\"\0",
        b"{\"url\":\"\\ud800\"}",
        nested.as_bytes(),
    ] {
        let what = String::from_utf8_lossy(&body[..body.len().min(80)]).into_owned();
        malformed.assert_envelope(&what, &sidecar.post(body.to_vec()).await);
    }
    let broken_off =
        format!("POST {COMPAT} HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nnonsense\r\n");
    assert_eq!(sidecar.wire(broken_off).await.status, 400);
    assert_eq!(kie.mints(), 0);
}

#[tokio::test]
async fn bodies_up_to_the_limit_are_read_and_longer_ones_refused() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::start(&kie);
    assert_eq!(sidecar.post(padded(LIMIT)).await.status, 200);
    assert_eq!(sidecar.wire(chunked(&padded(LIMIT))).await.status, 200);
    let too_large = Problem::refused("body-too-large");
    too_large.assert_envelope("by Content-Length", &sidecar.post(padded(LIMIT + 1)).await);
    too_large.assert_envelope("chunked", &sidecar.wire(chunked(&padded(LIMIT + 1))).await);
    too_large.assert_envelope("much, chunked", &sidecar.wire(chunked(&padded(1 << 20))).await);
    // Not a byte of it is waited for.
    let announced = format!(
        "POST {COMPAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 99999999999\r\nConnection: close\r\n\r\n"
    );
    too_large.assert_envelope("announced", &sidecar.wire(announced).await);
    assert_eq!(sidecar.post(padded(100)).await.status, 200);
    assert_eq!(kie.mints(), 1);
}

#[tokio::test]
async fn the_limit_on_bodies_can_be_set() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::with(&kie, &[("limits.body", "1KiB")]);
    assert_eq!(sidecar.post(padded(1024)).await.status, 200);
    Problem::refused("body-too-large").assert_envelope("1,025 bytes", &sidecar.post(padded(1025)).await);
}

#[tokio::test]
async fn a_body_that_does_not_come_is_not_waited_for_for_ever() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::with(&kie, &[("limits.header_timeout", "200ms")]);
    let request = format!(
        "POST {COMPAT} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 60\r\nConnection: close\r\n\r\n{{\"url\":"
    );
    Problem::refused("malformed-request").assert_envelope("half a body", &sidecar.wire(request).await);
}

#[tokio::test]
async fn a_query_that_is_not_one_encoded_source_url_is_malformed_and_told_how_to_encode() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::start(&kie);
    let malformed = Problem::refused("malformed-request");
    let encoded = encode(SOURCE);
    for query in [
        String::new(),
        "?".to_owned(),
        "?&&".to_owned(),
        format!("?URL={encoded}"),
        format!("?u={encoded}"),
        format!("?{encoded}"),
        format!("?url={encoded}&url={encoded}"),
        format!("?url={encoded}&download=1"),
        format!("?download=1&url={encoded}"),
        format!("?url={encoded}&"),
        format!("?url={SOURCE}?a=1&b=2"),
        format!("?url={SOURCE}?X-Amz-Date=20250415T101007Z&X-Amz-Expires=1200"),
        "?url=https%3A%2F%2Ftempfile.aiquickdraw.com%2F%ff".to_owned(),
        format!("?%ff={encoded}"),
        format!("?url={SOURCE}?a=1+2"),
        format!("?url={encoded}+b"),
    ] {
        if query.ends_with('&') && query.matches('&').count() == 1 {
            // Nothing is lost by an empty parameter.
            assert_eq!(sidecar.get(&format!("/v1/link{query}")).await.status, 200);
            continue;
        }
        for endpoint in ["/v1/link", "/v1/redirect"] {
            let request = format!("GET {endpoint}{query} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
            let reply = sidecar.wire(request).await;
            malformed.assert_document(&query, &reply);
            let detail = reply.json()["detail"].as_str().unwrap().to_owned();
            assert!(detail.to_lowercase().contains("percent-"), "{query}: {detail}");
        }
    }
    assert_eq!(kie.mints(), 1);
}

#[tokio::test]
async fn a_source_url_that_needs_no_encoding_may_come_without() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::start(&kie);
    for (query, source) in [
        (format!("url={SOURCE}"), SOURCE.to_owned()),
        (format!("url={SOURCE}?a=1"), format!("{SOURCE}?a=1")),
        (format!("url={}", encode(&format!("{SOURCE}?a=1&b=2"))), format!("{SOURCE}?a=1&b=2")),
        (format!("url={SOURCE}?a=1%2B2"), format!("{SOURCE}?a=1+2")),
        (format!("%75%72%6C={SOURCE}"), SOURCE.to_owned()),
        (format!("url={SOURCE}?d=a%252Fb"), format!("{SOURCE}?d=a%2Fb")),
    ] {
        let reply = sidecar.get(&format!("/v1/link?{query}")).await;
        assert_eq!(reply.status, 200, "{query}: {reply:?}");
        assert_eq!(reply.json()["source_url"], source, "{query}");
        assert!(kie.mints_for(&source) == 1, "{query}: it is also what kie.ai is asked");
    }
}

#[tokio::test]
async fn a_uri_beyond_the_limit_is_too_long() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::start(&kie);
    let too_long = Problem::refused("uri-too-long");
    let long = "a".repeat(20 * 1024);
    let base = sidecar.base_url();
    for path in [format!("/v1/link?url={SOURCE}{long}"), format!("/v1/redirect?x={long}"), format!("/{long}")] {
        too_long.assert_document(&path[..20], &sidecar.get(&path).await);
    }
    let reply = sidecar.send(sidecar.client().post(format!("{base}{COMPAT}?{long}")).body("{}")).await;
    too_long.assert_envelope("POST", &reply);
    // Longer ones than the HTTP library reads to their end, too.
    for kib in [30, 40, 60, 70, 100, 300] {
        let path = format!("/v1/link?url={}", "a".repeat(kib * 1024));
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
        too_long.assert_document(&format!("{kib} KiB"), &sidecar.wire(request).await);
    }
    // The longest source URL fits, wholly encoded.
    let longest = format!("https://tempfile.aiquickdraw.com/s/{}", "/".repeat(4096 - 35));
    assert_eq!(sidecar.link(&longest).await.status, 200);
    assert_eq!(kie.mints(), 1);
}

#[tokio::test]
async fn a_head_beyond_all_measure_is_refused_and_nobody_else_suffers() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::start(&kie);
    let many: String = (0..1000).map(|n| format!("X-Filler-{n}: filler\r\n")).collect();
    let big = format!("X-Filler: {}\r\n", "f".repeat(300 * 1024));
    let (too_large, malformed) = ("head-too-large", "malformed-request");
    for (headers, slug) in [
        (many, too_large),
        (big, too_large),
        ("no colon\r\n".to_owned(), malformed),
        ("X-\u{1}: control\r\n".to_owned(), malformed),
    ] {
        let path = format!("/v1/link?url={}", encode(SOURCE));
        let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n{headers}Connection: close\r\n\r\n");
        Problem::refused(slug).assert_document(&headers[..9], &sidecar.wire(request).await);
    }
    assert_eq!(kie.mints(), 0);
    assert_eq!(sidecar.link(SOURCE).await.status, 200);
}

//! What kie.ai is asked: the documented request and nothing besides.

use crate::support::{Answer, FakeKie, KEY, SOURCE, Sidecar, encode, fake_kie::MINT_PATH};

#[tokio::test]
async fn kie_ai_gets_the_documented_request_and_nothing_besides() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::start(&kie);
    let source = format!("{SOURCE}?a=1&b=%22\"2");
    assert_eq!(sidecar.link(&source).await.status, 200);
    assert_eq!(sidecar.download_url(SOURCE).await.status, 200);
    let requests = kie.requests();
    assert_eq!(requests.len(), 2);
    for request in &requests {
        assert_eq!((request.method.as_str(), request.path.as_str()), ("POST", MINT_PATH));
        assert_eq!(request.header("authorization"), Some(format!("Bearer {KEY}").as_str()));
        assert_eq!(request.header("content-type"), Some("application/json"));
        assert_eq!(request.header("user-agent"), Some(concat!("kielink/", env!("CARGO_PKG_VERSION"))));
        assert_eq!(request.header("host"), kie.base_url().strip_prefix("http://"));
        assert_eq!(request.header("accept-encoding"), Some("gzip"));
        let mut names: Vec<_> = request.headers.iter().map(|(name, _)| name.to_lowercase()).collect();
        names.sort();
        let expected =
            ["accept", "accept-encoding", "authorization", "content-length", "content-type", "host", "user-agent"];
        assert_eq!(names, expected);
        let body: serde_json::Value = serde_json::from_slice(&request.body).unwrap();
        assert_eq!(body, serde_json::json!({ "url": request.source }), "the only field");
    }
    assert_eq!(requests[0].source.as_deref(), Some(format!("{SOURCE}?a=1&b=%22%222").as_str()));
    assert_eq!(requests[1].source.as_deref(), Some(SOURCE));
}

#[tokio::test]
async fn a_base_url_with_a_path_is_kept() {
    let kie = FakeKie::start();
    let base_url = format!("{}/gateway/", kie.base_url());
    let sidecar = Sidecar::with(&kie, &[("upstream.base_url", &base_url)]);
    // The fake knows no such path: its Spring 404 says nothing about the file.
    assert_eq!(sidecar.link(SOURCE).await.slug(), "upstream-error");
    assert_eq!(kie.requests()[0].path, format!("/gateway{MINT_PATH}"));
}

#[tokio::test]
async fn cookies_are_neither_kept_nor_passed_on() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::with(&kie, &[("upstream.attempts", "1")]);
    kie.answer_next([Answer::link(), Answer::envelope(500, "no"), Answer::html(502).with_header("set-cookie", "a=b")]);
    for n in 0..4 {
        let url = encode(&format!("{SOURCE}?{n}"));
        for path in [format!("/v1/link?url={url}"), format!("/v1/redirect?url={url}")] {
            assert_eq!(sidecar.get(&path).await.header("set-cookie"), "", "{path}");
        }
    }
    assert!(kie.mints() >= 4);
    for request in kie.requests() {
        assert_eq!(request.header("cookie"), None);
    }
}

#[tokio::test]
async fn one_connection_to_kie_ai_serves_many_mints() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::start(&kie);
    for n in 0..5 {
        assert_eq!(sidecar.link(&format!("{SOURCE}?{n}")).await.status, 200);
    }
    assert_eq!((kie.mints(), kie.connections()), (5, 1));
}

//! kie.ai's own contract: an existing client only changes its base URL and drops its key.

use reqwest::{Method, header};

use super::COMPAT;
use crate::support::{Answer, FakeKie, KEY, Problem, SOURCE, Sidecar};

#[tokio::test]
async fn an_existing_client_only_changes_its_base_url() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::start(&kie);
    let request = sidecar
        .client()
        .post(format!("{}{COMPAT}", sidecar.base_url()))
        .header(header::CONTENT_TYPE, "application/json")
        .body(serde_json::json!({ "url": SOURCE }).to_string());
    let reply = sidecar.send(request).await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("content-type"), "application/json");
    let link = &kie.links_given()[0];
    let expected = format!("{{\"code\":200,\"msg\":\"success\",\"data\":\"{link}\"}}");
    assert_eq!(reply.body, expected, "to the letter, in kie.ai's order");
}

#[tokio::test]
async fn what_a_client_sends_besides_the_url_changes_nothing() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::start(&kie);
    let plain = format!("{{\"url\":\"{SOURCE}\"}}");
    let more = format!("\r\n {{ \"taskId\": \"t\", \"x\": {{\"url\": [1, null]}}, \"url\" : \"{SOURCE}\" }} \n");
    let escaped = format!("{{\"\\u0075rl\":\"{}\"}}", SOURCE.replace('/', "\\/"));
    for (what, body, headers) in [
        ("no Content-Type", &plain, &[][..]),
        ("another Content-Type", &plain, &[("content-type", "text/plain")]),
        ("a form's", &plain, &[("content-type", "application/x-www-form-urlencoded")]),
        ("another charset", &plain, &[("content-type", "application/json; charset=latin1")]),
        ("its old key", &plain, &[("authorization", "Bearer its-old-key")]),
        ("no sense in it", &plain, &[("authorization", "\u{7f}???")]),
        ("what it accepts", &plain, &[("accept", "text/html")]),
        ("cookies", &plain, &[("cookie", "JSESSIONID=1")]),
        ("fields that nobody knows", &more, &[]),
        ("escapes", &escaped, &[]),
    ] {
        let mut request = sidecar.client().post(format!("{}{COMPAT}", sidecar.base_url()));
        for (name, value) in headers {
            request = request
                .header(*name, header::HeaderValue::from_bytes(value.as_bytes()).unwrap_or("x".try_into().unwrap()));
        }
        let reply = sidecar.send(request.body(body.clone())).await;
        assert_eq!(reply.status, 200, "{what}: {reply:?}");
        assert_eq!(reply.json()["data"], kie.links_given()[0].as_str(), "{what}");
    }
    assert_eq!(kie.mints(), 1);
}

#[tokio::test]
async fn nothing_of_the_callers_own_reaches_kie_ai() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::start(&kie);
    for (n, method) in [Method::POST, Method::GET].into_iter().enumerate() {
        let source = format!("{SOURCE}?{n}");
        let url = match method {
            Method::GET => format!("/v1/link?url={}", crate::support::encode(&source)),
            _ => COMPAT.to_owned(),
        };
        let mut request = sidecar
            .client()
            .request(method, format!("{}{url}", sidecar.base_url()))
            .body(serde_json::json!({ "url": source, "mark": "mark" }).to_string());
        for name in ["authorization", "cookie", "user-agent", "referer", "x-request-id", "x-forwarded-for", "x-any"] {
            request = request.header(name, "mark");
        }
        // A valid pair, of which only ids may go on.
        let request = request
            .header("traceparent", "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01")
            .header("tracestate", "vendor=mark");
        assert_eq!(sidecar.send(request).await.status, 200);
    }
    let requests = kie.requests();
    assert_eq!(requests.len(), 2);
    for request in requests {
        assert!(!format!("{request:?} {}", String::from_utf8_lossy(&request.body)).contains("mark"), "{request:?}");
        assert_eq!(request.header("authorization"), Some(format!("Bearer {KEY}").as_str()));
        let with_key: Vec<_> = request.headers.iter().filter(|(_, value)| value.contains(KEY)).collect();
        assert_eq!(with_key.len(), 1, "the key is in one header: {request:?}");
    }
}

#[tokio::test]
async fn calls_that_are_wrong_everywhere_are_wrong_here_in_kie_ais_words() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::start(&kie);
    let malformed = Problem::refused("malformed-request");
    for body in
        [r#"{"musicId":"m"}"#, r#"{"imageUrl":"https://tempfile.aiquickdraw.com/s/a.png"}"#, r#"{"taskId":"t"}"#]
    {
        malformed.assert_envelope(body, &sidecar.post(body).await);
    }
    let reply = sidecar.get(&format!("{COMPAT}?taskId=t")).await;
    Problem::refused("method-not-allowed").assert_envelope("GET", &reply);
    assert_eq!(reply.header("allow"), "POST");
    assert_eq!(kie.mints(), 0);
}

#[tokio::test]
async fn a_client_that_tests_only_the_status_or_only_the_code_is_not_misled() {
    let kie = FakeKie::start();
    for answer in [
        Answer::envelope(422, "url is wrong"),
        Answer::unauthorized(),
        Answer::envelope(500, "no"),
        Answer::envelope(0, "ok"),
        Answer::envelope(204, "ok"),
        Answer::data(serde_json::Value::Null),
        Answer::link().http_status(500),
        Answer::link_is("http://x.example/a"),
        Answer::empty(),
    ] {
        let sidecar = Sidecar::with(&kie, &[("upstream.attempts", "1"), ("cache.negative_ttl", "0s")]);
        kie.answer(answer.clone());
        let reply = sidecar.download_url(SOURCE).await;
        assert!(reply.status >= 400, "{answer:?}");
        let envelope = reply.json();
        assert!(envelope["code"].as_i64().is_some_and(|code| code != 200), "{answer:?}: {envelope}");
        assert!(envelope["data"].is_null(), "{answer:?}: {envelope}");
    }
}

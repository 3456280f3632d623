//! Answers that break HTTP, its limits or everybody's patience.

use flate2::{Compression, write::GzEncoder};
use futures_util::future::join_all;

use super::{ONE_EACH, assert_all_is_well, check};
use crate::support::{Answer, FakeKie, Problem, SOURCE, Sidecar};

#[tokio::test]
async fn answers_beyond_all_measure_are_cut_off() {
    let kie = FakeKie::start();
    let mut rows = Vec::new();
    let sidecar = Sidecar::with(&kie, &ONE_EACH);
    for (what, answer) in [
        ("5 MB", Answer::big(5_000_000)),
        ("a little too much", Answer::big(64 * 1024 + 1)),
        ("without an end", Answer::endless()),
        ("a gzip bomb", Answer::gzip_bomb()),
    ] {
        rows.push(check(&kie, what.to_owned(), answer, Problem::error("upstream-error", Some(200))));
    }
    rows.push(check(
        &kie,
        "a head without an end".to_owned(),
        Answer::thousands_of_headers(),
        Problem::error("upstream-error", None),
    ));
    kie.answer(Answer::big(64 * 1024));
    assert_eq!(sidecar.link(SOURCE).await.status, 200, "what is just within the limit is read");
    join_all(rows).await;
}

#[tokio::test]
async fn broken_answers_are_told_apart_from_none() {
    let kie = FakeKie::start();
    let mut rows = Vec::new();
    let mut halved = GzEncoder::new(Vec::new(), Compression::fast());
    std::io::Write::write_all(&mut halved, &[b' '; 1000]).unwrap();
    let mut halved = halved.finish().unwrap();
    halved.truncate(halved.len() / 2);
    let gzip = |body: &[u8]| Answer::body(body).with_header("content-encoding", "gzip");
    for (what, answer) in [
        ("ends early", Answer::link().with_header("content-length", "5000").then_close_silently()),
        ("no gzip", gzip(b"{\"code\":200,\"msg\":\"success\",\"data\":\"https://x.example/a\"}")),
        ("half a gzip", gzip(&halved)),
        ("bad chunks", Answer::raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n")),
    ] {
        rows.push(check(&kie, what.to_owned(), answer, Problem::error("upstream-error", Some(200))));
    }
    rows.push(check(
        &kie,
        "no HTTP".to_owned(),
        Answer::raw("220 smtp.example ESMTP\r\n"),
        Problem::error("upstream-error", None),
    ));
    for (what, answer) in
        [("reset", Answer::reset()), ("closed", Answer::close()), ("half a head", Answer::raw("HTTP/1.1 200 O"))]
    {
        rows.push(check(&kie, what.to_owned(), answer, Problem::error("upstream-unreachable", None)));
    }
    join_all(rows).await;
}

#[tokio::test]
async fn an_http_error_speaks_for_itself_though_its_page_cannot_be_read() {
    let kie = FakeKie::start();
    let mut rows = Vec::new();
    for (status, slug) in [
        (401, "key-refused"),
        (403, "key-refused"),
        (429, "rate-limited"),
        (500, "upstream-error"),
        (502, "upstream-error"),
    ] {
        let short = Answer::html(status).with_header("content-length", "5000");
        for (what, answer) in [
            ("too long", Answer::body("x".repeat(100_000)).http_status(status)),
            ("breaks off", short.then_close_silently()),
            ("no gzip", Answer::html(status).with_header("content-encoding", "gzip")),
        ] {
            let what = format!("HTTP {status}, {what}");
            rows.push(check(&kie, what.clone(), answer, Problem::error(slug, Some(status))));
        }
    }
    join_all(rows).await;
}

#[tokio::test]
async fn silence_is_a_timeout() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::with(&kie, &[("upstream.attempts", "1"), ("upstream.attempt_timeout", "1s")]);
    let sources: Vec<_> = (0..4).map(|n| format!("{SOURCE}?{n}")).collect();
    for (n, source) in sources.iter().enumerate() {
        kie.answer_for(source, if n < 2 { Answer::hang() } else { Answer::drip() });
    }
    let (hang, hang_too, drip, drip_too) = tokio::join!(
        sidecar.link(&sources[0]),
        sidecar.download_url(&sources[1]),
        sidecar.link(&sources[2]),
        sidecar.download_url(&sources[3]),
    );
    let timeout = Problem::error("timeout", None);
    timeout.assert_told("silence", &hang, &hang_too);
    timeout.assert_told("a byte a second", &drip, &drip_too);
    for source in &sources {
        assert_all_is_well(&sidecar, &kie, "silence", source).await;
    }
    assert_eq!(kie.max_in_flight_per_source(), 1);
}

#[tokio::test]
async fn a_redirect_is_not_followed_and_takes_nothing_elsewhere() {
    let kie = FakeKie::start();
    let mut rows = Vec::new();
    let other = FakeKie::start();
    for status in [301, 302, 303, 307, 308] {
        let answer = Answer::redirect(&other.mint_url()).http_status(status);
        let what = format!("HTTP {status}");
        rows.push(check(&kie, what.clone(), answer, Problem::error("upstream-error", Some(status))));
        let answer = Answer::link().http_status(status).with_header("location", &other.mint_url());
        let what = format!("HTTP {status} with a link");
        rows.push(check(&kie, what.clone(), answer, Problem::error("upstream-error", Some(status)).code(200)));
    }
    assert_eq!((other.requests().len(), other.connections()), (0, 0));
    join_all(rows).await;
}

/// Whatever comes unasked on a kept connection must not become the answer to the next question: it would be a link to
/// somebody else's file.
#[tokio::test]
async fn an_answer_that_nobody_asked_for_is_no_answer_to_the_next_question() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::start(&kie);
    let answer = |link: &str| {
        let body = serde_json::json!({"code": 200, "msg": "success", "data": link}).to_string();
        format!("HTTP/1.1 200 OK\r\nconnection: keep-alive\r\ncontent-length: {}\r\n\r\n{body}", body.len())
    };
    let (own, foreign) = ("https://x.example/own", "https://x.example/foreign");
    for (n, lies) in [answer(own) + &answer(foreign), answer(own) + "HTTP/1.1 200 O", answer(own) + "\r\n\r\n"]
        .into_iter()
        .enumerate()
    {
        let first = format!("{SOURCE}?{n}-first");
        kie.answer_for(&first, Answer::raw_then_keep(lies));
        assert_eq!(sidecar.link(&first).await.json()["url"], own);
        let next = sidecar.link(&format!("{SOURCE}?{n}-next")).await;
        assert_eq!(next.status, 200, "{next:?}");
        assert_eq!(next.json()["url"], kie.links_given().last().unwrap().as_str());
    }
}

#[tokio::test]
async fn a_connection_that_is_said_to_be_kept_and_is_not_costs_no_caller_anything() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::with(&kie, &[("upstream.attempts", "1")]);
    for n in 0..5 {
        let source = format!("{SOURCE}?{n}");
        let lie = Answer::link().with_header("keep-alive", "timeout=3600").then_close_silently();
        kie.answer_for(&source, lie);
        assert_eq!(sidecar.link(&source).await.status, 200);
    }
}

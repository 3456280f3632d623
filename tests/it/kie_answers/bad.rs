//! Every bad answer that is documented, known or feared: the right problem in both forms, nothing of it cached, and
//! the next good answer is as good as ever.

use flate2::{Compression, write::GzEncoder};
use serde_json::json;

use crate::support::{Answer, FakeKie, KEY, Problem, SOURCE, Sidecar, encode};

/// One attempt a mint and no memory for refusals: each question is one answer.
const ONE_EACH: [(&str, &str); 2] = [("upstream.attempts", "1"), ("cache.negative_ttl", "0s")];

/// Asks in both forms while kie.ai answers so, then once more when it is well again.
async fn check(sidecar: &Sidecar, kie: &FakeKie, what: &str, answer: Answer, problem: Problem) {
    let source = format!("{SOURCE}?{}", encode(what));
    kie.answer_for(&source, answer);
    let (document, envelope) = (sidecar.link(&source).await, sidecar.download_url(&source).await);
    problem.assert_told(what, &document, &envelope);
    assert_all_is_well(sidecar, kie, what, &source).await;
}

async fn assert_all_is_well(sidecar: &Sidecar, kie: &FakeKie, what: &str, source: &str) {
    kie.answer_for(source, Answer::link());
    let good = sidecar.link(source).await;
    assert_eq!(good.status, 200, "{what}: {good:?}");
    let status = good.header("cache-status");
    assert!(
        status.starts_with("kielink; fwd=miss; stored; "),
        "{what}: nothing was cached: {status}"
    );
    assert_eq!(good.json()["url"], kie.links_given().last().unwrap().as_str(), "{what}");
}

#[tokio::test]
async fn every_code_of_kie_ais_has_its_problem() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::with(&kie, &ONE_EACH);
    for (code, slug) in [
        (401, "key-refused"),
        (402, "credits-exhausted"),
        (403, "key-refused"),
        (404, "source-not-found"),
        (422, "source-refused"),
        (429, "rate-limited"),
        (433, "rate-limited"),
        (455, "upstream-unavailable"),
        (400, "upstream-error"),
        (408, "upstream-error"),
        (409, "upstream-error"),
        (413, "upstream-error"),
        (451, "upstream-error"),
        (500, "upstream-error"),
        (501, "upstream-error"),
        (505, "upstream-error"),
        (531, "upstream-error"),
        (550, "upstream-error"),
        (0, "upstream-error"),
        (201, "upstream-error"),
        (-1, "upstream-error"),
        (i64::MAX, "upstream-error"),
    ] {
        let message = format!("code {code}, says kie.ai");
        let problem = Problem::error(slug, Some(200)).says(code, &message);
        check(&sidecar, &kie, &message, Answer::envelope(code, &message), problem).await;
    }
}

#[tokio::test]
async fn codes_may_come_as_real_http_statuses_too() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::with(&kie, &ONE_EACH);
    for (status, code, slug) in [
        (401, 401, "key-refused"),
        (402, 402, "credits-exhausted"),
        (404, 404, "source-not-found"),
        (422, 422, "source-refused"),
        (429, 429, "rate-limited"),
        (503, 455, "upstream-unavailable"),
        (500, 500, "upstream-error"),
        (403, 500, "key-refused"),
        (500, 422, "source-refused"),
    ] {
        let what = format!("HTTP {status}, code {code}");
        let problem = Problem::error(slug, Some(status)).says(code, &what);
        check(
            &sidecar,
            &kie,
            &what,
            Answer::envelope(code, &what).http_status(status),
            problem,
        )
        .await;
    }
}

#[tokio::test]
async fn without_an_envelope_the_http_status_speaks() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::with(&kie, &ONE_EACH);
    for (what, answer, slug, status) in [
        ("a gateway's page", Answer::html(502), "upstream-error", 502),
        ("another's", Answer::html(503), "upstream-error", 503),
        ("Cloudflare's own", Answer::html(520), "upstream-error", 520),
        ("an empty 500", Answer::empty().http_status(500), "upstream-error", 500),
        ("an unknown path", Answer::spring_404(), "upstream-error", 404),
        ("a page's 404", Answer::html(404), "upstream-error", 404),
        ("a banned agent", Answer::banned(), "key-refused", 403),
        ("a gateway's 401", Answer::html(401), "key-refused", 401),
        ("a gateway's 429", Answer::html(429), "rate-limited", 429),
        ("a page under 200", Answer::html(200), "upstream-error", 200),
        ("nothing at all", Answer::empty(), "upstream-error", 200),
        ("white space", Answer::body(" \r\n\t"), "upstream-error", 200),
        (
            "no content",
            Answer::empty().http_status(204).with_header("content-length", "0"),
            "upstream-error",
            204,
        ),
        (
            "half of it",
            Answer::body("{\"code\":200,\"msg\":\"success\",\"data\":\"https://x.example"),
            "upstream-error",
            200,
        ),
        (
            "two of it",
            Answer::body("{\"code\":200,\"data\":\"https://x.example/a\"}{}"),
            "upstream-error",
            200,
        ),
        (
            "a list",
            Answer::body("[200, \"https://x.example/a\"]"),
            "upstream-error",
            200,
        ),
        (
            "a bare link",
            Answer::body("\"https://x.example/a\""),
            "upstream-error",
            200,
        ),
        (
            "not UTF-8",
            Answer::body(b"{\"code\":200,\"data\":\"https://x.example/\xff\"}"),
            "upstream-error",
            200,
        ),
        (
            "no code",
            Answer::body("{\"data\":\"https://x.example/a\"}"),
            "upstream-error",
            200,
        ),
    ] {
        check(&sidecar, &kie, what, answer, Problem::error(slug, Some(status))).await;
    }
}

#[tokio::test]
async fn a_message_about_credits_is_believed_more_than_its_code() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::with(&kie, &ONE_EACH);
    for message in [
        "Credits insufficient, please top up",
        "Insufficient credits",
        "Your credits are not enough",
    ] {
        let problem = Problem::error("credits-exhausted", Some(200)).says(500, message);
        check(&sidecar, &kie, message, Answer::envelope(500, message), problem).await;
    }
}

#[tokio::test]
async fn a_good_code_without_a_usable_link_is_an_upstream_error() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::with(&kie, &ONE_EACH);
    let endless_host = format!("https://x.example/{}", "a".repeat(9 * 1024));
    let with_key = format!("https://x.r2.cloudflarestorage.com/a?token={KEY}");
    let with_encoded_key = format!("https://x.r2.cloudflarestorage.com/a?token={}", encode(KEY));
    let data = [
        json!(null),
        json!({"url": "https://x.example/a"}),
        json!(7),
        json!(true),
        json!(["https://x.example/a"]),
        json!(""),
        json!(" "),
        json!("success"),
        json!("/a"),
        json!("//x.example/a"),
        json!("javascript:alert(1)"),
        json!("data:text/html,x"),
        json!("http://x.r2.cloudflarestorage.com/a"),
        json!("ftp://x.r2.cloudflarestorage.com/a"),
        json!("https:x.example/a"),
        json!("https://"),
        json!("https://user:password@x.example/a"),
        json!("https://x.example\\@attacker.example/a"),
        json!("https://x.example/a\r\nSet-Cookie: a=b"),
        json!("https://x.example/a\nb"),
        json!("https://x.example/a\u{0}"),
        json!("\thttps://x.example/a"),
        json!("https://127.0.0.1/a"),
        json!("https://127.1/a"),
        json!("https://2130706433/a"),
        json!("https://localhost/a"),
        json!("https://10.0.0.7/a"),
        json!("https://172.16.0.1/a"),
        json!("https://192.168.1.1/a"),
        json!("https://169.254.169.254/latest/meta-data"),
        json!("https://[::1]/a"),
        json!("https://[fd00::1]/a"),
        json!("https://[::ffff:10.0.0.7]/a"),
        json!("https://metadata.google.internal/a"),
        json!(endless_host),
        json!(with_key),
        json!(with_encoded_key),
    ];
    for data in data {
        let what = data.to_string();
        let what = what.get(..60).unwrap_or(&what).replace("canary", "");
        let problem = Problem::error("upstream-error", Some(200)).code(200);
        check(&sidecar, &kie, &what, Answer::data(data), problem).await;
    }
    let no_data = Answer::body("{\"code\":200,\"msg\":\"success\"}");
    check(
        &sidecar,
        &kie,
        "no data",
        no_data,
        Problem::error("upstream-error", Some(200)).code(200),
    )
    .await;
    let under_500 = Answer::link().http_status(500);
    check(
        &sidecar,
        &kie,
        "a link under HTTP 500",
        under_500,
        Problem::error("upstream-error", Some(500)).code(200),
    )
    .await;
}

#[tokio::test]
async fn answers_beyond_all_measure_are_cut_off() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::with(&kie, &ONE_EACH);
    for (what, answer) in [
        ("5 MB", Answer::big(5_000_000)),
        ("a little too much", Answer::big(64 * 1024 + 1)),
        ("without an end", Answer::endless()),
        ("a gzip bomb", Answer::gzip_bomb()),
    ] {
        check(
            &sidecar,
            &kie,
            what,
            answer,
            Problem::error("upstream-error", Some(200)),
        )
        .await;
    }
    check(
        &sidecar,
        &kie,
        "a head without an end",
        Answer::thousands_of_headers(),
        Problem::error("upstream-error", None),
    )
    .await;
    kie.answer(Answer::big(64 * 1024));
    assert_eq!(
        sidecar.link(SOURCE).await.status,
        200,
        "what is just within the limit is read"
    );
}

#[tokio::test]
async fn broken_answers_are_told_apart_from_none() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::with(&kie, &ONE_EACH);
    let mut halved = GzEncoder::new(Vec::new(), Compression::fast());
    std::io::Write::write_all(&mut halved, &[b' '; 1000]).unwrap();
    let mut halved = halved.finish().unwrap();
    halved.truncate(halved.len() / 2);
    let gzip = |body: &[u8]| Answer::body(body).with_header("content-encoding", "gzip");
    for (what, answer) in [
        (
            "ends early",
            Answer::link()
                .with_header("content-length", "5000")
                .then_close_silently(),
        ),
        (
            "no gzip",
            gzip(b"{\"code\":200,\"msg\":\"success\",\"data\":\"https://x.example/a\"}"),
        ),
        ("half a gzip", gzip(&halved)),
        (
            "bad chunks",
            Answer::raw("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n"),
        ),
    ] {
        check(
            &sidecar,
            &kie,
            what,
            answer,
            Problem::error("upstream-error", Some(200)),
        )
        .await;
    }
    check(
        &sidecar,
        &kie,
        "no HTTP",
        Answer::raw("220 smtp.example ESMTP\r\n"),
        Problem::error("upstream-error", None),
    )
    .await;
    for (what, answer) in [
        ("reset", Answer::reset()),
        ("closed", Answer::close()),
        ("half a head", Answer::raw("HTTP/1.1 200 O")),
    ] {
        check(
            &sidecar,
            &kie,
            what,
            answer,
            Problem::error("upstream-unreachable", None),
        )
        .await;
    }
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
    let other = FakeKie::start();
    let sidecar = Sidecar::with(&kie, &ONE_EACH);
    for status in [301, 302, 303, 307, 308] {
        let answer = Answer::redirect(&other.mint_url()).http_status(status);
        let what = format!("HTTP {status}");
        check(
            &sidecar,
            &kie,
            &what,
            answer,
            Problem::error("upstream-error", Some(status)),
        )
        .await;
        let answer = Answer::link()
            .http_status(status)
            .with_header("location", &other.mint_url());
        let what = format!("HTTP {status} with a link");
        check(
            &sidecar,
            &kie,
            &what,
            answer,
            Problem::error("upstream-error", Some(status)).code(200),
        )
        .await;
    }
    assert_eq!((other.requests().len(), other.connections()), (0, 0));
}

/// The canary check at the end of `Sidecar` searches answers and logs.
#[tokio::test]
async fn an_answer_that_echoes_the_key_is_scrubbed() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::with(&kie, &ONE_EACH);
    for (code, slug) in [
        (401, "key-refused"),
        (404, "source-not-found"),
        (422, "source-refused"),
        (429, "rate-limited"),
        (500, "upstream-error"),
    ] {
        let message = "refused: Authorization: Bearer [key]";
        let problem = Problem::error(slug, Some(200)).says(code, message);
        check(&sidecar, &kie, &format!("code {code}"), Answer::echo_key(code), problem).await;
    }
    check(
        &sidecar,
        &kie,
        "in the link",
        Answer::echo_key(200),
        Problem::error("upstream-error", Some(200)).code(200),
    )
    .await;
}

#[tokio::test]
async fn messages_are_one_printable_line_of_sane_length() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::with(&kie, &ONE_EACH);
    let long = "x".repeat(20_000);
    kie.answer(Answer::envelope(500, &format!("a\r\nb\u{0}\u{1b}[31m{long}")));
    let message = sidecar.download_url(SOURCE).await.json()["msg"]
        .as_str()
        .unwrap()
        .to_owned();
    assert!(message.starts_with("a  b") && message.len() < 1000, "{message}");
    assert!(!message.contains(char::is_control), "{message}");
    assert!(
        sidecar.logs().lines().all(|line| line.len() < 4000),
        "nor does it flood the log"
    );
}

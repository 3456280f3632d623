//! The rows of PRODUCT.md section 4 that need kie.ai's part: each in both forms. What else kie.ai may answer is in
//! `kie_answers`; the rows that do not need it are with what causes them (`requests`, `sources`, `guard`, `outcomes`).

use crate::support::{Answer, FakeKie, KEY, Problem, SOURCE, Sidecar};

#[tokio::test]
async fn every_kind_of_failure_at_kie_ai_has_its_own_problem() {
    let kie = FakeKie::start();
    let unauthorized = "Unauthorized – Authentication failed. Please check your API key.";
    let frequency = "Your call frequency is too high. Please try again later.";
    for (answer, problem) in [
        (
            Answer::envelope(422, "url is wrong"),
            Problem::error("source-refused", Some(200)).says(422, "url is wrong"),
        ),
        (
            Answer::envelope(404, "no file"),
            Problem::error("source-not-found", Some(200)).says(404, "no file"),
        ),
        (
            Answer::unauthorized(),
            Problem::error("key-refused", Some(200)).says(401, unauthorized),
        ),
        (Answer::html(401), Problem::error("key-refused", Some(401))),
        (
            Answer::envelope(402, "no"),
            Problem::error("credits-exhausted", Some(200)).says(402, "no"),
        ),
        (
            Answer::too_frequent(),
            Problem::error("rate-limited", Some(200)).says(429, frequency),
        ),
        (
            Answer::envelope(455, "maintenance"),
            Problem::error("upstream-unavailable", Some(200)).says(455, "maintenance"),
        ),
        (
            Answer::envelope(500, "oops"),
            Problem::error("upstream-error", Some(200)).says(500, "oops"),
        ),
        (Answer::html(502), Problem::error("upstream-error", Some(502))),
        (Answer::reset(), Problem::error("upstream-unreachable", None)),
    ] {
        let sidecar = Sidecar::with(&kie, &[("upstream.attempts", "1"), ("cache.negative_ttl", "0s")]);
        kie.answer(answer.clone());
        let (document, envelope) = (sidecar.link(SOURCE).await, sidecar.download_url(SOURCE).await);
        problem.assert_told(&format!("{answer:?}"), &document, &envelope);
    }
    let sidecar = Sidecar::with(&kie, &[("upstream.attempts", "1"), ("cache.negative_ttl", "0s")]);
    kie.stop_listening();
    let (document, envelope) = (sidecar.link(SOURCE).await, sidecar.download_url(SOURCE).await);
    Problem::error("upstream-unreachable", None).assert_told("nobody listens", &document, &envelope);
    kie.listen_again();
    kie.answer(Answer::link());
    assert_eq!(sidecar.link(SOURCE).await.status, 200);
}

#[tokio::test]
async fn a_rate_limit_passes_on_how_long_to_wait() {
    let kie = FakeKie::start();
    let too_frequent = |seconds: &str| Answer::too_frequent().with_header("retry-after", seconds);
    for (n, (answer, wait)) in [
        (too_frequent("7"), 7..=7),
        (
            Answer::envelope(433, "sub-key limit").with_header("retry-after", "7"),
            7..=7,
        ),
        (Answer::html(429).with_header("retry-after", "7"), 7..=7),
        (too_frequent("0"), 1..=1),
        (too_frequent("86400"), 60..=86_400),
        (too_frequent("later"), 1..=60),
        (too_frequent("Wed, 15 Apr 2015 10:10:07 GMT"), 1..=1),
        (Answer::too_frequent(), 1..=60),
        (too_frequent("-3"), 1..=60),
    ]
    .into_iter()
    .enumerate()
    {
        let sidecar = Sidecar::start(&kie);
        kie.answer(answer);
        let reply = sidecar.link(&format!("{SOURCE}?{n}")).await;
        assert_eq!((reply.status, reply.slug().as_str()), (429, "rate-limited"));
        let seconds: u64 = reply.header("retry-after").parse().unwrap();
        assert!(wait.contains(&seconds), "{n}: {reply:?}");
    }
}

#[tokio::test]
async fn nobody_waits_longer_than_the_request_timeout() {
    let kie = FakeKie::start();
    kie.hold();
    let sidecar = Sidecar::with(&kie, &[("server.request_timeout", "200ms")]);
    let other = format!("{SOURCE}?other");
    let (document, envelope) = tokio::join!(sidecar.link(SOURCE), sidecar.download_url(&other));
    Problem::error("timeout", None).assert_told("kie.ai is silent", &document, &envelope);
    kie.release();
}

#[tokio::test]
async fn a_refused_key_is_an_error_in_the_log() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::start(&kie);
    kie.answer(Answer::unauthorized());
    let reply = sidecar.link(SOURCE).await;
    assert_eq!(reply.slug(), "key-refused");
    let logs = sidecar.logs();
    let errors: Vec<_> = logs
        .lines()
        .filter(|line| line.contains("\"level\":\"ERROR\""))
        .collect();
    assert_eq!(errors.len(), 1, "{logs}");
    assert!(errors[0].contains("key"), "{errors:?}");
}

#[tokio::test]
async fn no_message_of_kie_ais_brings_the_key_to_a_caller() {
    let kie = FakeKie::start();
    for code in [401, 402, 404, 422, 429, 433, 455, 500] {
        let sidecar = Sidecar::with(&kie, &[("upstream.attempts", "1"), ("cache.negative_ttl", "0s")]);
        for text in [
            KEY.to_owned(),
            format!("{KEY}{KEY}"),
            crate::support::encode(KEY),
            format!("Authorization: Bearer {KEY}\r\n"),
        ] {
            for _ in 0..2 {
                kie.answer(Answer::envelope(code, &format!("no: {text}")));
                let (document, envelope) = (sidecar.link(SOURCE).await, sidecar.download_url(SOURCE).await);
                for reply in [document, envelope] {
                    assert!(
                        reply.status >= 400 && !reply.body.contains("0123456789abcdef"),
                        "{code} {text}: {reply:?}"
                    );
                }
            }
        }
    }
}

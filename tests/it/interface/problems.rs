//! The problems that need kie.ai's part: each in both forms. What else kie.ai may answer is in
//! `kie_answers`; the rows that do not need it are with what causes them (`requests`, `sources`, `guard`, `outcomes`).

use crate::support::{Answer, FakeKie, KEY, Problem, SOURCE, Sidecar};

#[tokio::test]
async fn every_kind_of_failure_at_kie_ai_has_its_own_problem() {
    let settings = [("upstream.attempts", "1"), ("cache.negative_ttl", "0s")];
    let unauthorized = "Unauthorized – Authentication failed. Please check your API key.";
    let frequency = "Your call frequency is too high. Please try again later.";
    for (answer, problem) in [
        (Answer::envelope(422, "url is wrong"), Problem::error("source-refused", Some(200)).says(422, "url is wrong")),
        (Answer::envelope(404, "no file"), Problem::error("source-not-found", Some(200)).says(404, "no file")),
        (Answer::unauthorized(), Problem::error("key-refused", Some(200)).says(401, unauthorized)),
        (Answer::html(401), Problem::error("key-refused", Some(401))),
        (Answer::envelope(402, "no"), Problem::error("credits-exhausted", Some(200)).says(402, "no")),
        (
            Answer::too_frequent().with_header("retry-after", "1"),
            Problem::error("rate-limited", Some(200)).says(429, frequency),
        ),
        (
            Answer::envelope(455, "maintenance"),
            Problem::error("upstream-unavailable", Some(200)).says(455, "maintenance"),
        ),
        (Answer::envelope(500, "oops"), Problem::error("upstream-error", Some(200)).says(500, "oops")),
        (Answer::html(502), Problem::error("upstream-error", Some(502))),
        (Answer::reset(), Problem::error("upstream-unreachable", None)),
    ] {
        // A kielink of its own for each form: the second would be told from memory.
        let kie = FakeKie::start();
        let (first, second) = (Sidecar::with(&kie, &settings), Sidecar::with(&kie, &settings));
        kie.answer(answer.clone());
        let (document, envelope) = (first.link(SOURCE).await, second.download_url(SOURCE).await);
        problem.assert_told(&format!("{answer:?}"), &document, &envelope);
    }
    let kie = FakeKie::start();
    let (first, second) = (Sidecar::with(&kie, &settings), Sidecar::with(&kie, &settings));
    kie.stop_listening();
    let (document, envelope) = (first.link(SOURCE).await, second.download_url(SOURCE).await);
    Problem::error("upstream-unreachable", None).assert_told("nobody listens", &document, &envelope);
    kie.listen_again();
    let again = async || first.link(SOURCE).await.status == 200;
    crate::support::eventually("links flow again", again).await;
}

#[tokio::test]
async fn what_concerns_the_account_is_told_to_all_at_once_and_what_concerns_a_file_to_its_callers() {
    let other = "https://file.kie.ai/other";
    for (answer, problem, for_all) in [
        (Answer::envelope(402, "no"), Problem::error("credits-exhausted", None).says(402, "no"), true),
        (Answer::unauthorized(), Problem::error("key-refused", None).code(401), true),
        (Answer::envelope(455, "later"), Problem::error("upstream-unavailable", None).says(455, "later"), true),
        (Answer::envelope(505, "off"), Problem::error("upstream-error", None).says(505, "off"), true),
        (Answer::banned(), Problem::error("key-refused", None), false),
        (Answer::envelope(500, "oops"), Problem::error("upstream-error", None).says(500, "oops"), false),
        (Answer::html(503).with_header("retry-after", "9"), Problem::error("upstream-unavailable", None), false),
    ] {
        let what = format!("{answer:?}");
        let kie = FakeKie::start();
        let sidecar = Sidecar::with(&kie, &[("upstream.attempts", "1")]);
        kie.answer_for(SOURCE, answer);
        let first = sidecar.link(SOURCE).await;
        assert!(first.header("cache-status").contains("fwd-status"), "{what}: {first:?}");
        // Told from memory: an error, without an answer to this request, and when to come back.
        let again = sidecar.link(SOURCE).await;
        problem.assert_document(&what, &again);
        assert!(again.header("retry-after").parse::<u64>().is_ok_and(|seconds| seconds >= 1), "{what}: {again:?}");
        let neighbour = sidecar.link(other).await;
        if for_all {
            problem.assert_document(&what, &neighbour);
        } else {
            assert_eq!(neighbour.status, 200, "{what}: {neighbour:?}");
        }
        assert_eq!(kie.mints(), if for_all { 1 } else { 2 }, "{what}");
    }
}

#[tokio::test]
async fn a_rate_limit_passes_on_how_long_to_wait() {
    for answer in [
        Answer::too_frequent().with_header("retry-after", "77"),
        Answer::envelope(433, "sub-key limit").with_header("retry-after", "77"),
        Answer::html(429).with_header("retry-after", "77"),
    ] {
        let kie = FakeKie::start();
        let sidecar = Sidecar::start(&kie);
        kie.answer(answer);
        // The first hears it from kie.ai, the second from the pause that has begun. Both at once: no caller of theirs
        // waits that long.
        for source in [SOURCE, "https://file.kie.ai/other"] {
            let reply = sidecar.link(source).await;
            assert_eq!((reply.status, reply.slug().as_str()), (429, "rate-limited"));
            let seconds: u64 = reply.header("retry-after").parse().unwrap();
            assert!((1..=77).contains(&seconds), "{reply:?}");
        }
        assert_eq!(kie.mints(), 1);
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
    let errors: Vec<_> = logs.lines().filter(|line| line.contains("\"level\":\"ERROR\"")).collect();
    assert_eq!(errors.len(), 1, "{logs}");
    assert!(errors[0].contains("key"), "{errors:?}");
}

#[tokio::test]
async fn no_message_of_kie_ais_brings_the_key_to_a_caller() {
    for code in [401, 402, 404, 422, 429, 433, 455, 500] {
        for text in [
            KEY.to_owned(),
            format!("{KEY}{KEY}"),
            crate::support::encode(KEY),
            format!("Authorization: Bearer {KEY}\r\n"),
        ] {
            // Fresh ones: after a 429 there is a pause, after many failures kie.ai is not asked.
            let kie = FakeKie::start();
            let sidecar = Sidecar::with(&kie, &[("upstream.attempts", "1"), ("cache.negative_ttl", "0s")]);
            kie.answer(Answer::envelope(code, &format!("no: {text}")).with_header("retry-after", "60"));
            for reply in [sidecar.download_url(SOURCE).await, sidecar.link(SOURCE).await] {
                let told = reply.status >= 400 && !reply.body.contains("0123456789abcdef");
                assert!(told, "{code} {text}: {reply:?}");
            }
            assert!(kie.mints() >= 1);
        }
    }
}

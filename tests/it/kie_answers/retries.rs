//! When kie.ai is asked again, and when not.

use std::time::Duration;

use futures_util::{StreamExt, stream::FuturesUnordered};

use crate::support::{Answer, FakeKie, Problem, SOURCE, Sidecar};

#[tokio::test]
async fn what_may_pass_in_a_moment_is_asked_again() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::start(&kie);
    for (n, bad) in [
        Answer::envelope(500, "oops"),
        Answer::html(502),
        Answer::html(503),
        Answer::empty(),
        Answer::reset(),
        Answer::close(),
        Answer::link().with_header("content-length", "5000").then_close_silently(),
        Answer::body("x").with_header("content-encoding", "gzip"),
    ]
    .into_iter()
    .enumerate()
    {
        let source = format!("{SOURCE}?{n}");
        kie.answer_next([bad.clone()]);
        let reply = sidecar.link(&source).await;
        assert_eq!((reply.status, kie.mints_for(&source)), (200, 2), "{bad:?}: {reply:?}");
        assert!(reply.header("cache-status").starts_with("kielink; fwd=miss; stored; "), "{reply:?}");
    }
    assert_eq!(kie.max_in_flight_per_source(), 1);
}

#[tokio::test]
async fn an_attempt_that_times_out_is_followed_by_another() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::with(&kie, &[("upstream.attempt_timeout", "1s")]);
    kie.answer_next([Answer::hang()]);
    assert_eq!(sidecar.link(SOURCE).await.status, 200);
    assert_eq!((kie.mints(), kie.max_in_flight_per_source()), (2, 1));
}

#[tokio::test]
async fn what_is_decided_is_not_asked_again() {
    let kie = FakeKie::start();
    let elsewhere = FakeKie::start();
    for (n, bad) in [
        Answer::unauthorized(),
        Answer::html(401),
        Answer::banned(),
        Answer::envelope(402, "no credits"),
        Answer::envelope(500, "Credits insufficient"),
        Answer::envelope(404, "no file"),
        Answer::spring_404(),
        Answer::envelope(422, "url is wrong"),
        Answer::envelope(455, "maintenance"),
        Answer::data(serde_json::Value::Null),
        Answer::link_is("http://x.example/a"),
        Answer::echo_key(200),
        Answer::big(100_000),
        Answer::redirect(&elsewhere.mint_url()),
    ]
    .into_iter()
    .enumerate()
    {
        let sidecar = Sidecar::start(&kie);
        let source = format!("{SOURCE}?{n}");
        kie.answer_for(&source, bad.clone());
        let reply = sidecar.link(&source).await;
        assert!(reply.status >= 400, "{bad:?}");
        assert_eq!(kie.mints_for(&source), 1, "{bad:?}");
    }
}

#[tokio::test]
async fn kie_ai_is_asked_at_most_as_often_as_configured() {
    for attempts in [1, 2, 3] {
        let kie = FakeKie::start();
        let sidecar = Sidecar::with(&kie, &[("upstream.attempts", &attempts.to_string())]);
        kie.answer(Answer::envelope(500, "oops"));
        let reply = sidecar.link(SOURCE).await;
        Problem::error("upstream-error", Some(200)).code(500).assert_document("oops", &reply);
        assert_eq!(kie.mints(), attempts);
    }
}

#[tokio::test]
async fn retries_end_with_the_callers_patience() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::with(&kie, &[("upstream.attempts", "1000"), ("server.request_timeout", "600ms")]);
    kie.answer(Answer::envelope(500, "oops"));
    let reply = sidecar.link(SOURCE).await;
    assert!(matches!(reply.slug().as_str(), "timeout" | "upstream-error"), "{reply:?}");
    assert!(kie.mints() <= 4, "{} with growing pauses", kie.mints());
}

#[tokio::test]
async fn a_kept_connection_that_has_died_is_replaced_at_once_and_for_free() {
    // A peer that closed, and one that has forgotten the connection.
    for death in [Answer::close(), Answer::reset()] {
        let kie = FakeKie::start();
        let sidecar = Sidecar::with(&kie, &[("upstream.attempts", "1")]);
        kie.answer_next([Answer::link(), death.clone()]);
        assert_eq!(sidecar.link(SOURCE).await.status, 200);
        let source = format!("{SOURCE}?2");
        let reply = sidecar.link(&source).await;
        assert_eq!(reply.status, 200, "although one attempt is all it has: {death:?}");
        assert_eq!((kie.mints_for(&source), kie.connections()), (2, 2), "{death:?}");
    }
}

#[tokio::test]
async fn a_connection_that_keeps_dying_is_not_replaced_for_ever() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::with(&kie, &[("upstream.attempts", "1")]);
    kie.answer_next([Answer::link()]);
    kie.answer(Answer::close());
    assert_eq!(sidecar.link(SOURCE).await.status, 200);
    let source = format!("{SOURCE}?2");
    Problem::error("upstream-unreachable", None).assert_document("closed", &sidecar.link(&source).await);
    assert_eq!(kie.mints_for(&source), 2);
}

#[tokio::test]
async fn connections_that_kie_ai_closed_while_idle_do_no_harm() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::with(&kie, &[("upstream.attempts", "1")]);
    kie.answer(Answer::link().then_close_silently());
    for n in 0..5 {
        assert_eq!(sidecar.link(&format!("{SOURCE}?{n}")).await.status, 200);
    }
    kie.answer(Answer::link());
    assert_eq!(sidecar.link(SOURCE).await.status, 200);
    // All connections are reset; the pool may notice or not.
    kie.stop_listening();
    kie.listen_again();
    assert_eq!(sidecar.link(&format!("{SOURCE}?after")).await.status, 200);
}

#[tokio::test]
async fn all_who_wait_for_a_failing_mint_share_its_failure_and_its_retries() {
    let kie = FakeKie::start();
    kie.hold();
    kie.answer(Answer::envelope(500, "oops").after(Duration::from_millis(1)));
    let sidecar = Sidecar::with(&kie, &[("upstream.attempts", "2"), ("limits.in_flight", "3")]);
    let mut callers: FuturesUnordered<_> = (0..4).map(|_| sidecar.link(SOURCE)).collect();
    // Three may wait: when the fourth is told so, the other three are at it.
    assert_eq!(callers.next().await.unwrap().slug(), "overloaded");
    kie.release();
    while let Some(reply) = callers.next().await {
        Problem::error("upstream-error", Some(200)).code(500).assert_document("oops", &reply);
    }
    assert_eq!(kie.mints(), 2);
}

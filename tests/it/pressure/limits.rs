//! kie.ai says 429: nobody storms it, and whoever has patience gets a link.

use std::time::Duration;

use super::{ask_at_once, count, files, is_hit};
use crate::support::{Answer, FakeKie, SOURCE, Sidecar, within};

const LIMITED: Duration = Duration::from_secs(2);

/// kie.ai limits for two seconds from the first request on.
async fn limit_for_a_while(kie: &FakeKie) {
    kie.wait_for_mints(1).await;
    let began = tokio::time::Instant::now();
    within(2 * LIMITED, "two seconds have passed", async || began.elapsed() >= LIMITED).await;
    kie.answer(Answer::link());
}

/// Requests of the first two seconds.
fn calls_while_limited(kie: &FakeKie) -> usize {
    let requests = kie.requests();
    requests.iter().filter(|request| request.at <= requests[0].at + LIMITED).count()
}

/// It takes kie.ai a moment to say 429, as it does to make a link.
fn limited() -> Answer {
    Answer::too_frequent().after(Duration::from_millis(100))
}

#[tokio::test]
async fn a_hundred_callers_for_as_many_files_during_a_429_cost_few_calls_and_all_get_their_links() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::with(&kie, &[("upstream.rate", "100"), ("upstream.burst", "100")]);
    kie.answer(limited());
    let (replies, ()) = tokio::join!(ask_at_once(&sidecar, files(100)), limit_for_a_while(&kie));
    assert!(calls_while_limited(&kie) <= 4, "{}", calls_while_limited(&kie));
    assert_eq!(count(&replies, 200), 100, "{replies:?}");
    assert_eq!(kie.max_in_flight_per_source(), 1);
}

#[tokio::test]
async fn a_hundred_callers_for_one_file_during_a_429_cost_one_call_and_all_get_its_link() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::start(&kie);
    kie.answer(limited());
    let callers = ask_at_once(&sidecar, std::iter::repeat_n(SOURCE.to_owned(), 100));
    let (replies, ()) = tokio::join!(callers, limit_for_a_while(&kie));
    assert_eq!(calls_while_limited(&kie), 1);
    assert_eq!((count(&replies, 200), kie.mints()), (100, 2), "{replies:?}");
}

#[tokio::test]
async fn callers_without_patience_are_told_at_once_and_hits_go_on() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::with(&kie, &[("server.request_timeout", "1s")]);
    assert_eq!(sidecar.link(SOURCE).await.status, 200);
    kie.answer(limited());
    let (replies, hits) = tokio::join!(ask_at_once(&sidecar, files(100)), async {
        kie.wait_for_mints(2).await;
        ask_at_once(&sidecar, std::iter::repeat_n(SOURCE.to_owned(), 50)).await
    });
    assert_eq!(count(&replies, 429), 100, "{replies:?}");
    assert!(kie.mints() <= 1 + 4, "{}", kie.mints());
    assert!(hits.iter().all(is_hit), "{hits:?}");
}

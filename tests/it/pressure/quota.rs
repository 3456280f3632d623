//! The quota, as kie.ai sees it: by when requests arrive there.

use std::time::Duration;

use super::{ask_at_once, count, files};
use crate::support::{FakeKie, SOURCE, Sidecar};

const SECOND: Duration = Duration::from_secs(1);

#[tokio::test]
async fn three_hundred_cold_files_at_once_stay_within_the_quota_and_everybody_is_answered() {
    let kie = FakeKie::start();
    let settings = [("upstream.rate", "10"), ("upstream.burst", "10"), ("server.request_timeout", "5s")];
    let sidecar = Sidecar::with(&kie, &settings);
    let began = tokio::time::Instant::now();
    let replies = ask_at_once(&sidecar, files(300)).await;
    // A caller whose turn comes at the last moment may be answered a moment later, on a loaded machine.
    assert!(began.elapsed() < 6 * SECOND, "{:?}", began.elapsed());
    let (links, limited) = (count(&replies, 200), count(&replies, 429));
    assert_eq!(links + limited, 300, "{replies:?}");
    // Ten at once and ten a second for four and a half seconds, the last half being too late to begin.
    assert!((40..=55).contains(&links), "{links} links");
    assert_eq!(links, kie.mints(), "whoever had a turn had a link");
    assert_eq!(kie.max_in_flight_per_source(), 1);

    let arrivals: Vec<_> = kie.requests().iter().map(|request| request.at - kie.requests()[0].at).collect();
    let in_window = |from: Duration| arrivals.iter().filter(|at| (from..from + SECOND).contains(*at)).count();
    assert!(in_window(Duration::ZERO) <= 20, "{arrivals:?}");
    for second in 1..6 {
        assert!(in_window(SECOND * second) <= 10, "in second {second}: {arrivals:?}");
    }
    // Wherever a second begins. Requests that left evenly spaced may arrive closer together.
    for from in arrivals.iter().filter(|at| **at >= SECOND) {
        assert!(in_window(*from) <= 11, "from {from:?}: {arrivals:?}");
    }
}

#[tokio::test]
async fn retries_are_within_the_quota_too() {
    let kie = FakeKie::start();
    let settings = [("upstream.rate", "5"), ("upstream.burst", "2"), ("server.request_timeout", "2s")];
    let sidecar = Sidecar::with(&kie, &settings);
    // Every other request fails in a way that is worth a retry; the breaker never opens.
    kie.answer_next((0..60).map(|n| match n % 2 {
        0 => crate::support::Answer::envelope(500, "oops"),
        _ => crate::support::Answer::link(),
    }));
    let replies = ask_at_once(&sidecar, files(40)).await;
    assert!(count(&replies, 200) >= 4 && kie.mints() > count(&replies, 200), "{} mints: {replies:?}", kie.mints());
    let arrivals: Vec<_> = kie.requests().iter().map(|request| request.at).collect();
    for from in &arrivals {
        let seen = arrivals.iter().filter(|at| (*from..*from + SECOND).contains(*at)).count();
        assert!(seen <= 7, "{seen} in a second: {arrivals:?}");
    }
}

#[tokio::test]
async fn a_batch_of_cold_files_keeps_another_caller_waiting_for_a_turn_or_two() {
    let kie = FakeKie::start();
    let settings = [("upstream.rate", "5"), ("upstream.burst", "1"), ("server.shutdown_grace", "1s")];
    let sidecar = Sidecar::with(&kie, &settings);
    let cold: Vec<String> = (0..100).map(|n| format!("{SOURCE}?cold={n}")).collect();
    let body = serde_json::json!({ "urls": cold }).to_string();
    let batch = sidecar.send(sidecar.client().post(format!("{}/v1/links", sidecar.base_url())).body(body));
    let other = "https://file.kie.ai/another-caller-s";
    let asks = async {
        kie.wait_for_mints(3).await;
        let before = kie.mints();
        let reply = sidecar.link(other).await;
        assert_eq!(reply.status, 200, "{reply:?}");
        let minted = kie.requests().iter().position(|request| request.source.as_deref() == Some(other)).unwrap();
        assert!(minted < before + 4, "{} of the batch came first", minted - before);
    };
    tokio::select! {
        reply = batch => panic!("a hundred files at five a second: {reply:?}"),
        () = asks => {}
    }
}

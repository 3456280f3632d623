//! Callers who insist: a fresh link for each, for the price of one mint.

use std::time::Duration;

use futures_util::future::join_all;

use super::{ask_for, is_hit};
use crate::support::{Answer, FakeKie, Problem, Reply, SOURCE, Sidecar, encode, eventually};

async fn thirty(sidecar: &Sidecar, cache_control: &str) -> Vec<Reply> {
    join_all((0..30).map(async |_| ask_for(sidecar, SOURCE, cache_control).await)).await
}

#[tokio::test]
async fn thirty_callers_who_insist_at_once_share_one_mint() {
    for cache_control in ["no-cache", "max-age=0", "min-fresh=1140", "min-fresh=99999"] {
        let kie = FakeKie::start();
        let sidecar = Sidecar::start(&kie);
        let first = sidecar.link(SOURCE).await.json()["url"].clone();
        // Twice: the second crowd comes within `cache.force_interval`.
        for _ in 0..2 {
            for reply in thirty(&sidecar, cache_control).await {
                assert_eq!(reply.status, 200, "{cache_control}: {reply:?}");
                assert_ne!(reply.json()["url"], first, "{cache_control}");
            }
            assert_eq!(kie.mints(), 2, "{cache_control}");
        }
    }
}

#[tokio::test]
async fn thirty_callers_who_insist_on_a_cold_file_share_one_mint() {
    for cache_control in ["no-cache", "min-fresh=1140"] {
        let kie = FakeKie::start();
        let sidecar = Sidecar::start(&kie);
        // Twice: some of a crowd come when the link has just landed.
        for _ in 0..2 {
            for reply in thirty(&sidecar, cache_control).await {
                assert_eq!(reply.status, 200, "{cache_control}: {reply:?}");
            }
            assert_eq!(kie.mints(), 1, "{cache_control}");
        }
    }
}

#[tokio::test]
async fn a_link_that_is_younger_or_fresher_than_wanted_is_a_hit_and_any_other_is_minted_anew() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::with(&kie, &[("cache.force_interval", "0s")]);
    let check = async |cache_control: &str, mints: usize| {
        let source = format!("{SOURCE}?{}", encode(cache_control));
        // Age counts from before the mint was sent: so it is more than a second old when it comes.
        kie.answer_for(&source, Answer::link().after(Duration::from_millis(1100)));
        let first = sidecar.link(&source).await;
        kie.answer_for(&source, Answer::link());
        let reply = ask_for(&sidecar, &source, cache_control).await;
        assert_eq!(kie.mints_for(&source), 1 + mints, "{cache_control}: {reply:?}");
        assert_eq!(is_hit(&reply), mints == 0, "{cache_control}: {reply:?}");
        assert_eq!(reply.json()["url"] == first.json()["url"], mints == 0, "{cache_control}");
        if mints > 0 {
            assert!(reply.header("cache-status").starts_with("kielink; fwd=request; stored; ttl="), "{reply:?}");
        }
    };
    tokio::join!(
        check("max-age=600", 0),
        check("max-age=0", 1),
        check("max-age=1", 1),
        check("min-fresh=60", 0),
        check("min-fresh=1139", 1),
        check("min-fresh=1000, max-age=1", 1),
        check("max-stale=5", 0),
    );
}

#[tokio::test]
async fn one_file_is_minted_for_those_who_insist_once_per_interval() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::with(&kie, &[("cache.force_interval", "300ms")]);
    assert_eq!(sidecar.link(SOURCE).await.status, 200);
    eventually("it was minted four times", async || {
        assert_eq!(ask_for(&sidecar, SOURCE, "no-cache").await.status, 200);
        kie.mints() >= 4
    })
    .await;
    let requests = kie.requests();
    for pair in requests[1..].windows(2) {
        let apart = pair[1].at - pair[0].at;
        // Measured at kie.ai, where requests may arrive a little closer together than they left.
        assert!(apart > Duration::from_millis(250), "{apart:?}");
    }
    // One file's interval is nobody else's.
    let other = format!("{SOURCE}?other");
    for mints in [1, 2] {
        assert_eq!(sidecar.link(&other).await.status, 200);
        let before = kie.mints_for(&other);
        ask_for(&sidecar, &other, "no-cache").await;
        assert_eq!((before, kie.mints_for(&other)), (mints, 2));
    }
}

#[tokio::test]
async fn only_if_cached_never_asks_kie_ai() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::with(&kie, &[("cache.refresh_after", "1us")]);
    let ask = async |cache_control: &str| {
        let url = format!("{}{}", sidecar.base_url(), crate::interface::COMPAT);
        let body = serde_json::json!({ "url": SOURCE }).to_string();
        let envelope = sidecar.client().post(url).header("cache-control", cache_control).body(body);
        (ask_for(&sidecar, SOURCE, cache_control).await, sidecar.send(envelope).await)
    };
    let not_cached = Problem::refused("not-cached");
    let (document, envelope) = ask("only-if-cached").await;
    not_cached.assert_told("cold", &document, &envelope);
    assert_eq!(kie.mints(), 0);

    assert_eq!(sidecar.link(SOURCE).await.status, 200);
    let (document, envelope) = ask("only-if-cached, min-fresh=1000").await;
    assert!(is_hit(&document) && is_hit(&envelope), "{document:?}, {envelope:?}");
    let (document, envelope) = ask("only-if-cached, no-cache").await;
    not_cached.assert_told("there is one, but not as wanted", &document, &envelope);
    assert_eq!(kie.mints(), 1, "not even to refresh");
}

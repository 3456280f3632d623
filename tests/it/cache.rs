//! The cache and its flights, seen from outside: how often kie.ai is asked, and what callers get meanwhile.

use std::time::Duration;

use tokio::task::JoinSet;

use crate::support::{Answer, FakeKie, SOURCE, Sidecar, encode, eventually};

#[tokio::test]
async fn four_hundred_callers_for_one_cold_file_cost_one_mint() {
    let kie = FakeKie::start();
    kie.hold();
    let sidecar = Sidecar::start(&kie);
    let mut callers = JoinSet::new();
    for _ in 0..400 {
        let request = sidecar.client().get(format!("{}/v1/link?url={}", sidecar.base_url(), encode(SOURCE)));
        callers.spawn(async move { request.send().await.unwrap() });
    }
    kie.wait_for_mints(1).await;
    kie.release();
    let mut outcomes = Vec::new();
    while let Some(response) = callers.join_next().await {
        let response = response.unwrap();
        assert_eq!(response.status(), 200);
        outcomes.push(response.headers()["cache-status"].to_str().unwrap().to_owned());
    }
    assert_eq!(outcomes.len(), 400);
    assert_eq!(kie.mints(), 1);
    assert_eq!(outcomes.iter().filter(|status| status.contains("fwd=miss; stored")).count(), 1);
}

#[tokio::test]
async fn callers_that_hang_up_neither_cancel_nor_repeat_the_mint() {
    let kie = FakeKie::start();
    kie.hold();
    let sidecar = Sidecar::start(&kie);
    let mut callers = JoinSet::new();
    for _ in 0..20 {
        let request = sidecar.client().get(format!("{}/v1/link?url={}", sidecar.base_url(), encode(SOURCE)));
        callers.spawn(async move { request.send().await.map(|_| ()) });
    }
    kie.wait_for_mints(1).await;
    callers.shutdown().await;
    kie.release();
    eventually("the link is cached", async || sidecar.log_lines("minted").len() == 1).await;
    let reply = sidecar.link(SOURCE).await;
    assert!(reply.header("cache-status").starts_with("kielink; hit; ttl="), "{reply:?}");
    assert_eq!(kie.mints(), 1);
}

#[tokio::test]
async fn one_file_asked_in_every_way_and_spelling_costs_one_mint() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::start(&kie);
    let link = sidecar.link(SOURCE).await.json()["url"].as_str().unwrap().to_owned();
    assert_eq!(sidecar.download_url(SOURCE).await.json()["data"], link.as_str());
    let redirect = sidecar.get(&format!("/v1/redirect?url={}", encode(SOURCE))).await;
    assert_eq!((redirect.status, redirect.header("location")), (302, link.as_str()));
    for spelling in [
        "HTTPS://TempFile.AiQuickDraw.com/s/a.png",
        "https://tempfile.aiquickdraw.com:443/s/a.png",
        "https://tempfile.aiquickdraw.com/x/../s/./a.png",
        "https://tempfile.aiquickdraw.com/s/%61.png",
        "https://tempfile.aiquickdraw.com/s/a.png#top",
    ] {
        let reply = sidecar.link(spelling).await;
        assert_eq!(reply.json()["url"], link.as_str(), "{spelling}");
        assert_eq!(reply.json()["source_url"], SOURCE, "{spelling}");
    }
    assert_eq!(kie.mints(), 1);
    assert_eq!(kie.requests()[0].source.as_deref(), Some(SOURCE));
}

#[tokio::test]
async fn life_counts_from_before_the_mint_was_sent() {
    let kie = FakeKie::start();
    let sidecar =
        Sidecar::with(&kie, &[("cache.ttl", "4s"), ("cache.refresh_after", "3900ms"), ("cache.margin", "1s")]);
    kie.answer(Answer::link().after(Duration::from_secs(2)));
    let reply = sidecar.link(SOURCE).await;
    let max_age: u64 = reply.header("cache-control").strip_prefix("private, max-age=").unwrap().parse().unwrap();
    assert!(max_age <= 2, "{reply:?}");
    kie.answer(Answer::link());
    eventually("it is minted again", async || {
        sidecar.link(SOURCE).await;
        kie.mints() >= 2
    })
    .await;
    let times: Vec<_> = kie.requests().iter().map(|request| request.at).collect();
    let apart = times[1] - times[0];
    assert!(apart >= Duration::from_millis(3500) && apart < Duration::from_secs(6), "{apart:?}");
}

#[tokio::test]
async fn an_outage_within_the_refresh_window_is_not_noticed() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::with(&kie, &[("cache.refresh_after", "10ms")]);
    let link = sidecar.link(SOURCE).await.json()["url"].clone();
    kie.stop_listening();
    eventually("a refresh was tried and failed", async || {
        let reply = sidecar.link(SOURCE).await;
        assert_eq!((reply.status, &reply.json()["url"]), (200, &link));
        sidecar.log_lines("mint failed").len() >= 2
    })
    .await;
    assert!(sidecar.link(SOURCE).await.header("cache-status").ends_with("; detail=refresh"));
    kie.listen_again();
    eventually("the link is renewed", async || sidecar.link(SOURCE).await.json()["url"] != link).await;
}

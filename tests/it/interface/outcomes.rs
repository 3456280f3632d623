//! `Cache-Status`: one word for how an answer came about.

use futures_util::{StreamExt, stream::FuturesUnordered};

use crate::support::{Answer, FakeKie, Problem, Reply, SOURCE, Sidecar, eventually};

/// Without the seconds.
fn outcome(reply: &Reply) -> String {
    let status = reply.header("cache-status");
    let ttl = reply.header("cache-control").strip_prefix("private, max-age=").unwrap_or("none");
    status.replace(&format!("ttl={ttl}"), "ttl=N")
}

#[tokio::test]
async fn a_miss_is_stored_and_then_a_hit() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::start(&kie);
    assert_eq!(outcome(&sidecar.link(SOURCE).await), "kielink; fwd=miss; stored; ttl=N");
    assert_eq!(outcome(&sidecar.link(SOURCE).await), "kielink; hit; ttl=N");
    assert_eq!(outcome(&sidecar.download_url(SOURCE).await), "kielink; hit; ttl=N");
    let outcomes: Vec<_> = sidecar.log_lines("request").iter().map(|line| line["outcome"].clone()).collect();
    assert_eq!(outcomes, ["miss", "hit", "hit"], "the log has the same words");
}

#[tokio::test]
async fn past_the_refresh_point_a_hit_says_so() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::with(&kie, &[("cache.refresh_after", "1us")]);
    let first = sidecar.link(SOURCE).await;
    kie.hold();
    for _ in 0..3 {
        let reply = sidecar.link(SOURCE).await;
        assert_eq!(outcome(&reply), "kielink; hit; ttl=N; detail=refresh");
        assert_eq!(reply.json()["url"], first.json()["url"]);
    }
    kie.wait_for_mints(2).await;
    kie.release();
    eventually("the refreshed link is served", async || {
        sidecar.link(SOURCE).await.json()["url"] != first.json()["url"]
    })
    .await;
}

#[tokio::test]
async fn who_waits_for_anothers_mint_has_joined_it() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::with(&kie, &[("limits.in_flight", "2")]);
    for (n, answer) in [Answer::link(), Answer::envelope(422, "url is wrong")].into_iter().enumerate() {
        kie.hold();
        kie.answer(answer);
        let source = format!("{SOURCE}?{n}");
        let mut callers: FuturesUnordered<_> = (0..3).map(|_| sidecar.link(&source)).collect();
        // Two may wait: when the third is told so, the other two are at it.
        assert_eq!(callers.next().await.unwrap().slug(), "overloaded");
        kie.release();
        let (one, other) = (callers.next().await.unwrap(), callers.next().await.unwrap());
        if n == 0 {
            let mut outcomes = [outcome(&one), outcome(&other)];
            outcomes.sort();
            assert_eq!(outcomes, ["kielink; fwd=miss; collapsed; ttl=N", "kielink; fwd=miss; stored; ttl=N"]);
            assert_eq!(one.json()["url"], other.json()["url"]);
        } else {
            let refused = Problem::error("source-refused", Some(200)).code(422);
            refused.assert_document("one", &one);
            refused.assert_document("other", &other);
        }
        assert_eq!(kie.mints(), n + 1);
    }
}

#[tokio::test]
async fn over_the_limit_a_caller_is_refused_at_once_and_nobody_else_suffers() {
    let kie = FakeKie::start();
    kie.hold();
    let sidecar = Sidecar::with(&kie, &[("limits.in_flight", "1")]);
    let act = async {
        kie.wait_for_mints(1).await;
        let other = format!("{SOURCE}?other");
        let (document, envelope) = (sidecar.link(&other).await, sidecar.download_url(&other).await);
        Problem::refused("overloaded").assert_told("over limits.in_flight", &document, &envelope);
        assert_eq!(sidecar.get("/healthz").await.status, 200, "its health is that of the process, not its load");
        assert_eq!(sidecar.get_admin("/readyz").await.status, 200);
        kie.release();
    };
    let (first, ()) = tokio::join!(sidecar.link(SOURCE), act);
    assert_eq!(first.status, 200);
    assert_eq!(sidecar.link(&format!("{SOURCE}?other")).await.status, 200, "the place is free again");
}

//! The credits left are asked for once, whichever replica asks.

use tokio::task::JoinSet;

use super::{Fleet, ROOM, metric, source};
use crate::support::eventually;

const CREDIT: &str = "/api/v1/chat/credit";

fn asked(fleet: &Fleet) -> usize {
    fleet.kie.requests().iter().filter(|request| request.path == CREDIT).count()
}

#[tokio::test]
async fn a_fleet_that_starts_together_asks_once() {
    let settings = [ROOM[0], ROOM[1], ("upstream.credits_every", "5m")];
    let Some(mut fleet) = Fleet::of(3, &settings).await else { return };
    fleet.add(&settings);
    for replica in &fleet.replicas {
        eventually("the credits are known", async || metric(replica, "kielink_credits").await == "5916.25").await;
        let reply = replica.get(CREDIT).await;
        assert!(reply.header("cache-status").starts_with("kielink; hit; ttl="), "{reply:?}");
    }
    assert_eq!(asked(&fleet), 1);
    fleet.ended().await;
}

#[tokio::test]
async fn a_replica_s_answer_is_the_others_and_without_the_tier_each_asks_for_itself() {
    let Some(mut fleet) = Fleet::of(2, &[ROOM[0], ROOM[1]]).await else { return };
    let both = |fleet: &Fleet| [&fleet.replicas[0], &fleet.replicas[1]].map(|it| format!("{}{CREDIT}", it.base_url()));
    fleet.kie.hold();
    let mut callers = JoinSet::new();
    for url in both(&fleet) {
        let request = fleet.replicas[0].client().get(url);
        callers.spawn(async move { request.send().await.unwrap().status() });
    }
    eventually("one asks", async || asked(&fleet) == 1).await;
    fleet.kie.release();
    while let Some(status) = callers.join_next().await {
        assert_eq!(status.unwrap(), 200);
    }
    assert_eq!(asked(&fleet), 1, "the other one waited for it");
    fleet.server.kill();
    eventually("the tier is away", async || metric(&fleet.replicas[1], "kielink_shared_up").await == "0").await;
    eventually("what was seen is too old", async || {
        fleet.replicas[1].get(CREDIT).await.header("cache-status").contains("fwd=miss; stored")
    })
    .await;
    assert_eq!(fleet.replicas[1].link(&source(0)).await.status, 200);
    fleet.ended().await;
}

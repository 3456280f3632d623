//! One quota for a whole fleet.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::task::TaskTracker;

use super::{Fleet, link_path, source};
use crate::support::{Answer, eventually};

/// How many requests kie.ai has seen at most, beyond the rate and since any moment.
fn most_at_once(times: &[Duration], rate: f64) -> f64 {
    let mut most = 0.0f64;
    for (first, from) in times.iter().enumerate() {
        for (last, to) in times.iter().enumerate().skip(first) {
            let allowed = (*to - *from).as_secs_f64() * rate;
            most = most.max((last - first + 1) as f64 - allowed);
        }
    }
    most
}

async fn times(fleet: &Fleet) -> Vec<Duration> {
    let requests = fleet.kie.requests();
    let first = requests.iter().map(|request| request.at).min().unwrap();
    let mut times: Vec<_> = requests.iter().map(|request| request.at - first).collect();
    times.sort_unstable();
    times
}

/// Asks each replica for files that nobody has asked for, as many at once, for so long.
async fn ask_for_new_files(fleet: &Fleet, at_once: usize, for_how_long: Duration) -> usize {
    let mut asked = JoinSet::new();
    for (place, replica) in fleet.replicas.iter().enumerate() {
        for caller in 0..at_once {
            let client = replica.client().clone();
            let paths: Vec<_> = (0..2000).map(|n| link_path(replica, (place * 100 + caller) * 10_000 + n)).collect();
            asked.spawn(async move {
                let mut good = 0;
                let asking = async {
                    for path in paths {
                        let response = client.get(path).send().await.unwrap();
                        good += usize::from(response.status() == 200);
                    }
                };
                let _ = tokio::time::timeout(for_how_long, asking).await;
                good
            });
        }
    }
    asked.join_all().await.into_iter().sum()
}

#[tokio::test]
async fn ten_replicas_keep_one_rate() {
    let Some(fleet) = Fleet::of(10, &[("upstream.rate", "10"), ("upstream.burst", "20")]).await else { return };
    let good = ask_for_new_files(&fleet, 2, Duration::from_secs(5)).await;
    let times = times(&fleet).await;
    let burst = most_at_once(&times, 10.0);
    eprintln!(
        "{} requests in {:?}, {good} links; never more than 10 a second and {burst:.1}",
        times.len(),
        times.last()
    );
    assert!(burst <= 20.0, "{burst}");
    assert!(times.len() >= 40, "{}", times.len());
    fleet.ended().await;
}

#[tokio::test]
async fn ten_replicas_keep_one_rate_while_the_tier_is_away_and_when_it_is_back() {
    let Some(mut fleet) = Fleet::of(10, &[("upstream.rate", "10"), ("upstream.burst", "20")]).await else { return };
    ask_for_new_files(&fleet, 1, Duration::from_secs(2)).await;
    fleet.server.kill();
    let good = ask_for_new_files(&fleet, 1, Duration::from_secs(4)).await;
    fleet.server.restart();
    ask_for_new_files(&fleet, 1, Duration::from_secs(3)).await;
    let times = times(&fleet).await;
    let burst = most_at_once(&times, 10.0);
    eprintln!(
        "{} requests in {:?}, {good} while away; never more than 10 a second and {burst:.1}",
        times.len(),
        times.last()
    );
    assert!(burst <= 20.0, "{burst}");
    assert!(good >= 20, "{good}");
    fleet.ended().await;
}

#[tokio::test]
async fn a_429_to_one_replica_pauses_all() {
    let Some(fleet) = Fleet::of(3, &super::ROOM).await else { return };
    fleet.kie.answer(Answer::too_frequent());
    // It tries again after the pause; nobody waits for that here.
    let first = fleet.replicas[0].client().get(link_path(&fleet.replicas[0], 1)).send();
    let first = TaskTracker::new().spawn(first);
    fleet.kie.wait_for_mints(1).await;
    eventually("the pause is shared", async || !fleet.server.names("*}p").is_empty()).await;
    for replica in &fleet.replicas[1..] {
        eventually("the pause is heard", async || super::metric(replica, "kielink_upstream_paused").await == "1").await;
    }
    let began = fleet.kie.mints();
    fleet.kie.answer(Answer::link());
    let began_at = tokio::time::Instant::now();
    let reply = fleet.replicas[1].link(&source(2)).await;
    let waited = began_at.elapsed();
    eprintln!("waited {waited:?} for the end of another replica's pause");
    assert_eq!(reply.status, 200);
    assert!(waited > Duration::from_millis(200) && began == 1, "{waited:?}, {began}");
    assert_eq!(first.await.unwrap().unwrap().status(), 200);
    fleet.ended().await;
}

//! One quota for a whole fleet.

use std::time::Duration;

use tokio::task::JoinSet;
use tokio_util::task::TaskTracker;

use super::{Fleet, labelled, link_path, proxy::Proxy, server::Server, source};
use crate::support::{Answer, KEY, eventually};

/// How many requests kie.ai has seen at most, beyond the rate and since any moment.
pub(super) fn most_at_once(times: &[Duration], rate: f64) -> f64 {
    let (mut most, mut least_before) = (0.0f64, f64::INFINITY);
    for (place, at) in times.iter().enumerate() {
        // How many came before this one, less what the rate allows until then.
        let beyond = place as f64 - at.as_secs_f64() * rate;
        least_before = least_before.min(beyond);
        most = most.max(beyond - least_before + 1.0);
    }
    most
}

pub(super) async fn times(fleet: &Fleet) -> Vec<Duration> {
    let requests = fleet.kie.requests();
    let first = requests.iter().map(|request| request.at).min().unwrap();
    let mut times: Vec<_> = requests.iter().map(|request| request.at - first).collect();
    times.sort_unstable();
    times
}

/// Asks each replica for one file after the other, as many at once, for so long; the next time for the same ones, and more.
async fn ask_for_new_files(fleet: &Fleet, at_once: usize, for_how_long: Duration) -> usize {
    ask_some(fleet, fleet.replicas.len(), at_once, for_how_long).await
}

/// Asks so many of the replicas.
async fn ask_some(fleet: &Fleet, replicas: usize, at_once: usize, for_how_long: Duration) -> usize {
    let mut asked = JoinSet::new();
    for (place, replica) in fleet.replicas.iter().enumerate().take(replicas) {
        for caller in 0..at_once {
            let client = replica.client().clone();
            let paths: Vec<_> = (0..2000).map(|n| link_path(replica, (place * 100 + caller) * 10_000 + n)).collect();
            asked.spawn(async move {
                let mut good = 0;
                let asking = async {
                    for path in paths {
                        let response = client.get(path).send().await.unwrap();
                        good += usize::from(response.status() == 200);
                        // There is no room for another one that waits: it comes again when it is told to, or is ended before.
                        if let Some(retry_after) = response.headers().get("retry-after") {
                            let seconds = retry_after.to_str().unwrap().parse().unwrap();
                            tokio::time::sleep(Duration::from_secs(seconds)).await;
                        }
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
    let questions = async |operation| {
        let of_each =
            fleet.replicas.iter().map(|replica| labelled(replica, "kielink_shared_requests_total", operation));
        futures_util::future::join_all(of_each).await.into_iter().sum::<f64>()
    };
    let paid = questions("pay").await;
    fleet.server.restart();
    ask_for_new_files(&fleet, 1, Duration::from_secs(3)).await;
    assert!(questions("pay").await > paid, "what was sent while it was away is paid for");
    let taken = questions("take").await;
    ask_for_new_files(&fleet, 1, Duration::from_secs(2)).await;
    assert!(questions("take").await >= taken + 10.0, "it is asked for tokens again");
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

/// How many requests kie.ai has seen, and how many more at most than ten a second.
async fn seen(fleet: &Fleet) -> (usize, f64) {
    let times = times(fleet).await;
    let burst = most_at_once(&times, 10.0);
    eprintln!("{} requests in {:?}; never more than 10 a second and {burst:.1}", times.len(), times.last());
    (times.len(), burst)
}

#[tokio::test]
async fn six_hundred_callers_at_once_keep_the_rate() {
    let Some(fleet) = Fleet::of(10, &[("upstream.rate", "10"), ("upstream.burst", "20")]).await else { return };
    ask_for_new_files(&fleet, 60, Duration::from_secs(6)).await;
    let (requests, burst) = seen(&fleet).await;
    assert!(requests >= 60, "{requests}");
    assert!(burst <= 24.0, "{burst}");
    fleet.ended().await;
}

#[tokio::test]
async fn queues_that_are_full_when_the_tier_comes_back_keep_the_rate() {
    let settings = [("upstream.rate", "10"), ("upstream.burst", "20"), ("server.request_timeout", "10s")];
    let Some(mut fleet) = Fleet::of(10, &settings).await else { return };
    fleet.server.kill();
    // Flights go on without their callers.
    ask_for_new_files(&fleet, 14, Duration::from_secs(6)).await;
    fleet.server.restart();
    ask_for_new_files(&fleet, 14, Duration::from_secs(10)).await;
    let (requests, burst) = seen(&fleet).await;
    assert!(requests >= 120, "{requests}");
    assert!(burst <= 22.0, "{burst}");
    fleet.ended().await;
}

/// Three replicas' queues: the others must leave these what they still wait for, though the tier's bucket fills up meanwhile.
#[tokio::test]
async fn some_queues_that_are_full_when_the_tier_comes_back_keep_the_rate() {
    let settings = [("upstream.rate", "10"), ("upstream.burst", "20"), ("server.request_timeout", "20s")];
    let Some(mut fleet) = Fleet::of(10, &settings).await else { return };
    fleet.server.kill();
    // Flights go on without their callers.
    ask_some(&fleet, 3, 25, Duration::from_secs(2)).await;
    fleet.server.restart();
    ask_some(&fleet, 1, 1, Duration::from_secs(7)).await;
    ask_for_new_files(&fleet, 14, Duration::from_secs(8)).await;
    let (requests, burst) = seen(&fleet).await;
    assert!(requests >= 120, "{requests}");
    assert!(burst <= 25.0, "{burst}");
    fleet.ended().await;
}

#[tokio::test]
async fn queues_that_are_full_when_the_tier_forgets_keep_the_rate() {
    let settings = [("upstream.rate", "10"), ("upstream.burst", "20"), ("server.request_timeout", "10s")];
    let Some(fleet) = Fleet::of(10, &settings).await else { return };
    ask_for_new_files(&fleet, 14, Duration::from_secs(4)).await;
    fleet.server.run(&["FLUSHALL"]);
    ask_for_new_files(&fleet, 14, Duration::from_secs(10)).await;
    let (requests, burst) = seen(&fleet).await;
    assert!(requests >= 120, "{requests}");
    assert!(burst <= 22.0, "{burst}");
    fleet.ended().await;
}

/// With the defaults, each of 25 has a burst of one while the tier is away: five more than all of them together.
#[tokio::test]
async fn twenty_five_replicas_keep_one_rate_while_the_tier_is_away_and_when_it_is_back() {
    let Some(mut fleet) = Fleet::of(25, &[("upstream.rate", "10"), ("upstream.burst", "20")]).await else { return };
    ask_for_new_files(&fleet, 1, Duration::from_secs(1)).await;
    fleet.server.kill();
    ask_for_new_files(&fleet, 1, Duration::from_secs(4)).await;
    fleet.server.restart();
    ask_for_new_files(&fleet, 1, Duration::from_secs(3)).await;
    let (_, burst) = seen(&fleet).await;
    assert!(burst <= 25.0, "{burst}");
    fleet.ended().await;
}

/// Milliseconds for which a fleet's bucket is kept: an hour where it is full, and a period more for each token that is
/// missing.
fn kept(fleet: &Fleet, bucket: &str) -> i64 {
    redis::from_redis_value(fleet.server.run(&["PTTL", bucket])).unwrap()
}

const HOUR: i64 = 3_600_000;

/// Its count stays: of one that had given fewer tokens replicas would say how it was.
fn fill(fleet: &Fleet, bucket: &str) {
    assert_eq!(fleet.server.run(&["PEXPIRE", bucket, &HOUR.to_string()]), redis::Value::Int(1));
}

/// One a second, so that a token is worth a second of the bucket's life; and none for the credits left.
const SLOW: [(&str, &str); 3] = [("upstream.rate", "1"), ("upstream.burst", "20"), ("upstream.credits_every", "0s")];

#[tokio::test]
async fn a_token_that_the_tier_gives_late_is_the_one_that_is_paid_with() {
    let Some(server) = Server::start(&[]) else { return };
    let proxy = Proxy::before(server.port, &TaskTracker::new()).await;
    let url = format!("redis://127.0.0.1:{}", proxy.port);
    let fleet = Fleet::behind(server, url, 1, &[SLOW[0], SLOW[1], SLOW[2], ("shared.timeout", "600ms")]).await;
    let replica = &fleet.replicas[0];
    assert_eq!(replica.link(&source(0)).await.status, 200);
    let bucket = fleet.server.names("*}q").remove(0);
    fill(&fleet, &bucket);
    let beats = async |more: f64| {
        let until = labelled(replica, "kielink_shared_requests_total", "beat").await + more;
        eventually("it has beaten", async || labelled(replica, "kielink_shared_requests_total", "beat").await >= until)
            .await;
    };
    beats(2.0).await;
    let taken_before = labelled(replica, "kielink_shared_requests_total", "take").await;
    // LOOK is answered in time, and leaves too little for TAKE.
    proxy.delay(Duration::from_millis(350));
    let files: Vec<_> = (1..=6).map(source).collect();
    let replies = futures_util::future::join_all(files.iter().map(|file| replica.link(file))).await;
    assert!(replies.iter().all(|reply| reply.status == 200), "{replies:?}");
    proxy.delay(Duration::ZERO);
    // With these it would pay what it owed.
    beats(2.0).await;
    let missing = (kept(&fleet, &bucket) - HOUR) as f64 / 1030.0;
    let taken = labelled(replica, "kielink_shared_requests_total", "take").await - taken_before;
    eprintln!("{taken} tokens were given, {missing:.1} are missing some seconds later");
    assert_eq!((fleet.kie.mints(), taken), (7, 6.0));
    assert!(missing < 6.0, "{missing}");
    fleet.ended().await;
}

#[tokio::test]
async fn while_a_key_is_replaced_each_request_takes_a_token_of_both_quotas() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("key").display().to_string();
    std::fs::write(&path, format!("{KEY}-1\n")).unwrap();
    let settings = [SLOW[0], SLOW[1], SLOW[2], ("upstream.api_key_file", path.as_str())];
    let Some(fleet) = Fleet::of(1, &settings).await else { return };
    let replica = &fleet.replicas[0];
    assert_eq!(replica.link(&source(0)).await.status, 200);
    let old = fleet.server.names("*}q").remove(0);
    fill(&fleet, &old);
    std::fs::write(&path, format!("{KEY}-2\n")).unwrap();
    replica.reload();
    // Its next mint tries the new key, whose quota begins empty.
    eventually("the new key has minted", async || {
        assert_eq!(replica.link(&source(100 + fleet.kie.mints())).await.status, 200);
        let status = replica.get_admin("/status.json").await.json();
        status["key"]["on_trial"].is_null() && status["key"]["reloads"]["ok"] == 1
    })
    .await;
    // Its first mint may have been faster than its connection for that key.
    eventually("both have a quota", async || {
        assert_eq!(replica.link(&source(200 + fleet.kie.mints())).await.status, 200);
        fleet.server.names("*}q").len() == 2
    })
    .await;
    let buckets = fleet.server.names("*}q");
    for files in [1..=3, 4..=6] {
        buckets.iter().for_each(|bucket| fill(&fleet, bucket));
        for file in files {
            assert_eq!(replica.link(&source(file)).await.status, 200);
        }
        for bucket in &buckets {
            let missing = (kept(&fleet, bucket) - HOUR) as f64 / 1030.0;
            assert!((1.0..=3.0).contains(&missing), "{missing}");
        }
    }
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

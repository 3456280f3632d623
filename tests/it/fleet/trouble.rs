//! The tier is frozen, killed, forged: nobody's request fails.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tokio::task::JoinSet;
use tokio_util::task::TaskTracker;

use super::{Fleet, ROOM, link_path, metric, outcome, source};
use crate::support::{encode, eventually};

/// Callers that ask for ever new files, and count.
struct Load {
    stop: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
    callers: JoinSet<(usize, Duration)>,
}

impl Load {
    fn on(fleet: &Fleet) -> Load {
        let (stop, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(1)));
        let mut callers = JoinSet::new();
        for replica in &fleet.replicas {
            for _ in 0..3 {
                let (client, stop, asked) = (replica.client().clone(), Arc::clone(&stop), Arc::clone(&asked));
                let base = replica.base_url().to_owned();
                callers.spawn(async move {
                    let (mut failed, mut longest) = (0, Duration::ZERO);
                    while !stop.load(Ordering::Relaxed) {
                        // Now and then two ask for the same file.
                        let number = 10_000 + asked.fetch_add(1, Ordering::Relaxed) * 2 / 3;
                        let began = tokio::time::Instant::now();
                        let request = client.get(format!("{base}/v1/link?url={}", encode(&source(number))));
                        let response = request.send().await.unwrap();
                        failed += usize::from(response.status() != 200);
                        longest = longest.max(began.elapsed());
                    }
                    (failed, longest)
                });
            }
        }
        Load { stop, asked, callers }
    }

    /// Waits until so many more have been asked.
    async fn goes_on(&self, requests: usize) {
        let until = self.asked.load(Ordering::Relaxed) + requests;
        eventually("the callers go on", async || self.asked.load(Ordering::Relaxed) >= until).await;
    }

    /// How many requests there were, how many failed, and the longest.
    async fn ended(self) -> (usize, usize, Duration) {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.callers.join_all().await;
        let failed = ended.iter().map(|(failed, _)| failed).sum();
        (self.asked.load(Ordering::Relaxed), failed, ended.iter().map(|(_, longest)| *longest).max().unwrap())
    }
}

async fn is_used_again(fleet: &Fleet) {
    for replica in &fleet.replicas {
        eventually("the tier is used again", async || metric(replica, "kielink_shared_up").await == "1").await;
    }
    // The links of one are the others'.
    assert_eq!(fleet.replicas[0].link(&source(1)).await.status, 200);
    eventually("the other finds it", async || {
        let names = fleet.server.names("*1l.*").len();
        names > 0
    })
    .await;
    let found = fleet.replicas[1].link(&source(1)).await;
    assert_eq!(outcome(found.header("cache-status")), "kielink; hit; detail=shared");
}

/// The default, on a machine that may be busy.
const IMPATIENT: (&str, &str) = ("shared.timeout", "20ms");

#[tokio::test]
async fn a_tier_that_freezes_dies_or_forgets_fails_no_request() {
    let Some(mut fleet) = Fleet::of(3, &[ROOM[0], ROOM[1], IMPATIENT]).await else { return };
    let load = Load::on(&fleet);
    load.goes_on(800).await;
    fleet.server.freeze();
    load.goes_on(2400).await;
    fleet.server.thaw();
    load.goes_on(800).await;
    fleet.server.kill();
    load.goes_on(2400).await;
    fleet.server.restart();
    load.goes_on(800).await;
    fleet.server.kill();
    fleet.server.restart();
    load.goes_on(800).await;
    let (asked, failed, longest) = load.ended().await;
    eprintln!("{asked} requests, {failed} failed, the longest took {longest:?}; {} mints", fleet.kie.mints());
    assert_eq!(failed, 0);
    is_used_again(&fleet).await;
    fleet.ended().await;
}

#[tokio::test]
async fn a_tier_that_was_never_there_costs_nothing() {
    let Some(mut fleet) = Fleet::of(1, &ROOM).await else { return };
    fleet.server.kill();
    fleet.add(&ROOM);
    let alone = fleet.replicas.last().unwrap();
    for file in 0..20 {
        let reply = alone.link(&source(file)).await;
        assert_eq!(outcome(reply.header("cache-status")), "kielink; fwd=miss; stored");
    }
    assert_eq!(metric(alone, "kielink_shared_up").await, "0");
    let ready = alone.get_admin("/readyz?verbose").await;
    assert!(ready.status == 200 && ready.body.contains("[-]shared tier away: "), "{ready:?}");
    let path = format!("{}/v1/link?url={}", alone.admin_url(), encode(&source(0)));
    assert_eq!(alone.send(alone.client().delete(path)).await.body, r#"{"replicas":"unreachable"}"#);
    // What it minted meanwhile is put when the tier is there, but for what was forgotten.
    fleet.server.restart();
    eventually("19 links are put", async || fleet.server.names("*1l.*").len() == 19).await;
    fleet.ended().await;
}

#[tokio::test]
async fn what_is_forged_swapped_or_old_is_never_served() {
    let Some(mut fleet) = Fleet::of(1, &ROOM).await else { return };
    for file in 0..50 {
        assert_eq!(fleet.replicas[0].link(&source(file)).await.status, 200);
    }
    eventually("all are shared", async || fleet.server.names("*1l.*").len() == 50).await;
    let names = fleet.server.names("*1l.*");
    let values: Vec<_> = names.iter().map(|name| fleet.server.get(name).unwrap()).collect();
    for (place, name) in names.iter().enumerate() {
        let mut value = values[place].clone();
        match place % 5 {
            0 => value = values[(place + 1) % values.len()].clone(),
            1 => {
                let at = place * 7 % value.len();
                value[at] ^= 1 << (place % 8);
            }
            2 => value.truncate(place * 3),
            3 => value[2..18].copy_from_slice(b"0000ffffffffffff"),
            _ => value = b"1L0000019e70448800 and whatever".to_vec(),
        }
        fleet.server.set(name, &value);
    }
    fleet.add(&ROOM);
    fleet.is_whole().await;
    let other = fleet.replicas.last().unwrap();
    assert_eq!(other.link(&source(1000)).await.status, 200, "it knows kie.ai's clock now");
    let mints = fleet.kie.mints();
    for file in 0..50 {
        let reply = other.link(&source(file)).await;
        assert_eq!(outcome(reply.header("cache-status")), "kielink; fwd=miss; stored", "{file}");
    }
    assert_eq!(fleet.kie.mints(), mints + 50);
    let rejected = other.get_admin("/metrics").await.body;
    let count = |reason: &str| -> u64 {
        let start = format!("kielink_shared_rejected_total{{reason=\"{reason}\"}} ");
        rejected.lines().find_map(|line| line.strip_prefix(&start)).unwrap().parse().unwrap()
    };
    let all = count("tag") + count("malformed") + count("version");
    eprintln!(
        "50 spoilt values: {} by tag, {} malformed, {} by version",
        count("tag"),
        count("malformed"),
        count("version")
    );
    assert!(all >= 50, "{all}");
    // The names and values tell nothing.
    let names = fleet.server.names("*").into_iter().map(String::into_bytes);
    let shown = names.chain(values).flatten().collect::<Vec<_>>();
    let shown = String::from_utf8_lossy(&shown);
    assert!(!shown.contains("aiquickdraw") && !shown.contains("r2.cloudflarestorage") && !shown.contains("canary"));
    fleet.ended().await;
}

#[tokio::test]
async fn a_replica_that_ends_lets_its_files_go_and_says_goodbye() {
    let Some(mut fleet) = Fleet::of(2, &[ROOM[0], ROOM[1], ("server.shutdown_grace", "1s")]).await else { return };
    fleet.kie.hold();
    let mut ending = fleet.replicas.remove(0);
    let cut = TaskTracker::new().spawn(ending.client().get(link_path(&ending, 1)).send());
    fleet.kie.wait_for_mints(1).await;
    assert_eq!(fleet.server.names("*1w.*").len(), 1);
    ending.stopped().await;
    drop(cut.await);
    assert!(fleet.server.names("*1w.*").is_empty(), "the lease goes with it");
    let members = fleet.server.names("*}m");
    assert_eq!(fleet.server.run(&["ZCARD", &members[0]]), redis::Value::Int(1));
    fleet.kie.release();
    ending.ended().await;
    fleet.ended().await;
}

#[tokio::test]
async fn a_file_whose_holder_is_dead_or_hangs_is_minted_by_another_replica() {
    let Some(fleet) = Fleet::of(2, &ROOM).await else { return };
    let [one, other] = &fleet.replicas[..] else { panic!() };
    fleet.kie.hold();
    let file = source(1);
    let (first, second, took) = tokio::join!(
        one.link(&file),
        async {
            fleet.kie.wait_for_mints(1).await;
            other.link(&file).await
        },
        async {
            fleet.kie.wait_for_mints(1).await;
            let began = tokio::time::Instant::now();
            // It is held until four seconds after it was sent, and for a lease's life.
            fleet.kie.wait_for_mints(2).await;
            let hung = began.elapsed();
            fleet.kie.release();
            hung
        },
    );
    eprintln!("a mint that hangs was made again after {took:?}");
    assert_eq!((first.status, second.status), (200, 200));
    assert!((Duration::from_secs(4)..Duration::from_millis(6500)).contains(&took), "{took:?}");

    fleet.kie.hold();
    let (mints, file) = (fleet.kie.mints(), source(2));
    let (_, _, took) = tokio::join!(
        one.link(&file),
        async {
            fleet.kie.wait_for_mints(mints + 1).await;
            let leases = fleet.server.names("*1w.*");
            fleet.server.run(&["SET", &leases[0], "whoever.1", "PX", "2000"]);
            other.link(&file).await
        },
        async {
            fleet.kie.wait_for_mints(mints + 1).await;
            let began = tokio::time::Instant::now();
            fleet.kie.wait_for_mints(mints + 2).await;
            let dead = began.elapsed();
            fleet.kie.release();
            dead
        },
    );
    eprintln!("a dead replica's file was minted after {took:?}");
    assert!(took < Duration::from_millis(2300), "{took:?}");
    fleet.ended().await;
}

//! The tier is frozen, killed, forged: nobody's request fails.

use std::time::Duration;

use tokio_util::task::TaskTracker;

use super::{
    Fleet, PATIENT, ROOM, labelled, link_path,
    load::{Load, is_used_again},
    metric, outcome,
    proxy::{Manner, Proxy},
    server::Server,
    source,
};
use crate::support::{Sidecar, encode, eventually};

#[tokio::test]
async fn a_tier_that_freezes_dies_or_forgets_fails_no_request() {
    let Some(mut fleet) = Fleet::of(3, &[ROOM[0], ROOM[1], super::IMPATIENT]).await else { return };
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
    load.failed_none(&fleet).await;
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
async fn an_address_in_a_file_is_replaced_without_a_restart() {
    let Some(fleet) = Fleet::of(0, &[]).await else { return };
    let Some(other) = Server::start(&["--requirepass", "pass"]) else { return };
    let (folder, next) = (tempfile::tempdir().unwrap(), "next");
    let path = folder.path().join("url");
    let put = |text: &str| {
        std::fs::write(folder.path().join(next), text).unwrap();
        std::fs::rename(folder.path().join(next), &path).unwrap();
    };
    put(&fleet.url);
    let settings = [ROOM[0], ROOM[1], PATIENT, ("shared.url_file", path.to_str().unwrap())];
    let replica = Sidecar::with(&fleet.kie, &settings);
    let is_up = async || metric(&replica, "kielink_shared_up").await == "1";
    eventually("it is up", is_up).await;
    put("no address");
    let kept = "shared.url_file has no address; the one that it had is kept";
    eventually("it complains", async || replica.log_lines(kept).len() == 1).await;
    assert_eq!(replica.link(&source(1)).await.status, 200);
    eventually("the old one is used", async || !fleet.server.names("*1l.*").is_empty()).await;
    let url = format!("redis://:pass@127.0.0.1:{}", other.port);
    put(&format!("{url}\n"));
    let moved = "shared.url_file has another address; the shared tier is connected anew";
    eventually("it is taken", async || replica.log_lines(moved).len() == 1 && is_up().await).await;
    assert_eq!(replica.link(&source(2)).await.status, 200);
    let names = async || {
        let mut connection = redis::Client::open(url.as_str()).unwrap().get_connection().unwrap();
        redis::cmd("KEYS").arg("*1l.*").query::<Vec<String>>(&mut connection).unwrap()
    };
    eventually("the new one is used", async || names().await.len() == 1).await;
    assert_eq!(fleet.server.names("*1l.*").len(), 1);
    replica.ended().await;
    fleet.ended().await;
}

#[tokio::test]
async fn the_log_says_why_the_tier_does_not_come_back_once_for_each_reason() {
    let Some(fleet) = Fleet::of(1, &[ROOM[0], ROOM[1], PATIENT]).await else { return };
    let replica = &fleet.replicas[0];
    let mut connection = redis::Client::open(fleet.url.as_str()).unwrap().get_connection().unwrap();
    let mut run = |command: &[&str]| redis::cmd(command[0]).arg(&command[1..]).exec(&mut connection).unwrap();
    run(&["CONFIG", "SET", "requirepass", "pass"]);
    run(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
    let told = || {
        let lines = replica.log_lines("the shared tier is away; this replica does without it");
        lines.iter().map(|line| line["fault"].as_str().unwrap().to_owned()).collect::<Vec<_>>()
    };
    let reasons = ["the connection was lost", "it answers NOAUTH"];
    eventually("both are told", async || told() == reasons).await;
    run(&["CONFIG", "SET", "requirepass", ""]);
    eventually("it is back", async || metric(replica, "kielink_shared_up").await == "1").await;
    assert_eq!(told(), reasons);
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
async fn of_many_that_wait_for_a_mint_that_hangs_one_takes_it_over_and_the_others_wait_for_that_one() {
    let settings = [ROOM[0], ROOM[1], ("server.request_timeout", "6s")];
    let Some(fleet) = Fleet::of(5, &settings).await else { return };
    fleet.kie.hold();
    let (file, (one, others)) = (source(1), fleet.replicas.split_first().unwrap());
    let waiting = async {
        fleet.kie.wait_for_mints(1).await;
        futures_util::future::join_all(others.iter().map(|other| other.link(&file))).await
    };
    let polls = async || {
        let polls = others.iter().map(|other| labelled(other, "kielink_shared_requests_total", "poll"));
        futures_util::future::join_all(polls).await
    };
    let watching = async {
        // After half of their time.
        fleet.kie.wait_for_mints(2).await;
        let before = polls().await;
        eventually("three of four go on asking", async || {
            let more = polls().await.into_iter().zip(&before).filter(|(now, before)| *now >= **before + 4.0);
            more.count() == 3
        })
        .await;
        let mints = fleet.kie.mints();
        fleet.kie.release();
        mints
    };
    let (first, served, mints) = tokio::join!(one.link(&file), waiting, watching);
    assert_eq!(mints, 2);
    assert!(first.status == 200 && served.iter().all(|reply| reply.status == 200), "{served:?}");
    assert_eq!(fleet.kie.mints(), 2);
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

#[tokio::test]
async fn a_replica_that_comes_back_does_not_bring_back_what_was_forgotten_meanwhile() {
    let Some(server) = Server::start(&[]) else { return };
    let proxy = Proxy::before(server.port, &TaskTracker::new()).await;
    let url = server.url();
    let mut fleet = Fleet::behind(server, url, 1, &ROOM).await;
    fleet.url = format!("redis://127.0.0.1:{}", proxy.port);
    fleet.add(&ROOM);
    fleet.is_whole().await;
    let (stays, away) = (&fleet.replicas[0], &fleet.replicas[1]);
    proxy.set(Manner::Resets);
    eventually("it is cut off", async || metric(away, "kielink_shared_up").await == "0").await;
    let [forgotten, kept] = [1, 2].map(source);
    for file in [&forgotten, &kept] {
        assert_eq!(away.link(file).await.status, 200);
    }
    let path = format!("{}/v1/link?url={}", stays.admin_url(), encode(&forgotten));
    assert_eq!(stays.send(stays.client().delete(&path)).await.body, r#"{"replicas":"told"}"#);
    // After 20 s no tombstone is left.
    for tombstone in fleet.server.names("*}1d.*") {
        fleet.server.run(&["DEL", &tombstone]);
    }
    proxy.set(Manner::Honest);
    eventually("what it minted meanwhile is there", async || !fleet.server.names("*}1l.*").is_empty()).await;
    assert_eq!(fleet.server.names("*}1l.*").len(), 1, "but for what was forgotten");
    let known = away.get_admin(&format!("/v1/explain?url={}", encode(&forgotten))).await;
    assert_eq!(known.json()["state"], "absent");
    fleet.ended().await;
}

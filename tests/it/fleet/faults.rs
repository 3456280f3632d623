//! What befalls a tier: it is replaced, garbled, slow, full, and comes and goes. Nobody's request fails.

use std::time::Duration;

use tokio_util::task::TaskTracker;

use super::{
    Fleet, IMPATIENT, ROOM,
    load::{Load, is_used_again, is_used_in_the_end},
    metric,
    proxy::{Manner, Proxy},
    server::{Server, free_port},
    topology::{Cluster, Watched, says},
};
use crate::{
    process::child::Run,
    support::{FakeKie, SOURCE, eventually},
};

const ALL: [(&str, &str); 3] = [ROOM[0], ROOM[1], IMPATIENT];

#[tokio::test]
async fn sentinels_replace_a_frozen_master_under_load() {
    let Some(Watched { master, heir, sentinels }) = Watched::start().await else { return };
    let hosts: Vec<_> = sentinels.iter().map(|sentinel| format!("127.0.0.1:{}", sentinel.port)).collect();
    let url = format!("redis+sentinel://{}/mymaster", hosts.join(","));
    let mut fleet = Fleet::behind(master, url, 2, &ALL).await;
    let load = Load::on(&fleet);
    load.goes_on(300).await;
    sentinels[0].freeze();
    fleet.server.freeze();
    says(&heir, &["ROLE"], "master").await;
    load.goes_on(600).await;
    let before = heir.names("*1l.*").len();
    eventually("the heir has new links", async || heir.names("*1l.*").len() > before).await;
    load.failed_none(&fleet).await;
    is_used_again(&fleet).await;
    fleet.server = heir;
    fleet.ended().await;
}

#[tokio::test]
async fn a_cluster_replaces_the_frozen_owner_of_the_fleet_s_slot_under_load() {
    let Some(mut cluster) = Cluster::start().await else { return };
    let url = cluster.url();
    let stranger = cluster.nodes.pop().unwrap();
    let fleet = Fleet::behind(stranger, url, 2, &ALL).await;
    let load = Load::on(&fleet);
    load.goes_on(300).await;
    let place = cluster.nodes[..3].iter().position(|node| !node.names("*1l.*").is_empty()).unwrap();
    let heir = cluster.nodes.get(place + 3).unwrap_or(&fleet.server);
    cluster.nodes[place].freeze();
    says(heir, &["ROLE"], "master").await;
    let before = heir.names("*1l.*").len();
    eventually("the heir has new links", async || heir.names("*1l.*").len() > before).await;
    load.failed_none(&fleet).await;
    is_used_again(&fleet).await;
    fleet.ended().await;
}

#[tokio::test]
async fn whatever_stands_between_the_fleet_and_its_tier_fails_no_request() {
    let Some(server) = Server::start(&[]) else { return };
    let tasks = TaskTracker::new();
    let proxy = Proxy::before(server.port, &tasks).await;
    let url = format!("redis://127.0.0.1:{}", proxy.port);
    let fleet = Fleet::behind(server, url, 2, &[ROOM[0], ROOM[1], ("shared.timeout", "100ms")]).await;
    let load = Load::on(&fleet);
    for manner in [
        Manner::Swallows,
        Manner::Garbles,
        Manner::Doubles,
        Manner::Swaps,
        Manner::Floods,
        Manner::Promises,
        Manner::Closes,
        Manner::Resets,
    ] {
        load.goes_on(100).await;
        proxy.set(manner);
        load.goes_on(200).await;
        proxy.set(Manner::Honest);
    }
    // Within the patience with the tier for one question but not for two, and beyond it.
    for delay in [60, 130] {
        proxy.delay(Duration::from_millis(delay));
        load.goes_on(200).await;
    }
    proxy.delay(Duration::ZERO);
    load.failed_none(&fleet).await;
    is_used_again(&fleet).await;
    fleet.ended().await;
}

#[tokio::test]
async fn a_tier_that_comes_and_goes_every_300_ms_costs_few_callers_a_wait() {
    let Some(fleet) = Fleet::of(3, &ALL).await else { return };
    let load = Load::on(&fleet);
    let mut turns = tokio::time::interval(Duration::from_millis(300));
    for turn in 0..33 {
        turns.tick().await;
        if turn % 2 == 0 { fleet.server.freeze() } else { fleet.server.thaw() }
    }
    fleet.server.thaw();
    load.failed_none(&fleet).await;
    for replica in &fleet.replicas {
        let silences: f64 = metric(replica, "kielink_shared_silences_total").await.parse().unwrap();
        eprintln!("{silences} silences in ten seconds");
        // Each costs those a wait who ask at that moment; sixteen times it fell silent.
        assert!(silences <= 12.0, "{silences}");
    }
    is_used_in_the_end(&fleet).await;
    fleet.ended().await;
}

#[tokio::test]
async fn a_tier_that_takes_no_writes_or_is_full_fails_no_request() {
    let Some(fleet) = Fleet::of(2, &ALL).await else { return };
    let elsewhere = free_port().to_string();
    let load = Load::on(&fleet);
    for (ailing, fault, healthy) in [
        (&["REPLICAOF", "127.0.0.1", &elsewhere][..], "READONLY", &["REPLICAOF", "NO", "ONE"][..]),
        (&["CONFIG", "SET", "maxmemory", "1"], "OOM", &["CONFIG", "SET", "maxmemory", "0"]),
        (
            &["CONFIG", "SET", "min-replicas-to-write", "1"],
            "NOREPLICAS",
            &["CONFIG", "SET", "min-replicas-to-write", "0"],
        ),
        (&["CONFIG", "SET", "requirepass", "other"], "NOAUTH", &[]),
    ] {
        load.goes_on(200).await;
        fleet.server.run(ailing);
        if fault == "NOAUTH" {
            // Those who are in stay in.
            let client = redis::Client::open(format!("redis://:other@127.0.0.1:{}", fleet.server.port)).unwrap();
            let mut connection = client.get_connection().unwrap();
            redis::cmd("CLIENT").arg(&["KILL", "TYPE", "normal", "SKIPME", "yes"]).exec(&mut connection).unwrap();
            load.goes_on(200).await;
            redis::cmd("CONFIG").arg(&["SET", "requirepass", ""]).exec(&mut connection).unwrap();
            continue;
        }
        for replica in &fleet.replicas {
            eventually("the tier is away, and it is told why", async || {
                let ready = replica.get_admin("/readyz?verbose").await;
                ready.status == 200 && ready.body.contains(fault)
            })
            .await;
        }
        load.goes_on(200).await;
        fleet.server.run(healthy);
    }
    load.failed_none(&fleet).await;
    is_used_again(&fleet).await;
    fleet.ended().await;
}

#[tokio::test]
async fn a_tier_behind_tls_with_user_and_password_is_used_and_its_name_is_never_told() {
    let (kie, folder) = (FakeKie::start(), tempfile::tempdir().unwrap());
    let certified = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
    std::fs::write(path("cert"), certified.cert.pem()).unwrap();
    std::fs::write(path("key"), certified.signing_key.serialize_pem()).unwrap();
    let port = free_port();
    let (tls_port, cert, key) = (port.to_string(), path("cert"), path("key"));
    let settings = [
        "--tls-port",
        &tls_port,
        "--tls-cert-file",
        &cert,
        "--tls-key-file",
        &key,
        "--tls-auth-clients",
        "no",
        "--user",
        "kielink",
        "on",
        ">pass/word",
        "~{kl.*",
        "+@all",
    ];
    let Some(_server) = Server::start(&settings) else { return };
    let run = |host: &str, password: &str| {
        let url = format!("shared.url=rediss://kielink:{password}@{host}:{port}");
        let run = Run::serving(&kie, &["--set", &url, "--set", "shared.timeout=2s"]);
        run.env("SSL_CERT_FILE", path("cert"))
    };
    let (one, other) = tokio::join!(run("localhost", "pass%2Fword").ready(), run("localhost", "pass%2Fword").ready());
    for child in [&one, &other] {
        eventually("both are there", async || {
            child.get_admin("/readyz?verbose").await.body.contains("[+]shared tier up, 2 replicas")
        })
        .await;
    }
    assert_eq!(one.link(SOURCE).await.status, 200);
    eventually("the other one finds it", async || {
        let found = other.link(SOURCE).await;
        found.header("cache-status").contains("detail=shared") || found.header("cache-status").contains("hit")
    })
    .await;
    assert_eq!(kie.mints(), 1);
    for (host, password, fault) in [
        ("127.0.0.1", "pass%2Fword", "its certificate is for another name than the one by which it is reached"),
        ("localhost", "wrong", "it answers WRONGPASS"),
    ] {
        let child = run(host, password).ready().await;
        let ready = async || child.get_admin("/readyz?verbose").await.body;
        eventually("it is told", async || ready().await.contains(fault)).await;
        child.wait_for_log("the shared tier is away; this replica does without it").await;
        let line = child.log_lines("the shared tier is away; this replica does without it").remove(0).to_string();
        let told = format!("{}{line}", ready().await);
        assert!(!told.contains("localhost") && !told.contains("word\"") && !told.contains(&tls_port), "{told}");
        assert_eq!(child.link(SOURCE).await.status, 200);
    }
}

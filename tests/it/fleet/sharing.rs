//! One mint for a whole fleet, and what the others find.

use super::{Fleet, ROOM, labelled, metric, outcome, slow_mints, source};
use crate::support::{Answer, FakeKie, KEY, Sidecar, encode, eventually};

#[tokio::test]
async fn eight_replicas_that_are_asked_for_fifty_files_at_once_mint_each_once() {
    let Some(mut fleet) = Fleet::of(8, &ROOM).await else { return };
    slow_mints(&fleet.kie);
    let (links, found) = fleet.ask_all(50, 1).await;
    let mints = fleet.kie.mints();
    eprintln!("{mints} mints for 50 files and 400 callers: {found:?}");
    assert!((50..=55).contains(&mints), "{mints} mints");
    assert_eq!(links.len(), 50);
    assert!(links.values().all(|links| links.len() == 1) || mints > 50, "each file has one link: {links:?}");
    fleet.add(&ROOM);
    fleet.is_whole().await;
    let ninth = fleet.replicas.last().unwrap();
    // It shows what kie.ai's clock shows.
    assert_eq!(ninth.link(&source(1000)).await.status, 200);
    for file in 0..50 {
        let reply = ninth.link(&source(file)).await;
        assert_eq!(outcome(reply.header("cache-status")), "kielink; hit; detail=shared", "{reply:?}");
        assert!(links[&file].contains(&reply.json()["url"].as_str().unwrap().to_owned()));
        let again = ninth.link(&source(file)).await;
        assert_eq!(outcome(again.header("cache-status")), "kielink; hit", "it is in memory now");
    }
    assert_eq!(fleet.kie.mints(), mints + 1);
    fleet.ended().await;
}

#[tokio::test]
async fn a_refusal_is_heard_by_all_and_so_is_a_failure_by_those_who_wait() {
    let Some(fleet) = Fleet::of(2, &ROOM).await else { return };
    let [one, other] = &fleet.replicas[..] else { panic!() };
    fleet.kie.answer(Answer::envelope(422, "no such thing"));
    assert_eq!(one.link(&source(1)).await.slug(), "source-refused");
    let mints = fleet.kie.mints();
    eventually("the refusal is shared", async || !fleet.server.names("*1l.*").is_empty()).await;
    // A first answer shows the other one kie.ai's clock.
    assert_eq!(other.link(&source(2)).await.slug(), "source-refused");
    let told = other.link(&source(1)).await;
    assert_eq!(told.slug(), "source-refused");
    assert_eq!(outcome(told.header("cache-status")), "kielink; hit; detail=negative");
    assert_eq!(fleet.kie.mints(), mints + 1);

    fleet.kie.answer(Answer::envelope(501, "it will not be done").after(std::time::Duration::from_millis(300)));
    let third = source(3);
    let (first, second) = tokio::join!(one.link(&third), async {
        fleet.kie.wait_for_mints(mints + 2).await;
        other.link(&third).await
    });
    assert_eq!((first.slug().as_str(), second.slug().as_str()), ("upstream-error", "upstream-error"));
    assert_eq!(fleet.kie.mints(), mints + 2, "the second one has heard why the first one failed");
    fleet.ended().await;
}

#[tokio::test]
async fn who_insists_gets_a_newer_link_from_the_fleet_or_from_kie_ai() {
    let Some(fleet) = Fleet::of(2, &[ROOM[0], ROOM[1], ("cache.force_interval", "0s")]).await else { return };
    let [one, other] = &fleet.replicas[..] else { panic!() };
    let path = format!("/v1/link?url={}", encode(&source(1)));
    assert_eq!(other.link(&source(2)).await.status, 200, "it knows kie.ai's clock now");
    let first = one.link(&source(1)).await;
    eventually("it is shared", async || fleet.server.names("*1l.*").len() == 2).await;
    let content = other.get_with(&path, "cache-control", "max-age=60").await;
    assert_eq!(outcome(content.header("cache-status")), "kielink; hit; detail=shared");
    assert_eq!(content.json()["url"], first.json()["url"]);
    let newer = other.get_with(&path, "cache-control", "no-cache").await;
    assert_eq!(outcome(newer.header("cache-status")), "kielink; fwd=request; stored");
    assert_ne!(newer.json()["url"], first.json()["url"]);
    fleet.ended().await;
}

#[tokio::test]
async fn what_one_replica_forgets_is_forgotten_by_all_and_no_flight_brings_it_back() {
    let Some(fleet) = Fleet::of(3, &ROOM).await else { return };
    let (links, _) = fleet.ask_all(1, 1).await;
    assert_eq!(links[&0].len(), 1);
    let path = format!("{}/v1/link?url={}", fleet.replicas[0].admin_url(), encode(&source(0)));
    let forgotten = fleet.replicas[0].send(fleet.replicas[0].client().delete(&path)).await;
    assert_eq!((forgotten.status, forgotten.body.as_str()), (200, r#"{"replicas":"told"}"#));
    for replica in &fleet.replicas {
        eventually("it is forgotten", async || {
            let known = replica.get_admin(&format!("/v1/explain?url={}", encode(&source(0)))).await;
            known.json()["state"] == "absent"
        })
        .await;
    }
    // A mint that was under way when the file was forgotten.
    fleet.kie.hold();
    let mints = fleet.kie.mints();
    let file = source(0);
    let (minted, ()) = tokio::join!(fleet.replicas[1].link(&file), async {
        fleet.kie.wait_for_mints(mints + 1).await;
        fleet.replicas[0].send(fleet.replicas[0].client().delete(&path)).await;
        // The other replica hears of it.
        tokio::time::sleep(std::time::Duration::from_millis(1500)).await;
        fleet.kie.release();
    });
    assert_eq!(minted.status, 200);
    tokio::time::sleep(std::time::Duration::from_millis(200)).await;
    assert!(fleet.server.names("*1l.*").is_empty(), "its flight does not bring it back");
    let anew = fleet.replicas[1].link(&source(0)).await;
    assert_ne!(anew.json()["url"], minted.json()["url"]);
    fleet.ended().await;
}

#[tokio::test]
async fn metrics_and_status_tell_of_the_fleet() {
    let Some(fleet) = Fleet::of(2, &ROOM).await else { return };
    let one = &fleet.replicas[0];
    assert_eq!(metric(one, "kielink_shared_up").await, "1");
    assert_eq!(metric(one, "kielink_mints_duplicate_total").await, "0");
    let ready = one.get_admin("/readyz?verbose").await.body;
    assert!(ready.contains("[+]shared tier up, 2 replicas\n"), "{ready}");
    let status = one.get_admin("/status.json").await.json();
    assert_eq!(status["shared"]["members"].as_array().unwrap().len(), 2, "{status}");
    assert_eq!((&status["shared"]["state"], &status["settings"]["shared.url"]), (&"up".into(), &"\"redis\"".into()));
    fleet.ended().await;
}

#[tokio::test]
async fn replicas_that_disagree_about_the_rate_say_so() {
    let Some(mut fleet) = Fleet::of(1, &ROOM).await else { return };
    fleet.add(&[("upstream.rate", "7"), ("upstream.burst", "7")]);
    fleet.is_whole().await;
    let shared = async |replica: &Sidecar| replica.get_admin("/status.json").await.json()["shared"].take();
    for replica in &fleet.replicas {
        eventually("it knows what each has said", async || {
            shared(replica).await["warning"] == "replicas disagree about upstream.rate"
        })
        .await;
        let said = shared(replica).await;
        let mut rates: Vec<_> = said["members"].as_array().unwrap().iter().map(|member| &member["rate"]).collect();
        rates.sort_by_key(|rate| rate.as_u64());
        assert_eq!(rates, [7, 1000], "{said}");
        let page = replica.get_admin("/status").await.body;
        assert!(page.contains(said["id"].as_str().unwrap()), "{page}");
        assert!(page.contains("replicas disagree about upstream.rate"));
    }
    // Whoever is alone agrees.
    fleet.replicas.remove(1).ended().await;
    eventually("the other one has gone", async || shared(&fleet.replicas[0]).await["warning"].is_null()).await;
    fleet.ended().await;
}

/// The links of a batch, in the order asked.
async fn batch(replica: &Sidecar, urls: &[String]) -> Vec<String> {
    let request = replica.client().post(format!("{}/v1/links", replica.base_url()));
    let reply = replica.send(request.body(serde_json::json!({ "urls": urls }).to_string())).await;
    let items = reply.json()["links"].as_array().unwrap().clone();
    items.iter().map(|item| item["url"].as_str().unwrap().to_owned()).collect()
}

#[tokio::test]
async fn a_batch_asks_the_tier_for_all_its_files_at_once() {
    let Some(fleet) = Fleet::of(2, &ROOM).await else { return };
    let urls: Vec<_> = (0..100).map(source).collect();
    let first = batch(&fleet.replicas[0], &urls).await;
    eventually("all are shared", async || fleet.server.names("*1l.*").len() == 100).await;
    assert_eq!(batch(&fleet.replicas[1], &urls).await, first);
    assert_eq!(fleet.kie.mints(), 100);
    let metrics = fleet.replicas[1].get_admin("/metrics").await.body;
    for line in [
        "kielink_shared_requests_total{operation=\"peek\",result=\"ok\"} 2",
        "kielink_shared_requests_total{operation=\"look\",result=\"ok\"} 0",
        "kielink_batch_items_total{outcome=\"shared\"} 100",
    ] {
        assert!(metrics.lines().any(|shown| shown == line), "{line} in {metrics}");
    }
    fleet.ended().await;
}

#[tokio::test]
async fn a_batch_finds_what_other_replicas_minted_with_the_key_that_is_being_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let path = |replica: usize| folder.path().join(replica.to_string()).display().to_string();
    let Some(mut fleet) = Fleet::of(0, &[]).await else { return };
    for replica in 0..2 {
        std::fs::write(path(replica), format!("{KEY}-1\n")).unwrap();
        fleet.add(&[ROOM[0], ROOM[1], ("upstream.api_key_file", &path(replica))]);
    }
    fleet.is_whole().await;
    let urls: Vec<_> = (0..70).map(source).collect();
    let first = batch(&fleet.replicas[0], &urls).await;
    eventually("all are shared", async || fleet.server.names("*1l.*").len() == 70).await;
    std::fs::write(path(1), format!("{KEY}-2\n")).unwrap();
    fleet.replicas[1].reload();
    eventually("the new key has minted", async || {
        let number = 100 + fleet.kie.mints();
        assert_eq!(fleet.replicas[1].link(&source(number)).await.status, 200);
        let status = fleet.replicas[1].get_admin("/status.json").await.json();
        status["key"]["on_trial"].is_null() && status["key"]["reloads"]["ok"] == 1
    })
    .await;
    let asked = async |operation: &str| labelled(&fleet.replicas[1], "kielink_shared_requests_total", operation).await;
    let (mints, looks, peeks) = (fleet.kie.mints(), asked("look").await, asked("peek").await);
    let found = batch(&fleet.replicas[1], &urls).await;
    assert_eq!((found, fleet.kie.mints()), (first, mints));
    // Two trips for each key.
    assert_eq!((asked("look").await, asked("peek").await), (looks, peeks + 4.0));
    fleet.ended().await;
}

#[tokio::test]
async fn a_key_is_replaced_replica_by_replica_and_nobody_notices() {
    let folder = tempfile::tempdir().unwrap();
    let put = |replica: usize, key: usize| {
        let (path, next) = (folder.path().join(replica.to_string()), folder.path().join("next"));
        std::fs::write(&next, format!("{KEY}-{key}\n")).unwrap();
        std::fs::rename(next, &path).unwrap();
        path.display().to_string()
    };
    let Some(mut fleet) = Fleet::of(0, &[]).await else { return };
    for replica in 0..3 {
        let path = put(replica, 1);
        fleet.add(&[ROOM[0], ROOM[1], ("upstream.api_key_file", &path)]);
    }
    fleet.is_whole().await;
    let (links, _) = fleet.ask_all(5, 1).await;
    assert_eq!(fleet.kie.mints(), 5);
    for replica in 0..3 {
        put(replica, 2);
        fleet.replicas[replica].reload();
        // Its next mint tries the new key.
        eventually("the new key has minted", async || {
            let number = 100 + fleet.kie.mints();
            assert_eq!(fleet.replicas[replica].link(&source(number)).await.status, 200);
            let status = fleet.replicas[replica].get_admin("/status.json").await.json();
            status["key"]["on_trial"].is_null() && status["key"]["reloads"]["ok"] == 1
        })
        .await;
    }
    let mints = fleet.kie.mints();
    let (after, _) = fleet.ask_all(5, 1).await;
    assert_eq!((after, fleet.kie.mints()), (links, mints), "what is in memory stays");
    fleet.is_whole().await;
    // All of them are in the new namespace.
    let (new, _) = {
        let (mut found, mut outcomes) = (Vec::new(), Vec::new());
        let before = fleet.server.names("*1l.*").len();
        for replica in &fleet.replicas {
            let reply = replica.link(&source(7)).await;
            outcomes.push(outcome(reply.header("cache-status")));
            found.push(reply.json()["url"].as_str().unwrap().to_owned());
            // It is put behind the answer.
            eventually("it lies there", async || fleet.server.names("*1l.*").len() > before).await;
        }
        assert_eq!(outcomes[1..], ["kielink; hit; detail=shared", "kielink; hit; detail=shared"]);
        (found, outcomes)
    };
    assert!(new.iter().all(|link| *link == new[0]), "{new:?}");
    assert_eq!(fleet.kie.mints(), mints + 1);
    fleet.ended().await;
}

#[tokio::test]
async fn a_file_of_a_task_is_shared_by_its_task() {
    let Some(fleet) = Fleet::of(2, &ROOM).await else { return };
    let [one, other] = &fleet.replicas[..] else { panic!() };
    let path = |task: &str| format!("/v1/link?url={}&task_id={task}", encode(&source(1)));
    assert_eq!(other.link(&source(2)).await.status, 200, "it knows kie.ai's clock now");
    let first = one.get(&path("task12345")).await;
    eventually("it is shared", async || fleet.server.names("*1l.*").len() == 2).await;
    let found = other.get(&path("task12345")).await;
    assert_eq!(outcome(found.header("cache-status")), "kielink; hit; detail=shared");
    assert_eq!((&found.json()["url"], &found.json()["task_id"]), (&first.json()["url"], &"task12345".into()));
    for (what, reply) in [("without it", other.link(&source(1)).await), ("another", other.get(&path("task1")).await)] {
        assert_eq!(outcome(reply.header("cache-status")), "kielink; fwd=miss; stored", "{what}");
        assert_ne!(reply.json()["url"], first.json()["url"], "{what}");
    }
    assert_eq!(fleet.kie.mints(), 4);
    fleet.ended().await;
}

#[tokio::test]
async fn a_kielink_by_itself_has_no_task_for_a_fleet() {
    // kie.ai's gate, the look at what is old, the watches of the key and of kie.ai's clock, the page's figures, the log's
    // sums, and the listener.
    const BY_ITSELF: usize = 7;
    let kie = FakeKie::start();
    let mut by_itself = Sidecar::start(&kie);
    eventually("it serves", async || by_itself.get("/healthz").await.status == 200).await;
    eventually("it has these tasks and no other", async || by_itself.tasks() == BY_ITSELF).await;
    by_itself.stopped().await;
    let Some(fleet) = Fleet::of(1, &ROOM).await else { return };
    assert!(fleet.replicas[0].tasks() > BY_ITSELF, "a fleet's tasks would be counted");
    fleet.ended().await;
}

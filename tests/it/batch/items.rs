//! What each item of a batch is told, whatever becomes of the others.

use std::time::Duration;

use serde_json::Value;

use super::{batch, batch_with, items, slug};
use crate::support::{Answer, FakeKie, Reply, SOURCE, Sidecar, encode, eventually};

#[tokio::test]
async fn links_come_in_the_order_asked_whatever_the_order_of_their_mints() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::start(&kie);
    let sources: Vec<_> = (0..9).map(|n| format!("{SOURCE}?{n}")).collect();
    // Some are in memory already, and of the others each is minted faster than the one before it.
    for n in [1, 4, 8] {
        assert_eq!(sidecar.link(&sources[n]).await.status, 200);
    }
    for (n, source) in sources.iter().enumerate() {
        kie.answer_for(source, Answer::link().after(Duration::from_millis(90 - 10 * n as u64)));
    }
    let urls: Vec<_> = sources.iter().map(String::as_str).collect();
    let items = batch(&sidecar, &urls).await;
    assert_eq!(items.iter().map(|item| item["source_url"].as_str().unwrap()).collect::<Vec<_>>(), urls);
    for (item, source) in items.iter().zip(&sources) {
        assert_eq!(slug(item), None);
        assert_eq!(item["url"], sidecar.link(source).await.json()["url"], "what a single request is told");
    }
    assert_eq!(kie.mints(), 9);
}

#[tokio::test]
async fn a_link_that_waits_for_slower_ones_tells_its_real_end() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::start(&kie);
    let end = |item: &Value| item["expires_at"].as_str().unwrap().parse::<jiff::Timestamp>().unwrap();
    let alone = end(&sidecar.link(SOURCE).await.json());
    kie.answer(Answer::link().after(Duration::from_millis(2100)));
    let items = batch(&sidecar, &[SOURCE, "https://file.kie.ai/slow"]).await;
    // Seconds are cut, and the cut may fall either way.
    assert!(end(&items[0]).duration_since(alone).as_secs().abs() <= 1, "{items:?}, {alone}");
}

#[tokio::test]
async fn a_link_that_died_while_it_waited_for_slower_ones_is_not_handed_out() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::with(&kie, &[("cache.ttl", "3s"), ("cache.refresh_after", "2999ms")]);
    let first = sidecar.link(SOURCE).await.json();
    kie.hold();
    // So that the slower one's own link outlives it by that.
    eventually("the first is a second old", async || {
        let known = sidecar.get_admin(&format!("/v1/explain?url={}", encode(SOURCE))).await.json();
        known["entry"]["age_seconds"] == 1
    })
    .await;
    let (items, ()) = tokio::join!(batch(&sidecar, &[SOURCE, "https://file.kie.ai/slow"]), async {
        kie.wait_for_mints(2).await;
        eventually("the first is dead", async || {
            let request = sidecar.client().get(format!("{}/v1/link?url={}", sidecar.base_url(), encode(SOURCE)));
            sidecar.send(request.header("cache-control", "only-if-cached")).await.status == 504
        })
        .await;
        kie.release();
    });
    assert_eq!(items.iter().map(slug).collect::<Vec<_>>(), [None; 2]);
    assert_ne!(items[0]["url"], first["url"]);
    assert_eq!(kie.mints_for(SOURCE), 2);
}

#[tokio::test]
async fn duplicates_cost_one_mint_and_are_each_answered() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::start(&kie);
    let spelled = "HTTPS://TempFile.AiQuickDraw.com:443/s/./a.png#top";
    for _ in 0..2 {
        let items = batch(&sidecar, &[SOURCE, spelled, SOURCE, SOURCE, spelled]).await;
        assert_eq!(items.len(), 5);
        for item in &items {
            assert_eq!((slug(item), &item["source_url"]), (None, &SOURCE.into()), "normalised");
            assert_eq!(item["url"], kie.links_given()[0].as_str());
        }
    }
    assert_eq!(kie.mints(), 1);
}

#[tokio::test]
async fn one_bad_item_harms_no_other_and_is_told_what_a_single_request_would_be() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::with(&kie, &[("upstream.attempts", "1"), ("server.request_timeout", "1s")]);
    let source = |name: &str| format!("{SOURCE}?{name}");
    let (refused, unknown, failing, silent) =
        (source("refused"), source("unknown"), source("failing"), source("silent"));
    kie.answer_for(&refused, Answer::envelope(422, "url is wrong"));
    kie.answer_for(&unknown, Answer::envelope(404, "no file"));
    kie.answer_for(&failing, Answer::envelope(500, "oops"));
    kie.answer_for(&silent, Answer::hang());
    let long = format!("{SOURCE}?{}", "a".repeat(4096));
    let good = source("good");
    let bad = [
        ("", "invalid-source-url"),
        ("nonsense", "invalid-source-url"),
        ("ftp://tempfile.aiquickdraw.com/a", "invalid-source-url"),
        ("https://user:pass@tempfile.aiquickdraw.com/a", "invalid-source-url"),
        ("https://tempfile.aiquickdraw.com/a\nb", "invalid-source-url"),
        (&long, "invalid-source-url"),
        ("https://elsewhere.example/a", "source-not-allowed"),
        (&refused, "source-refused"),
        (&unknown, "source-not-found"),
        (&failing, "upstream-error"),
        (&silent, "timeout"),
    ];
    // A good one before, between and after all of them.
    let urls: Vec<_> = bad.iter().flat_map(|(source, _)| [good.as_str(), source]).chain([SOURCE]).collect();
    let same_id = [("x-request-id", "the-same")];
    let reply = batch_with(&sidecar, &urls, &same_id).await;
    let items = items(&reply);
    assert_eq!(items.len(), urls.len());
    for (n, (source, expected)) in bad.iter().enumerate() {
        assert_eq!(
            (slug(&items[2 * n]), &items[2 * n]["source_url"]),
            (None, &good.as_str().into()),
            "before {source}"
        );
        let item = &items[2 * n + 1];
        assert_eq!((slug(item), &item["source_url"]), (Some(*expected), &(*source).into()));
        if *expected != "timeout" {
            let url = format!("{}/v1/link?url={}", sidecar.base_url(), encode(source));
            let single = sidecar.send(sidecar.client().get(url).header("x-request-id", "the-same")).await;
            assert_eq!(item["error"], single.json(), "{source}");
        }
        assert_eq!(item["error"]["request_id"], reply.header("x-request-id"));
    }
    assert_eq!(slug(items.last().unwrap()), None);
    assert_eq!(kie.mints_for(&good), 1);
}

#[tokio::test]
async fn more_files_than_the_budget_has_room_for_are_told_so_one_by_one() {
    let kie = FakeKie::start();
    let settings = [("upstream.rate", "5"), ("upstream.burst", "5"), ("server.request_timeout", "1s")];
    let sidecar = Sidecar::with(&kie, &settings);
    let sources: Vec<_> = (0..50).map(|n| format!("{SOURCE}?{n}")).collect();
    let items = batch(&sidecar, &sources.iter().map(String::as_str).collect::<Vec<_>>()).await;
    let links = items.iter().filter(|item| slug(item).is_none()).count();
    assert!(items.iter().all(|item| matches!(slug(item), None | Some("rate-limited"))), "{items:?}");
    assert!((5..=10).contains(&links), "{links}");
    assert_eq!(kie.mints(), links);
}

#[tokio::test]
async fn more_files_than_may_wait_at_once_are_all_answered() {
    let kie = FakeKie::start();
    let settings = [("limits.in_flight", "40"), ("upstream.rate", "100000"), ("upstream.burst", "100000")];
    let sidecar = Sidecar::with(&kie, &settings);
    let sources: Vec<_> = (0..200).map(|n| format!("{SOURCE}?{n}")).collect();
    let items = batch(&sidecar, &sources.iter().map(String::as_str).collect::<Vec<_>>()).await;
    assert_eq!(items.iter().filter_map(slug).collect::<Vec<_>>(), [""; 0]);
    assert_eq!(kie.mints(), 200);
}

#[tokio::test]
async fn a_batch_of_more_links_than_the_cache_holds_is_answered_whole() {
    let kie = FakeKie::start();
    let settings = [("cache.max_bytes", "4KiB"), ("upstream.rate", "100000"), ("upstream.burst", "100000")];
    let sidecar = Sidecar::with(&kie, &settings);
    let sources: Vec<_> = (0..100).map(|n| format!("{SOURCE}?{n}")).collect();
    let items = batch(&sidecar, &sources.iter().map(String::as_str).collect::<Vec<_>>()).await;
    assert_eq!(items.iter().filter_map(slug).collect::<Vec<_>>(), [""; 0]);
    assert_eq!(kie.mints(), 100, "each once");
}

#[tokio::test]
async fn directives_apply_to_every_item() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::start(&kie);
    let other = format!("{SOURCE}?other");
    let ask = async |cache_control: &str| {
        let reply: Reply = batch_with(&sidecar, &[SOURCE, &other], &[("cache-control", cache_control)]).await;
        items(&reply)
    };
    let cold = ask("only-if-cached").await;
    assert_eq!(cold.iter().map(slug).collect::<Vec<_>>(), [Some("not-cached"); 2]);
    assert_eq!(kie.mints(), 0);
    assert_eq!(sidecar.link(SOURCE).await.status, 200);
    let mixed = ask("only-if-cached").await;
    assert_eq!(mixed.iter().map(slug).collect::<Vec<_>>(), [None, Some("not-cached")]);
    let forced: Vec<Value> = ask("no-cache").await;
    assert_ne!(forced[0]["url"], mixed[0]["url"]);
    assert_eq!((kie.mints_for(SOURCE), kie.mints_for(&other)), (2, 1));
    assert_eq!(ask("max-age=600, min-fresh=60").await, forced, "as it is");
}

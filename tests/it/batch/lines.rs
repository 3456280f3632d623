//! NDJSON: each result in a line of its own, as soon as it is known.

use std::time::Duration;

use serde_json::{Value, json};

use super::slug;
use crate::support::{Answer, FakeKie, Reply, SOURCE, Sidecar, eventually};

const PATIENCE: Duration = Duration::from_secs(10);

/// An answer that is still coming.
struct Lines {
    response: reqwest::Response,
    unread: Vec<u8>,
}

impl Lines {
    async fn of(sidecar: &Sidecar, urls: &[String]) -> Lines {
        let request = sidecar.client().post(format!("{}/v1/links", sidecar.base_url()));
        let request = request.header("accept", "application/x-ndjson").body(json!({ "urls": urls }).to_string());
        let response = request.send().await.unwrap();
        assert_eq!(
            (response.status(), &response.headers()["content-type"]),
            (reqwest::StatusCode::OK, &"application/x-ndjson".parse().unwrap())
        );
        Lines { response, unread: Vec::new() }
    }

    /// `None` at the end; panics where neither a line nor the end comes.
    async fn next(&mut self, sidecar: &Sidecar) -> Option<Value> {
        loop {
            if let Some(end) = self.unread.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = self.unread.drain(..=end).collect();
                let body = String::from_utf8(line).unwrap();
                let reply = Reply { status: 200, headers: self.response.headers().clone(), body };
                sidecar.saw(&reply);
                return Some(reply.json());
            }
            let chunk = tokio::time::timeout(PATIENCE, self.response.chunk()).await.expect("a line comes").unwrap();
            match chunk {
                Some(chunk) => self.unread.extend_from_slice(&chunk),
                None => {
                    assert!(self.unread.is_empty(), "the last line is whole, too");
                    return None;
                }
            }
        }
    }
}

fn files(many: usize) -> Vec<String> {
    (0..many).map(|n| format!("{SOURCE}?{n}")).collect()
}

async fn warm(sidecar: &Sidecar, sources: &[String]) {
    for source in sources {
        assert_eq!(sidecar.link(source).await.status, 200);
    }
}

#[tokio::test]
async fn one_slow_item_holds_back_no_other_line() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::start(&kie);
    let mut sources = files(20);
    warm(&sidecar, &sources).await;
    kie.hold();
    // In front of all others, and twice.
    sources.insert(0, SOURCE.to_owned());
    sources.push(SOURCE.to_owned());
    sources.push("nonsense".to_owned());
    let mut lines = Lines::of(&sidecar, &sources).await;
    let mut seen = Vec::new();
    for _ in 0..21 {
        let line = lines.next(&sidecar).await.unwrap();
        assert_ne!(line["source_url"], SOURCE, "kie.ai has not answered yet");
        seen.push(line);
    }
    assert_eq!(seen.iter().filter(|line| slug(line) == Some("invalid-source-url")).count(), 1);
    kie.release();
    for _ in 0..2 {
        let line = lines.next(&sidecar).await.unwrap();
        assert_eq!((slug(&line), &line["source_url"]), (None, &SOURCE.into()));
    }
    assert_eq!(lines.next(&sidecar).await, None);
    assert_eq!(kie.mints(), 21);
}

#[tokio::test]
async fn what_is_in_memory_waits_for_nothing_however_many_items_in_front_of_it_do() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::with(&kie, &[("server.shutdown_grace", "1s")]);
    let known = files(5);
    warm(&sidecar, &known).await;
    kie.hold();
    let cold = (0..100).map(|n| format!("{SOURCE}?cold-{n}"));
    let mut lines = Lines::of(&sidecar, &cold.chain(known.clone()).collect::<Vec<_>>()).await;
    let mut seen = Vec::new();
    for _ in 0..5 {
        seen.push(lines.next(&sidecar).await.unwrap()["source_url"].as_str().unwrap().to_owned());
    }
    assert_eq!(seen, known);
    kie.release();
}

#[tokio::test]
async fn a_caller_who_does_not_read_its_lines_keeps_nobody_from_waiting() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::with(&kie, &[("limits.in_flight", "6"), ("server.shutdown_grace", "1s")]);
    kie.hold();
    // Of the answer it takes ten bytes and no more.
    let client = reqwest::Client::builder().no_proxy().tls_certs_only([]).http2_prior_knowledge();
    let client = client.http2_initial_stream_window_size(10).build().unwrap();
    let request = client.post(format!("{}/v1/links", sidecar.base_url())).header("accept", "application/x-ndjson");
    let response = request.body(json!({ "urls": files(6) }).to_string()).send().await.unwrap();
    kie.wait_for_mints(6).await;
    // One line after the other: a few are made before it stands still.
    for landed in 1..=6 {
        kie.release_one();
        eventually("one more has landed", async || sidecar.log_lines("minted").len() == landed).await;
    }
    let others =
        (0..6).map(|n| sidecar.client().get(format!("{}/v1/link?url=https://file.kie.ai/{n}", sidecar.base_url())));
    let (replies, ()) = tokio::join!(futures_util::future::join_all(others.map(|other| sidecar.send(other))), async {
        kie.wait_for_mints(12).await;
        kie.release();
    });
    assert!(replies.iter().all(|reply| reply.status == 200), "{replies:?}");
    drop(response);
}

#[tokio::test]
async fn each_line_comes_when_its_mint_has_landed() {
    let kie = FakeKie::start();
    kie.hold();
    let sidecar = Sidecar::start(&kie);
    let mut lines = Lines::of(&sidecar, &files(3)).await;
    kie.wait_for_mints(3).await;
    let arrived: Vec<_> = kie.requests().into_iter().map(|request| request.source.unwrap()).collect();
    for (n, source) in arrived.into_iter().enumerate() {
        if n == 1 {
            kie.answer_for(&source, Answer::envelope(422, "url is wrong"));
        }
        kie.release_one();
        let line = lines.next(&sidecar).await.unwrap();
        assert_eq!(line["source_url"], source.as_str());
        assert_eq!(slug(&line), (n == 1).then_some("source-refused"));
    }
    assert_eq!(lines.next(&sidecar).await, None);
}

#[tokio::test]
async fn a_caller_who_leaves_costs_nothing_further_and_its_mints_fill_the_cache() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::with(&kie, &[("limits.in_flight", "4")]);
    let sources = files(4);
    warm(&sidecar, &sources[..1]).await;
    kie.hold();
    let mut lines = Lines::of(&sidecar, &sources).await;
    lines.next(&sidecar).await.unwrap();
    kie.wait_for_mints(4).await;
    drop(lines);
    // Its places among those who wait are free again, though its mints are under way.
    eventually("others may wait", async || {
        let others = (0..4).map(async |_| {
            let asked = sidecar.link(&sources[3]);
            tokio::time::timeout(Duration::from_millis(200), asked).await.is_err()
        });
        futures_util::future::join_all(others).await.into_iter().all(|waited| waited)
    })
    .await;
    assert_eq!((kie.mints(), kie.in_flight()), (4, 3));
    kie.release();
    eventually("the mints have landed", async || sidecar.log_lines("minted").len() == 4).await;
    for source in &sources {
        assert!(sidecar.link(source).await.header("cache-status").starts_with("kielink; hit; "));
    }
    assert_eq!(kie.mints(), 4);
}

#[tokio::test]
async fn a_caller_who_leaves_before_the_answer_fills_the_cache_as_well() {
    let kie = FakeKie::start();
    kie.hold();
    let sidecar = Sidecar::start(&kie);
    let sources = files(3);
    let request = sidecar.client().post(format!("{}/v1/links", sidecar.base_url()));
    let caller = request.body(json!({ "urls": sources }).to_string()).send();
    tokio::select! {
        _ = caller => panic!("kie.ai has not answered"),
        () = kie.wait_for_mints(3) => {}
    }
    kie.release();
    eventually("the mints have landed", async || sidecar.log_lines("minted").len() == 3).await;
    for source in &sources {
        assert!(sidecar.link(source).await.header("cache-status").starts_with("kielink; hit; "));
    }
    assert_eq!(kie.mints(), 3);
}

#[tokio::test]
async fn a_large_batch_of_hits_comes_whole() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::start(&kie);
    warm(&sidecar, &files(1)).await;
    let sources = vec![format!("{SOURCE}?0"); 500];
    let mut lines = Lines::of(&sidecar, &sources).await;
    for _ in 0..500 {
        assert_eq!(slug(&lines.next(&sidecar).await.unwrap()), None);
    }
    assert_eq!(lines.next(&sidecar).await, None);
    assert_eq!(kie.mints(), 1);
}

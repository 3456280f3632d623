//! Callers that ask a fleet for ever new files while things go wrong.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use jiff::{civil::DateTime, tz::TimeZone};
use kielink::clock::Clock;
use tokio::task::JoinSet;

use super::{Fleet, metric, outcome, source};
use crate::support::{encode, eventually, within};

/// Callers that ask, and count.
pub(super) struct Load {
    stop: Arc<AtomicBool>,
    asked: Arc<AtomicUsize>,
    callers: JoinSet<Seen>,
}

/// What one caller has seen.
#[derive(Debug, Default)]
struct Seen {
    failed: Vec<String>,
    dead: usize,
    longest: Duration,
}

impl Load {
    pub(super) fn on(fleet: &Fleet) -> Load {
        let bases: Vec<_> = fleet.replicas.iter().map(|replica| replica.base_url().to_owned()).collect();
        Load::on_all(fleet.replicas[0].client(), bases)
    }

    /// Three callers for each address.
    pub(super) fn on_all(client: &reqwest::Client, bases: Vec<String>) -> Load {
        let (stop, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(1)));
        let mut callers = JoinSet::new();
        for base in bases {
            for _ in 0..3 {
                let (client, base, stop, asked) = (client.clone(), base.clone(), Arc::clone(&stop), Arc::clone(&asked));
                callers.spawn(async move {
                    let mut seen = Seen::default();
                    while !stop.load(Ordering::Relaxed) {
                        // Now and then two ask for the same file.
                        let number = 10_000 + asked.fetch_add(1, Ordering::Relaxed) * 2 / 3;
                        let request = client.get(format!("{base}/v1/link?url={}", encode(&source(number))));
                        seen.ask(request).await;
                    }
                    seen
                });
            }
        }
        Load { stop, asked, callers }
    }

    /// Waits until so many more have been asked.
    pub(super) async fn goes_on(&self, requests: usize) {
        let until = self.asked.load(Ordering::Relaxed) + requests;
        eventually("the callers go on", async || self.asked.load(Ordering::Relaxed) >= until).await;
    }

    /// Ends it. No request has failed, and no link was dead.
    pub(super) async fn failed_none(self, fleet: &Fleet) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        let ended = self.callers.join_all().await;
        let asked = self.asked.load(Ordering::Relaxed);
        let failed: Vec<_> = ended.iter().flat_map(|seen| &seen.failed).collect();
        let dead: usize = ended.iter().map(|seen| seen.dead).sum();
        let longest = ended.iter().map(|seen| seen.longest).max().unwrap();
        let failures = failed.len();
        eprintln!(
            "{asked} requests, {failures} failed, {dead} dead, the longest took {longest:?}; {} mints",
            fleet.kie.mints()
        );
        assert!(failed.is_empty(), "{failed:?}");
        assert_eq!(dead, 0);
        asked
    }
}

impl Seen {
    async fn ask(&mut self, request: reqwest::RequestBuilder) {
        let began = tokio::time::Instant::now();
        let response = request.send().await.unwrap();
        let status = response.status();
        let text = response.text().await.unwrap();
        self.longest = self.longest.max(began.elapsed());
        if status != 200 {
            self.failed.push(text);
            return;
        }
        let body: serde_json::Value = serde_json::from_str(&text).unwrap();
        self.dead += usize::from(life_left(body["url"].as_str().unwrap()) < 60);
    }
}

/// Seconds until a link's end, by what it says of itself and by this machine's clock.
pub(super) fn life_left(link: &str) -> i64 {
    let field = |name: &str| {
        let rest = link.split_once(name).unwrap_or_else(|| panic!("no {name} in {link}")).1;
        rest.split('&').next().unwrap().to_owned()
    };
    let signed = DateTime::strptime("%Y%m%dT%H%M%SZ", field("X-Amz-Date=")).unwrap();
    let signed = TimeZone::UTC.to_timestamp(signed).unwrap();
    let life: i64 = field("X-Amz-Expires=").parse().unwrap();
    // kie.ai's simulation tells whole seconds.
    signed.as_second() + life - Clock::system().wall().as_second()
}

/// The tier is used by all, and a link of one is the other's at once.
pub(super) async fn is_used_again(fleet: &Fleet) {
    is_there_again(fleet).await;
    assert!(is_found_by_the_other(fleet, 1).await, "the other has made it anew");
}

/// The same in the end: a tier that came and went all the time is left alone for up to ten seconds, by each for itself.
pub(super) async fn is_used_in_the_end(fleet: &Fleet) {
    is_there_again(fleet).await;
    let numbers = AtomicUsize::new(1);
    within(Duration::from_secs(20), "the other finds it", async || {
        is_found_by_the_other(fleet, numbers.fetch_add(1, Ordering::Relaxed)).await
    })
    .await;
}

async fn is_there_again(fleet: &Fleet) {
    for replica in &fleet.replicas {
        within(Duration::from_secs(20), "the tier is used again", async || {
            metric(replica, "kielink_shared_up").await == "1"
        })
        .await;
    }
}

/// Whether one replica's link is another's without a mint. That one may wait for it to be put.
async fn is_found_by_the_other(fleet: &Fleet, number: usize) -> bool {
    assert_eq!(fleet.replicas[0].link(&source(number)).await.status, 200);
    let mints = fleet.kie.mints();
    let found = fleet.replicas[1].link(&source(number)).await;
    let outcome = outcome(found.header("cache-status"));
    fleet.kie.mints() == mints
        && ["kielink; hit; detail=shared", "kielink; fwd=miss; collapsed"].contains(&outcome.as_str())
}

//! Many kielinks as one: real ones, a simulated kie.ai, and a real redis-server, without which these tests pass with a
//! message.

mod clocks;
mod credits;
mod faults;
mod load;
#[path = "../../../src/shared/testing/proxy.rs"]
mod proxy;
mod quota;
#[path = "../../../src/shared/testing/server.rs"]
mod server;
mod sharing;
mod soak;
#[path = "../../../src/shared/testing/topology.rs"]
mod topology;
mod trouble;

use std::{collections::BTreeMap, time::Duration};

use tokio::task::JoinSet;

use self::server::Server;
use crate::support::{FakeKie, Sidecar, encode, eventually};

/// No test of these waits for the tier so long that a busy machine could make it pass for one that is silent.
const PATIENT: (&str, &str) = ("shared.timeout", "2s");

impl Server {
    /// The names that match a pattern.
    fn names(&self, pattern: &str) -> Vec<String> {
        redis::from_redis_value(self.run(&["KEYS", pattern])).unwrap()
    }

    fn get(&self, name: &str) -> Option<Vec<u8>> {
        redis::from_redis_value(self.run(&["GET", name])).unwrap()
    }

    fn set(&self, name: &str, value: &[u8]) {
        let mut connection = redis::Client::open(self.url()).unwrap().get_connection().unwrap();
        redis::cmd("SET").arg(name).arg(value).arg("PX").arg(600_000).exec(&mut connection).unwrap();
    }
}

/// kielinks with one key, one tier, and one kie.ai.
struct Fleet {
    server: Server,
    /// `shared.url`.
    url: String,
    kie: FakeKie,
    replicas: Vec<Sidecar>,
}

impl Fleet {
    /// All of them see each other when this returns. `None` where there is no redis-server.
    async fn of(replicas: usize, settings: &[(&str, &str)]) -> Option<Fleet> {
        let server = Server::start(&[])?;
        let url = server.url();
        Some(Fleet::behind(server, url, replicas, settings).await)
    }

    /// With another way to the server.
    async fn behind(server: Server, url: String, replicas: usize, settings: &[(&str, &str)]) -> Fleet {
        let mut fleet = Fleet { server, url, kie: FakeKie::start(), replicas: Vec::new() };
        for _ in 0..replicas {
            fleet.add(settings);
        }
        fleet.is_whole().await;
        fleet
    }

    fn add(&mut self, settings: &[(&str, &str)]) {
        let mut all = vec![("shared.url", self.url.as_str()), ("log.level", "info"), PATIENT];
        all.extend_from_slice(settings);
        self.replicas.push(Sidecar::with(&self.kie, &all));
    }

    async fn is_whole(&self) {
        let count = self.replicas.len().to_string();
        for replica in &self.replicas {
            eventually("all replicas see each other", async || {
                metric(replica, "kielink_shared_replicas").await == count
            })
            .await;
        }
    }

    /// Each asks for each file so often, all at once. The links that came, by file, and how they were found.
    async fn ask_all(&self, files: usize, callers: usize) -> (BTreeMap<usize, Vec<String>>, BTreeMap<String, usize>) {
        let mut asked = JoinSet::new();
        for replica in &self.replicas {
            for file in 0..files {
                for _ in 0..callers {
                    let request = replica.client().get(link_path(replica, file));
                    asked.spawn(async move {
                        let response = request.send().await.unwrap();
                        let status = response.status();
                        let found = response.headers()["cache-status"].to_str().unwrap().to_owned();
                        let text = response.text().await.unwrap();
                        assert_eq!(status, 200, "{text}");
                        let body: serde_json::Value = serde_json::from_str(&text).unwrap();
                        (file, body["url"].as_str().unwrap().to_owned(), outcome(&found))
                    });
                }
            }
        }
        let (mut links, mut found) = (BTreeMap::<_, Vec<_>>::new(), BTreeMap::new());
        while let Some(answer) = asked.join_next().await {
            let (file, link, outcome) = answer.unwrap();
            links.entry(file).or_default().push(link);
            *found.entry(outcome).or_default() += 1;
        }
        links.values_mut().for_each(|links| links.sort_unstable());
        links.values_mut().for_each(|links| links.dedup());
        (links, found)
    }

    /// Ends all of them beside the test.
    async fn ended(self) {
        for replica in self.replicas {
            replica.ended().await;
        }
    }
}

fn source(file: usize) -> String {
    format!("https://tempfile.aiquickdraw.com/s/{file}.png")
}

fn link_path(replica: &Sidecar, file: usize) -> String {
    format!("{}/v1/link?url={}", replica.base_url(), encode(&source(file)))
}

/// `Cache-Status` without its numbers.
fn outcome(status: &str) -> String {
    status.split("; ").filter(|part| !part.starts_with("ttl=")).collect::<Vec<_>>().join("; ")
}

/// The value of the first line of a metric.
async fn metric(replica: &Sidecar, name: &str) -> String {
    let metrics = replica.get_admin("/metrics").await.body;
    let line = metrics.lines().find(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with([' ', '{'])));
    let value = line.and_then(|line| line.rsplit(" ").next()).unwrap_or_default();
    value.trim_end_matches(".0").to_owned()
}

/// The value of a metric that has one operation, where it went well.
async fn labelled(replica: &Sidecar, name: &str, operation: &str) -> f64 {
    let start = format!("{name}{{operation=\"{operation}\",result=\"ok\"}} ");
    let metrics = replica.get_admin("/metrics").await.body;
    metrics.lines().find_map(|line| line.strip_prefix(&start)).unwrap().parse().unwrap()
}

/// Two hundred milliseconds a mint.
fn slow_mints(kie: &FakeKie) {
    kie.answer(crate::support::Answer::link().after(Duration::from_millis(200)));
}

/// The default, on a machine that may be busy.
const IMPATIENT: (&str, &str) = ("shared.timeout", "20ms");

const ROOM: [(&str, &str); 2] = [("upstream.rate", "1000"), ("upstream.burst", "1000")];

//! Wall clocks that are hours off and step, of the tier and of a replica: no link is dead, and the quota is kept.

use std::{
    fs::File,
    os::unix::fs::FileExt as _,
    path::PathBuf,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::Duration,
};

use tempfile::TempDir;
use tokio::task::JoinSet;

use super::{load::life_left, quota::most_at_once, server::Server, source};
use crate::{
    process::child::{Child, Run},
    support::{Answer, FakeKie, encode, eventually},
};

/// Wall clocks that a test sets, of programs that are started with its environment.
struct Clock {
    library: PathBuf,
    page: PathBuf,
    file: File,
    _folder: TempDir,
}

impl Clock {
    /// `None`, with a message, where there is no C compiler.
    fn new() -> Option<Clock> {
        let folder = TempDir::new().unwrap();
        let [code, library, page] = ["clock.c", "clock.so", "seconds"].map(|name| folder.path().join(name));
        std::fs::write(&code, include_str!("clock.c")).unwrap();
        let Ok(compiled) = Command::new("cc").args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library).arg(&code).status()
        else {
            eprintln!("skipped: there is no C compiler");
            return None;
        };
        assert!(compiled.success());
        std::fs::write(&page, 0i64.to_ne_bytes()).unwrap();
        let file = File::options().write(true).open(&page).unwrap();
        Some(Clock { library, page, file, _folder: folder })
    }

    fn environment(&self) -> [(&str, &str); 2] {
        [("LD_PRELOAD", self.library.to_str().unwrap()), ("CLOCK_OFF", self.page.to_str().unwrap())]
    }

    fn is_off(&self, hours: i64) {
        self.file.write_all_at(&(hours * 3600).to_ne_bytes(), 0).unwrap();
    }
}

async fn replica(kie: &FakeKie, server: &Server, environment: &[(&str, &str)]) -> Child {
    let url = format!("shared.url={}", server.url());
    let settings = ["upstream.rate=20", "upstream.burst=20", "shared.timeout=1s", &url];
    let arguments: Vec<_> = settings.iter().flat_map(|setting| ["--set", setting]).collect();
    let run = environment.iter().fold(Run::serving(kie, &arguments), |run, (name, value)| run.env(name, value));
    run.ready().await
}

/// Asks replicas for ever new files and for the same few; counts links, and those with less than their margin left.
struct Callers {
    stop: Arc<AtomicBool>,
    links: Arc<AtomicUsize>,
    tasks: JoinSet<i64>,
}

impl Callers {
    fn of(replicas: &[&Child]) -> Callers {
        let stop = Arc::new(AtomicBool::new(false));
        let [links, asked] = [0, 100].map(|count| Arc::new(AtomicUsize::new(count)));
        let _ = rustls::crypto::ring::default_provider().install_default();
        let client = reqwest::Client::builder().no_proxy().tls_certs_only([]).build().unwrap();
        let mut tasks = JoinSet::new();
        for replica in replicas {
            for caller in 0..4 {
                let (client, stop, links, asked) =
                    (client.clone(), Arc::clone(&stop), Arc::clone(&links), Arc::clone(&asked));
                let base = format!("http://{}/v1/link?url=", replica.data());
                tasks.spawn(async move {
                    let mut least = i64::MAX;
                    // A turn every 20 ms: more callers' turns would only keep the machine from its other tests.
                    let mut turns = tokio::time::interval(Duration::from_millis(20));
                    for turn in 0.. {
                        if stop.load(Ordering::Relaxed) {
                            break;
                        }
                        let number = if caller == 0 { asked.fetch_add(1, Ordering::Relaxed) } else { turn % 8 };
                        let response = client.get(format!("{base}{}", encode(&source(number)))).send().await.unwrap();
                        let text = response.text().await.unwrap();
                        let body: serde_json::Value = serde_json::from_str(&text).unwrap();
                        least = least.min(life_left(body["url"].as_str().unwrap_or_else(|| panic!("{text}"))));
                        links.fetch_add(1, Ordering::Relaxed);
                        turns.tick().await;
                    }
                    least
                });
            }
        }
        Callers { stop, links, tasks }
    }

    async fn goes_on(&self, links: usize) {
        let until = self.links.load(Ordering::Relaxed) + links;
        eventually("callers get links", async || self.links.load(Ordering::Relaxed) >= until).await;
    }

    /// How many links there were, and the least life that one had left in seconds.
    async fn ended(self) -> (usize, i64) {
        self.stop.store(true, Ordering::Relaxed);
        let least = self.tasks.join_all().await.into_iter().min().unwrap();
        (self.links.load(Ordering::Relaxed), least)
    }
}

#[tokio::test]
async fn no_wall_clock_makes_a_dead_link_live_or_gives_a_token_more() {
    let (Some(tier_s), Some(replica_s)) = (Clock::new(), Clock::new()) else { return };
    let Some(server) = Server::start_in(&tier_s.environment()) else { return };
    let kie = FakeKie::start();
    // Each is of use for some four seconds.
    kie.answer(Answer::link().life_left(Duration::from_secs(66)));
    let environment = replica_s.environment();
    let (right, off) = tokio::join!(replica(&kie, &server, &[]), replica(&kie, &server, &environment));
    let callers = Callers::of(&[&right, &off]);
    callers.goes_on(50).await;
    for (tier_hours, replica_hours) in [(-2, 0), (3, 0), (0, -2), (0, 3), (-2, 3), (3, -2), (0, 0)] {
        tier_s.is_off(tier_hours);
        replica_s.is_off(replica_hours);
        callers.goes_on(150).await;
    }
    let (links, least) = callers.ended().await;
    // One that starts with a wrong clock finds what the others have left, in a tier that keeps it for too long.
    tier_s.is_off(-2);
    replica_s.is_off(3);
    let late = replica(&kie, &server, &environment).await;
    let more = Callers::of(&[&late]);
    more.goes_on(150).await;
    let (late_links, late_least) = more.ended().await;
    let requests = kie.requests();
    let mut times: Vec<_> = requests.iter().map(|request| request.at - requests[0].at).collect();
    times.sort_unstable();
    let burst = most_at_once(&times, 20.0);
    eprintln!(
        "{links} and {late_links} links, at least {least} and {late_least} s left; {} requests to kie.ai, never more than \
         20 a second and {burst:.1}",
        times.len()
    );
    assert!(least >= 60 && late_least >= 60, "{least} {late_least}");
    assert!(burst <= 20.0, "{burst}");
}

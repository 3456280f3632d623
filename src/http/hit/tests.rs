//! The two ways side by side: whatever is answered at once, the router answers alike, and counts alike.

use std::{
    collections::BTreeMap,
    num::NonZeroU32,
    sync::{
        Mutex,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use axum::{Router, body::Body, extract::Request};
use http_body_util::BodyExt as _;
use prometheus_client::registry::Registry;
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tower::ServiceExt as _;

use super::*;
use crate::{
    clock::{Clock, KieClock, testing::VirtualTime},
    credits::{self, Credits},
    http::{Config, Parts as HttpParts, service},
    key::ApiKey,
    link::{Link, Policy},
    links::{self, Links},
    readiness::Readiness,
    server::Service,
    source::{AllowList, Source},
    telemetry::{
        Failures,
        trace::{Span, Tracer},
    },
    upstream::{self, DOWNLOAD_URL, Doubt, GateConfig, Kie, KieConfig, MintFuture, Minted, Transport},
    web::{edge::Watched, metrics::Requests, probes::Probes},
};

const SECOND: Duration = Duration::from_secs(1);

/// Gives every file a link of its own, or fails.
struct Model {
    clock: Clock,
    kie_clock: KieClock,
    fails: Arc<AtomicBool>,
}

impl Transport for Model {
    fn send<'a>(&'a self, source: &'a Source, _: Option<&'a Doubt>, _: Duration, _: &'a Span) -> MintFuture<'a> {
        Box::pin(async move {
            if self.fails.load(Relaxed) {
                return Err(upstream::Error::Timeout);
            }
            let sent_at = self.clock.now();
            // One link has what JSON must escape.
            let odd = if source.url().ends_with('q') { "\"" } else { "" };
            let text = format!("https://h.example/{odd}{}?s={}", source.host(), sent_at.since_origin().as_nanos());
            let link = Link::parse(&text, &Policy::default()).unwrap();
            let heard = self.kie_clock.heard(Some(self.clock.wall()), None, sent_at, sent_at);
            Ok(Minted {
                link,
                sent_at,
                ends_at: sent_at + crate::link::LIFE,
                heard,
                says_its_end: false,
                via: upstream::Via::Kie,
            })
        })
    }

    fn key_version(&self) -> u64 {
        0
    }
}

struct Bench {
    router: Router,
    at_once: Arc<dyn AtOnce>,
    registry: Registry,
    clock: Clock,
    fails: Arc<AtomicBool>,
    _tasks: TaskTracker,
}

fn bench() -> Bench {
    let clock = VirtualTime::new().clock();
    let (tasks, stop, fails) = (TaskTracker::new(), CancellationToken::new(), Arc::new(AtomicBool::new(false)));
    let kie_clock = KieClock::default();
    let log_hash = ApiKey::new("a-key-of-tests").unwrap().log_hash();
    let many = NonZeroU32::new(10_000).unwrap();
    let gate = GateConfig { rate: many, burst: many, in_flight: many, waiting: 10_000, reserve: SECOND };
    let model = Model { clock: clock.clone(), kie_clock: kie_clock.clone(), fails: Arc::clone(&fails) };
    let config = KieConfig { gate, attempt_timeout: SECOND, attempts: 1 };
    let kie = Kie::new(&config, model, clock.clone(), &tasks, stop.clone());
    let links = Links::new(
        links::Config {
            ttl: 1140 * SECOND,
            margin: 60 * SECOND,
            refresh_after: 720 * SECOND,
            negative_ttl: 30 * SECOND,
            force_interval: 10 * SECOND,
            max_bytes: 1 << 20,
            flight_timeout: 20 * SECOND,
            waiting: 64,
        },
        links::Parts {
            mint: Arc::new(kie.clone()),
            clock: clock.clone(),
            kie_clock,
            log_hash: log_hash.clone(),
            tracer: Tracer::default(),
            noted: Failures::default(),
            tasks: tasks.clone(),
            stop: stop.clone(),
        },
    );
    let mut registry = Registry::default();
    let config = credits::Config { every: SECOND };
    let (kie_too, tasks_too) = (kie.clone(), tasks.clone());
    let parts = credits::Parts { kie: kie_too, fleet: None, clock: clock.clone(), tasks: tasks_too, stop };
    let parts = HttpParts {
        links,
        credits: Credits::new(config, parts),
        probes: Probes { readiness: Readiness::waiting_for([]).0, kie, fleet: None },
        watched: Watched { requests: Requests::default(), tracer: Tracer::default() },
        failures: Failures::default(),
        tasks: tasks.clone(),
        clock: clock.clone(),
        log_hash,
        keep_alive: HeaderMap::new(),
    };
    let config = Config {
        request_timeout: 20 * SECOND,
        allowed_hosts: vec!["links.example.com".to_owned()],
        sources: AllowList::new(&["*.kie.ai"]).unwrap(),
        places: 64,
        waiting_connections: 64,
        arrivals: 64,
        body: 4096,
        batch_body: 1 << 16,
        batch_budget: 1 << 20,
        body_budget: 1 << 20,
        batch: 10,
        batch_at_once: 10,
        body_timeout: 10 * SECOND,
    };
    let Service { router, at_once } = service(config, parts, &mut registry);
    Bench { router, at_once: at_once.unwrap(), registry, clock, fails, _tasks: tasks }
}

/// What came of a request: status, headers in order of their names, body.
type Answer = (u16, Vec<(String, String)>, Vec<u8>);

impl Bench {
    fn counts(&self) -> BTreeMap<String, f64> {
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &self.registry).unwrap();
        let lines = text.lines().filter(|line| !line.starts_with('#'));
        let lines = lines.map(|line| line.split_once(" # ").map_or(line, |(line, _exemplar)| line));
        lines
            .filter_map(|line| line.rsplit_once(' '))
            .map(|(name, value)| (name.to_owned(), value.parse().unwrap()))
            .collect()
    }

    async fn router(&self, head: &Parts, body: &[u8], peer: &Peer) -> Answer {
        let mut request = Request::from_parts(head.clone(), Body::from(body.to_vec()));
        request.extensions_mut().insert(peer.clone());
        let (head, body) = self.router.clone().oneshot(request).await.unwrap().into_parts();
        told(&head.headers, head.status, &body.collect().await.unwrap().to_bytes())
    }

    fn at_once(&self, head: &Parts, body: &[u8], peer: &Peer) -> Option<Answer> {
        let answer = self.at_once.answer(head, body, peer, None)?;
        let mut found = [httparse::EMPTY_HEADER; 32];
        let mut read = httparse::Response::new(&mut found);
        let length = read.parse(&answer).unwrap().unwrap();
        let status = StatusCode::from_u16(read.code.unwrap()).unwrap();
        assert_eq!((read.version, read.reason), (Some(1), status.canonical_reason()));
        let named = |header: &httparse::Header<'_>| {
            let name = header.name.parse::<HeaderName>().unwrap();
            assert_eq!(name.as_str(), header.name, "as hyper writes it");
            (name, HeaderValue::from_bytes(header.value).unwrap())
        };
        let mut headers: HeaderMap = read.headers.iter().map(named).collect();
        assert_eq!(headers.len(), read.headers.len(), "each once: {headers:?}");
        assert_eq!(headers[header::CONTENT_LENGTH], (answer.len() - length).to_string());
        let second = jiff::fmt::rfc2822::parse(headers.remove(header::DATE).unwrap().to_str().unwrap()).unwrap();
        assert_eq!(second.timestamp().as_second(), self.clock.wall().as_second());
        Some(told(&headers, status, &answer[length..]))
    }
}

fn told(headers: &HeaderMap, status: StatusCode, body: &[u8]) -> Answer {
    let length = headers.get(header::CONTENT_LENGTH).map(|length| length.to_str().unwrap().to_owned());
    assert!(body.is_empty() || length.is_none_or(|length| length == body.len().to_string()));
    let mut all: Vec<_> = headers
        .iter()
        // hyper writes the length where it is left out.
        .filter(|(name, _)| **name != header::CONTENT_LENGTH)
        .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
        .map(|(name, value)| {
            let is_made = name == "x-request-id" && value.len() == 32;
            (name, if is_made { "made".to_owned() } else { value })
        })
        .collect();
    all.sort();
    (status.as_u16(), all, body.to_vec())
}

fn changes(before: &BTreeMap<String, f64>, after: &BTreeMap<String, f64>) -> BTreeMap<String, f64> {
    let change = |(name, value): (&String, &f64)| (name.clone(), value - before.get(name).unwrap_or(&0.0));
    after.iter().map(change).filter(|(_, change)| *change != 0.0).collect()
}

fn any<'a>(rng: &mut fastrand::Rng, texts: &[&'a str]) -> &'a str {
    texts[rng.usize(..texts.len())]
}

/// A request as callers send it, or nearly so.
fn request(rng: &mut fastrand::Rng) -> (Parts, Vec<u8>) {
    const SOURCES: &[&str] = &[
        "https://a.kie.ai/1.png",
        "https://a.kie.ai/2.png?x=1&y=.",
        "https://a.kie.ai/q",
        "https://b.kie.ai/a+b",
        "HTTPS://A.kie.ai/1.png",
        "https://a.kie.ai/%31.png",
        "https://a.kie.ai/./1.png",
        "https://a.kie.ai:443/1.png",
        "https://evil.example/1.png",
        "nonsense",
        "https://a.kie.ai/\u{e9}",
        "",
    ];
    let source = if rng.u8(..) < 200 { any(rng, &SOURCES[..3]) } else { any(rng, SOURCES) };
    let form = rng.u8(..10);
    let mut body = Vec::new();
    let (mut method, mut target) = if form < 4 {
        let text = serde_json::to_string(source).unwrap();
        body = match rng.u8(..12) {
            0 => format!("{{\"x\":[1,{{}}],\"url\":{text}}}"),
            1 => format!("\u{feff} {{ \"url\" : {} }}\n", text.replace('a', "\\u0061")),
            2 => format!("[{text}]"),
            3 => format!("{{\"url\":{text},\"url\":{text}}}"),
            4 => format!("{{\"url\":{text}"),
            5 => format!("{{\"url\":{text},\"x\":\"{}\"}}", "x".repeat(rng.usize(..5000))),
            6 => any(rng, &["", "null", "{}", "{\"url\":null}", "{\"url\":7}"]).to_owned(),
            _ => format!("{{\"url\":{text}}}"),
        }
        .into_bytes();
        (Method::POST, DOWNLOAD_URL.to_owned())
    } else {
        let path =
            any(rng, &["/v1/link", "/v1/link", "/v1/redirect", "/v1/redirect", "/v1/redirect/name.png", "/healthz"]);
        let encoded = query::encoded(source);
        let query = match rng.u8(..14) {
            0 => format!("?url={}", source.replace('\u{e9}', "%C3%A9")),
            1 => format!("?%75rl={encoded}"),
            2 => format!("?url={encoded}&a=1"),
            3 => format!("?&url={encoded}&"),
            4 => format!("?url={}", encoded.to_lowercase()),
            5 => format!("?url={encoded}&url={encoded}"),
            7 => format!("?url={encoded}&task_id=task12345"),
            8 => format!("?taskId=task12345&url={encoded}"),
            6 => any(rng, &["", "?", "?url", "?url=", "?a=b", "?url=%ff", "?url=%"]).to_owned(),
            _ => format!("?url={encoded}"),
        };
        (Method::GET, format!("{path}{query}"))
    };
    if rng.u8(..) < 10 {
        method = [Method::HEAD, Method::PUT, Method::POST, Method::GET][rng.usize(..4)].clone();
    }
    if rng.u8(..) < 5 {
        target = format!("http://kielink{target}");
    }
    let mut builder = Request::builder().method(method).uri(target);
    let mut add = |rng: &mut fastrand::Rng, often: u8, name: &str, values: &[&str]| {
        if rng.u8(..) < often {
            let earlier = std::mem::take(&mut builder);
            builder = earlier.header(name, any(rng, values));
        }
    };
    const HOSTS: &[&str] = &[
        "kielink",
        "127.0.0.1:8080",
        "[::1]",
        "Kielink:8080",
        "links.example.com",
        "evil.example",
        "kielink:x",
        "1.2.3.4.5",
        "",
    ];
    let hosts = if rng.u8(..) < 230 { &HOSTS[..5] } else { HOSTS };
    add(rng, 250, "host", hosts);
    add(rng, 5, "host", hosts);
    add(
        rng,
        60,
        "cache-control",
        &[
            "no-cache",
            "max-age=0",
            "max-age=100",
            "max-age=100000",
            "min-fresh=1",
            "min-fresh=1000",
            "only-if-cached",
            "max-stale=5",
            "max-age=1, only-if-cached",
            "no-store",
            "nonsense",
        ],
    );
    add(rng, 60, "x-request-id", &["sane-1", "not sane", ""]);
    add(rng, 15, "origin", &["http://kielink", "https://evil.example", "null"]);
    add(rng, 15, "referer", &["http://kielink/x", "https://evil.example/", "/x"]);
    add(rng, 15, "sec-fetch-site", &["same-origin", "none", "cross-site", "x"]);
    add(rng, 15, "traceparent", &["00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"]);
    let (parts, ()) = builder.body(()).unwrap().into_parts();
    (parts, body)
}

#[tokio::test(start_paused = true)]
async fn whatever_is_answered_at_once_the_router_answers_and_counts_alike() {
    let bench = bench();
    let seen = Mutex::new(BTreeMap::<&str, u32>::new());
    let mut good_host = Arc::default();
    let note = |what| *seen.lock().unwrap().entry(what).or_default() += 1;
    for seed in 0..6_000 {
        let mut rng = fastrand::Rng::with_seed(seed);
        fastrand::seed(seed);
        if rng.u8(..) < 20 {
            bench.fails.store(rng.bool(), Relaxed);
            tokio::time::sleep(SECOND * rng.u32(..200)).await;
        }
        let (head, body) = request(&mut rng);
        let address = (rng.u8(..) < 200).then(|| "10.0.0.1".parse().unwrap());
        // Now and then another connection.
        if rng.u8(..) < 60 {
            good_host = Arc::default();
        }
        let peer = Peer { address, connection: 1, good_host: Arc::clone(&good_host) };
        let before = bench.counts();
        let at_once = bench.at_once(&head, &body, &peer);
        let between = bench.counts();
        let routed = bench.router(&head, &body, &peer).await;
        let after = bench.counts();
        let status = routed.1.iter().find(|(name, _)| name == "cache-status").map_or("", |(_, value)| value);
        match at_once {
            Some(at_once) => {
                assert_eq!(at_once, routed, "{head:?} {:?}", String::from_utf8_lossy(&body));
                assert_eq!(changes(&before, &between), changes(&between, &after), "{head:?}");
                note(if status.ends_with("refresh") { "hit-refresh" } else { "hit" });
                note(match &head.method {
                    &Method::POST => "download-url",
                    _ if routed.0 == 302 => "redirect",
                    _ => "link",
                });
            }
            None => {
                assert!(changes(&before, &between).is_empty(), "nothing was answered: {head:?}");
                let is_usual = status.starts_with("kielink; hit; ttl=") && !status.ends_with("refresh");
                note(if is_usual { "hit of the router's" } else { "not a hit" });
            }
        }
    }
    let seen = seen.into_inner().unwrap();
    for (what, least) in [
        ("hit", 1000),
        ("hit-refresh", 100),
        ("download-url", 300),
        ("redirect", 300),
        ("link", 300),
        ("not a hit", 500),
    ] {
        assert!(seen.get(what).is_some_and(|count| *count >= least), "{what}: {seen:?}");
    }
    // Unusual spellings, and those alone, are left to the router.
    assert!(seen["hit of the router's"] < seen["hit"] / 2, "{seen:?}");
}

#[tokio::test(start_paused = true)]
async fn where_more_is_told_of_a_hit_than_its_answer_the_router_answers() {
    let bench = bench();
    let (head, ()) =
        Request::get("/v1/link?url=https://a.kie.ai/1.png").header("host", "h").body(()).unwrap().into_parts();
    let peer = Peer { address: None, connection: 1, good_host: Arc::default() };
    assert!(bench.at_once(&head, &[], &peer).is_none(), "it is not in memory");
    assert_eq!(bench.router(&head, &[], &peer).await.0, 200);
    assert!(bench.at_once(&head, &[], &peer).is_some());
    let debug = tracing_subscriber::fmt().with_max_level(tracing::Level::DEBUG).with_writer(std::io::sink).finish();
    tracing::subscriber::with_default(debug, || assert!(bench.at_once(&head, &[], &peer).is_none()));
    assert!(bench.at_once(&head, &[], &peer).is_some());
}

#[tokio::test(start_paused = true)]
async fn a_body_is_waited_for_where_it_may_be_answered_with() {
    let bench = bench();
    let head = |method: Method, path: &str, expects: bool| {
        let mut request = Request::builder().method(method).uri(path).header("host", "h");
        if expects {
            request = request.header("expect", "100-continue");
        }
        request.body(()).unwrap().into_parts().0
    };
    let text = r#"{"url":"https://a.kie.ai/1.png"}"#;
    let peer = Peer { address: None, connection: 1, good_host: Arc::default() };
    assert_eq!(bench.router(&head(Method::POST, DOWNLOAD_URL, false), text.as_bytes(), &peer).await.0, 200);
    for (method, path, bytes, expects, is_answered) in [
        (Method::POST, DOWNLOAD_URL, text.len(), false, true),
        (Method::POST, DOWNLOAD_URL, USUAL_BODY, false, true),
        (Method::POST, DOWNLOAD_URL, USUAL_BODY + 1, false, false),
        (Method::POST, DOWNLOAD_URL, text.len(), true, false),
        (Method::GET, "/v1/link", text.len(), false, false),
        (Method::POST, "/v1/links", text.len(), false, false),
    ] {
        let head = head(method, path, expects);
        let body = format!("{text:<bytes$}");
        let began = bench.at_once.waits_for_body(&head, bytes as u64);
        assert_eq!(began, is_answered.then(|| bench.clock.now()), "{path} {bytes}");
        assert_eq!(bench.at_once(&head, body.as_bytes(), &peer).is_some(), is_answered, "{path} {bytes}");
    }
    // Its time counts from its beginning.
    let head = head(Method::POST, DOWNLOAD_URL, false);
    let seconds = |counts: &BTreeMap<String, f64>| -> f64 {
        let sums = counts.iter().filter(|(name, _)| name.starts_with("request_duration_seconds_sum"));
        sums.map(|(_, seconds)| seconds).sum()
    };
    let (before, began) = (seconds(&bench.counts()), bench.clock.now());
    tokio::time::advance(SECOND).await;
    assert!(bench.at_once.answer(&head, text.as_bytes(), &peer, Some(began)).is_some());
    assert_eq!(seconds(&bench.counts()) - before, 1.0, "{:?}", bench.counts());
}

//! What kielink takes where nobody asks for links: to start, to do nothing, and to be scraped.

use std::time::Duration;

use kielink::{clock::Clock, kie_sim::Answer};

use crate::{
    client::Connection,
    servers::{Kie, Machine, Place, Server},
    spread,
};

const STARTS: usize = 20;
const IDLE: Duration = Duration::from_secs(10);
const SCRAPES: u32 = 200;

/// What the simulated kie.ai says of a file: all that makes a problem of its own. What concerns the whole account comes
/// last, as nothing else is asked after it.
const REFUSALS: [&str; 10] =
    ["422", "404", "500", "http-502", "empty", "body:nonsense", "reset", "http-503; retry-after: 1", "402", "401"];

pub(crate) async fn measure(machine: &Machine, kie: &Kie) {
    let clock = Clock::system();
    let mut starts = Vec::new();
    for _ in 0..STARTS {
        let began = clock.now();
        let server = machine.kielink_about_to_start(Place::Anywhere, None, &[]);
        server.ready().await;
        starts.push(clock.now().since(began).as_secs_f64() * 1e3);
    }
    let (median, least, most) = spread(starts);
    println!("\nstart to ready, {STARTS} starts: {median:.1} ms ({least:.1}–{most:.1})");

    let server = machine.kielink(Place::Anywhere, None, &[]).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    println!("memory, idle: {:.1} MB", server.resident());
    let before = server.cpu();
    tokio::time::sleep(IDLE).await;
    let share = server.cpu().since(&before).as_secs_f64() / IDLE.as_secs_f64() * 100.0;
    println!("CPU, idle for {} s: {share:.3} %", IDLE.as_secs());
    drop(server);

    let url = kie.url();
    let settings = [("upstream.base_url", url.as_str()), ("upstream.attempts", "1"), ("cache.refresh_after", "300ms")];
    kie.fails(false);
    let server = machine.kielink(Place::Anywhere, None, &settings).await;
    ask_for_everything(&server, kie).await;
    let mut connection = Connection::to(server.admin).await;
    let scrape = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n";
    let answer = connection.ask(scrape).await;
    let (bytes, lines) = (answer.body.len(), answer.body.iter().filter(|byte| **byte == b'\n').count());
    let combinations = memchr::memmem::find_iter(answer.body, b"\nkielink_requests_total{").count();
    let before = server.cpu();
    for _ in 0..SCRAPES {
        connection.ask(scrape).await;
    }
    let micros = server.cpu().since(&before).as_secs_f64() * 1e6 / f64::from(SCRAPES);
    println!(
        "CPU, a scrape of /metrics: {micros:.0} µs ({lines} lines, {bytes} bytes; {combinations} combinations of \
         endpoint, outcome and status)"
    );
}

/// Every endpoint with as many outcomes as can be had in a moment.
async fn ask_for_everything(server: &Server, kie: &Kie) {
    let source = |file: &str| format!("https://file.kie.ai/s/{file}");
    let refused: Vec<_> = (0..REFUSALS.len()).map(|n| format!("refused-{n}")).collect();
    kie.world.script(|script| {
        for (file, refusal) in refused.iter().zip(REFUSALS) {
            let answer: Answer = refusal.parse().unwrap();
            for way in Way::ALL {
                script.by_source.insert(source(&way.own(file)), answer.clone());
            }
        }
    });
    let ask = async |request: &[u8]| {
        // What breaks the rules may close its connection.
        Connection::to(server.address).await.ask(request).await;
    };
    for way in Way::ALL {
        // Miss, hit, and one that waits for another's call.
        let request = way.request(&source(&way.own("good")), "");
        ask(&request).await;
        ask(&request).await;
        kie.world.hold();
        let request = way.request(&source(&way.own("joined")), "");
        let (mut first, mut second) = (Connection::to(server.address).await, Connection::to(server.address).await);
        first.send(&request).await;
        second.send(&request).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        kie.world.release();
        first.receive().await;
        second.receive().await;
        // Refused by kielink itself.
        ask(&way.request("nonsense", "")).await;
        ask(&way.request("https://example.com/x", "")).await;
        ask(&way.request(&source("none"), "Cache-Control: only-if-cached\r\n")).await;
        ask(&way.request(&source("good"), "Origin: https://example.com\r\nSec-Fetch-Site: cross-site\r\n")).await;
        ask(&way.request(&source(&"long".repeat(5000)), "")).await;
        ask(format!("PUT {} HTTP/1.1\r\nHost: localhost\r\n\r\n", way.path()).as_bytes()).await;
        ask(format!("GET {} HTTP/1.1\r\nHost: example.com\r\n\r\n", way.path()).as_bytes()).await;
        ask(format!("POST {} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\n\r\nx", way.path()).as_bytes()).await;
    }
    for path in ["/healthz", "/openapi.json", "/docs", "/", "/nothing"] {
        ask(format!("GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes()).await;
        ask(format!("PUT {path} HTTP/1.1\r\nHost: localhost\r\n\r\n").as_bytes()).await;
    }
    // Past the refresh point while kie.ai fails.
    kie.fails(true);
    tokio::time::sleep(Duration::from_millis(400)).await;
    for way in Way::ALL {
        ask(&way.request(&source(&way.own("good")), "")).await;
    }
    // Refused by kie.ai: once when it is asked, once out of memory.
    for file in &refused {
        for way in Way::ALL {
            let request = way.request(&source(&way.own(file)), "");
            ask(&request).await;
            ask(&request).await;
        }
    }
}

#[derive(Clone, Copy)]
enum Way {
    DownloadUrl,
    Link,
    Redirect,
    Batch,
}

impl Way {
    const ALL: [Way; 4] = [Way::DownloadUrl, Way::Link, Way::Redirect, Way::Batch];

    fn path(self) -> &'static str {
        match self {
            Way::DownloadUrl => "/api/v1/common/download-url",
            Way::Link => "/v1/link",
            Way::Redirect => "/v1/redirect",
            Way::Batch => "/v1/links",
        }
    }

    /// A file that is asked for in this way alone.
    fn own(self, file: &str) -> String {
        format!("{file}-{}", self as u8)
    }

    fn request(self, source: &str, headers: &str) -> Vec<u8> {
        let path = self.path();
        let body = match self {
            Way::Link | Way::Redirect => {
                let source = source.replace(':', "%3A").replace('/', "%2F");
                return format!("GET {path}?url={source} HTTP/1.1\r\nHost: localhost\r\n{headers}\r\n").into_bytes();
            }
            Way::DownloadUrl => format!("{{\"url\":\"{source}\"}}"),
            Way::Batch => format!("{{\"urls\":[\"{source}\"]}}"),
        };
        let length = body.len();
        format!("POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {length}\r\n{headers}\r\n{body}")
            .into_bytes()
    }
}

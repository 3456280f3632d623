//! What a batch saves: links a second out of memory, 500 to a request against one to a request, each over one kept
//! connection to a real kielink. The ratio must be at least ten; the run fails where it is not.
//!
//! `cargo bench --bench batch`

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a benchmark stops where it cannot go on, and reports")]

use std::{
    collections::HashMap,
    io::{BufRead, BufReader, Write as _},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::Duration,
};

use criterion::{Criterion, Throughput};
use kielink::{
    app::{self, Listeners},
    clock::Clock,
    config::{self, Sources},
    key::Reload,
    kie_sim::{self, Host, World},
    telemetry::Telemetry,
};
use tokio_util::sync::CancellationToken;

const BATCH: u32 = 500;
const LEAST_RATIO: f64 = 10.0;

/// A request and its answer, again and again on one connection.
struct Connection(BufReader<TcpStream>);

impl Connection {
    fn to(address: &str) -> Connection {
        let stream = TcpStream::connect(address).unwrap();
        stream.set_nodelay(true).unwrap();
        Connection(BufReader::new(stream))
    }

    fn ask(&mut self, request: &[u8]) -> Vec<u8> {
        self.0.get_mut().write_all(request).unwrap();
        let (head, body) = message(&mut self.0);
        assert!(head.starts_with("http/1.1 200 "), "{head}");
        body
    }

    /// How long this many requests take, one after the other.
    #[expect(clippy::disallowed_types, reason = "a benchmark does not sleep through a suspend")]
    fn time(&mut self, request: &[u8], times: u64) -> Duration {
        let began = std::time::Instant::now();
        for _ in 0..times {
            self.ask(request);
        }
        began.elapsed()
    }
}

/// Head, in lower case, and body of one HTTP/1.1 message: of an announced length, or in chunks.
fn message(stream: &mut impl BufRead) -> (String, Vec<u8>) {
    let mut head = String::new();
    while !head.ends_with("\r\n\r\n") {
        assert_ne!(stream.read_line(&mut head).unwrap(), 0, "it ended amid the head: {head}");
    }
    let head = head.to_lowercase();
    let mut body = Vec::new();
    if head.contains("transfer-encoding: chunked") {
        loop {
            let mut size = String::new();
            stream.read_line(&mut size).unwrap();
            let size = usize::from_str_radix(size.trim(), 16).unwrap();
            let start = body.len();
            body.resize(start + size + 2, 0);
            stream.read_exact(&mut body[start..]).unwrap();
            body.truncate(start + size);
            if size == 0 {
                return (head, body);
            }
        }
    }
    let length = head.split("content-length: ").nth(1).unwrap().lines().next().unwrap();
    body.resize(length.parse().unwrap(), 0);
    stream.read_exact(&mut body).unwrap();
    (head, body)
}

/// A kie.ai for the rest of the run; returns its address.
fn start_kie() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    listener.set_nonblocking(true).unwrap();
    let files = "https://x.r2.cloudflarestorage.com".parse().unwrap();
    let world = World::new(kie_sim::Config::SCRIPTED, None, files, Clock::system(), 0).unwrap();
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let listener = tokio::net::TcpListener::from_std(listener).unwrap();
            kie_sim::serve(listener, world, Host::Kie, CancellationToken::new()).await.unwrap();
        });
    });
    address
}

/// A kielink for the rest of the run; returns its address.
fn start_kielink(kie: &str) -> String {
    let flags = [
        ("server.listen", "127.0.0.1:0"),
        ("admin.listen", "127.0.0.1:0"),
        ("log.level", "warn"),
        ("log.format", "json"),
        ("upstream.base_url", &format!("http://{kie}")),
        ("upstream.rate", "100000"),
        ("upstream.burst", "100000"),
    ];
    let sources = Sources {
        environment: HashMap::from([("KIE_API_KEY".to_owned(), "benchmark".to_owned())]),
        flags: flags.map(|(key, value)| (key.to_owned(), value.to_owned())).into(),
        ..Sources::default()
    };
    let (tell, told) = mpsc::channel();
    std::thread::spawn(move || {
        let config = config::load(&sources).unwrap();
        let listeners = Listeners::bind(&config, Vec::new()).unwrap();
        tell.send(listeners.addresses().data[0].to_string()).unwrap();
        // As the process has it.
        let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let app = app::build(config, listeners, Telemetry::default(), Clock::system()).unwrap();
            app.run(Reload::default(), std::future::pending()).await.unwrap();
        });
    });
    told.recv().unwrap()
}

fn main() {
    let kielink = start_kielink(&start_kie());
    let mut connection = Connection::to(&kielink);
    let sources: Vec<_> = (0..BATCH).map(|n| format!("https://file.kie.ai/{n}.png")).collect();
    let single = format!(
        "GET /v1/link?url={} HTTP/1.1\r\nHost: localhost\r\n\r\n",
        sources[0].replace(':', "%3A").replace('/', "%2F")
    );
    let body = serde_json::json!({ "urls": sources }).to_string();
    let batch = format!("POST /v1/links HTTP/1.1\r\nHost: localhost\r\nContent-Length: {}\r\n\r\n{body}", body.len());
    // From here on all are hits.
    let links = String::from_utf8(connection.ask(batch.as_bytes())).unwrap();
    assert_eq!(links.matches("\"expires_at\"").count(), sources.len(), "{links}");

    let mut criterion = Criterion::default().configure_from_args();
    let mut group = criterion.benchmark_group("hits");
    // Links a second, from all that criterion had run.
    let mut rates = HashMap::new();
    for (name, request, links) in [("single", single, 1), ("batch of 500", batch, BATCH)] {
        group.throughput(Throughput::Elements(links.into()));
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|times| {
                let took = connection.time(request.as_bytes(), times);
                let (all, seconds) = rates.entry(name).or_insert((0.0, 0.0));
                *all += f64::from(links) * times as f64;
                *seconds += took.as_secs_f64();
                took
            });
        });
    }
    group.finish();
    // A filter, or `--list`, may have left one out.
    if let (Some((ones, alone)), Some((many, together))) = (rates.get("single"), rates.get("batch of 500")) {
        let ratio = many / together / (ones / alone);
        println!("a batch of {BATCH} hits serves {ratio:.0} times the links a second of single requests");
        assert!(ratio >= LEAST_RATIO, "at least {LEAST_RATIO} times were promised");
    }
}

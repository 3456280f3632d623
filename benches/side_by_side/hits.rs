//! What hits cost.

use std::time::Duration;

use kielink::clock::Clock;

use crate::{
    Options,
    client::{Ask, Connection, DIGITS},
    hyper::Manner,
    load::{Cost, Load, WARM_UP},
    lower_quarter,
    servers::{Kie, Machine, Place, Server},
    spread,
};

const BATCH: usize = 500;

/// Short, so that what else the machine does meanwhile meets all contenders of a round alike.
const TURN: Duration = Duration::from_millis(40);

/// Where each measurement has a process of its own.
const LONG_TURN: Duration = Duration::from_secs(1);

/// Before a turn is measured: the first requests have come, and what others left in the core's caches is replaced.
const SETTLES: Duration = Duration::from_millis(10);

/// Connections and requests that the simulated kie.ai can take.
const UNLIMITED: [(&str, &str); 3] =
    [("upstream.rate", "1000000"), ("upstream.burst", "1000000"), ("upstream.in_flight", "64")];

#[derive(Clone, Copy, Debug, PartialEq)]
enum Program {
    Hyper(Manner),
    Nginx,
    Kielink,
    /// All its links are past their refresh point, and kie.ai fails.
    KielinkDue,
}

struct Contender {
    name: String,
    program: Program,
    ask: Ask,
}

impl Contender {
    /// One that has answered as it is to answer from now on.
    async fn start(&self, machine: &Machine, kie: &Kie, place: Place, workers: usize) -> Server {
        kie.fails(false);
        let url = kie.url();
        let mut settings = UNLIMITED.to_vec();
        settings.push(("upstream.base_url", &url));
        let server = match self.program {
            Program::Hyper(manner) => machine.hyper(manner, place, workers),
            Program::Nginx => machine.nginx(kie, place).await,
            Program::Kielink => machine.kielink(place, Some(workers), &settings).await,
            Program::KielinkDue => {
                settings.push(("cache.refresh_after", "1ms"));
                machine.kielink(place, Some(workers), &settings).await
            }
        };
        let clock = Clock::system();
        let began = clock.now();
        let mut connection = Connection::to(server.address).await;
        for file in 0..self.ask.files {
            let request = self.ask.of_file(file);
            // From memory from now on; a refresh that was begun before kie.ai failed may still come, so it is asked
            // until it says what it is to say.
            let first = connection.ask(&request).await;
            assert!(first.head.starts_with(self.ask.status.as_bytes()), "{}: {}", self.name, first.text());
            kie.fails(self.program == Program::KielinkDue);
            loop {
                tokio::time::sleep(Duration::from_millis(2)).await;
                let answer = connection.ask(&request).await;
                if self.ask.is_answered_by(&answer) {
                    break;
                }
                let waited = clock.now().since(began);
                assert!(
                    waited < Duration::from_secs(5),
                    "{} does not say {}: {}",
                    self.name,
                    self.ask.says,
                    answer.text()
                );
            }
        }
        server
    }

    async fn measure(&self, options: &Options, machine: &Machine, kie: &Kie, place: Place, workers: usize) -> Cost {
        let server = self.start(machine, kie, place, workers).await;
        let mut load = Load::of(&server, &self.ask, options.connections).await;
        let cost = load.cost(WARM_UP, LONG_TURN).await;
        load.end().await;
        cost
    }
}

fn source(number: usize) -> String {
    format!("https://file.kie.ai/s/{number:0DIGITS$}.png")
}

fn encoded(source: &str) -> String {
    source.replace(':', "%3A").replace('/', "%2F")
}

fn get(path: &str) -> String {
    format!("GET {path}?url={} HTTP/1.1\r\nHost: localhost\r\n\r\n", encoded(&source(0)))
}

fn post(path: &str, body: &str) -> String {
    format!(
        "POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn post_one() -> String {
    post("/api/v1/common/download-url", &format!("{{\"url\":\"{}\"}}", source(0)))
}

fn contenders(options: &Options, machine: &Machine) -> Vec<Contender> {
    let mut all = vec![
        Contender {
            name: "bare hyper".to_owned(),
            program: Program::Hyper(Manner::Bare),
            ask: Ask::new(get("/v1/link"), ""),
        },
        Contender {
            name: "bare hyper, POST".to_owned(),
            program: Program::Hyper(Manner::Bare),
            ask: Ask::new(post_one(), ""),
        },
        Contender {
            name: "hyper, six more headers, POST".to_owned(),
            program: Program::Hyper(Manner::SixHeaders),
            ask: Ask::new(post_one(), "x-request-id"),
        },
    ];
    if machine.has_nginx {
        all.push(Contender {
            name: "nginx, POST".to_owned(),
            program: Program::Nginx,
            ask: Ask::new(post_one(), "X-Cache-Status: HIT"),
        });
    }
    let batch = serde_json::json!({ "urls": (0..BATCH).map(source).collect::<Vec<_>>() }).to_string();
    for (program, says, word) in [
        (Program::Kielink, "cache-status: kielink; hit; ttl=", "hit"),
        (Program::KielinkDue, "; detail=refresh", "hit-refresh"),
    ] {
        for (name, ask) in [
            ("POST download-url", Ask::new(post_one(), says)),
            ("GET /v1/link", Ask::new(get("/v1/link"), says)),
            ("GET /v1/redirect", Ask { status: "HTTP/1.1 302 ", ..Ask::new(get("/v1/redirect"), says) }),
            ("POST /v1/links, 500", Ask { links: BATCH, ..Ask::new(post("/v1/links", &batch), "detail=batch") }),
        ] {
            all.push(Contender { name: format!("kielink {name}, {word}"), program, ask });
        }
    }
    if let Some(only) = &options.only {
        all.retain(|contender| contender.program == Program::Hyper(Manner::Bare) || contender.name.contains(only));
    }
    all
}

/// CPU time a request, by contender, each beside bare hyper.
pub(crate) async fn compare(options: &Options, machine: &Machine, kie: &Kie) {
    machine.bind_client(Place::OneCore);
    let contenders = contenders(options, machine);
    let mut servers = Vec::new();
    for contender in &contenders {
        servers.push(contender.start(machine, kie, Place::OneCore, 1).await);
    }
    let mut loads = Vec::new();
    for (contender, server) in contenders.iter().zip(&servers) {
        let mut load = Load::of(server, &contender.ask, options.connections).await;
        load.cost(WARM_UP, TURN).await;
        loads.push(load);
    }
    let mut costs: Vec<Vec<Cost>> = vec![Vec::new(); contenders.len()];
    let rounds = options.rounds.unwrap_or(100);
    for _ in 0..rounds {
        for (load, costs) in loads.iter_mut().zip(&mut costs) {
            costs.push(load.cost(SETTLES, TURN).await);
        }
    }
    for load in loads {
        load.end().await;
    }
    let wide = contenders.iter().map(|contender| contender.name.len()).max().unwrap();
    println!(
        "\n{rounds} rounds, {} connections; medians, in parentheses the least and the most. quiet: what a \
         quarter of the rounds stayed below, µs and ratio. busy: the server's share of its core\n",
        options.connections
    );
    println!("{:wide$}  {:>9}  {:>18}  {:>13}  {:>9}  {:>5}", "", "CPU, µs", "÷ bare hyper", "quiet", "a link", "busy");
    for (contender, own) in contenders.iter().zip(&costs) {
        let (micros, ..) = spread(own.iter().map(|cost| cost.micros).collect());
        let (busy, ..) = spread(own.iter().map(|cost| cost.busy * 100.0).collect());
        let (ratio, quiet, link) = if contender.ask.links == 1 {
            (ratio(own, &costs[0]), format!("{:.2}, {:.2}", quiet(own), quiet(own) / quiet(&costs[0])), String::new())
        } else {
            (String::new(), String::new(), format!("{:.2} µs", quiet(own) / contender.ask.links as f64))
        };
        println!("{:wide$}  {micros:>9.2}  {ratio:>18}  {quiet:>13}  {link:>9}  {busy:>3.0} %", contender.name);
    }
    let of = |name: &str| contenders.iter().position(|contender| contender.name.starts_with(name));
    for other in ["bare hyper, POST", "nginx, POST"] {
        if let (Some(other_at), Some(kielink)) = (of(other), of("kielink POST download-url, hit")) {
            let [of, to] = [&costs[kielink], &costs[other_at]];
            println!("\nkielink POST ÷ {other}: {}, quiet {:.2}", ratio(of, to), quiet(of) / quiet(to));
        }
    }
}

fn quiet(costs: &[Cost]) -> f64 {
    lower_quarter(costs.iter().map(|cost| cost.micros).collect())
}

/// Of measurements in the same round.
fn ratio(of: &[Cost], to: &[Cost]) -> String {
    let (median, least, most) = spread(of.iter().zip(to).map(|(of, to)| of.micros / to.micros).collect());
    format!("{median:.2} ({least:.2}–{most:.2})")
}

/// CPU time of a hit with two worker threads, divided by that with one.
pub(crate) async fn compare_threads(options: &Options, machine: &Machine, kie: &Kie) {
    machine.bind_client(Place::TwoCores);
    let files = |files: u64, miss_every: Option<u64>| {
        let request = get("/v1/link");
        let number_at = request.find(&format!("{:0DIGITS$}", 0));
        Ask { number_at, files, miss_every, ..Ask::new(request, "cache-status: kielink; hit; ttl=") }
    };
    let bare = Ask::new(get("/v1/link"), "");
    let contenders: Vec<_> = [
        ("bare hyper", Program::Hyper(Manner::Bare), bare),
        ("kielink GET /v1/link, all for one file", Program::Kielink, files(1, None)),
        ("kielink GET /v1/link, 64 files", Program::Kielink, files(64, None)),
        ("kielink GET /v1/link, 64 files, 1 % misses", Program::Kielink, files(64, Some(100))),
    ]
    .into_iter()
    .map(|(name, program, ask)| Contender { name: name.to_owned(), program, ask })
    .collect();
    let mut costs: Vec<[Vec<Cost>; 2]> = vec![Default::default(); contenders.len()];
    for round in 0..options.rounds() {
        eprintln!("round {} of {}", round + 1, options.rounds());
        for (contender, costs) in contenders.iter().zip(&mut costs) {
            for (workers, costs) in (1..).zip(costs) {
                costs.push(contender.measure(options, machine, kie, Place::TwoCores, workers).await);
            }
        }
    }
    let wide = contenders.iter().map(|contender| contender.name.len()).max().unwrap();
    println!("\nCPU time a request with two worker threads and with one, {} rounds", options.rounds());
    if machine.shares_two_cores() {
        println!("server and client share two cores: a third one would let the threads run side by side all the time");
    }
    println!("\n{:wide$}  {:>8}  {:>8}  {:>22}  {:>12}", "", "1, µs", "2, µs", "2 ÷ 1", "busy 1, 2");
    for (contender, [one, two]) in contenders.iter().zip(&costs) {
        let micros = |costs: &[Cost]| spread(costs.iter().map(|cost| cost.micros).collect()).0;
        let busy = |costs: &[Cost]| spread(costs.iter().map(|cost| cost.busy * 100.0).collect()).0;
        println!(
            "{:wide$}  {:>8.2}  {:>8.2}  {:>22}  {:>3.0} %, {:>3.0} %",
            contender.name,
            micros(one),
            micros(two),
            ratio(two, one),
            busy(one),
            busy(two)
        );
    }
}

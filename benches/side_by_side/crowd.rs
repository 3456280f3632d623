//! A crowd that waits for one file: how far apart the answers are.

use std::time::Duration;

use kielink::clock::{Clock, Instant};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use tokio::task::JoinSet;

use crate::{
    Options,
    client::Connection,
    hyper::Manner,
    servers::{Kie, Machine, Place, Server},
    spread,
};

/// Files that a process has open besides its callers' connections.
const OTHER_FILES: u64 = 200;

/// So many connections are opened before the server must have taken them all; less than any backlog.
const AT_ONCE: usize = 100;

const REQUEST: &[u8] =
    b"GET /v1/link?url=https%3A%2F%2Ffile.kie.ai%2Fs%2Fcrowd.png HTTP/1.1\r\nHost: localhost\r\n\r\n";

/// Milliseconds from the moment at which the answers may come.
struct Answers {
    first: f64,
    last: f64,
}

/// The spread as the client sees it has the client's own work in it: reading ten thousand answers takes its time. What
/// the same client sees of a hyper that does nothing but hold its answers back is that share.
pub(crate) async fn compare(options: &Options, machine: &Machine, kie: &Kie) {
    machine.bind_client(Place::OneCore);
    let callers = options.callers;
    // At most three quarters of kielink's connections wait for a link.
    let connections = callers * 4 / 3 + 200;
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    let files = getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX);
    let wanted = connections as u64 + OTHER_FILES;
    if files < wanted {
        println!("--crowd: {files} open files are allowed and {wanted} are needed (ulimit -n): it is left out");
        return;
    }
    let (mut bare, mut kielink) = (Vec::new(), Vec::new());
    for round in 0..options.rounds() {
        eprintln!("round {} of {}", round + 1, options.rounds());
        let server = machine.hyper(Manner::Gate, Place::OneCore, 1);
        let open = async || {
            let mut connection = Connection::to(server.address).await;
            connection.send(b"GET /open HTTP/1.1\r\nHost: localhost\r\n\r\n").await;
            connection
        };
        bare.push(crowd(&server, callers, open).await.0);

        let (connections, in_flight, url) = (connections.to_string(), (callers + 1).to_string(), kie.url());
        let settings = [
            ("upstream.base_url", url.as_str()),
            ("limits.connections", &connections),
            ("limits.in_flight", &in_flight),
            // Until all are there.
            ("server.request_timeout", "60s"),
            ("upstream.attempt_timeout", "60s"),
        ];
        let server = machine.kielink(Place::OneCore, Some(1), &settings).await;
        kie.fails(false);
        kie.world.hold();
        let (answers, collapsed) = crowd(&server, callers, async || kie.world.release()).await;
        assert_eq!(collapsed, callers - 1, "all wait for the call that the first one began");
        kielink.push(answers);
    }
    println!(
        "\n{callers} callers wait for one file; {} rounds, medians (least–most), milliseconds\n",
        options.rounds()
    );
    println!("{:26}  {:>22}  {:>22}  {:>22}", "", "first answer after", "last answer after", "first to last");
    for (name, answers) in [("bare hyper, held back", &bare), ("kielink, one call to kie.ai", &kielink)] {
        let column = |value: fn(&Answers) -> f64| {
            let (median, least, most) = spread(answers.iter().map(value).collect());
            format!("{median:.1} ({least:.1}–{most:.1})")
        };
        let (first, last) = (column(|answers| answers.first), column(|answers| answers.last));
        println!("{name:27} {first:>22}  {last:>22}  {:>22}", column(|answers| answers.last - answers.first));
    }
    let more =
        bare.iter().zip(&kielink).map(|(bare, kielink)| (kielink.last - kielink.first) - (bare.last - bare.first));
    println!("\nkielink's spread less bare hyper's in the same round: {:.1} ms", spread(more.collect()).0);
}

/// Also how many say that they waited for somebody else's call. What `open` gives is kept until all are answered: hyper
/// drops a request whose connection ends before it is looked at.
async fn crowd<T>(server: &Server, callers: usize, open: impl AsyncFnOnce() -> T) -> (Answers, usize) {
    let clock = Clock::system();
    let mut tasks: JoinSet<(Instant, bool)> = JoinSet::new();
    for caller in 0..callers {
        // The system drops what comes while more connections wait than a server's backlog has room for, and the client's
        // system tries again seconds later.
        if caller % AT_ONCE == 0 {
            assert!(server.is_healthy().await, "it cannot take so many connections");
        }
        let mut connection = Connection::to(server.address).await;
        let clock = clock.clone();
        connection.send(REQUEST).await;
        tasks.spawn(async move {
            let answer = connection.receive().await;
            let at = clock.now();
            assert!(answer.head.starts_with(b"HTTP/1.1 200 "), "{}", answer.text());
            (at, memchr::memmem::find(answer.head, b"collapsed").is_some())
        });
    }
    // All have been read when the server has nothing to do any more.
    loop {
        let before = server.cpu();
        tokio::time::sleep(Duration::from_millis(200)).await;
        if server.cpu().since(&before) < Duration::from_millis(2) {
            break;
        }
    }
    let opened = clock.now();
    let _kept = open().await;
    let answers = tasks.join_all().await;
    let millis = |at: &Instant| at.since(opened).as_secs_f64() * 1e3;
    let first = answers.iter().map(|(at, _)| millis(at)).fold(f64::INFINITY, f64::min);
    let last = answers.iter().map(|(at, _)| millis(at)).fold(0.0, f64::max);
    (Answers { first, last }, answers.iter().filter(|(_, collapsed)| *collapsed).count())
}

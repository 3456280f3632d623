//! Half an hour of a fleet under load whose tier has a fault every ten seconds. Not run by default:
//!
//! ```sh
//! KIELINK_SOAK_SECONDS=1800 cargo test --test it -- --ignored --nocapture fleet::soak
//! ```

use std::time::Duration;

use tokio_util::task::TaskTracker;

use super::{
    Fleet, labelled,
    load::{Load, is_used_in_the_end},
    metric,
    proxy::{Manner, Proxy},
    quota::{most_at_once, times},
    server::{Server, free_port},
};

const FAULT_EVERY: Duration = Duration::from_secs(10);
const FAULT_LASTS: Duration = Duration::from_secs(5);

/// Ten times the default: five replicas, their callers and the tier share one machine, which may be busy with something else.
const PATIENCE: (&str, &str) = ("shared.timeout", "200ms");

/// So many kinds of faults there are.
const KINDS: usize = 14;

/// Begins a fault of this number, or ends it.
fn fault(number: usize, begins: bool, server: &mut Server, proxy: &Proxy) {
    let manner = |manner| proxy.set(if begins { manner } else { Manner::Honest });
    let run = |server: &Server, begin: &[&str], end: &[&str]| {
        let command = if begins { begin } else { end };
        if !command.is_empty() {
            server.run(command);
        }
    };
    let elsewhere = free_port().to_string();
    match number % KINDS {
        0 if begins => server.freeze(),
        0 => server.thaw(),
        1 if begins => server.kill(),
        1 => server.restart(),
        2 => run(server, &["FLUSHALL"], &[]),
        3 => run(server, &["CLIENT", "PAUSE", "300", "ALL"], &["SCRIPT", "FLUSH"]),
        4 => run(server, &["REPLICAOF", "127.0.0.1", &elsewhere], &["REPLICAOF", "NO", "ONE"]),
        5 => run(server, &["CONFIG", "SET", "maxmemory", "1"], &["CONFIG", "SET", "maxmemory", "0"]),
        6 => manner(Manner::Swallows),
        7 => manner(Manner::Garbles),
        8 => manner(Manner::Swaps),
        9 => manner(Manner::Doubles),
        10 => manner(Manner::Closes),
        11 => manner(Manner::Resets),
        12 => proxy.delay(Duration::from_millis(if begins { 120 } else { 0 })),
        _ => proxy.delay(Duration::from_millis(if begins { 400 } else { 0 })),
    }
}

#[tokio::test]
#[ignore = "takes half an hour"]
#[expect(clippy::disallowed_methods, reason = "the test run's own setting, not kielink's")]
async fn half_an_hour_of_faults_fails_no_request() {
    let seconds = std::env::var("KIELINK_SOAK_SECONDS").map_or(1800, |text| text.parse().unwrap());
    let Some(server) = Server::start(&[]) else { return };
    let proxy = Proxy::before(server.port, &TaskTracker::new()).await;
    let url = format!("redis://127.0.0.1:{}", proxy.port);
    let settings = [("upstream.rate", "50"), ("upstream.burst", "50"), PATIENCE];
    let mut fleet = Fleet::behind(server, url, 5, &settings).await;
    let load = Load::on(&fleet);
    let mut turns = tokio::time::interval(FAULT_EVERY);
    turns.tick().await;
    for number in 0..seconds / FAULT_EVERY.as_secs() {
        let number = usize::try_from(number).unwrap();
        fault(number, true, &mut fleet.server, &proxy);
        tokio::time::sleep(FAULT_LASTS).await;
        fault(number, false, &mut fleet.server, &proxy);
        turns.tick().await;
    }
    let asked = load.failed_none(&fleet).await;
    let times = times(&fleet).await;
    let (beyond, burst) = (most_at_once(&times, 50.0), most_at_once(&times, 100.0));
    eprintln!(
        "{asked} requests in {seconds} s; {} to kie.ai, never more than 50 a second and {beyond:.1}, 100 a second and \
         {burst:.1}; {} links in the tier",
        times.len(),
        fleet.server.names("*1l.*").len(),
    );
    let in_each = times.chunk_by(|one, next| one.as_secs() / 10 == next.as_secs() / 10).map(<[_]>::len);
    eprintln!("to kie.ai in each ten seconds: {:?}", in_each.collect::<Vec<_>>());
    for replica in &fleet.replicas {
        let ready = replica.get_admin("/readyz?verbose").await.body;
        let tier = ready.lines().find(|line| line.contains("shared tier")).unwrap_or_default();
        eprintln!(
            "{tier}; {} silences, {} duplicate mints, {} looks answered, {} entries",
            metric(replica, "kielink_shared_silences_total").await,
            metric(replica, "kielink_mints_duplicate_total").await,
            labelled(replica, "kielink_shared_requests_total", "look").await,
            metric(replica, "kielink_cache_entries").await,
        );
    }
    // A burst, and what each outage may cost: what was given within its last second.
    assert!(beyond <= 100.0 && burst <= 50.0, "{beyond}, {burst}");
    is_used_in_the_end(&fleet).await;
    let clients: String = redis::from_redis_value(fleet.server.run(&["CLIENT", "LIST", "TYPE", "normal"])).unwrap();
    // One of each replica, and that of this question.
    eprintln!("{} connections", clients.lines().count());
    assert_eq!(clients.lines().count(), fleet.replicas.len() + 1);
    fleet.ended().await;
}

//! A log that nobody reads, or that cannot be written: nobody who asks for a link notices, and it ends as always.

use serde_json::Value;

use super::{
    child::{Child, Run, link_path},
    wire::Wire,
};
use crate::support::{FakeKie, SOURCE, eventually};

/// So many misses log more than a pipe and kielink's own queue hold.
const MISSES: usize = 400;

fn unhurried(kie: &FakeKie) -> Run {
    Run::serving(kie, &["--set", "upstream.rate=100000", "--set", "upstream.burst=100000"])
}

/// Each gets its link.
async fn miss(wire: &mut Wire, times: usize) {
    for n in 0..times {
        assert_eq!(wire.get(&link_path(&format!("{SOURCE}?n={n}"))).await.status, 200, "miss {n}");
    }
}

/// `kielink_log_lines_dropped_total`
async fn dropped(admin: &str) -> u64 {
    let metrics = Wire::connect(admin).await.get("/metrics").await.body;
    let value = metrics.lines().find_map(|line| line.strip_prefix("kielink_log_lines_dropped_total "));
    value.unwrap_or_else(|| panic!("{metrics}")).parse().unwrap()
}

/// A kielink that has logged more than anybody has read.
async fn unread(kie: &FakeKie) -> Child {
    let child = unhurried(kie).ready().await;
    assert_eq!(dropped(&child.admin()).await, 0);
    child.leave_stderr_unread();
    let mut wire = child.connect().await;
    miss(&mut wire, MISSES).await;
    assert_eq!(wire.get(&link_path(&format!("{SOURCE}?n=0"))).await.status, 200, "a hit");
    assert_eq!(wire.get("/healthz").await.status, 200);
    assert!(dropped(&child.admin()).await > 0);
    child
}

#[tokio::test]
async fn a_log_that_nobody_reads_stops_nobody() {
    let kie = FakeKie::start();
    let child = unread(&kie).await;
    assert_eq!(child.get_admin("/readyz").await.status, 200);
    let status = child.get_admin("/status.json").await.json();
    assert_eq!(status["log_lines_dropped"], dropped(&child.admin()).await);
    assert!(child.get_admin("/status").await.body.contains("log lines"));
    child.terminate();
    // Nobody reads until it has ended.
    assert_eq!(child.ended().await, Some(0));
}

#[tokio::test]
async fn when_it_is_read_again_the_log_says_how_much_is_missing() {
    let kie = FakeKie::start();
    let child = unread(&kie).await;
    let missing = dropped(&child.admin()).await;
    child.read_stderr();
    let told = |child: &Child| {
        let lines = child.log_lines("log lines were dropped: they could not be written in time");
        lines.iter().map(|line| line["lines"].as_u64().unwrap()).sum::<u64>()
    };
    eventually("it says so", async || told(&child) == missing).await;
    assert_eq!(child.link(SOURCE).await.status, 200);
    child.terminate();
    assert_eq!(child.ended().await, Some(0));
    assert_eq!(dropped_in_all(&child), missing, "nothing was dropped since");
    let written = child.log_lines("minted").len() + child.log_lines("request").len();
    assert_eq!(written as u64 + missing, 2 * (MISSES as u64 + 1), "two lines a miss");
}

fn dropped_in_all(child: &Child) -> u64 {
    child.log().iter().filter_map(|line| line.get("total").and_then(Value::as_u64)).max().unwrap()
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once_though_nobody_reads() {
    let kie = FakeKie::start();
    let child = unread(&kie).await;
    kie.hold();
    let mut waiting = child.connect().await;
    waiting.ask(&link_path(SOURCE)).await;
    kie.wait_for_mints(MISSES + 1).await;
    child.terminate();
    eventually("it drains", async || child.get_admin("/readyz").await.status == 503).await;
    // For a moment it is the first one again.
    eventually("another signal ends it", async || {
        child.terminate_unless_ended();
        child.has_ended()
    })
    .await;
    assert_eq!(child.ended().await, Some(1));
}

#[tokio::test]
async fn a_log_on_a_full_disk_stops_nobody() {
    let kie = FakeKie::start();
    let directory = tempfile::tempdir().unwrap();
    let [data, admin] = ["data", "admin"].map(|name| format!("unix:{}", directory.path().join(name).display()));
    let base_url = format!("upstream.base_url={}", kie.base_url());
    let child = Run::scripted(r#"exec "$@" 2>/dev/full"#, &["--listen", &data, "--admin-listen", &admin])
        .arguments(&["--set", &base_url])
        .key()
        .start();
    let wait = Run::new(&["wait", "--admin-listen", &admin]).finished().await;
    assert_eq!(wait.code, Some(0), "{wait:?}");
    miss(&mut Wire::connect(&data).await, 10).await;
    assert!(dropped(&admin).await > 10, "what it said at the start, too");
    child.terminate();
    assert_eq!(child.ended().await, Some(0));
}

#[tokio::test]
async fn a_start_that_fails_has_said_everything() {
    let kie = FakeKie::start();
    let finished =
        unhurried(&kie).arguments(&["--set", "server.listen=unix:/dev/nowhere/kielink.sock"]).finished().await;
    assert_eq!(finished.code, Some(1), "{finished:?}");
    let lines: Vec<_> = finished.stderr.lines().collect();
    assert!(lines[0].contains("kielink starts"), "{lines:?}");
    let last: serde_json::Value = serde_json::from_str(lines[lines.len() - 1]).unwrap();
    assert_eq!(last["message"], "kielink cannot go on", "{lines:?}");
    assert!(
        last["error"].as_str().unwrap().starts_with("cannot listen on unix:/dev/nowhere/kielink.sock"),
        "{lines:?}"
    );
}

//! The end: what was accepted is answered, nobody new is let in, and nothing takes longer than the grace.

use tokio::net::TcpStream;

use super::{
    child::{Child, Run, link_path},
    wire::Wire,
};
use crate::support::{FakeKie, SOURCE, eventually};

const DRAINING: &str = "not ready any more, still serving";

/// With a grace that no test lives through: what ends within a test did not need it.
fn patient(kie: &FakeKie) -> Run {
    Run::serving(kie, &["--set", "server.shutdown_grace=1h", "--log-level", "debug"])
}

async fn refuses_connections(child: &Child) {
    let address = child.data();
    eventually("it accepts no more", async || TcpStream::connect(&address).await.is_err()).await;
}

#[tokio::test]
async fn every_accepted_request_is_answered_before_it_ends() {
    let kie = FakeKie::start();
    kie.hold();
    let child = patient(&kie).ready().await;
    let mut callers = Vec::new();
    for n in 0..16 {
        let mut wire = child.connect().await;
        wire.ask(&link_path(&format!("{SOURCE}?n={n}"))).await;
        callers.push(wire);
    }
    kie.wait_for_mints(16).await;
    child.terminate();
    refuses_connections(&child).await;
    assert!(!child.has_ended());
    kie.release();
    for mut wire in callers {
        let reply = wire.reply().await;
        assert_eq!((reply.status, reply.header("connection")), (200, "close"), "{reply:?}");
        wire.closed().await;
    }
    assert_eq!(child.ended().await, Some(0), "{}", child.stderr());
    assert_eq!(child.log_lines("every accepted request was answered").len(), 1);
}

#[tokio::test]
async fn what_was_sent_before_the_signal_is_answered_though_nothing_of_it_was_accepted_yet() {
    let kie = FakeKie::start();
    let child = patient(&kie).ready().await;
    assert_eq!(child.link(SOURCE).await.status, 200);
    child.pause();
    let mut callers = Vec::new();
    for _ in 0..300 {
        let mut wire = child.connect().await;
        wire.ask(&link_path(SOURCE)).await;
        callers.push(wire);
    }
    child.terminate();
    child.resume();
    for mut wire in callers {
        assert_eq!(wire.reply().await.status, 200);
        wire.closed().await;
    }
    assert_eq!(child.ended().await, Some(0), "{}", child.stderr());
}

#[tokio::test]
async fn the_first_request_of_a_connection_that_was_made_just_before_the_end_is_answered() {
    let kie = FakeKie::start();
    let child = patient(&kie).ready().await;
    let mut fresh = child.connect().await;
    // Accepted in order: once this one is answered, the fresh one is in as well.
    assert_eq!(child.connect().await.get(&link_path(SOURCE)).await.status, 200);
    child.terminate();
    refuses_connections(&child).await;
    fresh.ask(&link_path(SOURCE)).await;
    let reply = fresh.reply().await;
    assert_eq!((reply.status, reply.header("connection")), (200, "close"), "{reply:?}");
    fresh.closed().await;
    assert_eq!(child.ended().await, Some(0), "{}", child.stderr());
}

#[tokio::test]
async fn a_request_whose_body_is_still_on_its_way_is_answered() {
    let kie = FakeKie::start();
    let child = patient(&kie).ready().await;
    let body = serde_json::json!({ "url": SOURCE }).to_string();
    let mut wire = child.connect().await;
    let head = format!(
        "POST /api/v1/common/download-url HTTP/1.1\r\nhost: localhost\r\nexpect: 100-continue\r\ncontent-length: {}\r\n\r\n",
        body.len()
    );
    wire.send(&head).await;
    assert_eq!(wire.reply().await.status, 100);
    child.terminate();
    refuses_connections(&child).await;
    wire.send(&body).await;
    let reply = wire.reply().await;
    assert_eq!((reply.status, reply.header("connection")), (200, "close"), "{reply:?}");
    assert_eq!(child.ended().await, Some(0));
}

#[tokio::test]
async fn idle_connections_do_not_hold_up_the_end() {
    let kie = FakeKie::start();
    let child = patient(&kie).arguments(&["--set", "limits.header_timeout=1h"]).ready().await;
    let mut idle = child.connect().await;
    assert_eq!(idle.get(&link_path(SOURCE)).await.status, 200);
    let mut silent = child.connect().await;
    // Accepted in order: once this one is answered, the silent one is in as well.
    let mut last = child.connect().await;
    assert_eq!(last.get("/healthz").await.status, 200);
    let admin_idle = Wire::connect(&child.admin()).await;
    let two = reqwest_h2();
    assert_eq!(two.get(format!("http://{}/healthz", child.data())).send().await.unwrap().status(), 200);
    child.terminate();
    assert_eq!(child.ended().await, Some(0), "{}", child.stderr());
    idle.closed().await;
    silent.closed().await;
    last.closed().await;
    drop((admin_idle, two));
}

#[tokio::test]
async fn it_serves_on_while_load_balancers_notice_that_it_is_not_ready() {
    let kie = FakeKie::start();
    let child = patient(&kie).arguments(&["--set", "server.drain_delay=1h"]).ready().await;
    for path in ["/readyz", "/healthz", "/livez", "/startupz"] {
        assert_eq!(child.get_admin(path).await.status, 200, "{path}");
    }
    let mut earlier = child.connect().await;
    assert_eq!(earlier.get("/healthz").await.status, 200);
    child.terminate();
    child.wait_for_log(DRAINING).await;
    for (path, status) in [("/readyz", 503), ("/healthz", 503), ("/livez", 200), ("/startupz", 200)] {
        let reply = child.get_admin(path).await;
        assert_eq!(reply.status, status, "{path}");
        assert_eq!(reply.header("cache-control"), "no-store", "{path}");
        assert_eq!(reply.header("retry-after").is_empty(), status == 200, "{path}");
    }
    assert!(child.get_admin("/readyz?verbose").await.body.contains("[-]not-draining failed\n"));
    assert!(child.get_admin("/livez?verbose").await.body.contains("[+]process ok\n"));
    // A kept connection is served once more and told to go elsewhere.
    let reply = earlier.get(&link_path(SOURCE)).await;
    assert_eq!((reply.status, reply.header("connection")), (200, "close"));
    assert_eq!(child.get("/healthz").await.status, 503);
    assert_eq!(child.link(&format!("{SOURCE}?new")).await.status, 200);
    assert!(!child.has_ended());
}

#[tokio::test]
async fn a_drain_delay_ends_by_itself() {
    let kie = FakeKie::start();
    let child = patient(&kie).arguments(&["--set", "server.drain_delay=50ms"]).ready().await;
    child.terminate();
    assert_eq!(child.ended().await, Some(0));
    assert_eq!(child.log_lines("every accepted request was answered").len(), 1);
}

#[tokio::test]
async fn it_is_alive_until_the_last_request_is_answered() {
    let kie = FakeKie::start();
    kie.hold();
    let child = patient(&kie).ready().await;
    let mut wire = child.connect().await;
    wire.ask(&link_path(SOURCE)).await;
    kie.wait_for_mints(1).await;
    child.terminate();
    refuses_connections(&child).await;
    assert_eq!(child.get_admin("/livez").await.status, 200);
    assert_eq!(child.get_admin("/readyz").await.status, 503);
    kie.release();
    assert_eq!(wire.reply().await.status, 200);
    assert_eq!(child.ended().await, Some(0));
}

#[tokio::test]
async fn a_second_signal_ends_it_at_once() {
    let kie = FakeKie::start();
    for interrupt in [false, true] {
        kie.hold();
        let child = patient(&kie).ready().await;
        let mut wire = child.connect().await;
        wire.ask(&link_path(SOURCE)).await;
        child.terminate();
        child.wait_for_log(DRAINING).await;
        // For a moment it is the first one again.
        eventually("another signal ends it", async || {
            if interrupt {
                child.interrupt_unless_ended();
            } else {
                child.terminate_unless_ended();
            }
            child.has_ended()
        })
        .await;
        assert_eq!(child.ended().await, Some(1), "{}", child.stderr());
        assert_eq!(child.log_lines("a second signal: ending at once").len(), 1);
        // It may just have been told so.
        wire.closed_after_all().await;
        kie.release();
    }
}

#[tokio::test]
async fn a_signal_that_comes_twice_is_one() {
    let kie = FakeKie::start();
    for interrupt in [false, true] {
        kie.hold();
        let child = patient(&kie).ready().await;
        let mut wire = child.connect().await;
        wire.ask(&link_path(SOURCE)).await;
        kie.wait_for_mints(1).await;
        child.terminate();
        child.wait_for_log(DRAINING).await;
        if interrupt {
            child.interrupt();
        } else {
            child.terminate();
        }
        kie.release();
        assert_eq!(wire.reply().await.status, 200);
        assert_eq!(child.ended().await, Some(0), "{}", child.stderr());
    }
}

/// Its settings come out of a pipe that nobody writes into: its start takes as long as the test likes.
fn starting(pipe: &std::path::Path, arguments: &[&str]) -> Child {
    assert!(std::process::Command::new("mkfifo").arg(pipe).status().unwrap().success());
    Run::new(arguments).key().env("KIELINK_CONFIG", pipe).start()
}

#[tokio::test]
async fn a_signal_during_the_start_is_heard_and_ends_it() {
    let directory = tempfile::tempdir().unwrap();
    for (n, (arguments, code)) in [
        (["serve"].as_slice(), Some(0)),
        (&["sandbox"], Some(0)),
        (&["check-config"], Some(1)),
        (&["healthcheck"], Some(1)),
        (&["wait"], Some(1)),
    ]
    .into_iter()
    .enumerate()
    {
        for interrupt in [false, true] {
            let child = starting(&directory.path().join(format!("{n}-{interrupt}")), arguments);
            eventually("it hears signals", async || child.catches_signals()).await;
            child.hang_up();
            if interrupt {
                child.interrupt();
            } else {
                child.terminate();
            }
            assert_eq!(child.ended().await, code, "{arguments:?}: {}", child.stderr());
            let name = if interrupt { "SIGINT" } else { "SIGTERM" };
            let said = if code == Some(0) { String::new() } else { format!("kielink: ended by {name}\n") };
            assert_eq!(child.stderr(), said, "{arguments:?}");
        }
    }
}

#[tokio::test]
async fn who_waits_for_it_to_be_ready_hears_signals() {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap().to_string();
    let child = Run::new(&["wait", "--max", "1h", "--admin-listen", &address]).start();
    eventually("it hears signals", async || child.catches_signals()).await;
    child.terminate();
    assert_eq!(child.ended().await, Some(1), "{}", child.stderr());
    assert_eq!(child.stderr(), "kielink: ended by SIGTERM\n");
}

#[tokio::test]
async fn a_second_signal_leaves_no_socket_behind() {
    let directory = tempfile::tempdir().unwrap();
    let address = |name: &str| format!("unix:{}", directory.path().join(name).display());
    let child = Run::new(&["--listen", &address("data.sock"), "--admin-listen", &address("admin.sock")])
        .arguments(&["--set", "server.drain_delay=1h", "--set", "upstream.base_url=http://127.0.0.1:9"])
        .key()
        .ready()
        .await;
    child.terminate();
    child.wait_for_log(DRAINING).await;
    eventually("another signal ends it", async || {
        child.terminate_unless_ended();
        child.has_ended()
    })
    .await;
    assert_eq!(child.ended().await, Some(1), "{}", child.stderr());
    assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn the_grace_bounds_what_hangs_and_callers_are_told() {
    let kie = FakeKie::start();
    kie.hold();
    let child = Run::serving(
        &kie,
        &[
            "--set",
            "server.shutdown_grace=1s",
            "--set",
            "server.request_timeout=1h",
            "--set",
            "upstream.attempt_timeout=1h",
        ],
    )
    .ready()
    .await;
    let mut wire = child.connect().await;
    wire.ask(&link_path(SOURCE)).await;
    kie.wait_for_mints(1).await;
    child.terminate();
    assert_eq!(child.ended().await, Some(0), "{}", child.stderr());
    let cut = child.log_lines("the grace ran out; connections were cut");
    assert_eq!(cut[0]["connections"], 1, "{cut:?}");
    let reply = wire.reply().await;
    assert_eq!((reply.status, reply.slug().as_str()), (503, "overloaded"), "{reply:?}");
    assert!(reply.json()["detail"].as_str().unwrap().contains("shutting down"), "{reply:?}");
    wire.closed().await;
}

#[tokio::test]
async fn the_grace_bounds_a_caller_who_never_finishes_its_request() {
    let kie = FakeKie::start();
    let child = Run::serving(&kie, &["--set", "server.shutdown_grace=200ms", "--set", "limits.header_timeout=1h"])
        .ready()
        .await;
    let mut half_a_head = child.connect().await;
    half_a_head.send("GET /healthz HTTP/1.1\r\n").await;
    let mut half_a_body = child.connect().await;
    half_a_body
        .send(
            "POST /api/v1/common/download-url HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 9\r\n\r\n",
        )
        .await;
    assert_eq!(half_a_body.reply().await.status, 100);
    child.terminate();
    assert_eq!(child.ended().await, Some(0), "{}", child.stderr());
    half_a_body.closed().await;
    half_a_head.closed().await;
}

#[tokio::test]
async fn a_mint_that_nobody_waits_for_does_not_hold_up_the_end() {
    let kie = FakeKie::start();
    kie.hold();
    let child = patient(&kie)
        .arguments(&["--set", "server.request_timeout=1h", "--set", "upstream.attempt_timeout=1h"])
        .ready()
        .await;
    let mut wire = child.connect().await;
    wire.ask(&link_path(SOURCE)).await;
    kie.wait_for_mints(1).await;
    drop(wire);
    child.terminate();
    assert_eq!(child.ended().await, Some(0), "{}", child.stderr());
}

pub(super) fn reqwest_h2() -> reqwest::Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    reqwest::Client::builder().http2_prior_knowledge().no_proxy().tls_certs_only([]).build().unwrap()
}

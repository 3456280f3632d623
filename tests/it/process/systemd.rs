//! What a `Type=notify` service says.

use std::{cell::RefCell, os::unix::net::UnixDatagram};

use super::child::Run;
use crate::support::{FakeKie, eventually};

/// What has been said since it was last asked.
fn heard(socket: &UnixDatagram) -> Vec<String> {
    let mut message = [0; 4096];
    let messages = std::iter::from_fn(|| socket.recv(&mut message).ok().map(|length| message[..length].to_vec()));
    messages.flat_map(|said| String::from_utf8(said).unwrap().lines().map(str::to_owned).collect::<Vec<_>>()).collect()
}

#[tokio::test]
async fn systemd_hears_when_it_is_ready_alive_and_stopping() {
    let kie = FakeKie::start();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("notify.sock");
    let socket = UnixDatagram::bind(&path).unwrap();
    socket.set_nonblocking(true).unwrap();
    let child = Run::serving(&kie, &[]).env("NOTIFY_SOCKET", &path).env("WATCHDOG_USEC", "100000").start();
    let all = RefCell::new(Vec::new());
    let count = |what: &str| all.borrow().iter().filter(|said| *said == what).count();
    eventually("it is alive, again and again", || {
        all.borrow_mut().extend(heard(&socket));
        std::future::ready(count("WATCHDOG=1") >= 3)
    })
    .await;
    assert_eq!(all.borrow().first().map(String::as_str), Some("READY=1"));
    assert_eq!(child.get_admin("/readyz").await.status, 200);
    child.terminate();
    assert_eq!(child.ended().await, Some(0));
    all.borrow_mut().extend(heard(&socket));
    assert_eq!((count("READY=1"), count("STOPPING=1")), (1, 1));
    // What `/status` says at its top, and each sentence once.
    assert_eq!(count("STATUS=Ready; nobody has asked for a link yet"), 1);
}

#[tokio::test]
async fn a_supervisor_that_is_gone_ends_nothing() {
    let kie = FakeKie::start();
    let child = Run::serving(&kie, &[]).env("NOTIFY_SOCKET", "/nowhere/notify.sock").ready().await;
    child.wait_for_log("cannot tell systemd").await;
    assert_eq!(child.get("/healthz").await.status, 200);
    child.terminate();
    assert_eq!(child.ended().await, Some(0));
}

/// An address of nobody's: kielink says that it starts, and then why it does not.
#[tokio::test]
async fn lines_have_their_priority_where_standard_error_is_the_journal() {
    let arguments = ["--listen", "203.0.113.1:8080", "--admin-listen", "127.0.0.1:0"];
    for (journal, expected) in [("%d:%i", ["<6>{\"ti", "<3>{\"ti"]), ("%d:1", ["{\"times"; 2])] {
        let script = format!("JOURNAL_STREAM=$(stat -L -c {journal} /proc/self/fd/2) exec \"$@\"");
        let ended = Run::scripted(&script, &arguments).key().finished().await;
        let lines: Vec<_> = ended.stderr.lines().map(|line| &line[..7]).collect();
        assert_eq!((ended.code, lines.first(), lines.last()), (Some(1), expected.first(), expected.last()));
    }
}

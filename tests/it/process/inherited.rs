//! Sockets that came with the process, as systemd hands them over.

use std::{
    net::TcpListener,
    os::{fd::OwnedFd, unix::net::UnixListener},
};

use super::{
    child::{Run, link_path},
    wire::Wire,
};
use crate::support::{FakeKie, SOURCE};

/// Standard input becomes descriptor 3, the first that is handed over.
const ONE: &str = r#"exec 3<&0 </dev/null; LISTEN_PID=$$ LISTEN_FDS=1 exec "$@""#;

fn run(script: &str, kie: &FakeKie, names: &str, socket: impl Into<OwnedFd>) -> Run {
    let base_url = format!("upstream.base_url={}", kie.base_url());
    Run::scripted(script, &["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--set", &base_url])
        .env("LISTEN_FDNAMES", names)
        .stdin(socket.into())
        .key()
}

#[tokio::test]
async fn a_socket_that_is_handed_over_serves_callers_and_loses_nobody_over_a_restart() {
    let kie = FakeKie::start();
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap().to_string();
    let start = async || run(ONE, &kie, "kielink.socket", socket.try_clone().unwrap()).ready().await;
    let first = start().await;
    assert_eq!(first.data(), address);
    assert_ne!(first.admin(), address, "the admin interface is where the settings say");
    assert_eq!(first.link(SOURCE).await.status, 200);
    first.terminate();
    assert_eq!(first.ended().await, Some(0));
    // Nobody accepts, and nobody is refused.
    let mut between = Wire::connect(&address).await;
    between.ask(&link_path(SOURCE)).await;
    let _second = start().await;
    assert_eq!(between.reply().await.status, 200);
}

#[tokio::test]
async fn names_tell_which_interface_a_socket_is_for() {
    let kie = FakeKie::start();
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap().to_string();
    let child = run(ONE, &kie, "admin", socket).ready().await;
    assert_eq!(child.admin(), address);
    assert_ne!(child.data(), address);
    assert_eq!(child.get_admin("/readyz").await.status, 200);
}

#[tokio::test]
async fn a_unix_socket_that_was_handed_over_is_not_removed() {
    let kie = FakeKie::start();
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("kielink.sock");
    let child = run(ONE, &kie, "", UnixListener::bind(&path).unwrap()).ready().await;
    assert_eq!(child.data(), format!("unix:{}", path.display()));
    assert_eq!(child.link(SOURCE).await.status, 200);
    child.terminate();
    assert_eq!(child.ended().await, Some(0));
    assert!(path.exists());
}

#[tokio::test]
async fn sockets_for_another_process_are_left_alone() {
    let kie = FakeKie::start();
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap().to_string();
    let script = r#"exec 3<&0 </dev/null; LISTEN_PID=1 LISTEN_FDS=1 exec "$@""#;
    let child = run(script, &kie, "", socket).ready().await;
    assert_ne!(child.data(), address);
}

#[tokio::test]
async fn what_is_no_socket_is_refused_with_a_reason() {
    let kie = FakeKie::start();
    let file = tempfile::tempfile().unwrap();
    let finished = run(ONE, &kie, "", file).finished().await;
    assert_eq!(finished.code, Some(1), "{finished:?}");
    assert!(finished.stderr.contains("sockets that were handed over"), "{finished:?}");
    assert!(finished.stderr.contains("socket 0 of LISTEN_FDS cannot be used"), "{finished:?}");
}

#[tokio::test]
async fn an_address_by_name_is_recognised_and_no_warning_comes_without_a_reason() {
    let kie = FakeKie::start();
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = socket.local_addr().unwrap().port();
    let elsewhere = "the admin socket that was handed over is not at admin.listen: healthcheck and wait look there";
    let base_url = format!("upstream.base_url={}", kie.base_url());
    let by_name = format!("localhost:{port}");
    let arguments = ["--listen", "127.0.0.1:0", "--admin-listen", &by_name, "--set", &base_url];
    let child = Run::scripted(ONE, &arguments).stdin(OwnedFd::from(socket)).key().ready().await;
    assert_eq!(child.admin(), format!("127.0.0.1:{port}"));
    assert!(child.log_lines(elsewhere).is_empty());
    let plain = Run::new(&["--listen", "127.0.0.1:0", "--admin-listen", "localhost:0", "--set", &base_url]).key();
    let plain = plain.ready().await;
    assert!(plain.log_lines(elsewhere).is_empty());
}

//! `healthcheck` and `wait`: how container runtimes and start scripts learn whether it is ready.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpSocket},
};

use super::child::Run;
use crate::support::{FakeKie, eventually};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nok\n";
const NOT_READY: &str = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 15\r\n\r\n[-]key failed\n\n\n";

/// Where connections are refused, and no other process is given the port meanwhile.
fn refusing() -> (TcpSocket, String) {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let address = socket.local_addr().unwrap().to_string();
    (socket, address)
}

#[tokio::test]
async fn a_ready_kielink_is_healthy_and_nothing_needs_to_be_said() {
    let kie = FakeKie::start();
    let child = Run::serving(&kie, &[]).ready().await;
    for command in [["healthcheck"].as_slice(), &["wait"], &["wait", "--max", "5s"]] {
        let probe = Run::new(&["--admin-listen", &child.admin()]).arguments(command).finished().await;
        assert_eq!((probe.code, probe.stdout.as_str(), probe.stderr.as_str()), (Some(0), "", ""), "{command:?}");
    }
}

#[tokio::test]
async fn where_nobody_listens_the_probe_fails_and_names_the_address() {
    let (_socket, address) = refusing();
    let directory = tempfile::tempdir().unwrap();
    let socket = format!("unix:{}", directory.path().join("admin.sock").display());
    for address in [&address, &socket] {
        let probe = Run::new(&["healthcheck", "--admin-listen", address]).finished().await;
        assert_eq!((probe.code, probe.stdout.as_str()), (Some(1), ""), "{probe:?}");
        let message = format!("cannot connect to the admin interface at {address}");
        assert!(probe.stderr.contains(&message), "{probe:?}");
        assert_eq!(probe.stderr.lines().count(), 1, "{probe:?}");
        assert_eq!(probe.stderr.matches("os error").count(), 1, "the cause is said once: {probe:?}");
    }
}

#[tokio::test]
async fn somebody_who_does_not_answer_or_speaks_no_http_is_not_healthy() {
    // The kernel takes the connection, and nobody reads from it.
    let deaf = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = deaf.local_addr().unwrap().to_string();
    let probe = Run::new(&["healthcheck", "--admin-listen", &address]).finished().await;
    assert_eq!(probe.code, Some(1));
    assert!(probe.stderr.contains("did not answer within 900ms"), "{probe:?}");

    let other = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = other.local_addr().unwrap().to_string();
    let speaking = async {
        let (mut stream, _) = other.accept().await.unwrap();
        let _ = stream.read(&mut [0; 1024]).await.unwrap();
        stream.write_all(b"SSH-2.0-nobody\r\n\r\n").await.unwrap();
    };
    let probing = Run::new(&["healthcheck", "--admin-listen", &address]).finished();
    let (_, probe) = tokio::join!(speaking, probing);
    assert_eq!(probe.code, Some(1));
    assert!(probe.stderr.contains("does not speak HTTP"), "{probe:?}");
}

#[tokio::test]
async fn a_draining_kielink_is_not_healthy_and_the_probe_says_so() {
    let kie = FakeKie::start();
    let child = Run::serving(&kie, &["--set", "server.drain_delay=1h"]).ready().await;
    child.terminate();
    child.wait_for_log("not ready any more, still serving").await;
    let probe = Run::new(&["healthcheck", "--admin-listen", &child.admin()]).finished().await;
    assert_eq!(probe.code, Some(1));
    assert!(probe.stderr.contains("says HTTP 503"), "{probe:?}");
    assert!(probe.stderr.contains("[-]not-draining failed"), "{probe:?}");
}

#[tokio::test]
async fn probes_find_the_admin_socket_in_the_same_configuration_and_need_no_key() {
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("kielink.toml");
    let socket = directory.path().join("admin.sock");
    let kie = FakeKie::start();
    let text = format!(
        "[admin]\nlisten = [\"unix:{}\"]\n[server]\nlisten = \"127.0.0.1:0\"\n[upstream]\nbase_url = \"{}\"\n",
        socket.display(),
        kie.base_url()
    );
    std::fs::write(&file, text).unwrap();
    let probe = |command: &str| Run::new(&[command]).env("KIELINK_CONFIG", &file);
    // Before it is started, `wait` waits; afterwards, both are satisfied.
    let waiting = probe("wait").finished();
    let starting = Run::new(&[]).key().env("KIELINK_CONFIG", &file).ready();
    let (waited, _child) = tokio::join!(waiting, starting);
    assert_eq!(waited.code, Some(0), "{waited:?}");
    let healthy = probe("healthcheck").finished().await;
    assert_eq!(healthy.code, Some(0), "{healthy:?}");
}

#[tokio::test]
async fn wildcard_addresses_are_asked_over_loopback() {
    let kie = FakeKie::start();
    let child = Run::serving(&kie, &[]).ready().await;
    let admin = child.admin();
    let (_, port) = admin.rsplit_once(':').unwrap();
    let probe = Run::new(&["healthcheck"]).env("KIELINK__ADMIN__LISTEN", format!("0.0.0.0:{port}")).finished().await;
    assert_eq!(probe.code, Some(0), "{probe:?}");
}

#[tokio::test]
async fn wait_asks_until_it_is_ready() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let answers = async {
        for answer in [NOT_READY, NOT_READY, OK] {
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut request = [0; 1024];
            let length = stream.read(&mut request).await.unwrap();
            assert!(request[..length].starts_with(b"GET /readyz"));
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
    };
    let waiting = Run::new(&["wait", "--admin-listen", &address]).finished();
    let (_, waited) = tokio::join!(answers, waiting);
    assert_eq!((waited.code, waited.stderr.as_str()), (Some(0), ""));
}

#[tokio::test]
async fn wait_gives_up_after_max_and_says_why() {
    let (_socket, address) = refusing();
    let waited = Run::new(&["wait", "--max", "300ms", "--admin-listen", &address]).finished().await;
    assert_eq!(waited.code, Some(1));
    for words in ["not ready within 300ms", "cannot connect", &address] {
        assert!(waited.stderr.contains(words), "{waited:?}");
    }

    let kie = FakeKie::start();
    let child = Run::serving(&kie, &["--set", "server.drain_delay=1h"]).ready().await;
    child.terminate();
    eventually("it is not ready", async || child.get_admin("/readyz").await.status == 503).await;
    let waited = Run::new(&["wait", "--max", "2s", "--admin-listen", &child.admin()]).finished().await;
    assert_eq!(waited.code, Some(1));
    assert!(waited.stderr.contains("[-]not-draining failed"), "{waited:?}");
    assert!(!child.has_ended());
}

#[tokio::test]
async fn an_admin_address_that_is_none_is_bad_configuration() {
    for command in ["healthcheck", "wait"] {
        for (address, why) in [("9090", "admin.listen: expected host:port"), ("", "at least one address")] {
            let probe = Run::new(&[command, "--admin-listen", address]).finished().await;
            assert_eq!(probe.code, Some(78), "{probe:?}");
            assert!(probe.stderr.contains(why), "{probe:?}");
        }
    }
}

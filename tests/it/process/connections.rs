//! Listeners and connections: how many, how long, over what, and in which version of HTTP.

use std::{
    os::unix::{
        fs::{FileTypeExt, PermissionsExt},
        net::UnixListener,
    },
    path::Path,
};

use super::{
    child::{Run, link_path},
    shutdown::reqwest_h2,
    wire::Wire,
};
use crate::support::{FakeKie, SOURCE, encode, eventually};

#[tokio::test]
async fn a_connection_that_says_nothing_or_half_a_head_is_closed() {
    let kie = FakeKie::start();
    let child = Run::serving(&kie, &["--set", "limits.header_timeout=300ms"]).ready().await;
    for address in [child.data(), child.admin()] {
        for opening in [
            "",
            "G",
            "GET /healthz HTTP/1.1\r\nhost: local",
            // The beginning of HTTP/2: it is not yet told which version it will be.
            "PRI * HTTP/2.0\r\n",
            "PRI * HTTP/2.0\r\n\r\nSM\r\n",
        ] {
            let mut wire = Wire::connect(&address).await;
            wire.send(opening).await;
            wire.closed().await;
        }
    }
}

#[tokio::test]
async fn an_idle_connection_is_closed() {
    let kie = FakeKie::start();
    let child = Run::serving(&kie, &["--set", "limits.header_timeout=1s"]).ready().await;
    let mut wire = child.connect().await;
    assert_eq!(wire.get("/healthz").await.status, 200);
    wire.closed().await;
}

#[tokio::test]
async fn waiting_for_kie_is_not_held_against_a_connection() {
    let kie = FakeKie::start();
    kie.hold();
    let child = Run::serving(&kie, &["--set", "limits.header_timeout=500ms"]).ready().await;
    let mut waiting = child.connect().await;
    waiting.ask(&link_path(SOURCE)).await;
    kie.wait_for_mints(1).await;
    // A silent one that came later has been closed: the timeout has passed for both.
    child.connect().await.closed().await;
    kie.release();
    assert_eq!(waiting.reply().await.status, 200);
}

#[tokio::test]
async fn beyond_the_limit_a_connection_is_told_and_closed_until_another_goes() {
    let kie = FakeKie::start();
    let child =
        Run::serving(&kie, &["--set", "limits.connections=2", "--set", "limits.header_timeout=1h"]).ready().await;
    let mut first = child.connect().await;
    let mut second = child.connect().await;
    for wire in [&mut first, &mut second] {
        assert_eq!(wire.get(&link_path(SOURCE)).await.status, 200);
    }
    let mut third = child.connect().await;
    let reply = third.reply().await;
    assert_eq!((reply.status, reply.slug().as_str()), (503, "overloaded"));
    assert_eq!(reply.json()["status"], 503);
    assert_eq!(reply.header("content-type"), "application/problem+json");
    assert_eq!(reply.header("cache-status"), "kielink; fwd=bypass; detail=overloaded");
    assert_eq!(reply.header("connection"), "close");
    assert!(reply.header("retry-after").parse::<u32>().is_ok(), "{reply:?}");
    third.closed().await;
    // Those that are in are served on, and so are probes.
    assert_eq!(first.get(&link_path(SOURCE)).await.status, 200);
    assert_eq!(child.get_admin("/readyz").await.status, 200);
    drop(second);
    eventually("there is a place again", async || {
        let mut wire = child.connect().await;
        // A refusal is said, and the connection closed, without a look at what is asked.
        let reply = wire.get_unless_closed(&link_path(SOURCE)).await;
        reply.is_some_and(|reply| reply.status == 200)
    })
    .await;
}

#[tokio::test]
async fn unix_sockets_serve_callers_and_probes_and_are_removed_in_the_end() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    // One is left over from a process that was killed.
    drop(UnixListener::bind(path("data.sock")).unwrap());
    let kie = FakeKie::start();
    let address = |name: &str| format!("unix:{}", path(name).display());
    let child = Run::new(&["--listen", &address("data.sock")])
        .arguments(&["--admin-listen", &address("admin.sock")])
        .arguments(&["--set", &format!("upstream.base_url={}", kie.base_url())])
        .key()
        .ready()
        .await;
    assert_eq!(child.data(), address("data.sock"));
    assert_eq!(child.admin(), address("admin.sock"));
    for name in ["data.sock", "admin.sock"] {
        let metadata = std::fs::symlink_metadata(path(name)).unwrap();
        assert!(metadata.file_type().is_socket());
        assert_eq!(metadata.permissions().mode() & 0o777, 0o660, "{name}");
    }
    assert_eq!(child.link(SOURCE).await.status, 200);
    assert_eq!(child.get_admin("/readyz").await.status, 200);
    child.terminate();
    assert_eq!(child.ended().await, Some(0));
    for name in ["data.sock", "admin.sock"] {
        assert!(!path(name).exists(), "{name} is left over");
    }
}

#[tokio::test]
async fn over_a_unix_socket_any_host_is_answered_and_beside_it_only_ours() {
    let directory = tempfile::tempdir().unwrap();
    let kie = FakeKie::start();
    let [data, admin] = ["data", "admin"].map(|name| format!("unix:{}", directory.path().join(name).display()));
    let child = Run::new(&["--set", &format!("server.listen={data},127.0.0.1:0"), "--admin-listen", &admin])
        .arguments(&["--set", &format!("upstream.base_url={}", kie.base_url())])
        .key()
        .ready()
        .await;
    let ask = async |address: &str, host: &str| {
        let mut wire = Wire::connect(address).await;
        wire.send(&format!("GET /healthz HTTP/1.1\r\nhost: {host}\r\n\r\n")).await;
        // Each request of a connection.
        let first = wire.reply().await.status;
        wire.send(&format!("GET http://{host}/healthz HTTP/1.1\r\nhost: {host}\r\n\r\n")).await;
        assert_eq!(wire.reply().await.status, first);
        first
    };
    let over_tcp = child.addresses("listening").remove(1);
    for (host, expected) in [("localhost", 200), ("shop.example", 421)] {
        assert_eq!(ask(&over_tcp, host).await, expected, "{host}");
        assert_eq!((ask(&data, host).await, ask(&admin, host).await), (200, 200), "{host}");
    }
    // The page's commands are for a host, whatever stands there.
    let mut wire = Wire::connect(&data).await;
    wire.send("GET /docs HTTP/1.1\r\nhost: x;id\r\n\r\n").await;
    let page = wire.reply().await.body;
    assert!(page.contains("http://127.0.0.1:8080/healthz") && !page.contains("x;id"));
}

#[tokio::test]
async fn a_unix_socket_takes_no_place_that_is_somebody_elses() {
    let directory = tempfile::tempdir().unwrap();
    let (file, live) = (directory.path().join("file"), directory.path().join("live.sock"));
    std::fs::write(&file, "precious").unwrap();
    let _listener = UnixListener::bind(&live).unwrap();
    let run = async |path: &Path| {
        let address = format!("unix:{}", path.display());
        let run = Run::new(&["--listen", &address, "--admin-listen", "127.0.0.1:0"]).key();
        let run = run.finished().await;
        assert_eq!(run.code, Some(1), "{run:?}");
        assert!(run.stderr.contains(&format!("cannot listen on {address}")), "{run:?}");
        run
    };
    assert!(run(&file).await.stderr.contains("no socket is in the way"));
    assert_eq!(std::fs::read_to_string(&file).unwrap(), "precious");
    assert!(run(&live).await.stderr.contains("another process is listening there"));
    assert!(live.exists());
    run(&directory.path().join("no/such/directory.sock")).await;
}

#[tokio::test]
async fn one_process_listens_in_several_places() {
    let directory = tempfile::tempdir().unwrap();
    let socket = format!("unix:{}", directory.path().join("data.sock").display());
    let kie = FakeKie::start();
    let child = Run::serving(&kie, &[])
        .env("KIELINK__SERVER__LISTEN", "unix:/overridden")
        .arguments(&["--set", &format!("server.listen=127.0.0.1:0, {socket},127.0.0.1:0")])
        .ready()
        .await;
    let addresses = child.addresses("listening");
    assert_eq!((addresses.len(), &addresses[1]), (3, &socket));
    for address in &addresses {
        assert_eq!(Wire::connect(address).await.get(&link_path(SOURCE)).await.status, 200);
    }
    assert_eq!(kie.mints(), 1);
}

#[tokio::test]
async fn http_2_is_spoken_to_those_who_begin_with_it() {
    let kie = FakeKie::start();
    kie.hold();
    let child = Run::serving(&kie, &[]).ready().await;
    let client = reqwest_h2();
    let mut answers = tokio::task::JoinSet::new();
    for n in 0..8 {
        let source = encode(&format!("{SOURCE}?n={n}"));
        let request = client.get(format!("http://{}/v1/link?url={source}", child.data()));
        answers.spawn(async move { request.send().await.unwrap() });
    }
    kie.wait_for_mints(8).await;
    kie.release();
    while let Some(answer) = answers.join_next().await {
        let answer = answer.unwrap();
        assert_eq!((answer.status().as_u16(), answer.version()), (200, reqwest::Version::HTTP_2));
    }
    let admin = client.get(format!("http://{}/readyz", child.admin())).send().await.unwrap();
    assert_eq!((admin.status().as_u16(), admin.version()), (200, reqwest::Version::HTTP_2));
}

#[tokio::test]
async fn http_2_requests_in_flight_are_answered_before_it_ends() {
    let kie = FakeKie::start();
    kie.hold();
    let child = Run::serving(&kie, &["--set", "server.shutdown_grace=1h"]).ready().await;
    let request = reqwest_h2().get(format!("http://{}{}", child.data(), link_path(SOURCE)));
    let mut asked = tokio::task::JoinSet::new();
    asked.spawn(async move { request.send().await.unwrap().status() });
    kie.wait_for_mints(1).await;
    child.terminate();
    child.wait_for_log("not ready any more, still serving").await;
    kie.release();
    assert_eq!(asked.join_next().await.unwrap().unwrap(), 200);
    assert_eq!(child.ended().await, Some(0), "{}", child.stderr());
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_order() {
    let kie = FakeKie::start();
    kie.hold();
    let child = Run::serving(&kie, &[]).ready().await;
    let mut wire = child.connect().await;
    let head = |path: &str, id: &str| format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nx-request-id: {id}\r\n\r\n");
    let requests = [
        head(&link_path(SOURCE), "one"),
        head("/nowhere", "two"),
        head(&link_path(SOURCE), "three"),
        head("/healthz", "four"),
    ];
    wire.send(&requests.concat()).await;
    kie.wait_for_mints(1).await;
    kie.release();
    for (id, status) in [("one", 200), ("two", 404), ("three", 200), ("four", 200)] {
        let reply = wire.reply().await;
        assert_eq!((reply.header("x-request-id"), reply.status), (id, status));
    }
    assert_eq!(kie.mints(), 1);
}

#[tokio::test]
async fn http_1_0_and_a_wish_to_close_are_heeded() {
    let kie = FakeKie::start();
    let child = Run::serving(&kie, &["--set", "limits.header_timeout=1h"]).ready().await;
    for request in
        ["GET /healthz HTTP/1.0\r\n\r\n", "GET /healthz HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n"]
    {
        let mut wire = child.connect().await;
        wire.send(request).await;
        assert_eq!(wire.reply().await.status, 200, "{request}");
        wire.closed().await;
    }
}

#[tokio::test]
async fn a_head_beyond_all_measure_is_refused_and_harms_nobody() {
    let kie = FakeKie::start();
    let child = Run::serving(&kie, &[]).ready().await;
    let mut wire = child.connect().await;
    wire.send(&format!("GET /healthz HTTP/1.1\r\nhost: localhost\r\nx-filler: {}", "a".repeat(127 * 1024))).await;
    // The limit is passed by little, so that everything fits into the sockets' buffers.
    wire.send(&"a".repeat(2 * 1024)).await;
    assert_eq!(wire.reply().await.status, 431);
    assert_eq!(child.get("/healthz").await.status, 200);
}

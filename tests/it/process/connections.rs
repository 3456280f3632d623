//! Listeners and connections: how many, how long, over what, and in which version of HTTP.

use std::{
    os::unix::{
        fs::{FileTypeExt, PermissionsExt},
        net::UnixListener,
    },
    path::Path,
};

use futures_util::stream::{FuturesUnordered, StreamExt};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::{
    child::{Run, link_path},
    shutdown::reqwest_h2,
    wire::Wire,
};
use crate::support::{FakeKie, Problem, Reply, SOURCE, encode, eventually};

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
async fn an_idle_connection_is_closed_after_a_time_of_its_own_that_its_caller_knows() {
    let kie = FakeKie::start();
    let settings = ["--set", "limits.header_timeout=1h", "--set", "limits.idle_timeout=1s"];
    let child = Run::serving(&kie, &settings).ready().await;
    for address in [child.data(), child.admin()] {
        let mut wire = Wire::connect(&address).await;
        let reply = wire.get("/healthz").await;
        assert_eq!((reply.status, reply.header("connection")), (200, "keep-alive"), "{reply:?}");
        assert_eq!(reply.header("keep-alive"), "timeout=1");
        wire.closed().await;
    }
    let usual = Run::serving(&kie, &[]).ready().await;
    assert_eq!(usual.get("/healthz").await.header("keep-alive"), "timeout=74");
}

#[tokio::test]
async fn the_time_for_a_head_begins_with_its_first_byte() {
    let kie = FakeKie::start();
    let settings = ["--set", "limits.header_timeout=300ms", "--set", "limits.idle_timeout=1h"];
    let child = Run::serving(&kie, &settings).ready().await;
    for address in [child.data(), child.admin()] {
        let mut wire = Wire::connect(&address).await;
        assert_eq!(wire.get("/healthz").await.status, 200);
        for _ in 0..2 {
            // One that has said nothing since it came later has been let go.
            Wire::connect(&address).await.closed().await;
            assert_eq!(wire.get("/healthz").await.status, 200, "between requests there is time");
        }
        wire.send("GET /healthz HTTP/1.1\r\n").await;
        wire.closed().await;
    }
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
    // Of more than one, a quarter is kept for those who do not wait.
    let child =
        Run::serving(&kie, &["--set", "limits.connections=1", "--set", "limits.header_timeout=1h"]).ready().await;
    kie.hold();
    let mut first = child.connect().await;
    first.ask(&link_path(SOURCE)).await;
    kie.wait_for_mints(1).await;
    eventually("nobody is idle", async || {
        let reply = child.connect().await.get_unless_closed("/healthz").await;
        reply.is_some_and(|reply| reply.status == 503)
    })
    .await;
    let mut second = child.connect().await;
    let reply = second.reply().await;
    Problem::refused("overloaded").assert_document("the second", &reply);
    assert_eq!(reply.header("connection"), "close");
    assert!(!reply.header("date").is_empty());
    second.closed().await;
    // The one that is in is served on, and so are probes.
    kie.release();
    assert_eq!(first.reply().await.status, 200);
    assert_eq!(child.get_admin("/readyz").await.status, 200);
    eventually("there is a place again", async || {
        let mut wire = child.connect().await;
        // A refusal is said, and the connection closed, without a look at what is asked.
        let reply = wire.get_unless_closed(&link_path(SOURCE)).await;
        reply.is_some_and(|reply| reply.status == 200)
    })
    .await;
}

/// For some time: a connection is idle when its task knows, which may be a moment after its caller does.
async fn keep_busy(wire: &mut Wire) {
    for _ in 0..100 {
        assert_eq!(wire.get("/healthz").await.status, 200);
    }
}

#[tokio::test]
async fn the_connection_that_was_idle_for_longest_makes_room_for_a_new_one() {
    let kie = FakeKie::start();
    let child = Run::serving(&kie, &["--set", "limits.connections=3"]).ready().await;
    kie.hold();
    let mut busy = child.connect().await;
    busy.ask(&link_path(SOURCE)).await;
    kie.wait_for_mints(1).await;
    let mut first = child.connect().await;
    let mut second = child.connect().await;
    assert_eq!(first.get("/healthz").await.status, 200);
    keep_busy(&mut second).await;
    let mut third = child.connect().await;
    assert_eq!(third.get("/healthz").await.status, 200);
    first.closed().await;
    // It has not been idle for longest.
    keep_busy(&mut second).await;
    let mut fourth = child.connect().await;
    assert_eq!(fourth.get("/healthz").await.status, 200);
    third.closed().await;
    kie.release();
    assert_eq!(busy.reply().await.status, 200);
    let metrics = child.get_admin("/metrics").await.body;
    assert!(metrics.contains("\nkielink_connections_turned_away_total 0\n"), "{metrics}");
}

#[tokio::test]
async fn idle_connections_of_http_2_make_room_too_and_are_told() {
    let kie = FakeKie::start();
    let child = Run::serving(&kie, &["--set", "limits.connections=2"]).ready().await;
    let url = format!("http://{}/healthz", child.data());
    let clients: Vec<_> = (0..6).map(|_| reqwest_h2()).collect();
    // Also the second time: each has noticed that it has to connect again.
    for client in clients.iter().chain(&clients) {
        assert_eq!(client.get(&url).send().await.unwrap().status(), 200);
    }
}

#[tokio::test]
async fn a_connection_that_has_said_nothing_makes_room() {
    let kie = FakeKie::start();
    let child = Run::serving(&kie, &["--set", "limits.connections=4", "--set", "limits.header_timeout=1h"]);
    let child = child.ready().await;
    let mut silent = Vec::new();
    for _ in 0..20 {
        silent.push(child.connect().await);
    }
    assert_eq!(child.link(SOURCE).await.status, 200);
    for mut wire in silent.drain(..16) {
        wire.closed().await;
    }
}

#[tokio::test]
async fn who_sends_half_a_request_keeps_nobody_out() {
    let kie = FakeKie::start();
    let settings = ["limits.connections=4", "limits.header_timeout=1h", "server.request_timeout=1h"];
    let child = Run::serving(&kie, &settings.map(|setting| ["--set", setting]).concat()).ready().await;
    assert_eq!(child.link(SOURCE).await.status, 200);
    kie.hold();
    let mut served = child.connect().await;
    served.ask(&link_path(&format!("{SOURCE}?cold"))).await;
    kie.wait_for_mints(2).await;
    let post = "POST /v1/links HTTP/1.1\r\nhost: localhost\r\n";
    for opening in [
        "G".to_owned(),
        post.to_owned(),
        format!("{post}content-length: 100\r\n\r\n"),
        format!("{post}content-length: 100\r\n\r\n{{\"urls\":"),
        format!("{post}expect: 100-continue\r\ncontent-length: 100\r\n\r\n"),
        format!("{post}transfer-encoding: chunked\r\n\r\n5\r\n{{"),
    ] {
        let mut halves = Vec::new();
        for _ in 0..12 {
            let mut wire = child.connect().await;
            wire.try_send(opening.as_bytes()).await;
            halves.push(wire);
        }
        for _ in 0..3 {
            let reply = child.link(SOURCE).await;
            assert_eq!(reply.status, 200, "beside connections that say {opening:?}: {reply:?}");
        }
        // Three places are left for them, whichever have these: of two that begin a request in one moment, either may count as
        // the one that began it first.
        let mut closed: FuturesUnordered<_> =
            halves.iter_mut().map(|wire: &mut Wire| wire.closed_after_all()).collect();
        for _ in 0..9 {
            closed.next().await;
        }
    }
    kie.release();
    assert_eq!(served.reply().await.status, 200, "whoever waits for an answer is not sent away");
}

/// Whatever connections others have open to the admin interface: `opening` is what they say.
async fn probes_find_a_connection(script: &str, opening: &str) {
    let kie = FakeKie::start();
    let settings = ["--set", "limits.header_timeout=1h", "--set", "server.request_timeout=5s"];
    let base_url = format!("upstream.base_url={}", kie.base_url());
    let arguments = ["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--set", &base_url];
    let child = Run::scripted(script, &arguments).arguments(&settings).key().ready().await;
    let mut others = Vec::new();
    for n in 0..150 {
        let mut wire = Wire::connect(&child.admin()).await;
        wire.try_send(opening.as_bytes()).await;
        others.push(wire);
        if n % 10 == 0 {
            for path in ["/livez", "/readyz"] {
                let reply = child.get_admin(path).await;
                assert_eq!(reply.status, 200, "{path} beside {n} connections that say {opening:?}: {reply:?}");
            }
        }
    }
    // And for callers there is room.
    assert_eq!(child.link(SOURCE).await.status, 200);
}

#[tokio::test]
async fn probes_find_a_connection_beside_any_number_of_others() {
    for opening in ["", "GET /livez HTTP/1.1\r\nhost: localhost\r\n", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"] {
        probes_find_a_connection("exec \"$@\"", opening).await;
    }
}

#[tokio::test]
async fn probes_find_a_connection_where_open_files_are_few() {
    for opening in ["", "GET /livez HTTP/1.1\r\nhost: localhost\r\n"] {
        probes_find_a_connection("ulimit -n 64; exec \"$@\"", opening).await;
    }
}

#[tokio::test]
async fn where_open_files_are_few_callers_leave_some_for_probes_and_for_kie_ai() {
    let kie = FakeKie::start();
    let base_url = format!("upstream.base_url={}", kie.base_url());
    let arguments = ["--listen", "127.0.0.1:0", "--admin-listen", "127.0.0.1:0", "--set", &base_url];
    let child = Run::scripted("ulimit -n 64; exec \"$@\"", &arguments).key();
    let child = child.arguments(&["--set", "limits.header_timeout=1h"]).ready().await;
    assert_eq!(child.log_lines("limits.connections is beyond the limit on open files: raise it (ulimit -n), or fewer connections are taken").len(), 1);
    kie.hold();
    let mut waiting = Vec::new();
    let ask = format!("GET {} HTTP/1.1\r\nhost: localhost\r\n\r\n", link_path(SOURCE));
    for _ in 0..100 {
        let mut wire = child.connect().await;
        wire.try_send(ask.as_bytes()).await;
        waiting.push(wire);
    }
    assert_eq!(child.get_admin("/readyz").await.status, 200);
    // Or closed without a word, where many are told at once.
    let answer = async |path: String| child.connect().await.get_unless_closed(&path).await.map(|reply| reply.status);
    eventually("a caller is told", async || answer("/healthz".to_owned()).await == Some(503)).await;
    kie.release();
    drop(waiting);
    eventually("there is room again", async || answer(link_path(SOURCE)).await == Some(200)).await;
}

#[tokio::test]
async fn what_is_no_request_is_answered_with_a_problem_and_its_id() {
    let kie = FakeKie::start();
    let child = Run::serving(&kie, &[]).ready().await;
    let many = (0..200).map(|n| format!("x-{n}: y\r\n")).collect::<String>();
    let long = "a".repeat(70_000);
    let host = "host: localhost\r\n";
    for (request, slug) in [
        ("nonsense\r\n\r\n".to_owned(), "malformed-request"),
        ("\u{16}\u{3}\u{1}".to_owned(), "malformed-request"),
        ("GET / HTTP/9.9\r\n\r\n".to_owned(), "malformed-request"),
        ("PRI * HTTP/2.0\r\n\r\nXX".to_owned(), "malformed-request"),
        (format!("GET /healthz HTTP/1.1\r\n{host}x: y\0z\r\n\r\n"), "malformed-request"),
        (format!("GET /healthz HTTP/1.1\r\n{host}{many}\r\n"), "head-too-large"),
        (format!("GET /healthz HTTP/1.1\r\n{host}x: {long}{long}\r\n\r\n"), "head-too-large"),
        (format!("GET /{long} HTTP/1.1\r\n{host}\r\n"), "uri-too-long"),
        (format!("GET /{long}{long}"), "uri-too-long"),
    ] {
        for address in [child.data(), child.admin()] {
            let mut wire = Wire::connect(&address).await;
            // Also after a request that was one.
            assert_eq!(wire.get("/healthz").await.status, 200);
            wire.try_send(request.as_bytes()).await;
            let reply = wire.reply().await;
            let what = &request[..request.len().min(40)];
            Problem::refused(slug).assert_document(what, &reply);
            assert_eq!(reply.header("connection"), "close", "{what:?}");
            wire.closed().await;
        }
    }
    let mut wire = child.connect().await;
    wire.send("GET / HTTP/1.1\r\nx-request-id: mine\r\nx: y\0z\r\n\r\n").await;
    let reply = wire.reply().await;
    assert_eq!((reply.header("x-request-id"), reply.json()["request_id"].as_str()), ("mine", Some("mine")));
    // Behind a request that waits, in its turn.
    kie.hold();
    let mut wire = child.connect().await;
    wire.ask(&link_path(SOURCE)).await;
    kie.wait_for_mints(1).await;
    wire.send("nonsense\r\n\r\n").await;
    kie.release();
    assert_eq!(wire.reply().await.status, 200);
    Problem::refused("malformed-request").assert_document("behind another", &wire.reply().await);
}

/// What a peer may do on one connection: it is told with the first frame (RFC 9113 section 6.5.2).
#[tokio::test]
async fn http_2_is_told_its_limits() {
    let [streams, window, frame, headers] = [3, 4, 5, 6];
    let kie = FakeKie::start();
    let child = Run::serving(&kie, &[]).ready().await;
    for address in [child.data(), child.admin()] {
        let mut stream = TcpStream::connect(&address).await.unwrap();
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await.unwrap();
        let mut head = [0; 9];
        stream.read_exact(&mut head).await.unwrap();
        let [0, 0, length, 4, 0, 0, 0, 0, 0] = head else { panic!("no SETTINGS: {head:?}") };
        let mut settings = vec![0; usize::from(length)];
        stream.read_exact(&mut settings).await.unwrap();
        let told = |wanted: u16| {
            let found = settings.chunks(6).find(|setting| setting[..2] == wanted.to_be_bytes());
            found.map(|setting| u32::from_be_bytes(setting[2..].try_into().unwrap()))
        };
        for (setting, most) in [(streams, 256), (window, 64 << 10), (frame, 16 << 10), (headers, 64 << 10)] {
            assert!(told(setting).is_some_and(|told| told <= most), "{address}: {setting} is {:?}", told(setting));
        }
    }
}

#[tokio::test]
async fn heads_of_http_2_have_the_same_limit() {
    let kie = FakeKie::start();
    let child = Run::serving(&kie, &[]).ready().await;
    let client = reqwest_h2();
    for (kib, status) in [(20, 200), (40, 431), (60, 431)] {
        let request = client.get(format!("http://{}/healthz", child.data())).header("x-filler", "a".repeat(kib << 10));
        let answer = request.send().await.unwrap();
        let (status_said, headers) = (answer.status().as_u16(), answer.headers().clone());
        let reply = Reply { status: status_said, headers, body: answer.text().await.unwrap() };
        assert_eq!(reply.status, status, "{kib} KiB");
        if status == 431 {
            Problem::refused("head-too-large").assert_document("HTTP/2", &reply);
        }
    }
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

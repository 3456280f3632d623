//! What has a limit: callers who wait, and memory.

use std::{cell::RefCell, net::IpAddr, time::Duration};

use futures_util::future::join_all;
use kielink::server::{Bound, Inherited};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::tcp::{OwnedReadHalf, OwnedWriteHalf},
};

use super::{ask_at_once, count, files, is_hit};
use crate::support::{Answer, FakeKie, Reply, SOURCE, Sidecar, encode, eventually};

#[tokio::test]
async fn callers_who_wait_are_bounded_while_hits_go_on() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::with(&kie, &[("limits.in_flight", "20"), ("upstream.in_flight", "1")]);
    assert_eq!(sidecar.link(SOURCE).await.status, 200);
    kie.hold();
    let (replies, ()) = tokio::join!(ask_at_once(&sidecar, files(60)), async {
        eventually("all but twenty were refused", async || overloaded(&sidecar).await >= 40).await;
        for _ in 0..10 {
            let hits = ask_at_once(&sidecar, std::iter::repeat_n(SOURCE.to_owned(), 5)).await;
            assert!(hits.iter().all(is_hit), "{hits:?}");
        }
        assert_eq!(overloaded(&sidecar).await, 40);
        kie.release();
    });
    assert_eq!((count(&replies, 200), count(&replies, 503)), (20, 40), "{replies:?}");
    assert_eq!(kie.mints(), 21, "whoever was refused cost nothing");
}

#[tokio::test]
async fn who_waits_for_much_keeps_no_other_address_from_waiting() {
    for asks in ["one by one", "in batches", "line by line"] {
        let kie = FakeKie::start();
        let sidecar = Sidecar::with(&kie, &[("limits.in_flight", "8")]);
        let other =
            reqwest::Client::builder().no_proxy().tls_certs_only([]).local_address(IpAddr::from([127, 0, 0, 3]));
        let other = other.build().unwrap();
        kie.hold();
        // One file, so that nobody is in anybody's way at kie.ai.
        let crowd = join_all((0..12).map(async |_| {
            let body = serde_json::json!({ "urls": [SOURCE] }).to_string();
            let batch = sidecar.client().post(format!("{}/v1/links", sidecar.base_url())).body(body);
            match asks {
                "one by one" => sidecar.link(SOURCE).await.status == 200,
                "in batches" => sidecar.send(batch).await.json()["links"][0]["url"].is_string(),
                _ => {
                    let reply = sidecar.send(batch.header("accept", "application/x-ndjson")).await;
                    // One who has lost its place is told so in its line, or before there is one.
                    let item = reply.json();
                    let slug = if reply.status == 200 { &item["error"]["type"] } else { &item["type"] };
                    assert!(item["url"].is_string() || slug == "urn:kielink:problem:overloaded", "{reply:?}");
                    item["url"].is_string()
                }
            }
        }));
        let others = async {
            eventually("all places are taken", async || in_flight(&sidecar).await == 8).await;
            let link = |file: String| sidecar.send(other.get(format!("{}/v1/link?url={file}", sidecar.base_url())));
            let all = join_all((0..4).map(|n| link(encode(&format!("{SOURCE}?{n}")))));
            let (replies, ()) = tokio::join!(all, async {
                kie.wait_for_mints(5).await;
                kie.release();
            });
            replies
        };
        let (crowd, others) = tokio::join!(crowd, others);
        assert_eq!(count(&others, 200), 4, "{others:?}");
        assert_eq!(crowd.iter().filter(|is_served| **is_served).count(), 4, "{asks}");
    }
}

#[tokio::test]
async fn a_batch_of_lines_that_loses_its_place_says_so_in_its_lines() {
    let kie = FakeKie::start();
    // Five places.
    let sidecar = with_small_buffers(&kie, &[("limits.in_flight", "4"), ("server.shutdown_grace", "1s")]);
    let known = long_source();
    assert_eq!(sidecar.link(&known).await.status, 200);
    let unread = Unread::ask(&sidecar, &known, 1).await;
    kie.hold();
    let lines = join_all((0..4).map(async |_| {
        let body = serde_json::json!({ "urls": [SOURCE] }).to_string();
        let batch = sidecar.client().post(format!("{}/v1/links", sidecar.base_url())).body(body);
        sidecar.send(batch.header("accept", "application/x-ndjson")).await.json()["url"].is_string()
    }));
    let other = reqwest::Client::builder().no_proxy().tls_certs_only([]).local_address(IpAddr::from([127, 0, 0, 3]));
    let other = other.build().unwrap();
    let (served, ()) = tokio::join!(lines, async {
        eventually("all places are taken", async || in_flight(&sidecar).await == 5).await;
        let body = serde_json::json!({ "urls": vec![known.as_str(); 20] }).to_string();
        let hits = sidecar.send(other.post(format!("{}/v1/links", sidecar.base_url())).body(body)).await;
        assert_eq!(hits.status, 200, "{hits:?}");
        kie.release();
    });
    assert_eq!(served.iter().filter(|is_served| **is_served).count(), 3, "one has lost its place");
    drop(unread);
}

/// As counted: the log writes a failure that repeats ten times only.
async fn overloaded(sidecar: &Sidecar) -> usize {
    let metrics = sidecar.get_admin("/metrics").await.body;
    let refused = "kielink_requests_total{endpoint=\"/v1/link\",outcome=\"refused\",status=\"503\"} ";
    metrics.lines().find_map(|line| line.strip_prefix(refused)).map_or(0, |count| count.parse().unwrap())
}

/// Asks for many files in batches; counts the answers that have an `url`, and those with this problem.
async fn flood(sidecar: &Sidecar, cache_control: &str, files: usize, slug: &str) -> (usize, usize) {
    let kind = format!("urn:kielink:problem:{slug}");
    let (mut links, mut problems) = (0, 0);
    let all: Vec<_> = super::files(files).collect();
    for batch in all.chunks(500) {
        let request = sidecar.client().post(format!("{}/v1/links", sidecar.base_url()));
        let body = serde_json::json!({ "urls": batch }).to_string();
        let reply = sidecar.send(request.header("cache-control", cache_control).body(body)).await;
        for item in reply.json()["links"].as_array().unwrap() {
            links += usize::from(item["url"].is_string());
            problems += usize::from(item["error"]["type"] == kind.as_str());
        }
    }
    (links, problems)
}

#[tokio::test]
async fn memory_is_bounded_however_many_files_are_asked_for() {
    const FILES: usize = 5000;
    let kie = FakeKie::start();
    let settings = [
        ("cache.max_bytes", "1MiB"),
        ("upstream.rate", "1000000"),
        ("upstream.burst", "1000000"),
        ("upstream.in_flight", "100"),
        ("log.level", "error"),
    ];
    let sidecar = Sidecar::with(&kie, &settings);
    assert_eq!(flood(&sidecar, "", FILES, "").await, (FILES, 0));
    assert_eq!(kie.mints(), FILES);
    let (kept, forgotten) = flood(&sidecar, "only-if-cached", FILES, "not-cached").await;
    assert_eq!(kept + forgotten, FILES);
    // An entry takes about a kilobyte.
    assert!((500..1100).contains(&kept), "{kept} links are kept in 1 MiB");

    // Refusals are remembered in an eighth of it.
    kie.answer(Answer::envelope(422, "url is wrong"));
    let sidecar = Sidecar::with(&kie, &settings);
    assert_eq!(flood(&sidecar, "", FILES, "source-refused").await, (0, FILES));
    let (_, remembered) = flood(&sidecar, "only-if-cached", FILES, "source-refused").await;
    assert!((50..220).contains(&remembered), "{remembered} refusals are remembered in 128 KiB");
}

#[tokio::test]
async fn large_batches_that_are_under_way_share_a_bounded_memory() {
    let kie = FakeKie::start();
    // Room for six of the largest, beyond the first two kilobytes of each.
    let sidecar = Sidecar::with(&kie, &[("limits.batch_body", "16KiB"), ("limits.body", "1KiB")]);
    assert_eq!(sidecar.link(SOURCE).await.status, 200);
    let post = async |urls: Vec<String>, cache_control: &str| {
        let body = serde_json::json!({ "urls": urls }).to_string();
        let request = sidecar.client().post(format!("{}/v1/links", sidecar.base_url()));
        sidecar.send(request.header("cache-control", cache_control).body(body)).await
    };
    let large = |name: &str| (0..3).map(|n| format!("{SOURCE}?{name}-{n}-{}", "x".repeat(4000))).collect::<Vec<_>>();
    kie.hold();
    let under_way = join_all((0..9).map(|n| post(large(&n.to_string()), "max-age=60")));
    let (replies, ()) = tokio::join!(under_way, async {
        // One that waits for nothing, so that it takes room only for a moment.
        eventually("the room is taken", async || {
            let reply = post(large("beyond"), "only-if-cached").await;
            reply.status == 503 && reply.slug() == "overloaded"
        })
        .await;
        assert_eq!(post(vec![SOURCE.to_owned()], "").await.status, 200, "a small batch finds room");
        assert!(is_hit(&sidecar.link(SOURCE).await), "callers of one link are not held up");
        kie.release();
    });
    assert!(replies.iter().all(|reply| reply.status == 200), "{replies:?}");
    let after = post(large("after"), "only-if-cached").await;
    assert_eq!(after.status, 200, "the room is given back: {after:?}");
}

#[tokio::test]
async fn many_short_items_take_room_as_well() {
    let kie = FakeKie::start();
    // Room for one batch of the most items, and a bit.
    let sidecar =
        Sidecar::with(&kie, &[("limits.batch_body", "2KiB"), ("limits.body", "1KiB"), ("limits.batch", "200")]);
    let post = async |urls: Vec<&str>| batch(&sidecar, &urls).await;
    // Six hundred bytes, and one item that is waited for.
    let many = |source| [vec![""; 199], vec![source]].concat();
    kie.hold();
    let (reply, ()) = tokio::join!(post(many(SOURCE)), async {
        kie.wait_for_mints(1).await;
        let refused = post(many("https://file.kie.ai/a")).await;
        assert_eq!((refused.status, refused.slug().as_str()), (503, "overloaded"), "{refused:?}");
        assert_eq!(post(vec![""; 10]).await.status, 200, "a small batch finds room");
        kie.release();
    });
    assert_eq!(reply.status, 200, "{reply:?}");
    assert_eq!(post(many(SOURCE)).await.status, 200, "the room is given back");
}

/// A kielink whose system keeps a few kilobytes of what is not read, and not four megabytes.
fn with_small_buffers(kie: &FakeKie, settings: &[(&str, &str)]) -> Sidecar {
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    // Each accepted socket has it from the one that listens.
    socket.set_send_buffer_size(4096).unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    let bound = Bound::Tcp(socket.listen(1024).unwrap().into_std().unwrap());
    Sidecar::on(vec![Inherited { name: String::new(), bound }], kie, settings)
}

/// Batches of two megabytes that nobody reads but for a few bytes, each on a connection of its own.
struct Unread {
    answers: Vec<OwnedReadHalf>,
    /// Kept: that one goes would be heard.
    _writers: Vec<OwnedWriteHalf>,
}

impl Unread {
    async fn ask(sidecar: &Sidecar, source: &str, count: usize) -> Unread {
        let body = serde_json::json!({ "urls": vec![source; 500] }).to_string();
        let head = "POST /v1/links HTTP/1.1\r\nhost: h\r\nconnection: close";
        let request = format!("{head}\r\ncontent-length: {}\r\n\r\n{body}", body.len());
        let (mut answers, mut writers) = (Vec::new(), Vec::new());
        for _ in 0..count {
            let socket = tokio::net::TcpSocket::new_v4().unwrap();
            socket.set_recv_buffer_size(4096).unwrap();
            let stream = socket.connect(sidecar.address().parse().unwrap()).await.unwrap();
            let (mut answer, mut writer) = stream.into_split();
            writer.write_all(request.as_bytes()).await.unwrap();
            let mut beginning = [0; 15];
            answer.read_exact(&mut beginning).await.unwrap();
            assert_eq!(&beginning, b"HTTP/1.1 200 OK");
            answers.push(answer);
            writers.push(writer);
        }
        Unread { answers, _writers: writers }
    }

    /// Whether the first of them is whole, once it is read.
    async fn first_is_whole(&mut self) -> bool {
        let mut rest = Vec::new();
        let _ = self.answers.remove(0).read_to_end(&mut rest).await;
        // A chunk of no bytes ends it (RFC 9112 section 7.1).
        rest.ends_with(b"\r\n0\r\n\r\n")
    }
}

async fn batch(sidecar: &Sidecar, urls: &[&str]) -> Reply {
    let body = serde_json::json!({ "urls": urls }).to_string();
    sidecar.send(sidecar.client().post(format!("{}/v1/links", sidecar.base_url())).body(body)).await
}

/// Each another one.
fn cold_files() -> impl Iterator<Item = String> {
    (0..).map(|n| format!("{SOURCE}?cold={n}"))
}

fn long_source() -> String {
    format!("{SOURCE}?{}", "x".repeat(3900))
}

/// It is closed when `limits.header_timeout` has passed: so much time has passed for everybody.
async fn let_time_pass(sidecar: &Sidecar) {
    let mut silent = tokio::net::TcpStream::connect(sidecar.address()).await.unwrap();
    let mut nothing = Vec::new();
    silent.read_to_end(&mut nothing).await.unwrap();
    assert!(nothing.is_empty());
}

#[tokio::test]
async fn an_answer_that_is_not_read_keeps_its_place_and_memory_answers_all_the_same() {
    let kie = FakeKie::start();
    // Two places, and one more for batches.
    let settings = [("limits.in_flight", "2"), ("limits.header_timeout", "1h"), ("server.shutdown_grace", "1s")];
    let sidecar = with_small_buffers(&kie, &settings);
    let source = long_source();
    for source in [&source, SOURCE] {
        assert_eq!(sidecar.link(source).await.status, 200);
    }
    let unread = Unread::ask(&sidecar, &source, 3).await;
    let mints = kie.mints();
    let mut cold = cold_files();
    for _ in 0..3 {
        let reply = sidecar.link(&cold.next().unwrap()).await;
        assert_eq!((reply.status, reply.slug().as_str()), (503, "overloaded"));
        assert_eq!(kie.mints(), mints, "whoever is refused costs nothing");
        assert!(is_hit(&sidecar.link(&source).await), "what is in memory needs no place");
        assert_eq!(sidecar.download_url(&source).await.status, 200);
        let small = batch(&sidecar, &[SOURCE; 20]).await;
        assert_eq!((small.status, small.json()["links"].as_array().map(Vec::len)), (200, Some(20)), "{small:?}");
        assert_eq!(batch(&sidecar, &[source.as_str(); 20]).await.status, 503, "it is large");
    }
    drop(unread);
    let last = cold.next().unwrap();
    eventually("the places are given back", async || sidecar.link(&last).await.status == 200).await;
}

#[tokio::test]
async fn an_answer_that_is_not_read_in_time_makes_room_where_another_needs_it_and_only_there() {
    let kie = FakeKie::start();
    let settings = [("limits.in_flight", "2"), ("limits.header_timeout", "1s"), ("server.shutdown_grace", "1s")];
    let sidecar = with_small_buffers(&kie, &settings);
    let source = long_source();
    assert_eq!(sidecar.link(&source).await.status, 200);
    let mut unread = Unread::ask(&sidecar, &source, 3).await;
    // Twice: they had not begun to wait when the first of them began.
    let_time_pass(&sidecar).await;
    let_time_pass(&sidecar).await;
    assert!(unread.first_is_whole().await, "a slow reader that was in nobody's way");
    let mut unread = Unread::ask(&sidecar, &source, 3).await;
    let_time_pass(&sidecar).await;
    for cold in cold_files().take(3) {
        eventually("there is room for others", async || sidecar.link(&cold).await.status == 200).await;
    }
    let mut whole = Vec::new();
    for _ in 0..3 {
        whole.push(unread.first_is_whole().await);
    }
    assert!(whole.contains(&false), "one that was");
}

#[tokio::test]
async fn answers_of_one_address_that_stand_still_make_room_for_another_long_before_that() {
    let kie = FakeKie::start();
    let settings = [("limits.in_flight", "2"), ("limits.header_timeout", "15s"), ("server.shutdown_grace", "1s")];
    let sidecar = with_small_buffers(&kie, &settings);
    let source = long_source();
    assert_eq!(sidecar.link(&source).await.status, 200);
    let unread = Unread::ask(&sidecar, &source, 3).await;
    let cold = RefCell::new(cold_files());
    let next = || cold.borrow_mut().next().unwrap();
    assert_eq!(sidecar.link(&next()).await.status, 503, "all places are taken");
    let other = reqwest::Client::builder().no_proxy().tls_certs_only([]).local_address(IpAddr::from([127, 0, 0, 2]));
    let other = other.build().unwrap();
    eventually("another address finds one", async || {
        let url = format!("{}/v1/link?url={}", sidecar.base_url(), encode(&next()));
        sidecar.send(other.get(url)).await.status == 200
    })
    .await;
    assert_eq!(in_flight(&sidecar).await, 2, "of one of them");
    drop(unread);
}

/// It grants no stream a byte, and so takes nothing but heads.
fn deaf() -> reqwest::Client {
    let client = reqwest::Client::builder().http2_prior_knowledge().http2_initial_stream_window_size(0);
    client.no_proxy().tls_certs_only([]).build().unwrap()
}

#[tokio::test]
async fn streams_that_nobody_reads_end_with_their_connection() {
    let kie = FakeKie::start();
    let settings = [("limits.in_flight", "8"), ("limits.header_timeout", "1s"), ("limits.batch", "500")];
    let sidecar = Sidecar::with(&kie, &settings);
    let source = long_source();
    assert_eq!(sidecar.link(&source).await.status, 200);
    let deaf = deaf();
    let body = serde_json::json!({ "urls": vec![source.as_str(); 5] }).to_string();
    let mut unread = Vec::new();
    for n in 0..10 {
        let request = deaf.post(format!("{}/v1/links", sidecar.base_url())).body(body.clone());
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), 200, "{n}");
        unread.push(answer);
    }
    assert_eq!(in_flight(&sidecar).await, 10);
    assert!(is_hit(&sidecar.link(&source).await));
    eventually("its connection is gone", async || in_flight(&sidecar).await == 0).await;
    assert_eq!(sidecar.link(&format!("{SOURCE}?cold")).await.status, 200);
    for answer in unread {
        assert!(answer.bytes().await.is_err(), "it is old by now");
    }
}

#[tokio::test]
async fn a_link_that_an_http_2_peer_does_not_take_is_given_up_whatever_else_it_takes() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::with(&kie, &[("limits.header_timeout", "500ms")]);
    let (deaf, link) = (deaf(), format!("{}/v1/link?url={}", sidecar.base_url(), encode(SOURCE)));
    let answer = deaf.get(&link).send().await.unwrap();
    assert_eq!(answer.status(), 200);
    let others = async {
        loop {
            // On a new connection, once it has ended.
            let _ = deaf.head(&link).send().await;
        }
    };
    let body = tokio::time::timeout(Duration::from_secs(10), answer.bytes());
    let body = tokio::select! {
        body = body => body,
        () = others => unreachable!("it never ends"),
    };
    assert!(body.expect("it is given up").is_err());
}

#[tokio::test]
async fn connections_that_wait_for_kie_ai_leave_room_for_hits() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::with(&kie, &[("limits.connections", "8")]);
    let ask = |source: &str| format!("GET /v1/link?url={} HTTP/1.1\r\nhost: h\r\n", encode(source));
    let hit = ask(SOURCE) + "connection: close\r\n\r\n";
    assert_eq!(sidecar.wire(&hit).await.status, 200);
    kie.hold();
    let mut waiting = Vec::new();
    for n in 0..8 {
        let mut stream = tokio::net::TcpStream::connect(sidecar.address()).await.unwrap();
        let two = [0, 1].map(|m| ask(&format!("{SOURCE}?{n}-{m}")) + "\r\n").concat();
        stream.write_all(two.as_bytes()).await.unwrap();
        waiting.push(stream);
    }
    eventually("as many wait as may", async || in_flight(&sidecar).await == 6).await;
    for _ in 0..5 {
        assert_eq!(sidecar.wire(&hit).await.status, 200);
    }
    let mut said = [0; 12];
    waiting[7].read_exact(&mut said).await.unwrap();
    assert_eq!(&said, b"HTTP/1.1 503");
    kie.release();
    waiting[0].read_exact(&mut said).await.unwrap();
    assert_eq!(&said, b"HTTP/1.1 200");
}

#[tokio::test]
async fn half_sent_batches_leave_room_for_whole_ones() {
    let kie = FakeKie::start();
    let settings = [("limits.batch_body", "64KiB"), ("limits.header_timeout", "1h")];
    let sidecar = Sidecar::with(&kie, &settings);
    assert_eq!(sidecar.link(SOURCE).await.status, 200);
    let head = "POST /v1/links HTTP/1.1\r\nhost: h\r\nconnection: close\r\ncontent-length: ";
    let whole = serde_json::json!({ "urls": vec![SOURCE; 500] }).to_string();
    let whole = format!("{head}{}\r\n\r\n{whole}", whole.len());
    let half = format!("{head}{}\r\n\r\n{}", 64 << 10, " ".repeat((64 << 10) - 1));
    let mut slow = Vec::new();
    // Twice as much as there is room for.
    for _ in 0..16 {
        let mut stream = tokio::net::TcpStream::connect(sidecar.address()).await.unwrap();
        stream.write_all(half.as_bytes()).await.unwrap();
        slow.push(stream);
    }
    let mut said = [0; 12];
    slow[0].read_exact(&mut said).await.unwrap();
    assert_eq!(&said, b"HTTP/1.1 503");
    // While sixteen are still arriving, they take each other's room.
    eventually("a whole one finds room", async || sidecar.wire(&whole).await.status == 200).await;
    for _ in 0..5 {
        assert_eq!(sidecar.wire(&whole).await.status, 200);
    }
}

async fn in_flight(sidecar: &Sidecar) -> usize {
    let metrics = sidecar.get_admin("/metrics").await.body;
    let line = metrics.lines().find_map(|line| line.strip_prefix("kielink_requests_in_flight ")).unwrap();
    line.parse::<f64>().unwrap() as usize
}

#[tokio::test]
async fn bodies_that_take_their_time_hold_no_place() {
    let kie = FakeKie::start();
    let sidecar = Sidecar::with(&kie, &[("limits.in_flight", "8"), ("limits.header_timeout", "1h")]);
    let head = "POST /api/v1/common/download-url HTTP/1.1\r\nhost: h\r\ncontent-length: ";
    let mut slow = Vec::new();
    for n in 0..40 {
        let mut stream = tokio::net::TcpStream::connect(sidecar.address()).await.unwrap();
        stream.write_all(format!("{head}99\r\n\r\n{{").as_bytes()).await.unwrap();
        slow.push(stream);
        // Sixteen may be on their way at once: each but the last of them has been told to make room.
        if let Some(earlier) = usize::checked_sub(n, 16) {
            let mut said = [0; 12];
            slow[earlier].read_exact(&mut said).await.unwrap();
            assert_eq!(&said, b"HTTP/1.1 503");
        }
    }
    assert_eq!(in_flight(&sidecar).await, 0);
    let body = serde_json::json!({ "url": SOURCE }).to_string();
    let whole = format!("{head}{}\r\nconnection: close\r\n\r\n", body.len());
    assert_eq!(sidecar.wire(whole.clone() + &body).await.status, 200, "a body that comes with its head");
    // And one that comes a moment later.
    let mut stream = tokio::net::TcpStream::connect(sidecar.address()).await.unwrap();
    stream.write_all(whole.as_bytes()).await.unwrap();
    let mut said = [0; 12];
    slow[24].read_exact(&mut said).await.unwrap();
    stream.write_all(body.as_bytes()).await.unwrap();
    stream.read_exact(&mut said).await.unwrap();
    assert_eq!(&said, b"HTTP/1.1 200");
}

#[tokio::test]
async fn a_link_that_dies_while_its_batch_waits_to_be_read_is_not_handed_out() {
    let kie = FakeKie::start();
    let settings = [
        ("cache.ttl", "2s"),
        ("cache.refresh_after", "1900ms"),
        ("limits.batch", "2000"),
        ("limits.batch_body", "16MiB"),
        ("limits.header_timeout", "1h"),
    ];
    let sidecar = Sidecar::with(&kie, &settings);
    let source = format!("{SOURCE}?{}", "x".repeat(3900));
    // Eight megabytes of answer: twice what the system's own buffers hold.
    let body = serde_json::json!({ "urls": vec![source.as_str(); 2000] }).to_string();
    let head = "POST /v1/links HTTP/1.1\r\nhost: h\r\nconnection: close\r\ncontent-length: ";
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.set_recv_buffer_size(4096).unwrap();
    let mut stream = socket.connect(sidecar.address().parse().unwrap()).await.unwrap();
    stream.write_all(format!("{head}{}\r\n\r\n{body}", body.len()).as_bytes()).await.unwrap();
    let mut answer = vec![0; 15];
    stream.read_exact(&mut answer).await.unwrap();
    assert_eq!(answer, b"HTTP/1.1 200 OK");
    eventually("the link is dead", async || {
        let state = sidecar.get_admin(&format!("/v1/explain?url={}", encode(&source))).await.json()["state"].clone();
        state == "dead" || state == "absent"
    })
    .await;
    stream.read_to_end(&mut answer).await.unwrap();
    let answer = String::from_utf8_lossy(&answer);
    let (links, late) =
        (answer.matches("\"expires_at\"").count(), answer.matches("urn:kielink:problem:timeout").count());
    assert_eq!(links + late, 2000, "{links} links and {late} that came too late");
    assert!(late > 0, "every link was handed out, though the last were written when it was dead");
}

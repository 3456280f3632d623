//! What has a limit: callers who wait, and memory.

use futures_util::future::join_all;

use super::{ask_at_once, count, files, is_hit};
use crate::support::{Answer, FakeKie, SOURCE, Sidecar, encode, eventually};

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
    let post = async |urls: Vec<&str>| {
        let body = serde_json::json!({ "urls": urls }).to_string();
        sidecar.send(sidecar.client().post(format!("{}/v1/links", sidecar.base_url())).body(body)).await
    };
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

#[tokio::test]
async fn an_answer_that_is_not_read_keeps_its_place() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let kie = FakeKie::start();
    // Two places, and one more for those whom memory answers.
    let sidecar = Sidecar::with(&kie, &[("limits.in_flight", "2"), ("limits.header_timeout", "1h")]);
    let source = format!("{SOURCE}?{}", "x".repeat(3900));
    assert_eq!(sidecar.link(&source).await.status, 200);
    // Eight megabytes are asked for, of which the system's own buffers hold some four, and a few bytes of them read.
    let body = serde_json::json!({ "urls": vec![source; 500] }).to_string();
    let head = format!("POST /v1/links HTTP/1.1\r\nhost: h\r\ncontent-length: {}\r\n\r\n", body.len());
    let (mut unread, mut writers) = (Vec::new(), tokio::task::JoinSet::new());
    for _ in 0..3 {
        let socket = tokio::net::TcpSocket::new_v4().unwrap();
        socket.set_recv_buffer_size(4096).unwrap();
        let stream = socket.connect(sidecar.address().parse().unwrap()).await.unwrap();
        let (mut stream, mut writer) = stream.into_split();
        let request = (head.clone() + &body).repeat(4);
        // Each is read when the one before has been answered.
        writers.spawn(async move { writer.write_all(request.as_bytes()).await });
        let mut beginning = [0; 15];
        stream.read_exact(&mut beginning).await.unwrap();
        assert_eq!(&beginning, b"HTTP/1.1 200 OK");
        unread.push(stream);
    }
    eventually("all places are taken by answers that nobody reads", async || sidecar.link(SOURCE).await.status == 503)
        .await;
    // And stay so.
    assert_eq!(sidecar.link(SOURCE).await.status, 503);
    drop((unread, writers));
    eventually("the places are given back", async || sidecar.link(SOURCE).await.status == 200).await;
}

#[tokio::test]
async fn a_link_that_dies_while_its_batch_waits_to_be_read_is_not_handed_out() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
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

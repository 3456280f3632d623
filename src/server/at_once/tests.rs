//! One connection as the server serves it, over a pipe.

use std::{future::poll_fn, pin::pin, sync::Arc};

use axum::{
    Router,
    body::{Body, to_bytes},
    extract::Request,
    http::{Response, header},
};
use futures_util::FutureExt as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, DuplexStream},
    sync::Notify,
    task::JoinSet,
};

use super::{
    super::{Config, Ending, GivesWay, HEADER_LIST, Server, Service, activity::Phase, turn::Turns},
    *,
};

/// Answers what says "known", at great length what says "long", and panics at "panic".
struct Known;

impl AtOnce for Known {
    fn waits_for_body(&self, _: &Parts, bytes: u64) -> Option<Instant> {
        (bytes < 100).then_some(Instant::from_origin(Duration::ZERO))
    }

    fn answer(&self, head: &Parts, body: &[u8], _: &Peer, _: Option<Instant>) -> Option<Vec<u8>> {
        let text = [head.uri.path().trim_start_matches('/').as_bytes(), body].concat();
        assert!(!text.starts_with(b"panic"), "as the test wants it");
        let said = match &*text {
            b"known" => "at once".to_owned(),
            b"long" => "long".repeat(1000),
            _ => return None,
        };
        Some(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{said}", said.len()).into_bytes())
    }
}

/// One connection that is served.
struct Bench {
    client: DuplexStream,
    activity: Activity,
    end: Arc<Notify>,
    served: JoinSet<()>,
}

/// Over a pipe of so many bytes.
fn bench(bytes: usize) -> Bench {
    bench_of(bytes, Some(Arc::new(Known)))
}

fn bench_of(bytes: usize, at_once: Option<Arc<dyn AtOnce>>) -> Bench {
    // Says what it got: how long the body was said to be, and the body.
    let router = Router::new().fallback(async |request: Request| {
        let (head, body) = request.into_parts();
        if head.uri.path() == "/slow" {
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        let length = head.headers.get(header::CONTENT_LENGTH).map_or("0", |length| length.to_str().unwrap());
        let body = match head.uri.path() {
            "/unread" => "not read".into(),
            "/much" => "much".repeat(1000).into(),
            _ => to_bytes(body, usize::MAX).await.unwrap_or("broken".into()),
        };
        Response::new(Body::from([b"routed ", length.as_bytes(), b" ", &body].concat()))
    });
    let config = Config {
        listen: Vec::new(),
        connections: 1,
        gives_way: GivesWay::Quiet,
        header_timeout: Duration::from_secs(10),
        idle_timeout: Duration::from_secs(75),
        streams: 1,
        header_list: HEADER_LIST,
        unread: 0,
    };
    let service = Service { router, at_once };
    let server = Server::new(&config, service, Arc::new(|_, _| b"refused".to_vec()), Ending::default());
    let (client, stream) = tokio::io::duplex(bytes);
    let (activity, end) = (Activity::default(), Arc::<Notify>::default());
    let peer = Peer { address: None, connection: 1, good_host: Arc::default() };
    let (its, to_end) = (activity.clone(), Arc::clone(&end));
    let mut served = JoinSet::new();
    served.spawn(async move {
        let mut connection = pin!(server.serving(stream, peer, &its));
        let mut turns = Turns::new(its);
        tokio::select! {
            _ = poll_fn(|cx| turns.poll(connection.as_mut(), cx)) => return,
            () = to_end.notified() => connection.as_mut().graceful_shutdown(),
        }
        let _ = connection.await;
    });
    Bench { client, activity, end, served }
}

impl Bench {
    async fn send(&mut self, text: &str) {
        self.client.write_all(text.as_bytes()).await.unwrap();
    }

    /// The body of the next answer.
    async fn answer(&mut self) -> String {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            head.push(self.client.read_u8().await.unwrap());
        }
        let head = String::from_utf8(head).unwrap();
        let length = head.split_once("content-length: ").unwrap().1.split_once("\r\n").unwrap().0;
        let mut body = vec![0; length.parse().unwrap()];
        self.client.read_exact(&mut body).await.unwrap();
        String::from_utf8(body).unwrap()
    }

    async fn ask(&mut self, text: &str) -> String {
        self.send(text).await;
        self.answer().await
    }

    /// Whatever else comes, to the end.
    async fn rest(mut self) -> String {
        let mut rest = String::new();
        self.client.read_to_string(&mut rest).await.unwrap();
        self.served.join_next().await.unwrap().unwrap();
        rest
    }
}

/// A connection on which `/long` has been answered behind another request, and its peer has not taken that.
async fn untaken(first: Option<&str>) -> Bench {
    let mut bench = bench(64);
    if let Some(first) = first {
        bench.ask(&get(first)).await;
    }
    bench.send(&get("/long")).await;
    tokio::time::sleep(BODY_SOON).await;
    bench
}

fn get(path: &str) -> String {
    format!("GET {path} HTTP/1.1\r\nhost: h\r\n\r\n")
}

fn post(body: &str) -> String {
    format!("POST / HTTP/1.1\r\nhost: h\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

#[tokio::test(start_paused = true)]
async fn what_is_known_is_answered_at_once_and_all_else_by_the_router() {
    let requests = [
        (get("/known"), "at once"),
        (get("/other"), "routed 0 "),
        (get("/panic"), "routed 0 "),
        (post("known"), "at once"),
        (post("other"), "routed 5 other"),
        (post("panic"), "routed 5 panic"),
        (format!("\r\n{}", get("/known")), "at once"),
        (get("/known").replace("\r\n\r\n", "\r\nx-request-id: 1\r\n\r\n"), "at once"),
        (post("known").replace("POST / ", "POST /unread "), "routed 5 not read"),
    ];
    // On a connection of its own, and behind each of the others.
    for (first, expected) in &requests {
        let mut bench = bench(1 << 16);
        assert_eq!(bench.ask(first).await, *expected, "{first}");
        for (second, expected) in &requests {
            assert_eq!(bench.ask(second).await, *expected, "{second} behind {first}");
            assert_eq!(bench.activity.now().0, Phase::Idle);
        }
        assert_eq!(bench.activity.requests(), (1 + requests.len() as u64, 0), "each is counted");
        bench.client.shutdown().await.unwrap();
        assert_eq!(bench.rest().await, "");
    }
}

#[tokio::test(start_paused = true)]
async fn where_nothing_is_answered_at_once_the_router_answers() {
    let mut bench = bench_of(1 << 16, None);
    assert_eq!([bench.ask(&get("/known")).await, bench.ask(&post("known")).await], ["routed 0 ", "routed 5 known"]);
}

#[tokio::test(start_paused = true)]
async fn a_head_may_come_in_pieces() {
    for at_once in [true, false] {
        let known = get("/known");
        let said = if at_once { "at once" } else { "routed 0 " };
        for first in [String::new(), known.clone(), get("/other"), "\r\n".to_owned(), format!("{}\r\n", post("known"))]
        {
            for cut in [1, 20, known.len() - 1] {
                let mut bench = bench_of(1 << 16, at_once.then(|| Arc::new(Known) as Arc<dyn AtOnce>));
                bench.send(&first).await;
                if first.len() > 2 {
                    bench.answer().await;
                }
                bench.send(&known[..cut]).await;
                tokio::time::sleep(2 * BODY_SOON).await;
                assert_eq!(bench.activity.now().0, Phase::Head, "{cut} behind {first:?}");
                assert_eq!(bench.ask(&known[cut..]).await, said, "{cut} behind {first:?}");
                assert_eq!(bench.ask(&known).await, said, "{cut} behind {first:?}");
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_can_become_no_head_is_refused_before_it_ends() {
    for first in [None, Some("/known"), Some("/other")] {
        for text in ["\x16\x03\x01\x02", "GET /\x01", "GET / HTTP/3\r\n"] {
            let mut bench = bench(1 << 16);
            if let Some(first) = first {
                bench.ask(&get(first)).await;
            }
            bench.send(text).await;
            assert_eq!(bench.rest().await, "refused", "{text:?} behind {first:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn requests_that_come_together_are_answered_in_their_order() {
    let (known, other, posted) = (get("/known"), get("/other"), post("known"));
    for (requests, answers) in [
        (vec![&*known, &known, &posted, &known], vec!["at once"; 4]),
        (vec![&*known, &other, &known], vec!["at once", "routed 0 ", "routed 0 "]),
        (vec![&*posted, "\r\n", &known, "GE"], vec!["at once"; 2]),
        (vec![&*known, &posted[..posted.len() - 2]], vec!["at once"]),
    ] {
        let mut bench = bench(1 << 16);
        bench.send(&requests.concat()).await;
        for answer in answers {
            assert_eq!(bench.answer().await, answer, "{requests:?}");
        }
        if requests.last() == Some(&"GE") {
            assert_eq!(bench.ask("T /known HTTP/1.1\r\nhost: h\r\n\r\n").await, "at once");
        }
        if requests.len() == 2 {
            assert_eq!(bench.activity.now().0, Phase::Body);
            assert_eq!(bench.ask("wn").await, "at once");
        }
        assert_eq!(bench.activity.now().0, Phase::Idle);
    }
}

#[tokio::test(start_paused = true)]
async fn a_peer_that_goes_while_an_answer_is_not_taken_ends_its_connection() {
    for first in [None, Some("/other")] {
        let mut bench = untaken(first).await;
        drop(bench.client);
        bench.served.join_next().await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn after_the_last_request_the_router_says_so() {
    for (request, expected) in [
        (get("/known").replace("HTTP/1.1", "HTTP/1.0"), "routed 0 "),
        (get("/known").replace("\r\n\r\n", "\r\nconnection: close\r\n\r\n"), "routed 0 "),
    ] {
        let mut bench = bench(1 << 16);
        assert_eq!(bench.ask(&get("/known")).await, "at once");
        assert_eq!(bench.ask(&request).await, expected);
        assert_eq!(bench.rest().await, "");
    }
}

#[tokio::test(start_paused = true)]
async fn a_body_is_waited_for_a_moment_and_goes_to_the_router_with_all_that_came() {
    for (behind, first) in [("nothing", None), ("the router", Some("/other")), ("one at once", Some("/known"))] {
        let mut bench = bench(1 << 16);
        if let Some(first) = first {
            bench.ask(&get(first)).await;
        }
        let request = post("known");
        let (head, body) = request.split_at(request.len() - 5);
        for (pieces, pause, said) in [
            (&[body][..], BODY_SOON / 2, "at once"),
            (&["kn", "own"], BODY_SOON / 3, "at once"),
            (&["other"], BODY_SOON / 2, "routed 5 other"),
            (&[body], 2 * BODY_SOON, "routed 5 known"),
            (&["kn", "own"], 2 * BODY_SOON, "routed 5 known"),
        ] {
            let before = bench.activity.requests().0;
            bench.send(head).await;
            for piece in pieces {
                tokio::time::sleep(pause).await;
                assert_eq!(bench.activity.now().0, Phase::Body, "the peer's turn");
                let is_routed = bench.activity.requests() == (before + 1, 1);
                assert_eq!(is_routed, pause > BODY_SOON, "who waits, behind {behind}");
                bench.send(piece).await;
            }
            assert_eq!(bench.answer().await, said, "{pieces:?} behind {behind}");
            assert_eq!((bench.activity.requests(), bench.activity.now().0), ((before + 1, 0), Phase::Idle));
        }
        bench.send(head).await;
        tokio::task::yield_now().await;
        drop(bench.client);
        bench.served.join_next().await.unwrap().unwrap();
        assert_eq!(bench.activity.requests().1, 0, "its peer has gone");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_too_long_or_too_much_at_once_is_the_router_s() {
    let mut bench = bench(1 << 16);
    let long = post(&"known".repeat(100));
    let (head, body) = long.split_at(long.len() - 500);
    bench.send(head).await;
    tokio::time::sleep(BODY_SOON / 2).await;
    assert_eq!(bench.activity.requests(), (1, 1), "the router waits");
    assert_eq!(bench.ask(body).await, format!("routed 500 {body}"));
    // In order, also where the second could be answered at once, and the first takes its time.
    bench.send(&[get("/slow"), get("/known")].concat()).await;
    assert_eq!([bench.answer().await, bench.answer().await], ["routed 0 ", "routed 0 "]);
    bench.send(&get("/slow")).await;
    tokio::time::sleep(BODY_SOON).await;
    bench.send(&get("/known")).await;
    assert_eq!([bench.answer().await, bench.answer().await], ["routed 0 ", "routed 0 "]);
    // The next request comes together with the body that is waited for.
    let request = post("known");
    let (head, body) = request.split_at(request.len() - 5);
    bench.send(head).await;
    tokio::time::sleep(BODY_SOON / 2).await;
    bench.send(&[body, &get("/known")].concat()).await;
    assert_eq!([bench.answer().await, bench.answer().await], ["at once", "at once"]);
    assert_eq!(bench.ask(&get("/known")).await, "at once");
    let mut long = get("/known");
    long.insert_str(long.len() - 2, &format!("x: {}\r\n", "y".repeat(READ_BYTES)));
    assert_eq!(bench.ask(&long).await, "routed 0 ");
}

#[tokio::test(start_paused = true)]
async fn the_next_request_waits_until_the_answer_is_taken() {
    for first in ["/known", "/other"] {
        let mut bench = bench(64);
        bench.ask(&get(first)).await;
        bench.send(&get("/long")).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(bench.activity.now().0, Phase::Unread);
        bench.send(&get("/known")).await;
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert_eq!(bench.activity.requests().0, 2, "it is not looked at");
        assert_eq!(bench.answer().await, "long".repeat(1000));
        assert_eq!(bench.answer().await, "at once");
        assert_eq!(bench.activity.now().0, Phase::Idle);
    }
}

#[tokio::test(start_paused = true)]
async fn the_next_request_waits_until_the_router_s_answer_is_taken() {
    let mut bench = bench(64);
    bench.send(&get("/much")).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    bench.send(&get("/known")).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    assert_eq!(bench.answer().await, format!("routed 0 {}", "much".repeat(1000)));
    assert!(["at once", "routed 0 "].contains(&&*bench.answer().await));
}

#[tokio::test(start_paused = true)]
async fn nothing_overtakes_a_request_that_hyper_has_read_and_not_handed_on() {
    let (mut theirs, ours) = tokio::io::duplex(1024);
    let (activity, heads) = (Activity::default(), Heads::default());
    let framing = Framing::new(ours, &heads, &activity, Arc::new(|_, _| Vec::new()));
    let peer = Peer { address: None, connection: 1, good_host: Arc::default() };
    let mut stream = Answering::new(framing, heads.clone(), activity, Some(Responder::new(Arc::new(Known), peer)));
    let mut read = [0; 1024];
    for (path, is_handed_on) in [("/other", false), ("/known", true), ("/known", true)] {
        theirs.write_all(get(path).as_bytes()).await.unwrap();
        let length = stream.read(&mut read).now_or_never();
        if heads.is_empty() {
            assert!(length.is_none(), "it is answered");
        } else {
            assert_eq!(&read[..length.unwrap().unwrap()], get(path).as_bytes());
        }
        if is_handed_on {
            while heads.pop().is_some() {}
        }
    }
    let length = theirs.read(&mut read).await.unwrap();
    assert!(read[..length].ends_with(b"at once"), "the third");
}

#[tokio::test(start_paused = true)]
async fn a_large_head_is_not_kept_once_it_is_answered() {
    let (mut theirs, ours) = tokio::io::duplex(1 << 14);
    let (activity, heads) = (Activity::default(), Heads::default());
    let framing = Framing::new(ours, &heads, &activity, Arc::new(|_, _| Vec::new()));
    let peer = Peer { address: None, connection: 1, good_host: Arc::default() };
    let mut stream = Answering::new(framing, heads, activity, Some(Responder::new(Arc::new(Known), peer)));
    for (bytes, is_kept) in [(100, true), (4000, false), (100, true)] {
        let head = get("/known").replace("\r\n\r\n", &format!("\r\nx: {}\r\n\r\n", "y".repeat(bytes)));
        theirs.write_all(head.as_bytes()).await.unwrap();
        assert!(stream.read(&mut [0; 1]).now_or_never().is_none(), "it is answered");
        let last = format!("{:?}", stream.responder.as_ref().unwrap().last);
        assert_eq!(last.contains("yyyy"), is_kept, "{bytes}");
    }
}

#[tokio::test(start_paused = true)]
async fn who_says_no_more_with_its_request_gets_the_answer() {
    for first in [None, Some("/known"), Some("/other")] {
        let mut bench = bench(1 << 16);
        if let Some(first) = first {
            bench.ask(&get(first)).await;
        }
        bench.send(&get("/known")).await;
        bench.client.shutdown().await.unwrap();
        assert_eq!(bench.answer().await, "at once");
        assert_eq!(bench.rest().await, "");
    }
}

#[tokio::test(start_paused = true)]
async fn what_has_come_is_answered_to_the_last_byte_before_the_end() {
    let whole = post("known");
    let (half, rest) = whole.split_at(whole.len() - 2);
    for first in [None, Some("/known"), Some("/other")] {
        // Silent, in a head, while a body is waited for, while an answer is not taken.
        for (request, later, said) in [
            ("", "", None),
            ("\r\n", "", None),
            ("GET /known HTTP/1.1\r\n", "", None),
            (half, rest, Some("routed 5 known".to_owned())),
            (&get("/long"), "", Some("long".repeat(1000))),
        ] {
            let mut bench = bench(128);
            if let Some(first) = first {
                bench.ask(&get(first)).await;
            }
            bench.send(request).await;
            tokio::time::sleep(BODY_SOON / 2).await;
            bench.end.notify_one();
            tokio::time::sleep(BODY_SOON / 4).await;
            bench.send(later).await;
            if let Some(said) = said {
                assert_eq!(bench.answer().await, said, "{request} behind {first:?}");
            }
            assert_eq!(bench.rest().await, "", "{request} behind {first:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_was_not_read_before_the_end_is_not_answered() {
    for first in [None, Some("/other")] {
        let mut bench = untaken(first).await;
        bench.send(&get("/known")).await;
        bench.end.notify_one();
        tokio::time::sleep(BODY_SOON).await;
        assert_eq!(bench.answer().await, "long".repeat(1000));
        assert_eq!(bench.rest().await, "", "behind {first:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn what_is_no_request_is_refused_whatever_was_answered_before() {
    for requests in
        [vec![], vec![get("/known")], vec![get("/other"), get("/known")], vec![get("/known"), get("/other")]]
    {
        let mut bench = bench(1 << 16);
        for request in &requests {
            bench.ask(request).await;
        }
        bench.send("nonsense\r\n\r\n").await;
        bench.client.shutdown().await.unwrap();
        assert_eq!(bench.rest().await, "refused", "{requests:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn http_2_begins_with_a_connection_or_not_at_all() {
    const PREFACE: &str = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    for cut in [PREFACE.len(), 3, 16] {
        let mut bench = bench(1 << 16);
        for piece in [&PREFACE[..cut], &PREFACE[cut..], "\0\0\0\x04\0\0\0\0\0"] {
            bench.send(piece).await;
            tokio::time::sleep(BODY_SOON).await;
        }
        // Settings, and that ours have been read.
        let mut frame = [0; 9];
        bench.client.read_exact(&mut frame).await.unwrap();
        assert_eq!(frame[3], 4, "in pieces of {cut}");
        for first in ["/known", "/other"] {
            let mut bench = self::bench(1 << 16);
            bench.ask(&get(first)).await;
            bench.send(&PREFACE[..cut]).await;
            tokio::time::sleep(BODY_SOON).await;
            // Without its end hyper takes it for HTTP/1, and with it has nothing to say.
            let _ = bench.client.write_all(&PREFACE.as_bytes()[cut..]).await;
            assert_eq!(
                bench.rest().await,
                if cut == 16 { "refused" } else { "" },
                "in pieces of {cut}, behind {first}"
            );
        }
    }
}

#[tokio::test]
async fn http_2_is_read_a_little_in_each_turn_of_its_connection() {
    const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    let (mut theirs, ours) = tokio::io::duplex(64 << 10);
    theirs.write_all(PREFACE).await.unwrap();
    theirs.write_all(&[0; BYTES_A_TURN + 100]).await.unwrap();
    let (activity, heads) = (Activity::default(), Heads::default());
    let framing = Framing::new(ours, &heads, &activity, Arc::new(|_, _| Vec::new()));
    let peer = Peer { address: None, connection: 1, good_host: Arc::default() };
    let mut stream = Answering::new(framing, heads, activity.clone(), Some(Responder::new(Arc::new(Known), peer)));
    poll_fn(|cx| stream.poll_pass(cx)).await.unwrap();
    assert!(activity.is_http_2());
    activity.takes_its_turn();
    stream.read_exact(&mut [0; PREFACE.len()]).await.unwrap();
    let mut all = [0; 4 * BYTES_A_TURN];
    // What came with the preface, and what comes later.
    theirs.write_all(&[0; BYTES_A_TURN]).await.unwrap();
    assert_eq!(stream.read(&mut all[..200]).await.unwrap(), 200);
    assert_eq!(stream.read(&mut all).await.unwrap(), BYTES_A_TURN - 200 - PREFACE.len());
    assert!(stream.read(&mut all).now_or_never().is_none());
    // Nothing else would wake it: the bytes are there.
    let (more, ()) = tokio::join!(stream.read(&mut all), async { activity.takes_its_turn() });
    assert_eq!(more.unwrap(), 100 + PREFACE.len());
    assert_eq!(stream.read(&mut all).await.unwrap(), BYTES_A_TURN - 100 - PREFACE.len());
    assert!(stream.read(&mut all).now_or_never().is_none());
}

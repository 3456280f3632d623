//! What is answered out of memory before hyper has heard of it.
//!
//! hyper reads from this stream. What comes goes through to it byte for byte, but for a request that is whole and can be
//! answered at once: that one is answered here, and hyper never sees it. Nothing is decided here of where a request ends:
//! that is `framing`'s verdict, on these bytes as on all others.

use std::{
    io::{self, IoSlice},
    mem::MaybeUninit,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::http::request::Parts;
use bytes::{Buf, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Sleep,
};

use super::{
    account::stays_open,
    activity::{Activity, Awaited, BYTES_A_TURN},
    framing::Framing,
    heads::{FirstHead, Heads},
    last_head::{self, LastHead},
    listener::Peer,
};
use crate::clock::Instant;

/// What may answer a request before hyper has heard of it: out of memory, without waiting for anything. It is asked for
/// requests over HTTP/1.1 whose head is clear (`framing`), and after which the connection stays open.
pub(crate) trait AtOnce: Send + Sync {
    /// For a request whose body, of so many bytes, has not come with its head: the present moment, from which its time
    /// counts where it is answered here. `None` where it goes to the router.
    fn waits_for_body(&self, head: &Parts, bytes: u64) -> Option<Instant>;

    /// The whole answer (HTTP/1.1), to a request that began then (`None`: now); or `None`, and the router has its turn.
    fn answer(&self, head: &Parts, body: &[u8], peer: &Peer, began: Option<Instant>) -> Option<Vec<u8>>;
}

/// So much is read at a time. A request whose head takes more is hyper's.
const READ_BYTES: usize = 8 * 1024;

/// Many clients send head and body one after the other. For so long the body is waited for here; then the router waits,
/// which has ways to bound that.
const BODY_SOON: Duration = Duration::from_millis(10);

/// The stream from which hyper reads.
pub(super) struct Answering<S> {
    stream: Framing<S>,
    heads: Heads,
    activity: Activity,
    /// `None` on an interface where nothing is answered at once.
    responder: Option<Responder>,
    /// What has come, and was neither answered nor read by hyper; and what becomes of it.
    held: BytesMut,
    next: Next,
    /// An answer of ours, until the peer has taken it all.
    unsent: Option<io::Cursor<Vec<u8>>>,
}

/// Who answers on one connection.
pub(super) struct Responder {
    at_once: Arc<dyn AtOnce>,
    peer: Peer,
    last: LastHead,
}

/// What becomes of what is held.
enum Next {
    /// It has not been looked at.
    Look,
    /// The rest of the head is to come. How long that may take is `watch`'s.
    WaitForHead,
    WaitForBody(Wait),
    /// hyper is to read it.
    Pass,
}

/// A request's body is still to come.
struct Wait {
    began: Instant,
    awaited: Awaited,
    /// Until when it is waited for here.
    soon: Pin<Box<Sleep>>,
}

/// What is found in what has come.
enum Found {
    /// A request of so many bytes has this answer.
    Answer(Vec<u8>, usize),
    /// The beginning of a head.
    Head,
    /// A head without all of its body, which is waited for. The request began then.
    NoBody(Instant),
    /// Something for hyper.
    Other,
}

impl Responder {
    pub(super) fn new(at_once: Arc<dyn AtOnce>, peer: Peer) -> Responder {
        Responder { at_once, peer, last: LastHead::default() }
    }

    /// Looks at a request with a body of so many bytes, and whatever has come behind it.
    fn look(&mut self, bytes: &[u8], length: u64, began: Option<Instant>) -> Found {
        let Responder { at_once, peer, last } = self;
        let Some((head, rest)) = last.read(bytes).filter(|(head, _)| stays_open(head)) else { return Found::Other };
        let body = usize::try_from(length).ok().and_then(|length| rest.get(..length));
        let found = || match body {
            Some(body) => {
                let answer = at_once.answer(head, body, peer, began)?;
                Some(Found::Answer(answer, bytes.len() - rest.len() + body.len()))
            }
            None => began.or_else(|| at_once.waits_for_body(head, length)).map(Found::NoBody),
        };
        // A panic is told by the log, and the router has a try.
        let found = catch_unwind(AssertUnwindSafe(found)).ok().flatten();
        last.forget_if_large();
        found.unwrap_or(Found::Other)
    }
}

impl<S> Answering<S> {
    /// `heads` are those of `stream`.
    pub(super) fn new(
        stream: Framing<S>,
        heads: Heads,
        activity: Activity,
        responder: Option<Responder>,
    ) -> Answering<S> {
        Answering { stream, heads, activity, responder, held: BytesMut::new(), next: Next::Look, unsent: None }
    }

    /// Whether something has come that hyper is to read.
    pub(super) fn has_something(&self) -> bool {
        matches!(self.next, Next::Pass) && !self.held.is_empty()
    }

    /// Whether HTTP/2 has begun, or the first line of its preface has come.
    pub(super) fn may_be_http_2(&self) -> bool {
        self.activity.is_http_2() || self.stream.is_in_preface()
    }

    /// Whether what comes next may be answered here: it begins a request, and all that came before has been answered, and
    /// taken; or it goes on with what is held.
    fn may_answer(&self) -> bool {
        let is_between_requests = || {
            self.stream.is_between_requests()
                && self.heads.is_empty()
                && self.activity.requests().1 == 0
                && !self.activity.has_unflushed()
        };
        !self.held.is_empty() || (self.responder.is_some() && is_between_requests())
    }

    /// Looks at `bytes`, which begin where the last request ended.
    fn look(&mut self, bytes: &[u8]) -> Found {
        let began = match &self.next {
            Next::WaitForBody(wait) => Some(wait.began),
            Next::Look | Next::WaitForHead | Next::Pass => None,
        };
        match (&mut self.responder, self.heads.first()) {
            (Some(responder), Some(FirstHead::Clear { body })) if !self.activity.is_ending() => {
                responder.look(bytes, body, began)
            }
            // Also where nothing is answered here: hyper begins with a whole head, and can end with every request.
            (_, None) if self.stream.is_in_head() && bytes.len() < READ_BYTES && last_head::is_begun(bytes) => {
                Found::Head
            }
            _ => Found::Other,
        }
    }

    /// Answers the first request in `bytes`, and holds the rest.
    fn receive(&mut self, bytes: &[u8]) {
        let mut rest = bytes;
        self.next = match self.look(bytes) {
            Found::Answer(answer, length) => {
                rest = &bytes[length..];
                self.heads.pop();
                self.activity.answered();
                self.unsent = Some(io::Cursor::new(answer));
                Next::Look
            }
            Found::Head => Next::WaitForHead,
            Found::NoBody(began) => Next::WaitForBody(match std::mem::replace(&mut self.next, Next::Look) {
                Next::WaitForBody(mut wait) => {
                    wait.awaited.note(&Poll::Ready("a part of it"));
                    wait.awaited.note(&Poll::<()>::Pending);
                    wait
                }
                Next::Look | Next::WaitForHead | Next::Pass => {
                    let mut awaited = self.activity.awaits();
                    awaited.note(&Poll::<()>::Pending);
                    Wait { began, awaited, soon: Box::pin(tokio::time::sleep(BODY_SOON)) }
                }
            }),
            Found::Other => Next::Pass,
        };
        if !rest.is_empty() {
            self.held.extend_from_slice(rest);
        }
    }

    fn give(&mut self, buffer: &mut ReadBuf<'_>, most: usize) -> usize {
        let length = most.min(self.held.len()).min(buffer.remaining());
        buffer.put_slice(&self.held[..length]);
        self.held.advance(length);
        if self.held.is_empty() {
            // Its memory goes, too.
            (self.held, self.next) = (BytesMut::new(), Next::Look);
        }
        length
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Answering<S> {
    /// Answers what can be answered at once. Ready with `has_something` where hyper is to read something, and without it at the
    /// end of the stream.
    pub(super) fn poll_pass(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.poll_sent(cx))?;
            if self.has_something() {
                return Poll::Ready(Ok(()));
            }
            if matches!(self.next, Next::Look) && !self.held.is_empty() {
                let held = std::mem::take(&mut self.held);
                self.receive(&held);
                continue;
            }
            let mut bytes = [MaybeUninit::uninit(); READ_BYTES];
            let mut came = ReadBuf::uninit(&mut bytes);
            let Poll::Ready(read) = Pin::new(&mut self.stream).poll_read(cx, &mut came) else {
                ready!(self.poll_waited(cx));
                continue;
            };
            read?;
            if came.filled().is_empty() {
                self.next = Next::Pass;
                return Poll::Ready(Ok(()));
            }
            let mut held = std::mem::take(&mut self.held);
            if held.is_empty() {
                self.receive(came.filled());
            } else {
                held.extend_from_slice(came.filled());
                self.receive(&held);
            }
        }
    }

    /// Ready once a body is waited for no longer.
    fn poll_waited(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Next::WaitForBody(wait) = &mut self.next else { return Poll::Pending };
        if !self.activity.is_ending() {
            ready!(wait.soon.as_mut().poll(cx));
        }
        self.next = Next::Pass;
        Poll::Ready(())
    }

    /// Ready once the peer has taken our answer.
    fn poll_sent(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let Some(answer) = &mut self.unsent else { return Poll::Ready(Ok(())) };
        while answer.has_remaining() {
            let taken = ready!(Pin::new(&mut self.stream).poll_write(cx, answer.chunk()))?;
            if taken == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            answer.advance(taken);
        }
        ready!(Pin::new(&mut self.stream).poll_flush(cx))?;
        self.unsent = None;
        Poll::Ready(Ok(()))
    }

    /// SECURITY: HTTP/2 reads a little in each turn of the connection (`BYTES_A_TURN`), not all that has come.
    fn poll_read_in_turn(&mut self, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let most = self.activity.may_read().min(buffer.remaining());
        if most == 0 {
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }
        if self.has_something() {
            let length = self.give(buffer, most);
            self.activity.has_read(length);
            return Poll::Ready(Ok(()));
        }
        let mut bytes = [MaybeUninit::uninit(); BYTES_A_TURN];
        let mut part = ReadBuf::uninit(&mut bytes[..most]);
        ready!(Pin::new(&mut self.stream).poll_read(cx, &mut part))?;
        self.activity.has_read(part.filled().len());
        buffer.put_slice(part.filled());
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Answering<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buffer: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.activity.is_http_2() {
            return this.poll_read_in_turn(cx, buffer);
        }
        ready!(this.poll_sent(cx))?;
        if !this.has_something() && !this.may_answer() {
            return Pin::new(&mut this.stream).poll_read(cx, buffer);
        }
        ready!(this.poll_pass(cx))?;
        this.give(buffer, usize::MAX);
        Poll::Ready(Ok(()))
    }
}

/// What hyper writes goes behind what is written here.
impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Answering<S> {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_sent(cx))?;
        Pin::new(&mut this.stream).poll_write(cx, bytes)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        slices: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        ready!(this.poll_sent(cx))?;
        Pin::new(&mut this.stream).poll_write_vectored(cx, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_sent(cx))?;
        Pin::new(&mut this.stream).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        ready!(this.poll_sent(cx))?;
        Pin::new(&mut this.stream).poll_shutdown(cx)
    }
}

#[cfg(test)]
mod tests {
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
            for first in
                [String::new(), known.clone(), get("/other"), "\r\n".to_owned(), format!("{}\r\n", post("known"))]
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
            let mut bench = bench(64);
            if let Some(first) = first {
                bench.ask(&get(first)).await;
            }
            bench.send(&get("/long")).await;
            tokio::time::sleep(BODY_SOON).await;
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
            let mut bench = bench(64);
            if let Some(first) = first {
                bench.ask(&get(first)).await;
            }
            bench.send(&get("/long")).await;
            tokio::time::sleep(BODY_SOON).await;
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
}

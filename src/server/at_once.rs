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
    heads::Heads,
    last_head::LastHead,
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

/// So much is read at a time. A head that takes more is hyper's.
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
    /// What has come and hyper has not read.
    held: BytesMut,
    /// Why hyper may not read it yet.
    wait: Option<Wait>,
    /// An answer of ours, until the peer has taken it all.
    unsent: Option<io::Cursor<Vec<u8>>>,
}

/// Who answers on one connection.
pub(super) struct Responder {
    at_once: Arc<dyn AtOnce>,
    peer: Peer,
    last: LastHead,
}

/// A request's body is still to come.
struct Wait {
    began: Instant,
    awaited: Awaited,
    /// Until when it is waited for here.
    soon: Pin<Box<Sleep>>,
}

/// What becomes of a request.
enum Next {
    Answer(Vec<u8>),
    /// Its body is waited for. It began then.
    Wait(Instant),
    /// It is hyper's.
    Pass,
}

impl Responder {
    pub(super) fn new(at_once: Arc<dyn AtOnce>, peer: Peer) -> Responder {
        Responder { at_once, peer, last: LastHead::default() }
    }

    /// For a request of which so many bytes are still to come.
    fn look(&mut self, request: &[u8], missing: u64, began: Option<Instant>) -> Next {
        let Responder { at_once, peer, last } = self;
        let Some((head, body)) = last.read(request).filter(|(head, _)| stays_open(head)) else { return Next::Pass };
        let next = || match missing {
            0 => at_once.answer(head, body, peer, began).map(Next::Answer),
            _ => began.or_else(|| at_once.waits_for_body(head, body.len() as u64 + missing)).map(Next::Wait),
        };
        // A panic is told by the log, and the router has a try.
        let next = catch_unwind(AssertUnwindSafe(next)).ok().flatten();
        last.forget_if_large();
        next.unwrap_or(Next::Pass)
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
        Answering { stream, heads, activity, responder, held: BytesMut::new(), wait: None, unsent: None }
    }

    /// Whether something has come that is hyper's to read.
    pub(super) fn has_something(&self) -> bool {
        !self.held.is_empty() && self.wait.is_none()
    }

    /// Whether what comes next may be answered here: it begins a request, and all that came before has been answered, and
    /// taken; or it is the body that is waited for.
    fn may_answer(&self) -> bool {
        let is_between_requests = || {
            self.stream.missing() == Some(0)
                && self.heads.is_empty()
                && self.activity.requests().1 == 0
                && !self.activity.has_unflushed()
        };
        self.wait.is_some() || (self.responder.is_some() && is_between_requests())
    }

    /// What becomes of `request`: all that has come since the last one ended.
    fn look(&mut self, request: &[u8]) -> Next {
        let began = self.wait.as_ref().map(|wait| wait.began);
        match (&mut self.responder, self.stream.missing()) {
            (Some(responder), Some(missing)) if self.heads.is_one_clear() && !self.activity.is_ending() => {
                responder.look(request, missing, began)
            }
            _ => Next::Pass,
        }
    }

    /// Answers what has come, or holds it.
    fn receive(&mut self, came: &[u8]) {
        if let Some(wait) = &mut self.wait {
            wait.awaited.note(&Poll::Ready("a part of it"));
        }
        let mut request = std::mem::take(&mut self.held);
        let next = if request.is_empty() {
            self.look(came)
        } else {
            request.extend_from_slice(came);
            self.look(&request)
        };
        match next {
            Next::Answer(answer) => {
                self.wait = None;
                self.heads.pop();
                self.activity.answered();
                self.unsent = Some(io::Cursor::new(answer));
                return;
            }
            Next::Wait(began) => {
                let Answering { wait, activity, .. } = self;
                let wait = wait.get_or_insert_with(|| {
                    let soon = Box::pin(tokio::time::sleep(BODY_SOON));
                    Wait { began, awaited: activity.awaits(), soon }
                });
                wait.awaited.note(&Poll::<()>::Pending);
            }
            Next::Pass => self.wait = None,
        }
        if request.is_empty() {
            request.extend_from_slice(came);
        }
        self.held = request;
    }

    fn give(&mut self, buffer: &mut ReadBuf<'_>, most: usize) -> usize {
        let length = most.min(self.held.len()).min(buffer.remaining());
        buffer.put_slice(&self.held[..length]);
        self.held.advance(length);
        if self.held.is_empty() {
            // Its memory goes, too.
            self.held = BytesMut::new();
        }
        length
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> Answering<S> {
    /// Answers what can be answered at once. Ready with `has_something` where there is something that is hyper's to read, and
    /// without it at the end of the stream.
    pub(super) fn poll_pass(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        loop {
            ready!(self.poll_sent(cx))?;
            if self.has_something() {
                return Poll::Ready(Ok(()));
            }
            let mut bytes = [MaybeUninit::uninit(); READ_BYTES];
            let mut came = ReadBuf::uninit(&mut bytes);
            let Poll::Ready(read) = Pin::new(&mut self.stream).poll_read(cx, &mut came) else {
                ready!(self.poll_waited(cx));
                continue;
            };
            read?;
            if came.filled().is_empty() {
                self.wait = None;
                return Poll::Ready(Ok(()));
            }
            self.receive(came.filled());
        }
    }

    /// Ready once what is waited for is waited for no longer.
    fn poll_waited(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(wait) = &mut self.wait else { return Poll::Pending };
        if !self.activity.is_ending() {
            ready!(wait.soon.as_mut().poll(cx));
        }
        self.wait = None;
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
            (format!("\r\n{}", get("/known")), "routed 0 "),
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
    async fn a_head_that_comes_in_pieces_is_hyper_s_and_the_next_one_is_not() {
        let (known, posted) = (get("/known"), post("known"));
        // Each in two writes, the first of them also behind a whole request, or an empty line.
        for first in [String::new(), known.clone(), get("/other"), "\r\n".to_owned(), format!("{posted}\r\n")] {
            for cut in [1, 20, known.len() - 1] {
                let mut bench = bench(1 << 16);
                bench.send(&first).await;
                tokio::time::sleep(BODY_SOON).await;
                if first.len() > 2 {
                    bench.answer().await;
                }
                bench.send(&known[..cut]).await;
                tokio::time::sleep(BODY_SOON).await;
                assert_eq!(bench.activity.now().0, Phase::Head, "{cut} behind {first:?}");
                assert_eq!(bench.ask(&known[cut..]).await, "routed 0 ", "{cut} behind {first:?}");
                assert_eq!(bench.ask(&known).await, "at once", "{cut} behind {first:?}");
            }
        }
        // A whole one and the beginning of the next.
        let mut bench = bench(1 << 16);
        bench.send(&format!("{posted}GE")).await;
        assert_eq!(bench.answer().await, "routed 5 known");
        assert_eq!(bench.ask(&known[2..]).await, "routed 0 ");
        assert_eq!(bench.ask(&posted).await, "at once");
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
        // In order, also where the second could have been answered at once, and the first takes its time.
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
        assert_eq!([bench.answer().await, bench.answer().await], ["routed 5 known", "routed 0 "]);
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
            // Silent, while a body is waited for, while an answer is not taken.
            for (request, later, said) in [
                ("", "", None),
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

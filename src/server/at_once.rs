//! Serves the requests of one connection: at once where that can be, else by the router.

use std::{
    convert::Infallible,
    ops::ControlFlow,
    panic::{AssertUnwindSafe, catch_unwind},
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use axum::{
    body::{Body, Bytes},
    http::{Request, Response, request::Parts},
};
use hyper::body::{Frame, SizeHint};
use tokio::time::Sleep;
use tower::Service;

use super::{
    account::{Account, Answer, NoRoom, Open},
    activity::Awaited,
    heads::Heads,
    listener::Peer,
    turn,
};
use crate::clock::Instant;

/// What may answer a request before the router has its turn: out of memory, without waiting for anything. It is asked
/// over HTTP/1.1 only, for requests of whose framing there is nothing to say and after which the connection stays open, and
/// where no earlier answer is still being written.
pub(crate) trait AtOnce: Send + Sync {
    /// For a request that can only be answered with its body, which is so many bytes long: the present moment, from which
    /// its time counts. `None` where it goes to the router.
    fn waits_for_body(&self, head: &Parts, bytes: u64) -> Option<Began>;

    /// The answer to a request that began then (`None`: now), which has all its headers (`Config::keep_alive` among them); or `None`, and the router has its turn.
    fn answer(&self, head: &Parts, body: &[u8], peer: &Peer, began: Option<Began>) -> Option<Response<Bytes>>;
}

/// When a request began whose body was waited for; in its extensions, where it goes to the router after all.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Began(pub(crate) Instant);

/// Serves one connection. Cheap to clone.
#[derive(Clone)]
pub(super) struct Connection<S>(Arc<Inner<S>>);

struct Inner<S> {
    account: Account,
    heads: Heads,
    peer: Peer,
    at_once: Option<Arc<dyn AtOnce>>,
    router: S,
}

impl<S> Connection<S> {
    pub(super) fn new(
        account: Account,
        heads: Heads,
        peer: Peer,
        at_once: Option<Arc<dyn AtOnce>>,
        router: S,
    ) -> Connection<S> {
        Connection(Arc::new(Inner { account, heads, peer, at_once, router }))
    }
}

impl<S, B> hyper::service::Service<Request<B>> for Connection<S>
where
    S: Service<Request<Peeked<B>>, Response = Response<Body>, Error = Infallible> + Clone,
    S::Future: Send + 'static,
    B: hyper::body::Body<Data = Bytes> + Unpin,
{
    type Response = Response<Answer>;
    type Error = NoRoom;
    type Future = Answering<S, B>;

    fn call(&self, mut request: Request<B>) -> Answering<S, B> {
        let inner = &*self.0;
        let is_clear = inner.heads.judge(&mut request);
        let (head, body) = request.into_parts();
        if let Some(at_once) = &inner.at_once
            && is_clear
            && inner.account.may_answer_at_once(&head)
        {
            if body.is_end_stream() {
                if let Some(answer) = inner.answer(&**at_once, &head, &[], None) {
                    inner.account.answered();
                    return Answering::AtOnce(Some(answer.map(Answer::from)));
                }
            } else if let Some(bytes) = body.size_hint().exact()
                && let Some(began) = at_once.waits_for_body(&head, bytes)
            {
                let inner = Arc::clone(&self.0);
                return Answering::Asking(Some(Asking { inner, head, body, began, wait: None }));
            }
        }
        let (open, awaited) = (inner.account.open(&head), inner.account.awaits());
        Answering::Routed(inner.route(head, Peeked { first: None, rest: body, awaited }, open))
    }
}

impl<S> Inner<S> {
    /// A panic is told by the log, and the router has a try.
    fn answer(&self, at_once: &dyn AtOnce, head: &Parts, body: &[u8], began: Option<Began>) -> Option<Response<Bytes>> {
        catch_unwind(AssertUnwindSafe(|| at_once.answer(head, body, &self.peer, began))).ok().flatten()
    }

    fn route<B>(&self, mut head: Parts, body: Peeked<B>, open: Open) -> Routed
    where
        B: hyper::body::Body,
        S: Service<Request<Peeked<B>>, Response = Response<Body>, Error = Infallible> + Clone,
        S::Future: Send + 'static,
    {
        head.extensions.insert(self.peer.clone());
        let answer = self.router.clone().call(Request::from_parts(head, body));
        let keep_alive = self.account.keep_alive();
        Box::pin(async move { open.hands_over(answer.await.unwrap_or_else(|never| match never {}), &keep_alive) })
    }
}

type Routed = Pin<Box<dyn Future<Output = Result<Response<Answer>, NoRoom>> + Send>>;

/// One request on its way to its answer.
pub(super) enum Answering<S, B> {
    AtOnce(Option<Response<Answer>>),
    /// Its body decides. It has usually come together with the head.
    Asking(Option<Asking<S, B>>),
    Routed(Routed),
}

pub(super) struct Asking<S, B> {
    inner: Arc<Inner<S>>,
    head: Parts,
    body: B,
    began: Began,
    /// Once the body has to be waited for.
    wait: Option<Wait>,
}

struct Wait {
    open: Open,
    awaited: Awaited,
    /// Until when the body is waited for here.
    soon: Pin<Box<Sleep>>,
}

/// Many clients send head and body one after the other. For so long the body is waited for here; then the router waits,
/// which has ways to bound that.
const SOON: Duration = Duration::from_millis(10);

/// What came first of a body, if anything did.
type First<B> = Option<Option<Result<Frame<Bytes>, <B as hyper::body::Body>::Error>>>;

impl<S, B> Asking<S, B>
where
    S: Service<Request<Peeked<B>>, Response = Response<Body>, Error = Infallible> + Clone,
    S::Future: Send + 'static,
    B: hyper::body::Body<Data = Bytes> + Unpin,
{
    fn poll_first(&mut self, cx: &mut Context<'_>) -> Poll<First<B>> {
        let (first, is_to_wake) = turn::take(|| Pin::new(&mut self.body).poll_frame(cx));
        // hyper has more to hand over, unless this was the last piece: then it has let go of the body already.
        if is_to_wake && !self.body.is_end_stream() {
            cx.waker().wake_by_ref();
        }
        if first.is_ready() && self.wait.is_none() {
            return first.map(Some);
        }
        let account = &self.inner.account;
        let wait = self.wait.get_or_insert_with(|| {
            let soon = Box::pin(tokio::time::sleep(SOON));
            Wait { open: account.open(&self.head), awaited: account.awaits(), soon }
        });
        wait.awaited.note(&first);
        if first.is_ready() {
            return first.map(Some);
        }
        wait.soon.as_mut().poll(cx).map(|()| None)
    }

    /// Looks at what has come of the body. Where it is whole and can be answered, that is all; else the router goes on with
    /// it.
    fn go_on(self, first: First<B>) -> ControlFlow<Response<Answer>, Routed> {
        let Asking { inner, mut head, body, began, wait } = self;
        if let Some(Some(Ok(frame))) = &first
            && let Some(bytes) = frame.data_ref()
            && body.is_end_stream()
            && let Some(at_once) = &inner.at_once
            && let Some(answer) = inner.answer(&**at_once, &head, bytes, Some(began))
        {
            // What was waited for has been counted, and is over with its `wait`.
            if wait.is_none() {
                inner.account.answered();
            }
            return ControlFlow::Break(answer.map(Answer::from));
        }
        head.extensions.insert(began);
        let (open, awaited) = match wait {
            Some(wait) => (wait.open, wait.awaited),
            None => (inner.account.open(&head), inner.account.awaits()),
        };
        ControlFlow::Continue(inner.route(head, Peeked { first, rest: body, awaited }, open))
    }
}

impl<S, B> Future for Answering<S, B>
where
    S: Service<Request<Peeked<B>>, Response = Response<Body>, Error = Infallible> + Clone,
    S::Future: Send + 'static,
    B: hyper::body::Body<Data = Bytes> + Unpin,
{
    type Output = Result<Response<Answer>, NoRoom>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.get_mut();
        if let Answering::Asking(asking) = this {
            let first = ready!(asking.as_mut().expect("it has not gone on").poll_first(cx));
            match asking.take().expect("it has not gone on").go_on(first) {
                ControlFlow::Break(answer) => return Poll::Ready(Ok(answer)),
                ControlFlow::Continue(routed) => *this = Answering::Routed(routed),
            }
        }
        match this {
            Answering::AtOnce(answer) => Poll::Ready(Ok(answer.take().expect("polled until it is ready"))),
            Answering::Routed(answer) => answer.as_mut().poll(cx),
            Answering::Asking(_) => unreachable!("it has gone on"),
        }
    }
}

// Nothing in it is pinned: the router's future is in a box of its own.
impl<S, B> Unpin for Answering<S, B> {}

/// A request's body, of which the first piece may have been looked at.
pub(super) struct Peeked<B: hyper::body::Body> {
    first: First<B>,
    rest: B,
    awaited: Awaited,
}

impl<B: hyper::body::Body<Data = Bytes> + Unpin> hyper::body::Body for Peeked<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.get_mut();
        if let Some(first) = this.first.take() {
            return Poll::Ready(first);
        }
        let frame = Pin::new(&mut this.rest).poll_frame(cx);
        this.awaited.note(&frame);
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.rest.size_hint();
        let Some(Some(Ok(first))) = &self.first else { return rest };
        let first = first.data_ref().map_or(0, |bytes| bytes.len() as u64);
        let mut whole = SizeHint::new();
        whole.set_lower(rest.lower() + first);
        if let Some(upper) = rest.upper() {
            whole.set_upper(upper + first);
        }
        whole
    }
}

impl<B: hyper::body::Body> Unpin for Peeked<B> {}

#[cfg(test)]
mod tests {
    use std::{pin::pin, task::Waker};

    use axum::body::HttpBody;
    use futures_util::FutureExt;
    use http_body_util::BodyExt;
    use hyper::service::Service as _;
    use hyper_util::rt::TokioIo;
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        sync::mpsc,
    };

    use super::{
        super::{
            activity::{Activity, Phase},
            crowd::Crowd,
            turn::{Turns, testing::Woken},
        },
        *,
    };

    /// Answers what begins with "known", and panics at "panic".
    struct Known;

    impl AtOnce for Known {
        fn waits_for_body(&self, _: &Parts, bytes: u64) -> Option<Began> {
            (bytes < 100).then_some(Began(Instant::from_origin(Duration::ZERO)))
        }

        fn answer(&self, head: &Parts, body: &[u8], _: &Peer, _: Option<Began>) -> Option<Response<Bytes>> {
            let text = [head.uri.path().trim_start_matches('/').as_bytes(), body].concat();
            assert!(!text.starts_with(b"panic"), "as the test wants it");
            text.starts_with(b"known").then(|| Response::new(Bytes::from("at once")))
        }
    }

    type Sender = mpsc::UnboundedSender<Result<Bytes, std::io::Error>>;

    /// A body of so many bytes that comes as the test sends it.
    struct Sent {
        pieces: mpsc::UnboundedReceiver<Result<Bytes, std::io::Error>>,
        left: u64,
    }

    impl HttpBody for Sent {
        type Data = Bytes;
        type Error = std::io::Error;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, std::io::Error>>> {
            let piece = ready!(self.pieces.poll_recv(cx));
            if let Some(Ok(bytes)) = &piece {
                self.left -= bytes.len() as u64;
            }
            Poll::Ready(piece.map(|piece| piece.map(Frame::data)))
        }

        fn is_end_stream(&self) -> bool {
            self.left == 0
        }

        fn size_hint(&self) -> SizeHint {
            SizeHint::with_exact(self.left)
        }
    }

    /// A connection with one request on its way.
    fn connection<B>(
        activity: &Activity,
    ) -> impl hyper::service::Service<
        Request<B>,
        Response = Response<Answer>,
        Error = NoRoom,
        Future: Future<Output = Result<Response<Answer>, NoRoom>>,
    > + use<B>
    where
        B: HttpBody<Data = Bytes, Error: ToString + Send> + Unpin + Send + 'static,
    {
        // Says what it got: how long the body was said to be, and the body.
        let router = tower::service_fn(|request: Request<Peeked<B>>| async move {
            let hint = request.body().size_hint().exact();
            let said = match request.into_body().collect().await {
                Ok(body) => format!("routed {hint:?} {}", String::from_utf8_lossy(&body.to_bytes())),
                Err(error) => error.to_string(),
            };
            Ok::<_, Infallible>(Response::new(Body::from(said)))
        });
        let heads = Heads::default();
        heads.clear_one();
        let account = Account::new(activity, &Arc::default(), &Crowd::new(1, 0));
        let peer = Peer { address: None, connection: 1, good_host: Arc::default() };
        Connection::new(account, heads, peer, Some(Arc::new(Known)), router)
    }

    fn ask(path: &str, bytes: u64) -> (Sender, impl Future<Output = String>, Activity) {
        let activity = Activity::default();
        let connection = connection(&activity);
        let (sender, pieces) = mpsc::unbounded_channel();
        let request = Request::builder().uri(path).body(Sent { pieces, left: bytes }).unwrap();
        let answer = connection.call(request);
        let said =
            async { String::from_utf8(answer.await.unwrap().collect().await.unwrap().to_bytes().into()).unwrap() };
        (sender, said, activity)
    }

    #[tokio::test(start_paused = true)]
    async fn what_is_known_is_answered_at_once_and_all_else_by_the_router() {
        for (path, body, said) in [
            ("/known", "", "at once"),
            ("/other", "", "routed Some(0) "),
            ("/panic", "", "routed Some(0) "),
            ("/", "known", "at once"),
            ("/", "other", "routed Some(5) other"),
            ("/", "panic", "routed Some(5) panic"),
        ] {
            let (sender, answer, activity) = ask(path, body.len() as u64);
            // Where the answer is there already, nobody takes it.
            let _ = sender.send(Ok(Bytes::from(body)));
            drop(sender);
            let answer = answer.boxed_local().now_or_never();
            assert_eq!(answer.as_deref(), Some(said), "{path} {body}");
            assert_eq!(activity.requests(), (1, 0), "over");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_is_waited_for_a_moment_and_goes_to_the_router_with_all_that_came() {
        let (sender, answer, activity) = ask("/", 5);
        let mut answer = answer.boxed_local();
        assert!((&mut answer).now_or_never().is_none());
        assert_eq!(activity.now().0, Phase::Body, "the peer's turn");
        sender.send(Ok(Bytes::from("known"))).unwrap();
        assert_eq!(answer.now_or_never().as_deref(), Some("at once"));
        assert_eq!((activity.requests(), activity.now().0), ((1, 0), Phase::Silent), "over");

        for is_waited_for in [false, true] {
            let (_sender, answer, activity) = ask("/", 5);
            let mut answer = answer.boxed_local();
            if is_waited_for {
                assert!((&mut answer).now_or_never().is_none());
            }
            drop(answer);
            let counted = (u64::from(is_waited_for), 0);
            assert_eq!((activity.requests(), activity.now().0), (counted, Phase::Silent), "its peer has gone");
        }

        let (sender, answer, _) = ask("/", 10);
        sender.send(Ok(Bytes::from("known"))).unwrap();
        sender.send(Ok(Bytes::from("-more"))).unwrap();
        drop(sender);
        assert_eq!(answer.await, "routed Some(10) known-more", "in two pieces");

        let (sender, answer, activity) = ask("/", 5);
        let later = async {
            tokio::time::sleep(2 * SOON).await;
            assert_eq!((activity.requests(), activity.now().0), ((1, 1), Phase::Body), "the router waits");
            sender.send(Ok(Bytes::from("known"))).unwrap();
            drop(sender);
        };
        assert_eq!(tokio::join!(answer, later).0, "routed Some(5) known");
        assert_eq!((activity.requests(), activity.now().0), ((1, 0), Phase::Silent), "over");

        let (sender, answer, _) = ask("/", 5);
        sender.send(Err(std::io::Error::other("it broke off"))).unwrap();
        assert_eq!(answer.await, "it broke off");

        let (sender, answer, _) = ask("/", 500);
        sender.send(Ok(Bytes::from("known".repeat(100)))).unwrap();
        drop(sender);
        assert!(answer.await.starts_with("routed Some(500) known"), "too long");
    }

    #[tokio::test(start_paused = true)]
    async fn while_an_earlier_answer_is_being_written_the_router_answers() {
        let (_sender, first, activity) = ask("/known", 0);
        assert_eq!(first.await, "at once");
        activity.wrote();
        let connection = connection(&activity);
        let request = Request::builder().uri("/known").body(Body::empty()).unwrap();
        let answer = connection.call(request).await.unwrap();
        assert_eq!(activity.requests(), (2, 1), "one that is told from the answer before");
        assert_eq!(answer.collect().await.unwrap().to_bytes(), "routed Some(0) ");
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_that_has_come_with_its_body_takes_one_turn() {
        for (begin, rest, turns_more, said) in [
            ("known", "", 0, "at once"),
            ("other", "", 0, "routed Some(5) other"),
            ("known", "-all", 1, "routed Some(9) known-all"),
        ] {
            let (mut client, stream) = tokio::io::duplex(1024);
            let activity = Activity::default();
            let http = hyper::server::conn::http1::Builder::new();
            let mut served = pin!(http.serve_connection(TokioIo::new(stream), connection(&activity)));
            let (mut turns, woken) = (Turns::new(activity), Arc::new(Woken::default()));
            let waker = Waker::from(Arc::clone(&woken));
            let mut turn = || turns.poll(served.as_mut(), &Context::from_waker(&waker)).is_pending();
            let bytes = begin.len() + rest.len();
            let head = format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: {bytes}\r\n\r\n{begin}");
            client.write_all(head.as_bytes()).await.unwrap();
            assert!(turn());
            assert_eq!(woken.take(), turns_more, "{said}");
            if turns_more > 0 {
                assert!(turn());
            }
            // What is unmuted wakes it as ever: the rest of the body, and the next request.
            for (sent, said) in [(rest, said), ("GET / HTTP/1.1\r\nhost: a\r\n\r\n", "routed Some(0) ")] {
                client.write_all(sent.as_bytes()).await.unwrap();
                while woken.take() > 0 {
                    assert!(turn());
                }
                let mut answer = vec![0; 1024];
                let length = client.read(&mut answer).now_or_never().expect("it has been answered").unwrap();
                let answer = String::from_utf8_lossy(&answer[..length]);
                assert!(answer.ends_with(said), "{answer}");
            }
        }
    }
}

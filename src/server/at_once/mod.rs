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
        let Some((head, rest)) = last.read(bytes) else { return Found::Other };
        let body = usize::try_from(length).ok().and_then(|length| rest.get(..length));
        let found = || match body {
            _ if !stays_open(head) => None,
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
            (Some(responder), Some(FirstHead::Clear { body })) => responder.look(bytes, body, began),
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
mod tests;
